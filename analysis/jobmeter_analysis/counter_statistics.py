"""Statistics of counters: how much they moved, how fast, and what share of a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from jobmeter.window import Phase
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.counters import Increases, increases
from jobmeter_analysis.estimate import (
    ALLOCATION_UNKNOWN,
    COUNTER_RESET,
    MONITORING_INCLUDED,
    SAMPLE_GAP,
    WINDOW_NOT_BRACKETED,
    ZERO_DENOMINATOR,
    Estimate,
    Status,
    averaged,
    difference,
    exact,
    quotient,
    scaled,
    total,
    unavailable,
    weighted,
)
from jobmeter_analysis.gauge_statistics import COMBINED, last
from jobmeter_analysis.readings import Seen, blocks, creations, seen_in
from jobmeter_analysis.subjects import EDGES, RECORDING, Scene, Subject, about, has_gap, lost
from jobmeter_analysis.targets import Track

Pair = tuple[Estimate, "Estimate | None"]
"""A number, and what the sum of such numbers is to be divided by."""


def measure_increase(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the increase of all label sets, less that of ``minus``."""
    return _less(subject, kpi, scene, lambda moved: moved.increase), None


def measure_rate(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the increase per second, less that of ``minus``, and the ``divisor``.

    Payload counters: per second of the phase. Counters of the stack, which also move while edges
    are fetched: per second between the two reads, with the shortest and longest time that may be.
    """
    rate = _less(subject, kpi, scene, lambda moved: _rate(subject, moved, scene.phase))
    if kpi.divisor is None:
        return rate, None
    divisor = Kpi(unit="1", help="", statistic="last", metric=kpi.divisor)
    below = last(subject, divisor, scene)[0]
    # A number of CPUs does not change while a job runs: its last value is certain.
    return rate, exact(below.value, below.samples) if below.available else below


def measure_ratio(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the increases of ``metric`` and of ``per``."""
    per = str(kpi.per)
    counted = per if subject.has(per) else f"{per}_count"
    above = moved(subject, str(kpi.metric), kpi, scene)
    below = moved(subject, counted, kpi.model_copy(update={"only": {}, "without": {}}), scene)
    return above.increase, below.increase


def measure_share(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the increase of some label sets, and that of all of them."""
    everything = kpi.model_copy(update={"only": {}})
    above = moved(subject, str(kpi.metric), kpi, scene)
    whole = moved(subject, str(kpi.metric), everything, scene)
    tracks = subject.tracks(str(kpi.metric), everything)
    told = all(any(track.label(label) for track in tracks) for label in kpi.only)
    if told and whole.increase.available and not above.increase.available:
        # The whole is there, and none of it is of this kind.
        zero = replace(whole.increase, value=0.0, low=0.0, high=0.0, reasons=frozenset())
        return zero, whole.increase
    return above.increase, whole.increase


def finish(measures: Sequence[Pair], kpi: Kpi) -> Estimate:
    """Return the sum of the numbers over the sum of what they are to be divided by, if anything."""
    below = [pair[1] for pair in measures if pair[1] is not None]
    if not below:
        return COMBINED[kpi.combined]([pair[0] for pair in measures])
    above, whole = total([pair[0] for pair in measures]), total(below)
    if kpi.statistic == "share":
        return _part_of(above, whole)
    result = quotient(above, whole)
    return scaled(result, kpi.scale) if kpi.scale != 1 else result


def _part_of(part: Estimate, whole: Estimate) -> Estimate:
    """Return ``part / whole``, the one being some of the other in the same readings.

    It is smallest when the part is, and the rest largest.
    """
    share = quotient(part, whole)
    if not share.available:
        return share
    rest = difference(whole, part)
    low = part.low / (part.low + rest.high) if part.low > 0 else 0.0
    high = part.high / (part.high + rest.low) if 0 < part.high < math.inf else min(1.0, part.high)
    return replace(share, value=min(max(share.value, low), high), low=low, high=high)


def measure_busy_share(subject: Subject, kpi: Kpi, scene: Scene) -> Pair:
    """Return the share of the increase of all label sets that is not in those of ``without``.

    For counters that together grow evenly with time, as CPU seconds of all modes do. With both
    edges the share is known between the two reads; what may have been different in the
    milliseconds around the phase widens the interval.
    """
    metric, phase = str(kpi.metric), scene.phase
    everything = _of_job(
        subject, kpi, subject.tracks(metric, kpi.model_copy(update={"without": {}}))
    )
    busy = _of_job(subject, kpi, subject.tracks(metric, kpi))
    all_moved = sum_up(subject, everything, metric, kpi, phase)
    some = sum_up(subject, busy, metric, kpi, phase)
    if all_moved is None or some is None:
        return subject.absence(), None
    unknown = (ALLOCATION_UNKNOWN,) if kpi.allocated and subject.cpus is None else ()
    weight = exact(max(all_moved.enclosing, all_moved.increase.value), 0)
    return _share(all_moved, some, phase).because(*unknown), weight


def finish_busy_share(measures: Sequence[Pair], kpi: Kpi) -> Estimate:
    """Return the mean of several shares, each weighted with what it is a share of."""
    del kpi
    shares = [share for share, _ in measures]
    weights = [whole.value if whole and share.available else 0.0 for share, whole in measures]
    return averaged(shares) if len(shares) == 1 else weighted(shares, weights)


def _of_job(subject: Subject, kpi: Kpi, tracks: tuple[Track, ...]) -> tuple[Track, ...]:
    """Return the label sets of the CPUs that the job was given, or all where that is not known."""
    if kpi.allocated is None or subject.cpus is None:
        return tracks
    label = kpi.allocated
    return tuple(track for track in tracks if track.label(label) in subject.cpus)


def _share(all_moved: Moved, busy: Moved, phase: Phase) -> Estimate:
    if all_moved.enclosing <= 0:
        return unavailable(ZERO_DENOMINATOR, *all_moved.reasons)
    if not (all_moved.between_edges and busy.between_edges):
        return _part_of(busy.increase, all_moved.increase)
    share_between = busy.enclosing / all_moved.enclosing
    outside = max(0.0, 1 - phase.window.seconds / all_moved.longest_s)
    low = max(0.0, (share_between - outside) / (1 - outside))
    high = min(1.0, share_between / (1 - outside))
    status: Status = "estimated" if COUNTER_RESET in all_moved.reasons else "bounded"
    return Estimate(
        value=min(max(share_between, low), high),
        low=low,
        high=high,
        status=status,
        coverage=1.0,
        samples=all_moved.increase.samples,
        sources=all_moved.increase.sources,
        reasons=all_moved.reasons,
    )


@dataclass(frozen=True)
class Moved:
    """How much some counters of one target moved together, and how that is known.

    Args:
        increase: Over the phase.
        enclosing: Between the readings around it.
        widening: How much more the increase may be than ``enclosing``.
        shortest_s: Time between these readings, at least.
        longest_s: And at most.
        between_edges: Whether they are the edges of the phase.
    """

    increase: Estimate
    enclosing: float
    widening: float
    shortest_s: float
    longest_s: float
    between_edges: bool

    @property
    def reasons(self) -> frozenset[str]:
        """Reason codes of the increase."""
        return self.increase.reasons


def moved(subject: Subject, metric: str, kpi: Kpi, scene: Scene) -> Moved:
    """Return how much the label sets of ``metric`` moved that ``kpi`` means."""

    def compute() -> Moved:
        summed = sum_up(subject, subject.tracks(metric, kpi), metric, kpi, scene.phase)
        seconds = scene.phase.window.seconds
        return summed or Moved(subject.absence(), 0.0, 0.0, seconds, seconds, False)

    return scene.once("moved", subject, about(kpi, metric), compute)


def _less(subject: Subject, kpi: Kpi, scene: Scene, of: Callable[[Moved], Estimate]) -> Estimate:
    whole = of(moved(subject, str(kpi.metric), kpi, scene))
    if kpi.minus is None or not whole.available:
        return whole
    part = of(moved(subject, kpi.minus, kpi, scene))
    if not part.available:
        return whole.because(MONITORING_INCLUDED)
    return difference(whole, part)


def sum_up(
    subject: Subject, tracks: Iterable[Track], metric: str, kpi: Kpi, phase: Phase
) -> Moved | None:
    """Return how much ``tracks`` of ``metric`` moved together; None when nothing is known."""
    target = subject.target
    found = blocks(tracks, creations(target, metric))
    seen = [(block, seen_in(phase, block, target, kpi.since)) for block in found]
    parts = [(block, one, increases(one.readings, phase.window)) for block, one in seen if one]
    if not parts:
        return None
    grown = [part for part in parts if touches(part[1], part[2], phase)]
    if not grown:
        gone = unavailable(WINDOW_NOT_BRACKETED, *lost(subject, phase))
        return Moved(gone, 0.0, 0.0, phase.window.seconds, phase.window.seconds, False)
    between = all(one.between_edges for _, one, _ in grown)
    stack_edges = between and target.kind == "stack"
    enclosing = math.fsum(float(up.enclosing.sum()) for _, _, up in grown)
    low = math.fsum(float(up.low.sum()) for _, _, up in grown)
    high = math.fsum(float(up.high.sum()) for _, _, up in grown)
    value = math.fsum(float(up.value.sum()) for _, _, up in grown)
    estimate = Estimate(
        value=enclosing if stack_edges else value,
        low=low,
        high=high,
        status=status_of([up for _, _, up in grown], low, high),
        coverage=coverage_of([up for _, _, up in grown], phase),
        samples=sum(up.readings * block.values.shape[1] for block, _, up in grown),
        sources=counter_sources([(one, up) for _, one, up in grown]),
        reasons=counter_reasons(subject, [(one, up) for _, one, up in grown], phase),
    )
    return Moved(
        estimate,
        enclosing,
        high - enclosing if stack_edges else 0.0,
        min(one.shortest_s for _, one, _ in grown),
        max(one.longest_s for _, one, _ in grown),
        between,
    )


def _rate(subject: Subject, summed: Moved, phase: Phase) -> Estimate:
    whole = summed.increase
    if not whole.available:
        return whole
    seconds = phase.window.seconds
    if subject.target.kind == "payload" or not summed.between_edges:
        return replace(
            whole, value=whole.value / seconds, low=whole.low / seconds, high=whole.high / seconds
        )
    low = summed.enclosing / summed.longest_s
    most = summed.enclosing + summed.widening
    high = most / summed.shortest_s if summed.shortest_s > 0 else math.inf
    middle = summed.enclosing / ((summed.shortest_s + summed.longest_s) / 2)
    status: Status = "estimated" if COUNTER_RESET in whole.reasons else "bounded"
    if low == high:
        status = whole.status
    return replace(whole, value=middle, low=low, high=high, status=status)


def touches(seen: Seen, up: Increases, phase: Phase) -> bool:
    """Whether anything is known of the window: readings inside, or on both sides of it."""
    if up.opened and up.closed:
        return True
    first, last = seen.readings.earliest_ms, seen.readings.latest_ms
    inside = (last > phase.window.start_ms) & (first < phase.window.end_ms)
    return bool(inside.any())


def status_of(ups: Sequence[Increases], low: float, high: float) -> Status:
    """Return how good a sum of increases is."""
    if any(up.resets.any() for up in ups):
        return "estimated"
    return "exact" if low == high else "bounded"


def coverage_of(ups: Sequence[Increases], phase: Phase) -> float:
    """Return the share of the phase that was seen, by counter."""
    columns = [(up.covered_ms, up.value.size) for up in ups]
    weight = sum(size for _, size in columns)
    covered = sum(part * size for part, size in columns)
    return covered / weight / 1000 / phase.window.seconds


def counter_sources(parts: Sequence[tuple[Seen, Increases]]) -> frozenset[str]:
    """Return whether edges, recorded samples or both were needed."""
    sources: set[str] = set()
    for one, up in parts:
        if one.edges:
            sources.add(EDGES)
        exact_by_edges = one.between_edges and not up.resets.any()
        if up.readings > one.edges and not (exact_by_edges and bool((up.low == up.high).all())):
            sources.add(RECORDING)
    return frozenset(sources)


def counter_reasons(
    subject: Subject, parts: Sequence[tuple[Seen, Increases]], phase: Phase
) -> frozenset[str]:
    """Return what is wrong with a sum of increases."""
    reasons: set[str] = set()
    if any(not (up.opened and up.closed) for _, up in parts):
        reasons.add(WINDOW_NOT_BRACKETED)
    if any(not up.closed for _, up in parts):
        reasons.update(lost(subject, phase))
    if any(up.resets.any() for _, up in parts):
        reasons.add(COUNTER_RESET)
    known = all(bool((up.low == up.high).all()) for _, up in parts)
    if not known and not all(one.between_edges for one, _ in parts) and has_gap(subject, phase):
        reasons.add(SAMPLE_GAP)
    return frozenset(reasons)
