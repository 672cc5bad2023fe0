#!/bin/bash
# A Debian root file system, $1, from which images are built without any registry, with everything in
# it that the images of the stack need: a build then needs no network. As docs/images.md tells users to
# make theirs. Prints the versions; fails with one line that says why it cannot be had.
set -euo pipefail
base=$(realpath --canonicalize-missing -- "$1")
mkdir -p -- "${base%/*}"
readonly base
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
readonly packages=prometheus,prometheus-node-exporter,prometheus-alertmanager,python3

fail() {
  echo "no Debian root file system for images: $1" >&2
  exit 1
}

mirror_of_this_system() {
  # shellcheck disable=SC2016 # apt's variable
  apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' |
    grep --max-count=1 --invert-match security
}

make_base() {
  local mirror made=$work/base
  mirror=$(mirror_of_this_system) || fail "apt names no mirror of Debian"
  # sid, because a newer Prometheus is in it
  debootstrap --variant=minbase --keyring="$keyring" --include="$packages" sid "$made" "$mirror" \
    >"$work/log" 2>&1 || fail "$(tail --lines=1 "$work/log")"
  # What a user's tarball would not have, and what no image needs.
  rm -rf -- "${made:?}"/dev/* "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/* \
    "$made"/usr/share/{doc,info,locale,man}/*
  chroot "$made" dpkg-query --show ${packages//,/ } >"$made/versions"
  printf '%s\n' "$1" >"$made/made_from"
  mv --no-target-directory -- "$made" "$base"
}

(( EUID == 0 )) || fail "only root may make it"
for program in apt-get debootstrap; do
  command -v "$program" >/dev/null || fail "$program is missing: apt-get install $program"
done
[[ -r $keyring ]] || fail "$keyring is missing: apt-get install debian-archive-keyring"
exec 9>"$base.lock"
flock 9
work=$(mktemp --directory "$base.XXXXXX")
trap 'rm -rf --one-file-system -- "$work"' EXIT
made_from=$(sha256sum <"${BASH_SOURCE[0]}")
if [[ $(cat -- "$base/made_from" 2>/dev/null) != "$made_from" ]]; then
  rm -rf --one-file-system -- "$base"
  make_base "$made_from"
fi
tr '\t\n' '  ' <"$base/versions"
echo
