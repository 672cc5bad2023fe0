"""What the samples of a gauge say of a window: means, extremes, shares of time, integrals.

All are weighted with time. Between two samples a gauge is taken to be a straight line
(``trapezoid``) or what it was at the first of them (``step``); when it is, what is computed over a
fully covered window is the truth. Two samples further apart than ``max_gap_ms``, or with the end of
the series between them, cover nothing, and nothing is drawn between them.

Every result has a value, which is that of the covered part, and an interval ``[low, high]``. The
interval is an estimate, never a proof, as nobody looked between the samples. It has two causes:

* sampling: 1.96 standard errors of the mean of the samples, fewer of them counted as independent
  the more neighbours are alike (reference: ``n (1 - rho) / (1 + rho)``);
* what was not covered, which may have been anything between the smallest and the largest sample
  seen (in an integral, anything from nothing to the largest).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from jobmeter.window import Window
from jobmeter_analysis.recording import Times, Values

Method = Literal["trapezoid", "step"]
"""``trapezoid`` for what changes continuously, ``step`` (the last value holds) for queues."""

FEWEST_FOR_INTERVAL = 10
"""With fewer samples nothing can be said about the spread of their mean."""
FEWEST_INDEPENDENT = 4
"""Nor with fewer than these that do not repeat their neighbours."""
Z95 = 1.96
"""Standard errors on either side of 95 % of a normal distribution."""


@dataclass(frozen=True)
class GaugeSamples:
    """Samples of one gauge.

    Args:
        times_ms: Shape (n,), strictly increasing.
        values: Shape (n,); NaN counts as no sample.
        ends_ms: Times at which the series was marked as ended.
    """

    times_ms: Times
    values: Values
    ends_ms: Times


@dataclass(frozen=True)
class GaugeMean:
    """A time-weighted mean.

    Args:
        value: Over the covered part of the window; NaN when nothing is known.
        error: Half the width of the 95 % interval of that part; NaN where none can be justified.
        covered_ms: How much of the window lies between samples that are near enough.
        samples: How many samples lie in the window.
        low: Lower end over the whole window, what is not covered included; NaN as ``error``.
        high: Upper end.
    """

    value: float
    error: float
    covered_ms: float
    samples: int
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class GaugePart:
    """A quantile, a share of time or an integral.

    Args:
        value: By the covered part of the window; NaN when nothing is known.
        low: Lower end of the 95 % interval, what is not covered included; NaN where none can be
            justified.
        high: Upper end.
        covered_ms: How much of the window lies between samples that are near enough.
        samples: How many samples lie in the window.
    """

    value: float
    low: float
    high: float
    covered_ms: float
    samples: int


@dataclass(frozen=True)
class _Covered:
    """The pieces of a window between neighbouring samples that are near enough.

    Args:
        width: Shape (m,): milliseconds of each piece.
        begin: Shape (m,): the gauge at its begin.
        end: Shape (m,): and at its end.
        inside: The samples in the window.
        seen: Those, and what the pieces begin and end with.
        share: Of the window that is covered.
    """

    width: Values
    begin: Values
    end: Values
    inside: Values
    seen: Values
    share: float

    @property
    def covered_ms(self) -> float:
        return float(self.width.sum())


def mean(gauge: GaugeSamples, window: Window, max_gap_ms: float, method: Method) -> GaugeMean:
    """Return the time-weighted mean over the part of ``window`` that samples cover."""
    parts = _covered(gauge, window, max_gap_ms, method)
    covered, samples = parts.covered_ms, parts.inside.size
    if covered == 0:
        lone = float(parts.inside.mean()) if samples else math.nan
        return GaugeMean(lone, math.nan, 0.0, samples)
    value = _mean(parts)
    error = _error_of_mean(parts.inside)
    low, high = value - error, value + error
    if parts.share < 1:
        missing = 1 - parts.share
        low = min(value, parts.share * low + missing * float(parts.seen.min()))
        high = max(value, parts.share * high + missing * float(parts.seen.max()))
        if math.isnan(error):
            low = high = math.nan
    return GaugeMean(value, error, covered, samples, low, high)


def integral(gauge: GaugeSamples, window: Window, max_gap_ms: float, method: Method) -> GaugePart:
    """Return the integral over ``window`` of a gauge that is never negative, times seconds.

    The energy of a power. The value takes what is not covered to be like what is; the lower end
    takes it to be nothing, the upper end the largest sample seen.
    """
    found = mean(gauge, window, max_gap_ms, method)
    value = found.value * window.seconds
    if math.isnan(found.error):
        return GaugePart(value, math.nan, math.nan, found.covered_ms, found.samples)
    parts = _covered(gauge, window, max_gap_ms, method)
    covered_s = found.covered_ms / 1000
    beyond = (window.seconds - covered_s) * max(0.0, float(parts.seen.max()))
    low = min(max(0.0, (found.value - found.error) * covered_s), value)
    high = max((found.value + found.error) * covered_s + beyond, value)
    return GaugePart(value, low, high, found.covered_ms, found.samples)


def quantile(
    gauge: GaugeSamples, window: Window, max_gap_ms: float, q: float, method: Method
) -> GaugePart:
    """Return the smallest value that the gauge did not exceed for the share ``q`` of the time.

    The interval: the quantiles ``q`` plus and minus 1.96 standard errors of a share of the
    independent samples, when what is not covered lay all below or all above.
    """
    parts = _covered(gauge, window, max_gap_ms, method)
    covered, samples = parts.covered_ms, parts.inside.size
    if covered == 0:
        lone = float(np.quantile(parts.inside, q, method="inverted_cdf")) if samples else math.nan
        return GaugePart(lone, math.nan, math.nan, 0.0, samples)
    value = _quantile(parts, q)
    independent = _independent(parts.inside)
    if math.isnan(independent):
        return GaugePart(value, math.nan, math.nan, covered, samples)
    off = Z95 * math.sqrt(q * (1 - q) / independent)
    least = (q - off - (1 - parts.share)) / parts.share
    most = (q + off) / parts.share
    low = _quantile(parts, least) if least > 0 else float(parts.seen.min())
    high = _quantile(parts, most) if most < 1 else float(parts.seen.max())
    return GaugePart(value, min(low, value), max(high, value), covered, samples)


def share_above(
    gauge: GaugeSamples, window: Window, max_gap_ms: float, threshold: float, method: Method
) -> GaugePart:
    """Return the share of time during which the gauge was above ``threshold``."""
    parts = _covered(gauge, window, max_gap_ms, method)
    below = _share_of_each_at_most(parts, threshold)
    return _share(parts, 1 - below, parts.inside > threshold)


def share_with_bits(gauge: GaugeSamples, window: Window, max_gap_ms: float, bits: int) -> GaugePart:
    """Return the share of time during which any of ``bits`` was set in a gauge of flags."""
    parts = _covered(gauge, window, max_gap_ms, "step")
    return _share(parts, _has(parts.begin, bits).astype(float), _has(parts.inside, bits))


def largest(gauge: GaugeSamples, window: Window) -> float:
    """Return the largest sample in ``window``, a lower bound of the largest value; NaN if none."""
    inside = _inside(gauge, window)
    return float(inside.max()) if inside.size else math.nan


def smallest(gauge: GaugeSamples, window: Window) -> float:
    """Return the smallest sample in ``window``, an upper bound of the lowest value; NaN if none."""
    inside = _inside(gauge, window)
    return float(inside.min()) if inside.size else math.nan


def first(gauge: GaugeSamples, window: Window) -> float:
    """Return the first sample in ``window``; NaN if there is none."""
    inside = _inside(gauge, window)
    return float(inside[0]) if inside.size else math.nan


def last(gauge: GaugeSamples, window: Window) -> float:
    """Return the last sample in ``window``; NaN if there is none."""
    inside = _inside(gauge, window)
    return float(inside[-1]) if inside.size else math.nan


def changes(gauge: GaugeSamples, window: Window) -> int:
    """Return how often a sample in ``window`` differs from the one before: at least so often."""
    inside = _inside(gauge, window)
    return int((inside[1:] != inside[:-1]).sum())


def largest_gap_ms(times_ms: Times, window: Window) -> float:
    """Return the longest stretch of ``window`` without a sample, its ends included."""
    inside = times_ms[(times_ms >= window.start_ms) & (times_ms <= window.end_ms)]
    marks = np.concatenate([[window.start_ms], inside, [window.end_ms]])
    return float(np.diff(marks).max())


def _around(gauge: GaugeSamples, window: Window) -> tuple[Times, Values]:
    """Return the samples in ``window``, and the one on either side of it."""
    times, values = gauge.times_ms, gauge.values
    numbers = ~np.isnan(values)
    if not numbers.all():
        times, values = times[numbers], values[numbers]
    begin = int(np.searchsorted(times, window.start_ms, "left"))
    end = int(np.searchsorted(times, window.end_ms, "right"))
    used = slice(max(begin - 1, 0), end + 1)
    return times[used], values[used]


def _inside(gauge: GaugeSamples, window: Window) -> Values:
    """Return the samples in ``window``.

    Both ends count: an edge is a sample at the very end of its phase.
    """
    times, values = _around(gauge, window)
    return np.asarray(values[(times >= window.start_ms) & (times <= window.end_ms)])


def _covered(gauge: GaugeSamples, window: Window, max_gap_ms: float, method: Method) -> _Covered:
    times, values = _around(gauge, window)
    left, right = times[:-1], times[1:]
    ends = np.searchsorted(gauge.ends_ms, times, "left")
    near = (right - left <= max_gap_ms) & (ends[1:] == ends[:-1])
    lower = np.maximum(left, window.start_ms)
    upper = np.minimum(right, window.end_ms)
    near &= upper > lower
    left, right, lower, upper = (part[near].astype(float) for part in (left, right, lower, upper))
    begin, end = values[:-1][near], values[1:][near]
    if method == "step":
        end = begin
    else:
        rise = end - begin
        end = np.where(upper == right, end, begin + rise * ((upper - left) / (right - left)))
        begin = np.where(lower == left, begin, begin + rise * ((lower - left) / (right - left)))
    width = upper - lower
    inside = values[(times >= window.start_ms) & (times <= window.end_ms)]
    share = float(width.sum()) / (window.end_ms - window.start_ms)
    return _Covered(width, begin, end, inside, np.concatenate([inside, begin, end]), share)


def _mean(parts: _Covered) -> float:
    height = (parts.begin + parts.end) / 2
    value = float((parts.width * height).sum() / parts.covered_ms)
    # Rounding does not lead out of what was seen.
    return float(np.clip(value, parts.seen.min(), parts.seen.max()))


def _share_of_each_at_most(parts: _Covered, value: float) -> Values:
    """Return shape (m,): the share of each piece during which the gauge was at most ``value``."""
    low, high = np.minimum(parts.begin, parts.end), np.maximum(parts.begin, parts.end)
    rise = high - low
    level = (value - low) / np.where(rise > 0, rise, 1.0)
    return np.where(rise > 0, np.clip(level, 0.0, 1.0), (low <= value).astype(float))


def _quantile(parts: _Covered, q: float) -> float:
    """Return the quantile of the covered time.

    The share of time at most ``x`` grows in a straight line between any two neighbours of the
    values at which pieces begin and end, but for jumps at these.
    """
    marks = np.unique(np.concatenate([parts.begin, parts.end]))
    wanted = q * parts.covered_ms * (1 - 1e-12)

    def time_at_most(value: float) -> float:
        return float((parts.width * _share_of_each_at_most(parts, value)).sum())

    low, high = 0, marks.size - 1  # the first mark at which enough time has come together
    while low < high:
        middle = (low + high) // 2
        if time_at_most(float(marks[middle])) >= wanted:
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return float(marks[0])
    bottom, top = float(marks[low - 1]), float(marks[low])
    flat = float(parts.width[(parts.begin == top) & (parts.end == top)].sum())
    before = time_at_most(bottom)
    rises = time_at_most(top) - flat - before
    if rises <= 0 or wanted >= before + rises:
        return top
    return bottom + (top - bottom) * (wanted - before) / rises


def _share(parts: _Covered, of_each: Values, samples: npt.NDArray[np.bool_]) -> GaugePart:
    """Return a share of time from that of each piece, and from which samples had it."""
    covered, count = parts.covered_ms, parts.inside.size
    if covered == 0:
        lone = float(samples.mean()) if count else math.nan
        return GaugePart(lone, math.nan, math.nan, 0.0, count)
    value = min(1.0, float((parts.width * of_each).sum() / covered))
    error = _error_of_mean(samples.astype(float))
    if math.isnan(error):
        return GaugePart(value, math.nan, math.nan, covered, count)
    low = parts.share * max(0.0, value - error)
    high = min(1.0, parts.share * min(1.0, value + error) + (1 - parts.share))
    return GaugePart(value, min(low, value), max(high, value), covered, count)


def _has(values: Values, bits: int) -> npt.NDArray[np.bool_]:
    return np.asarray((values.astype(np.int64) & bits) != 0)


def _error_of_mean(values: Values) -> float:
    """Return 1.96 standard errors of the mean; NaN where too few samples are independent."""
    if values.size >= FEWEST_FOR_INTERVAL and np.ptp(values) == 0:
        return 0.0
    independent = _independent(values)
    if math.isnan(independent):
        return math.nan
    return Z95 * float(values.std(ddof=1)) / math.sqrt(independent)


def _independent(values: Values) -> float:
    """Return n (1 - rho) / (1 + rho), rho the correlation of neighbours; NaN for few samples.

    And for samples so alike that fewer than four of them are independent.
    """
    n = values.size
    if n < FEWEST_FOR_INTERVAL:
        return math.nan
    centred = values - values.mean()
    spread = float((centred**2).sum())
    if spread == 0:
        return float(n)
    rho = min(max(float((centred[1:] * centred[:-1]).sum()) / spread, 0.0), 0.999)
    independent = n * (1 - rho) / (1 + rho)
    return independent if independent >= FEWEST_INDEPENDENT else math.nan
