"""Everything that a rank has counted so far, and how Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from jobmeter_exporters.families import Labels
from jobmeter_exporters.training.experts import ExpertLoads
from jobmeter_exporters.training.families import FAMILIES
from jobmeter_exporters.training.histogram import PAUSE_EDGES_S, STEP_EDGES_S, Histogram
from jobmeter_exporters.training.reading import Number

PARTS = {
    "data": "training_data_wait_seconds_total",
    "forward": "training_forward_seconds_total",
    "backward": "training_backward_seconds_total",
    "optimizer": "training_optimizer_seconds_total",
}
PAUSES = {
    "checkpoint": "training_checkpoint_duration_seconds",
    "validation": "training_validation_duration_seconds",
}


@dataclass
class Totals:
    """What was counted. A part of a step that was never timed is absent, not 0.

    Args:
        steps: Their durations in seconds.
        tokens: Of all steps.
        samples: Of all steps.
        parts: Seconds by the keys of ``PARTS``.
        pauses: Durations in seconds by the keys of ``PAUSES``.
        gauges: Last values by metric, and there by layer; None for a metric without layers.
        dropped: Tokens by layer.
    """

    steps: Histogram = field(default_factory=lambda: Histogram(STEP_EDGES_S))
    tokens: int = 0
    samples: int = 0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    pauses: dict[str, Histogram] = field(
        default_factory=lambda: {name: Histogram(PAUSE_EDGES_S) for name in PAUSES}
    )
    gauges: dict[tuple[str, str | None], Number] = field(default_factory=dict)
    dropped: dict[str, float] = field(default_factory=dict)

    def copy(self) -> Totals:
        """Return one that no longer changes."""
        return replace(
            self,
            steps=self.steps.copy(),
            parts=dict(self.parts),
            pauses={name: times.copy() for name, times in self.pauses.items()},
            gauges=dict(self.gauges),
            dropped=dict(self.dropped),
        )


class Exposition:
    """Builds families with the labels of one rank.

    Args:
        rank: Value of the label; None for a training that has one rank.
        born_s: When counting began, seconds since the epoch: an increase from zero then is known.
    """

    def __init__(self, rank: int | None, born_s: float) -> None:
        self._names = () if rank is None else ("rank",)
        self._values = () if rank is None else (str(rank),)
        self._born_s = born_s

    def families(
        self, totals: Totals, numbers: Mapping[tuple[str, str | None], float], experts: ExpertLoads
    ) -> Iterator[Metric]:
        """Yield what there is. ``numbers`` are the gauges of ``totals``, read."""
        yield self._histogram("training_step_duration_seconds", totals.steps)
        for name, total in (
            ("training_tokens_total", totals.tokens),
            ("training_samples_total", totals.samples),
            *((metric, totals.parts[part]) for part, metric in PARTS.items()),
        ):
            if total:
                yield self._counter(name, {(): total})
        for pause, metric in PAUSES.items():
            if any(totals.pauses[pause].counts):
                yield self._histogram(metric, totals.pauses[pause])
        yield from self._gauges(numbers)
        if totals.dropped:
            dropped: dict[Labels, float] = {(layer,): n for layer, n in totals.dropped.items()}
            yield self._counter("moe_dropped_tokens_total", dropped)
        yield from self._experts(experts)

    def _experts(self, experts: ExpertLoads) -> Iterator[Metric]:
        by_layer: dict[Labels, float] = {(layer,): n for layer, n in experts.by_layer().items()}
        if not by_layer:
            return
        if experts.one_by_one:
            yield self._counter("moe_expert_tokens_total", dict(experts.by_expert()))
        else:
            yield self._counter("moe_routed_tokens_total", by_layer)
            yield self._histogram("moe_expert_load_ratio", experts.loads)

    def _counter(self, name: str, totals: Mapping[Labels, float]) -> Metric:
        about = FAMILIES[name]
        family = CounterMetricFamily(
            name, about.documentation, labels=(*about.labels, *self._names)
        )
        for labels, total in totals.items():
            family.add_metric((*labels, *self._values), float(total), created=self._born_s)
        return family

    def _gauges(self, numbers: Mapping[tuple[str, str | None], float]) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for (name, layer), number in numbers.items():
            about = FAMILIES[name]
            own = () if layer is None else (layer,)
            if name not in families:
                labels = (*about.labels[: len(own)], *self._names)
                families[name] = GaugeMetricFamily(name, about.documentation, labels=labels)
            families[name].add_metric((*own, *self._values), number)
        yield from families.values()

    def _histogram(self, name: str, values: Histogram) -> Metric:
        family = HistogramMetricFamily(name, FAMILIES[name].documentation, labels=self._names)
        family.add_metric(self._values, values.buckets(), values.sum)
        labels = dict(zip(self._names, self._values, strict=True))
        family.add_sample(f"{name}_created", labels, self._born_s)
        return family


def step_totals(edges_s: Sequence[float] | None) -> Totals:
    """Return empty totals; ``edges_s`` are the buckets of the time of a step."""
    return Totals() if edges_s is None else Totals(steps=Histogram(sorted(edges_s)))
