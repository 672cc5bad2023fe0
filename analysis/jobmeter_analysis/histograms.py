"""What a classic histogram says about a window: count, mean, quantiles with their brackets.

All functions work on *masses*: how many observations each bucket ``(edge below, edge]`` got in the
window. Those are counters too (unlike what a cumulative bucket shows, each grows alone), so their
bounds are those of ``counters``, and masses of several instances may be added before any quantile.

The quantile ``q`` of ``n`` observations is here the one of rank ``ceil(q n)``, counted from the
smallest: the true one lies in the bucket that holds this rank.
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
    """A quantile: the interpolated value, and the bracket in which it lies for certain."""

    value: float
    low: float
    high: float
    overflow: bool
    single_bucket: bool


def bucket_counts(columns: Mapping[float, Values]) -> tuple[Edges, Values]:
    """Return edges and per-bucket counts from cumulative columns, one per ``le``.

    Args:
        columns: Upper edge to shape (n,) cumulative counts; NaN where a reading lacks the bucket.

    A missing bucket holds what the next lower one has (clients may leave out empty buckets), a
    bucket below its lower neighbour is raised to it. Without ``+Inf`` the last bucket stands in.
    """
    edges = np.array(sorted(columns), dtype=float)
    cumulative = np.column_stack([columns[edge] for edge in edges])
    filled = np.maximum.accumulate(np.nan_to_num(cumulative, nan=0.0), axis=1)
    if not math.isinf(edges[-1]):
        edges = np.append(edges, math.inf)
        filled = np.column_stack([filled, filled[:, -1]])
    return edges, np.diff(filled, axis=1, prepend=0.0)


def added(parts: Sequence[Masses]) -> Masses:
    """Return the sum of several histograms, on the edges that all of them have."""
    edges = parts[0].edges
    for part in parts[1:]:
        edges = np.intersect1d(edges, part.edges)
    merged = [_on_edges(part, edges) for part in parts]
    return Masses(
        edges,
        np.sum([part.value for part in merged], axis=0),
        np.sum([part.low for part in merged], axis=0),
        np.sum([part.high for part in merged], axis=0),
    )


def _on_edges(masses: Masses, edges: Edges) -> Masses:
    if masses.edges.size == edges.size:
        return masses
    into = np.searchsorted(edges, masses.edges, "left")

    def gathered(values: Values) -> Values:
        return np.bincount(into, weights=values, minlength=edges.size).astype(np.float64)

    return Masses(edges, gathered(masses.value), gathered(masses.low), gathered(masses.high))


def quantile(masses: Masses, q: float) -> Quantile | None:
    """Return quantile ``q``; None without observations.

    The value is interpolated in its bucket as ``histogram_quantile`` does. The bracket holds
    whatever the true masses are within their bounds: it starts at the highest edge below which
    the rank cannot lie, and ends at the lowest edge below which it must lie.
    """
    count = masses.value.sum()
    if count <= 0:
        return None
    low, high = _bracket(masses, q)
    holder = int(np.searchsorted(masses.value.cumsum(), q * count, "left"))
    holder = min(holder, masses.edges.size - 1)
    overflow = math.isinf(masses.edges[holder])
    if overflow:
        value = _lower_edge(masses.edges, holder)
    else:
        value = _interpolated(masses, holder, q * float(count))
    return Quantile(
        value=min(max(value, low), high),
        low=low,
        high=high,
        overflow=overflow or math.isinf(high),
        single_bucket=int((masses.high > 0).sum()) == 1,
    )


def _interpolated(masses: Masses, holder: int, rank: float) -> float:
    below = float(masses.value[:holder].sum())
    bottom, top = _lower_edge(masses.edges, holder), float(masses.edges[holder])
    mass = float(masses.value[holder])
    if math.isinf(bottom) or mass == 0:
        return top
    return bottom + (top - bottom) * (rank - below) / mass


def _bracket(masses: Masses, q: float) -> tuple[float, float]:
    low_to, high_to = masses.low.cumsum(), masses.high.cumsum()
    low_rest = masses.low.sum() - low_to
    high_rest = np.maximum(_without_inf_minus_inf(masses.high), 0.0)
    surely_above = high_to < _rank(q, high_to + low_rest)
    surely_within = (low_to > 0) & (low_to >= _rank(q, low_to + high_rest))
    above = np.flatnonzero(surely_above)
    within = np.flatnonzero(surely_within)
    first_possible = int(above[-1]) + 1 if above.size else 0
    low = _lower_edge(masses.edges, first_possible)
    high = float(masses.edges[within[0]]) if within.size else math.inf
    return low, high


def _without_inf_minus_inf(high: Values) -> Values:
    """Return the sum of all masses above each bucket, infinite where one of them is."""
    return np.append(np.cumsum(high[::-1])[::-1][1:], 0.0)


def _rank(q: float, count: Values) -> Values:
    """Return ceil(q n), forgiving the rounding of q: 0.95 of 20 is 19, not 20."""
    return np.maximum(1.0, np.ceil(q * count * (1 - 1e-12)))


def _lower_edge(edges: Edges, bucket: int) -> float:
    """Return the lower edge: of the first bucket 0, as durations and sizes are not negative."""
    if bucket > 0:
        return float(edges[bucket - 1])
    return 0.0 if edges[0] > 0 else -math.inf
