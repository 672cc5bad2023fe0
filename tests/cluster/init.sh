#!/bin/bash
# First process of the cluster's namespaces: the login node with all daemons but slurmd.
#
# usage: init.sh STATE NODE...
#
# Runs until it is killed and then takes everything with it. Any failure ends it; the caller then
# reads which daemon it was in STATE/stage, and the reason in STATE/log.
set -euo pipefail

state=$1
shift
nodes=("$@")
start_timeout_s=20

# shellcheck source=cgroups.sh
. "$state/scripts/cgroups.sh"

cgroup_namespace=()
[ ! -s "$state/cgroups" ] || cgroup_namespace=(--cgroup)

# --- what a process of the cluster sees of the machine ---------------------------------------

# Pairs of a source and its target, each ended by NUL.
sources=()
targets=()
while IFS= read -r -d '' source && IFS= read -r -d '' target; do
    sources+=("$source")
    targets+=("$target")
done <"$state/binds"

# The sources may lie below folders that are about to be hidden, so they are held here first.
for i in "${!sources[@]}"; do
    if [ -d "${sources[i]}" ]; then
        mkdir "$state/held/$i"
    else
        touch "$state/held/$i"
    fi
    mount --bind "${sources[i]}" "$state/held/$i"
done

# enter_root FOLDER: make another root file system the root of the cluster. What is written to it is
# kept in memory, and is this cluster's alone.
enter_root() {
    local device layer=$state/layer
    mount -t tmpfs -o mode=755 tmpfs "$layer"
    mkdir "$layer/upper" "$layer/work"
    mount -t overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" overlay /mnt
    mount --rbind /sys /mnt/sys
    mkdir -p "/mnt$state"
    mount --rbind "$state" "/mnt$state"
    # Its own, because here everybody may use FUSE, as unprivileged containers need it.
    mount -t tmpfs -o mode=755 tmpfs /mnt/dev
    for device in full null random tty urandom zero; do
        cp -a "/dev/$device" /mnt/dev
    done
    mknod -m 666 /mnt/dev/fuse c 10 229
    mkdir /mnt/dev/pts /mnt/dev/shm
    mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts /mnt/dev/pts
    ln -s pts/ptmx /mnt/dev/ptmx
    ln -s /proc/self/fd /mnt/dev/fd
    for device in 0:stdin 1:stdout 2:stderr; do
        ln -s "/proc/self/fd/${device%:*}" "/mnt/dev/${device#*:}"
    done
    mkdir /mnt/machine
    cd /mnt
    # A true change of the root: containers cannot be made below one that was only chrooted to.
    pivot_root . machine
    mount -t proc proc /proc # umount reads it
    umount -l /machine
    rmdir /machine
    hash -r
}

root=$(cat "$state/root")
if [ -n "$root" ]; then
    enter_root "$root"
else
    mount -t proc proc /proc
fi
readlink /proc/self/ns/pid >"$state/pidns"
hostname login

# Wherever everybody may write, the cluster gets a place of its own. The state folder lies in
# /var/tmp, under the same path inside and outside, so it is put back into the new one.
var_tmp=$state/var_tmp
mount -t tmpfs -o mode=1777 tmpfs "$var_tmp"
mkdir "$var_tmp/${state##*/}"
mount --rbind "$state" "$var_tmp/${state##*/}"
mount --move "$var_tmp" /var/tmp
umount "$var_tmp" # the copy of itself that --rbind has made
cd "$state"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /mnt
mount --bind "$state/home" /home

# provide TARGET SOURCE: create a missing mount point without writing to the machine's disk.
provide() {
    local parent layer
    parent=${1%/*}
    while [ ! -d "$parent" ]; do
        parent=${parent%/*}
    done
    if [ "$(stat -f -c %T "$parent")" != overlayfs ] && [[ ! "$parent/" =~ ^/(mnt|home)/ ]]; then
        # An overlay shows the folder's own files, not what is mounted further down.
        if grep -qF " $parent/" /proc/self/mounts; then
            echo "cannot create $1: there are mounts below $parent" >&2
            return 1
        fi
        layer=$(mktemp -d -p /run)
        mount -t tmpfs tmpfs "$layer"
        mkdir "$layer/upper" "$layer/work"
        chmod --reference="$parent" "$layer/upper"
        mount -t overlay -o "lowerdir=$parent,upperdir=$layer/upper,workdir=$layer/work" \
            overlay "$parent"
    fi
    if [ -d "$2" ]; then
        mkdir -p "$1"
    else
        mkdir -p "${1%/*}"
        touch "$1"
    fi
}

for i in "${!targets[@]}"; do
    target=$(realpath -m "${targets[i]}")
    [ -e "$target" ] || provide "$target" "$state/held/$i"
    mount --bind "$state/held/$i" "$target"
    mount -o remount,bind,ro "$target"
done

for file in hosts passwd group slurm; do
    mount --bind "$state/etc/$file" "/etc/$file"
done

# --- network and nodes ------------------------------------------------------------------------

ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.1/24 dev br0
ip link set br0 up

# start_node NODE: switch a node on. Returns when its link is up, long before its slurmd is.
start_node() {
    local node=$1 dir=$state/nodes/$1 pid
    # Removed here rather than when the node dies: nobody is left there to do it.
    rm -f "$dir/pidns" "$dir/up"
    make_groups "$state" "$node"
    (
        join_groups "$state" "$node" "$BASHPID"
        exec unshare --mount --net --pid --uts "${cgroup_namespace[@]}" --fork --kill-child \
            --propagation private "$state/scripts/node.sh" "$state" "$node"
    ) </dev/null 3<&- &
    pid=$!
    until [ -s "$dir/pidns" ]; do
        kill -0 "$pid"
        sleep 0.01
    done
    ip link add "v$node" type veth peer name eth0 netns "$pid"
    ip link set "v$node" master br0 up
}

# wait_port NAME PID HOST PORT: wait until a daemon answers.
wait_port() {
    local deadline=$((SECONDS + start_timeout_s))
    until (exec 4<>"/dev/tcp/$3/$4") 2>/dev/null; do
        if ! kill -0 "$2" 2>/dev/null; then
            echo "$1 has ended" >&2
            return 1
        fi
        if ((SECONDS >= deadline)); then
            echo "$1 does not answer on port $4 after $start_timeout_s s" >&2
            return 1
        fi
        sleep 0.02
    done
}

stage() {
    echo "$1" >"$state/stage"
}

# --- daemons ----------------------------------------------------------------------------------

# The order matters: a slurmctld that starts before the accounts exist keeps a view of them
# without any QOS, and then refuses every job with "Invalid qos specification".

stage mariadbd
mount -t tmpfs -o mode=700 tmpfs "$state/db"
mkdir /run/mysqld
{
    mariadb-install-db --no-defaults --user=root --datadir="$state/db" --skip-test-db \
        --auth-root-authentication-method=normal
    exec mariadbd --no-defaults --user=root --datadir="$state/db" \
        --socket=/run/mysqld/mysqld.sock --bind-address=127.0.0.1 --port=3306 \
        --skip-grant-tables --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
        --pid-file="$state/db/pid"
} >"$state/log/mariadbd.log" 2>&1 &
mariadbd=$!

# One munged for all nodes: its socket is a path, and network namespaces do not divide those.
mkdir -m 755 /run/munge
chown munge:munge /run/munge
setpriv --reuid munge --regid munge --clear-groups munged --force \
    --key-file "$state/munge/key" --log-file "$state/munge/log" \
    --pid-file /run/munge/munged.pid --seed-file "$state/munge/seed"

stage nodes
for node in "${nodes[@]}"; do
    start_node "$node"
done

stage mariadbd
wait_port mariadbd "$mariadbd" 127.0.0.1 3306

stage slurmdbd
LD_LIBRARY_PATH=/opt/libmariadb slurmdbd -D >"$state/log/slurmdbd.log" 2>&1 &
wait_port slurmdbd $! login 6819

stage sacctmgr
timeout "$start_timeout_s" sacctmgr -i <"$state/etc/accounts" >"$state/log/sacctmgr.log" 2>&1

stage slurmctld
slurmctld -D >"$state/log/slurmctld.log" 2>&1 &
wait_port slurmctld $! login 6817

stage slurmd
touch "$state/go"

# Requests come one per line; a shell that waits for one also reaps the orphans of the cluster.
# Opened for writing too, so that it does not end when a writer closes it.
exec 3<>"$state/requests"
while read -r node <&3; do
    start_node "$node"
done
