"""The KPI table on a terminal: the one place where numbers are rounded and get human units."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobmeter_analysis.engine import COLUMNS, Analysis

PIPE_WIDTH = 200
"""Columns to use where nobody has a terminal: wide enough that no cell is folded."""

_BYTES = (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
_COUNTS = (("T", 1e12), ("G", 1e9), ("M", 1e6))
_STATUS_STYLE = {"exact": "green", "bounded": "cyan", "estimated": "yellow", "unavailable": "dim"}


def print_analysis(analysis: Analysis, console: Console | None = None, every: bool = False) -> None:
    """Print the table with a line above (what this is) and below (what is missing).

    Args:
        analysis: What to print.
        console: Where; by default standard output, ``PIPE_WIDTH`` wide when that is no terminal.
        every: All columns of all rows, numbers as they are, instead of the compact form.
    """
    console = console or Console()
    if not console.is_terminal and console.width < PIPE_WIDTH:
        console = Console(file=console.file, width=PIPE_WIDTH, color_system=None)
    console.print(rendered(analysis, every))


def rendered(analysis: Analysis, every: bool = False) -> RenderableType:
    """Return the lines and the table as one thing to print."""
    table = _full(analysis.table) if every else _compact(analysis.table)
    return Group(Text(headline(analysis)), table, Text(missing(analysis)))


def headline(analysis: Analysis) -> str:
    """Return run, state, Slurm state and phases in one line."""
    manifest = analysis.manifest
    slurm = manifest["slurm"]
    parts = [
        f"{manifest['run_id']} attempt {manifest['attempt']}",
        f"recording {manifest['state']}",
        f"Slurm {slurm['state']}" if slurm else "no Slurm accounting",
        f"phases {', '.join(phase['name'] for phase in manifest['phases']) or 'none'}",
    ]
    return " · ".join(parts)


def missing(analysis: Analysis) -> str:
    """Return what is not there, in one line."""
    reasons = list(analysis.manifest["reasons"])
    absent = int((analysis.table["status"] == "unavailable").sum())
    rows = [f"{absent} of {len(analysis.table)} rows unavailable"] if absent else []
    return f"missing: {'; '.join([*reasons, *rows])}" if reasons or rows else "nothing is missing"


def _compact(frame: pd.DataFrame) -> Table:
    """Return one line per available row, grouped by phase; those without a number at its end."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("phase", no_wrap=True)
    table.add_column("kpi", no_wrap=True)
    table.add_column("entity", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("interval", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("cov", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for phase, rows in frame.groupby("phase", sort=False):
        for index, row in enumerate(rows.to_dict(orient="records")):
            table.add_row(str(phase) if index == 0 else "", *_cells(row))
        table.add_section()
    return table


def _cells(row: dict[Any, Any]) -> Iterable[str | Text]:
    unit = str(row["unit"])
    yield str(row["kpi"])
    yield str(row["entity"])
    yield human(row["value"], unit)
    yield interval(row["low"], row["high"], unit) if row["status"] != "exact" else ""
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


def interval(low: float, high: float, unit: str) -> str:
    """Return an interval in human units.

    >>> interval(1024.0, math.inf, "bytes")
    '1 KiB .. inf'
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{human(low, unit)} .. {human(high, unit)}"


def human(value: float, unit: str) -> str:
    """Return a number with four digits and the unit that suits its size.

    >>> human(3 * 2**30, "bytes"), human(0.0421, "seconds"), human(0.5, "ratio"), human(7.0, "1")
    ('3 GiB', '42.1 ms', '50 %', '7')
    """
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if unit == "ratio":
        return f"{100 * value:.4g} %"
    if unit == "seconds":
        return _seconds(value)
    if unit in ("bytes", "bytes/s"):
        return f"{_scaled(value, _BYTES, ' ')}{'' if abs(value) >= 1024 else ' B'}{unit[5:]}"
    if unit in ("1", "1/s"):
        return f"{_scaled(value, _COUNTS, ' ')}{unit[1:] and ' /s'}"
    return f"{value:.4g} {unit}"


def _seconds(value: float) -> str:
    for name, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= size or value == 0:
            return f"{_digits(value / size)} {name}"
    return f"{value:.4g} s"


def _scaled(value: float, steps: Iterable[tuple[str, float]], gap: str) -> str:
    for name, size in steps:
        if abs(value) >= size:
            return f"{_digits(value / size)}{gap}{name}"
    return _digits(value)


def _digits(value: float) -> str:
    """Return four significant digits, never an exponent for what is larger."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
