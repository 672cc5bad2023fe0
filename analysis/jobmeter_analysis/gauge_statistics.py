"""Statistics of gauges: means weighted with time, extremes, first and last values, integrals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from jobmeter.paths import Side
from jobmeter.window import Phase, Window
from jobmeter_analysis import gauges
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.estimate import (
    SAMPLE_GAP,
    Estimate,
    Status,
    averaged,
    largest_of,
    smallest_of,
    total,
    unavailable,
    worst,
)
from jobmeter_analysis.gauges import GaugeSamples
from jobmeter_analysis.recording import Values
from jobmeter_analysis.subjects import (
    EDGES,
    RECORDING,
    Scene,
    Subject,
    about,
    has_gap,
    lost,
    sources_of,
)
from jobmeter_analysis.targets import Track

Pair = tuple[Estimate, None]
Gauge = tuple[GaugeSamples, frozenset[int]]
"""Samples of one label set, and which edges are among them."""

COMBINED: dict[str, Callable[[Sequence[Estimate]], Estimate]] = {
    "sum": total,
    "mean": averaged,
    "max": largest_of,
    "min": smallest_of,
}


_OF_THE_SUM = frozenset({"max", "min", "share_above"})
"""Statistics of which that of a sum is not the sum: label sets are added up before them."""


def finish(measures: Sequence[Pair], kpi: Kpi) -> Estimate:
    """Return what several entities are together."""
    parts = [pair[0] for pair in measures]
    return parts[0] if len(parts) == 1 else COMBINED[kpi.combined](parts)


def mean(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the time-weighted mean, over the part of the phase that samples cover."""

    def of(samples: GaugeSamples, window: Window) -> gauges.GaugeMean:
        return gauges.mean(samples, window, subject.target.max_gap_ms, kpi.method)

    return _of_part(subject, kpi, scene, of), None


def integral(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the integral over the phase in seconds; what is not covered widens the interval."""

    def of(samples: GaugeSamples, window: Window) -> gauges.GaugePart:
        return gauges.integral(samples, window, subject.target.max_gap_ms, kpi.method)

    return _of_part(subject, kpi, scene, of), None


def share_above(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the share of the time in which the gauge is above a threshold."""

    def of(samples: GaugeSamples, window: Window) -> gauges.GaugePart:
        limit, gap_ms = float(kpi.above or 0.0), subject.target.max_gap_ms
        return gauges.share_above(samples, window, gap_ms, limit, kpi.method)

    return _of_part(subject, kpi, scene, of), None


def share_of_bits(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the share of the time in which any of some bits of the gauge is set."""

    def of(samples: GaugeSamples, window: Window) -> gauges.GaugePart:
        gap_ms = subject.target.max_gap_ms
        return gauges.share_with_bits(samples, window, gap_ms, int(kpi.bits or 0))

    return _of_part(subject, kpi, scene, of), None


def _of_part(
    subject: Subject,
    kpi: Kpi,
    scene: Scene,
    part_of: Callable[[GaugeSamples, Window], gauges.GaugePart | gauges.GaugeMean],
) -> Estimate:
    def of(samples: GaugeSamples, edges: frozenset[int]) -> Estimate | None:
        window = scene.phase.window
        one = part_of(samples, window)
        if math.isnan(one.value):
            return None
        return Estimate(
            value=one.value,
            low=one.low,
            high=one.high,
            status="estimated",
            coverage=one.covered_ms / 1000 / window.seconds,
            samples=one.samples,
            sources=_sources(one.samples, edges),
        )

    return _of_each(subject, kpi, scene, of, gaps=True)


def largest(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the largest value.

    Samples only bound it from below. A high-water mark kept by the kernel (``high_water``) bounds
    it from above, and is the value itself when it rose between the edges of the phase.
    """
    sampled = _extreme(subject, kpi, scene, gauges.largest, math.inf)
    if kpi.high_water is None or not sampled.available:
        return sampled, None
    return _below_high_water(subject, kpi, scene, sampled), None


def smallest(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the smallest value; samples only bound it from above."""
    return _extreme(subject, kpi, scene, gauges.smallest, -math.inf), None


def _extreme(
    subject: Subject,
    kpi: Kpi,
    scene: Scene,
    extreme: Callable[[GaugeSamples, Window], float],
    beyond: float,
) -> Estimate:
    phase = scene.phase

    def of(samples: GaugeSamples, edges: frozenset[int]) -> Estimate | None:
        value = extreme(samples, phase.window)
        if math.isnan(value):
            return None
        inside = _count_inside(samples, phase)
        return Estimate(
            value=value,
            low=min(value, beyond),
            high=max(value, beyond),
            status="bounded",
            coverage=subject.target.coverage(phase.window, phase.name),
            samples=inside,
            sources=_sources(inside, edges),
        )

    return _of_each(subject, kpi, scene, of, gaps=True)


def _below_high_water(subject: Subject, kpi: Kpi, scene: Scene, sampled: Estimate) -> Estimate:
    window = scene.phase.window
    marks = _gauges(subject, kpi, scene, kpi.high_water)
    if len(marks) != 1:
        return sampled
    samples = marks[0][0]
    at_end = gauges.last(samples, window)
    before = samples.values[samples.times_ms <= window.start_ms]
    closed = bool((samples.times_ms >= window.end_ms).any())
    if math.isnan(at_end):
        return sampled
    if before.size and at_end > before[-1]:
        low = max(sampled.low, at_end)
        high = low if closed else math.inf
        status: Status = "exact" if closed else "bounded"
        return replace(sampled, value=low, low=low, high=high, status=status)
    return replace(sampled, high=max(sampled.low, at_end) if closed else math.inf)


def last(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the last value; exact when the end edge holds it."""
    return _at_end(subject, kpi, scene, "end", gauges.last), None


def first(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the first value; exact when the start edge holds it."""
    return _at_end(subject, kpi, scene, "start", gauges.first), None


def _at_end(
    subject: Subject,
    kpi: Kpi,
    scene: Scene,
    side: Side,
    which: Callable[[GaugeSamples, Window], float],
) -> Estimate:
    phase = scene.phase
    edge = subject.target.boundary(phase.name, side)

    def of(samples: GaugeSamples, edges: frozenset[int]) -> Estimate | None:
        value = which(samples, phase.window)
        if math.isnan(value):
            return None
        known = edge is not None and edge in edges
        return Estimate(
            value=value,
            low=value if known else math.nan,
            high=value if known else math.nan,
            status="exact" if known else "estimated",
            coverage=subject.target.coverage(phase.window, phase.name),
            samples=1,
            sources=frozenset({EDGES if known else RECORDING}),
        )

    return _of_each(subject, kpi, scene, of, gaps=False)


def _of_each(
    subject: Subject,
    kpi: Kpi,
    scene: Scene,
    of: Callable[[GaugeSamples, frozenset[int]], Estimate | None],
    gaps: bool,
) -> Estimate:
    """Put label sets together and say what was not seen."""
    found = [of(samples, edges) for samples, edges in _gauges(subject, kpi, scene)]
    parts = [part for part in found if part is not None]
    reasons = set(lost(subject, scene.phase))
    if not parts:
        there = bool(subject.tracks(str(kpi.metric), kpi))
        return unavailable(SAMPLE_GAP, *reasons) if there else subject.absence()
    if gaps and has_gap(subject, scene.phase):
        reasons.add(SAMPLE_GAP)
    return _across(parts, kpi.across).because(*reasons)


def _across(parts: Sequence[Estimate], how: str) -> Estimate:
    if len(parts) == 1:
        return parts[0]
    if how == "max":
        return largest_of(parts)
    if how == "min":
        return smallest_of(parts)
    share = len(parts) if how == "mean" else 1
    return Estimate(
        value=math.fsum(part.value for part in parts) / share,
        low=sum(part.low for part in parts) / share,
        high=sum(part.high for part in parts) / share,
        status=worst(part.status for part in parts),
        coverage=min(part.coverage for part in parts),
        samples=sum(part.samples for part in parts),
        sources=sources_of(parts),
    )


def _gauges(subject: Subject, kpi: Kpi, scene: Scene, metric: str | None = None) -> list[Gauge]:
    """Return the samples of each label set, ``minus`` taken off, and which edges are in them."""
    name = metric or str(kpi.metric)
    wholes = _joined(subject, kpi, scene, name)
    if kpi.minus is None:
        found = [gauge for gauge in wholes if gauge[0].times_ms.size]
        summed = kpi.across == "sum" and kpi.statistic in _OF_THE_SUM and len(found) > 1
        return [_summed(found)] if summed else found
    parts = _joined(subject, kpi, scene, kpi.minus)
    if len(wholes) != 1 or len(parts) != 1:
        return []
    (whole, edges), (part, _) = wholes[0], parts[0]
    times, here, there = np.intersect1d(whole.times_ms, part.times_ms, return_indices=True)
    values = whole.values[here] - part.values[there]
    return [(GaugeSamples(times, values, whole.ends_ms), edges)] if times.size else []


def _summed(label_sets: Sequence[Gauge]) -> Gauge:
    """Return the sum of label sets of one target; one that is not there adds nothing."""
    times = np.unique(np.concatenate([samples.times_ms for samples, _ in label_sets]))
    values = np.zeros(times.size)
    ends = label_sets[0][0].ends_ms
    for samples, _ in label_sets:
        values[np.searchsorted(times, samples.times_ms)] += samples.values
        ends = np.intersect1d(ends, samples.ends_ms)
    return GaugeSamples(times, values, ends), frozenset[int]().union(*(e for _, e in label_sets))


def _joined(subject: Subject, kpi: Kpi, scene: Scene, metric: str) -> list[Gauge]:
    def compute() -> list[Gauge]:
        return [_samples(subject, track, scene.phase) for track in subject.tracks(metric, kpi)]

    return scene.once("gauges", subject, about(kpi, metric), compute)


def _samples(subject: Subject, track: Track, phase: Phase) -> Gauge:
    """Join recorded samples and edges; an edge of the phase stands at the end it belongs to."""
    ends = {"start": phase.window.start_ms, "end": phase.window.end_ms}
    moments, joined = track.times_ms, track.values
    if track.edges:
        times, values = [], []
        for index, value in track.edges.items():
            one = subject.target.boundaries[index]
            own = one.phase == phase.name
            times.append(ends[one.side] if own else (one.before_ms + one.after_ms) // 2)
            values.append(value)
        all_times = np.concatenate([np.array(times, np.int64), track.times_ms])
        all_values: Values = np.concatenate([np.array(values, float), track.values])
        moments, order = np.unique(all_times, return_index=True)
        joined = all_values[order]
    numbers = ~np.isnan(joined)
    if not numbers.all():
        moments, joined = moments[numbers], joined[numbers]
    return GaugeSamples(moments, joined, track.ends_ms), frozenset(track.edges)


def _count_inside(samples: GaugeSamples, phase: Phase) -> int:
    a, b = phase.window.start_ms, phase.window.end_ms
    left, right = np.searchsorted(samples.times_ms, [a, b + 1])
    return int(right - left)


def _sources(samples: int, edges: frozenset[int]) -> frozenset[str]:
    sources = {EDGES} if edges else set()
    return frozenset(sources | ({RECORDING} if samples > len(edges) or not edges else set()))
