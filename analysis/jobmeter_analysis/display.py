"""The KPI table on a terminal: the one place where numbers are rounded and get human units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobmeter.window import JOB
from jobmeter_analysis import stragglers
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.engine import COLUMNS, Analysis

PIPE_WIDTH = 200
"""Columns to use where nobody has a terminal: wide enough that no cell is folded."""

REASON_COLUMN_FROM = 130
"""Width from which the reasons have a column of their own."""

_STEPS: dict[str, tuple[tuple[str, float], ...]] = {
    "bytes": (
        ("TiB", 2.0**40),
        ("GiB", 2.0**30),
        ("MiB", 2.0**20),
        ("KiB", 2.0**10),
        ("B", 1.0),
    ),
    "1": (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 1.0)),
    "seconds": (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)),
    "ratio": (("%", 1e-2),),
}
"""Human units of a base unit, the largest first."""
FULL_WIDTH = 400
"""The same for all columns with all digits."""

_STATUS_STYLE = {"exact": "green", "bounded": "cyan", "estimated": "yellow", "unavailable": "dim"}


def print_analysis(analysis: Analysis, console: Console | None = None, every: bool = False) -> None:
    """Print the table with a line above (what this is) and below (what is missing).

    Args:
        analysis: What to print.
        console: Where; by default standard output, ``PIPE_WIDTH`` wide when that is no terminal.
        every: All columns of all rows, numbers as they are, instead of the compact form.
    """
    console = console or Console()
    if not console.is_terminal:
        width = FULL_WIDTH if every else max(PIPE_WIDTH, console.width)
        console = Console(file=console.file, width=width, color_system=None)
    for part in rendered(analysis, every, console.width):
        # A line of words is folded for a person, never for a program.
        console.print(part, soft_wrap=isinstance(part, Text) and not console.is_terminal)


def rendered(
    analysis: Analysis, every: bool = False, width: int = PIPE_WIDTH
) -> Iterator[Text | Table]:
    """Yield the lines and the table to print."""
    yield Text(headline(analysis))
    if every:
        yield _full(analysis.table)
        yield from map(Text, stragglers.in_words(analysis.table))
        yield Text(missing(analysis))
        return
    of_services = analysis.manifest.get("service_kpis", {}).values()
    shown = led_by(brief(analysis.table), {group for groups in of_services for group in groups})
    numbers = shown[shown["status"] != "unavailable"]
    yield _compact(numbers, width)
    yield from map(Text, stragglers.in_words(analysis.table))
    yield Text(without_number(shown))
    yield Text(missing(analysis))
    yield Text(f"{len(numbers)} of {len(analysis.table)} rows; --all shows every row and column")


RUNTIME_COUNTERS = ("process_", "python_", "go_")
"""What client libraries count of their own process; nothing that a payload set out to count."""
DERIVED = ("_score_ratio",)
"""Ends of names of what the comparison of entities adds."""
ACROSS_ATTEMPTS = "_across_attempts_(min|median|max)$"
"""Ends of names of a KPI that has no number of several attempts together."""
CLIENT = "client"
"""What entities begin with that measured from outside."""


def brief(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows worth a terminal.

    The catalogue's brief KPIs, and the payload's counters of which no KPI is made; the sum instead
    of its parts, or the part where there is one only; of the whole attempt what no phase has.
    """
    kpis = {name: kpi for group in load_catalogue().values() for name, kpi in group.kpis.items()}
    named = {name for name, kpi in kpis.items() if kpi.brief}
    own = ~frame["kpi"].isin(list(kpis)) & (frame["scope"] == "service")
    own &= ~frame["kpi"].str.startswith(RUNTIME_COUNTERS) & ~frame["kpi"].str.endswith(DERIVED)
    compared = frame["kpi"].str.replace(ACROSS_ATTEMPTS, "", regex=True)
    frame = frame[own | compared.isin(list(named))]
    in_phases = set(frame.loc[frame["phase"] != JOB, "kpi"]) - {"phase_seconds"}
    frame = frame[(frame["phase"] != JOB) | ~frame["kpi"].isin(in_phases)]
    shown = frame["entity"].str.startswith(CLIENT)
    for _, rows in frame[~shown].groupby(["phase", "kpi"], sort=False):
        parts = rows[rows["scope"] == rows["scope"].iloc[0]]
        whole = parts if len(parts) == 1 else rows[rows["scope"] == rows["scope"].iloc[-1]]
        shown[whole.index] = True
    whole_frame: pd.DataFrame = frame.loc[shown]
    return whole_frame


def led_by(frame: pd.DataFrame, groups: Collection[str]) -> pd.DataFrame:
    """Return the rows of each phase with those of these groups of KPIs first."""
    named = {
        kpi for name, group in load_catalogue().items() if name in groups for kpi in group.kpis
    }
    phases, _ = pd.factorize(frame["phase"])
    led: pd.DataFrame = frame.iloc[np.lexsort((~frame["kpi"].isin(list(named)), phases))]
    return led


def without_number(frame: pd.DataFrame) -> str:
    """Return the KPIs that have no number, by reason, in one line."""
    absent = frame[frame["status"] == "unavailable"]
    by_reason = absent.groupby("reason")["kpi"].unique()
    named = [
        f"{reason.replace(';', '; ')}: {', '.join(kpis)}" for reason, kpis in by_reason.items()
    ]
    return f"no number: {' · '.join(named)}" if named else "every KPI in the table has a number"


def headline(analysis: Analysis) -> str:
    """Return run, state, Slurm state and phases in one line."""
    manifest = analysis.manifest
    if "attempts" in manifest:
        return _headline_of_all(manifest)
    slurm = manifest["slurm"]
    accounted = f"Slurm {slurm['state']}" if slurm else "no Slurm accounting"
    if slurm and slurm["source"] == "attempt":
        accounted = f"{slurm['state']} by its own record"
    of_run = bool(manifest["site"])
    parts = [
        f"{manifest['run_id']} attempt {manifest['attempt']}" if of_run else manifest["run_id"],
        f"recording {manifest['state']}",
        *([accounted] if of_run else []),
        f"phases {', '.join(phase['name'] for phase in manifest['phases']) or 'none'}",
    ]
    return " · ".join(parts)


def _headline_of_all(manifest: Mapping[str, Any]) -> str:
    names = [attempt["name"] for attempt in manifest["attempts"]]
    states = Counter(attempt["slurm_state"] for attempt in manifest["attempts"])
    told = [f"{count} {state}" for state, count in states.items() if state]
    return " · ".join(
        [
            f"{manifest['run_id']} all {len(names)} attempts together: {', '.join(names)}",
            f"recording {manifest['state']}",
            f"Slurm {', '.join(told)}" if told else "no Slurm accounting",
            f"phases {', '.join(phase['name'] for phase in manifest['phases']) or 'none'}",
        ]
    )


def missing(analysis: Analysis) -> str:
    """Return what the recording lacks, in one line."""
    reasons = list(analysis.manifest["reasons"])
    return f"missing: {'; '.join(reasons)}" if reasons else "nothing is missing from the recording"


def _compact(frame: pd.DataFrame, width: int) -> Table:
    """Return one line per number, grouped by phase.

    On a narrow terminal a reason stands below its KPI, elsewhere in a column of its own.
    """
    narrow = width < REASON_COLUMN_FROM
    table = Table(
        box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold"
    )
    table.add_column("kpi", no_wrap=True)
    table.add_column("entity", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("low .. high", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("cov", justify="right", no_wrap=True)
    if not narrow:
        table.add_column("reason", no_wrap=True)
    for phase, rows in frame.groupby("phase", sort=False):
        table.add_row(Text(f"phase {phase}", style="bold"))
        for row in rows.to_dict(orient="records"):
            kpi, *cells, reason = _cells(row)
            if narrow:
                table.add_row(f"{kpi}\n  {reason}" if reason else kpi, *cells)
            else:
                table.add_row(kpi, *cells, reason)
    return table


def _cells(row: dict[Any, Any]) -> Iterable[Any]:
    unit = str(row["unit"])
    yield str(row["kpi"])
    yield str(row["entity"])
    yield human(row["value"], unit)
    yield "" if row["status"] == "exact" else interval(row["value"], row["low"], row["high"], unit)
    yield Text(str(row["status"]), style=_STATUS_STYLE[str(row["status"])])
    yield "" if math.isnan(row["coverage"]) else f"{100 * row['coverage']:.0f}%"
    yield str(row["reason"]).replace(";", "; ")


def _full(frame: pd.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*(repr(cell) if isinstance(cell, float) else str(cell) for cell in row))
    return table


def interval(value: float, low: float, high: float, unit: str) -> str:
    """Return an interval in the unit that suits the value.

    >>> interval(2048.0, 1024.0, 4096.0, "bytes"), interval(2048.0, 1024.0, math.inf, "bytes")
    ('1 .. 4', '1 or more')
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    size, _ = _scale(value, unit)
    if math.isinf(high):
        return f"{_digits(low / size)} or more"
    return f"{_digits(low / size)} .. {_digits(high / size)}"


def human(value: float, unit: str) -> str:
    """Return a number with four digits and the unit that suits its size.

    >>> human(3 * 2**30, "bytes"), human(0.0421, "seconds"), human(0.5, "ratio"), human(7.0, "1")
    ('3 GiB', '42.1 ms', '50 %', '7')
    """
    if math.isnan(value):
        return "-"
    size, name = _scale(value, unit)
    return f"{_digits(value / size)} {name}".rstrip()


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Return the size of a suitable unit in base units, and its name."""
    base, _, per = unit.partition("/")
    steps = _STEPS.get(base)
    if steps is None:
        return 1.0, unit
    smallest = steps[-1] if value else steps[0 if base == "seconds" else -1]
    name, size = next((step for step in steps if abs(value) >= step[1]), smallest)
    return size, f"{name}/{per}" if per else name


def _digits(value: float) -> str:
    """Return four significant digits, never an exponent for what is larger than one."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
