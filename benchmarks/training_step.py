"""What a step of a training pays for being counted: ``python benchmarks/training_step.py``.

Beside it, in the same run, the same numbers counted by hand with prometheus_client.
"""

from __future__ import annotations

import argparse
import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from tables import spread, table

from jobmeter_exporters.training import TrainingMonitor
from jobmeter_exporters.training.histogram import STEP_EDGES_S

Loop = Callable[[int], None]


def nothing() -> Loop:
    """The loop itself, which is taken off the others."""

    def loop(steps: int) -> None:
        for _ in range(steps):
            pass

    return loop


def by_hand() -> Loop:
    """Step time, samples and loss with prometheus_client."""
    registry = CollectorRegistry()
    samples = Counter("training_samples", "", registry=registry)
    times = Histogram("training_step_duration_seconds", "", buckets=STEP_EDGES_S, registry=registry)
    loss = Gauge("training_loss", "", registry=registry)

    def loop(steps: int) -> None:
        for _ in range(steps):
            began = perf_counter()
            samples.inc(8)
            loss.set(0.5)
            times.observe(perf_counter() - began)

    return loop


def plain(monitor: TrainingMonitor) -> Loop:
    """The same with the monitor."""

    def loop(steps: int) -> None:
        for _ in range(steps):
            with monitor.step(samples=8):
                monitor.record(loss=0.5)

    return loop


def in_parts(monitor: TrainingMonitor) -> Loop:
    """Everything that a dense model has to tell."""

    def loop(steps: int) -> None:
        for _ in monitor.batches(range(steps)):
            with monitor.step(tokens=4096, samples=8):
                with monitor.forward():
                    pass
                with monitor.backward():
                    pass
                with monitor.optimizer():
                    pass
                monitor.record(loss=0.5, learning_rate=1e-4, gradient_norm=1.0)

    return loop


def with_experts(monitor: TrainingMonitor) -> Loop:
    """The same, and 8 layers of 64 experts as lists of numbers."""
    counts = list(range(64))
    inner = in_parts(monitor)

    def loop(steps: int) -> None:
        for _ in range(steps):
            inner(1)
            for layer in range(8):
                monitor.record_experts(counts, layer)

    return loop


@contextmanager
def scraped(port: int, interval_s: float) -> Iterator[list[float]]:
    """Scrape beside the loop, and give the times that it took."""
    took: list[float] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.wait(interval_s):
            took.append(one_scrape(port))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def one_scrape(port: int) -> float:
    """Return the seconds of one."""
    began = perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    connection.close()
    return perf_counter() - began


def microseconds(loop: Loop, empty: Loop, steps: int, repeats: int) -> list[float]:
    """Return the time per step of each repeat, without that of the loop."""
    found = []
    for _ in range(repeats):
        times = []
        for one in (empty, loop):
            began = perf_counter()
            one(steps)
            times.append(perf_counter() - began)
        found.append(1e6 * (times[1] - times[0]) / steps)
    return found


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000, help="in each repeat")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    logging.disable()  # the ports of the monitors
    monitors = [TrainingMonitor(f"m{number}", sigterm=False) for number in range(4)]
    beside = monitors[3]
    loops = {
        "step, samples, loss by hand": by_hand(),
        "step, samples, loss": plain(monitors[0]),
        "… with data, forward, backward, optimizer, tokens, two more gauges": in_parts(monitors[1]),
        "… and 8 x 64 experts": with_experts(monitors[2]),
    }
    rows = []
    for name, loop in loops.items():
        rows.append([name, *spread(microseconds(loop, nothing(), given.steps, given.repeats))])
    with scraped(beside.port or 0, 0.1):
        name = "… without experts, scraped ten times a second meanwhile"
        costs = microseconds(in_parts(beside), nothing(), given.steps, given.repeats)
        rows.append([name, *spread(costs)])
    print(table(("µs per step", "min", "median", "max"), rows))
    scrapes = [
        [name, *spread([1e3 * one_scrape(monitor.port or 0) for _ in range(given.repeats)])]
        for name, monitor in (("dense model", monitors[1]), ("8 x 64 experts", monitors[2]))
    ]
    print(table(("ms per scrape", "min", "median", "max"), scrapes))
    for monitor in monitors:
        monitor.close()


if __name__ == "__main__":
    main()
