"""Numbers that are counted between scrapes, as things happen, from any thread.

Most collectors read when they are scraped and need none of this. It is for what passes by only
once: a line of a log, a request.
"""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from jobmeter_exporters.families import Family, Labels, kind_of, to_metric

OTHER = "other"
"""Stands for label values that came when there were too many already."""


@dataclass
class _Histogram:
    counts: list[int]
    total: float = 0.0


@dataclass
class _Gauge:
    value: float
    until_s: float


@dataclass
class _Family:
    about: Family
    kind: str
    bounds: tuple[float, ...]
    counters: dict[Labels, float] = field(default_factory=dict)
    gauges: dict[Labels, _Gauge] = field(default_factory=dict)
    histograms: dict[Labels, _Histogram] = field(default_factory=dict)

    @property
    def known(self) -> Mapping[Labels, object]:
        if self.kind == "histogram":
            return self.histograms
        return self.gauges if self.kind == "gauge" else self.counters


class Series:
    """Counters, gauges and histograms by name and label values.

    A family has at most ``most`` sets of label values. Of a counter or a histogram, those beyond
    are added to one whose labels, the first aside, are ``other``, so that a sum over them stays
    right; of a gauge they are left out.

    Args:
        families: All there can be; each has at least one label.
        bounds: Upper bounds of the buckets of each histogram, ascending, without infinity.
        most: Sets of label values in one family, the one for ``other`` not counted.
        clock: Seconds that never go back; tests have their own.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        bounds: Mapping[str, tuple[float, ...]] | None = None,
        most: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._families = {
            name: _Family(about, kind_of(name, about), (bounds or {}).get(name, ()))
            for name, about in families.items()
        }
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()

    def add(self, name: str, labels: Labels, amount: float = 1.0) -> bool:
        """Add to a counter; return False when its labels became ``other``."""
        family = self._families[name]
        with self._lock:
            kept = self._within(family, labels)
            family.counters[kept] = family.counters.get(kept, 0.0) + amount
        return kept == labels

    def observe(self, name: str, labels: Labels, value: float) -> bool:
        """Add a value to a histogram; return False when its labels became ``other``."""
        family = self._families[name]
        with self._lock:
            kept = self._within(family, labels)
            histogram = family.histograms.get(kept)
            if histogram is None:
                histogram = _Histogram([0] * (len(family.bounds) + 1))
                family.histograms[kept] = histogram
            histogram.counts[bisect.bisect_left(family.bounds, value)] += 1
            histogram.total += value
        return kept == labels

    def set(self, name: str, labels: Labels, value: float, lasts_s: float = math.inf) -> bool:
        """Set a gauge, for some seconds; return False when there are too many of it already."""
        family = self._families[name]
        now = self._clock()
        with self._lock:
            if self._within(family, labels) != labels:
                self._forget_expired(family, now)
                if self._within(family, labels) != labels:
                    return False
            family.gauges[labels] = _Gauge(value, now + lasts_s)
        return True

    def collect(self) -> Iterator[Metric]:
        """Yield the families that have a number, in the order in which they were named."""
        now = self._clock()
        for name, family in self._families.items():
            with self._lock:
                self._forget_expired(family, now)
                metric = _metric(name, family)
            if metric is not None:
                yield metric

    def _within(self, family: _Family, labels: Labels) -> Labels:
        if labels in family.known or len(family.known) < self._most:
            return labels
        return labels[:1] + (OTHER,) * (len(labels) - 1)

    def _forget_expired(self, family: _Family, now: float) -> None:
        for labels in [labels for labels, gauge in family.gauges.items() if gauge.until_s <= now]:
            del family.gauges[labels]


def _metric(name: str, family: _Family) -> Metric | None:
    if family.histograms:
        metric = HistogramMetricFamily(
            name, family.about.documentation, labels=list(family.about.labels)
        )
        for labels, histogram in family.histograms.items():
            metric.add_metric(list(labels), _cumulative(family.bounds, histogram), histogram.total)
        return metric
    values = family.counters or {labels: gauge.value for labels, gauge in family.gauges.items()}
    return to_metric(name, family.about, values) if values else None


def _cumulative(bounds: tuple[float, ...], histogram: _Histogram) -> list[tuple[str, float]]:
    buckets, sum_so_far = [], 0
    for bound, count in zip((*bounds, math.inf), histogram.counts, strict=True):
        sum_so_far += count
        label = floatToGoString(bound)  # type: ignore[no-untyped-call]
        buckets.append((label, float(sum_so_far)))
    return buckets
