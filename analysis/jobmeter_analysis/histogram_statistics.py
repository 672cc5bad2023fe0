"""Statistics of classic histograms: count, sum, mean, quantiles with their brackets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jobmeter.window import Phase
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.counter_statistics import (
    counter_reasons,
    counter_sources,
    coverage_of,
    status_of,
    touches,
)
from jobmeter_analysis.counters import Increases, increases
from jobmeter_analysis.estimate import (
    BUCKET_OVERFLOW,
    FEW_OBSERVATIONS,
    METRIC_ABSENT,
    SINGLE_BUCKET,
    WINDOW_NOT_BRACKETED,
    ZERO_DENOMINATOR,
    Estimate,
    Status,
    difference,
    quotient,
    scaled,
    total,
    unavailable,
)
from jobmeter_analysis.histograms import (
    Amount,
    Masses,
    added,
    bucket_counts,
    likely_quantile,
    quantile,
    without_lowest,
)
from jobmeter_analysis.readings import Block, Seen, creations, seen_in
from jobmeter_analysis.recording import Times, Values
from jobmeter_analysis.subjects import Scene, Subject, about, lost
from jobmeter_analysis.targets import Track


@dataclass(frozen=True)
class Observed:
    """What histograms got in a phase: masses by bucket, the sum and the number of observations.

    Args:
        masses: By bucket.
        total: Sum of the observations.
        count: Their number.
        seconds: Of the phase.
    """

    masses: Masses
    total: Estimate
    count: Estimate
    seconds: float


Measure = Observed | Estimate
"""What was observed, or why nothing is known."""


def measure(subject: Subject, kpi: Kpi, scene: Scene) -> Measure:
    """Return what the histogram got, its label sets put together, known zeros left out."""
    seen = _observed(subject, str(kpi.metric), kpi, scene)
    if kpi.zeros is None or isinstance(seen, Estimate):
        return seen
    plain = kpi.model_copy(update={"zeros": None})
    counted = _observed(subject, kpi.zeros.metric, plain, scene)
    if isinstance(counted, Estimate):
        return unavailable(*counted.reasons)
    return _without(seen, _up_to(counted, kpi.zeros.up_to))


def _up_to(observed: Observed, edge: float) -> Estimate:
    """Return how many observations were at most ``edge``, which must be an edge of the buckets."""
    masses = observed.masses
    inside = masses.edges <= edge * (1 + 1e-9)
    if not (np.abs(masses.edges - edge) <= 1e-9 * abs(edge)).any():
        return unavailable(METRIC_ABSENT)
    return replace(
        observed.count,
        value=float(masses.value[inside].sum()),
        low=float(masses.low[inside].sum()),
        high=float(masses.high[inside].sum()),
    )


def _without(observed: Observed, zeros: Estimate) -> Measure:
    if not zeros.available:
        return unavailable(*zeros.reasons)
    masses = without_lowest(observed.masses, Amount(zeros.value, zeros.low, zeros.high))
    return replace(observed, masses=masses, count=difference(observed.count, zeros))


def observations(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return how many observations there were."""
    del kpi
    return total([one if isinstance(one, Estimate) else one.count for one in measures])


def observed_sum(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return the sum of the observations."""
    del kpi
    return total([one if isinstance(one, Estimate) else one.total for one in measures])


def observed_rate(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return how many observations there were per second of the phase."""
    seconds = [one.seconds for one in measures if isinstance(one, Observed)]
    count = observations(measures, kpi)
    return scaled(count, 1 / seconds[0]) if seconds else count


def observed_mean(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return the mean of the observations: increase of the sum over increase of the count."""
    del kpi
    seen = _together(measures)
    if not isinstance(seen, Observed):
        return seen
    result = quotient(seen.total, seen.count)
    return replace(result, samples=seen.count.samples) if result.available else result


def observed_quantile(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return a quantile of the observations with the bracket in which it lies for certain."""
    seen = _together(measures)
    if not isinstance(seen, Observed):
        return seen
    found = quantile(seen.masses, kpi.quantile or 0.5)
    if found is None:
        return unavailable(ZERO_DENOMINATOR, *seen.count.reasons)
    likely = likely_quantile(seen.masses, kpi.quantile or 0.5, seen.total.value)
    value = found.value if likely is None else min(max(likely, found.low), found.high)
    reasons = {
        BUCKET_OVERFLOW: found.overflow,
        SINGLE_BUCKET: found.single_bucket,
        FEW_OBSERVATIONS: found.few_observations,
    }
    return _bracketed(seen, value, found.low, found.high, reasons)


def observed_max(measures: Sequence[Measure], kpi: Kpi) -> Estimate:
    """Return the upper edge of the highest bucket that got something; the largest lies in it."""
    del kpi
    seen = _together(measures)
    if not isinstance(seen, Observed):
        return seen
    edges = seen.masses.edges
    below = np.concatenate([[0.0 if edges[0] > 0 else -math.inf], edges[:-1]])
    surely, maybe = (np.flatnonzero(part > 0) for part in (seen.masses.low, seen.masses.high))
    likely = np.flatnonzero(seen.masses.value > 0)
    if not likely.size:
        return unavailable(ZERO_DENOMINATOR, *seen.count.reasons)
    low = float(below[surely[-1]]) if surely.size else float(below[0])
    high = float(edges[maybe[-1]])
    top = float(edges[likely[-1]])
    value = top if math.isfinite(top) else float(below[likely[-1]])
    return _bracketed(seen, value, low, high, {BUCKET_OVERFLOW: math.isinf(high)})


def _bracketed(
    seen: Observed, value: float, low: float, high: float, reasons: Mapping[str, bool]
) -> Estimate:
    status: Status = "estimated" if seen.count.status == "estimated" else "bounded"
    number = replace(seen.count, value=value, low=low, high=high, status=status)
    return number.because(*(reason for reason, holds in reasons.items() if holds))


def _together(measures: Sequence[Measure]) -> Measure:
    """Return one histogram of all; a missing one leaves the others with open upper bounds."""
    seen = [one for one in measures if isinstance(one, Observed)]
    if not seen:
        return total([one for one in measures if isinstance(one, Estimate)])
    if len(measures) == 1:
        return seen[0]
    masses = added([one.masses for one in seen])
    if len(seen) < len(measures):
        masses = replace(masses, high=np.full_like(masses.high, np.inf))
    counts = total([one if isinstance(one, Estimate) else one.count for one in measures])
    sums = total([one if isinstance(one, Estimate) else one.total for one in measures])
    return Observed(masses, sums, counts, seen[0].seconds)


def _observed(subject: Subject, base: str, kpi: Kpi, scene: Scene) -> Measure:
    return scene.once(
        "observed", subject, about(kpi, base), lambda: _compute(subject, base, kpi, scene.phase)
    )


def _compute(subject: Subject, base: str, kpi: Kpi, phase: Phase) -> Measure:
    """Return what was observed, summed over label sets, or why nothing is known."""
    families: dict[frozenset[tuple[str, str]], dict[float, Track]] = {}
    for track in subject.tracks(f"{base}_bucket", kpi):
        edge = track.label("le")
        if edge:
            rest = frozenset(pair for pair in track.labels if pair[0] != "le")
            families.setdefault(rest, {})[float(edge)] = track
    sums = {track.labels: track for track in subject.tracks(f"{base}_sum", kpi)}
    born = creations(subject.target, base)
    parts = []
    for rest, buckets in families.items():
        edges, block = histogram_block(buckets, sums.get(rest), born.get(rest))
        seen = seen_in(phase, block, subject.target, kpi.since)
        if seen is None:
            continue
        up = increases(seen.readings, phase.window, together=edges.size)
        if touches(seen, up, phase):
            parts.append((edges, seen, up))
    if not parts:
        if families:
            return unavailable(WINDOW_NOT_BRACKETED, *lost(subject, phase))
        return subject.absence()
    return _put_together(subject, phase, parts)


def _put_together(
    subject: Subject, phase: Phase, parts: Sequence[tuple[Values, Seen, Increases]]
) -> Observed:
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
            status=status_of(ups, low, high),
            coverage=coverage_of(ups, phase),
            samples=sum(up.readings for up in ups),
            sources=counter_sources(seen),
            reasons=counter_reasons(subject, seen, phase),
        )

    count = summed(float(masses.value.sum()), float(masses.low.sum()), float(masses.high.sum()))
    of_sum = summed(
        math.fsum(float(up.value[-1]) for up in ups),
        math.fsum(float(up.low[-1]) for up in ups),
        math.fsum(float(up.high[-1]) for up in ups),
    )
    if math.isnan(of_sum.value):
        of_sum = unavailable(METRIC_ABSENT)
    return Observed(masses, of_sum, count, phase.window.seconds)


def histogram_block(
    buckets: Mapping[float, Track], of_sum: Track | None, created_ms: float | None
) -> tuple[Values, Block]:
    """Return upper edges and a block of bucket masses, the sum of observations as last column.

    A fetch that was cut among the buckets knows none of them: the block does not have its edge.
    """
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
        if np.isnan(row).any():
            continue
        observed = np.nan if of_sum is None else of_sum.edges.get(index, np.nan)
        at_edges[index] = np.append(row[0], observed)
    return edges, Block(times, np.column_stack([counts, column]), at_edges, created_ms)


def _at(track: Track, times: Times) -> Values:
    """Return the values of ``track`` at ``times``, NaN where it has none."""
    values = np.full(times.size, np.nan)
    _, here, there = np.intersect1d(times, track.times_ms, return_indices=True)
    values[here] = track.values[there]
    return values
