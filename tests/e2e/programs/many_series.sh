#!/bin/bash
# node_exporter as a site may start it: with series of its own, more than a pipe holds (64 KiB).
for word; do
  [[ $word != --collector.textfile.directory=* ]] ||
    seq -f 'site_state{part="%06.0f"} 1' 5000 >"${word#*=}/site.prom"
done
program=$(type -P node_exporter || type -P prometheus-node-exporter) || exit 127
exec "$program" "$@"
