"""What a row is about: some label sets of one target, seen in one phase.

Statistics know nothing of KPIs' names, entities or tables; they ask here for the series that a KPI
means, and for what they have already computed of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jobmeter.window import Phase
from jobmeter_analysis import gauges
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.estimate import (
    FOREIGN_TARGET,
    METRIC_ABSENT,
    TARGET_LOST,
    TARGET_NEVER_UP,
    Estimate,
    unavailable,
)
from jobmeter_analysis.targets import Target, Track
from jobmeter_analysis.vocabulary import Marker, load_vocabulary

RECORDING = "recording"
EDGES = "edges"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Subject:
    """Label sets of one target that are one entity.

    Args:
        target: Whose.
        only: Labels that they have, with these values.
        cpus: CPUs of its node that the job was given; None when that is not known.
    """

    target: Target
    only: tuple[tuple[str, str], ...] = ()
    cpus: frozenset[str] | None = None

    def absence(self) -> Estimate:
        """Return why a metric is not there."""
        if self.target.foreign:
            return unavailable(FOREIGN_TARGET)
        return unavailable(METRIC_ABSENT if self.target.ever_up else TARGET_NEVER_UP)

    def tracks(self, metric: str, kpi: Kpi) -> tuple[Track, ...]:
        """Return the label sets of ``metric`` that ``kpi`` means; none of a foreign target."""
        if self.target.foreign:
            return ()
        key = (metric, self.only, tuple(kpi.only.items()), tuple(kpi.without.items()))
        if key not in self.target.chosen:
            self.target.chosen[key] = self._chosen(metric, kpi)
        return self.target.chosen[key]

    def _chosen(self, metric: str, kpi: Kpi) -> tuple[Track, ...]:
        tracks = self.target.tracks.get(metric, ())
        if not (self.only or kpi.only or kpi.without):
            return tracks
        return tuple(
            track
            for track in tracks
            if all(track.label(label) == value for label, value in self.only)
            and all(_is(track.label(label), values) for label, values in kpi.only.items())
            and not any(_is(track.label(label), values) for label, values in kpi.without.items())
        )

    def partly_seen(self, metric: str) -> bool:
        """Whether there may be more than ``metric`` of this target says."""
        where = load_vocabulary().at_least(metric)
        if not isinstance(where, Marker):
            return where
        marked = self.target.tracks.get(where.metric, ())
        return any(
            all(track.label(label) == value for label, value in where.labels.items())
            for track in marked
        )

    def has(self, metric: str) -> bool:
        """Whether there is any label set of ``metric``."""
        if not self.only:
            return metric in self.target.tracks
        return any(
            all(track.label(label) == value for label, value in self.only)
            for track in self.target.tracks.get(metric, ())
        )


def _is(value: str, wanted: Sequence[str]) -> bool:
    """Whether a label has one of the values that a KPI names; with a star at its end, any such.

    >>> _is("503", ["5*"]), _is("5xx", ["5*"]), _is("200", ["5*"]), _is("stop", ["stop"])
    (True, True, False, True)
    """
    return value in wanted or any(
        one.endswith("*") and value.startswith(one[:-1]) for one in wanted
    )


@dataclass
class Scene:
    """One phase while it is measured: several KPIs are made of the same readings."""

    phase: Phase
    _known: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, what: str, subject: Subject, about: Hashable, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gave the first time it was asked about the same thing."""
        key = (what, id(subject.target), subject.only, about)
        if key not in self._known:
            self._known[key] = compute()
        known: T = self._known[key]
        return known


def about(kpi: Kpi, *metrics: str | None) -> Hashable:
    """Return what tells the label sets of one KPI from those of another."""
    return (metrics, kpi.since, tuple(kpi.only.items()), tuple(kpi.without.items()))


def lost(subject: Subject, phase: Phase) -> tuple[str, ...]:
    """Return the reason code of a target that stopped answering, if it did."""
    return (TARGET_LOST,) if subject.target.lost(phase.window, phase.name) else ()


def has_gap(subject: Subject, phase: Phase) -> bool:
    """Whether the target did not answer for longer than a gap may be."""
    times = subject.target.answers(phase.window, phase.name)
    return gauges.largest_gap_ms(times, phase.window) > subject.target.max_gap_ms


def sources_of(parts: Sequence[Estimate]) -> frozenset[str]:
    """Return where any of ``parts`` came from."""
    return frozenset[str]().union(*(part.sources for part in parts))
