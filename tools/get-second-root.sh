#!/bin/bash
# The root file system of the second test cluster, $1: Debian sid with a newer Slurm, Apptainer and a
# newer Prometheus, and beside it, $1-packages, what jobmeter needs of PyPI, for the Python in it.
# Each is made anew when what it is made from changes, elsewhere first, so that it is whole or not
# there. Prints the versions; fails with one line that says why it cannot be had.
set -euo pipefail
tools=$(realpath -- "${BASH_SOURCE[0]%/*}")
project=${tools%/*}
root=$(realpath --canonicalize-missing -- "$1")
mkdir -p -- "${root%/*}"
readonly tools project root
readonly python_packages=$root-packages
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg
readonly list=$project/tests/second_cluster_packages.txt
readonly authorities=/etc/ssl/certs/ca-certificates.crt
readonly versions_of=(slurmctld apptainer prometheus python3)

fail() {
  echo "no second test cluster: $1" >&2
  exit 1
}

# attempt FUNCTION: once more after a while if it fails, because sid moves: a package that was listed
# a minute ago may be gone. What it prints is kept, and the last of it is the reason.
attempt() {
  "$1" >"$work/log" 2>&1 || { sleep 20 && "$1" >"$work/log" 2>&1; } ||
    fail "$1: $(grep --max-count=1 '^E: ' "$work/log" || tail --lines=1 "$work/log")"
}

# replace MADE TARGET: put a new folder in the place of an older one.
replace() {
  [[ ! -e $2 ]] || mv --no-target-directory -- "$2" "$work/old.${2##*/}"
  mv --no-target-directory -- "$1" "$2"
}

# is_from FOLDER TEXT: whether the folder was made from this.
is_from() { [[ $(cat -- "$1/made_from" 2>/dev/null) == "$2" ]]; }

mirror_of_this_system() {
  # shellcheck disable=SC2016 # apt's variable
  apt-get indextargets --no-release-info --format '$(REPO_URI)' 'Created-By: Packages' |
    grep --max-count=1 --invert-match security
}

inside() { "$tools/in-root.sh" "$made" -- env DEBIAN_FRONTEND=noninteractive "$@"; }

unpack_system() {
  rm -rf -- "$made" && debootstrap --variant=minbase --keyring="$keyring" sid "$made" "$mirror"
}

configure_system() {
  mkdir "$made/opt/jobmeter" "$made/opt/jobmeter-dependencies" "$made/opt/libmariadb"
  # No package may start a daemon.
  printf '#!/bin/sh\nexit 101\n' >"$made/usr/sbin/policy-rc.d"
  chmod 755 "$made/usr/sbin/policy-rc.d"
  # What is made to be thrown away need not survive a power failure, nor be read.
  printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
    'path-exclude=/usr/share/locale/*' >"$made/etc/dpkg/dpkg.cfg.d/test-cluster"
  # A frozen mirror has an old date.
  printf '%s\n' 'Acquire::Check-Valid-Until "false";' 'Acquire::Languages "none";' \
    'Acquire::Retries "2";' 'Acquire::http::Timeout "20";' >"$made/etc/apt/apt.conf.d/test-cluster"
  printf 'deb %s %s main\n' "$mirror" sid "$mirror" bookworm >"$made/etc/apt/sources.list"
  printf '%s\n' 'Package: *' 'Pin: release n=bookworm' 'Pin-Priority: 100' \
    >"$made/etc/apt/preferences.d/test-cluster"
}

# slurmdbd cannot use the client library of sid: a constant that it asks for comes without a column.
install_packages() {
  inside apt-get --quiet=2 update &&
    inside apt-get --quiet=2 --yes --no-install-recommends install "${packages[@]}" &&
    inside bash -euc 'cd /opt/libmariadb
      apt-get --quiet=2 download libmariadb3/bookworm
      dpkg-deb --extract libmariadb3_*.deb .
      mv usr/lib/*/libmariadb.so.3 .
      rm -r usr libmariadb3_*.deb
      apt-get clean
      rm -r /var/lib/apt/lists'
}

make_root() {
  made=$work/root
  mirror=$(mirror_of_this_system) || fail "apt names no mirror of Debian"
  mapfile -t packages < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$list")
  attempt unpack_system
  configure_system
  attempt install_packages
  # Behind a proxy that signs for others, only this system knows its signature.
  [[ ! -r $authorities ]] || cp -- "$authorities" "$made$authorities"
  inside dpkg-query --show "${versions_of[@]}" >"$made/versions"
  printf '%s\n' "$1" >"$made/made_from"
  replace "$made" "$root"
}

requirements() {
  "$tools/in-root.sh" "$root" "$project:/mnt" -- python3 -c '
import sys, tomllib
with open("/mnt/pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")'
}

install_python_packages() {
  # shellcheck disable=SC2016 # of the shell inside
  "$tools/in-root.sh" "$root" "$made:/mnt" -- bash -euc '
    folder=$(mktemp --directory)
    python3 -m venv "$folder"
    "$folder/bin/pip" --quiet --disable-pip-version-check install --no-compile --target /mnt "$@"
    rm -r "$folder"' pip "${wanted[@]}"
}

make_python_packages() {
  made=$work/packages
  mkdir -- "$made"
  attempt install_python_packages
  printf '%s\n' "$1" >"$made/made_from"
  replace "$made" "$python_packages"
}

(( EUID == 0 )) || fail "only root may make it"
for program in apt-get debootstrap unshare; do
  command -v "$program" >/dev/null || fail "$program is missing: apt-get install $program"
done
[[ -r $keyring ]] || fail "$keyring is missing: apt-get install debian-archive-keyring"
exec 9>"$root.lock"
flock 9

work=$(mktemp --directory "$root.XXXXXX")
trap 'rm -rf --one-file-system -- "$work"' EXIT
made_from=$(cat -- "${BASH_SOURCE[0]}" "$list" | sha256sum)
is_from "$root" "$made_from" || make_root "$made_from"
mapfile -t wanted < <(requirements)
made_from=$(printf '%s\n' "$made_from" "${wanted[@]}" | sha256sum)
is_from "$python_packages" "$made_from" || make_python_packages "$made_from"
tr '\t\n' '  ' <"$root/versions"
echo
