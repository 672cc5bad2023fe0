"""How much counters moved in a window: value and certain bounds, from readings of any kind.

A reading says what a counter was at *some* moment between two times: a recorded sample between the
start and the end of its scrape, an edge between the start and the end of its fetch. A counter that
is known at one instant (an edge of a payload, a birth) has both times equal.

With readings ``p`` (last surely before ``a``), ``q`` (first surely after ``a``), ``r`` (last surely
before ``b``) and ``s`` (first surely after ``b``) and the counter ``V`` corrected for resets::

    V(r) - V(q)  <=  increase over [a, b]  <=  V(s) - V(p)

needs no assumption but that counters only grow. The value between the bounds is the difference of
``V`` at ``a`` and ``b``, linear between neighbouring readings.

A reset loses what happened between the last reading and the death of the process. No reading
bounds that, so the upper bound grows by the largest increase between two readings for each reset
and is no longer certain; the caller says ``estimated``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobmeter.window import Window
from jobmeter_analysis.recording import Times, Values


@dataclass(frozen=True)
class Readings:
    """What K counters of one target were, at the same moments.

    Args:
        earliest_ms: Shape (n,), sorted: the values were true not before.
        latest_ms: Shape (n,), sorted: and not after.
        values: Shape (n, K).
        measured: Shape (n,): False for zeros that were inferred (a birth), not read.
        zero_based: Whether a counter without a reading before the window began at zero in it;
            used for the value only, never for the lower bound.
        restarted: Shape (n,): at which readings another process answered than at the one before;
            None when that is not known.
    """

    earliest_ms: Times
    latest_ms: Times
    values: Values
    measured: npt.NDArray[np.bool_]
    zero_based: bool = False
    restarted: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Increases:
    """How much K counters moved in a window.

    Args:
        value: Shape (K,): best value.
        low: Shape (K,): lower bound.
        high: Shape (K,): upper bound; infinite when nothing was read after the window.
        enclosing: Shape (K,): increase from the last reading before the window to the first
            behind it, or as far as there are any.
        resets: Shape (K,): how often each counter restarted between the readings used.
        opened: Whether something was known at or before the start of the window.
        closed: Whether something was read at or after its end.
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
    a, b = window.start_ms, window.end_ms
    reset = _resets(readings, together)
    grown = readings.values + _lost_to_resets(readings.values, reset)
    n = len(readings.earliest_ms)
    p = int(np.searchsorted(readings.latest_ms, a, "right")) - 1
    q = int(np.searchsorted(readings.earliest_ms, a, "left"))
    r = int(np.searchsorted(readings.latest_ms, b, "right")) - 1
    s = int(np.searchsorted(readings.earliest_ms, b, "left"))
    opened, closed = p >= 0, s < n
    first, last = max(p, 0), min(s, n - 1)

    zero = np.zeros(grown.shape[1])
    low = np.maximum(grown[r] - grown[q], zero) if q <= r else zero
    below = grown[p] if opened else grown[0] - readings.values[0]
    high = grown[s] - below if closed else np.full_like(zero, np.inf)

    resets = reset[first : last + 1].sum(axis=0)
    if resets.any():
        steps = np.diff(grown[first : last + 1], axis=0)
        high = high + resets * steps.max(axis=0, initial=0.0)

    at = (readings.earliest_ms + readings.latest_ms) / 2
    start = below if not opened and readings.zero_based else _between(at, grown, a)
    value = np.clip(_between(at, grown, b) - start, low, high)
    seen_from = a if opened else min(int(readings.earliest_ms[0]), b)
    seen_to = b if closed else max(int(readings.latest_ms[-1]), a)
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


def _resets(readings: Readings, together: int) -> npt.NDArray[np.bool_]:
    """Return shape (n, K): whether each counter began anew since the reading before."""
    values = readings.values
    reset = np.zeros(values.shape, dtype=np.bool_)
    reset[1:] = values[1:] < values[:-1]
    if readings.restarted is not None:
        reset[1:] |= readings.restarted[1:, np.newaxis]
    if together:
        reset[:] = reset[:, :together].any(axis=1, keepdims=True)
    return reset


def _lost_to_resets(values: Values, reset: npt.NDArray[np.bool_]) -> Values:
    """Return what to add so that each counter goes on where it was.

    Zero without a reset, so that increases are plain differences, not sums of rounded steps.
    """
    lost = np.zeros(values.shape)
    if reset.any():
        lost[1:] = np.where(reset[1:], values[:-1], 0.0).cumsum(axis=0)
    return lost


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
