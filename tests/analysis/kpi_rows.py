"""Rows of a table of KPIs, as tests ask for them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from jobmeter_analysis.engine import Analysis


def rows(table: pd.DataFrame, kpi: str, **wanted: str) -> pd.DataFrame:
    """Return the rows of one KPI that have these values in their columns."""
    found = table[table["kpi"] == kpi]
    for column, value in wanted.items():
        found = found[found[column] == value]
    return found


def only(table: pd.DataFrame, kpi: str, **wanted: str) -> Any:
    """Return the one row there is."""
    found = rows(table, kpi, **wanted)
    assert len(found) == 1, (kpi, found)
    return found.iloc[0]


def of(analysis: Analysis, kpi: str, scope: str = "job", entity: str | None = None) -> Any:
    """Return the one row of a scope, or of an entity in it."""
    return only(analysis.table, kpi, scope=scope, **({"entity": entity} if entity else {}))


def holds(row: Any, truth: float) -> bool:
    """Whether the truth lies in the interval of a row, but for the rounding of floats."""
    room = 1e-9 * abs(truth)
    return row["low"] - room <= truth <= row["high"] + room
