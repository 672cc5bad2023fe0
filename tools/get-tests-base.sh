#!/bin/bash
# What the image "tests" is made from without any network, for the test of that: $1, a Debian root file
# system with everything in it that the image needs, and $1-wheels, the Python packages for the Python
# in it. $2 is a Python that has jobmeter, whose list of images says what. Prints the versions; fails with
# one line that says why it cannot be had.
set -euo pipefail
tools=$(realpath -- "${BASH_SOURCE[0]%/*}")
base=$(realpath --canonicalize-missing -- "$1")
wheels=$base-wheels
mkdir -p -- "${base%/*}"
readonly tools base wheels python=$2
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
readonly certificates=/etc/ssl/certs

fail() {
  echo "no base for the image of the tests: $1" >&2
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
  debootstrap --variant=minbase --keyring="$keyring" --include="$packages" sid "$made" "$mirror" \
    >"$work/log" 2>&1 || fail "$(tail --lines=1 "$work/log")"
  # The image's Python will be this one.
  mkdir -- "$work/wheels"
  "$tools/in-root.sh" "$made" "$work/wheels:/mnt" "$certificates:/media" -- \
    bash -euc 'python3 -m venv /tmp/venv
      PIP_CERT=/media/ca-certificates.crt /tmp/venv/bin/pip --quiet --disable-pip-version-check \
        download --no-cache-dir --only-binary :all: --dest /mnt "$@"
      rm -r /tmp/venv' pip "${requirements[@]}" >"$work/log" 2>&1 || fail "$(tail --lines=1 "$work/log")"
  rm -rf -- "${made:?}"/dev/* "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/* \
    "$made"/usr/share/{doc,info,locale,man}/*
  chroot "$made" dpkg-query --show python3 prometheus >"$made/versions"
  printf '%s\n' "$1" >"$made/made_from"
  mv --no-target-directory -- "$work/wheels" "$wheels"
  mv --no-target-directory -- "$made" "$base"
}

(( EUID == 0 )) || fail "only root may make it"
for program in apt-get debootstrap; do
  command -v "$program" >/dev/null || fail "$program is missing: apt-get install $program"
done
[[ -r $keyring ]] || fail "$keyring is missing: apt-get install debian-archive-keyring"
packages=$("$python" -c '
from jobmeter.images import read_catalogue
image = read_catalogue()["tests"]
print(",".join((*image.debian, *image.optional)))') || fail "$python has no jobmeter"
mapfile -t requirements < <("$python" -c '
import importlib.metadata
from jobmeter.images_definition import requirements
print(*requirements(importlib.metadata.requires("jobmeter"), "tests"), sep="\n")')
exec 9>"$base.lock"
flock 9
work=$(mktemp --directory "$base.XXXXXX")
trap 'rm -rf --one-file-system -- "$work"' EXIT
made_from=$(cat -- "${BASH_SOURCE[0]}" <(printf '%s\n' "$packages" "${requirements[@]}") | sha256sum)
if [[ $(cat -- "$base/made_from" 2>/dev/null) != "$made_from" ]]; then
  rm -rf --one-file-system -- "$base" "$wheels"
  make_base "$made_from"
fi
tr '\t\n' '  ' <"$base/versions"
echo
