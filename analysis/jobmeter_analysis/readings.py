"""From the tracks of a target to what its counters were, when, seen from one window.

Three things happen here: the edges of the phase become its ends, readings that overlap an edge are
left out (their order is not known), and a counter that did not exist yet is known to have been
zero.

A zero that is claimed too early is still true, as a counter that does not exist has counted
nothing. One that is claimed too late makes the lower bound wrong. So a birth that a process tells
(``_created``, its start) is taken from its clock to the recorder's, moved back by what that clock
may be off, a start by ``CLOCK_TICK_MS``, and dropped when a reading contradicts it; an answer
without the counter proves a zero at its beginning, not at its end; and of the failed attempts to
read only those prove that nobody was there that failed at once, as a refused connection does and a
timeout does not.

What nothing tells cannot be seen: a process that lived and died between two readings, a restart
that overtakes the last reading when no process says when it began, a clock that is off by more
than a tick without its ``Clock`` saying so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from jobmeter.paths import Side
from jobmeter.window import Phase
from jobmeter_analysis.counters import ROUNDING, Readings
from jobmeter_analysis.recording import Shared, Times, Values
from jobmeter_analysis.targets import STAMP_SHIFT_MS, Boundary, Target, Track

Since = Literal["process", "job", "boot"]
"""When a counter was zero: at the start of the process that exposes it, of the job, of the node."""

PROCESS_START = "process_start_time_seconds"
CLOCK_TICK_MS = 1000
"""Programs compute their start from the boot time in whole seconds."""
REFUSAL_MS = 1000
"""A failure that took longer was no refusal: somebody may have been there, too busy to answer."""
DIP_SINCE_BOOT = 0.01
"""Kernels take back a little now and then (the iowait of a processor); a boot begins near zero."""


@dataclass(frozen=True)
class Block:
    """K counters of one target that were recorded at the same moments.

    Args:
        times_ms: Shape (n,).
        values: Shape (n, K).
        edges: Boundary index to shape (K,); a boundary that lacks the counters is not in it.
        created_ms: Birth of the counters if they tell it, by the clock of the target; else None.
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
    shared = Shared()
    births = created or {}
    groups: dict[object, list[Track]] = {}
    for track in tracks:
        times = shared(track.times_ms)
        key = (id(times), tuple(track.edges), births.get(track.labels))
        groups.setdefault(key, []).append(track)
    return [_block(group, births.get(group[0].labels)) for group in groups.values()]


def _block(tracks: Sequence[Track], created_ms: float | None) -> Block:
    return Block(
        tracks[0].times_ms,
        np.array([track.values for track in tracks]).T,  # each counter in one piece, as it comes
        {index: np.array([track.edges[index] for track in tracks]) for index in tracks[0].edges},
        created_ms,
    )


def creations(target: Target, metric: str) -> dict[object, float]:
    """Return when the label sets of ``metric`` were first created, in milliseconds.

    By the clock of the target, and only where they tell: a second creation is that of another
    process.
    """
    name = f"{metric.removesuffix('_total')}_created"
    born: dict[object, float] = {}
    for track in target.tracks.get(name, ()):
        told = [(int(track.times_ms[0]), float(track.values[0]))] if track.times_ms.size else []
        told += [(target.boundaries[index].before_ms, at) for index, at in track.edges.items()]
        first = min(told, default=(0, float("nan")))[1]
        if not np.isnan(first):
            born[track.labels] = 1000 * first
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
    if since == "process":
        rows.forget_who_is_unknown(start, end)
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
    """Readings of one block while they are put in order.

    Only their times are moved about; ``_source`` says which row of the block holds the values or,
    below zero, which of the values that were added. They are put together once, at the end.
    """

    def __init__(self, target: Target, block: Block, phase: Phase) -> None:
        self._target = target
        self._block = block
        self._phase = phase
        self._shift = target.scrapes.shift_ms if target.scrapes.times_ms.size else 0
        self._earliest: Times = block.times_ms - self._shift
        self._latest: Times = np.maximum(
            target.done_ms(block.times_ms), block.times_ms + self._shift
        )
        self._begun: Values = _process_starts_ms(target, block.times_ms)
        self._source = np.arange(block.times_ms.size)
        self._added: list[tuple[Values, bool]] = []
        self.edge_rows = 0

    def anchor(self, side: Side) -> int | None:
        """Return the boundary that is this end of the phase, if it knows the counters.

        A whole exposition without them, when nothing of them is known before, knows that they do
        not exist yet: they are zero there. So it is at the end with what a later phase begins to
        count, a server's requests to another endpoint for example.
        """
        index = self._target.boundary(self._phase.name, side)
        if index is None or not self._target.boundaries[index].usable:
            return None
        if index in self._block.edges:
            return index
        window = self._phase.window
        edge_ms = window.start_ms if side == "start" else window.end_ms
        unborn = (
            self._target.kind == "payload"
            and self._target.boundaries[index].whole
            and not (self._earliest <= edge_ms).any()
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
        # What lies wholly between an edge of the phase and its mark knows no more than the edge.
        a, b = self._phase.window.start_ms, self._phase.window.end_ms
        if start is not None:
            keep &= self._latest > a
        if end is not None:
            keep &= self._earliest < b
        used = [
            index
            for index, (low, high) in spans.items()
            if index in (start, end) or (low >= first and high <= last)
        ]
        if not keep.all():
            self._keep(keep)
        none = np.zeros(self._block.values.shape[1])
        for index in used:
            begun = _process_start_at_edge_ms(self._target, index)
            self._add(*spans[index], self._block.edges.get(index, none), begun)
        self.edge_rows = len(used)
        if self._target.kind == "payload":
            self._stand_still(start is not None, end is not None)

    def _spans(self, start: int | None, end: int | None) -> dict[int, tuple[int, int]]:
        """Return by boundary index between which times its values were read."""
        a, b = self._phase.window.start_ms, self._phase.window.end_ms
        spans = {}
        anchors = [index for index in (start, end) if index is not None]
        for index in sorted({*self._block.edges, *anchors}):
            one = self._target.boundaries[index]
            spans[index] = (one.before_ms, one.after_ms)
        if start is not None:
            before, after = spans[start]
            spans[start] = (min(before, a), min(after, a))
        if end is not None:
            before, after = spans[end]
            spans[end] = (max(before, b), max(after, b))
        return spans

    def _stand_still(self, start: bool, end: bool) -> None:
        """Move what lies between an edge of the phase and its mark, the edge first, to the mark.

        What a payload counts stands still there.
        """
        a, b = self._phase.window.start_ms, self._phase.window.end_ms
        low, high = (a if start else -np.inf), (b if end else np.inf)
        self._earliest = np.clip(self._earliest, low, high).astype(np.int64)
        self._latest = np.clip(self._latest, low, high).astype(np.int64)

    def forget_earlier_process(self) -> None:
        """Begin at zero when nobody was there at the start and then the payload began anew."""
        left = self._left_before_start()
        if not left and not self._nobody_at_start():
            return
        a = self._phase.window.start_ms
        before, after = self._neighbours(a)
        if before is None or after is None:
            return
        for across in range(before + 1, after):
            # A scrape across the start that was answered by who began after it, and so after it.
            if self._begun_since_start(across) is True:
                self._earliest[across:after] = a
                after = across
                break
        anew = self._begun_since_start(after) is True
        fell = not left and bool((self._values_of(after) < self._values_of(before)).any())
        if anew or fell:
            self._keep(slice(after, None))
            self._add_zero(a)

    def forget_later_process(self) -> None:
        """Ignore what a later process counted when this one did not answer at the end."""
        if not self._silent_at("end"):
            return
        before, after = self._neighbours(self._phase.window.end_ms)
        if before is None or after is None:
            return
        other = abs(self._begun[after] - self._begun[before]) > CLOCK_TICK_MS
        if other or (self._values_of(after) < self._values_of(before)).any():
            self._keep(slice(None, before + 1))

    def forget_who_is_unknown(self, start: int | None, end: int | None) -> None:
        """Drop readings of which it is not known whether they are of the old or the new process.

        These are readings that do not tell when their process began (a torn edge), between two
        that tell different times, unless a counter that fell shows where the new one begins.
        """
        known = np.flatnonzero(~np.isnan(self._begun))
        if known.size in (0, self._begun.size):
            return
        keep = np.ones(self._begun.size, np.bool_)
        new = np.flatnonzero(self._new_process(known[:-1], known[1:]))
        for left, right in zip(known[new], known[new + 1], strict=True):
            rows = [self._values_of(row) for row in range(left, right + 1)]
            falls = [
                left + 1 + step
                for step, (one, two) in enumerate(itertools.pairwise(rows))
                if (two < one).any()
            ]
            if falls:
                self._begun[left + 1 : falls[0]] = self._begun[left]
                self._begun[falls[0] : right] = self._begun[right]
            else:
                keep[left + 1 : right] = False
        if not keep.all():
            self._keep(keep)

    def readings(self, since: Since) -> Readings | None:
        """Return the readings around the window, births filled in."""
        if not self._earliest.size:
            return None
        zeros, zero_based = self._births(since)
        for time_ms, begun in reversed(zeros):
            self._add_zero(time_ms, begun)
        latest = np.maximum.accumulate(self._latest)
        p = int(np.searchsorted(latest, self._phase.window.start_ms, "right")) - 1
        s = int(np.searchsorted(self._earliest, self._phase.window.end_ms, "left"))
        used = slice(max(p, 0), s + 1)
        return Readings(
            self._earliest[used],
            latest[used],
            self._put_together(self._source[used]),
            self._measured(self._source[used]),
            zero_based,
            self._restarted(since)[used],
            DIP_SINCE_BOOT if since == "boot" else ROUNDING,
        )

    def _put_together(self, source: npt.NDArray[np.int64]) -> Values:
        """Return shape (n, K): the values of rows, without a copy when they lie in one piece."""
        recorded = self._block.values
        piece = (source[1:] == source[:-1] + 1) & (source[:-1] >= 0)
        if piece.all() and source[0] >= 0:
            return np.asarray(recorded[source[0] : source[-1] + 1])
        values: Values = np.empty((recorded.shape[1], source.size)).T
        starts = np.flatnonzero(~np.append(False, piece))
        for begin, end in zip(starts, [*starts[1:], source.size], strict=True):
            row = int(source[begin])
            if row >= 0:
                values[begin:end] = recorded[row : row + end - begin]
            else:
                values[begin] = self._added[-1 - row][0]
        return values

    def _measured(self, source: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        measured = np.ones(source.size, np.bool_)
        for at in np.flatnonzero(source < 0):
            measured[at] = self._added[-1 - int(source[at])][1]
        return measured

    def _values_of(self, row: int) -> Values:
        source = int(self._source[row])
        return self._block.values[source] if source >= 0 else self._added[-1 - source][0]

    def _restarted(self, since: Since) -> npt.NDArray[np.bool_]:
        """Return at which readings another process answered than at the reading before.

        A counter that its process began at zero has then been reset, even when it has already
        overtaken what it was.
        """
        restarted = np.zeros(self._begun.size, np.bool_)
        if since == "process" and restarted.size:
            rows = np.arange(restarted.size)
            restarted[1:] = self._new_process(rows[:-1], rows[1:])
        return restarted

    def _new_process(
        self, before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Whether another process answered at rows ``after`` than at rows ``before``.

        Not when the start only jumped by a tick, as that of a program does that computes it anew
        from a boot time in whole seconds: a new process begins after the old one was read.
        """
        # NaN, an unknown start, compares as no change.
        moved = np.abs(self._begun[after] - self._begun[before])
        later = self._begun[after] + CLOCK_TICK_MS / 2 > self._earliest[before]
        return np.asarray((moved > 1.5 * CLOCK_TICK_MS) | ((moved > CLOCK_TICK_MS / 2) & later))

    def _births(self, since: Since) -> tuple[list[tuple[int, float]], bool]:
        """Return moments, in order, at which the counters were surely zero, before all readings.

        With the start of the process that answered then, NaN if none did or it is not known. And
        whether, without any, the counters are to be counted from zero all the same.
        """
        a, first = self._phase.window.start_ms, int(self._earliest[0])
        if int(self._latest[0]) <= a or since == "boot":
            return [], False
        if since == "job":
            # Slurm has charged the group for starting the script before its first line says so: the
            # counters were zero at some moment before that, not at it.
            begin = self._target.job_start_ms
            return (
                [(begin - 1, float("nan"))] if begin is not None and begin < first else []
            ), False
        absent = self._answered_without(first)
        if absent:
            if self._came_since_start():
                return [(a, float("nan")), *(one for one in absent[-1:] if one[0] > a)], False
            opening = [one for one in absent if one[0] <= a][-1:]
            return [*opening, *(one for one in absent[-1:] if one not in opening)], False
        torn = self._torn_before(first)
        born = self._birth_ms()
        if born is None or (torn is not None and torn < born):
            # What recorded it may have begun long after it did.
            return [], torn is None and self._target.kind != "recorded"
        return self._from(born), False

    def _from(self, born: int) -> list[tuple[int, float]]:
        """Return the zero at a birth, and at the start of the window when that comes first."""
        a, nan = self._phase.window.start_ms, float("nan")
        return [(born, nan)] if born <= a else [(a, nan), (born, nan)]

    def _without(self, first_ms: int) -> list[tuple[int, Boundary]]:
        """Return the boundaries before ``first_ms`` that answered and lack the counters."""
        return [
            (index, one)
            for index, one in enumerate(self._target.boundaries)
            if one.usable and index not in self._block.edges and one.after_ms < first_ms
        ]

    def _torn_before(self, first_ms: int) -> int | None:
        """Return when an answer ended early that may have had the counters; None if none did."""
        torn = [one.before_ms for _, one in self._without(first_ms) if not one.whole]
        return min(torn, default=None)

    def _answered_without(self, first_ms: int) -> list[tuple[int, float]]:
        """Return when the target answered before ``first_ms`` and did not have the counters.

        With the start of its process, NaN if that is not known.
        """
        scrapes, block_ms = self._target.scrapes, self._block.times_ms
        absent = scrapes.times_ms[: np.searchsorted(scrapes.times_ms, first_ms)]
        absent = absent[scrapes.up[: absent.size]]
        earlier = block_ms[: np.searchsorted(block_ms, first_ms)]
        if earlier.size:
            absent = np.setdiff1d(absent, earlier, assume_unique=True)
        opening = int(np.searchsorted(absent, self._phase.window.start_ms + self._shift, "right"))
        telling = absent[sorted({max(opening - 1, 0), absent.size - 1})] if absent.size else absent
        found = list(
            zip(
                (telling - self._shift).tolist(),
                _process_starts_ms(self._target, telling).tolist(),
                strict=True,
            )
        )
        found += [
            (one.before_ms, _process_start_at_edge_ms(self._target, index))
            for index, one in self._without(first_ms)
            if one.whole
        ]
        return sorted(found, key=lambda one: one[0])

    def _birth_ms(self) -> int | None:
        """Return a moment before the first reading at which the counters did not exist yet."""
        a = self._phase.window.start_ms
        first, latest = int(self._earliest[0]), int(self._latest[0])
        if self._nobody_at_start() and self._begun_since_start(0) is not False:
            return min(a, first)
        created = self._block.created_ms
        told: list[tuple[float | None, int]] = [(self._begun_of(0), CLOCK_TICK_MS)]
        if created is not None:
            error_ms = self._target.clock.error_ms
            told.insert(0, (created - self._target.clock.offset_ms, error_ms))
        for at, error_ms in told:
            # Later than the first reading is no birth of what was read; a clock is wrong, or
            # another process is meant.
            if at is not None and at - error_ms <= latest:
                return min(int(at) - error_ms, first)
        refused = _refused_ms(self._target)
        refused = refused[refused < first]
        return int(refused[-1]) if refused.size else None

    def _silent_at(self, side: Side) -> bool:
        """Whether the payload was asked at this end of the phase and did not answer."""
        index = self._target.boundary(self._phase.name, side)
        if index is None or self._target.kind != "payload":
            return False
        return not self._target.boundaries[index].usable

    def _nobody_at_start(self) -> bool:
        """Whether the payload was asked at the start of the phase and was not there."""
        index = self._target.boundary(self._phase.name, "start")
        if index is None or not self._silent_at("start"):
            return False
        return _refused(self._target.boundaries[index])

    def _left_before_start(self) -> bool:
        """Whether the payload was not asked at the start of the phase, having said its last words.

        So it is with endpoints that a process announces and takes back when it ends.
        """
        asked = self._target.boundary(self._phase.name, "start") is not None
        if self._target.kind != "payload" or asked:
            return False
        a = self._phase.window.start_ms
        earlier = [one for one in self._target.boundaries if one.after_ms <= a]
        return bool(earlier) and max(earlier, key=lambda one: one.after_ms).left

    def _came_since_start(self) -> bool:
        """Whether nobody was there at the start of the phase, and the first reading is of who came.

        An earlier process that answered without the counters says nothing of this one then.
        """
        if not (self._left_before_start() or self._nobody_at_start()):
            return False
        return self._begun_since_start(0) is True

    def _begun_of(self, row: int) -> float | None:
        """Return when the process that answered at ``row`` began; None if unknown.

        A process that told it later was the same if it began before.
        """
        begun = self._begun[row]
        if not np.isnan(begun):
            return float(begun)
        later = self._begun[row:]
        later = later[~np.isnan(later)]
        if later.size and later[0] <= self._earliest[row]:
            return float(later[0])
        return _process_start_after_ms(self._target, int(self._earliest[row]))

    def _begun_since_start(self, row: int) -> bool | None:
        """Whether the process that answered at ``row`` began in the phase; None if unknown."""
        begun = self._begun_of(row)
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
        self._begun, self._source = self._begun[part], self._source[part]

    def _add(
        self,
        earliest: int,
        latest: int,
        values: Values,
        begun_ms: float,
        at: int | None = None,
        measured: bool = True,
    ) -> None:
        """Add a reading, at its place in time if ``at`` does not say where."""
        if at is None:
            at = int(np.searchsorted(self._earliest, earliest, "right"))
        self._added.append((values, measured))
        self._earliest = _inserted(self._earliest, at, earliest)
        self._latest = _inserted(self._latest, at, latest)
        self._begun = _inserted(self._begun, at, begun_ms)
        self._source = _inserted(self._source, at, -len(self._added))

    def _add_zero(self, time_ms: int, begun_ms: float = float("nan")) -> None:
        """Add an inferred reading of zero before all others."""
        zero = np.zeros(self._block.values.shape[1])
        self._add(time_ms, time_ms, zero, begun_ms, at=0, measured=False)


def _inserted(row: npt.NDArray[Any], at: int, value: float) -> npt.NDArray[Any]:
    """As ``np.insert``, which takes ten times as long for one value."""
    longer = np.empty(row.size + 1, row.dtype)
    longer[:at], longer[at], longer[at + 1 :] = row[:at], value, row[at:]
    return longer


def _process_starts_ms(target: Target, times_ms: Times) -> Values:
    """Return shape (n,): when the process that answered a scrape says it began; NaN if unknown."""
    begun = np.full(times_ms.size, np.nan)
    for track in target.tracks.get(PROCESS_START, ()):
        if track.times_ms.size:
            at = np.minimum(np.searchsorted(track.times_ms, times_ms), track.times_ms.size - 1)
            begun = np.where(track.times_ms[at] == times_ms, track.values[at], begun)
    return begun * 1000 - target.clock.offset_ms


def _process_start_at_edge_ms(target: Target, index: int) -> float:
    """Return when the process that answered at a boundary says it began; NaN if unknown."""
    tracks = target.tracks.get(PROCESS_START, ())
    told = next((t.edges[index] for t in tracks if index in t.edges), float("nan"))
    return 1000 * told - target.clock.offset_ms


def _process_start_after_ms(target: Target, at_ms: int) -> float | None:
    """Return a start before ``at_ms`` that a process told at or after it; None if none did."""
    told: list[tuple[int, float]] = []
    for track in target.tracks.get(PROCESS_START, ()):
        later = int(np.searchsorted(track.times_ms, at_ms))
        if later < track.times_ms.size:
            told.append((int(track.times_ms[later]), float(track.values[later])))
        told += [
            (target.boundaries[index].after_ms, begun)
            for index, begun in track.edges.items()
            if target.boundaries[index].after_ms >= at_ms
        ]
    if not told:
        return None
    begun = 1000 * min(told)[1] - target.clock.offset_ms
    return begun if begun <= at_ms else None


def first_process_start_ms(target: Target) -> float | None:
    """Return the earliest start that a process of ``target`` told; None if none did."""
    told = [
        value
        for track in target.tracks.get(PROCESS_START, ())
        for value in (*track.values[:1], *track.edges.values())
    ]
    return 1000 * min(told) - target.clock.offset_ms if told else None


def _refused(boundary: Boundary) -> bool:
    return not boundary.usable and boundary.after_ms - boundary.before_ms < REFUSAL_MS


def _refused_ms(target: Target) -> Times:
    """Return moments at which nobody was there: attempts that failed, and failed at once."""
    scrapes = target.scrapes
    at_once = scrapes.done_ms - scrapes.times_ms < min(REFUSAL_MS, target.interval_ms / 2)
    recorded = scrapes.times_ms[~scrapes.up & at_once] - STAMP_SHIFT_MS
    edges = [one.before_ms for one in target.boundaries if _refused(one)]
    return np.sort(np.concatenate([recorded, np.array(edges, np.int64)]))
