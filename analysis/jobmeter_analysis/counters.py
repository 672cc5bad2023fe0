"""How much counters moved in a window: value and certain bounds, from readings of any kind.

A reading says what a counter was at *some* moment between two times: a recorded sample between the
start and the end of its scrape, an edge between the start and the end of its fetch. A counter that
is known at one instant (an edge of a payload, a birth) has both times equal.

With readings ``p`` (last surely before ``a``), ``q`` (first surely after ``a``), ``r`` (last surely
before ``b``) and ``s`` (first surely after ``b``) and the counter ``V`` corrected for resets::

    V(r) - V(q)  <=  increase over [a, b]  <=  V(s) - V(p)

needs no assumption but that counters only grow. The value between the bounds is the difference of
``V`` at ``a`` and ``b``, linear between neighbouring readings.

A reset loses what happened between the last reading and the death of the process, so the lower
bound stays certain and the upper one does not; the caller says ``estimated``. The upper bound grows
for each reset by the largest rate seen between two readings, taken over the shortest time that may
lie between them, times the longest time that may lie between the readings around the reset; at
least by the largest step. **The truth is inside as long as the counter was never faster, where
nobody looked, than at its fastest where somebody did.** Readings that are much nearer to each other
than usual say nothing of that rate: one event between an edge and a scrape a millisecond later is
no thousand per second.

A counter that falls by a rounding error, or by a hair where a reset would end near zero (a node's
counters), has not been reset: what it was before stands until it grows beyond.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobmeter.window import Window
from jobmeter_analysis.recording import Times, Values

Flags = npt.NDArray[np.bool_]

ROUNDING = 1e-9
"""A counter that falls by less than this share of itself was summed up in another order."""


@dataclass(frozen=True)
class Readings:
    """What K counters of one target were, at the same moments.

    Args:
        earliest_ms: Shape (n,), sorted: the values were true not before.
        latest_ms: Shape (n,), sorted: and not after.
        values: Shape (n, K); NaN where a reading lacks a counter.
        measured: Shape (n,): False for zeros that were inferred (a birth), not read.
        zero_based: Whether a counter without a reading before the window began at zero in it;
            used for the value only, never for the lower bound.
        restarted: Shape (n,): at which readings another process answered than at the one before;
            None when that is not known.
        slack: By which share of itself a counter may fall without having been reset.
    """

    earliest_ms: Times
    latest_ms: Times
    values: Values
    measured: Flags
    zero_based: bool = False
    restarted: Flags | None = None
    slack: float = ROUNDING


@dataclass(frozen=True)
class Increases:
    """How much K counters moved in a window.

    Args:
        value: Shape (K,): best value; NaN for a counter that no reading has.
        low: Shape (K,): lower bound.
        high: Shape (K,): upper bound; infinite when nothing was read after the window.
        enclosing: Shape (K,): increase from the last reading before the window to the first
            behind it, or as far as there are any.
        resets: Shape (K,): how often each counter restarted between the readings used.
        opened: Whether something was known at or before the start of the window, of all counters.
        closed: Whether something was read at or after its end, of all counters.
        covered_ms: From the first to the last known moment inside the window.
        readings: How many readings were used, inferred ones not counted.
    """

    value: Values
    low: Values
    high: Values
    enclosing: Values
    resets: npt.NDArray[np.int64]
    opened: bool
    closed: bool
    covered_ms: int
    readings: int


def increases(readings: Readings, window: Window, together: int = 0) -> Increases:
    """Return how much each counter moved in ``window``.

    Args:
        readings: At least one.
        window: The stretch ``[a, b]``.
        together: The first ``together`` columns and all behind them restart as one (the buckets of
            a histogram and its sum); 0 when each column restarts alone.
    """
    restarted = _restarted(readings, together)
    # A sum is NaN when a part is, and cheaper than asking each.
    if not np.isnan(readings.values.sum()):
        return _moved(readings, restarted, not together, window)
    return _moved_with_holes(readings, restarted, not together, window)


def _restarted(readings: Readings, together: int) -> Flags:
    """Return shape (n,): whether all counters began anew since the reading before."""
    restarted = np.zeros(len(readings.earliest_ms), np.bool_)
    if readings.restarted is not None:
        restarted |= readings.restarted
    if together and restarted.size:
        fell, _ = _fallen(readings.values[:, :together], readings.slack)
        restarted[1:] |= fell.any(axis=1)
        restarted[0] = False
    return restarted


def _fallen(values: Values, slack: float) -> tuple[Flags, bool]:
    """Return shape (n - 1, K): whether each fell since the row before; and if any did by a hair."""
    fell = values[1:] < values[:-1]
    if not fell.any():
        return fell, False
    far = values[1:] < values[:-1] * (1 - slack)
    return far, bool((fell & ~far).any())


def _moved(readings: Readings, restarted: Flags, alone: bool, window: Window) -> Increases:
    """Return the increases of counters that every reading has."""
    a, b = window.start_ms, window.end_ms
    earliest, latest, values = readings.earliest_ms, readings.latest_ms, readings.values
    n = len(earliest)
    grown, reset = _grown(values, restarted, alone, readings.slack)
    p = int(np.searchsorted(latest, a, "right")) - 1
    q = int(np.searchsorted(earliest, a, "left"))
    r = int(np.searchsorted(latest, b, "right")) - 1
    s = int(np.searchsorted(earliest, b, "left"))
    opened, closed = p >= 0, s < n
    first, last = max(p, 0), min(s, n - 1)

    zero = np.zeros(grown.shape[1])
    low = np.maximum(grown[r] - grown[q], zero) if q <= r else zero
    below = grown[p] if opened else zero
    high = grown[s] - below if closed else np.full_like(zero, np.inf)
    resets = np.zeros(grown.shape[1], np.int64)
    if reset is not None:
        used = slice(first, last + 1)
        resets = reset[used][1:].sum(axis=0)
        high = high + _lost(earliest[used], latest[used], grown[used], reset[used][1:])

    at = (earliest + latest) / 2
    start = below if not opened and readings.zero_based else _between(at, grown, a)
    value = np.clip(_between(at, grown, b) - start, low, high)
    seen_from = a if opened else min(int(earliest[0]), b)
    seen_to = b if closed else max(int(latest[-1]), a)
    return Increases(
        value=value,
        low=low,
        high=high,
        enclosing=grown[last] - grown[first],
        resets=resets,
        opened=opened,
        closed=closed,
        covered_ms=max(0, min(seen_to, b) - max(seen_from, a)),
        readings=int(readings.measured[first : last + 1].sum()),
    )


def _grown(
    values: Values, restarted: Flags, alone: bool, slack: float
) -> tuple[Values, Flags | None]:
    """Return the counters as if they had gone on where they were, and shape (n, K) their resets.

    The values themselves when nothing was reset, so that increases are plain differences, not sums
    of rounded steps; the resets are then None.
    """
    fell, by_a_hair = _fallen(values, slack)
    if restarted[1:].any() or (alone and fell.any()):
        reset = np.zeros(values.shape, np.bool_)
        reset[1:] = restarted[1:, np.newaxis] | (fell & alone)
        lost = np.zeros(values.shape)
        lost[1:] = np.where(reset[1:], values[:-1], 0.0).cumsum(axis=0)
        grown = values + lost
    else:
        grown, reset = values, None
    if by_a_hair and alone:
        grown = np.maximum.accumulate(grown, axis=0)
    return grown, reset


def _lost(earliest: Times, latest: Times, grown: Values, reset: Flags) -> Values:
    """Return what resets may have lost of each counter; ``reset`` has one row per step."""
    steps = np.diff(grown, axis=0)
    shortest = (earliest[1:] - latest[:-1]).astype(float)
    longest = (latest[1:] - earliest[:-1]).astype(float)
    fair = shortest >= np.median(longest) / 2 if shortest.size else np.zeros(0, np.bool_)
    elapsed = shortest[fair] if fair.any() else np.maximum(longest / 2, 1.0)
    fastest = steps[fair] if fair.any() else steps
    rate = (fastest / np.maximum(elapsed, 1.0)[:, np.newaxis]).max(axis=0, initial=0.0)
    largest = steps.max(axis=0, initial=0.0)
    each = np.maximum(largest, rate * longest[:, np.newaxis])
    return np.asarray(np.where(reset, each, 0.0).sum(axis=0))


def _between(at: Values, grown: Values, time_ms: int) -> Values:
    """Return each counter at ``time_ms``, linear between readings, flat beyond the last."""
    after = int(np.searchsorted(at, time_ms, "left"))
    if after == 0:
        return np.asarray(grown[0])
    if after == len(at):
        return np.asarray(grown[-1])
    if at[after] == time_ms:
        return np.asarray(grown[after])
    share = (time_ms - at[after - 1]) / (at[after] - at[after - 1])
    return np.asarray(grown[after - 1] + share * (grown[after] - grown[after - 1]))


def _moved_with_holes(
    readings: Readings, restarted: Flags, alone: bool, window: Window
) -> Increases:
    """Return the increases of counters that some readings lack: each from those that have it."""
    count = readings.values.shape[1]
    rows = {name: np.full(count, np.nan) for name in ("value", "low", "high", "enclosing")}
    resets = np.zeros(count, np.int64)
    parts = []
    for columns, there in _alike(readings.values):
        part = _moved(_only(readings, there, columns), _carried(restarted, there), alone, window)
        for name, row in rows.items():
            row[columns] = getattr(part, name)
        resets[columns] = part.resets
        parts.append(part)
    return Increases(
        **rows,
        resets=resets,
        opened=all(part.opened for part in parts) and bool(parts),
        closed=all(part.closed for part in parts) and bool(parts),
        covered_ms=min((part.covered_ms for part in parts), default=0),
        readings=max((part.readings for part in parts), default=0),
    )


def _alike(values: Values) -> Iterator[tuple[npt.NDArray[np.int64], Flags]]:
    """Yield columns that the same readings have, and which these are; none that has nothing."""
    there = ~np.isnan(values)
    groups: dict[bytes, list[int]] = {}
    for column in range(values.shape[1]):
        groups.setdefault(there[:, column].tobytes(), []).append(column)
    for columns in groups.values():
        rows = there[:, columns[0]]
        if rows.any():
            yield np.array(columns), rows


def _only(readings: Readings, rows: Flags, columns: npt.NDArray[np.int64]) -> Readings:
    return Readings(
        readings.earliest_ms[rows],
        readings.latest_ms[rows],
        readings.values[np.ix_(rows, columns)],
        readings.measured[rows],
        readings.zero_based,
        slack=readings.slack,
    )


def _carried(restarted: Flags, rows: Flags) -> Flags:
    """Return for the kept rows whether there was a restart since the kept row before."""
    so_far = restarted.cumsum()[rows]
    return np.diff(so_far, prepend=so_far[:1]) > 0
