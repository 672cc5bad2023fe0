"""The statistics that a KPI may name: from one target and one phase to one number.

Each is a function ``(target, kpi, phase) -> Estimate``. Statistics know nothing of KPIs, nodes or
tables, and the engine knows no metric by name: what belongs together stands in the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobmeter.window import Phase
from jobmeter_analysis import gauges
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.counters import Increases, increases
from jobmeter_analysis.estimate import (
    BUCKET_OVERFLOW,
    COUNTER_RESET,
    FOREIGN_TARGET,
    METRIC_ABSENT,
    MONITORING_INCLUDED,
    SAMPLE_GAP,
    SINGLE_BUCKET,
    TARGET_LOST,
    TARGET_NEVER_UP,
    WINDOW_NOT_BRACKETED,
    ZERO_DENOMINATOR,
    Estimate,
    Status,
    difference,
    quotient,
    unavailable,
    worst,
)
from jobmeter_analysis.gauges import GaugeSamples
from jobmeter_analysis.histograms import Masses, added, bucket_counts, quantile
from jobmeter_analysis.readings import Block, Seen, Since, blocks, creations, seen_in
from jobmeter_analysis.recording import Values
from jobmeter_analysis.targets import Target, Track

RECORDING = "recording"
EDGES = "edges"

Statistic = Callable[[Target, Kpi, Phase], Estimate]


def absence(target: Target) -> Estimate:
    """Return why a metric of ``target`` is not there."""
    if target.foreign:
        return unavailable(FOREIGN_TARGET)
    return unavailable(METRIC_ABSENT if target.ever_up else TARGET_NEVER_UP)


def chosen(target: Target, metric: str, kpi: Kpi) -> tuple[Track, ...]:
    """Return the label sets of ``metric`` that ``kpi`` is about; none of a foreign target."""
    if target.foreign:
        return ()
    tracks = target.tracks.get(metric, ())
    return tuple(
        track
        for track in tracks
        if all(track.label(label) in values for label, values in kpi.only.items())
        and not any(track.label(label) in values for label, values in kpi.without.items())
    )


# counters


@dataclass(frozen=True)
class Moved:
    """How much some counters of one target moved, each on its own, and how that is known."""

    increase: Estimate
    rate: Estimate


def increase(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return the increase of all label sets, less that of ``minus``."""
    return _less(target, kpi, phase, lambda moved: moved.increase)


def rate(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return the increase per second, less that of ``minus``.

    Payload counters: per second of the phase. Counters of the stack, which also move while edges
    are fetched: per second between the two reads, with the shortest and longest time that may be.
    """
    return _less(target, kpi, phase, lambda moved: moved.rate)


def _less(target: Target, kpi: Kpi, phase: Phase, of: Callable[[Moved], Estimate]) -> Estimate:
    whole = of(
        moved(target, chosen(target, str(kpi.metric), kpi), str(kpi.metric), kpi.since, phase)
    )
    if kpi.minus is None or not whole.available:
        return whole
    part = of(moved(target, chosen(target, kpi.minus, kpi), kpi.minus, kpi.since, phase))
    if not part.available:
        return whole.because(MONITORING_INCLUDED)
    return difference(whole, part)


def busy_share(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return the share of the increase of all label sets that is not in those of ``without``.

    For counters that together grow evenly with time, as CPU seconds of all modes do. With both
    edges the share is known between the two reads; what may have been different in the
    milliseconds around the phase widens the interval.
    """
    metric = str(kpi.metric)
    everything = target.tracks.get(metric, ()) if not target.foreign else ()
    all_moved = _sum_up(target, everything, metric, kpi.since, phase)
    busy = _sum_up(target, chosen(target, metric, kpi), metric, kpi.since, phase)
    if all_moved is None or busy is None:
        return absence(target)
    if all_moved.enclosing <= 0:
        return unavailable(ZERO_DENOMINATOR, *all_moved.reasons)
    if not (all_moved.between_edges and busy.between_edges):
        share = quotient(busy.increase, all_moved.increase)
        return (
            Estimate(**{**vars(share), "high": min(1.0, share.high)}) if share.available else share
        )
    share_between = busy.enclosing / all_moved.enclosing
    outside = max(0.0, 1 - phase.window.seconds / all_moved.longest_s)
    low = max(0.0, (share_between - outside) / (1 - outside))
    high = min(1.0, share_between / (1 - outside))
    status: Status = "estimated" if COUNTER_RESET in all_moved.reasons else "bounded"
    return Estimate(
        value=min(max(share_between, low), high),
        low=low,
        high=high,
        status=status,
        coverage=1.0,
        samples=all_moved.increase.samples,
        sources=all_moved.increase.sources,
        reasons=all_moved.reasons,
    )


def moved(
    target: Target, tracks: Sequence[Track], metric: str, since: Since, phase: Phase
) -> Moved:
    """Return increase and rate of the sum over ``tracks``."""
    summed = _sum_up(target, tracks, metric, since, phase)
    if summed is None:
        absent = absence(target)
        return Moved(absent, absent)
    return Moved(summed.increase, _rate(target, summed, phase))


@dataclass(frozen=True)
class _Sum:
    """The sum of what several counters moved."""

    increase: Estimate
    enclosing: float
    widening: float
    shortest_s: float
    longest_s: float
    between_edges: bool

    @property
    def reasons(self) -> frozenset[str]:
        return self.increase.reasons


def _sum_up(
    target: Target, tracks: Iterable[Track], metric: str, since: Since, phase: Phase
) -> _Sum | None:
    found = blocks(tracks, creations(target, metric))
    seen = [(block, seen_in(phase, block, target, since)) for block in found]
    parts = [(block, one, increases(one.readings, phase.window)) for block, one in seen if one]
    if not parts:
        return None
    grown = [part for part in parts if _touches(part[1], part[2], phase)]
    if not grown:
        gone = unavailable(WINDOW_NOT_BRACKETED, *_lost(target, phase))
        return _Sum(gone, 0.0, 0.0, phase.window.seconds, phase.window.seconds, False)
    between = all(one.between_edges for _, one, _ in grown)
    stack_edges = between and target.kind == "stack"
    enclosing = math.fsum(float(up.enclosing.sum()) for _, _, up in grown)
    low = math.fsum(float(up.low.sum()) for _, _, up in grown)
    high = math.fsum(float(up.high.sum()) for _, _, up in grown)
    value = math.fsum(float(up.value.sum()) for _, _, up in grown)
    estimate = Estimate(
        value=enclosing if stack_edges else value,
        low=low,
        high=high,
        status=_status([up for _, _, up in grown], low, high),
        coverage=_coverage([up for _, _, up in grown], phase),
        samples=sum(up.readings * block.values.shape[1] for block, _, up in grown),
        sources=_sources([(one, up) for _, one, up in grown]),
        reasons=_reasons(target, [(one, up) for _, one, up in grown], phase),
    )
    return _Sum(
        estimate,
        enclosing,
        high - enclosing if stack_edges else 0.0,
        min(one.shortest_s for _, one, _ in grown),
        max(one.longest_s for _, one, _ in grown),
        between,
    )


def _rate(target: Target, summed: _Sum, phase: Phase) -> Estimate:
    total = summed.increase
    if not total.available:
        return total
    seconds = phase.window.seconds
    if target.kind == "payload" or not summed.between_edges:
        return Estimate(
            **{
                **vars(total),
                "value": total.value / seconds,
                "low": total.low / seconds,
                "high": total.high / seconds,
            }
        )
    low = summed.enclosing / summed.longest_s
    most = summed.enclosing + summed.widening
    high = most / summed.shortest_s if summed.shortest_s > 0 else math.inf
    middle = summed.enclosing / ((summed.shortest_s + summed.longest_s) / 2)
    status: Status = "estimated" if COUNTER_RESET in total.reasons else "bounded"
    if low == high:
        status = total.status
    return Estimate(**{**vars(total), "value": middle, "low": low, "high": high, "status": status})


def _touches(seen: Seen, up: Increases, phase: Phase) -> bool:
    """Whether anything is known of the window: readings inside, or on both sides of it."""
    if up.opened and up.closed:
        return True
    first, last = seen.readings.earliest_ms, seen.readings.latest_ms
    inside = (last > phase.window.start_ms) & (first < phase.window.end_ms)
    return bool(inside.any())


def _status(ups: Sequence[Increases], low: float, high: float) -> Status:
    if any(up.resets.any() for up in ups):
        return "estimated"
    return "exact" if low == high else "bounded"


def _coverage(ups: Sequence[Increases], phase: Phase) -> float:
    columns = [(up.covered_ms, up.value.size) for up in ups]
    weight = sum(size for _, size in columns)
    covered = sum(part * size for part, size in columns)
    return covered / weight / 1000 / phase.window.seconds


def _sources(parts: Sequence[tuple[Seen, Increases]]) -> frozenset[str]:
    sources: set[str] = set()
    for one, up in parts:
        if one.edges:
            sources.add(EDGES)
        exact_by_edges = one.between_edges and not up.resets.any()
        if up.readings > one.edges and not (exact_by_edges and bool((up.low == up.high).all())):
            sources.add(RECORDING)
    return frozenset(sources)


def _reasons(
    target: Target, parts: Sequence[tuple[Seen, Increases]], phase: Phase
) -> frozenset[str]:
    reasons: set[str] = set()
    if any(not (up.opened and up.closed) for _, up in parts):
        reasons.add(WINDOW_NOT_BRACKETED)
    if any(not up.closed for _, up in parts):
        reasons.update(_lost(target, phase))
    if any(up.resets.any() for _, up in parts):
        reasons.add(COUNTER_RESET)
    known = all(bool((up.low == up.high).all()) for _, up in parts)
    if not known and not all(one.between_edges for one, _ in parts) and _gap(target, phase):
        reasons.add(SAMPLE_GAP)
    return frozenset(reasons)


def _lost(target: Target, phase: Phase) -> tuple[str, ...]:
    return (TARGET_LOST,) if target.lost(phase.window, phase.name) else ()


def _gap(target: Target, phase: Phase) -> bool:
    times = target.answers(phase.window, phase.name)
    return gauges.largest_gap_ms(times, phase.window) > target.max_gap_ms


# gauges


def mean(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return the time-weighted mean, over the part of the phase that samples cover."""
    parts = []
    for samples, edges in _gauges(target, kpi, phase):
        one = gauges.mean(samples, phase.window, target.max_gap_ms, kpi.method)
        if math.isnan(one.value):
            continue
        parts.append(
            Estimate(
                value=one.value,
                low=one.value - one.error,
                high=one.value + one.error,
                status="estimated",
                coverage=one.covered_ms / 1000 / phase.window.seconds,
                samples=one.samples,
                sources=_gauge_sources(one.samples, edges),
            )
        )
    return _gauge_result(target, kpi, phase, parts, gaps=True)


def largest(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return the largest value.

    Samples only bound it from below. A high-water mark kept by the kernel (``high_water``) bounds
    it from above, and is the value itself when it rose between the edges of the phase.
    """
    parts = []
    for samples, edges in _gauges(target, kpi, phase):
        top = gauges.largest(samples, phase.window)
        if math.isnan(top):
            continue
        inside = _count_inside(samples, phase)
        parts.append(
            Estimate(
                value=top,
                low=top,
                high=math.inf,
                status="bounded",
                coverage=target.coverage(phase.window, phase.name),
                samples=inside,
                sources=_gauge_sources(inside, edges),
            )
        )
    sampled = _gauge_result(target, kpi, phase, parts, gaps=True)
    if kpi.high_water is None or not sampled.available:
        return sampled
    return _below_high_water(target, kpi, phase, sampled)


def _below_high_water(target: Target, kpi: Kpi, phase: Phase, sampled: Estimate) -> Estimate:
    marks = _gauges(target, kpi, phase, kpi.high_water)
    if len(marks) != 1:
        return sampled
    samples = marks[0][0]
    at_end = gauges.last(samples, phase.window)
    before = samples.values[samples.times_ms <= phase.window.start_ms]
    closed = bool((samples.times_ms >= phase.window.end_ms).any())
    if math.isnan(at_end):
        return sampled
    if before.size and at_end > before[-1]:
        low = max(sampled.low, at_end)
        high = low if closed else math.inf
        status: Status = "exact" if closed else "bounded"
        return Estimate(
            **{**vars(sampled), "value": low, "low": low, "high": high, "status": status}
        )
    high = max(sampled.low, at_end) if closed else math.inf
    return Estimate(**{**vars(sampled), "high": high})


def last(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return the last value; exact when the end edge holds it."""
    parts = []
    end = target.boundary(phase.name, "end")
    for samples, edges in _gauges(target, kpi, phase):
        value = gauges.last(samples, phase.window)
        if math.isnan(value):
            continue
        known = end is not None and end in edges
        parts.append(
            Estimate(
                value=value,
                low=value if known else math.nan,
                high=value if known else math.nan,
                status="exact" if known else "estimated",
                coverage=target.coverage(phase.window, phase.name),
                samples=1,
                sources=frozenset({EDGES if known else RECORDING}),
            )
        )
    return _gauge_result(target, kpi, phase, parts, gaps=False)


def _gauges(
    target: Target, kpi: Kpi, phase: Phase, metric: str | None = None
) -> list[tuple[GaugeSamples, frozenset[int]]]:
    """Return the samples of each label set, ``minus`` taken off, and which edges are in them."""
    wholes = [
        _gauge_samples(target, track, phase)
        for track in chosen(target, metric or str(kpi.metric), kpi)
    ]
    if kpi.minus is None:
        return [(samples, edges) for samples, edges in wholes if samples.times_ms.size]
    parts = [_gauge_samples(target, track, phase) for track in chosen(target, kpi.minus, kpi)]
    if len(wholes) != 1 or len(parts) != 1:
        return []
    (whole, edges), (part, _) = wholes[0], parts[0]
    times, here, there = np.intersect1d(whole.times_ms, part.times_ms, return_indices=True)
    values = whole.values[here] - part.values[there]
    return [(GaugeSamples(times, values, whole.ends_ms), edges)] if times.size else []


def _gauge_samples(
    target: Target, track: Track, phase: Phase
) -> tuple[GaugeSamples, frozenset[int]]:
    """Join recorded samples and edges; an edge of the phase stands at the end it belongs to."""
    ends = {"start": phase.window.start_ms, "end": phase.window.end_ms}
    times, values = [], []
    for index, value in track.edges.items():
        one = target.boundaries[index]
        own = one.phase == phase.name
        times.append(ends[one.side] if own else (one.before_ms + one.after_ms) // 2)
        values.append(value)
    moments = np.concatenate([np.array(times, np.int64), track.times_ms])
    joined: Values = np.concatenate([np.array(values, float), track.values])
    moments, first = np.unique(moments, return_index=True)
    joined = joined[first]
    numbers = ~np.isnan(joined)
    samples = GaugeSamples(moments[numbers], joined[numbers], track.ends_ms)
    return samples, frozenset(track.edges)


def _count_inside(samples: GaugeSamples, phase: Phase) -> int:
    a, b = phase.window.start_ms, phase.window.end_ms
    return int(((samples.times_ms >= a) & (samples.times_ms <= b)).sum())


def _gauge_sources(samples: int, edges: frozenset[int]) -> frozenset[str]:
    sources = {EDGES} if edges else set()
    return frozenset(sources | ({RECORDING} if samples > len(edges) or not edges else set()))


def _gauge_result(
    target: Target, kpi: Kpi, phase: Phase, parts: Sequence[Estimate], gaps: bool
) -> Estimate:
    """Put label sets together and say what was not seen."""
    if not parts:
        metric_there = bool(chosen(target, str(kpi.metric), kpi))
        return unavailable(SAMPLE_GAP, *_lost(target, phase)) if metric_there else absence(target)
    together = _across(parts, kpi.across)
    reasons = set(_lost(target, phase))
    if gaps and _gap(target, phase):
        reasons.add(SAMPLE_GAP)
    return together.because(*reasons)


def _across(parts: Sequence[Estimate], how: str) -> Estimate:
    if len(parts) == 1:
        return parts[0]
    share = len(parts) if how == "mean" else 1
    return Estimate(
        value=math.fsum(part.value for part in parts) / share,
        low=sum(part.low for part in parts) / share,
        high=sum(part.high for part in parts) / share,
        status=worst(part.status for part in parts),
        coverage=min(part.coverage for part in parts),
        samples=sum(part.samples for part in parts),
        sources=frozenset[str]().union(*(part.sources for part in parts)),
    )


# histograms


@dataclass(frozen=True)
class _Observed:
    """What the histograms of one target got in a phase: masses, and the sum of observations."""

    masses: Masses
    total: Estimate
    count: Estimate


def observations(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return how many observations the histogram got."""
    observed = _observed(target, kpi, phase)
    return observed.count if isinstance(observed, _Observed) else observed


def observed_mean(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return the mean of the observations: increase of the sum over increase of the count."""
    observed = _observed(target, kpi, phase)
    if not isinstance(observed, _Observed):
        return observed
    result = quotient(observed.total, observed.count)
    if not result.available:
        return result
    return Estimate(**{**vars(result), "samples": observed.count.samples})


def observed_quantile(target: Target, kpi: Kpi, phase: Phase) -> Estimate:
    """Return a quantile of the observations with the bracket in which it lies for certain."""
    observed = _observed(target, kpi, phase)
    if not isinstance(observed, _Observed):
        return observed
    found = quantile(observed.masses, kpi.quantile or 0.5)
    count = observed.count
    if found is None:
        return unavailable(ZERO_DENOMINATOR, *count.reasons)
    reasons = {
        *count.reasons,
        *((BUCKET_OVERFLOW,) if found.overflow else ()),
        *((SINGLE_BUCKET,) if found.single_bucket else ()),
    }
    status: Status = "estimated" if count.status == "estimated" else "bounded"
    return Estimate(
        value=found.value,
        low=found.low,
        high=found.high,
        status=status,
        coverage=count.coverage,
        samples=count.samples,
        sources=count.sources,
        reasons=frozenset(reasons),
    )


def _observed(target: Target, kpi: Kpi, phase: Phase) -> _Observed | Estimate:
    """Return what was observed, summed over label sets, or why nothing is known."""
    base = str(kpi.metric)
    families: dict[frozenset[tuple[str, str]], dict[float, Track]] = {}
    for track in chosen(target, f"{base}_bucket", kpi):
        edge = track.label("le")
        if edge:
            rest = frozenset(pair for pair in track.labels if pair[0] != "le")
            families.setdefault(rest, {})[float(edge)] = track
    sums = {track.labels: track for track in chosen(target, f"{base}_sum", kpi)}
    born = creations(target, base)
    parts = []
    for rest, buckets in families.items():
        edges, block = _histogram_block(buckets, sums.get(rest), born.get(rest))
        seen = seen_in(phase, block, target, kpi.since)
        if seen is None:
            continue
        up = increases(seen.readings, phase.window, together=edges.size)
        if _touches(seen, up, phase):
            parts.append((edges, seen, up))
    if not parts:
        if families:
            return unavailable(WINDOW_NOT_BRACKETED, *_lost(target, phase))
        return absence(target)
    return _put_together(target, phase, parts)


def _put_together(
    target: Target, phase: Phase, parts: Sequence[tuple[Values, Seen, Increases]]
) -> _Observed:
    masses = added(
        [
            Masses(edges, up.value[: edges.size], up.low[: edges.size], up.high[: edges.size])
            for edges, _, up in parts
        ]
    )
    ups = [up for _, _, up in parts]
    seen = [(one, up) for _, one, up in parts]

    def summed(value: float, low: float, high: float) -> Estimate:
        return Estimate(
            value=value,
            low=low,
            high=high,
            status=_status(ups, low, high),
            coverage=_coverage(ups, phase),
            samples=sum(up.readings for up in ups),
            sources=_sources(seen),
            reasons=_reasons(target, seen, phase),
        )

    count = summed(float(masses.value.sum()), float(masses.low.sum()), float(masses.high.sum()))
    total = summed(
        math.fsum(float(up.value[-1]) for up in ups),
        math.fsum(float(up.low[-1]) for up in ups),
        math.fsum(float(up.high[-1]) for up in ups),
    )
    if math.isnan(total.value):
        total = unavailable(METRIC_ABSENT)
    return _Observed(masses, total, count)


def _histogram_block(
    buckets: Mapping[float, Track], of_sum: Track | None, created_ms: float | None
) -> tuple[Values, Block]:
    """Return upper edges and a block of bucket masses, the sum of observations as last column."""
    tracks = [*buckets.values(), *([of_sum] if of_sum is not None else [])]
    times = buckets[max(buckets)].times_ms
    if any(not np.array_equal(track.times_ms, times) for track in tracks):
        times = np.unique(np.concatenate([track.times_ms for track in buckets.values()]))
    edges, counts = bucket_counts({le: _at(track, times) for le, track in buckets.items()})
    column = np.full(times.size, np.nan) if of_sum is None else _at(of_sum, times)
    at_edges: dict[int, Values] = {}
    for index in sorted({index for track in buckets.values() for index in track.edges}):
        _, row = bucket_counts(
            {le: np.array([track.edges.get(index, np.nan)]) for le, track in buckets.items()}
        )
        observed = np.nan if of_sum is None else of_sum.edges.get(index, np.nan)
        at_edges[index] = np.append(row[0], observed)
    return edges, Block(times, np.column_stack([counts, column]), at_edges, created_ms)


def _at(track: Track, times: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Values:
    """Return the values of ``track`` at ``times``, NaN where it has none."""
    values = np.full(times.size, np.nan)
    _, here, there = np.intersect1d(times, track.times_ms, return_indices=True)
    values[here] = track.values[there]
    return values


STATISTICS: Mapping[str, Statistic] = {
    "increase": increase,
    "rate": rate,
    "busy_share": busy_share,
    "mean": mean,
    "max": largest,
    "last": last,
    "observations": observations,
    "observed_mean": observed_mean,
    "observed_quantile": observed_quantile,
}
