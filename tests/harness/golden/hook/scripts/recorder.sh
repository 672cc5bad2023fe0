#!/bin/bash
# Prometheus of run run-1, on the first node. Reads commands on its standard input
# (checkpoint); at its end, whatever became of the job script, Prometheus is closed and the
# recording copied as a whole.
# shellcheck disable=SC2016,SC2034,SC2317,SC2329
set -u -o pipefail
umask 077

RUN=${0%/scripts/*} # named when it starts
readonly RUN RUN_ID=${RUN##*/}
readonly IN_SLURM=$(( ${SLURM_JOB_ID:+1} + 0 )) JOB_NODES=${SLURM_JOB_NUM_NODES:-1}
if (( JOB_NODES > 1 )); then LISTEN_HOST=0.0.0.0; else LISTEN_HOST=127.0.0.1; fi
readonly LISTEN_HOST
readonly SECRETS="$RUN/secrets"
readonly IDENTITY="jobmeter_run_info{run_id=\"$RUN_ID\"} 1" # what only this run's exporters expose
readonly NAMELESS=(prometheus) # of the stack, without that
readonly PORT_FIRST=20000 PORT_LAST=31999
readonly SCRATCH_BYTES=268435456
readonly SCRATCH=('$SLURM_TMPDIR' '$TMPDIR' /tmp /dev/shm)
readonly SHARED_FILE_SYSTEMS=(nfs lustre gpfs beegfs ceph fhgfs panfs afs)
readonly RESTARTS=3
readonly ATTEMPT=$1
readonly EVENTS="$ATTEMPT/events.jsonl" TARGETS="$ATTEMPT/targets" LOG="$ATTEMPT/logs/prometheus.log" COPY="$ATTEMPT/tsdb"
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

# What the job's environment says to its own containers is not for those of the stack, which see a
# clean one with these variables.
for name in "${!APPTAINER_@}" "${!APPTAINERENV_@}" "${!SINGULARITY_@}" "${!SINGULARITYENV_@}"; do
  [[ $name == *_TMPDIR || $name == *_CACHEDIR ]] || unset "$name"
done
for name in CUDA_VISIBLE_DEVICES HABANA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES SLURM_JOB_GPUS SLURM_STEP_GPUS TZ; do
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

begin_prometheus() {
  WHY='apptainer is not on PATH of this node; load its module in the prologue of the site profile, or name its path under runtime.program'
  first_program apptainer || return 1
  image_is_there '/project/it'"'"'s/images/prometheus.sif' x86_64 4096 || return 1
  sources_are_there /mnt/tier1 /mnt/tier2 "$RUN" "$DATA" || return 1
  COMMAND=(setsid "$PROGRAM" exec --cleanenv --no-home --env=GOMAXPROCS=2 --env=GOMEMLIMIT=1GiB --bind=/mnt/tier1:/mnt/tier1:rw --bind=/mnt/tier2:/mnt/tier2:rw --bind="$RUN":"$RUN":ro --bind="$DATA":"$DATA":rw '/project/it'"'"'s/images/prometheus.sif' prometheus)
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

readonly ENDPOINTS="$ATTEMPT/endpoints"
readonly ANNOUNCEMENT='^\{"schema": 1, "service": "([A-Za-z0-9_.-]+)", "node": "([A-Za-z0-9_.-]+)", "host": "([A-Za-z0-9_.:-]+)", "port": ([0-9]+), "path": "(/[A-Za-z0-9_./-]*)", "auth": "(none|basic)", "run_id": "([^"]*)"'
readonly PLANNED=(node cgroup helpers prometheus worker)
ANNOUNCED=''      # the files that were read last
ANNOUNCED_TURNS=0 # of the loop since then
declare -A ENDPOINT_SAID

# take_announcements: new and gone files are seen at once, one that was replaced a little later:
# reading hundreds of them each second is not for a network file system.
take_announcements() {
  local paths=("$ENDPOINTS"/*.json)
  [[ -e ${paths[0]} || -n $ANNOUNCED ]] || return 0
  [[ ${paths[*]} != "$ANNOUNCED" ]] || (( ++ANNOUNCED_TURNS >= 10 )) || return 0
  ANNOUNCED=${paths[*]}
  ANNOUNCED_TURNS=0
  publish_announced "${paths[@]}"
}

publish_announced() { # FILE...
  local path line json_text=''
  : >"$TARGETS/.announced.tsv"
  for path in "$@"; do
    line=''
    if [[ -f $path ]]; then IFS= read -r line <"$path"; fi
    if [[ $line =~ $ANNOUNCEMENT ]]; then announced "${BASH_REMATCH[@]:1}"; fi
  done
  printf '[%s]\n' "$json_text" >"$TARGETS/.announced"
  cmp --silent -- "$TARGETS/.announced" "$TARGETS/announced.json" && return
  mv -- "$TARGETS/.announced" "$TARGETS/announced.json"
  mv -- "$TARGETS/.announced.tsv" "$TARGETS/announced.tsv"
}

# announced SERVICE NODE HOST PORT PATH AUTH RUN_ID: adds to json_text and the list of the edges.
announced() {
  local service=$1 node=$2 host=$3 port=$4 page=$5 auth=$6 kind=announced
  [[ $7 == "$RUN_ID" ]] || { complain "$service" "$node" 'is of another run'; return; }
  [[ " ${PLANNED[*]} " != *" $service "* ]] || { complain "$service" "$node" 'has the name of another target'; return; }
  case $host in
    127.*|localhost|::1)
      [[ $node == "$NODE" ]] || { complain "$service" "$node" 'listens where only its own node can reach it'; return; }
      ;;
    *) host=$node'' ;;
  esac
  [[ $auth == basic ]] || kind=payload
  json_text+="${json_text:+, }{\"targets\": [\"$host:$port\"], \"labels\": {\"node\": \"$node\", \"service\": \"$service\", "
  json_text+="\"job\": \"payload\", \"run_id\": \"$RUN_ID\", \"__metrics_path__\": \"$page\"}}"
  printf '%s\t%s\thttp://%s:%s%s\t%s\n' "$service" "$node" "$host" "$port" "$page" "$kind" >>"$TARGETS/.announced.tsv"
  [[ -n ${ENDPOINT_SAID[$service@$node]-} ]] || event_on "$node" endpoint_found service "\"$service\""
  ENDPOINT_SAID[$service@$node]=1
}

complain() { # SERVICE NODE WHY
  [[ -n ${ENDPOINT_SAID[$1@$2]-} ]] || event_on "$2" endpoint_refused service "\"$1\"" why "\"$3\""
  ENDPOINT_SAID[$1@$2]=1
}

# configure: give the attempt its configuration, because Prometheus reads file_sd and the password
# relative to it; with the lines that only Prometheus 3 understands if it is one.
configure() {
  local lines='s/# from 3: //'
  sed --expression="$lines" -- "$RUN/prometheus/prometheus.yml" >"$ATTEMPT/prometheus.yml"
}

launch() {
  WHY="finds no free port from $PORT_FIRST to $PORT_LAST"
  if [[ -z $PORT ]]; then
    free_port || return 1
    PORT=$FREE_PORT
  fi
  "${COMMAND[@]}" --config.file="$ATTEMPT/prometheus.yml" --storage.tsdb.path="$DATA" \
    --storage.tsdb.retention.time=10y --web.config.file="$SECRETS/web.yml" \
    --web.listen-address="127.0.0.1:$PORT" --enable-feature=extra-scrape-metrics </dev/null >>"$LOG" 2>&1 &
  PROMETHEUS=$!
  now
  LAUNCHED=$NOW
}

# settle: wait until it answers with our password; when its port was lost, take another.
settle() {
  local limit tries=0
  now
  limit=$(( NOW + 60 * 1000 ))
  until get "http://127.0.0.1:$PORT/-/ready" --config "$SECRETS/curl.conf" >/dev/null 2>&1; do
    if ! kill -0 "$PROMETHEUS" 2>/dev/null; then
      (( ++tries < 5 )) || { why_silent "$LOG"; return 1; }
      PORT=
      launch || return 1
    fi
    in_time "$limit" || { why_silent "$LOG"; return 1; }
    sleep 0.05
  done
  step_back "$PROMETHEUS"
  event component_start component '"prometheus"' pid "$PROMETHEUS" port "$PORT" node_t "$NOW"
  publish
  bridge &
  BRIDGE=$!
}

# bridge: Prometheus takes up its targets only at its 5 s tick, and scrapes each up to an interval
# later. Until then we fetch at the interval ourselves, so that the recording has no hole, neither
# at the start of the job nor after a restart.
bridge() {
  local fetches stack never
  exec {never}<> <(:) # a pipe in which nothing ever comes: a timed read of it leaves no sleep behind
  for (( fetches = 0; fetches < 3; fetches++ )); do
    read -r -t 5.0 _ <&"$never"
    stack=$(cat -- "$TARGETS"/*.tsv | grep --count 'stack$')
    count_up
    (( UP < stack )) || return
    now
    fetch_edges boot "$NOW"
  done
}

# count_up: sets UP to how many targets this Prometheus has scraped. It would also show what its
# predecessor scraped in the last minutes, so the time of each sample counts.
count_up() {
  local sample
  UP=0
  while read -r sample; do
    [[ $sample == up\{*\}' 1 '* ]] && (( ${sample##* } >= LAUNCHED )) && (( ++UP ))
  done < <(get "http://127.0.0.1:$PORT/federate" --get --data-urlencode 'match[]=up{job="stack"}' \
    --config "$SECRETS/curl.conf" 2>/dev/null)
}

publish() {
  local where="127.0.0.1:$PORT"
  printf '[{"targets": ["%s"], "labels": {"node": "%s", "service": "prometheus", "run_id": "%s"}}]\n' \
    "$where" "$NODE" "$RUN_ID" >"$TARGETS/.prometheus"
  printf 'prometheus\t%s\thttp://%s/metrics\tstack\n' "$NODE" "$where" >"$TARGETS/.prometheus.tsv"
  mv -- "$TARGETS/.prometheus" "$TARGETS/stack.prometheus.json"
  mv -- "$TARGETS/.prometheus.tsv" "$TARGETS/stack.prometheus.tsv"
}

supervise() {
  local status
  kill -0 "$PROMETHEUS" 2>/dev/null && return 0
  wait "$PROMETHEUS"
  status=$?
  [[ -z ${STOPPING-} ]] || return 0
  now
  event component_exit component '"prometheus"' status "$status" node_t "$NOW"
  if (( ++FAILED > RESTARTS )); then
    give_up "ended $(( RESTARTS + 1 )) times, last with status $status"
  elif ! { launch && settle; }; then
    give_up "after it ended: $WHY"
  fi
}

give_up() {
  json "$1"
  now
  event component_gave_up component '"prometheus"' why "$JSON" node_t "$NOW"
  GONE=1
}

# copy_whole FOLDER NAME: something that never changes once it is there under its final name.
copy_whole() {
  [[ -d $COPY/$1/$2 ]] && return 0
  rm -rf -- "$COPY/$1/.$2.part"
  cp --recursive -- "$DATA/$1/$2" "$COPY/$1/.$2.part" && mv -- "$COPY/$1/.$2.part" "$COPY/$1/$2"
}

# copy_grown FILE: something that is only ever appended to. A torn record at its end is completed
# by the next copy, and read up to the tear until then.
copy_grown() {
  local size have
  size=$(stat --format=%s -- "$DATA/$1" 2>/dev/null) || return 0
  have=$(stat --format=%s -- "$COPY/$1" 2>/dev/null) || have=0
  (( have <= size )) || { : >"$COPY/$1"; have=0; } # repaired after a crash: shorter than it was
  (( size > have )) || return 0
  tail --bytes=+$(( have + 1 )) -- "$DATA/$1" >>"$COPY/$1" || return 1
  COPIED=$(( COPIED + size - have ))
}

# copy_new: bring the copy up to date with what is new. Head chunks are left out: the log holds the
# same samples. What Prometheus dropped from its log is dropped here only when it was gone before
# the blocks that replace it were copied.
copy_new() {
  local before=("$DATA"/wal/*) path name
  mkdir --parents -- "$COPY/wal" || return 1
  for path in "$DATA"/01*/; do
    [[ -f $path/meta.json ]] && { path=${path%/} && copy_whole . "${path##*/}" || return 1; }
  done
  for path in "$DATA"/wal/checkpoint.*; do
    [[ -d $path && $path != *.tmp ]] && { copy_whole wal "${path##*/}" || return 1; }
  done
  for path in "$DATA"/wal/[0-9]*; do
    [[ -f $path ]] && { copy_grown "wal/${path##*/}" || return 1; }
  done
  for path in "$COPY"/wal/*; do
    name=${path##*/}
    [[ " ${before[*]##*/} " == *" $name "* ]] || rm -rf -- "$path"
  done
  for path in "$COPY"/01*/; do
    name=${path%/}
    [[ -d $path && ! -d $DATA/${name##*/} ]] && rm -rf -- "$path"
  done
  return 0
}

# checkpoint EVENT [KEY JSON]...: copy and say so, or say that it did not work.
checkpoint() {
  local name=$1 began said
  shift
  now
  began=$NOW
  COPIED=0
  if copy_new 2>>"$LOG"; then
    now
    event "$name" ms "$(( NOW - began ))" copied_bytes "$COPIED" "$@"
  else
    said=$(tail --lines=1 -- "$LOG")
    json "$said"
    event checkpoint_failed why "$JSON"
  fi
}

close_recording() {
  local clean=true
  trap '' TERM INT
  [[ -z $BRIDGE ]] || kill -TERM "$BRIDGE" 2>/dev/null
  if [[ -n ${GONE-} ]] || ! stop prometheus "$PROMETHEUS" 10; then clean=false; fi
  checkpoint recording_closed clean "$clean"
  rm -rf -- "$SCRATCH_FOLDER"
}

local_scratch || {
  give_up "no local scratch with $SCRATCH_BYTES free bytes among: ${SCRATCH[*]}"
  exit 1
}
# Below the scratch folder: the lock of Prometheus 3 has the name and the kind of the folder's own.
readonly SCRATCH_FOLDER=$FOLDER DATA="$FOLDER/tsdb"
mkdir -- "$DATA"
begin_prometheus || {
  give_up "$WHY"
  rm -rf -- "$SCRATCH_FOLDER"
  exit 1
}
cd -- "$DATA" || exit 1 # a container would also see the folder in which it is started
FAILED=0
PORT=''
BRIDGE=''
trap 'STOPPING=1' TERM INT
configure
if ! { launch && settle; }; then give_up "$WHY"; fi

now
next=$(( NOW + 15000 ))
while [[ -z ${STOPPING-} ]]; do
  if IFS= read -r -t 1 command; then
    [[ $command != checkpoint ]] || next=0
  elif (( $? <= 128 )); then
    break # end of input: the job is over, or its script is gone
  fi
  [[ -n ${GONE-} ]] || supervise
  take_announcements
  if ! in_time "$next"; then
    checkpoint checkpoint
    now
    next=$(( NOW + 15000 ))
  fi
done
close_recording
