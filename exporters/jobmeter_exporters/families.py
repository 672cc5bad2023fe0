"""What every exporter says of its metrics, and how readings become what Prometheus reads.

Each exporter has one table, ``FAMILIES``. It is what the scrape takes help and labels from, and
what the page of all metrics (``docs/exporters.md``) is written from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UntypedMetricFamily,
)

Labels = tuple[str, ...]
Readings = dict[str, "float | Mapping[str, float] | Mapping[Labels, float]"]
"""Base units under the name of the family.

Of a family with labels a mapping from the values of its labels, in their order, to the number; a
single label needs no tuple. What a source cannot read it leaves out.
"""

UNITS = {
    "seconds": "s",
    "bytes": "bytes",
    "ratio": "ratio",
    "watts": "W",
    "joules": "J",
    "celsius": "degree Celsius",
    "hertz": "Hz",
    "percent": "percent",
    "info": "always 1",
}
"""Unit by the last word of a name, ``_total`` aside."""


class Family(NamedTuple):
    """One family of metrics.

    Args:
        documentation: Its help text.
        labels: Names of its labels, ``jobmeter``'s and Prometheus's own left out.
        source: Where the number comes from, for the page: a file, a call, an option.
        unit: For a name that does not end in its unit; a number without one is a count.
        kind: For a name that does not say it: ``_total`` is a counter, anything else a gauge. A
            counter whose name ends otherwise is exposed as ``untyped``, as the text format of
            prometheus_client would add ``_total`` to it.
    """

    documentation: str
    labels: Labels = ()
    source: str = ""
    unit: str = ""
    kind: Literal["counter", "gauge", "histogram", "untyped", ""] = ""


_BUILDERS: Mapping[
    str, Callable[..., CounterMetricFamily | GaugeMetricFamily | UntypedMetricFamily]
] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "untyped": UntypedMetricFamily,
}


def kind_of(name: str, family: Family) -> str:
    """Return the Prometheus type of a family."""
    return family.kind or ("counter" if name.endswith("_total") else "gauge")


def unit_of(name: str, family: Family) -> str:
    """Return the unit of a family.

    >>> unit_of("job_cpu_seconds_total", Family(""))
    's'
    """
    return family.unit or UNITS.get(name.removesuffix("_total").rpartition("_")[2], "1")


def merge(into: Readings, more: Readings) -> None:
    """Add ``more`` to ``into``; families with labels are joined label by label."""
    for name, value in more.items():
        present = into.get(name)
        if isinstance(present, dict) and isinstance(value, dict):
            present.update(value)
        else:
            into[name] = value


def to_metrics(readings: Readings, families: Mapping[str, Family]) -> Iterator[Metric]:
    """Yield one metric family per reading, in the order of ``families``."""
    for name, family in families.items():
        value = readings.get(name)
        if value is not None:
            yield to_metric(name, family, value)


def to_metric(
    name: str, family: Family, value: float | Mapping[str, float] | Mapping[Labels, float]
) -> Metric:
    """Return one family with its numbers."""
    build = _BUILDERS[kind_of(name, family)]
    metric = build(name, family.documentation, labels=family.labels)
    if not isinstance(value, Mapping):
        metric.add_metric([], value)
        return metric
    for labels, number in value.items():
        metric.add_metric([labels] if isinstance(labels, str) else list(labels), number)
    return metric
