"""From the tracks of a target to what its counters were, when, seen from one window.

Three things happen here: the edges of the phase become its ends, readings that overlap an edge are
left out (their order is not known), and a counter that did not exist yet is known to have been
zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from jobmeter.paths import Side
from jobmeter.window import Phase
from jobmeter_analysis.counters import Readings
from jobmeter_analysis.recording import Times, Values
from jobmeter_analysis.targets import STAMP_SHIFT_MS, Target, Track

Since = Literal["process", "job", "boot"]
"""When a counter was zero: at the start of the process that exposes it, of the job, of the node."""

PROCESS_START = "process_start_time_seconds"
CLOCK_TICK_MS = 1000
"""Programs compute their start from the boot time in whole seconds."""


@dataclass(frozen=True)
class Block:
    """K counters of one target that were recorded at the same moments.

    Args:
        times_ms: Shape (n,).
        values: Shape (n, K).
        edges: Boundary index to shape (K,); a boundary that lacks the counters is not in it.
        created_ms: Birth of the counters if they tell it, else None.
    """

    times_ms: Times
    values: Values
    edges: Mapping[int, Values]
    created_ms: float | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing at all is known."""
        return not self.times_ms.size and not self.edges


@dataclass(frozen=True)
class Seen:
    """Readings of one block for one phase.

    Args:
        readings: For ``counters.increases``.
        shortest_s: The shortest time that may have passed between first and last reading, when
            these are the edges of the phase; else the phase itself.
        longest_s: The longest.
        between_edges: Whether both edges of the phase are there.
        edges: How many readings are edges.
    """

    readings: Readings
    shortest_s: float
    longest_s: float
    between_edges: bool
    edges: int


def blocks(tracks: Iterable[Track], created: Mapping[object, float] | None = None) -> list[Block]:
    """Group tracks with the same moments, so that they can be computed at once."""
    groups: dict[object, list[Track]] = {}
    for track in tracks:
        ends = track.times_ms[[0, -1]].tolist() if track.times_ms.size else []
        birth = (created or {}).get(track.labels)
        key = (track.times_ms.size, *ends, tuple(track.edges), birth)
        alike = groups.setdefault(key, [])
        while alike and not np.array_equal(alike[0].times_ms, track.times_ms):
            key = (key, 0)  # same number and ends, other moments between
            alike = groups.setdefault(key, [])
        alike.append(track)
    return [_block(group, (created or {}).get(group[0].labels)) for group in groups.values()]


def _block(tracks: Sequence[Track], created_ms: float | None) -> Block:
    return Block(
        tracks[0].times_ms,
        np.column_stack([track.values for track in tracks]),
        {index: np.array([track.edges[index] for track in tracks]) for index in tracks[0].edges},
        created_ms,
    )


def creations(target: Target, metric: str) -> dict[object, float]:
    """Return when the label sets of ``metric`` were created, in milliseconds, where they tell."""
    name = f"{metric.removesuffix('_total')}_created"
    born: dict[object, float] = {}
    for track in target.tracks.get(name, ()):
        values = [*track.values.tolist(), *track.edges.values()]
        if values:
            born[track.labels] = 1000 * max(values)
    return born


def seen_in(phase: Phase, block: Block, target: Target, since: Since) -> Seen | None:
    """Return the readings of ``block`` as ``phase`` sees them; None when there are none."""
    rows = _Rows(target, block, phase)
    start = rows.anchor("start")
    end = rows.anchor("end")
    rows.place_edges(start, end)
    if start is None:
        rows.forget_earlier_process()
    if end is None:
        rows.forget_later_process()
    readings = rows.readings(since)
    if readings is None:
        return None
    shortest = longest = phase.window.seconds
    if start is not None and end is not None and target.kind == "stack":
        first, last = target.boundaries[start], target.boundaries[end]
        shortest = (last.before_ms - first.after_ms) / 1000
        longest = (last.after_ms - first.before_ms) / 1000
    both = start is not None and end is not None
    return Seen(readings, shortest, longest, both, rows.edge_rows)


class _Rows:
    """Readings of one block while they are put in order."""

    def __init__(self, target: Target, block: Block, phase: Phase) -> None:
        self._target = target
        self._block = block
        self._phase = phase
        shift = STAMP_SHIFT_MS if target.scrapes.times_ms.size else 0
        self._earliest: Times = block.times_ms - shift
        self._latest: Times = np.maximum(target.done_ms(block.times_ms), block.times_ms)
        self._values: Values = block.values
        self._measured = np.ones(block.times_ms.size, np.bool_)
        self._begun: Values = _process_starts_s(target, block.times_ms)
        self.edge_rows = 0

    def anchor(self, side: Side) -> int | None:
        """Return the boundary that is this end of the phase, if it knows the counters.

        A whole exposition without them, when nothing of them is known before, knows that they do
        not exist yet: they are zero there.
        """
        index = self._target.boundary(self._phase.name, side)
        if index is None or not self._target.boundaries[index].usable:
            return None
        if index in self._block.edges:
            return index
        unborn = (
            side == "start"
            and self._target.kind == "payload"
            and self._target.boundaries[index].whole
            and not (self._earliest <= self._phase.window.start_ms).any()
            and min(self._block.edges, default=index) >= index
        )
        return index if unborn else None

    def place_edges(self, start: int | None, end: int | None) -> None:
        """Put the edges between the recorded readings; drop what overlaps or lies beyond."""
        spans = self._spans(start, end)
        first = -np.inf if start is None else spans[start][1]
        last = np.inf if end is None else spans[end][0]
        keep = (self._earliest >= first) & (self._latest <= last)
        for low, high in spans.values():
            keep &= (self._latest < low) | (self._earliest > high)
        used = [
            index
            for index, (low, high) in spans.items()
            if index in (start, end) or (low >= first and high <= last)
        ]
        self._keep(keep)
        none = np.zeros(self._values.shape[1])
        for index in used:
            begun = _process_start_at_edge_s(self._target, index)
            self._append(*spans[index], self._block.edges.get(index, none), begun)
        self.edge_rows = len(used)

    def _spans(self, start: int | None, end: int | None) -> dict[int, tuple[int, int]]:
        """Return by boundary index between which times its values were true.

        What a payload counts stands still between an edge of the phase and its mark.
        """
        a, b = self._phase.window.start_ms, self._phase.window.end_ms
        spans = {}
        anchors = [index for index in (start, end) if index is not None]
        for index in sorted({*self._block.edges, *anchors}):
            one = self._target.boundaries[index]
            spans[index] = (one.before_ms, one.after_ms)
        point = self._target.kind == "payload"
        if start is not None:
            before, after = spans[start]
            spans[start] = (a, a) if point else (min(before, a), min(after, a))
        if end is not None:
            before, after = spans[end]
            spans[end] = (b, b) if point else (max(before, b), max(after, b))
        return spans

    def forget_earlier_process(self) -> None:
        """Begin at zero when the payload did not answer at the start and then began anew."""
        if not self._silent_at("start"):
            return
        before, after = self._neighbours(self._phase.window.start_ms)
        if before is None or after is None:
            return
        anew = self._begun_since_start(int(self._earliest[after])) is True
        if anew or (self._values[after] < self._values[before]).any():
            self._keep(slice(after, None))
            self._prepend_zero(self._phase.window.start_ms)

    def forget_later_process(self) -> None:
        """Ignore what a later process counted when this one did not answer at the end."""
        if not self._silent_at("end"):
            return
        before, after = self._neighbours(self._phase.window.end_ms)
        if before is None or after is None:
            return
        if (self._values[after] < self._values[before]).any():
            self._keep(slice(None, before + 1))

    def readings(self, since: Since) -> Readings | None:
        """Return the readings around the window, births filled in."""
        if not self._earliest.size:
            return None
        zeros, zero_based = self._births(since)
        for time_ms in reversed(zeros):
            self._prepend_zero(time_ms)
        latest = np.maximum.accumulate(self._latest)
        p = int(np.searchsorted(latest, self._phase.window.start_ms, "right")) - 1
        s = int(np.searchsorted(self._earliest, self._phase.window.end_ms, "left"))
        used = slice(max(p, 0), s + 1)
        return Readings(
            self._earliest[used],
            latest[used],
            self._values[used],
            self._measured[used],
            zero_based,
            self._restarted(since)[used],
        )

    def _restarted(self, since: Since) -> npt.NDArray[np.bool_]:
        """Return at which readings another process answered than at the reading before.

        A counter that its process began at zero has then been reset, even when it has already
        overtaken what it was.
        """
        restarted = np.zeros(self._begun.size, np.bool_)
        if since == "process" and restarted.size:
            # NaN, an unknown start, compares as no change.
            restarted[1:] = np.abs(np.diff(self._begun)) * 1000 > CLOCK_TICK_MS / 2
        return restarted

    def _births(self, since: Since) -> tuple[list[int], bool]:
        """Return moments, in order, at which the counters were surely zero, before all readings.

        And whether, without any, they are to be counted from zero all the same.
        """
        a, first = self._phase.window.start_ms, int(self._earliest[0])
        if int(self._latest[0]) <= a or since == "boot":
            return [], False
        if since == "job":
            start = self._target.job_start_ms
            return ([start] if start is not None and start < first else []), False
        absent = self._answered_without(first)
        if absent is None:
            return [], False
        if absent.size:
            return sorted({*absent[absent <= a][-1:].tolist(), int(absent[-1])}), False
        born = self._birth_ms(first)
        if born is None:
            return [], True
        return ([born] if born <= a else [a, born]), False

    def _answered_without(self, first_ms: int) -> Times | None:
        """Return when the target answered before ``first_ms``, and did not have the counters.

        None when an answer was not whole, so that the counters may have been in it.
        """
        scrapes = self._target.scrapes
        absent = scrapes.times_ms[scrapes.up]
        absent = absent[~np.isin(absent, self._block.times_ms)]
        edges = [
            one
            for index, one in enumerate(self._target.boundaries)
            if one.usable and index not in self._block.edges and one.after_ms < first_ms
        ]
        if not all(one.whole for one in edges):
            return None
        moments = np.unique(np.concatenate([absent, _column(one.after_ms for one in edges)]))
        return moments[moments < first_ms - STAMP_SHIFT_MS]

    def _birth_ms(self, first_ms: int) -> int | None:
        """Return a moment before ``first_ms`` at which the counters did not exist yet."""
        a = self._phase.window.start_ms
        begun = _process_start_ms(self._target, first_ms)
        if self._silent_at("start") and self._begun_since_start(first_ms) is not False:
            return min(a, first_ms)
        if self._block.created_ms is not None and self._block.created_ms <= first_ms:
            return int(self._block.created_ms)
        if begun is not None:
            return min(int(begun) - CLOCK_TICK_MS, first_ms)
        silent = self._target.silent_ms
        silent = silent[silent < first_ms]
        return int(silent[-1]) if silent.size else None

    def _silent_at(self, side: Side) -> bool:
        """Whether the payload was asked at this end of the phase and did not answer."""
        index = self._target.boundary(self._phase.name, side)
        if index is None or self._target.kind != "payload":
            return False
        return not self._target.boundaries[index].usable

    def _begun_since_start(self, at_ms: int) -> bool | None:
        """Whether the process that answered at ``at_ms`` began in the phase; None if unknown."""
        begun = _process_start_ms(self._target, at_ms)
        return None if begun is None else begun >= self._phase.window.start_ms - CLOCK_TICK_MS

    def _neighbours(self, time_ms: int) -> tuple[int | None, int | None]:
        before = int(np.searchsorted(self._latest, time_ms, "right")) - 1
        after = int(np.searchsorted(self._earliest, time_ms, "left"))
        return (
            before if before >= 0 else None,
            after if after < self._earliest.size else None,
        )

    def _keep(self, part: slice | npt.NDArray[np.bool_]) -> None:
        self._earliest, self._latest = self._earliest[part], self._latest[part]
        self._values, self._measured = self._values[part], self._measured[part]
        self._begun = self._begun[part]

    def _append(self, earliest: int, latest: int, values: Values, begun_s: float) -> None:
        """Add a reading at its place in time."""
        at = int(np.searchsorted(self._earliest, earliest, "right"))
        self._earliest = np.insert(self._earliest, at, earliest)
        self._latest = np.insert(self._latest, at, latest)
        self._values = np.insert(self._values, at, values, axis=0)
        self._measured = np.insert(self._measured, at, True)
        self._begun = np.insert(self._begun, at, begun_s)

    def _prepend_zero(self, time_ms: int) -> None:
        """Add an inferred reading of zero before all others."""
        self._earliest = np.insert(self._earliest, 0, time_ms)
        self._latest = np.insert(self._latest, 0, time_ms)
        self._values = np.insert(self._values, 0, 0.0, axis=0)
        self._measured = np.insert(self._measured, 0, False)
        self._begun = np.insert(self._begun, 0, np.nan)


def _column(times: Iterable[int]) -> Times:
    return np.array(list(times), dtype=np.int64)


def _process_starts_s(target: Target, times_ms: Times) -> Values:
    """Return shape (n,): when the process that answered a scrape says it began; NaN if unknown."""
    begun = np.full(times_ms.size, np.nan)
    for track in target.tracks.get(PROCESS_START, ()):
        if track.times_ms.size:
            at = np.minimum(np.searchsorted(track.times_ms, times_ms), track.times_ms.size - 1)
            begun = np.where(track.times_ms[at] == times_ms, track.values[at], begun)
    return begun


def _process_start_at_edge_s(target: Target, index: int) -> float:
    """Return when the process that answered at a boundary says it began; NaN if unknown."""
    tracks = target.tracks.get(PROCESS_START, ())
    return next((t.edges[index] for t in tracks if index in t.edges), float("nan"))


def _process_start_ms(target: Target, at_ms: int) -> float | None:
    """Return when the process that answered first at or after ``at_ms`` says it began."""
    times: list[npt.NDArray[np.int64]] = []
    values: list[Values] = []
    for track in target.tracks.get(PROCESS_START, ()):
        edges = [target.boundaries[index].after_ms for index in track.edges]
        times += [track.times_ms, _column(edges)]
        values += [track.values, np.array(list(track.edges.values()))]
    if not times:
        return None
    moments, begun = np.concatenate(times), np.concatenate(values)
    later = moments >= at_ms
    if not later.any():
        return None
    return 1000 * float(begun[later][np.argmin(moments[later])])
