#!/bin/bash
# Prometheus and node_exporter for 'make demo': those on PATH, else the distribution's packages
# unpacked below $1. Nothing is installed into the system and no service is started or enabled.
# Prints the folder to put on PATH; fails with one line that says what to do.
set -euo pipefail
readonly folder=$1

have() { command -v "$1" >/dev/null; }

have_all() {
  have prometheus && { have node_exporter || have prometheus-node-exporter; }
}

download() {
  (cd -- "$folder" && apt-get download --quiet=2 prometheus prometheus-node-exporter) >&2
}

PATH="$folder/usr/bin:$PATH"
if ! have curl; then
  if [[ $EUID == 0 ]] && have apt-get; then
    { apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends curl; } >&2
  else
    echo 'curl is missing: apt-get install curl' >&2
    exit 1
  fi
fi
if ! have_all; then
  if ! have apt-get || ! have dpkg-deb; then
    echo 'prometheus and node_exporter are missing: put both on PATH (https://prometheus.io/download)' >&2
    exit 1
  fi
  mkdir -p -- "$folder"
  if ! download 2>/dev/null; then
    if [[ $EUID != 0 ]]; then
      echo 'no package lists here: run "apt-get update" as root, or put prometheus and node_exporter on PATH' >&2
      exit 1
    fi
    apt-get update --quiet=2 >&2
    download
  fi
  for package in "$folder"/*.deb; do
    dpkg-deb --extract "$package" "$folder"
  done
  rm -- "$folder"/*.deb
fi
have_all || { echo "prometheus and node_exporter did not unpack below $folder" >&2; exit 1; }
echo "$folder/usr/bin"
