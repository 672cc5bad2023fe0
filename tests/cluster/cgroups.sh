#!/bin/bash
# Control groups of the nodes; sourced by keeper.sh and init.sh.
#
# $state/cgroups lists the cgroup v1 hierarchies in use, one mount point per line; it is empty
# where the machine has none, and every function here then does nothing. Each node has a group of
# its own, <mount point>/<name of the state folder>_<node>, so no group of others is touched.

# node_groups STATE NODE: print the groups of a node, one path per line.
node_groups() {
    local mount
    while read -r mount; do
        echo "$mount/${1##*/}_$2"
    done <"$1/cgroups"
}

# make_groups STATE NODE: create them as after a boot, without what an earlier life left there.
make_groups() {
    local group file
    remove_groups "$1" "$2"
    while read -r group; do
        mkdir "$group"
        # A new cpuset group is empty, and no process can join it before it has both.
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$group/$file" ]; then
                cat "${group%/*}/$file" >"$group/$file"
            fi
        done
    done < <(node_groups "$1" "$2")
}

# join_groups STATE NODE PID: move a process into them.
join_groups() {
    local group
    while read -r group; do
        echo "$3" >"$group/cgroup.procs"
    done < <(node_groups "$1" "$2")
}

# remove_groups STATE NODE: remove them, deepest first, when their processes have been killed.
remove_groups() {
    local group tries
    while read -r group; do
        # The kernel answers EBUSY for a moment after the last process of a group has ended.
        for ((tries = 0; tries < 200; tries++)); do
            [ -d "$group" ] || break
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.02
        done
        if [ -d "$group" ]; then
            echo "cannot remove $group" >&2
            return 1
        fi
    done < <(node_groups "$1" "$2")
}
