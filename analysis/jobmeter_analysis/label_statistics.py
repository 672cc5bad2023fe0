"""Statistics over the values of a label: how many there are, how evenly a counter lies on them.

The load of a mixture of experts, for instance, is a counter by layer and expert. Within each layer:

* balance: the mean over the experts divided by the largest, 1 when all get the same;
* peak: the reverse, the largest divided by the mean (MaxVio is this less 1);
* variation: the standard deviation (of the population) over the mean.

Several targets may each know some of the experts: what belongs to one label value is added up
first. A label value that nobody exposes is not known, and its zero does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.counter_statistics import sum_up
from jobmeter_analysis.estimate import (
    ZERO_DENOMINATOR,
    Estimate,
    averaged,
    exact,
    largest_of,
    smallest_of,
    total,
    unavailable,
    worst,
)
from jobmeter_analysis.subjects import Scene, Subject
from jobmeter_analysis.targets import Track

Loads = Mapping[tuple[str, ...], Mapping[str, Estimate]]
"""By the values of ``within``, by the value of ``label``: how much the counter moved."""
Measure = Loads | Estimate
_ACROSS: Mapping[str, Callable[[Sequence[Estimate]], Estimate]] = {
    "mean": averaged,
    "max": largest_of,
    "min": smallest_of,
}


def measure_distinct(subject: Subject, kpi: Kpi, scene: Scene) -> Estimate:
    """Return how many values of ``label`` were seen in or near the phase."""
    phase = scene.phase
    near_ms = subject.target.max_gap_ms
    low, high = phase.window.start_ms - near_ms, phase.window.end_ms + near_ms

    boundaries = subject.target.boundaries
    own = {index for index, one in enumerate(boundaries) if one.phase == phase.name}
    near: dict[int, bool] = {}
    """By the identity of times, which most label sets share."""

    def seen(track: Track) -> bool:
        times = track.times_ms
        if id(times) not in near:
            first, behind = times.searchsorted([low, high + 1])
            near[id(times)] = bool(behind > first)
        return near[id(times)] or not own.isdisjoint(track.edges)

    found = [track for track in subject.tracks(str(kpi.metric), kpi) if seen(track)]
    if not found:
        return subject.absence()
    return exact(float(len({track.label(str(kpi.label)) for track in found})), len(found))


def finish_distinct(measures: Sequence[Estimate], kpi: Kpi) -> Estimate:
    """Return how many there are together; two targets never mean the same one."""
    del kpi
    return total(measures)


def measure_loads(subject: Subject, kpi: Kpi, scene: Scene) -> Measure:
    """Return by label value how much the counter moved."""
    metric, label = str(kpi.metric), str(kpi.label)

    def compute() -> Measure:
        tracks: dict[tuple[tuple[str, ...], str], list[Track]] = {}
        for track in subject.tracks(metric, kpi):
            within = tuple(track.label(one) for one in kpi.within)
            tracks.setdefault((within, track.label(label)), []).append(track)
        if not tracks:
            return subject.absence()
        loads: dict[tuple[str, ...], dict[str, Estimate]] = {}
        for (within, value), of_value in tracks.items():
            moved = sum_up(subject, of_value, metric, kpi, scene.phase)
            if moved is not None:
                loads.setdefault(within, {})[value] = moved.increase
        return loads

    return scene.once("loads", subject, (metric, label, kpi.within, kpi.since), compute)


def balance(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return the mean over the largest, 1 when all label values have the same."""
    return _of_each(measures, kpi, _balance)


def peak(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return the largest over the mean, 1 when all label values have the same."""
    return _of_each(measures, kpi, lambda loads: _reverse(_balance(loads)))


def variation(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return the standard deviation over the mean, 0 when all label values have the same."""
    return _of_each(measures, kpi, _variation)


def _of_each(
    measures: Sequence[Measure], kpi: Kpi, of: Callable[[Sequence[Estimate]], Estimate]
) -> Estimate:
    found = [one for one in measures if not isinstance(one, Estimate)]
    if not any(found):
        return total([one for one in measures if isinstance(one, Estimate)])
    together: dict[tuple[str, ...], dict[str, list[Estimate]]] = {}
    for loads in found:
        for within, by_value in loads.items():
            for value, load in by_value.items():
                together.setdefault(within, {}).setdefault(value, []).append(load)
    parts = [
        of([total(parts) for parts in by_value.values()])
        for _, by_value in sorted(together.items())
    ]
    number = _ACROSS[kpi.across](parts)
    lost = {reason for one in measures if isinstance(one, Estimate) for reason in one.reasons}
    # A target that is missing may have had any load, on any of them.
    return replace(number, status="estimated").because(*lost) if lost else number


def _balance(loads: Sequence[Estimate]) -> Estimate:
    """Return the mean over the largest, with bounds that hold for any loads in theirs.

    Were the largest ``m`` at its upper and all others at their lower bounds, it would be smallest.
    The largest is at least ``floor``, the largest lower bound; it would be largest if nothing were
    above that.
    """
    values, low, high = (_column(loads, which) for which in ("value", "low", "high"))
    if not values.max(initial=0.0) > 0:
        return _nothing(loads)
    count, floor = values.size, float(low.max())
    candidates = high[high > 0]
    others = float(low.sum()) - low[high > 0]
    smallest = np.where(np.isinf(candidates), 1.0, 1 + others / candidates) / count
    largest = float(np.minimum(high, floor).sum()) / (count * floor) if floor > 0 else 1.0
    return _joined(
        loads, float(values.mean() / values.max()), float(smallest.min()), min(1.0, largest)
    )


def _reverse(number: Estimate) -> Estimate:
    if not number.available:
        return number
    return replace(number, value=1 / number.value, low=1 / number.high, high=1 / number.low)


def _variation(loads: Sequence[Estimate]) -> Estimate:
    values = _column(loads, "value")
    if not values.mean() > 0:
        return _nothing(loads)
    number = float(values.std() / values.mean())
    known = all(load.status == "exact" for load in loads)
    return _joined(loads, number, *((number, number) if known else (math.nan, math.nan)))


def _column(loads: Iterable[Estimate], which: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(load, which) for load in loads if load.available], dtype=np.float64)


def _nothing(loads: Sequence[Estimate]) -> Estimate:
    reasons = frozenset[str]().union(*(load.reasons for load in loads))
    return unavailable(*reasons, *((ZERO_DENOMINATOR,) if any(x.available for x in loads) else ()))


def _joined(loads: Sequence[Estimate], value: float, low: float, high: float) -> Estimate:
    seen = [load for load in loads if load.available]
    status = worst(load.status for load in seen)
    if math.isnan(low) or len(seen) < len(loads):
        status = "estimated"
    return Estimate(
        value=value,
        low=low,
        high=high,
        status=status,
        coverage=min(load.coverage for load in seen),
        samples=sum(load.samples for load in seen),
        sources=frozenset[str]().union(*(load.sources for load in seen)),
        reasons=frozenset[str]().union(*(load.reasons for load in loads)),
    )
