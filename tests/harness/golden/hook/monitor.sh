#!/bin/bash
# Records what a job script does: written by "jobmeter hook" 0 for site meluxina. In your script:
#
#   source monitor.sh
#   jobmeter_start            # begins a recording and its phase "run", or the phase that you name
#   jobmeter_mark train       # ends the phase and begins another
#   jobmeter_stop             # closes the recording; also done at the end of the script
#
# Nothing here ends the script, and none of its options, traps, jobs and descriptors is touched; what EXIT
# was trapped for is still done. There is no secret in this file, but it needs the folder that SECRETS names.
# shellcheck disable=SC2016,SC2034,SC2317,SC2329
if [[ ${BASH_SOURCE[0]} != "$0" ]]; then
  JOBMETER__FILE=${BASH_SOURCE[0]}
  [[ $JOBMETER__FILE == /* ]] || JOBMETER__FILE=$PWD/$JOBMETER__FILE
  JOBMETER__ATTEMPT='' # where is being recorded, empty while nothing is
  JOBMETER__TRAP=''    # what EXIT was trapped for

  # Everything is done by this file as a program: options of your shell, IFS, umask are not its own.
  jobmeter__do() {
    env -u SHELLOPTS -u BASHOPTS -u BASH_ENV -u POSIXLY_CORRECT bash "$JOBMETER__FILE" "$@" </dev/null
  }

  # jobmeter_start [PHASE]
  jobmeter_start() {
    local IFS=$' \t\n' said='' owner=$BASHPID words=()
    if [[ -n $JOBMETER__ATTEMPT ]]; then
      printf 'jobmeter: %s is being recorded already\n' "${JOBMETER__ATTEMPT%/attempts/*}" >&2 || :
      return 0
    fi
    said=$(jobmeter__do start "$owner" "${1-run}") || said=''
    [[ -n $said ]] || return 0
    JOBMETER__ATTEMPT=$said
    export JOBMETER_RUN_DIR="${said%/attempts/*}" JOBMETER_ATTEMPT_DIR="$said"
    export JOBMETER_RUN_ID="${JOBMETER_RUN_DIR##*/}" JOBMETER_FINAL_METRICS="$said/final_metrics" \
      JOBMETER_ENDPOINTS_DIR="$said/endpoints" JOBMETER_PASSWORD_FILE="$JOBMETER_RUN_DIR/secrets/password"
    if (( ${SLURM_JOB_NUM_NODES:-1} > 1 )); then export JOBMETER_LISTEN_HOST=0.0.0.0; else export JOBMETER_LISTEN_HOST=127.0.0.1; fi
    said=$(trap -p EXIT) || said=''
    eval "words=($said)"
    JOBMETER__TRAP=${words[2]-}
    # Either way your trap finds the exit code of the script in $?.
    trap 'if jobmeter__at_exit; then eval "$JOBMETER__TRAP"; else eval "$JOBMETER__TRAP"; fi' EXIT
    return 0
  }

  # jobmeter_mark PHASE
  jobmeter_mark() {
    if [[ -z $JOBMETER__ATTEMPT ]]; then
      printf 'jobmeter: nothing is being recorded, so %s is not marked\n' "${1-}" >&2 || :
      return 0
    fi
    jobmeter__do mark "$JOBMETER__ATTEMPT" "${1-}" || :
  }

  jobmeter_stop() {
    local said=''
    [[ -n $JOBMETER__ATTEMPT ]] || return 0
    jobmeter__do stop "$JOBMETER__ATTEMPT" || :
    JOBMETER__ATTEMPT=''
    said=$(trap -p EXIT) || said=''
    [[ $said == *jobmeter__at_exit* ]] || return 0
    if [[ -n $JOBMETER__TRAP ]]; then trap -- "$JOBMETER__TRAP" EXIT; else trap - EXIT; fi
    return 0
  }

  jobmeter__at_exit() {
    local code=$?
    [[ -z $JOBMETER__ATTEMPT ]] || jobmeter__do stop "$JOBMETER__ATTEMPT" || :
    JOBMETER__ATTEMPT=''
    return "$code"
  }

  return 0
fi

set -u -o pipefail
umask 077
readonly NAME=hook
readonly RUNS='/home/it'"'"'s me/runs'
readonly SECRETS='/home/it'"'"'s me/secrets'
readonly UNNAMED=run-1 # stands for the name of a run in what was written beforehand

say() {
  printf 'jobmeter: %s\n' "$*" >&2
}

# in_time BEGAN SECONDS
in_time() {
  (( SECONDS - $1 < $2 ))
}

# phase_name TEXT: sets PHASE to a name that a phase may have.
phase_name() {
  PHASE=${1//[^A-Za-z0-9_.-]/-}
  while [[ $PHASE == [_.-]* ]]; do PHASE=${PHASE#?}; done
  PHASE=${PHASE:0:64}
  PHASE=${PHASE:-phase}
  [[ $PHASE == "$1" ]] || say "'$1' cannot be the name of a phase; it is called $PHASE"
}

write_files() {
  cat >"$1/"'scripts/it'"'"'s.sh' <<'JOBMETER_FILE'
echo
JOBMETER_FILE
  cat >"$1/job.yaml" <<'JOBMETER_FILE'
{}
JOBMETER_FILE
  local manifest
  manifest=$(cat <<'JOBMETER_FILE'
{"run_id": "run-1",
 "nodes": 0,
}
JOBMETER_FILE
  )
  manifest=${manifest/"$UNNAMED"/"${1##*/}"}
  manifest=${manifest/'"nodes": 0,'/"\"nodes\": ${SLURM_JOB_NUM_NODES:-1},"}
  printf '%s\n' "$manifest" >"$1/.run.json" && mv -- "$1/.run.json" "$1/run.json"
}

# make_run: sets RUN to a new run directory.
make_run() {
  local created random folder
  created=$(date --utc +%Y%m%dT%H%M%SZ)
  random=$(od --address-radix=n --read-bytes=3 --format=x1 /dev/urandom)
  RUN="$RUNS/$NAME-$created-${random// /}"
  mkdir --parents -- "$RUNS" && mkdir -- "$RUN" || return 1
  for folder in secrets scripts prometheus output attempts; do mkdir -- "$RUN/$folder" || return 1; done
  cp -- "$SECRETS"/* "$RUN/secrets" && write_files "$RUN"
}

# launch OWNER PHASE: the control, in a session of its own, so that neither a Ctrl-C nor a "wait" of the
# script concerns it, and without what the script has opened: a pipe would not end before it does.
launch() {
  local line fields path number
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -r -a fields <<<"${line##*) }"
  (
    for path in "/proc/$BASHPID"/fd/*; do
      number=${path##*/}
      (( number <= 2 || number == 255 )) || exec {number}>&-
    done
    exec setsid /bin/bash -l "$RUN/scripts/control.sh" "$1" "${fields[19]}" "$2" \
      </dev/null >>"$RUN/output/control.log" 2>&1
  ) &
  CONTROL=$!
}

start() { # OWNER PHASE
  local began=$SECONDS events
  if [[ -n ${SLURM_JOB_ID-} && -z ${SLURMD_NODENAME-} ]]; then
    say "not recorded: this shell is on no node of job $SLURM_JOB_ID; 'jobmeter attach' is for that"
    return 1
  fi
  if (( ${SLURM_HET_SIZE:-1} > 1 )); then
    say "not recorded: job $SLURM_JOB_ID has $SLURM_HET_SIZE components, of which the hook would see the first; 'jobmeter attach $SLURM_JOB_ID' records all, or a job file with 'groups'"
    return 1
  fi
  if [[ ! -r $SECRETS/password ]]; then
    say "not recorded: $SECRETS cannot be read; write the hook anew with 'jobmeter hook'"
    return 1
  fi
  if ! make_run; then
    say "not recorded: no run directory can be made in $RUNS"
    return 1
  fi
  phase_name "$2"
  launch "$1" "$PHASE" || { say 'not recorded: the script has ended'; return 1; }
  while in_time "$began" 90; do
    for events in "$RUN"/attempts/*/events.jsonl; do
      if grep --quiet '"event": "phase_start"' "$events" 2>/dev/null; then
        say "run $RUN"
        printf '%s\n' "${events%/*}"
        return 0
      fi
    done
    kill -0 "$CONTROL" 2>/dev/null || break
    sleep 0.05
  done
  say "not recorded: the monitoring does not start; see $RUN"
  kill -TERM "$CONTROL" 2>/dev/null
  return 1
}

# ask ATTEMPT WORD...: sets ID to the number of a new request.
ask() {
  ID=$(od --address-radix=n --read-bytes=8 --format=x1 /dev/urandom)
  ID=${ID// /}
  printf '%s\n' "$ID ${*:2}" >>"$1/commands"
}

# answered ATTEMPT PATTERN SECONDS: wait for a line of the events; fails when there will be none.
answered() {
  local began=$SECONDS control
  control=$(cat -- "$1/control.pid" 2>/dev/null)
  until grep --quiet --fixed-strings -- "$2" "$1/events.jsonl"; do
    if ! kill -0 "$control" 2>/dev/null; then
      grep --quiet --fixed-strings -- "$2" "$1/events.jsonl"
      return
    fi
    in_time "$began" "$3" || return 1
    sleep 0.05
  done
}

mark() { # ATTEMPT PHASE
  phase_name "$2"
  ask "$1" mark "$PHASE"
  answered "$1" "\"id\": \"$ID\"" 60 || say "phase $PHASE is not marked: the monitoring does not answer; see $1/logs"
}

stop() { # ATTEMPT
  ask "$1" detach
  answered "$1" '"event": "job_end"' 70 ||
    say "the recording was not closed; see $1/logs"
  say "recorded; the table: jobmeter analyze ${1%/attempts/*}"
}

case ${1-} in
  start | mark | stop) "$@" ;;
  *)
    say 'source this file in a job script, then call jobmeter_start, jobmeter_mark NAME, jobmeter_stop'
    exit 2
    ;;
esac
