"""From raw samples to numbers: jobmeter beside what a user would do instead, in one run."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

import recording
import routes
from recording import Synthetic
from routes import Passed
from tables import progress, spread, table

from jobmeter.paths import AttemptPaths

JOBMETER, HTTP, DUMP = (
    "jobmeter, samples to KPI table",
    "HTTP JSON, to arrays",
    "promtool tsdb dump",
)


def measure(nodes: int, cpus: int, hours: float, repeats: int) -> str:
    """Take every route ``repeats`` times, one after the other, from the log and from blocks."""
    with tempfile.TemporaryDirectory(prefix="jobmeter-benchmark-", dir="/var/tmp") as name:
        made = recording.make(Path(name), nodes, cpus, hours)
        text = (
            f"{made.nodes} nodes of {cpus} CPUs, {made.steps} scrapes, {made.series:,} series, "
            f"{made.samples:,} samples.\n"
        )
        for form, attempt in (("log", made.log), ("blocks", made.blocks)):
            text += f"\nRecorded as {form} ({_size(attempt.tsdb) / 1e6:.0f} MB):\n\n"
            text += _one_form(Path(name), made, attempt, form, repeats)
    return text


def _one_form(folder: Path, made: Synthetic, attempt: AttemptPaths, form: str, repeats: int) -> str:
    # Prometheus writes to its folder, so it gets a copy.
    copy = shutil.copytree(attempt.tsdb, folder / f"copy-{form}")
    wanted = routes.chunks(attempt.tsdb, made.run, attempt)
    passages: dict[str, list[Passed]] = {JOBMETER: [], HTTP: [], DUMP: []}
    for number in range(repeats):
        passages[JOBMETER].append(routes.alone(routes.by_jobmeter, made.run, attempt))
        passages[HTTP].append(
            routes.alone(routes.by_http, copy, wanted, made.begin_ms, made.end_ms)
        )
        passages[DUMP].append(routes.alone(routes.by_dump, attempt.tsdb, wanted))
        last = {name: f"{passed[-1].seconds:.2f} s" for name, passed in passages.items()}
        progress(f"analysis of {form}: {number + 1} of {repeats}: {last}")
    _check(passages)
    return _tables(passages, len(wanted))


def _check(passages: dict[str, list[Passed]]) -> None:
    """Refuse to compare routes that did not see the same samples."""
    all_passed = [one for of_route in passages.values() for one in of_route]
    counts = {one.samples for one in all_passed}
    totals = [one.total for one in all_passed if not math.isnan(one.total)]
    if len(counts) > 1 or not all(math.isclose(one, totals[0], rel_tol=1e-9) for one in totals):
        raise RuntimeError(f"the routes saw different samples: {counts}, {set(totals)}")


def _tables(passages: dict[str, list[Passed]], requests: int) -> str:
    ours, http, dump = (passages[name] for name in (JOBMETER, HTTP, DUMP))
    samples = ours[0].samples
    seconds = {
        JOBMETER: [one.seconds for one in ours],
        "… of which reading": [one.read_s for one in ours],
        "HTTP JSON to arrays, server ready": [one.seconds for one in http],
        "… and starting that server": [one.seconds + one.start_s for one in http],
        DUMP: [one.seconds for one in dump],
    }
    throughput = [
        (name, *spread([samples / one / 1e6 for one in values])) for name, values in seconds.items()
    ]
    ratios = [
        (name, *spread(_ratios(values, seconds[JOBMETER]), 1))
        for name, values in list(seconds.items())[2:]
    ]
    return (
        table((f"million samples/s ({samples:,} wanted)", "min", "median", "max"), throughput)
        + "\n"
        + table(("jobmeter is so many times as fast as", "min", "median", "max"), ratios)
        + f"\njobmeter: {ours[0].rows:,} rows, {spread(seconds[JOBMETER])[1]} s, "
        f"{max(one.peak_bytes for one in ours) / 2**20:.0f} MiB at the most; "
        f"HTTP: {requests} requests, client "
        f"{max(one.peak_bytes for one in http) / 2**20:.0f} MiB.\n"
    )


def _ratios(theirs: list[float], ours: list[float]) -> list[float]:
    """Return a ratio for each repeat, whose passages were neighbours in time."""
    return [other / own for other, own in zip(theirs, ours, strict=True)]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
