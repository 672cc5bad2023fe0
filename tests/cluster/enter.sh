#!/bin/bash
# Becomes a command of a user, in namespaces that nsenter has already entered.
#
# usage: enter.sh PLACE UID GID HOME COMMAND...     PLACE is "login" or "node"
set -euo pipefail

place=$1 uid=$2 gid=$3 home=$4
shift 4

# nsenter changes what a process sees, not the control groups it is counted in.
if [ "$place" = node ]; then
    for procs in /sys/fs/cgroup/*/cgroup.procs; do
        [ ! -e "$procs" ] || echo 0 >"$procs"
    done
fi
cd "$home"
# nsenter stays outside as the parent; whoever kills it means the command.
exec setpriv --reuid "$uid" --regid "$gid" --init-groups --pdeathsig KILL -- "$@"
