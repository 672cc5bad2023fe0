"""What a classic histogram says about a window: count, mean, quantiles with their brackets.

All functions work on *masses*: how many observations each bucket ``(edge below, edge]`` got in the
window. Those are counters too (unlike what a cumulative bucket shows, each grows alone), so their
bounds are those of ``counters``, and masses of several instances may be added before any quantile.

The quantile ``q`` of ``n`` observations is here the one of rank ``ceil(q n)``, counted from the
smallest: the true one lies in the bucket that holds this rank. With few observations in that bucket
the quantile of what they were drawn from may lie elsewhere: the bracket then takes in the ranks
``n q`` plus and minus 1.96 ``sqrt(n q (1 - q))`` as well (the order-statistic interval of 95 %).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobmeter_analysis.recording import Values

Edges = npt.NDArray[np.float64]
"""Upper edges, increasing, the last one infinite."""

FEW = 20
"""With fewer observations in its bucket a quantile says little of what they were drawn from."""
Z95 = 1.96
"""Standard errors on either side of 95 % of a normal distribution."""


@dataclass(frozen=True)
class Amount:
    """A number with certain bounds."""

    value: float
    low: float
    high: float


ROUNDING = 1e-9
"""What a sum of observations may be off by, as a part of itself."""
STEPS_TO_RATE = 100
"""Halvings of an interval: to the last bit of a float64."""


@dataclass(frozen=True)
class Masses:
    """Observations of a window by bucket.

    Args:
        edges: Shape (K,).
        value: Shape (K,): best value of each bucket.
        low: Shape (K,): lower bound of each.
        high: Shape (K,): upper bound of each.
    """

    edges: Edges
    value: Values
    low: Values
    high: Values


@dataclass(frozen=True)
class Quantile:
    """A quantile: the interpolated value, and the bracket in which it lies for certain.

    Args:
        value: The last finite edge when the rank lies above it.
        low: Lower edge of the bracket.
        high: Upper edge; infinite when the rank may lie above the last finite one.
        overflow: Whether it lies, or may lie, above the last finite edge.
        single_bucket: Whether all observations lie in one bucket.
        few_observations: Whether the bracket was widened, because the bucket of the rank holds
            fewer than ``FEW`` observations.
    """

    value: float
    low: float
    high: float
    overflow: bool
    single_bucket: bool
    few_observations: bool = False


def bucket_counts(columns: Mapping[float, Values]) -> tuple[Edges, Values]:
    """Return edges and per-bucket counts from cumulative columns, one per ``le``.

    Args:
        columns: Upper edge to shape (n,) cumulative counts; NaN where a reading lacks the bucket.

    A missing bucket holds what the next lower one has (clients may leave out empty buckets), a
    bucket below its lower neighbour is raised to it. Without ``+Inf`` the last bucket stands in; a
    reading that lacks ``+Inf`` when others have it was cut, and is NaN as a whole.
    """
    edges = np.array(sorted(columns), dtype=float)
    counts: Values = np.array([columns[edge] for edge in edges], dtype=float)
    cut = np.isnan(counts[-1])
    missing = np.isnan(counts)
    if missing.any():
        counts[missing] = 0.0
    np.maximum.accumulate(counts, axis=0, out=counts)
    if not math.isinf(edges[-1]):
        edges = np.append(edges, math.inf)
        counts = np.append(counts, counts[-1:], axis=0)
    elif cut.any():
        counts[:, cut] = np.nan
    counts[1:] -= counts[:-1].copy()
    return edges, np.asarray(counts.T)


def added(parts: Sequence[Masses]) -> Masses:
    """Return the sum of several histograms, on the edges that all of them have.

    And on those that some leave out because nothing is around them, as sparse histograms do.
    """
    edges = parts[0].edges
    if any(not np.array_equal(part.edges, edges) for part in parts[1:]):
        edges = np.unique(np.concatenate([part.edges for part in parts]))
        edges = edges[np.logical_and.reduce([_divided(part, edges) for part in parts])]
    merged = [_on_edges(part, edges) for part in parts]
    return Masses(
        edges,
        np.sum([part.value for part in merged], axis=0),
        np.sum([part.low for part in merged], axis=0),
        np.sum([part.high for part in merged], axis=0),
    )


def _divided(masses: Masses, edges: Edges) -> npt.NDArray[np.bool_]:
    """Whether it is known what is on either side of each of ``edges``."""
    bucket = np.searchsorted(masses.edges, edges, "left")
    return np.asarray((masses.edges[bucket] == edges) | (masses.high[bucket] == 0))


def _on_edges(masses: Masses, edges: Edges) -> Masses:
    if np.array_equal(masses.edges, edges):
        return masses
    into = np.searchsorted(edges, masses.edges, "left")

    def gathered(values: Values) -> Values:
        return np.bincount(into, weights=values, minlength=edges.size).astype(np.float64)

    return Masses(edges, gathered(masses.value), gathered(masses.low), gathered(masses.high))


def without_lowest(masses: Masses, removed: Amount) -> Masses:
    """Return the histogram without ``removed`` observations of the lowest bucket.

    For observations that stand for nothing: vLLM observes a time per output token of 0 for a
    request of one token. Both bounds of the rest are certain when those of ``removed`` are.
    """

    def reduced(counts: Values, by: float) -> Values:
        rest: Values = np.array(counts)
        # Never inf - inf: what may be anything may be anything without a part of it, too.
        rest[0] = max(0.0, rest[0] - by) if math.isfinite(rest[0]) else rest[0]
        return rest

    low = reduced(masses.low, removed.high)
    high = reduced(masses.high, removed.low)
    value = reduced(masses.value, removed.value)
    return Masses(masses.edges, np.clip(value, low, high), low, high)


def count(masses: Masses) -> Amount:
    """Return how many observations there are."""
    return Amount(float(masses.value.sum()), float(masses.low.sum()), float(masses.high.sum()))


def mean(total: Amount, masses: Masses) -> Amount | None:
    """Return the mean of observations that sum up to ``total``; None without observations.

    The bounds are those of the quotient, and at the same time those that the buckets leave: no
    observation lies below the lower edge of its bucket, none above the upper one.
    """
    n = count(masses)
    if n.value <= 0:
        return None
    low = total.low / n.high if math.isfinite(n.high) else 0.0
    high = total.high / n.low if n.low > 0 else math.inf
    low, high = max(low, _mean_of_edges(masses, 0)), min(high, _mean_of_edges(masses, 1))
    if low > high:  # the sum and the buckets were not read at one moment
        low, high = high, low
    return Amount(min(max(total.value / n.value, low), high), low, high)


def share_at_most(masses: Masses, value: float) -> Amount | None:
    """Return the share of observations up to ``value``; None without observations.

    With exact masses it is exact at an edge; elsewhere it lies between the shares at the edges
    around it, and the value is interpolated.
    """
    n = float(masses.value.sum())
    if n <= 0:
        return None
    edges = masses.edges
    inner = int(np.searchsorted(edges, value, "right"))  # buckets that lie wholly at or below
    outer = min(int(np.searchsorted(edges, value, "left")) + 1, edges.size)  # or partly
    if math.isfinite(edges[0]) and edges[0] > 0 and value < 0:
        inner = outer = 0
    low = _share(masses.low[:inner], masses.high[inner:])
    high = _share(masses.high[:outer], masses.low[outer:])
    found = float(masses.value[:inner].sum())
    if outer > inner:
        bottom, top = _lower_edge(edges, inner), float(edges[inner])
        if math.isfinite(bottom) and math.isfinite(top):
            found += float(masses.value[inner]) * (value - bottom) / (top - bottom)
    return Amount(min(max(found / n, low), high), low, high)


def _share(part: Values, rest: Values) -> float:
    """Return a part of the whole, 0 when there is nothing at all."""
    here, beside = float(part.sum()), float(rest.sum())
    if math.isinf(here):
        return 1.0
    return here / (here + beside) if here > 0 else 0.0


def quantile(masses: Masses, q: float) -> Quantile | None:
    """Return quantile ``q``; None without observations.

    The value is interpolated in its bucket as ``histogram_quantile`` does. The bracket holds
    whatever the true masses are within their bounds: it starts at the highest edge below which
    the rank cannot lie, and ends at the lowest edge below which it must lie.
    """
    n = float(masses.value.sum())
    if n <= 0:
        return None
    low, high = _bracket(masses, q, 0.0)
    holder = int(np.searchsorted(masses.value.cumsum(), q * n * (1 - 1e-12), "left"))
    holder = min(holder, masses.edges.size - 1)
    few = float(masses.value[holder]) < FEW
    if few:
        wider = _bracket(masses, q, Z95)
        low, high = min(low, wider[0]), max(high, wider[1])
    beyond = math.isinf(masses.edges[-1]) and masses.high[-1] > 0
    value = _interpolated(masses, holder, q * n)
    return Quantile(
        value=min(max(value, low), high),
        low=low,
        high=high,
        overflow=bool(beyond and math.isinf(high)),
        single_bucket=int((masses.high > 0).sum()) == 1,
        few_observations=few,
    )


def _interpolated(masses: Masses, holder: int, rank: float) -> float:
    below = float(masses.value[:holder].sum())
    bottom, top = _lower_edge(masses.edges, holder), float(masses.edges[holder])
    mass = float(masses.value[holder])
    if math.isinf(top):
        return bottom
    if math.isinf(bottom) or mass == 0:
        return top
    return bottom + (top - bottom) * (rank - below) / mass


def likely_quantile(masses: Masses, q: float, total: float) -> float | None:
    """Return quantile ``q`` as the buckets and the sum of all observations suggest it.

    It is that of the distribution which, with these masses and this sum, assumes the least (has the
    largest entropy): in each bucket the density falls or rises as ``exp(-rate x)``, with one rate
    for all; rate 0 is the line of ``histogram_quantile``. A value, no bracket: buckets and sum need
    not have been counted at one moment. None where the two contradict each other or say nothing.
    """
    counts = masses.value
    used = counts > 0
    bottoms = np.append(_lower_edge(masses.edges, 0), masses.edges[:-1])
    if not used.any() or not np.isfinite(masses.edges[used]).all():
        return None
    if not np.isfinite(bottoms[used]).all() or not math.isfinite(total):
        return None
    least, most = float(counts[used] @ bottoms[used]), float(counts[used] @ masses.edges[used])
    room = (most - least) * ROUNDING
    if not least + room < total < most - room:
        return None
    upto = counts.cumsum()
    holder = int(np.searchsorted(upto, q * upto[-1], "left"))
    bottom, top = float(bottoms[holder]), float(masses.edges[holder])
    rate = _rate_of(bottoms[used], masses.edges[used], counts[used], total)
    inside = min(max((q * upto[-1] - upto[holder] + counts[holder]) / counts[holder], 0.0), 1.0)
    return bottom + (top - bottom) * _share_reached(inside, rate * (top - bottom))


def _rate_of(bottoms: Values, tops: Values, counts: Values, total: float) -> float:
    """Return the rate with which densities in buckets fall so that the observations sum up."""
    widths = tops - bottoms
    excess = total - float(counts @ bottoms)
    left = float(counts @ widths) - excess
    reach = 40.0 / float(widths.min()) + float(counts.sum()) / min(excess, left)
    low, high = -reach, reach
    for _ in range(STEPS_TO_RATE):
        rate = (low + high) / 2
        if float(counts @ (widths * _mean_share(rate * widths))) > excess:
            low = rate
        else:
            high = rate
    return (low + high) / 2


def _mean_share(steepness: Values) -> Values:
    """Return the mean of a density ``exp(-steepness x)`` on 0 to 1."""
    small = np.abs(steepness) < 1e-4
    safe = np.where(small, 1.0, np.clip(steepness, -700, 700))
    mean = 1 / safe - 1 / np.expm1(safe)
    return np.where(small, 0.5 - steepness / 12, mean)


def _share_reached(share: float, steepness: float) -> float:
    """Return up to where on 0 to 1 a density ``exp(-steepness x)`` has this share."""
    if abs(steepness) < 1e-4:
        return share
    if steepness < -700:  # the mirror image, where nothing overflows
        return 1 - _share_reached(1 - share, -steepness)
    return float(-np.log1p(share * np.expm1(-steepness)) / steepness)


def _bracket(masses: Masses, q: float, errors: float) -> tuple[float, float]:
    """Return the edges around the rank of ``q``, or the ranks ``errors`` standard errors off it.

    Both ranks grow with the count, but never faster than it: with the observations up to an edge
    at one end of their bounds and those above it at the other, the edge is at its worst.
    """
    low_to, high_to = masses.low.cumsum(), masses.high.cumsum()
    low_rest = np.maximum(masses.low.sum() - low_to, 0.0)
    high_rest = np.maximum(_above_each(masses.high), 0.0)
    surely_above = high_to < _rank(q, high_to + low_rest, -errors)
    surely_within = (low_to > 0) & (low_to >= _rank(q, low_to + high_rest, errors))
    above = np.flatnonzero(surely_above)
    within = np.flatnonzero(surely_within)
    first_possible = int(above[-1]) + 1 if above.size else 0
    low = _lower_edge(masses.edges, first_possible)
    high = float(masses.edges[within[0]]) if within.size else math.inf
    return low, high


def _above_each(counts: Values) -> Values:
    """Return the sum of all masses above each bucket, infinite where one of them is."""
    return np.append(np.cumsum(counts[::-1])[::-1][1:], 0.0)


def _rank(q: float, count: Values, errors: float) -> Values:
    """Return the rank of ``q`` among ``count``, or that many standard errors off it.

    Forgiving the rounding of q: 0.95 of 20 is 19, not 20.
    """
    finite = np.where(np.isfinite(count), count, 0.0)
    rank = q * finite * (1 - 1e-12) + errors * np.sqrt(finite * q * (1 - q))
    rank = np.clip(np.ceil(rank), 1.0, np.maximum(finite, 1.0))
    return np.asarray(np.where(np.isfinite(count), rank, np.inf))


def _lower_edge(edges: Edges, bucket: int) -> float:
    """Return the lower edge: of the first bucket 0, as durations and sizes are not negative."""
    if bucket > 0:
        return float(edges[bucket - 1])
    return 0.0 if edges[0] > 0 else -math.inf


def _mean_of_edges(masses: Masses, side: int) -> float:
    """Return the lowest (side 0) or highest (1) mean that buckets and their bounds allow.

    The mean is a weighted one of edges: it is at its lowest when the buckets up to some edge hold
    all they may, and those above hold no more than they must.
    """
    edges = masses.edges
    ends = edges if side else np.append(_lower_edge(edges, 0), edges[:-1])
    means = []
    for split in range(edges.size + 1):
        more, less = (masses.low, masses.high) if side else (masses.high, masses.low)
        weights = np.append(more[:split], less[split:])
        used = weights > 0
        if not used.any():
            continue
        if np.isinf(weights).any():
            return math.inf if side else float(ends[0])
        means.append(float((weights[used] * ends[used]).sum() / weights[used].sum()))
    if not means:
        return math.inf if side else float(ends[0])
    return max(means) if side else min(means)
