#!/bin/bash
# Prometheus 3 and its promtool for the tests, from the packages of Debian sid, unpacked below $1.
# apt downloads and verifies it with package lists of its own: the system's are not touched, and
# nothing is installed. Prints the folder of the programs; fails with one line that says why.
set -euo pipefail
readonly folder=$1
readonly programs=$folder/usr/bin
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
  echo "Prometheus 3 cannot be had: $1" >&2
  exit 1
}

runs() { "$programs/prometheus" --version >/dev/null 2>&1 && "$programs/promtool" --version >/dev/null 2>&1; }

if ! runs; then
  for program in apt-get dpkg-deb; do
    command -v "$program" >/dev/null || fail "$program is missing"
  done
  [[ -r $keyring ]] || fail "$keyring is missing: apt-get install debian-archive-keyring"
  # The mirror that this system uses already.
  # shellcheck disable=SC2016 # apt's variable
  mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' |
    grep --max-count=1 --invert-match security) || fail "apt names no mirror of Debian"
  work=$(mktemp --directory)
  trap 'rm -rf -- "$work"' EXIT
  mkdir -p -- "$work/state" "$work/cache"
  echo "deb [signed-by=$keyring] $mirror sid main" >"$work/sources.list"
  options=(
    --quiet=2
    --option "Dir::State=$work/state"
    --option "Dir::Cache=$work/cache"
    --option "Dir::Etc::sourcelist=$work/sources.list"
    --option Dir::Etc::sourceparts=-
    --option Acquire::Languages=none
    --option Acquire::Check-Valid-Until=false  # a frozen mirror has an old date
    --option "APT::Sandbox::User=$(id --user --name)"
    --option Acquire::http::Timeout=20
    --option Acquire::Retries=2
  )
  apt-get "${options[@]}" update >"$work/log" 2>&1 || fail "$(tail -n 1 "$work/log")"
  (cd -- "$work" && apt-get "${options[@]}" download prometheus promtool) >"$work/log" 2>&1 || fail "$(tail -n 1 "$work/log")"
  mkdir -p -- "$folder"
  for package in "$work"/*.deb; do
    dpkg-deb --extract "$package" "$folder"
  done
  runs || fail "the packages of sid do not run on this system"
fi
echo "$programs"
