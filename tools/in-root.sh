#!/bin/bash
# Runs a command as root of another root file system, with mounts that end with it.
#
# usage: in-root.sh ROOT [OUTSIDE:INSIDE]... -- COMMAND...
#
# OUTSIDE is a file or folder of this system; INSIDE must exist in ROOT. The network is this system's.
set -euo pipefail

# shellcheck disable=SC2016 # of the shell inside
exec unshare --mount --pid --fork --kill-child --propagation private bash -euc '
  root=$1
  shift
  mount -t proc proc "$root/proc"
  while [[ $1 != -- ]]; do
    mount --bind "${1%%:*}" "$root/${1#*:}"
    shift
  done
  shift
  exec chroot "$root" env --ignore-environment HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
' in-root "$@"
