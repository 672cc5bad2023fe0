#!/bin/bash
# Starts a cluster, and removes all of it when standard input ends.
#
# usage: keeper.sh STATE NODE...
#
# The caller holds the other end of standard input and never writes to it. It closes it to stop
# the cluster; if it is killed, the kernel closes it. Both ways lead to the same few lines below.
set -uo pipefail

state=$1
shift
nodes=("$@")

# shellcheck source=cgroups.sh
. "$state/scripts/cgroups.sh"

# Standard input of a background command would be /dev/null, hence the copy.
exec 3<&0 </dev/null
cat <&3 >/dev/null &
caller=$!
exec 3<&-

# Two links of the same chain: if this script is killed, unshare dies of the parent-death signal,
# and if unshare dies, --kill-child ends the first process of the namespace and so all of them.
setpriv --pdeathsig KILL \
    unshare --mount --net --pid --uts --ipc --fork --kill-child --propagation private \
    "$state/scripts/init.sh" "$state" "${nodes[@]}" &
cluster=$!

wait -n "$caller" "$cluster"
if kill -0 "$caller" 2>/dev/null; then
    # Keep the logs until the caller has read them.
    touch "$state/ended"
    wait "$caller"
fi

# unshare outlives the namespace's first process, which outlives every other one in it: waiting
# for unshare is waiting for all of them. (Killing unshare itself would not give that order.)
first=$(pgrep -P "$cluster") && kill -KILL "$first"
for ((tries = 0; tries < 500; tries++)); do
    kill -0 "$cluster" 2>/dev/null || break
    sleep 0.02
done
kill -KILL "$cluster" 2>/dev/null
wait "$cluster" 2>/dev/null

for node in "${nodes[@]}"; do
    remove_groups "$state" "$node"
done
rm -rf --one-file-system -- "$state"
