"""The ranks for which all others of a training wait, in words.

A rank is named when it is an outlier (``spread``), on the worse side, in a share of the phase that
the catalogue says makes others wait, and when that share differs from the median by so much that
it matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from jobmeter_analysis.catalogue import Kpi, load_catalogue
from jobmeter_analysis.estimate import OUTLIER

LEAST_SHARE = 0.005
"""Of the phase, whose start belongs to it: by what a rank has to differ to be worth naming."""

MOST_NAMED = 5
"""In one phase; that many at once are no stragglers but two kinds of nodes."""


@dataclass(frozen=True)
class Straggle:
    """Where one rank differs from the others.

    Args:
        phase: In which.
        entity: The rank, as ``rank2@node``.
        doing: What the rank does in that share of the phase, for a sentence.
        share: Its own share of the phase.
        median: That of the rank in the middle.
        ranks: How many have one.
    """

    phase: str
    entity: str
    doing: str
    share: float
    median: float
    ranks: int

    @property
    def away(self) -> float:
        """How much of the phase lies between it and the median."""
        return abs(self.share - self.median)


def straggles(frame: pd.DataFrame) -> Iterator[Straggle]:
    """Yield where a rank of a KPI table differs from the others so that they wait for it."""
    kpis = {name: kpi for group in load_catalogue().values() for name, kpi in group.kpis.items()}
    for name, kpi in kpis.items():
        if kpi.straggler is not None:
            for phase, scores in frame[frame["kpi"] == f"{name}_score_ratio"].groupby("phase"):
                named = scores.loc[scores["reason"].str.split(";").map(_tells), "entity"]
                rows = frame[(frame["kpi"] == name) & (frame["phase"] == phase)]
                shares = rows[rows["entity"].isin(scores["entity"])].set_index("entity")["value"]
                yield from _of_phase(str(phase), kpi, shares, list(named))


def _tells(reasons: list[str]) -> bool:
    return OUTLIER in reasons


def _of_phase(
    phase: str, kpi: Kpi, shares: pd.Series[float], named: list[str]
) -> Iterator[Straggle]:
    median = float(shares.median())
    worse = 1.0 if kpi.spread == "lower" else -1.0
    for entity in named:
        share = float(shares[entity])
        if worse * (share - median) >= LEAST_SHARE:
            yield Straggle(phase, entity, str(kpi.straggler), share, median, len(shares))


def in_words(frame: pd.DataFrame) -> Iterator[str]:
    """Yield a line for each rank that others wait for, in the order of phases, the worst first."""
    found = list(straggles(frame))
    for phase in dict.fromkeys(frame["phase"]):
        of_phase = [one for one in found if one.phase == phase]
        worst = sorted(of_phase, key=lambda one: -one.away)
        entities = list(dict.fromkeys(one.entity for one in worst))
        for entity in entities[:MOST_NAMED]:
            parts = [
                f"{one.share:.0%} of the time {one.doing}, the median of {one.ranks} ranks "
                f"{one.median:.0%}"
                for one in worst
                if one.entity == entity
            ]
            yield f"straggler in phase {phase}: {entity}: {'; '.join(parts)}"
        if len(entities) > MOST_NAMED:
            yield f"and {len(entities) - MOST_NAMED} more ranks in phase {phase}"
