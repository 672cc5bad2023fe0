#!/bin/bash
# First process of a node's namespaces.
#
# usage: node.sh STATE NODE
#
# Killing it is a power failure: slurmd, its jobs and the network link are gone in one instant.
set -euo pipefail

state=$1
node=$2
dir=$state/nodes/$node

mount -t proc proc /proc
hostname "$node"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm

# /sys shows the network of the namespace in which it was mounted: without its own, a node would
# report the interfaces of the machine. Mounted from inside the cgroup namespace, the hierarchies
# have the node's own group as their root, which is what the paths in /proc/self/cgroup start at.
[ -s "$state/cgroups" ] || mount --rbind /sys/fs/cgroup "$state/sys_cgroup"
mount -t sysfs sysfs /sys
if [ -s "$state/cgroups" ]; then
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while read -r mount; do
        controllers=${mount##*/}
        mkdir "/sys/fs/cgroup/$controllers"
        mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
        for controller in ${controllers//,/ }; do
            [ -e "/sys/fs/cgroup/$controller" ] ||
                ln -s "$controllers" "/sys/fs/cgroup/$controller"
        done
    done <"$state/cgroups"
else
    mount --rbind "$state/sys_cgroup" /sys/fs/cgroup # as the machine has it
fi

ip link set lo up
readlink /proc/self/ns/pid >"$dir/pidns"
until ip link show eth0 >/dev/null 2>&1; do
    sleep 0.01
done
ip addr add "$(cat "$dir/address")/24" dev eth0
ip link set eth0 up

until [ -e "$state/go" ]; do
    sleep 0.02
done
slurmd -D -N "$node" >>"$state/log/slurmd-$node.log" 2>&1 &
slurmd=$!
until (exec 3<>/dev/tcp/127.0.0.1/6818) 2>/dev/null; do
    kill -0 "$slurmd"
    sleep 0.02
done
touch "$dir/up"

# Stays when slurmd dies, as a real node does, and reaps orphans.
while :; do
    sleep infinity &
    wait $!
done
