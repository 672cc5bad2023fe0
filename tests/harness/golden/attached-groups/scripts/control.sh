#!/bin/bash
# Control of run run-1, written by jobmeter 0 for site meluxina: what the
# job script is for a submitted job, for an allocation that was there before. A step of its own on the
# first node. It ends with the allocation, or when it is told to by "jobmeter detach".
# shellcheck disable=SC2016,SC2034,SC2317,SC2329
PROLOGUE_FAILED=''
trap 'PROLOGUE_FAILED+="${PROLOGUE_FAILED:+; }$PROLOGUE_LINE (status $?)"' ERR
PROLOGUE_LINE='module load env/release/2024.1'
module load env/release/2024.1
PROLOGUE_LINE='module load Apptainer'
module load Apptainer
PROLOGUE_LINE='export PMIX_MCA_psec=native'
export PMIX_MCA_psec=native
trap - ERR
set -u -o pipefail
umask 077
# What Slurm says of this step, its nodes as those of the job among it, would be taken for wishes by the
# srun that starts the exporters.
for name in "${!SLURM_@}" "${!SRUN_@}"; do
  case $name in
    SLURM_JOB_ID | SLURM_JOB_PARTITION | SLURM_JOB_QOS | SLURM_JOB_ACCOUNT | SLURM_JOB_START_TIME | SLURM_JOB_END_TIME) ;;
    SLURM_CONF | SLURM_JWT | SLURM_CLUSTERS) ;;
    *) unset "$name" ;;
  esac
done
readonly FIRST_PHASE=$1

readonly RUN='/home/it'"'"'s me/runs/run-1'
readonly RUN_ID=run-1
readonly SECRETS="$RUN/secrets"
readonly IDENTITY="jobmeter_run_info{run_id=\"$RUN_ID\"} 1" # what only this run's exporters expose
readonly NAMELESS=(prometheus) # of the stack, without that
readonly PORT_FIRST=20000 PORT_LAST=31999
readonly SCRATCH_BYTES=268435456
readonly SCRATCH=('$SLURM_TMPDIR' '$TMPDIR' /tmp /dev/shm)
readonly SHARED_FILE_SYSTEMS=(nfs lustre gpfs beegfs ceph fhgfs panfs afs)
readonly RESTARTS=3
NODE=${SLURMD_NODENAME:-$HOSTNAME}
readonly NODE
ATTEMPT_NAME=1240
JOB_ID=1240
NODES=(n1 n2 n3)
readonly NODES_BY_GROUP='{"component_0": "n1", "component_1": "n2 n3"}'
readonly ATTEMPT_NAME JOB_ID NODES
readonly ATTEMPT="$RUN/attempts/$ATTEMPT_NAME"
readonly EVENTS="$ATTEMPT/events.jsonl" LOGS="$ATTEMPT/logs" TARGETS="$ATTEMPT/targets"
readonly FINAL_METRICS="$ATTEMPT/final_metrics"
export JOBMETER_RUN_ID="$RUN_ID" JOBMETER_RUN_DIR="$RUN" JOBMETER_ATTEMPT_DIR="$ATTEMPT" \
  JOBMETER_FINAL_METRICS="$FINAL_METRICS" JOBMETER_ENDPOINTS_DIR="$ATTEMPT/endpoints" \
  JOBMETER_LISTEN_HOST=0.0.0.0 JOBMETER_PASSWORD_FILE="$SECRETS/password"

# Functions answer in a variable, and a command substitution stands only as a whole assignment,
# name=$(command): bash 5.2 gives up ("unexpected EOF while looking for matching") when a trapped
# signal comes while it expands one inside quotes, inside another word, or inside arithmetic.

# now: sets NOW, milliseconds since the epoch.
now() {
  if [[ -n ${EPOCHREALTIME-} ]]; then # bash 5; the separator follows the locale
    NOW=${EPOCHREALTIME/[.,]/}
    NOW=$(( NOW / 1000 ))
  else
    NOW=$(date +%s%3N)
  fi
}

# in_time MS: whether that moment is still to come.
in_time() {
  now
  (( NOW < $1 ))
}

# json TEXT: sets JSON, the text as a JSON string. Control characters are dropped: nothing here
# needs them.
json() {
  JSON=${1//\\/\\\\}
  JSON=\"${JSON//\"/\\\"}\"
  JSON=${JSON//[[:cntrl:]]/}
}

# event_on NODE NAME [KEY JSON]...: append one fact. A single write, so that two writers of this
# node cannot tear each other's lines.
event_on() {
  local line
  now
  line="{\"t\": $NOW, \"node\": \"$1\", \"event\": \"$2\""
  shift 2
  while (( $# )); do
    line+=", \"$1\": $2"
    shift 2
  done
  printf '%s}\n' "$line" >>"$EVENTS"
}

event() {
  event_on "$NODE" "$@"
}

# The words of one bounded request. -q ignores the user's curlrc, --noproxy the site's proxy, and the
# password comes from a file: argv is public.
readonly GET_WORDS=(curl -q --silent --show-error --fail --noproxy '*' --max-time 5)

# get URL [curl option]...
get() {
  local url=$1
  shift
  "${GET_WORDS[@]}" "$@" "$url"
}

# ended PID SECONDS: wait until a process that may not be our child is gone; fails at the limit.
ended() {
  local limit
  now
  limit=$(( NOW + $2 * 1000 ))
  while kill -0 "$1" 2>/dev/null; do
    in_time "$limit" || return 1
    sleep 0.05
  done
}

# await PID...: wait for children whatever signals arrive; returns the status of the last, which is
# the number of a signal when one arrives at the wrong moment.
await() {
  local pid status=0
  for pid in "$@"; do
    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
    wait "$pid" # bash keeps the status of a child that it has reaped
    status=$?
  done
  return "$status"
}

# first_program NAME...: sets PROGRAM, the path of the first of these that is on PATH.
first_program() {
  local name
  for name in "$@"; do
    PROGRAM=$(type -P "$name") && return 0
  done
  return 1
}

# local_scratch: sets FOLDER, a new private folder on a file system of this node. Its lock is held
# by us and by what we start, so that folders of a job that was killed can be told and removed. It
# gets its name when it is locked: another job that starts meanwhile would take it for abandoned.
local_scratch() {
  local candidate kind free draft
  for candidate in "${SCRATCH[@]}"; do
    if [[ $candidate == \$* ]]; then
      candidate=${candidate#\$}
      candidate=${!candidate-}
    fi
    [[ -n $candidate && -d $candidate && -w $candidate ]] || continue
    kind=$(stat --file-system --format=%T -- "$candidate" 2>/dev/null) || continue
    [[ " ${SHARED_FILE_SYSTEMS[*]} " == *" $kind "* ]] && continue
    remove_abandoned "$candidate"
    free=$(stat --file-system --format='%a * %S' -- "$candidate") || continue
    (( free >= SCRATCH_BYTES )) || continue
    draft=$(mktemp --directory -- "$candidate/jobmeter-new.XXXXXXXX") || continue
    exec {SCRATCH_LOCK}>"$draft/lock"
    FOLDER="$candidate/jobmeter.${draft##*.}"
    flock --nonblock "$SCRATCH_LOCK" && mv --no-target-directory -- "$draft" "$FOLDER" && return 0
    rm -rf -- "$draft"
  done
  return 1
}

# remove_abandoned FOLDER: our own scratch folders there whose lock nobody holds any more. The
# memory of a node may be in them.
remove_abandoned() {
  local path lock
  for path in "$1"/jobmeter.*/lock; do
    [[ -f $path && -O $path && ! -L ${path%/lock} ]] || continue
    exec {lock}<"$path" || continue
    flock --nonblock "$lock" && rm -rf -- "${path%/lock}"
    exec {lock}<&-
  done
}

# free_port: sets FREE_PORT to a port of the planned range that nobody listens on here. Not a
# reservation: whoever uses it must cope with having lost it.
free_port() {
  local tries
  for (( tries = 0; tries < 50; tries++ )); do
    FREE_PORT=$(( PORT_FIRST + (RANDOM * 32768 + RANDOM) % (PORT_LAST - PORT_FIRST + 1) ))
    (exec 3<>"/dev/tcp/127.0.0.1/$FREE_PORT") 2>/dev/null || return 0
  done
  return 1
}

# The recording of one attempt is never continued by another.
mkdir --parents -- "$RUN/attempts" && mkdir -- "$ATTEMPT" || exit 1
mkdir -- "$LOGS" "$TARGETS" "$ATTEMPT/edges" "$ATTEMPT/tsdb" "$FINAL_METRICS" "$ATTEMPT/endpoints"
local_scratch || FOLDER=$(mktemp --directory) || exit 1
readonly SCRATCH_DIR=$FOLDER
: >"$ATTEMPT/commands"
printf '%s\n' "$$" >"$ATTEMPT/control.pid"

RECORDER=''
SIDECARS=() # one step for each group of nodes

# collect: write down what the exporters' scripts say. Only this node writes into the run directory,
# so the order is clear, inotify sees the target files, and no network file system has to agree
# with itself.
collect() {
  local kind node name rest fields
  while IFS=$'\t' read -r kind node name rest; do
    case $kind in
      EVENT)
        IFS=$'\t' read -r -a fields <<<"$rest"
        event_on "$node" "$name" "${fields[@]}"
        ;;
      TARGETS) collect_targets "$node" "$name${rest:+$'\t'$rest}" ;;
      *) printf '%s\n' "$kind $node $name $rest" >>"$LOGS/sidecars.log" ;;
    esac
  done
}

collect_targets() {
  local node=$1 pairs pair service where json_text=''
  IFS=$'\t' read -r -a pairs <<<"$2"
  : >"$TARGETS/.$node.tsv"
  for pair in "${pairs[@]}"; do
    service=${pair%%=*}
    where=${pair#*=}
    json_text+="${json_text:+, }{\"targets\": [\"${where%%/*}\"], \"labels\": {\"node\": \"$node\", "
    json_text+="\"service\": \"$service\", \"run_id\": \"$RUN_ID\", \"__metrics_path__\": \"/${where#*/}\"}}"
    printf '%s\t%s\thttp://%s\tstack\n' "$service" "$node" "$where" >>"$TARGETS/.$node.tsv"
  done
  printf '[%s]\n' "$json_text" >"$TARGETS/.$node"
  mv -- "$TARGETS/.$node" "$TARGETS/stack.$node.json"
  mv -- "$TARGETS/.$node.tsv" "$TARGETS/stack.$node.tsv" # last: whoever waits for this has both
}

publish_payload() {
  local json_text=''
  : >"$TARGETS/payload.tsv"
  json_text+="${json_text:+, }{\"targets\": [\"localhost:8000\"], \"labels\": {\"node\": \"$NODE\", "
  json_text+='"service": "worker", "__scheme__": "http", "__metrics_path__": "/metrics", '
  json_text+="\"run_id\": \"$RUN_ID\"}}"
  printf '%s\t%s\t%s\tpayload\n' worker "$NODE" "http://localhost:8000"/metrics >>"$TARGETS/payload.tsv"
  printf '[%s]\n' "$json_text" >"$TARGETS/.payload"
  mv -- "$TARGETS/.payload" "$TARGETS/payload.json"
}

start_stack() {
  publish_payload
  mkfifo -- "$SCRATCH_DIR/recorder" "$SCRATCH_DIR/sidecars" "$SCRATCH_DIR/news"
  exec {NEWS}<>"$SCRATCH_DIR/news" # of the payload's end
  exec {RECORDER_IN}<>"$SCRATCH_DIR/recorder" {SIDECARS_IN}<>"$SCRATCH_DIR/sidecars"
  bash "$RUN/scripts/recorder.sh" "$ATTEMPT" <"$SCRATCH_DIR/recorder" \
    {RECORDER_IN}>&- {SIDECARS_IN}>&- >>"$LOGS/recorder.log" 2>&1 &
  RECORDER=$!
  # Every step needs all that is said, and the end of it, also where another step has ended.
  mkfifo -- "$SCRATCH_DIR"/sidecars.{0..1}
  (
    trap '' TERM INT USR1
    exec tee -p -- "$SCRATCH_DIR"/sidecars.{0..1}
  ) <"$SCRATCH_DIR/sidecars" >/dev/null 2>>"$LOGS/sidecars.log" {RECORDER_IN}>&- {SIDECARS_IN}>&- {NEWS}>&- &
  # BASHPID is the next process, which is the parent of what writes down what the nodes say.
  srun --overlap --mem=0 --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=1 --het-group=1 bash "$RUN/scripts/node.sh" "$LOGS" "$$" "$NODE" "$$ $RECORDER ${SIDECARS[*]} $BASHPID" \
    <"$SCRATCH_DIR/sidecars.1" {RECORDER_IN}>&- {SIDECARS_IN}>&- 2>>"$LOGS/sidecars.log" \
    > >(exec {RECORDER_IN}>&- {SIDECARS_IN}>&-; collect) &
  SIDECARS+=("$!")
  srun --overlap --mem=0 --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=4 --gpu-bind=none --het-group=0 bash "$RUN/scripts/node.sh" "$LOGS" "$$" "$NODE" "$$ $RECORDER ${SIDECARS[*]} $BASHPID" \
    <"$SCRATCH_DIR/sidecars.0" {RECORDER_IN}>&- {SIDECARS_IN}>&- 2>>"$LOGS/sidecars.log" \
    > >(exec {RECORDER_IN}>&- {SIDECARS_IN}>&-; collect) &
  SIDECARS+=("$!")
}

# missing_targets FOLDER: sets EXPECTED to the targets of the stack (service@node), planned or found
# by the nodes, and MISSING to those that did not answer there with this run's password and name.
missing_targets() {
  local node service target rest
  EXPECTED=()
  MISSING=()
  for node in "${NODES[@]}"; do
    for service in node cgroup helpers; do EXPECTED+=("$service@$node"); done
  done
  EXPECTED+=(prometheus"@$NODE")
  while IFS=$'\t' read -r service node rest; do
    [[ " ${EXPECTED[*]} " == *" $service@$node "* ]] || EXPECTED+=("$service@$node")
  done < <(cat -- "$TARGETS"/stack.*.tsv 2>/dev/null)
  for target in "${EXPECTED[@]}"; do
    [[ -f $1/$target.prom ]] || MISSING+=("$target")
  done
}

# await_targets: wait until every planned target has answered, or the limit is over. Polled: a
# stack takes a second, a cold file system half a minute.
await_targets() {
  local limit wanted published file
  now
  limit=$(( NOW + 30 * 1000 ))
  while [[ -z $SIGNAL ]] && in_time "$limit"; do
    wanted=${#NODES[@]}
    if kill -0 "$RECORDER" 2>/dev/null; then (( ++wanted )); fi
    published=0
    for file in "$TARGETS"/stack.*.tsv; do [[ -e $file ]] && (( ++published )); done
    if (( published >= wanted )) || ! kill -0 "${SIDECARS[@]}" 2>/dev/null; then break; fi
    sleep 0.05
  done
  fetch_edges boot 0
  missing_targets "$ATTEMPT/edges/boot.0"
  event targets_up up "$(( ${#EXPECTED[@]} - ${#MISSING[@]} ))" expected "${#EXPECTED[@]}" missing "\"${MISSING[*]}\""
  (( ${#MISSING[@]} == 0 ))
}

# fetch FOLDER SERVICE NODE URL KIND: one target into one file, and a line about it.
fetch() {
  local folder=$1 service=$2 node=$3 url=$4 kind=$5 status=ok before after credentials=()
  local file="$service@$node.prom"
  # The password goes to what asks for it, never to an address from the job file.
  case $kind in
    payload) ;;
    keyed) credentials=(--config "$SECRETS/service.curl") ;;
    *) credentials=(--config "$SECRETS/curl.conf") ;;
  esac
  now
  before=$NOW
  get "$url" "${credentials[@]}" --output "$folder/.$file" 2>"$folder/.$file.error" ||
    status=$(head --lines=1 -- "$folder/.$file.error")
  now
  after=$NOW
  rm -f -- "$folder/.$file.error"
  if [[ $status == ok && ( $kind == stack || $kind == announced ) && " ${NAMELESS[*]} " != *" $service "* ]] &&
    ! grep --quiet --fixed-strings "$IDENTITY" "$folder/.$file"; then
    status=foreign
  fi
  if [[ $status == ok ]]; then mv -- "$folder/.$file" "$folder/$file"; else rm -f -- "$folder/.$file"; fi
  describe "$folder" "$service" "$node" "$file" "$before" "$after" "${status:-failed}"
}

describe() {
  json "$7"
  printf '{"node": "%s", "service": "%s", "file": "%s", "before_ms": %s, "after_ms": %s, "status": %s}\n' \
    "$3" "$2" "$4" "$5" "$6" "$JSON" >>"$1/fetches.jsonl"
}

# take_left FOLDER: the last exposition of a payload that ended with its endpoint. The file names
# are <service>.prom or <service>@<node>.prom; they are used once.
take_left() {
  local folder=$1 path name service node
  for path in "$FINAL_METRICS"/*.prom; do
    [[ -f $path ]] || continue
    name=${path##*/}
    name=${name%.prom}
    service=${name%%@*}
    node=${name#"$service"}
    node=${node#@}
    node=${node:-$NODE}
    [[ $service@$node =~ ^[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+$ ]] || continue
    now
    mv -- "$path" "$folder/$service@$node.prom"
    describe "$folder" "$service" "$node" "$service@$node.prom" "$NOW" "$NOW" left
  done
}

# fetch_edges PHASE SIDE: all targets side by side, at most 32 at a time; the folder appears whole.
fetch_edges() {
  local folder="$ATTEMPT/edges/.$1.$2" list service node url kind pids=()
  rm -rf -- "$folder"
  mkdir -- "$folder"
  for list in "$TARGETS"/*.tsv; do
    while IFS=$'\t' read -r service node url kind; do
      fetch "$folder" "$service" "$node" "$url" "$kind" &
      pids+=("$!")
      (( ${#pids[@]} % 32 )) || await "${pids[@]}"
    done <"$list"
  done
  (( ${#pids[@]} == 0 )) || await "${pids[@]}"
  [[ $2 != end ]] || take_left "$folder"
  rm -rf -- "$ATTEMPT/edges/$1.$2"
  mv -- "$folder" "$ATTEMPT/edges/$1.$2"
}

SIGNAL=''     # what ends the job early: TERM or INT
WARNING=''    # Slurm's warning has come and is not dealt with yet
PHASE=''      # the phase that is running
MARKED=''     # the end of the running phase is written down already, at the warning

begin_phase() { # PHASE
  fetch_edges "$1" start
  PHASE=$1
  WARNING=''
  MARKED=''
  event phase_start phase "\"$1\""
}

end_phase() { # PHASE EXIT_CODE SIGNAL
  event phase_end phase "\"$1\"" exit_code "${2:-null}" signal "${3:-null}"
  fetch_edges "$1" end
}

# Slurm's warning before the time limit: make what there is safe, and let the payload go on. When
# it ends by itself after all, its phase is written down again, to the real end.
heed_warning() {
  WARNING=''
  event signal signal '"USR1"'
  end_phase "$PHASE" '' '"USR1"'
  MARKED=1
  printf 'checkpoint\n' >&"$RECORDER_IN"
}

readonly COMMANDS="$ATTEMPT/commands"
readonly COMMAND_LINE='^([0-9a-f]{16}) (mark ([A-Za-z0-9][A-Za-z0-9_.-]*)|detach)$'
TAKEN=0     # lines of it that were read
DETACHED='' # it shall end
declare -A USED=([job]=1) # names of phases; "job" means the whole of it

# take_commands: do what was asked since the last look.
take_commands() {
  local lines line
  mapfile -s "$TAKEN" lines <"$COMMANDS"
  for line in "${lines[@]}"; do
    [[ $line == *$'\n' ]] || return 0 # not whole yet
    (( ++TAKEN ))
    obey "${line%$'\n'}"
    [[ -z $SIGNAL && -z $DETACHED ]] || return 0
  done
}

# obey LINE: and say so in the events.
obey() {
  local id
  if [[ ! $1 =~ $COMMAND_LINE ]]; then
    json "$1"
    event command_refused command "$JSON"
    return
  fi
  id=${BASH_REMATCH[1]}
  if [[ -z ${BASH_REMATCH[3]} ]]; then
    DETACHED=1
    event command_done id "\"$id\"" command '"detach"'
  else
    mark "${BASH_REMATCH[3]}"
    event command_done id "\"$id\"" command '"mark"' phase "\"$PHASE\""
  fi
}

# mark NAME: one phase ends and another begins; a name that was used gets a number.
mark() {
  local name=$1 number=2
  [[ -z $PHASE ]] || end_phase "$PHASE" '' ''
  while [[ -n ${USED[$name]-} ]]; do
    name=$1.$number
    (( ++number ))
  done
  USED[$name]=1
  begin_phase "$name"
}

# close_stack: both scripts see the end of their input.
close_stack() {
  local step
  [[ -z $RECORDER ]] || exec {RECORDER_IN}>&- {SIDECARS_IN}>&-
  if [[ -n $RECORDER ]]; then
    ended "$RECORDER" 40 || kill -KILL "$RECORDER" 2>/dev/null
  fi
  for step in "${SIDECARS[@]}"; do
    ended "$step" 5 || kill -TERM "$step" 2>/dev/null # srun then ends its step
  done
}

# slurm_facts: answers in FACTS, a JSON object of what Slurm told the job of itself.
slurm_facts() {
  local name
  FACTS=""
  for name in SLURM_JOB_START_TIME SLURM_JOB_END_TIME SLURM_JOB_CPUS_PER_NODE_HET_GROUP_0 SLURM_JOB_CPUS_PER_NODE_HET_GROUP_1 \
    SLURM_JOB_PARTITION SLURM_JOB_QOS SLURM_JOB_ACCOUNT; do
    [[ ${!name:-} =~ ^[A-Za-z0-9_.,:()*+-]+$ ]] && FACTS+=", \"$name\": \"${!name}\""
  done
  FACTS="{${FACTS#, }}"
}

# warn_at: sets WARN_AT to when the numbers are written down as they are, milliseconds since the epoch:
# nobody asked Slurm for a warning before the time limit.
warn_at() {
  local ends=${SLURM_JOB_END_TIME:-1795400000}
  WARN_AT=''
  [[ ! $ends =~ ^[0-9]+$ ]] || WARN_AT=$(( (ends - 60) * 1000 ))
}

# serve: until it is told to end, or has to.
serve() {
  while [[ -z $SIGNAL && -z $DETACHED ]]; do
    read -r -t 0.2 _ <&"$NEWS" # nothing comes; unlike sleep it is no process
    if [[ -n $WARN_AT ]] && ! in_time "$WARN_AT"; then
      WARN_AT=''
      WARNING=1
    fi
    [[ -z $WARNING ]] || heed_warning
    take_commands
  done
}

finalise() {
  trap '' USR1 TERM INT HUP
  trap - EXIT
  [[ -z $SIGNAL ]] || event signal signal "\"$SIGNAL\""
  [[ -z $PHASE || -n $SIGNAL && -n $MARKED ]] || end_phase "$PHASE" '' "${SIGNAL:+\"$SIGNAL\"}"
  close_stack
  event job_end exit_code null
  rm -rf -- "$SCRATCH_DIR"
  exit 0
}

trap 'SIGNAL=TERM' TERM
trap 'SIGNAL=INT' INT
trap : HUP USR1
trap finalise EXIT
slurm_facts
warn_at
event job_start run_id "\"$RUN_ID\"" attempt "\"$ATTEMPT_NAME\"" job_id "\"$JOB_ID\"" \
  nodes "\"${NODES[*]}\"" restart 0 slurm "$FACTS" groups "$NODES_BY_GROUP" kind '"attached"'
if [[ -n $PROLOGUE_FAILED ]]; then
  printf 'jobmeter: of the prologue of site %s failed: %s\n' meluxina "$PROLOGUE_FAILED" >&2
  json "$PROLOGUE_FAILED"
  event prologue_failed why "$JSON"
fi
start_stack
await_targets
[[ -n $SIGNAL ]] || mark "$FIRST_PHASE"
serve
exit 0
