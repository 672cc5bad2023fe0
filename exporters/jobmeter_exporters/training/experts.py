"""How many tokens each expert of a mixture of experts got."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jobmeter_exporters.training.histogram import LOAD_EDGES, Histogram
from jobmeter_exporters.training.reading import Counts, add, read_counts


class ExpertLoads:
    """Tokens by layer and expert; where there are too many experts, by layer alone.

    Args:
        most_series: How many pairs of layer and expert are exposed one by one. With more of them
            there is the sum of each layer, and a histogram of the loads in its place.
    """

    def __init__(self, most_series: int) -> None:
        self._most_series = most_series
        self._pending: dict[str, Counts] = {}
        self._totals: dict[str, list[float]] = {}
        self._experts: dict[str, int] = {}
        self.loads = Histogram(LOAD_EDGES)

    def add(self, layer: str, counts: Counts) -> None:
        """Add the tokens of a layer's experts, in their order.

        Raises:
            ValueError: It had another number of experts before.
        """
        number = self._experts.setdefault(layer, len(counts))
        if len(counts) != number:
            raise ValueError(f"{len(counts)} experts in a layer that had {number}")
        self._pending[layer] = add(self._pending.get(layer), counts)

    def take(self) -> dict[str, Counts]:
        """Return what was added since the last time, by layer."""
        taken, self._pending = self._pending, {}
        return taken

    def settle(self, taken: dict[str, Counts]) -> None:
        """Count what was taken; waits for the device where it is on one."""
        for layer, pending in taken.items():
            counts = read_counts(pending)
            for load in shares(counts):
                self.loads.observe(load)
            totals = self._totals.setdefault(layer, [0.0] * len(counts))
            self._totals[layer] = [a + b for a, b in zip(totals, counts, strict=True)]

    @property
    def one_by_one(self) -> bool:
        """Whether there are few enough experts to expose each."""
        return sum(map(len, self._totals.values())) <= self._most_series

    def by_expert(self) -> Iterator[tuple[tuple[str, str], float]]:
        """Yield layer, expert and tokens."""
        for layer, totals in sorted(self._totals.items()):
            for expert, tokens in enumerate(totals):
                yield (layer, str(expert)), tokens

    def by_layer(self) -> Mapping[str, float]:
        """Return the tokens of each layer."""
        return {layer: sum(totals) for layer, totals in sorted(self._totals.items())}


def shares(counts: Sequence[float]) -> list[float]:
    """Return each load over their mean, none where there was no token.

    >>> shares([1.0, 3.0])
    [0.5, 1.5]
    """
    total = sum(counts)
    return [count * len(counts) / total for count in counts] if total else []
