"""Means and extremes of gauges over a window, weighted with time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jobmeter.window import Window
from jobmeter_analysis.recording import Times, Values

Method = Literal["trapezoid", "step"]
"""``trapezoid`` for what changes continuously, ``step`` (the last value holds) for queues."""

FEWEST_FOR_INTERVAL = 10
"""With fewer samples nothing can be said about the spread of their mean."""


@dataclass(frozen=True)
class GaugeSamples:
    """Samples of one gauge.

    Args:
        times_ms: Shape (n,), strictly increasing.
        values: Shape (n,).
        ends_ms: Times at which the series was marked as ended.
    """

    times_ms: Times
    values: Values
    ends_ms: Times


@dataclass(frozen=True)
class GaugeMean:
    """A time-weighted mean.

    Args:
        value: Over the covered part of the window; NaN when nothing is covered.
        error: Half the width of its 95 % interval; NaN where none can be justified.
        covered_ms: How much of the window lies between samples that are near enough.
        samples: How many samples lie in the window.
    """

    value: float
    error: float
    covered_ms: float
    samples: int


def mean(gauge: GaugeSamples, window: Window, max_gap_ms: float, method: Method) -> GaugeMean:
    """Return the time-weighted mean over the part of ``window`` that samples cover.

    Two samples further apart than ``max_gap_ms``, or with the end of the series between them,
    cover nothing.
    """
    inside = _inside(gauge, window)
    times, values = gauge.times_ms, gauge.values
    left, right = times[:-1].astype(float), times[1:].astype(float)
    lower = np.clip(left, window.start_ms, window.end_ms)
    upper = np.clip(right, window.start_ms, window.end_ms)
    near = (right - left <= max_gap_ms) & (_ends_before(gauge, right) == _ends_before(gauge, left))
    width = np.where(near, upper - lower, 0.0)
    covered = float(width.sum())
    if covered == 0:
        lone = float(values[inside].mean()) if inside.any() else math.nan
        return GaugeMean(lone, math.nan, 0.0, int(inside.sum()))
    if method == "step":
        height = values[:-1]
    else:
        slope = np.diff(values) / (right - left)
        height = values[:-1] + slope * ((lower + upper) / 2 - left)
    value = float((width * height).sum() / covered)
    return GaugeMean(value, _error_of_mean(values[inside]), covered, int(inside.sum()))


def largest(gauge: GaugeSamples, window: Window) -> float:
    """Return the largest sample in ``window``, a lower bound of the largest value; NaN if none."""
    inside = _inside(gauge, window)
    return float(gauge.values[inside].max()) if inside.any() else math.nan


def last(gauge: GaugeSamples, window: Window) -> float:
    """Return the last sample in ``window``; NaN if there is none."""
    inside = gauge.values[_inside(gauge, window)]
    return float(inside[-1]) if inside.size else math.nan


def largest_gap_ms(times_ms: Times, window: Window) -> float:
    """Return the longest stretch of ``window`` without a sample, its ends included."""
    inside = times_ms[(times_ms >= window.start_ms) & (times_ms <= window.end_ms)]
    marks = np.concatenate([[window.start_ms], inside, [window.end_ms]])
    return float(np.diff(marks).max())


def _inside(gauge: GaugeSamples, window: Window) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Both ends count: an edge is a sample at the very end of its phase."""
    return np.asarray((gauge.times_ms >= window.start_ms) & (gauge.times_ms <= window.end_ms))


def _ends_before(gauge: GaugeSamples, times: Values) -> Times:
    return np.asarray(np.searchsorted(gauge.ends_ms, times, "left"), dtype=np.int64)


def _error_of_mean(values: Values) -> float:
    """Return 1.96 s / sqrt(n (1 - rho) / (1 + rho)), rho the correlation of neighbours.

    NaN for few samples, or for samples so alike that fewer than four of them are independent.
    """
    n = values.size
    if n < FEWEST_FOR_INTERVAL:
        return math.nan
    centred = values - values.mean()
    spread = float((centred**2).sum())
    if spread == 0 or np.ptp(values) == 0:
        return 0.0
    rho = min(max(float((centred[1:] * centred[:-1]).sum()) / spread, 0.0), 0.999)
    effective = n * (1 - rho) / (1 + rho)
    return 1.96 * float(values.std(ddof=1)) / math.sqrt(effective) if effective >= 4 else math.nan
