"""What ``jobmeter top`` shows, as data, and the rows of the KPI table laid out by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from pydantic import ConfigDict

from jobmeter import strict
from jobmeter.errors import CatalogueError
from jobmeter_analysis.catalogue import Catalogue, Scope, load_catalogue
from jobmeter_analysis.formula import Formula

PANELS = Path(__file__).parent / "top_panels.yaml"


class PanelPlan(strict.StrictModel):
    """One panel: the entities of a scope, and the KPIs of each column, the best first."""

    model_config = ConfigDict(strict=False)  # a list of the file is a tuple here

    scope: Scope
    columns: dict[str, tuple[str, ...]]


class _Panels(strict.StrictModel):
    panels: dict[str, PanelPlan]


@lru_cache(maxsize=4)
def load_panels(path: Path = PANELS) -> Mapping[str, PanelPlan]:
    """Read and check the panels.

    Raises:
        CatalogueError: naming the file, the panel and the likely fix.
    """
    panels = strict.read(_Panels, path, CatalogueError)[0].panels
    known = [name for group in load_catalogue().values() for name in group.kpis]
    for title, panel in panels.items():
        for kpi in (kpi for column in panel.columns.values() for kpi in column):
            if kpi not in known:
                hint = strict.nearest(kpi, known)
                raise CatalogueError(f"{path.name}: panel {title!r}: no KPI {kpi!r}; {hint}")
    return panels


def catalogue_for(panels: Mapping[str, PanelPlan]) -> Catalogue:
    """Return the part of the catalogue that the panels show, and what its formulas need."""
    whole = load_catalogue()
    formulas = {n: kpi.formula for g in whole.values() for n, kpi in g.kpis.items()}
    wanted: set[str] = set()
    asked = [kpi for panel in panels.values() for of in panel.columns.values() for kpi in of]
    while asked:
        name = asked.pop()
        if name in formulas and name not in wanted:
            wanted.add(name)
            text = formulas[name]
            asked += Formula.parse(text).names if text else ()
    chosen = {}
    for title, group in whole.items():
        kpis = {
            name: kpi.model_copy(update={"spread": None})
            for name, kpi in group.kpis.items()
            if name in wanted
        }
        if kpis:
            chosen[title] = group.model_copy(update={"kpis": kpis})
    return chosen


@dataclass(frozen=True)
class Cell:
    """One number.

    Args:
        value: In ``unit``; NaN where there is none.
        unit: Base unit.
        reason: Why there is none, or what is worth saying.
    """

    value: float
    unit: str
    reason: str

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return not math.isnan(self.value)


@dataclass(frozen=True)
class Panel:
    """One panel with its numbers.

    Args:
        title: Of the panel.
        columns: Those of which anybody has a number, or lost it.
        rows: By entity, the cells by column; a column is missing where it has no meaning.
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Cell]]


NEVER_THERE = ("metric_absent", "not_instrumented")
"""Reasons of what nobody expects to come back: a column full of them is not shown."""


def laid_out(table: pd.DataFrame, panels: Mapping[str, PanelPlan]) -> tuple[Panel, ...]:
    """Return the rows of a KPI table as panels; a panel without any number is left out."""
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    columns = (table[name] for name in ("scope", "kpi", "entity", "value", "unit", "reason"))
    for scope, kpi, entity, value, unit, reason in zip(*columns, strict=True):
        cell = Cell(float(value), str(unit), str(reason))
        found.setdefault((str(scope), str(kpi)), {}).setdefault(str(entity), cell)
    laid = [_panel(title, plan, found) for title, plan in panels.items()]
    return tuple(panel for panel in laid if panel.rows)


def _panel(
    title: str, plan: PanelPlan, found: Mapping[tuple[str, str], Mapping[str, Cell]]
) -> Panel:
    rows: dict[str, dict[str, Cell]] = {}
    shown = []
    for column, kpis in plan.columns.items():
        cells: dict[str, Cell] = {}
        for kpi in kpis:
            for entity, cell in found.get((plan.scope, kpi), {}).items():
                if entity not in cells or (cell.known and not cells[entity].known):
                    cells[entity] = cell
        if all(_never_there(cell) for cell in cells.values()):
            continue
        shown.append(column)
        for entity, cell in cells.items():
            rows.setdefault(entity, {})[column] = cell
    worth = {e: row for e, row in rows.items() if not all(map(_never_there, row.values()))}
    return Panel(title, tuple(shown), worth)


def _never_there(cell: Cell) -> bool:
    return not cell.known and cell.reason.split(";")[0] in NEVER_THERE
