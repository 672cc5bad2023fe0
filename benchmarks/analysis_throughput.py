"""From raw samples to numbers: jobmeter beside what a user would do instead, in one run."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import recording
import routes
from recording import Synthetic
from routes import Passed
from tables import progress, spread, table

from jobmeter.paths import AttemptPaths

JOBMETER, READING, HTTP, DUMP = (
    "jobmeter, samples to KPI table",
    "jobmeter, to arrays",
    "HTTP JSON, to arrays",
    "promtool tsdb dump",
)


def measure(nodes: int, cpus: int, hours: float, repeats: int, *, alone: bool = False) -> str:
    """Take every route ``repeats`` times, one after the other, from the log and from blocks.

    ``alone`` leaves out the other routes, which take minutes for a large recording.
    """
    with tempfile.TemporaryDirectory(prefix="jobmeter-benchmark-", dir="/var/tmp") as name:
        made = recording.make(Path(name), nodes, cpus, hours)
        text = (
            f"{made.nodes} nodes of {cpus} CPUs, {made.steps} scrapes, {made.series:,} series, "
            f"{made.samples:,} samples.\n"
        )
        for form, attempt in (("log", made.log), ("blocks", made.blocks)):
            text += f"\nRecorded as {form} ({_size(attempt.tsdb) / 1e6:.0f} MB):\n\n"
            text += _one_form(Path(name), made, attempt, form, repeats, alone=alone)
    return text


def _one_form(
    folder: Path, made: Synthetic, attempt: AttemptPaths, form: str, repeats: int, *, alone: bool
) -> str:
    wanted = routes.asked(made.run, attempt)
    taken: dict[str, Callable[[], Passed]] = {
        JOBMETER: lambda: routes.alone(routes.by_jobmeter, made.run, attempt),
        READING: lambda: routes.alone(routes.by_reading, attempt.tsdb, wanted),
    }
    if not alone:
        # Prometheus writes to its folder, so it gets a copy.
        copy = shutil.copytree(attempt.tsdb, folder / f"copy-{form}")
        chunks, begin_ms, end_ms = wanted.chunks, made.begin_ms, made.end_ms
        taken[HTTP] = lambda: routes.alone(routes.by_http, copy, chunks, begin_ms, end_ms)
        taken[DUMP] = lambda: routes.alone(routes.by_dump, attempt.tsdb, chunks)
    passages: dict[str, list[Passed]] = {name: [] for name in taken}
    for number in range(repeats):
        for name, take in taken.items():
            passages[name].append(take())
        last = {name: f"{passed[-1].seconds:.2f} s" for name, passed in passages.items()}
        progress(f"analysis of {form}: {number + 1} of {repeats}: {last}")
    _check(passages)
    return _tables(passages, made.samples, len(wanted.chunks))


def _check(passages: dict[str, list[Passed]]) -> None:
    """Refuse to compare routes that did not see the same samples."""
    all_passed = [one for of_route in passages.values() for one in of_route]
    counts = {one.samples for one in all_passed}
    totals = [one.total for one in all_passed if not math.isnan(one.total)]
    if len(counts) > 1 or not all(math.isclose(one, totals[0], rel_tol=1e-9) for one in totals):
        raise RuntimeError(f"the routes saw different samples: {counts}, {set(totals)}")


def _tables(passages: dict[str, list[Passed]], recorded: int, requests: int) -> str:
    ours, reading = passages[JOBMETER], passages[READING]
    samples = ours[0].samples
    seconds = {
        JOBMETER: [one.seconds for one in ours],
        READING: [one.seconds for one in reading],
    }
    if HTTP in passages:
        http = passages[HTTP]
        seconds["HTTP JSON to arrays, server ready"] = [one.seconds for one in http]
        seconds["… and starting that server"] = [one.seconds + one.start_s for one in http]
        seconds[DUMP] = [one.seconds for one in passages[DUMP]]
    throughput = [
        (name, *spread([samples / one / 1e6 for one in values])) for name, values in seconds.items()
    ]
    text = table((f"million samples/s ({samples:,} wanted)", "min", "median", "max"), throughput)
    ratios = [
        (name, *spread(_ratios(values, seconds[JOBMETER]), 1))
        for name, values in list(seconds.items())[2:]
    ]
    if ratios:
        text += "\n" + table(
            ("jobmeter is so many times as fast as", "min", "median", "max"), ratios
        )
    text += (
        f"\njobmeter: {ours[0].rows:,} rows, {spread(seconds[JOBMETER])[1]} s, "
        f"{_peak_mib(ours)} MiB at the most; reading alone {spread(seconds[READING])[1]} s "
        f"({recorded / min(seconds[READING]) / 1e6:.1f} million recorded samples/s at the best), "
        f"{_peak_mib(reading)} MiB"
    )
    if HTTP in passages:
        text += f"; HTTP: {requests} requests, client {_peak_mib(passages[HTTP])} MiB"
    return f"{text}.\n"


def _peak_mib(passed: list[Passed]) -> str:
    return f"{max(one.peak_bytes for one in passed) / 2**20:.0f}"


def _ratios(theirs: list[float], ours: list[float]) -> list[float]:
    """Return a ratio for each repeat, whose passages were neighbours in time."""
    return [other / own for other, own in zip(theirs, ours, strict=True)]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
