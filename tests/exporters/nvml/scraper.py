"""Scrapes the collector when a line on stdin says so; time stands still in between.

It is the real collector over the real pynvml. Stand-ins are the clock, the name of the node, and,
so that a test says when it reads, the thread of the sampler.
"""

import json
import logging
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


def main():
    clock = time.monotonic = Clock()

    # Not before: the clock is a default there.
    from prometheus_client import CollectorRegistry, generate_latest

    from jobmeter_exporters import nvidia, nvidia_patience, nvidia_sampler
    from jobmeter_exporters.__main__ import parse
    from jobmeter_exporters.watched import Watched

    socket.gethostname = lambda: "n1"
    if "JOBMETER_TEST_LONGEST_S" in os.environ:
        nvidia_patience.LONGEST_S = float(os.environ["JOBMETER_TEST_LONGEST_S"])
    samplers = []
    nvidia_sampler.Sampler.start = lambda sampler: samplers.append(sampler)
    log = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(f"{record.levelname} {record.getMessage()}")
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    _, settings = parse(["nvidia", "--run-id", "r1", *sys.argv[1:]])
    if "JOBMETER_TEST_PROC" in os.environ:
        settings = replace(settings, proc=Path(os.environ["JOBMETER_TEST_PROC"]))
    with nvidia.from_settings(settings) as collector:
        registry = CollectorRegistry()
        registry.register(Watched({"nvidia": collector}))
        log.clear()
        print("ready", flush=True)
        for line in sys.stdin:
            command = json.loads(line)
            clock.now_s += command["advance_s"]
            answer = {}
            if command["do"] == "sample":
                samplers[0].read()
            else:
                text = generate_latest(registry).decode()
                answer = {"text": text, "log": list(log)}
                log.clear()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
