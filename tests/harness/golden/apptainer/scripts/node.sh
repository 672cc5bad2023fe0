#!/bin/bash
# Exporters of one node, for run run-1. Started on every node by job.sbatch, ends when
# its standard input does: whatever becomes of the job script, nothing is left behind.
#
# It speaks to job.sbatch in lines of tab-separated fields on its standard output, so that only the
# first node writes into the run directory:
#   EVENT node name key json ...    TARGETS node service=host:port/path ...
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
readonly LOGS=$1 JOB_PID=$2 FIRST_NODE=$3 MONITORING_PIDS=$4 # pids of the first node
NODE=${SLURMD_NODENAME:-$HOSTNAME}
readonly NODE

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

readonly TARGET_HOST=$NODE''

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

DEVICES=() # what shows a container the devices that it shall look at
MOUNTS=() # what shows the logs' container the folders that it shall look at
begin_node_exporter() {
  WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
  first_program apptainer || return 1
  image_is_there '/project/it'"'"'s/images/node-exporter.sif' x86_64 4096 || return 1
  sources_are_there /mnt/tier2 "${SCRATCH-}"'/it'"'"'s' "$RUN" "$WORK" / || return 1
  COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --no-mount bind-paths --env=GOMAXPROCS=1 --bind=/mnt/tier2:/mnt/tier2:rw --bind="${SCRATCH-}"'/it'"'"'s':/scratch:ro --bind="$RUN":"$RUN":ro --bind="$WORK":"$WORK":ro --bind=/:/host:ro '/project/it'"'"'s/images/node-exporter.sif' node_exporter)
}

node_exporter_command() {
  begin_node_exporter || return 1
  COMMAND+=(--collector.disable-defaults --collector.cpu --no-collector.cpu.guest --collector.meminfo --collector.netdev '--collector.netdev.device-exclude=^(lo|veth.*|docker.*|br-.*|virbr.*)$' --collector.infiniband --collector.diskstats --collector.pressure --collector.stat --collector.time --collector.loadavg --log.level=warn --path.rootfs=/host
    --collector.textfile --collector.textfile.directory="$WORK/textfile"
    --web.config.file="$SECRETS/web.yml" --web.listen-address="0.0.0.0:$1")
}

# own_arguments PORT WORD...: of our exporters of these names and options.
own_arguments() {
  COMMAND+=("${@:2}" --listen "0.0.0.0:$1" --username jobmeter
    --password-file "$SECRETS/password" --run-id "$RUN_ID")
  COMMAND+=(--exclude-pid "$$")
  [[ $NODE == "$FIRST_NODE" ]] || return 0
  local pid
  for pid in $MONITORING_PIDS; do COMMAND+=(--exclude-pid "$pid"); done
}

begin_exporters() {
  WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
  first_program apptainer || return 1
  image_is_there '/project/it'"'"'s/images/exporters.sif' x86_64 4096 || return 1
  sources_are_there /mnt/tier2 "${SCRATCH-}"'/it'"'"'s' "$RUN" "$WORK" || return 1
  COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --no-mount bind-paths --bind=/mnt/tier2:/mnt/tier2:rw --bind="${SCRATCH-}"'/it'"'"'s':/scratch:ro "${DEVICES[@]}" --bind="$RUN":"$RUN":ro --bind="$WORK":"$WORK":ro '/project/it'"'"'s/images/exporters.sif' jobmeter-exporters)
}

exporters_command() {
  begin_exporters && own_arguments "$1" "${OWN[@]}" "${OWN_OPTIONS[@]}"
}

begin_queue() {
  WHY='/opt/py/bin/python, which runs our exporters, is not on this node'
  first_program /opt/py/bin/python || return 1
  COMMAND=("$PROGRAM" -m jobmeter_exporters)
}

queue_command() {
  begin_queue && own_arguments "$1" queue
}

# absolute PATH: sets ABSOLUTE; paths of the job file start where the job does.
absolute() {
  ABSOLUTE=$1
  [[ $1 == /* ]] || ABSOLUTE=$STARTED_IN/$1
}

# folder_is_shown FILE: the container of the logs sees the folder of this file; the lowest one that is
# there, when that comes with the payload.
folder_is_shown() {
  local folder=${1%/*}
  until [[ -d $folder ]]; do folder=${folder%/*}; done
  [[ -z $folder || " ${MOUNTS[*]} " == *"=$folder:"* ]] || MOUNTS+=(--bind="$folder":"$folder":ro)
}

begin_logs() {
  WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
  first_program apptainer || return 1
  image_is_there '/project/it'"'"'s/images/exporters.sif' x86_64 4096 || return 1
  sources_are_there /mnt/tier2 "${SCRATCH-}"'/it'"'"'s' "$RUN" "$WORK" || return 1
  COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --no-mount bind-paths --bind=/mnt/tier2:/mnt/tier2:rw --bind="${SCRATCH-}"'/it'"'"'s':/scratch:ro "${MOUNTS[@]}" --bind="$RUN":"$RUN":rw --bind="$WORK":"$WORK":ro '/project/it'"'"'s/images/exporters.sif' jobmeter-exporters)
}

logs_command() {
  MOUNTS=()
  local options=(--logs-events "${LOGS%/*}/log_events.jsonl")
  absolute "${SCRATCH-}"'/it'"'"'s.log'
  options+=(--logs-follow own="$ABSOLUTE")
  folder_is_shown "$ABSOLUTE"
  absolute rules.yaml
  options+=(--logs-rules own="$ABSOLUTE")
  folder_is_shown "$ABSOLUTE"
  absolute "$LOGS/service.bare.log"
  options+=(--logs-follow bare="$ABSOLUTE")
  folder_is_shown "$ABSOLUTE"
  options+=(--logs-rules bare=ollama)
  begin_logs && own_arguments "$1" logs "${options[@]}"
}

begin_dcgm() {
  WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
  first_program apptainer || return 1
  image_is_there '/project/it'"'"'s/images/dcgm-exporter.sif' x86_64 4096 || return 1
  sources_are_there /mnt/tier2 "${SCRATCH-}"'/it'"'"'s' "$RUN" "$WORK" || return 1
  COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --no-mount bind-paths --bind=/mnt/tier2:/mnt/tier2:rw --bind="${SCRATCH-}"'/it'"'"'s':/scratch:ro "${DEVICES[@]}" --bind="$RUN":"$RUN":ro --bind="$WORK":"$WORK":ro '/project/it'"'"'s/images/dcgm-exporter.sif' dcgm-exporter)
}

begin_fallback() {
  WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
  first_program apptainer || return 1
  image_is_there '/project/it'"'"'s/images/exporters.sif' x86_64 4096 || return 1
  sources_are_there /mnt/tier2 "${SCRATCH-}"'/it'"'"'s' "$RUN" "$WORK" || return 1
  COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --no-mount bind-paths --bind=/mnt/tier2:/mnt/tier2:rw --bind="${SCRATCH-}"'/it'"'"'s':/scratch:ro "${DEVICES[@]}" --bind="$RUN":"$RUN":ro --bind="$WORK":"$WORK":ro '/project/it'"'"'s/images/exporters.sif' jobmeter-exporters)
}

DCGM_AT=''      # port of the one in use
DCGM_OPTIONS=() # for curl
DCGM_UNSEEN=0   # turns of the loop since it was last looked at
DCGM_SILENT=0   # how often it said nothing then

# tells_of_gpus PORT [CURL_OPTION]...
tells_of_gpus() {
  exposes "$1" --basic-regexp '^DCGM_FI_' "${@:2}"
}

# choose_dcgm: one that listens already has no password of ours, so it comes through our gateway.
choose_dcgm() {
  if tells_of_gpus 9400; then
    DCGM_AT=9400
    OWN+=(gateway)
    OWN_OPTIONS+=(--gateway-upstream "dcgm=http://127.0.0.1:$DCGM_AT/metrics")
    PAGES[exporters]+=' dcgm=/metrics/dcgm'
  else
    COMPONENTS+=(dcgm)
    PAGES[dcgm]='dcgm=/metrics'
    DCGM_OPTIONS=(--config "$SECRETS/curl.conf")
  fi
}

# Activity in finer parts is for everybody from Hopper (9.0) on, and for root alone before: with the
# fields of it in their file, releases before 4 do not start.
anyone_may_profile() {
  local least
  first_program nvidia-smi || return 1
  least=$("$PROGRAM" --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort --version-sort | head --lines=1)
  [[ $least =~ ^([0-9]+)\. ]] && (( BASH_REMATCH[1] >= 9 ))
}

dcgm_command() {
  local files=("$RUN/scripts/dcgm_counters.csv")
  if anyone_may_profile; then files+=("$RUN/scripts/dcgm_profiling.csv"); fi
  cat -- "${files[@]}" >"$WORK/dcgm_counters.csv"
  begin_dcgm || return 1
  COMMAND+=(--collectors "$WORK/dcgm_counters.csv" --collect-interval 5000
    --address "0.0.0.0:$1" --web-config-file "$SECRETS/web.yml")
}

fallback_command() {
  begin_fallback && own_arguments "$1" nvidia
}

# degrade WHY: our own exporter in place of DCGM's.
degrade() {
  json "$1"
  tell source_degraded service '"dcgm"' instead '"nvidia"' why "$JSON"
  tell exporters_found services '"nvidia"'
  DCGM_AT=''
  PAGES[exporters]=${PAGES[exporters]/ dcgm=\/metrics\/dcgm/}
  COMPONENTS+=(fallback)
  PAGES[fallback]='nvidia=/metrics/nvidia'
  { launch fallback && settle fallback; } || give_up fallback "$WHY"
}

# watch_dcgm: one that runs and has nothing to say is as good as none.
watch_dcgm() {
  [[ -n ${GONE[dcgm]-} ]] || DCGM_AT=${DCGM_AT:-${PORT[dcgm]-}}
  [[ -n $DCGM_AT ]] && (( ++DCGM_UNSEEN >= 10 )) || return 0
  DCGM_UNSEEN=0
  if tells_of_gpus "$DCGM_AT" "${DCGM_OPTIONS[@]}"; then
    DCGM_SILENT=0
  elif (( ++DCGM_SILENT >= 2 )); then
    if [[ -n ${PID[dcgm]-} ]]; then
      give_up dcgm "ran and told of no GPU"
    else
      degrade "told of no GPU any more"
    fi
    publish
  fi
}

# exposes PORT GREP_OPTION PATTERN [CURL_OPTION]...: does what this port answers have such a line? All of it is
# read: a grep that leaves early breaks the pipe of a curl with more to write, and so looks like no.
exposes() {
  get "http://127.0.0.1:$1/metrics" "${@:4}" 2>/dev/null | grep --count "$2" -- "$3" >/dev/null
}

# ours PORT: does this port answer with our password and this run's name?
ours() {
  exposes "$1" --fixed-strings "$IDENTITY" --config "$SECRETS/curl.conf"
}

# answers COMPONENT: does it answer as it should?
answers() {
  if [[ $1 == dcgm ]]; then
    tells_of_gpus "${PORT[dcgm]}" --config "$SECRETS/curl.conf"
    return
  fi
  ours "${PORT[$1]}"
}

declare -A PID PORT FAILED GONE
declare -A PAGES=() # of a component: service=path, separated by spaces
COMPONENTS=()       # what runs on this node
OWN=()              # our exporters among it, which are one component
OWN_OPTIONS=(--cgroup-steps steps --helpers-known node_exporter --helpers-known prometheus)

# launch COMPONENT: start it on a port of its own, without waiting for it; where that cannot be, WHY
# says why.
launch() {
  local component=$1
  WHY="finds no free port from $PORT_FIRST to $PORT_LAST"
  if [[ -z ${PORT[$component]-} ]]; then
    free_port || return 1
    PORT[$component]=$FREE_PORT
  fi
  "${component}_command" "${PORT[$component]}" || return 1
  "${COMMAND[@]}" </dev/null >>"$LOGS/$component.$NODE.log" 2>&1 &
  PID[$component]=$!
}

# settle COMPONENT: wait until it answers; when its port was lost to somebody else, take another. If it
# does not, WHY says why.
settle() {
  local component=$1 log="$LOGS/$1.$NODE.log" limit tries=0
  now
  limit=$(( NOW + 60 * 1000 ))
  until answers "$component"; do
    if ! kill -0 "${PID[$component]}" 2>/dev/null; then
      (( ++tries < 5 )) || { why_silent "$log"; return 1; }
      unset "PORT[$component]"
      launch "$component" || return 1
    fi
    in_time "$limit" || { why_silent "$log"; return 1; }
    sleep 0.05
  done
  step_back "${PID[$component]}"
  tell component_start component "\"$component\"" pid "${PID[$component]}" port "${PORT[$component]}"
}

give_up() {
  json "$2"
  tell component_gave_up component "\"$1\"" why "$JSON"
  GONE[$1]=1
  [[ -z ${PID[$1]-} ]] || stop "$1" "${PID[$1]}" 2
  [[ $1 != dcgm ]] || degrade "$2"
}

publish() {
  local line component page
  printf -v line '\t%s' TARGETS "$NODE"
  for component in "${COMPONENTS[@]}"; do
    [[ -z ${GONE[$component]-} ]] || continue
    for page in ${PAGES[$component]}; do
      line+=$'\t'"${page%%=*}=$TARGET_HOST:${PORT[$component]}${page#*=}"
    done
  done
  printf '%s\n' "${line#?}"
}

# supervise COMPONENT: a component that ended is started again, a few times; then it stays a gap.
supervise() {
  local component=$1 status
  [[ -z ${GONE[$component]-} ]] || return 0
  kill -0 "${PID[$component]}" 2>/dev/null && return 0
  wait "${PID[$component]}"
  status=$?
  tell component_exit component "\"$component\"" status "$status"
  FAILED[$component]=$(( ${FAILED[$component]:-0} + 1 ))
  if (( FAILED[$component] > RESTARTS )); then
    give_up "$component" "ended $(( RESTARTS + 1 )) times, last with status $status"
  elif ! { launch "$component" && settle "$component"; }; then
    give_up "$component" "after it ended: $WHY"
  fi
  publish
}

leave() {
  local component
  trap '' TERM INT
  for component in "${!PID[@]}"; do terminate "$component" "${PID[$component]}"; done
  for component in "${!PID[@]}"; do stop "$component" "${PID[$component]}" 2; done
  rm -rf -- "$WORK"
}

readonly STARTED_IN=$PWD
local_scratch || FOLDER=$(mktemp --directory)
readonly WORK=$FOLDER
cd -- "$WORK" || exit 1 # python -m looks for modules in the working folder first
trap leave EXIT
# Slurm sends TERM to this script when the job is cancelled or its time is over. The exporters are
# needed a moment longer, for the end edges; the end of input follows, whatever happens.
trap : TERM INT
mkdir "$WORK/textfile"
cat >"$WORK/textfile/jobmeter.prom" <<END
# HELP jobmeter_run_info Names the run that this exporter belongs to.
# TYPE jobmeter_run_info gauge
$IDENTITY
END

COMPONENTS+=(node_exporter)
PAGES[node_exporter]='node=/metrics'
OWN=(cgroup hl-smi helpers)
PAGES[exporters]=''
for service in "${OWN[@]}"; do PAGES[exporters]+=" $service=/metrics/$service"; done
choose_dcgm
[[ " ${OWN[*]} ${COMPONENTS[*]} " != *" nvidia "* ]] || DEVICES+=(--nv)
[[ " ${OWN[*]} ${COMPONENTS[*]} " != *" dcgm "* ]] || DEVICES+=(--nv)
if [[ " ${OWN[*]} " == *" hl-smi "* ]]; then
  [[ ! -e /usr/bin/hl-smi ]] || DEVICES+=(--bind=/usr/bin/hl-smi:/usr/bin/hl-smi:ro)
  [[ ! -e /usr/lib/habanalabs ]] || DEVICES+=(--bind=/usr/lib/habanalabs:/usr/lib/habanalabs:ro)
fi
(( ${#OWN[@]} == 0 )) || COMPONENTS+=(exporters)
if [[ $NODE == "$FIRST_NODE" ]]; then
  COMPONENTS+=(queue)
  PAGES[queue]='queue=/metrics/queue'
fi
if [[ $NODE == "$FIRST_NODE" ]]; then
  COMPONENTS+=(logs)
  PAGES[logs]='logs=/metrics'
fi
for component in "${COMPONENTS[@]}"; do
  launch "$component" || give_up "$component" "$WHY"
done
for component in "${COMPONENTS[@]}"; do
  [[ -n ${GONE[$component]-} ]] || settle "$component" || give_up "$component" "$WHY"
done
publish

while :; do
  if IFS= read -r -t 1 _; then
    continue
  elif (( $? <= 128 )); then
    break # end of input: the job is over, or its script is gone
  fi
  for component in "${COMPONENTS[@]}"; do supervise "$component"; done
  watch_dcgm
done
