#!/bin/bash
# Exporters of one node, for run run-1. Started on every node by job.sbatch, ends when
# its standard input does: whatever becomes of the job script, nothing is left behind.
#
# It speaks to job.sbatch in lines of tab-separated fields on its standard output, so that only the
# first node writes into the run directory:
#   EVENT node name key json ...    TARGETS node service=host:port/path ...
# and job.sbatch to all nodes on its standard input:
#   EXPOSE node service port/path   this service of the node is to be recorded, and only the node can reach it
# shellcheck disable=SC2016,SC2034,SC2317,SC2329
set -u -o pipefail
umask 077

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

# step_back PID: from now on a component takes only processor time that nobody else wants. Not from its
# start on: beside a payload that keeps all processors busy it would take a minute until it answers.
step_back() {
  local task tasks=()
  for task in "/proc/$1/task"/*; do tasks+=("${task##*/}"); done # each thread has a niceness of its own
  renice -n 19 -p "${tasks[@]}" >/dev/null 2>&1
}

# why_silent LOG: sets WHY for a component that does not answer: with what it or its runtime said last, if
# that is why.
why_silent() {
  local said
  said=$(grep --extended-regexp '^(FATAL|Error|jobmeter exporter: )|Fatal error' -- "$1" 2>/dev/null)
  WHY='does not answer; see its log'
  [[ -z $said ]] || WHY="cannot be started: ${said##*$'\n'}"
}

terminate() { # NAME PID
  kill -TERM "$2" 2>/dev/null
}

destroy() { # NAME PID
  kill -KILL "$2" 2>/dev/null
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

begin_node_exporter() {
  WHY='node_exporter or prometheus-node-exporter is not on PATH of this node'
  first_program node_exporter prometheus-node-exporter || return 1
  COMMAND=(env GOMAXPROCS=1 "$PROGRAM")
}

node_exporter_command() {
  begin_node_exporter || return 1
  COMMAND+=(--collector.disable-defaults --collector.cpu --no-collector.cpu.guest --collector.meminfo --collector.netdev '--collector.netdev.device-exclude=^(lo|veth.*|docker.*|br-.*|virbr.*)$' --collector.infiniband --collector.diskstats --collector.pressure --collector.stat --collector.time --collector.loadavg --log.level=warn
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
  WHY='/opt/py/bin/python, which runs our exporters, is not on this node'
  first_program /opt/py/bin/python || return 1
  COMMAND=("$PROGRAM" -m jobmeter_exporters)
}

exporters_command() {
  begin_exporters && own_arguments "$1" "${OWN[@]}" "${OWN_OPTIONS[@]}"
}

begin_gateway() {
  WHY='/opt/py/bin/python, which runs our exporters, is not on this node'
  first_program /opt/py/bin/python || return 1
  COMMAND=("$PROGRAM" -m jobmeter_exporters)
}

gateway_command() {
  begin_gateway && own_arguments "$1" gateway --gateway-endpoints-dir "$WORK/upstreams"
}

# absolute PATH: sets ABSOLUTE; paths of the job file start where the job does.
absolute() {
  ABSOLUTE=$1
  [[ $1 == /* ]] || ABSOLUTE=$STARTED_IN/$1
}

begin_logs() {
  WHY='/opt/py/bin/python, which runs our exporters, is not on this node'
  first_program /opt/py/bin/python || return 1
  COMMAND=("$PROGRAM" -m jobmeter_exporters)
}

logs_command() {
  local options=(--logs-events "${LOGS%/*}/log_events.jsonl")
  absolute "$LOGS/service.small-0.log"
  options+=(--logs-follow small-0="$ABSOLUTE")
  options+=(--logs-rules small-0=ollama)
  absolute "$LOGS/service.small-1.log"
  options+=(--logs-follow small-1="$ABSOLUTE")
  options+=(--logs-rules small-1=ollama)
  begin_logs && own_arguments "$1" logs "${options[@]}"
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
  ours "${PORT[$1]}"
}

declare -A PID PORT FAILED GONE
declare -A PAGES=() # of a component: service=path, separated by spaces
COMPONENTS=()       # what runs on this node
OWN=()              # our exporters among it, which are one component
OWN_OPTIONS=(--cgroup-steps steps)

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
  limit=$(( NOW + 10 * 1000 ))
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

# keyed LABEL: does this service ask for the key of the run?
keyed() {
  [[ ' near-1 ' == *" $1 "* ]]
}

# take_order KIND NODE SERVICE PORT/PATH: the first one starts the gateway.
take_order() {
  local key=''
  [[ $# == 4 && $1 == EXPOSE && $2 == "$NODE" ]] || return 0
  mkdir --parents -- "$WORK/upstreams"
  if keyed "$3"; then
    json "$SECRETS/service.key"
    key=", \"bearer_file\": $JSON"
  fi
  json "http://127.0.0.1:$4"
  printf '{"service": "%s", "url": %s%s}\n' "$3" "$JSON" "$key" >"$WORK/upstreams/.$3"
  mv -- "$WORK/upstreams/.$3" "$WORK/upstreams/$3.json"
  if [[ -z ${PAGES[gateway]-} ]]; then
    COMPONENTS+=(gateway)
    PAGES[gateway]='gateway=/metrics/gateway'
    tell exporters_found services '"gateway"'
    { launch gateway && settle gateway; } || give_up gateway "$WHY"
  fi
  PAGES[gateway]+=" $3=/metrics/$3"
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
OWN=(cgroup)
FOUND=''
compgen -G '/dev/nvidia[0-9]*' >/dev/null && FOUND+=' nvidia'
compgen -G /sys/module/habanalabs >/dev/null && FOUND+=' hl-smi'
for service in $FOUND; do OWN+=("$service"); done
[[ -z $FOUND ]] || tell exporters_found services "\"${FOUND# }\""
PAGES[exporters]=''
for service in "${OWN[@]}"; do PAGES[exporters]+=" $service=/metrics/$service"; done
(( ${#OWN[@]} == 0 )) || COMPONENTS+=(exporters)
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

ORDER=''
while :; do
  if IFS= read -r -t 1 line; then
    IFS=$'\t' read -r -a fields <<<"$ORDER$line"
    ORDER=''
    take_order "${fields[@]}"
    continue
  elif (( $? <= 128 )); then
    break # end of input: the job is over, or its script is gone
  fi
  ORDER+=$line # the time may be over in the middle of a line
  for component in "${COMPONENTS[@]}"; do supervise "$component"; done
done
