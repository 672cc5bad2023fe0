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


def measure(nodes: int, hours: float, repeats: int) -> str:
    """Take every route ``repeats`` times, one after the other, from the log and from blocks."""
    with tempfile.TemporaryDirectory(prefix="jobmeter-benchmark-", dir="/var/tmp") as name:
        made = recording.make(Path(name), nodes, hours)
        text = (
            f"{made.nodes} nodes, {made.steps} scrapes, {made.series:,} series, "
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
    samples = passages[JOBMETER][0].samples
    reading = [samples / one.read_s / 1e6 for one in passages[JOBMETER]]
    rows = [
        (name, *spread([one.samples / one.seconds / 1e6 for one in of_route]))
        for name, of_route in passages.items()
    ]
    rows.insert(1, ("… of which reading alone", *spread(reading)))
    ratios = [(f"jobmeter / {name}", *spread(_ratios(passages, name), 1)) for name in (HTTP, DUMP)]
    ours = passages[JOBMETER]
    return (
        table((f"million samples/s ({samples:,} wanted)", "min", "median", "max"), rows)
        + "\n"
        + table(("ratio, repeat by repeat", "min", "median", "max"), ratios)
        + f"\njobmeter: {ours[0].rows:,} rows, {spread([one.seconds for one in ours])[1]} s, "
        f"{max(one.peak_bytes for one in ours) / 2**20:.0f} MiB at the most; "
        f"HTTP: {requests} requests, client "
        f"{max(one.peak_bytes for one in passages[HTTP]) / 2**20:.0f} MiB.\n"
    )


def _ratios(passages: dict[str, list[Passed]], other: str) -> list[float]:
    pairs = zip(passages[JOBMETER], passages[other], strict=True)
    return [theirs.seconds / ours.seconds for ours, theirs in pairs]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
