"""The statistics that a KPI may name: from label sets and a phase to one number.

Each has two halves, so that a total over entities is as good as its parts: ``measure`` takes one
entity, ``finish`` makes one number of one entity or of several. Buckets are added up before any
quantile, increases before any quotient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobmeter_analysis import counter_statistics as counters
from jobmeter_analysis import gauge_statistics as gauges
from jobmeter_analysis import histogram_statistics as histograms
from jobmeter_analysis import label_statistics as labels
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.estimate import Estimate
from jobmeter_analysis.subjects import Scene, Subject

Measure = Any
"""What ``finish`` of the same statistic understands."""


@dataclass(frozen=True)
class Statistic:
    """One statistic.

    Args:
        measure: Of one entity.
        finish: One number of the measures of one or several entities.
    """

    measure: Callable[[Subject, Kpi, Scene], Measure]
    finish: Callable[[Sequence[Measure], Kpi], Estimate]


STATISTICS: Mapping[str, Statistic] = {
    "increase": Statistic(counters.measure_increase, counters.finish),
    "rate": Statistic(counters.measure_rate, counters.finish),
    "ratio": Statistic(counters.measure_ratio, counters.finish),
    "share": Statistic(counters.measure_share, counters.finish),
    "busy_share": Statistic(counters.measure_busy_share, counters.finish_busy_share),
    "mean": Statistic(gauges.mean, gauges.finish),
    "max": Statistic(gauges.largest, gauges.finish),
    "min": Statistic(gauges.smallest, gauges.finish),
    "first": Statistic(gauges.first, gauges.finish),
    "integral": Statistic(gauges.integral, gauges.finish),
    "share_above": Statistic(gauges.share_above, gauges.finish),
    "share_of_bits": Statistic(gauges.share_of_bits, gauges.finish),
    "last": Statistic(gauges.last, gauges.finish),
    "distinct": Statistic(labels.measure_distinct, labels.finish_distinct),
    "balance": Statistic(labels.measure_loads, labels.balance),
    "peak": Statistic(labels.measure_loads, labels.peak),
    "variation": Statistic(labels.measure_loads, labels.variation),
    "observations": Statistic(histograms.measure, histograms.observations),
    "observed_sum": Statistic(histograms.measure, histograms.observed_sum),
    "observed_rate": Statistic(histograms.measure, histograms.observed_rate),
    "observed_mean": Statistic(histograms.measure, histograms.observed_mean),
    "observed_quantile": Statistic(histograms.measure, histograms.observed_quantile),
    "observed_max": Statistic(histograms.measure, histograms.observed_max),
}
