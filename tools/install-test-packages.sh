#!/bin/bash
# Installs the Debian packages that the tests need, as listed in the file $1, when it may; says in
# one line what is missing when it may not. The tests then skip, with their reasons.
set -euo pipefail

mapfile -t packages < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$1")
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
(( ${#missing[@]} )) || exit 0
if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
  echo "tests that need these packages will skip; as root: apt-get install ${missing[*]}" >&2
  exit 0
fi

# Tests start their own daemons on their own ports; the packages' services stay off.
if [[ ! -e /usr/sbin/policy-rc.d ]]; then
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}"
