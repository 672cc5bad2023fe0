"""How evenly a load lies on nodes, devices or ranks, and who stands out.

For a KPI whose entities are compared: smallest, mean and largest, the coefficient of variation
(standard deviation of the population over the mean), and for each entity its score, the quotient of
its own number and the best one (or the reverse, where less is better): 1 is as good as the best.
Entities without a number have no score, and leave open what the smallest, mean and largest are.

An entity is an outlier when it lies further from the median than 3.5 times the median absolute
deviation (scaled by 1.4826 to be a standard deviation of normal data; Iglewicz and Hoaglin 1993)
and further than a tenth of the median. With fewer than three entities nobody is one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jobmeter.window import JOB
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.estimate import (
    OUTLIER,
    ZERO_DENOMINATOR,
    Estimate,
    Status,
    averaged,
    largest_of,
    smallest_of,
    unavailable,
    worst,
)

FEWEST_FOR_OUTLIERS = 3
DEVIATIONS = 3.5
TO_STANDARD_DEVIATION = 1.4826
LEAST_SHARE_OF_MEDIAN = 0.1


@dataclass(frozen=True)
class Line:
    """One row of a comparison."""

    kpi: str
    unit: str
    scope: str
    entity: str
    number: Estimate


def spread(
    name: str, kpi: Kpi, scope: str, entities: Sequence[tuple[str, Estimate]]
) -> Iterator[Line]:
    """Yield the comparison of ``entities`` in KPI ``name``; nothing when fewer than two have it."""
    every = [number for _, number in entities]
    seen = [(entity, number) for entity, number in entities if number.available]
    if len(seen) < 2:
        return
    across = f"{name}_across_{scope}s"
    yield Line(f"{across}_min", kpi.unit, "job", JOB, smallest_of(every))
    yield Line(f"{across}_mean", kpi.unit, "job", JOB, averaged(every))
    yield Line(f"{across}_max", kpi.unit, "job", JOB, largest_of(every))
    yield Line(f"{across}_variation_ratio", "ratio", "job", JOB, _variation(every))
    numbers = [number for _, number in seen]
    scores = _scores(numbers, higher=kpi.spread == "higher", missing=len(seen) < len(every))
    outliers = _outliers([number.value for number in numbers])
    for (entity, _), score, is_outlier in zip(seen, scores, outliers, strict=True):
        line = score.because(OUTLIER) if is_outlier else score
        yield Line(f"{name}_score_ratio", "ratio", scope, entity, line)


def _variation(every: Sequence[Estimate]) -> Estimate:
    """Return the coefficient of variation; no interval unless the numbers are exact."""
    numbers = [number for number in every if number.available]
    values = np.array([number.value for number in numbers])
    mean = averaged(every)
    if mean.value == 0:
        return unavailable(ZERO_DENOMINATOR, *mean.reasons)
    value = float(values.std()) / abs(mean.value)
    known = mean.status == "exact"
    return replace(
        mean,
        value=value,
        low=value if known else math.nan,
        high=value if known else math.nan,
        status="exact" if known else "estimated",
    )


def _scores(numbers: Sequence[Estimate], higher: bool, missing: bool) -> Iterator[Estimate]:
    """Yield for each number how near it comes to the best.

    The more an entity has, and the less the others have, the higher its score: so it is least when
    its own number lies at one end of its interval and those of all others at the other.

    Args:
        numbers: All that there are.
        higher: Whether more is better.
        missing: Whether there are others without a number, of which any may be the best.
    """
    status: Status = worst(number.status for number in numbers)
    status = "estimated" if missing else status
    values = _rivals([number.value for number in numbers], higher)
    lows = _rivals([number.low for number in numbers], higher)
    highs = _rivals([number.high for number in numbers], higher)
    for number, value, low, high in zip(numbers, values, lows, highs, strict=True):
        ends = [_score(number.low, high, higher), _score(number.high, low, higher)]
        yield replace(
            number,
            value=_score(number.value, value, higher),
            low=min(ends) if not any(map(math.isnan, ends)) else math.nan,
            high=max(ends) if not any(map(math.isnan, ends)) else math.nan,
            status=status,
        )


def _score(own: float, rival: float, higher: bool) -> float:
    """Return what ``own`` is of the best of the two, or the reverse; NaN if one is not known.

    >>> _score(1.0, 2.0, higher=True), _score(1.0, 2.0, higher=False), _score(0.0, 0.0, higher=True)
    (0.5, 1.0, 1.0)
    """
    if math.isnan(own) or math.isnan(rival):
        return math.nan
    if (own >= rival) if higher else (own <= rival):
        return 1.0
    return own / rival if higher else rival / own


def _rivals(values: Sequence[float], higher: bool) -> list[float]:
    """Return for each value the best of the others; NaN when one of them is not known.

    >>> _rivals([1.0, 3.0, 2.0], higher=True)
    [3.0, 2.0, 3.0]
    """
    first, second = (np.sort(values)[::-1] if higher else np.sort(values))[:2]
    if np.isnan(values).any():
        return [math.nan] * len(values)
    place = values.index(first)
    return [float(second if at == place else first) for at in range(len(values))]


def _outliers(values: Sequence[float]) -> list[bool]:
    """Return which values stand out.

    >>> _outliers([1.0, 1.01, 0.99, 0.6]), _outliers([1.0, 0.1])
    ([False, False, False, True], [False, False])
    """
    if len(values) < FEWEST_FOR_OUTLIERS:
        return [False] * len(values)
    away = np.abs(np.asarray(values) - np.median(values))
    deviation = TO_STANDARD_DEVIATION * float(np.median(away))
    limit = max(DEVIATIONS * deviation, LEAST_SHARE_OF_MEDIAN * abs(float(np.median(values))))
    return [bool(one) for one in away > limit]
