#!/bin/bash
# One service of run run-1, on one of its nodes. Started there by job.sbatch; ends when
# its standard input does, and the service with it. It speaks to job.sbatch like node.sh:
#   EVENT node name key json ...
#   SERVICE node label address:port metrics-address   it is ready (- for no metrics)
#   FAILED node label log why                         it was never ready
#   LOST node label log why                           it was, and has ended
# shellcheck disable=SC2016,SC2034,SC2317,SC2329
set -u -o pipefail
umask 077

readonly RUN='/home/it'"'"'s me/runs/run-1'
readonly RUN_ID=run-1
readonly SECRETS="$RUN/secrets"
readonly IDENTITY="jobmeter_run_info{run_id=\"$RUN_ID\"} 1" # what only this run's exporters expose
readonly NAMELESS=(dcgm prometheus) # of the stack, without that
readonly PORT_FIRST=20000 PORT_LAST=31999
readonly SCRATCH_BYTES=268435456
readonly SCRATCH=('$SLURM_TMPDIR' '$TMPDIR' /tmp /dev/shm)
readonly SHARED_FILE_SYSTEMS=(nfs lustre gpfs beegfs ceph fhgfs panfs afs)
readonly RESTARTS=3
readonly LABEL=$1 SERVICE_RANK=$2 SERVICE_ADDRESS=$3 SERVICE_HEAD=$4 SERVICE_HEAD_ADDRESS=$5
readonly SERVICE_RENDEZVOUS=$6 SERVICE_SECOND_RENDEZVOUS=$7 LOGS=$8 PAYLOAD_UMASK=$9
NODE=${SLURMD_NODENAME:-$HOSTNAME}
readonly NODE
if (( SERVICE_RANK == 0 )); then LOG="$LOGS/service.$LABEL.log"; else LOG="$LOGS/service.$LABEL.$SERVICE_RANK.log"; fi
readonly LOG

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

# tell NAME [KEY JSON]...: an event, as a line of tab-separated fields on the standard output.
tell() {
  local name=$1 line
  shift
  now
  printf -v line '\t%s' EVENT "$NODE" "$name" node_t "$NOW" "$@"
  printf '%s\n' "${line#?}"
}

# What the job's environment says to its own containers is not for those of the stack, which see a
# clean one with these variables.
for name in "${!APPTAINER_@}" "${!APPTAINERENV_@}" "${!SINGULARITY_@}" "${!SINGULARITYENV_@}"; do
  [[ $name == *_TMPDIR || $name == *_CACHEDIR ]] || unset "$name"
done
for name in CUDA_VISIBLE_DEVICES HABANA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES SLURM_JOB_GPUS SLURM_STEP_GPUS TZ HF_HOME; do
  [[ -z ${!name+set} ]] || export APPTAINERENV_"$name=${!name}"
done

# image_is_there FILE ARCHITECTURE [BYTES]: is it the file whose digest was verified before the job was
# submitted, as far as a look can tell? If not, WHY says what is wrong.
image_is_there() {
  local machine size
  WHY="its image $1 is not on this node"
  [[ -r $1 ]] || return 1
  machine=$(uname -m)
  WHY="its image $1 is for $2, and this node is $machine"
  [[ $machine == "$2" ]] || return 1
  size=$(stat --dereference --format=%s -- "$1")
  WHY="its image $1 has $size bytes and had ${3-} when it was verified"
  [[ $size == "${3-$size}" ]]
}

# sources_are_there PATH...: a bind without its source is fatal to a runtime. If one is missing, WHY
# says which.
sources_are_there() {
  local path
  for path in "$@"; do
    WHY="'$path' is to be bound into its container and is not on this node"
    [[ -e $path ]] || return 1
    WHY="'$path' is to be bound into its container, and no runtime takes a path with ':' or ','"
    [[ $path != *[:,]* ]] || return 1
  done
}

# step_back PID: from now on a component takes only processor time that nobody else wants. Not from its
# start on: beside a payload that keeps all processors busy it would take a minute until it answers.
step_back() {
  local task tasks=()
  for task in "/proc/$1/task"/*; do tasks+=("${task##*/}"); done # each thread has a niceness of its own
  renice -n 19 -p "${tasks[@]}" -g "$1" >/dev/null 2>&1
}

# why_silent LOG: sets WHY for a component that does not answer: with what it or its runtime said last, if
# that is why.
why_silent() {
  local said
  said=$(grep --extended-regexp '^(FATAL|Error|jobmeter exporter: )|Fatal error' -- "$1" 2>/dev/null)
  WHY='does not answer; see its log'
  [[ -z $said ]] || WHY="cannot be started: ${said##*$'\n'}"
}

# The runtime's own process passes a TERM on to its program.
terminate() { # NAME PID
  kill -TERM "$2" 2>/dev/null
}

# destroy: what is below the runtime's own process first. Killed alone it would leave behind what serves
# the image. All of them are in the session that it began.
destroy() { # NAME PID
  local path line below=()
  for path in /proc/[0-9]*/stat; do
    { read -r line <"$path"; } 2>/dev/null || continue
    [[ ${line##*)} =~ ^\ .\ [0-9]+\ [0-9]+\ ([0-9]+)\  && ${BASH_REMATCH[1]} == "$2" && ${line%% *} != "$2" ]] || continue
    below+=("${line%% *}")
  done
  (( ${#below[@]} == 0 )) || kill -KILL "${below[@]}" 2>/dev/null
  ended "$2" 2 || kill -KILL "$2" 2>/dev/null
}

# stop NAME PID SECONDS: TERM to this one process, KILL when it does not end. Never a group and never a
# whole step: that would also hit the process that serves a container's root file system.
stop() {
  kill -0 "$2" 2>/dev/null || return 0
  terminate "$1" "$2"
  ended "$2" "$3" && return 0
  destroy "$1" "$2"
  ended "$2" 2
  return 1
}

# since VERSION: is the program of this version, or a later one? No, where it does not say its version.
since() {
  local first
  [[ -n $VERSION ]] || return 1
  first=$(printf '%s\n' "$1" "$VERSION" | sort --version-sort | head --lines=1)
  [[ $first == "$1" ]]
}

# What is different from service to service.
METRICS_PORT=''
METRICS_PATH=''
KEY_VARIABLE=''
PASSED='' # what a variable is called so that it passes into a container begins with this
VERSION_COMMAND=()
case $LABEL in
  llm)
    PORT_NAMES=(http)
    SERVICE_HOST=0.0.0.0
    READY_PATH=/health
    READY_LIMIT_S=1800
    METRICS_PORT=http
    METRICS_PATH=/metrics
    KEY_VARIABLE=VLLM_API_KEY
    VERSION_COMMAND=(python3 -c 'from importlib.metadata import version; print(version('"'"'vllm'"'"'))')
    PASSED=APPTAINERENV_
    begin_in_container() {
      WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
      first_program apptainer || return 1
      image_is_there /images.folder/vllm.sif x86_64 || return 1
      sources_are_there /mnt/tier2 "${SCRATCH-}"'/it'"'"'s' "$HOME" "$PWD" "$RUN" "$SERVICE_SCRATCH" "${PROJECT-}"'/it'"'"'s/models' /models "${SCRATCH-}"/cache || return 1
      COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --no-mount bind-paths --bind=/mnt/tier2:/mnt/tier2:rw --bind="${SCRATCH-}"'/it'"'"'s':/scratch:ro --bind="$HOME":"$HOME":rw --bind="$PWD":"$PWD":rw --bind="$RUN":"$RUN":rw --bind="$SERVICE_SCRATCH":"$SERVICE_SCRATCH":rw --bind="${PROJECT-}"'/it'"'"'s/models':"${PROJECT-}"'/it'"'"'s/models':ro --bind=/models:/models:ro --bind="${SCRATCH-}"/cache:"${SCRATCH-}"/cache:rw /images.folder/vllm.sif vllm)
    }

    set_environment() {
      :
      export "${PASSED}"VLLM_NO_USAGE_STATS=1
      export "${PASSED}"DO_NOT_TRACK=1
      export "${PASSED}"HF_HOME="${SCRATCH-}"/hf
      export "${PASSED}"HF_HUB_CACHE="${SCRATCH-}"/cache/huggingface/hub
      export "${PASSED}"HF_XET_CACHE="${SCRATCH-}"/cache/huggingface/xet
      export "${PASSED}"VLLM_CACHE_ROOT="${SCRATCH-}"/cache/vllm
      export "${PASSED}"TRITON_CACHE_DIR="${SCRATCH-}"/cache/triton
    }
    look_for() {
      :
      search SERVICE_FOUND_MODEL m "${PROJECT-}"'/it'"'"'s/models' /models
      (umask "$PAYLOAD_UMASK" && mkdir --parents -- "${SCRATCH-}"/cache)
    }
    set_command() {
      begin_in_container || return 1
      COMMAND+=(serve "${SERVICE_FOUND_MODEL-}" --host="${SERVICE_HOST-}" --port="${SERVICE_PORT_HTTP-}" --served-model-name=m)
      if since 0.32; then COMMAND+=('--custom-histogram-buckets={"inter_token_latency": [0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0], "request_latency": [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.5, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 90.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0], "time_to_first_token": [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 160.0, 320.0, 640.0, 2560.0]}'); fi
    }
    ;;
  other)
    PORT_NAMES=(http)
    SERVICE_HOST=0.0.0.0
    READY_PATH=/
    READY_LIMIT_S=600
    METRICS_PORT=http
    METRICS_PATH=/metrics
    VERSION_COMMAND=()
    PASSED=APPTAINERENV_
    begin_in_container() {
      WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
      first_program apptainer || return 1
      image_is_there /data/other.sif x86_64 || return 1
      sources_are_there /mnt/tier2 "${SCRATCH-}"'/it'"'"'s' "$HOME" "$PWD" "$RUN" "$SERVICE_SCRATCH" || return 1
      COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --no-mount bind-paths --bind=/mnt/tier2:/mnt/tier2:rw --bind="${SCRATCH-}"'/it'"'"'s':/scratch:ro --bind="$HOME":"$HOME":rw --bind="$PWD":"$PWD":rw --bind="$RUN":"$RUN":rw --bind="$SERVICE_SCRATCH":"$SERVICE_SCRATCH":rw /data/other.sif serve)
    }

    set_environment() {
      :
    }
    look_for() {
      :
    }
    set_command() {
      begin_in_container || return 1
      COMMAND+=(x)
    }
    ;;
  bare)
    PORT_NAMES=(http)
    SERVICE_HOST=0.0.0.0
    READY_PATH=/api/version
    READY_LIMIT_S=120
    VERSION_COMMAND=()
    set_environment() {
      :
      export "${PASSED}"OLLAMA_HOST="${SERVICE_HOST-}":"${SERVICE_PORT_HTTP-}"
      export "${PASSED}"OLLAMA_MODELS="${SCRATCH-}"/cache/ollama
    }
    look_for() {
      :
      (umask "$PAYLOAD_UMASK" && mkdir --parents -- "${SCRATCH-}"/cache)
    }
    set_command() {
      COMMAND=(setsid ollama serve)
    }
    ;;
  *)
    printf 'service.sh: no service %s\n' "$LABEL" >&2
    exit 1
    ;;
esac
readonly PORT_NAMES SERVICE_HOST READY_PATH READY_LIMIT_S METRICS_PORT METRICS_PATH KEY_VARIABLE PASSED VERSION_COMMAND
readonly MARK="JOBMETER_SERVICE=$RUN_ID/${SLURM_JOB_ID:-local}/$LABEL/$SERVICE_RANK"

# search VARIABLE PATH FOLDER...: sets it to the path in the first folder that has it, else as it is.
search() {
  local folder
  declare -g "$1=$2"
  for folder in "${@:3}"; do
    if [[ $2 != /* && -e $folder/$2 ]]; then
      declare -g "$1=$folder/$2"
      break
    fi
  done
  printf 'jobmeter: %s is %s\n' "$2" "${!1}" >>"$LOG"
}

# find_version: sets VERSION to what the program says, empty when it says nothing.
find_version() {
  local said
  VERSION=''
  (( ${#VERSION_COMMAND[@]} )) || return 0
  COMMAND=(env "${VERSION_COMMAND[0]}")
  if declare -F begin_in_container >/dev/null; then
    begin_in_container || return 0
    COMMAND[-1]=${VERSION_COMMAND[0]} # in place of the program
  fi
  said=$("${COMMAND[@]}" "${VERSION_COMMAND[@]:1}" 2>>"$LOG" </dev/null)
  if [[ $said =~ [0-9]+(\.[0-9]+)+ ]]; then VERSION=${BASH_REMATCH[0]}; fi
}

launch() {
  local name
  for name in "${PORT_NAMES[@]}"; do
    WHY='finds no free port'
    free_port || return 1
    declare -g "SERVICE_PORT_${name^^}=$FREE_PORT"
  done
  export JOBMETER_HOST="$SERVICE_HOST" JOBMETER_PORT="$SERVICE_PORT_HTTP"
  set_command || return 1
  (
    umask "$PAYLOAD_UMASK"
    trap - TERM INT
    export "${MARK?}" "$PASSED$MARK" "${PASSED}JOBMETER_HOST=$SERVICE_HOST" "${PASSED}JOBMETER_PORT=$SERVICE_PORT_HTTP"
    [[ -z $KEY_VARIABLE ]] || export "$PASSED$KEY_VARIABLE=$KEY"
    set_environment
    exec "${COMMAND[@]}"
  ) </dev/null >>"$LOG" 2>&1 &
  SERVER=$!
}

alive() {
  kill -0 "$SERVER" 2>/dev/null
}

# answers: does it say that it is ready?
answers() {
  get "http://127.0.0.1:$SERVICE_PORT_HTTP$READY_PATH" --config "$SECRETS/service.curl" --output /dev/null 2>/dev/null
}

# sockets PORT: sets SOCKETS to the sockets that listen on a port of this node, whoever they belong to.
sockets() {
  local number address state inode rest
  SOCKETS=()
  printf -v number '%04X' "$1"
  while read -r _ address _ state _ _ _ _ _ inode rest; do
    [[ $state == 0A && $address == *:"$number" ]] && SOCKETS+=("socket:[$inode]")
  done < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
  (( ${#SOCKETS[@]} > 0 ))
}

# ours PORT: does nobody but this service listen there? A server may share a port with another that was
# there before (SO_REUSEPORT), and clients would reach either.
ours() {
  local process file link socket
  local -A held=()
  sockets "$1" || return 1
  for process in /proc/[0-9]*; do
    [[ -O $process ]] || continue
    grep --quiet --null-data --line-regexp --fixed-strings -- "$MARK" "$process/environ" 2>/dev/null || continue
    for file in "$process"/fd/*; do
      link=$(readlink -- "$file") && held[$link]=1
    done
  done
  for socket in "${SOCKETS[@]}"; do [[ -n ${held[$socket]-} ]] || return 1; done
}

# input_ended SECONDS: wait so long for the end of the standard input, which is the end of the job.
input_ended() {
  local status
  IFS= read -r -t "$1" _
  status=$?
  (( status != 0 && status <= 128 ))
}

# await_ready: returns 0 when it is, 1 when it never will be (WHY says why), 2 when the job ends first.
await_ready() {
  local limit tries=0 status
  now
  limit=$(( NOW + READY_LIMIT_S * 1000 ))
  while :; do
    if ! alive; then
      wait "$SERVER"
      status=$?
      # Its port was lost to somebody else, most likely.
      if sockets "$SERVICE_PORT_HTTP" && (( ++tries < 3 )) && launch; then continue; fi
      WHY="ended with status $status before it was ready"
      return 1
    fi
    if answers; then
      ours "$SERVICE_PORT_HTTP" && return 0
      WHY="port $SERVICE_PORT_HTTP is answered by somebody else"
      (( ++tries < 3 )) || return 1
      end_server
      launch || return 1
    fi
    if ! in_time "$limit"; then
      WHY="is not ready after $READY_LIMIT_S s: $READY_PATH does not answer with a success"
      return 1
    fi
    ! input_ended 0.2 || return 2
  done
}

# end_server: TERM to it alone, so that it can end its own in order; then whatever is left.
end_server() {
  stop "$LABEL" "$SERVER" 10
  kill -KILL -- "-$SERVER" 2>/dev/null
  wait "$SERVER" 2>/dev/null
}

leave() {
  trap '' TERM INT
  end_server
  rm -rf -- "$SERVICE_SCRATCH"
}

say() { # KIND [FIELD]...
  local line
  printf -v line '\t%s' "$1" "$NODE" "$LABEL" "${@:2}"
  printf '%s\n' "${line#?}"
}

local_scratch || FOLDER=$(mktemp --directory) || exit 1
SERVICE_SCRATCH=$FOLDER
readonly SERVICE_SCRATCH
KEY=$(cat -- "$SECRETS/service.key")
readonly KEY
trap leave EXIT
TOLD='' # Slurm ends the job: it sends TERM to everything
trap 'TOLD=1' TERM INT
now
BEGAN=$NOW
look_for
find_version
launch || { say FAILED "${LOG##*/}" "$WHY"; exit 1; }
if (( SERVICE_RANK == 0 )); then
  await_ready
  case $? in
    1) say FAILED "${LOG##*/}" "$WHY"; exit 1 ;;
    2) exit 0 ;;
  esac
  metrics=-
  if [[ -n $METRICS_PATH ]]; then
    port=SERVICE_PORT_${METRICS_PORT^^}
    metrics=${!port}$METRICS_PATH
  fi
  now
  tell service_ready service "\"$LABEL\"" ms "$(( NOW - BEGAN ))" port "$SERVICE_PORT_HTTP" version "\"$VERSION\""
  say SERVICE "$SERVICE_PORT_HTTP" "$metrics"
fi
while alive; do
  ! input_ended 1 || exit 0
done
wait "$SERVER"
status=$?
[[ -n $TOLD ]] || say LOST "${LOG##*/}" "ended with status $status"
