"""A number with the proof of how good it is, and the arithmetic of such numbers.

An ``Estimate`` is one value with an interval, the meaning of that interval (``status``), how much
of the window was seen (``coverage``), and reason codes. Sums, differences and quotients keep the
promise of their parts: when every part lies in its interval for certain, so does the result.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["exact", "bounded", "estimated", "unavailable"]
STATUSES: tuple[Status, ...] = ("exact", "bounded", "estimated", "unavailable")
"""From the best to the worst."""

METRIC_ABSENT = "metric_absent"
TARGET_NEVER_UP = "target_never_up"
TARGET_LOST = "target_lost"
FOREIGN_TARGET = "foreign_target"
WINDOW_NOT_BRACKETED = "window_not_bracketed"
SAMPLE_GAP = "sample_gap"
COUNTER_RESET = "counter_reset"
BUCKET_OVERFLOW = "bucket_overflow"
SINGLE_BUCKET = "single_bucket"
CLOCK_SKEW = "clock_skew"
SOURCE_DEGRADED = "source_degraded"
ACCOUNTING_MISSING = "accounting_missing"
NOT_INSTRUMENTED = "not_instrumented"
ZERO_DENOMINATOR = "zero_denominator"
PHASE_INTERRUPTED = "phase_interrupted"
END_UNMARKED = "end_unmarked"
MONITORING_INCLUDED = "monitoring_included"
PARTLY_SEEN = "partly_seen"
FEW_OBSERVATIONS = "few_observations"
ALLOCATION_UNKNOWN = "allocation_unknown"
SHARED_NODE = "shared_node"
OUTLIER = "outlier"
DISAGREEMENT = "disagreement"
ATTEMPT_MISSING = "attempt_missing"
PHASE_NOT_BEGUN = "phase_not_begun"
RESTARTS = "restarts"

REASONS: dict[str, str] = {
    METRIC_ABSENT: "the target answered, and did not expose this metric",
    TARGET_NEVER_UP: "the target never answered",
    TARGET_LOST: "the target answered first and not at the end of the window",
    FOREIGN_TARGET: "what answered does not belong to this run",
    WINDOW_NOT_BRACKETED: "no reading at one end of the window: what moved beyond is unknown",
    SAMPLE_GAP: "more than 2.5 intervals inside the window without a sample",
    COUNTER_RESET: "a counter restarted inside the window; what it lost is not known",
    BUCKET_OVERFLOW: "the rank lies above the last finite bucket edge",
    SINGLE_BUCKET: "all observations lie in one bucket",
    CLOCK_SKEW: "the clock of the node is more than a second off the first node's",
    SOURCE_DEGRADED: "part of the recording could not be read, or is not there",
    ACCOUNTING_MISSING: "Slurm has not said this, or not yet for the last time",
    NOT_INSTRUMENTED: "no payload endpoint exposes this metric",
    ZERO_DENOMINATOR: "nothing happened that could be averaged",
    PHASE_INTERRUPTED: "a signal ended the phase before its command did",
    END_UNMARKED: "the end of the phase was never marked; it ends at the last known fact",
    MONITORING_INCLUDED: "the share of the monitoring itself could not be subtracted",
    PARTLY_SEEN: "at least so much: what counts it cannot see all",
    FEW_OBSERVATIONS: "so few observations near the rank that the interval is that of its order",
    ALLOCATION_UNKNOWN: "which CPUs the job was given is not known; all of the node count",
    SHARED_NODE: "the whole node, of which the job was given a part only",
    OUTLIER: "far from the others of its kind",
    DISAGREEMENT: "two ways to measure this differ by more than 5 %",
    ATTEMPT_MISSING: "of several attempts at least one has no number of this; the others are in it",
    PHASE_NOT_BEGUN: "of several attempts at least one never began the phase; the others are in it",
    RESTARTS: "several attempts are tries of the same work, and all of them are in the number",
}
"""Every reason code and what it means; the order is that of the ``reason`` column."""


@dataclass(frozen=True)
class Estimate:
    """One number in base units.

    Args:
        value: Best value; NaN when ``status`` is ``unavailable``.
        low: Lower end of the interval; NaN when no interval can be justified.
        high: Upper end, may be infinite.
        status: ``exact`` (low = value = high), ``bounded`` (the truth lies in [low, high] for
            certain), ``estimated`` (the interval is statistical), ``unavailable``.
        coverage: Share of the window that was seen, 0 to 1; NaN where it has no meaning.
        samples: How many samples were used, edges included.
        sources: Where they came from: ``edges``, ``recording``, ``marks``, ``sacct: ...``.
        reasons: Codes of ``REASONS``.
    """

    value: float
    low: float
    high: float
    status: Status
    coverage: float = 1.0
    samples: int = 0
    sources: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()

    @property
    def available(self) -> bool:
        """Whether there is a number at all."""
        return self.status != "unavailable"

    def because(self, *reasons: str) -> Estimate:
        """Return the same number with more reasons."""
        return replace(self, reasons=self.reasons.union(reasons))


def at_least(number: Estimate) -> Estimate:
    """Return ``number`` as what was seen of something of which there may be more."""
    if not number.available:
        return number
    status: Status = "bounded" if number.status == "exact" else number.status
    return replace(number, high=math.inf, status=status).because(PARTLY_SEEN)


def unavailable(*reasons: str, coverage: float = 0.0) -> Estimate:
    """Return the absence of a number: NaN, never zero."""
    nan = math.nan
    return Estimate(nan, nan, nan, "unavailable", coverage, reasons=frozenset(reasons))


def exact(value: float, samples: int = 0, source: str = "", *reasons: str) -> Estimate:
    """Return a number that is known as such."""
    sources = frozenset({source} if source else ())
    return Estimate(value, value, value, "exact", 1.0, samples, sources, frozenset(reasons))


def worst(statuses: Iterable[Status]) -> Status:
    """Return the least good of ``statuses``.

    >>> worst(["exact", "estimated", "bounded"])
    'estimated'
    """
    return max(statuses, key=STATUSES.index)


def reason_text(reasons: Iterable[str]) -> str:
    """Return codes as the ``reason`` column has them.

    >>> reason_text({"sample_gap", "target_lost"})
    'target_lost;sample_gap'
    """
    order = list(REASONS)
    known = set(reasons)
    return ";".join(sorted(known, key=lambda code: order.index(code) if code in order else 99))


def total(parts: Sequence[Estimate]) -> Estimate:
    """Return the sum over parts of a quantity that is never negative.

    A part that is not available may be anything from zero upwards: the sum of the others is then
    a lower bound, the interval has no upper end, and the reasons of the missing part are kept.
    """
    seen = [part for part in parts if part.available]
    reasons = frozenset[str]().union(*(part.reasons for part in parts))
    if not seen:
        return unavailable(*reasons)
    missing = len(seen) < len(parts)
    status = worst(part.status for part in seen)
    return Estimate(
        value=math.fsum(part.value for part in seen),
        low=math.fsum(part.low for part in seen),
        high=math.inf if missing else math.fsum(part.high for part in seen),
        status="bounded" if missing and status == "exact" else status,
        coverage=sum(part.coverage for part in parts) / len(parts),
        samples=sum(part.samples for part in seen),
        sources=frozenset[str]().union(*(part.sources for part in seen)),
        reasons=reasons,
    )


def _joined(value: float, low: float, high: float, parts: Sequence[Estimate]) -> Estimate:
    return Estimate(
        value=value,
        low=low,
        high=high,
        status=worst(part.status for part in parts),
        coverage=min(part.coverage for part in parts),
        samples=sum(part.samples for part in parts),
        sources=frozenset[str]().union(*(part.sources for part in parts)),
        reasons=frozenset[str]().union(*(part.reasons for part in parts)),
    )


def difference(whole: Estimate, part: Estimate) -> Estimate:
    """Return ``whole - part`` for counters of which one belongs to the other, read together.

    The rest only grows too, so its own bounds are those of the same readings: the difference of
    the lower ones, and of the upper ones. Never below zero.
    """
    if not (whole.available and part.available):
        return unavailable(*whole.reasons, *part.reasons)
    low = max(0.0, whole.low - part.low)
    high = math.inf if math.isinf(whole.high) else max(low, whole.high - part.high)
    value = min(max(whole.value - part.value, low), high)
    return _joined(value, low, high, (whole, part))


def plus(one: Estimate, other: Estimate) -> Estimate:
    """Return ``one + other``."""
    return _combined(
        one, other, one.value + other.value, [one.low + other.low, one.high + other.high]
    )


def minus(one: Estimate, other: Estimate) -> Estimate:
    """Return ``one - other`` of two numbers that have nothing to do with each other."""
    return _combined(
        one, other, one.value - other.value, [one.low - other.high, one.high - other.low]
    )


def times(one: Estimate, other: Estimate) -> Estimate:
    """Return ``one * other``."""
    ends = [_product(a, b) for a in (one.low, one.high) for b in (other.low, other.high)]
    return _combined(one, other, one.value * other.value, ends)


def quotient(above: Estimate, below: Estimate) -> Estimate:
    """Return ``above / below``, below never negative; unavailable when it is zero."""
    if not (above.available and below.available):
        return unavailable(*above.reasons, *below.reasons)
    if below.value == 0:
        return unavailable(*above.reasons, *below.reasons, ZERO_DENOMINATOR)
    if below.low > 0 or math.isnan(below.low):
        ends = [
            0.0 if math.isinf(b) else a / b  # of both unbounded, the other ends tell
            for a in (above.low, above.high)
            for b in (below.low, below.high)
        ]
    else:
        ends = [math.inf if above.high > 0 else 0.0]
        ends.append(-math.inf if above.low < 0 else _product(above.low, 1 / below.high))
    return _combined(above, below, above.value / below.value, ends)


def _product(one: float, other: float) -> float:
    """Return the product; nothing of something unbounded is nothing."""
    return 0.0 if one == 0 or other == 0 else one * other


def _combined(one: Estimate, other: Estimate, value: float, ends: Sequence[float]) -> Estimate:
    if not (one.available and other.available):
        return unavailable(*one.reasons, *other.reasons)
    if any(math.isnan(end) for end in ends):
        return replace(_joined(value, math.nan, math.nan, (one, other)), status="estimated")
    return _joined(value, min(ends), max(ends), (one, other))


def scaled(number: Estimate, factor: float) -> Estimate:
    """Return ``number`` in another unit; ``factor`` is positive."""
    return replace(
        number, value=number.value * factor, low=number.low * factor, high=number.high * factor
    )


def averaged(parts: Sequence[Estimate]) -> Estimate:
    """Return the mean over parts of what cannot be added up, of those that are available."""
    return _over_available(parts, lambda numbers: math.fsum(numbers) / len(numbers))


def weighted(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Return the mean over parts, each counted with its weight, of those that are available."""
    seen = [weight for part, weight in zip(parts, weights, strict=True) if part.available]
    if not math.fsum(seen) > 0:
        return averaged(parts)
    unit = math.fsum(seen) / len(seen)
    return averaged([scaled(p, weight / unit) for p, weight in zip(parts, weights, strict=True)])


def median_of(parts: Sequence[Estimate]) -> Estimate:
    """Return the median over parts, of those that are available."""
    return _over_available(parts, statistics.median)


def largest_of(parts: Sequence[Estimate]) -> Estimate:
    """Return the largest part; unbounded above when one is not available."""
    result = _over_available(parts, max)
    missing = any(not part.available for part in parts)
    return replace(result, high=math.inf) if missing and result.available else result


def smallest_of(parts: Sequence[Estimate]) -> Estimate:
    """Return the smallest part; unbounded below when one is not available."""
    result = _over_available(parts, min)
    missing = any(not part.available for part in parts)
    return replace(result, low=-math.inf) if missing and result.available else result


def _over_available(parts: Sequence[Estimate], of: Callable[[Sequence[float]], float]) -> Estimate:
    """Return ``of`` the values and of both ends; a missing part makes it an estimate."""
    seen = [part for part in parts if part.available]
    reasons = frozenset[str]().union(*(part.reasons for part in parts))
    if not seen:
        return unavailable(*reasons)
    known = not any(math.isnan(part.low) or math.isnan(part.high) for part in seen)
    status = worst(part.status for part in seen)
    if len(seen) < len(parts):
        status = "estimated"
    return Estimate(
        value=of([part.value for part in seen]),
        low=of([part.low for part in seen]) if known else math.nan,
        high=of([part.high for part in seen]) if known else math.nan,
        status=status,
        coverage=sum(part.coverage for part in parts) / len(parts),
        samples=sum(part.samples for part in seen),
        sources=frozenset[str]().union(*(part.sources for part in seen)),
        reasons=reasons,
    )
