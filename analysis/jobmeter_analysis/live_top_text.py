"""What a look of ``jobmeter top`` saw: tables for a terminal, plain lines for a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobmeter_analysis.display import human
from jobmeter_analysis.live_panels import Cell, Panel
from jobmeter_analysis.live_top import View
from jobmeter_analysis.live_words import duration

SHORT_REASONS = 1
"""So many reasons of a number that is not there are shown: the first says most."""


def tables(view: View) -> RenderableType:
    """Return the look for a terminal."""
    parts: list[RenderableType] = [Text(headline(view), style="bold")]
    parts += [Text(problem, style="yellow") for problem in view.problems]
    for panel in view.panels:
        parts += [Text(), _table(panel)]
    return Group(*parts)


def lines(view: View) -> Iterator[str]:
    """Give the look for a pipe: a line for each entity."""
    yield headline(view)
    for problem in view.problems:
        yield f"problem {problem}"
    for panel in view.panels:
        for entity, cells in panel.rows.items():
            said = [f"{column.replace(' ', '_')}={_said(cell)}" for column, cell in cells.items()]
            yield " ".join([panel.title, entity, *(one.replace(" ", "") for one in said)])


def headline(view: View) -> str:
    """Return what the numbers are about, in one line."""
    parts = [view.run_id, f"attempt {view.attempt}", view.state]
    if view.phase is not None:
        lasted = duration(view.phase.seconds) if view.phase.seconds is not None else ""
        parts.append(f"phase {view.phase.name} {view.phase.state} {lasted}".rstrip())
    if view.window is not None:
        end = datetime.fromtimestamp(view.window.end_ms / 1000, tz=timezone.utc)
        parts.append(f"{duration(view.window.seconds)} to {end:%H:%M:%S} UTC")
    if view.age_s is not None:
        where = "live" if view.source == "prometheus" else "from the copy"
        parts.append(f"{where}, {duration(view.age_s)} old")
    return " · ".join(parts)


def _table(panel: Panel) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(panel.title, no_wrap=True, min_width=8)
    for column in panel.columns:
        table.add_column(column, justify="right", no_wrap=True)
    for entity, cells in panel.rows.items():
        table.add_row(entity, *(_text(cells.get(column)) for column in panel.columns))
    return table


def _text(cell: Cell | None) -> Text:
    if cell is None:
        return Text()
    return Text(_said(cell), style="" if cell.known else "yellow")


def _said(cell: Cell) -> str:
    """Return the number, or why there is none."""
    if not cell.known:
        return ";".join(cell.reason.split(";")[:SHORT_REASONS]) or "unknown"
    return human(cell.value, cell.unit)
