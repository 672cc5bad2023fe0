#!/bin/bash
# Starts the counting server on port $1 in the background and returns when it answers.
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 9
./counting_server.py "$1" &
for (( tries = 0; tries < 100; tries++ )); do
  curl --silent --fail "localhost:$1/metrics" >/dev/null && exit 0
  sleep 0.1
done
exit 9
