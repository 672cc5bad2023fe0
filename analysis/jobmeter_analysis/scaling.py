"""How well a workload scales: the same KPI of several runs of different size.

* strong: the same work on n times the devices takes 1/n of the time, ``T1 / (n Tn)``;
* weak: n times the devices do n times the work in the same time, ``rate_n / (n rate_1)``.

Both are the speedup over the smallest run divided by how much larger the run is, and 1 is perfect.
Of a rate (``tokens_per_second``) the speedup is the rate over that of the smallest run, of a time
(``phase_seconds``) the reverse. Which of the two it is follows from how the work was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from jobmeter.errors import RunFolderError
from jobmeter.window import JOB
from jobmeter_analysis.estimate import Estimate, Status, exact, quotient, scaled

COLUMNS = (
    *("size", "value", "value_low", "value_high"),
    *("speedup", "speedup_low", "speedup_high"),
    *("efficiency_ratio", "efficiency_ratio_low", "efficiency_ratio_high"),
    *("status", "runs"),
)


def scaling(
    tables: Sequence[tuple[float, pd.DataFrame]],
    kpi: str,
    *,
    phase: str | None = None,
    entity: str = JOB,
    better: Literal["higher", "lower"] = "higher",
) -> pd.DataFrame:
    """Return speedup and efficiency of every size, one row each, the smallest size first.

    Of several runs of one size the middle one counts. Bounds hold when those of the KPI do.

    Args:
        tables: How many devices (or nodes) a run had, and its table of KPIs.
        kpi: A throughput or a time, of the whole job.
        phase: Which phase; needed where the KPI was computed for several.
        entity: Whose row, by default that of the whole job.
        better: ``higher`` for a rate, ``lower`` for a time.

    Raises:
        RunFolderError: a run does not have exactly one such row, with a number.
    """
    runs: dict[float, list[Estimate]] = {}
    for size, table in tables:
        if not size > 0:
            raise RunFolderError(f"a run of {size} devices cannot be compared; sizes are positive")
        runs.setdefault(float(size), []).append(_number(table, kpi, phase, entity))
    smallest = min(runs, default=1.0)
    rows = []
    for size in sorted(runs):
        base, number = _middle(runs[smallest]), _middle(runs[size])
        if size == smallest:
            speedup = exact(1.0)
        else:
            speedup = quotient(number, base) if better == "higher" else quotient(base, number)
        efficiency = scaled(speedup, smallest / size)
        row: Mapping[str, object] = {
            "size": size,
            **_named("value", number),
            **_named("speedup", speedup),
            **_named("efficiency_ratio", efficiency),
            "status": number.status if size == smallest else speedup.status,
            "runs": len(runs[size]),
        }
        rows.append(row)
    frame: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame


def _number(table: pd.DataFrame, kpi: str, phase: str | None, entity: str) -> Estimate:
    found = table[(table["kpi"] == kpi) & (table["entity"] == entity)]
    if phase is not None:
        found = found[found["phase"] == phase]
    if len(found) != 1:
        phases = ", ".join(sorted(set(found["phase"])))
        hint = f"it has phases {phases}; choose one" if phases else "look at the table of the run"
        raise RunFolderError(f"{len(found)} rows {kpi!r} of {entity!r} in a run; {hint}")
    row = found.iloc[0]
    if row["status"] == "unavailable":
        raise RunFolderError(f"{kpi!r} of {entity!r} has no number in a run: {row['reason']}")
    status: Status = row["status"]
    return Estimate(
        value=float(row["value"]),
        low=float(row["low"]),
        high=float(row["high"]),
        status=status,
        coverage=float(row["coverage"]),
        samples=int(row["samples"]),
        sources=frozenset(),
    )


def _middle(numbers: Sequence[Estimate]) -> Estimate:
    """Return the median of several runs, of two in the middle the lower one."""
    return sorted(numbers, key=lambda number: number.value)[(len(numbers) - 1) // 2]


def _named(name: str, number: Estimate) -> dict[str, float]:
    return {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
