"""A histogram that is cheap to add to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.utils import floatToGoString


def geometric(first: float, last: float, per_octave: int) -> tuple[float, ...]:
    """Return edges from ``first`` to at least ``last``, four digits each.

    >>> geometric(0.5, 2.0, 1)
    (0.5, 1.0, 2.0)
    """
    edges = [first]
    while edges[-1] < last:
        edges.append(float(f"{first * 2.0 ** (len(edges) / per_octave):.4g}"))
    return tuple(edges)


STEP_EDGES_S = geometric(0.0001, 1000.0, 2)
PAUSE_EDGES_S = geometric(0.01, 3600.0, 1)
LOAD_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class Histogram:
    """Counts per bucket, and the sum.

    Args:
        edges: Upper edges of the buckets, rising; the one of infinity is added.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self.counts = [0] * (len(self.edges) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """Return one that no longer changes."""
        twin = Histogram(self.edges)
        twin.counts, twin.sum = list(self.counts), self.sum
        return twin

    def buckets(self) -> list[tuple[str, float]]:
        """Return upper edge and number of values up to it, as the text format has them."""
        names = [*map(floatToGoString, self.edges), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))
