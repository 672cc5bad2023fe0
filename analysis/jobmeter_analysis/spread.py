"""How evenly a load lies on nodes, devices or ranks, and who stands out.

For a KPI whose entities are compared: smallest, mean and largest, the coefficient of variation
(standard deviation of the population over the mean), and for each entity its score, the quotient of
its own number and the best one (or the reverse, where less is better): 1 is as good as the best.

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
    Estimate,
    averaged,
    largest_of,
    quotient,
    smallest_of,
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
    seen = [(entity, number) for entity, number in entities if number.available]
    if len(seen) < 2:
        return
    numbers = [number for _, number in seen]
    across = f"{name}_across_{scope}s"
    yield Line(f"{across}_min", kpi.unit, "job", JOB, smallest_of(numbers))
    yield Line(f"{across}_mean", kpi.unit, "job", JOB, averaged(numbers))
    yield Line(f"{across}_max", kpi.unit, "job", JOB, largest_of(numbers))
    mean = float(np.mean([number.value for number in numbers]))
    if mean != 0:
        yield Line(f"{across}_variation_ratio", "ratio", "job", JOB, _variation(numbers, mean))
    best = (max if kpi.spread == "higher" else min)(numbers, key=lambda number: number.value)
    outliers = _outliers([number.value for number in numbers])
    for (entity, number), is_outlier in zip(seen, outliers, strict=True):
        score = quotient(number, best) if kpi.spread == "higher" else quotient(best, number)
        if number is best and score.available:
            score = replace(score, value=1.0, low=1.0, high=1.0)
        score = score.because(OUTLIER) if is_outlier else score
        yield Line(f"{name}_score_ratio", "ratio", scope, entity, score)


def _variation(numbers: Sequence[Estimate], mean: float) -> Estimate:
    """Return the coefficient of variation; no interval unless the numbers are exact."""
    value = float(np.std([number.value for number in numbers])) / abs(mean)
    status = worst(number.status for number in numbers)
    known = status == "exact"
    return Estimate(
        value=value,
        low=value if known else math.nan,
        high=value if known else math.nan,
        status="exact" if known else "estimated",
        coverage=min(number.coverage for number in numbers),
        samples=sum(number.samples for number in numbers),
        sources=frozenset[str]().union(*(number.sources for number in numbers)),
    )


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
