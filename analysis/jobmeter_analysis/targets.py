"""Everything known of one metrics endpoint: its recorded series and its edges, joined.

A recorded series and a sample of an edge are the same thing when metric name and labels agree,
``instance``, ``job`` and ``run_id`` left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from jobmeter.edges import EdgeFetch, read_fetches
from jobmeter.paths import AttemptPaths, Side
from jobmeter.window import Window
from jobmeter_analysis.exposition import Exposition, completed, read_exposition
from jobmeter_analysis.recording import Series, Times, Values
from jobmeter_analysis.vocabulary import Vocabulary, Word

Kind = Literal["stack", "payload", "recorded"]
"""Ours, the user's, or somebody's of which only the recording is known."""
Labels = frozenset[tuple[str, str]]

GAP_INTERVALS = 2.5
"""Samples further apart than this many intervals have a gap between them."""
STAMP_SHIFT_MS = 2
"""Prometheus moves a time stamp by up to this much so that it compresses well (scrape.go)."""
PROMETHEUS = "prometheus"
_UNSTORED = frozenset({"__name__", "instance", "job", "node", "run_id", "service"})


@dataclass(frozen=True, order=True)
class TargetName:
    """Which endpoint: printed as ``service@node``; the node is empty when nothing names it."""

    service: str
    node: str

    def __str__(self) -> str:
        return f"{self.service}@{self.node}" if self.node else self.service


@dataclass(frozen=True)
class Boundary:
    """One fetch of one target, at one end of a phase or while Prometheus was not ready yet.

    Args:
        phase: Name of the phase; empty for a fetch of the boot.
        side: Which end of it, or ``boot``.
        before_ms: When the fetch began.
        after_ms: When it was complete.
        usable: Whether there is an exposition.
        whole: Whether the exposition is complete, so that what is not in it was not there.
        left: Whether it is what a payload left behind when it ended.
    """

    phase: str
    side: Side | Literal["boot"]
    before_ms: int
    after_ms: int
    usable: bool
    whole: bool
    left: bool = False


@dataclass(frozen=True)
class Track:
    """One label set of one metric of one target: recorded samples, and values at boundaries.

    Args:
        labels: Without ``node`` and ``service``.
        times_ms: Shape (n,).
        values: Shape (n,).
        ends_ms: Where the series was marked as ended.
        edges: Value by index into the target's ``boundaries``.
    """

    labels: Labels
    times_ms: Times
    values: Values
    ends_ms: Times
    edges: Mapping[int, float]

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return dict(self.labels)

    def label(self, name: str) -> str:
        """Return one label, empty when it is not there."""
        return self._by_name.get(name, "")


@dataclass(frozen=True)
class Scrapes:
    """What Prometheus says of its own attempts to read a target.

    Args:
        times_ms: Shape (n,): start of each scrape.
        done_ms: Shape (n,): its end.
        up: Shape (n,): whether it succeeded.
        shift_ms: How far a time stamp may have been moved; nothing where no Prometheus scraped.
    """

    times_ms: Times
    done_ms: Times
    up: npt.NDArray[np.bool_]
    shift_ms: int = STAMP_SHIFT_MS


@dataclass(frozen=True)
class Clock:
    """A clock beside the one that stamped the samples.

    Args:
        offset_ms: How far it is ahead.
        error_ms: How far off that may be.
    """

    offset_ms: float = 0.0
    error_ms: int = 1000


UNKNOWN_CLOCK = Clock()
SAME_CLOCK = Clock(error_ms=STAMP_SHIFT_MS)
MEASURED_ERROR_MS = 100
"""A clock is measured by a scrape, which takes some milliseconds, and it may drift."""
NO_TIMES: Times = np.empty(0, np.int64)
NO_SCRAPES = Scrapes(NO_TIMES, NO_TIMES, np.empty(0, np.bool_))


@dataclass(frozen=True)
class Target:
    """One endpoint with everything that is known of it.

    Args:
        name: Service and node.
        kind: Who it belongs to.
        interval_ms: Between two scrapes.
        scrapes: Prometheus's own record.
        boundaries: Fetches at the ends of phases.
        tracks: By series name, in the words of the vocabulary where it knows them.
        counters: Names of counters that are not in the vocabulary.
        run_id: Of the run this should belong to.
        job_start_ms: When the job began, if its cgroups began with it; else None.
        clock: Its clock, beside the one that stamped the samples.
        third_party: Whether it is part of the stack and yet does not say of which run.
        found_ms: When it was found, None of one that was planned.
        kpi_groups: Groups of the catalogue that it should have numbers for, whatever it exposes.
        chosen: Label sets that were asked for, by what was asked.
    """

    name: TargetName
    kind: Kind
    interval_ms: float
    run_id: str
    scrapes: Scrapes = NO_SCRAPES
    boundaries: tuple[Boundary, ...] = ()
    tracks: Mapping[str, tuple[Track, ...]] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    job_start_ms: int | None = None
    clock: Clock = UNKNOWN_CLOCK
    third_party: bool = False
    found_ms: int | None = None
    kpi_groups: frozenset[str] = frozenset()
    chosen: dict[Hashable, tuple[Track, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def max_gap_ms(self) -> float:
        """How far apart two samples may be."""
        return GAP_INTERVALS * self.interval_ms

    @cached_property
    def ever_up(self) -> bool:
        """Whether it answered at all, to Prometheus or at a boundary."""
        return bool(self.scrapes.up.any()) or any(one.usable for one in self.boundaries)

    @cached_property
    def foreign(self) -> bool:
        """Whether something that is not of this run answered in its place."""
        tells = self.kind == "stack" and self.name.service != PROMETHEUS and not self.third_party
        if not tells or not self.ever_up:
            return False
        owners = {track.label("exported_run_id") for track in self.tracks.get(RUN_INFO, ())}
        return owners != {self.run_id}

    def boundary(self, phase: str, side: Side) -> int | None:
        """Return the index of one boundary; None when the target was not asked there.

        A target may be asked twice: what it left as a file counts before a fetch that failed.
        """
        found = [
            index
            for index, one in enumerate(self.boundaries)
            if (one.phase, one.side) == (phase, side)
        ]
        usable = [index for index in found if self.boundaries[index].usable]
        return next(iter([*usable, *found]), None)

    def done_ms(self, times_ms: Times) -> Times:
        """Return when the scrapes that began at ``times_ms`` were complete, as far as known."""
        if not self.scrapes.times_ms.size:
            return times_ms
        at = np.searchsorted(self.scrapes.times_ms, times_ms)
        at = np.minimum(at, self.scrapes.times_ms.size - 1)
        same = self.scrapes.times_ms[at] == times_ms
        return np.where(same, self.scrapes.done_ms[at], times_ms)

    @cached_property
    def answered_ms(self) -> Times:
        """Return every moment at which it answered: scrapes that succeeded, usable boundaries."""
        edges = [one.after_ms for one in self.boundaries if one.usable]
        recorded = self.scrapes.times_ms[self.scrapes.up]
        return np.unique(np.concatenate([recorded, np.array(edges, np.int64)]))

    @cached_property
    def silent_ms(self) -> Times:
        """Return every moment at which it did not answer when asked."""
        edges = [one.before_ms for one in self.boundaries if not one.usable]
        recorded = self.scrapes.times_ms[~self.scrapes.up]
        return np.unique(np.concatenate([recorded, np.array(edges, np.int64)]))

    def answers(self, window: Window, phase: str) -> Times:
        """Return when it answered in ``window``; the phase's own edges stand at its ends."""
        times = self.answered_ms
        a, b = window.start_ms, window.end_ms
        inside = times[times.searchsorted(a) : times.searchsorted(b, "right")]
        opening = self.boundary_usable(phase, "start") and a not in inside[:1]
        closing = self.boundary_usable(phase, "end") and b not in inside[-1:]
        ends = ([a] if opening else [], [b] if closing else [])
        return np.concatenate([ends[0], inside, ends[1]]).astype(np.int64)

    def coverage(self, window: Window, phase: str) -> float:
        """Return the share of ``window`` between answers that are near enough, 0 to 1.

        One interval at each end counts as covered: nobody promised a sample earlier.
        """
        times = self.answers(window, phase).astype(float)
        if not times.size:
            return 0.0
        steps = np.diff(times)
        covered = float(steps[steps <= self.max_gap_ms].sum())
        ends = (times[0] - window.start_ms, window.end_ms - times[-1])
        covered += sum(end for end in ends if end <= self.interval_ms + STAMP_SHIFT_MS)
        return float(min(1.0, covered / (window.end_ms - window.start_ms)))

    def lost(self, window: Window, phase: str) -> bool:
        """Whether it answered in or before ``window``, and then did not when it was asked.

        A recording that simply ends says nothing of its targets.
        """
        answered, silent = self.answered_ms, self.silent_ms
        before_end = answered[answered <= window.end_ms]
        if not before_end.size or self.boundary_usable(phase, "end"):
            return False
        if (answered >= window.end_ms).any():
            return False
        return bool((silent > before_end[-1]).any())

    def boundary_usable(self, phase: str, side: Side) -> bool:
        """Whether there is an exposition of one end of ``phase``."""
        index = self.boundary(phase, side)
        return index is not None and self.boundaries[index].usable


RUN_INFO = "jobmeter_run_info"
_ABOUT_SCRAPES = ("up", "scrape_duration_seconds")


@dataclass(frozen=True)
class Edge:
    """One fetch with what it brought."""

    boundary: Boundary
    exposition: Exposition | None


def read_edges(
    attempt: AttemptPaths,
    wanted: Callable[[str], bool],
    stack: Collection[str] | None = None,
) -> tuple[dict[TargetName, list[Edge]], list[str]]:
    """Return the fetches of all boundaries by target, and what could not be read, in words.

    Args:
        attempt: Whose edges.
        wanted: Which metrics of a target to keep.
        stack: Services of which no more is kept, None for all. Of the others, the payload's, every
            metric is: a counter there is known by its declared type, whatever its name.
    """
    edges: dict[TargetName, list[Edge]] = {}
    problems: list[str] = []
    folders = attempt.edges.iterdir() if attempt.edges.is_dir() else ()
    for folder in sorted(folders):
        phase, side = _boundary_of(folder.name)
        if side is None:
            continue
        for fetch in read_fetches(folder):
            keep = wanted if stack is None or fetch.service in stack else None
            exposition = _exposition_of(fetch, keep, problems)
            usable = exposition is not None
            whole = exposition is not None and not exposition.torn
            boundary = Boundary(
                phase, side, fetch.before_ms, fetch.after_ms, usable, whole, fetch.left
            )
            name = TargetName(fetch.service, fetch.node)
            edges.setdefault(name, []).append(Edge(boundary, exposition))
    return edges, problems


def _boundary_of(folder: str) -> tuple[str, Side | Literal["boot"] | None]:
    """Return phase and side of a folder of edges; no side for a folder that is none.

    >>> _boundary_of("warm.up.start"), _boundary_of("boot.3"), _boundary_of("other")
    (('warm.up', 'start'), ('', 'boot'), ('', None))
    """
    phase, _, side = folder.rpartition(".")
    if side == "start" or side == "end":
        return phase, "start" if side == "start" else "end"
    return "", "boot" if phase == "boot" and side.isdigit() else None


def _exposition_of(
    fetch: EdgeFetch, wanted: Callable[[str], bool] | None, problems: list[str]
) -> Exposition | None:
    if not fetch.usable:
        return None
    try:
        exposition = read_exposition(fetch.path, wanted)
    except OSError as cause:
        problems.append(f"edge {fetch.path.parent.name}/{fetch.path.name}: {cause.strerror}")
        return None
    if exposition.torn:
        problems.append(f"edge {fetch.path.parent.name}/{fetch.path.name} is cut or damaged")
    return exposition


class TargetBuilder:
    """Collects what belongs to one target: recorded series first, then edges.

    Args:
        name: Service and node.
        kind: Who it belongs to.
        interval_ms: Between two scrapes; None to learn it from the scrapes.
        run_id: Of the run.
        vocabulary: How metrics are called.
        third_party: Whether it is part of the stack and yet does not say of which run.
        found_ms: When it was found, None of one that was planned.
        kpi_groups: Groups of the catalogue that it should have numbers for.
    """

    def __init__(
        self,
        name: TargetName,
        kind: Kind,
        interval_ms: float | None,
        run_id: str,
        vocabulary: Vocabulary,
        *,
        third_party: bool = False,
        found_ms: int | None = None,
        kpi_groups: Collection[str] = (),
    ) -> None:
        self._name, self._kind, self._interval_ms = name, kind, interval_ms
        self._run_id = run_id
        self._vocabulary = vocabulary
        self._third_party = third_party
        self._found_ms = found_ms
        self._kpi_groups = frozenset(kpi_groups)
        self._series: dict[str, list[Series]] = {}
        self._edges: list[Edge] = []

    def add_series(self, series: Series) -> None:
        """Add a recorded series."""
        self._series.setdefault(series.name, []).append(series)

    def add_edges(self, edges: Sequence[Edge]) -> None:
        """Add the fetches of this target, in order of time."""
        self._edges.extend(sorted(edges, key=lambda edge: edge.boundary.before_ms))

    def build(self, job_start_ms: int | None = None, clock: Clock = UNKNOWN_CLOCK) -> Target:
        """Return the target; without ``job_start_ms`` its cgroups did not begin with the job."""
        samples, declared = self._edge_samples()
        label_sets = {
            name: [series.labels for series in self._series.get(name, ())]
            + [labels for labels, _ in samples.get(name, {}).values()]
            for name in self._series.keys() | samples.keys()
        }
        words = self._vocabulary.meanings(label_sets)
        tracks = {}
        for exposed in sorted(label_sets.keys() - (set(_ABOUT_SCRAPES) - words.keys())):
            word = words.get(exposed)
            series = word.series if word else exposed
            edges = [(labels, by_edge) for labels, by_edge in samples.get(exposed, {}).values()]
            tracks[series] = self._tracks(word, series, self._series.get(exposed, ()), edges)
        scrapes = self._scrapes()
        return Target(
            self._name,
            self._kind,
            self._interval_ms or _usual_interval_ms(scrapes),
            self._run_id,
            scrapes,
            tuple(edge.boundary for edge in self._edges),
            tracks,
            frozenset(declared - words.keys()),
            job_start_ms,
            clock,
            self._third_party,
            self._found_ms,
            self._kpi_groups,
        )

    def _edge_samples(self) -> tuple[dict[str, _EdgeSamples], set[str]]:
        """Return by metric and label set what the edges hold; and what they declare counters."""
        samples: dict[str, _EdgeSamples] = {}
        counters: set[str] = set()
        stored: dict[int, tuple[Mapping[str, str], Labels]] = {}
        """By the identity of the labels as exposed: equal texts have been parsed once."""
        for index, edge in enumerate(self._edges):
            for sample in edge.exposition.samples if edge.exposition else ():
                if id(sample.labels) not in stored:
                    labels = completed(sample.labels, self._name.node, self._name.service)
                    stored[id(sample.labels)] = labels, frozenset(labels.items())
                full, key = stored[id(sample.labels)]
                of_metric = samples.setdefault(sample.name, {})
                of_metric.setdefault(key, (full, {}))[1][index] = sample.value
                if edge.exposition and edge.exposition.is_counter(sample.name):
                    counters.add(sample.name)
        return samples, counters

    def _tracks(
        self,
        word: Word | None,
        series: str,
        recorded: Sequence[Series],
        edges: Sequence[tuple[Mapping[str, str], Mapping[int, float]]],
    ) -> tuple[Track, ...]:
        pieces: dict[Labels, list[Series]] = {}
        values: dict[Labels, dict[int, float]] = {}
        for one in recorded:
            pieces.setdefault(self._labels(word, series, one.labels), []).append(one)
        for labels, by_edge in edges:
            of_labels = values.setdefault(self._labels(word, series, labels), {})
            for index, value in by_edge.items():
                of_labels.setdefault(index, value)
        blank_from = self._vocabulary.families[word.family].blank_from if word else None
        scale = word.scale if word else 1.0
        found = (
            _track(labels, pieces.get(labels, []), values.get(labels, {}), scale, blank_from)
            for labels in sorted(pieces.keys() | values.keys(), key=sorted)
        )
        return tuple(track for track in found if track.times_ms.size or track.edges)

    def _labels(self, word: Word | None, series: str, labels: Mapping[str, str]) -> Labels:
        """Return the labels that say what was measured; ``le`` as the number it is (1 is 1.0)."""
        kept = {key: value for key, value in labels.items() if key not in _UNSTORED}
        if word is not None:
            kept = self._vocabulary.labels(word.family, kept)
        if "le" in kept and series.endswith("_bucket"):
            try:
                kept["le"] = repr(float(kept["le"]))
            except ValueError:
                del kept["le"]
        return frozenset(kept.items())

    def _scrapes(self) -> Scrapes:
        """Return Prometheus's own record; without one, every sample is a scrape that succeeded."""
        up = self._one("up")
        if up is None and self._kind != "recorded":
            return NO_SCRAPES
        if up is None:
            moments = {id(s.times_ms): s.times_ms for of in self._series.values() for s in of}
            times = np.unique(np.concatenate([NO_TIMES, *moments.values()]))
            return Scrapes(times, times, np.ones(times.size, np.bool_), shift_ms=0)
        done = up.times_ms
        duration = self._one("scrape_duration_seconds")
        if duration is not None:
            _, here, there = np.intersect1d(up.times_ms, duration.times_ms, return_indices=True)
            took = np.ceil(duration.values[there] * 1000).astype(np.int64) + STAMP_SHIFT_MS
            done = up.times_ms.copy()
            done[here] += took
        return Scrapes(up.times_ms, done, up.values == 1)

    def _one(self, metric: str) -> Track | None:
        pieces = self._series.get(metric, [])
        return _track(frozenset(), pieces, {}) if pieces else None


_EdgeSamples = dict[Labels, tuple[Mapping[str, str], dict[int, float]]]
"""Label set to its labels, and to its values by index of the edge."""


def _usual_interval_ms(scrapes: Scrapes) -> float:
    """Return the median time between two scrapes; a minute when that cannot be told."""
    return float(np.median(np.diff(scrapes.times_ms))) if scrapes.times_ms.size > 1 else 60_000.0


def _track(
    labels: Labels,
    pieces: Sequence[Series],
    edges: Mapping[int, float],
    scale: float = 1.0,
    blank_from: float | None = None,
) -> Track:
    """Join what was recorded of one label set; blanks left out, in base units."""
    if not pieces:
        times, values, ends = NO_TIMES, np.empty(0), NO_TIMES
    elif len(pieces) == 1:
        times, values, ends = pieces[0].times_ms, pieces[0].values, pieces[0].stale_ms
    else:
        times, first = np.unique(
            np.concatenate([piece.times_ms for piece in pieces]), return_index=True
        )
        values = np.concatenate([piece.values for piece in pieces])[first]
        ends = np.unique(np.concatenate([piece.stale_ms for piece in pieces]))
    if blank_from is not None:
        there = ~(values >= blank_from)
        times, values = times[there], values[there]
        edges = {index: value for index, value in edges.items() if not value >= blank_from}
    if scale != 1:
        values = values * scale
        edges = {index: value * scale for index, value in edges.items()}
    return Track(labels, times, values, ends, edges)
