"""Resets of counters, gauges and masses of histograms against a truth that is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from jobmeter.window import Window
from jobmeter_analysis import gauges
from jobmeter_analysis.counters import Readings, increases
from jobmeter_analysis.histograms import (
    Amount,
    Masses,
    added,
    bucket_counts,
    count,
    mean,
    quantile,
    share_at_most,
    without_lowest,
)

THOROUGH = settings.get_profile("truth")
seeds = st.randoms(use_true_random=True)
WINDOW = Window(0, 60_000)


def close(one, other):
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)


def at_most(one, other):
    return one <= other or close(one, other)


def readings(spans, values, **changes):
    earliest, latest = zip(*spans, strict=True) if spans else ((), ())
    return Readings(
        np.array(earliest, np.int64),
        np.array(latest, np.int64),
        np.array(values, float).reshape(len(spans), -1),
        np.ones(len(spans), np.bool_),
        **changes,
    )


# counters whose rate is bounded, and what their resets lose


@THOROUGH
@given(seeds)
def test_no_reset_loses_more_than_the_fastest_rate_seen_allows(random):
    """A counter that never moves faster than ``fastest``, read at both ends, dying at will."""
    fastest = random.choice([1.0, 10.0, 0.001])
    changes = sorted(random.sample(range(1, 60_000), random.randrange(8)))
    pieces = [0, *changes, 60_000]
    speeds = [fastest * random.choice([1, 1, random.random(), 0]) for _ in pieces[1:]]
    grown = np.concatenate([[0.0], np.cumsum(np.diff(pieces) * speeds)])
    deaths = sorted(random.sample(range(1, 60_000), random.randrange(1, 4)))
    interval = random.choice([500, 1000, 5000])
    stamps = {0, 60_000} | {at for at in range(0, 60_000, interval) if random.random() < 0.8}
    spans, moments = [], []
    for at, following in itertools.pairwise([*sorted(stamps), 61_000]):
        took = random.randrange(min(400, following - at)) if 0 < at < 60_000 else 0
        spans.append((at, at + took))
        moments.append(random.randrange(at, at + took + 1))
    begun = [max([0, *(death for death in deaths if death <= at)]) for at in moments]
    total = np.interp(moments, pieces, grown)
    values = total - np.interp(begun, pieces, grown)
    restarted = np.diff(begun, prepend=begun[0]) > 0
    one = readings(spans, values, restarted=restarted if random.random() < 0.8 else None)
    visible = (np.diff(values) < 0) | (False if one.restarted is None else restarted[1:])
    assume((visible | ~restarted[1:]).all())
    up = increases(one, WINDOW)
    truth = float(grown[-1])
    assert at_most(up.low[0], truth)
    assert at_most(up.low[0], up.value[0])
    assert at_most(up.value[0], up.high[0])
    apart = np.diff(moments)
    fair = apart >= 0.9 * np.median([s[1] - r[0] for r, s in itertools.pairwise(spans)])
    seen = (np.diff(total)[fair & ~restarted[1:]] / apart[fair & ~restarted[1:]]).max(initial=0)
    if seen >= fastest * (1 - 1e-9):
        event("seen at its fastest")
        assert at_most(truth, up.high[0])


def test_a_long_silence_around_a_death_may_have_lost_much():
    """One event per second; dead some time in the 50 s that nobody looked."""
    at = [*range(0, 11_000, 1000), 60_000]
    values = [*range(11), 2]
    up = increases(readings([(t, t) for t in at], values), WINDOW)
    assert (up.low[0], up.value[0], up.high[0]) == (12, 12, 62)


def test_an_event_between_an_edge_and_a_scrape_is_no_rate():
    at = [0, 5000, 10_000, 10_001, 15_000, 20_000, 60_000]
    values = [0, 1, 2, 3, 0, 1, 9]
    up = increases(readings([(t, t) for t in at], values), WINDOW)
    assert up.high[0] == 12 + 8


def test_rounding_and_a_dip_are_no_resets():
    spans = [(1000 * i, 1000 * i) for i in range(4)]
    window = Window(0, 3000)
    rounded = increases(readings(spans, [10.0, 20.0, 20.0 - 1e-12, 30.0]), window)
    assert (rounded.low[0], rounded.high[0], rounded.resets[0]) == (20, 20, 0)
    dip = increases(readings(spans, [5000.0, 5010.0, 5009.9, 5020.0], slack=0.01), window)
    assert (dip.low[0], dip.high[0], dip.resets[0]) == (20, 20, 0)
    dips_at_the_end = increases(readings(spans, [0.0, 7.0, 7.0, 7.0 - 1e-12]), window)
    assert dips_at_the_end.low[0] == dips_at_the_end.high[0] == 7


def test_a_reading_without_a_counter_is_none_for_it():
    spans = [(1000 * i, 1000 * i) for i in range(4)]
    nan = math.nan
    values = [[1, nan, nan], [2, 5, nan], [nan, 6, nan], [4, nan, nan]]
    up = increases(readings(spans, values), Window(0, 3000))
    assert (up.low[0], up.high[0]) == (3, 3)
    assert (up.low[1], up.high[1]) == (1, math.inf)
    assert np.isnan(up.value[2])
    assert not up.opened
    assert not up.closed


def test_a_reset_before_the_window_does_not_matter_to_it():
    spans = [(at, at) for at in (-9000, -5000, 0, 60_000)]
    up = increases(readings(spans, [50, 2, 3, 9]), WINDOW)
    assert (up.low[0], up.high[0], up.resets[0]) == (6, 6, 0)


# gauges


@st.composite
def sampled(draw):
    """Samples with a rhythm, outages and ends; and how far apart two may be."""
    random = draw(seeds)
    interval = random.choice([500, 1000, 5000])
    begin, end = random.randrange(-9000, 40_000), random.randrange(40_000, 70_000)
    times = [at + random.randrange(-2, 3) for at in range(begin, end, interval)]
    times = [at for at in times if random.random() < 0.9] or [begin]
    if random.random() < 0.4:
        hole = random.randrange(begin, end)
        times = [at for at in times if not hole < at < hole + 15_000] or [begin]
    values = [random.choice([0.0, 100.0, random.random() * 400]) for _ in times]
    if random.random() < 0.1:
        values = [values[0]] * len(values)
    ends = sorted(random.sample(range(begin, end), random.choice([0, 0, 2])))
    gauge = gauges.GaugeSamples(
        np.array(times, np.int64), np.array(values), np.array(ends, np.int64)
    )
    return gauge, 2.5 * interval


def pieces(gauge, max_gap):
    """The covered pieces of the window, one by one."""
    points = list(zip(gauge.times_ms.tolist(), gauge.values.tolist(), strict=True))
    for (left, before), (right, after) in itertools.pairwise(points):
        ended = any(left <= at < right for at in gauge.ends_ms)
        lower, upper = max(left, WINDOW.start_ms), min(right, WINDOW.end_ms)
        if right - left <= max_gap and not ended and upper > lower:
            yield left, right, before, after, lower, upper


def at_moments(gauge, max_gap, method):
    """The gauge on a fine grid, where it is covered."""
    values, weights = [], []
    for left, right, before, after, lower, upper in pieces(gauge, max_gap):
        edges = np.linspace(lower, upper, 201)
        middle = (edges[1:] + edges[:-1]) / 2
        line = before + (after - before) * (middle - left) / (right - left)
        values.append(line if method == "trapezoid" else np.full(200, before))
        weights.append(np.diff(edges))
    if not values:
        return np.empty(0), np.empty(0)
    return np.concatenate(values), np.concatenate(weights)


@THOROUGH
@given(sampled(), st.sampled_from(["trapezoid", "step"]), st.floats(0.01, 0.99))
def test_gauges(made, method, q):
    gauge, max_gap = made
    values, weights = at_moments(gauge, max_gap, method)
    covered = weights.sum()
    found = gauges.mean(gauge, WINDOW, max_gap, method)
    assert found.covered_ms == pytest.approx(covered)
    part = gauges.integral(gauge, WINDOW, max_gap, method)
    quantile_ = gauges.quantile(gauge, WINDOW, max_gap, q, method)
    above = gauges.share_above(gauge, WINDOW, max_gap, 100.0, method)
    for one in (found, part, quantile_, above):
        assert math.isnan(one.low) == math.isnan(one.high)
        assert math.isnan(one.low) or one.low <= one.value <= one.high
    if not covered:
        return
    assert found.value == pytest.approx((values * weights).sum() / covered, abs=1e-9)
    assert part.value == pytest.approx(found.value * 60)
    assert above.value == pytest.approx((weights * (values > 100)).sum() / covered, abs=0.006)
    share = (weights * (values <= quantile_.value + 1e-9)).sum() / covered
    less = (weights * (values < quantile_.value - 1e-9)).sum() / covered
    assert less - 0.006 <= q <= share + 0.006
    event("covered" if covered == 60_000 else "partly covered")


@THOROUGH
@given(seeds, st.sampled_from(["trapezoid", "step"]))
def test_what_is_not_covered_is_within_what_was_seen(random, method):
    """A signal that stays between its smallest and its largest sample, exactly as drawn between.

    Sampled without error, the interval holds the true mean and integral of the whole window.
    """
    times = np.arange(-1000, 62_000, 1000)
    values = np.array([random.choice([0.0, 50.0, 300.0 * random.random()]) for _ in times])
    hole = random.randrange(0, 50_000)
    kept = (times <= hole) | (times > hole + random.randrange(0, 40_000))
    assume(kept.sum() > 12)
    gauge = gauges.GaugeSamples(times[kept], values[kept], np.empty(0, np.int64))
    lowest, highest = values[kept].min(), values[kept].max()
    inside = gauges.mean(gauge, WINDOW, 2500, method)
    if math.isnan(inside.error):
        return
    values = np.clip(values, lowest, highest)
    whole = gauges.GaugeSamples(times, values, np.empty(0, np.int64))
    truth = gauges.mean(whole, WINDOW, 2500, method)
    slack = 300 * 2000 / 60_000  # the ends of the hole lie between samples
    assert truth.covered_ms == 60_000
    assert inside.low - slack <= truth.value <= inside.high + slack
    power = gauges.integral(gauge, WINDOW, 2500, method)
    assert power.low - 60 * slack <= truth.value * 60 <= power.high + 60 * slack
    assert gauges.largest(gauge, WINDOW) <= values.max()
    assert gauges.smallest(gauge, WINDOW) >= values.min()


@THOROUGH
@given(seeds, st.sampled_from(["trapezoid", "step"]))
def test_a_signal_as_drawn_between_its_samples_is_exact(random, method):
    corners = [0, *sorted(random.sample(range(1, 60_000), random.randrange(20))), 60_000]
    level = [random.random() * 1000 for _ in corners]
    widths = np.diff(corners)
    heights = level[:-1] if method == "step" else np.add(level[1:], level[:-1]) / 2
    gauge = gauges.GaugeSamples(np.array(corners), np.array(level), np.empty(0, np.int64))
    found = gauges.mean(gauge, WINDOW, 60_000, method)
    truth = float((widths * heights).sum())
    assert found.covered_ms == 60_000
    assert found.value == pytest.approx(truth / 60_000, rel=1e-12)
    energy = gauges.integral(gauge, WINDOW, 60_000, method)
    assert energy.value == pytest.approx(truth / 1000, rel=1e-12)
    assert gauges.first(gauge, WINDOW) == level[0]
    assert gauges.last(gauge, WINDOW) == level[-1]
    assert gauges.largest(gauge, WINDOW) == max(level)
    assert gauges.changes(gauge, WINDOW) == len(level) - 1


def test_share_of_time_with_flags():
    times = np.arange(0, 61_000, 1000)
    flags = np.where((times >= 10_000) & (times < 25_000), 0x4 | 0x1, 0x1).astype(float)
    gauge = gauges.GaugeSamples(times, flags, np.empty(0, np.int64))
    capped = gauges.share_with_bits(gauge, WINDOW, 2500, 0x4 | 0x20)
    assert capped.value == 0.25
    assert gauges.share_with_bits(gauge, WINDOW, 2500, 0x1).value == 1
    assert gauges.share_with_bits(gauge, WINDOW, 2500, 0x8).high == 0
    assert gauges.changes(gauge, WINDOW) == 2


def test_what_was_not_covered_counts_from_nothing_to_the_largest_sample():
    times = np.arange(0, 31_000, 1000)
    gauge = gauges.GaugeSamples(times, np.full(31, 200.0), np.empty(0, np.int64))
    energy = gauges.integral(gauge, WINDOW, 2500, "trapezoid")
    assert (energy.low, energy.value, energy.high) == (6000, 12_000, 12_000)
    above = gauges.share_above(gauge, WINDOW, 2500, 100, "trapezoid")
    assert (above.low, above.value, above.high) == (0.5, 1, 1)


def test_a_sample_that_is_no_number_is_none():
    times = np.arange(0, 61_000, 1000)
    values = np.where(times == 30_000, math.nan, 5.0)
    gauge = gauges.GaugeSamples(times, values, np.empty(0, np.int64))
    found = gauges.mean(gauge, WINDOW, 2500, "step")
    assert (found.value, found.low, found.high, found.samples) == (5, 5, 5, 60)


def test_nothing_is_known_of_a_gauge_without_samples():
    gauge = gauges.GaugeSamples(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
    assert math.isnan(gauges.mean(gauge, WINDOW, 2500, "step").value)
    assert math.isnan(gauges.integral(gauge, WINDOW, 2500, "step").value)
    assert math.isnan(gauges.quantile(gauge, WINDOW, 2500, 0.5, "step").value)
    assert math.isnan(gauges.share_above(gauge, WINDOW, 2500, 1, "step").value)
    assert math.isnan(gauges.first(gauge, WINDOW))
    assert gauges.changes(gauge, WINDOW) == 0


# histograms


BOUNDS = np.array([0.1, 0.5, 1.0, math.inf])


@st.composite
def bounded_masses(draw):
    """True counts, and bounds that hold them."""
    random = draw(seeds)
    truth = np.array(
        [random.choice([0, random.randrange(5), random.randrange(60)]) for _ in range(4)]
    )
    low = np.array([random.randrange(one + 1) if random.random() < 0.5 else one for one in truth])
    high = truth + [random.choice([0, 0, random.randrange(9)]) for _ in truth]
    value = np.array([random.uniform(x, y) for x, y in zip(low, high, strict=True)])
    infinite = random.random() < 0.1
    return truth, Masses(BOUNDS, value, low.astype(float), np.full(4, np.inf) if infinite else high)


@THOROUGH
@given(bounded_masses(), st.floats(0.01, 0.99))
def test_brackets_hold_the_rank_and_those_around_it(made, q):
    truth, masses = made
    found = quantile(masses, q)
    n = int(truth.sum())
    if found is None or n == 0:
        return
    holders = np.repeat(np.arange(4), truth)
    lower = np.array([0.0, *BOUNDS[:-1]])

    def bucket(rank):
        return holders[min(max(math.ceil(rank), 1), n) - 1]

    rank = q * n * (1 - 1e-12)
    assert found.low <= lower[bucket(rank)]
    assert found.high >= BOUNDS[bucket(rank)]
    assert found.low <= found.value <= found.high
    if found.few_observations:
        event("few")
        off = 1.96 * math.sqrt(n * q * (1 - q))
        assert found.low <= lower[bucket(rank - off)]
        assert found.high >= BOUNDS[bucket(rank + off)]


@THOROUGH
@given(bounded_masses(), seeds)
def test_known_zeros_are_taken_out(made, random):
    truth, masses = made
    zeros = random.randrange(truth[0] + 1)
    removed = Amount(zeros, random.randrange(zeros + 1), zeros + random.randrange(3))
    rest = without_lowest(masses, removed)
    left = truth - [zeros, 0, 0, 0]
    assert (rest.low <= left).all()
    assert (left <= rest.high).all()
    assert (rest.low <= rest.value).all()
    assert (rest.value <= rest.high).all()
    observed = np.concatenate(
        [
            [random.uniform(max(0, low), min(high, 9)) for _ in range(n)]
            for n, low, high in zip(left, (0, *BOUNDS[:-1]), BOUNDS, strict=True)
        ]
    )
    total = Amount(observed.sum(), observed.sum(), observed.sum())
    average = mean(total, rest)
    if average is not None and observed.size:
        assert at_most(average.low, observed.mean())
        assert at_most(observed.mean(), average.high)
        limit = random.uniform(0, 2)
        share = share_at_most(rest, limit)
        assert at_most(share.low, (observed <= limit).mean())
        assert at_most((observed <= limit).mean(), share.high)


def test_a_share_is_exact_at_an_edge():
    exact = np.array([2.0, 3.0, 5.0, 10.0])
    masses = Masses(BOUNDS, exact, exact, exact)
    assert vars(share_at_most(masses, 0.5)) == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert vars(share_at_most(masses, 0.75)) == {"value": 0.375, "low": 0.25, "high": 0.5}
    assert vars(share_at_most(masses, 7.0)) == {"value": 0.5, "low": 0.5, "high": 1.0}
    assert share_at_most(masses, -1.0).high == 0
    assert count(masses) == Amount(20, 20, 20)


def test_a_rank_above_the_last_edge_overflows():
    exact = np.array([20.0, 0.0, 0.0, 80.0])
    found = quantile(Masses(BOUNDS, exact, exact, exact), 0.9)
    assert (found.low, found.value, found.high) == (1, 1, math.inf)
    assert found.overflow
    assert not found.few_observations


def test_all_in_one_bucket_is_interpolated_there():
    exact = np.array([0.0, 100.0, 0.0, 0.0])
    found = quantile(Masses(BOUNDS, exact, exact, exact), 0.5)
    assert (found.low, found.value, found.high) == (0.1, pytest.approx(0.3), 0.5)
    assert found.single_bucket


@THOROUGH
@given(bounded_masses(), bounded_masses())
def test_sums_on_common_edges_hold_the_sum(made, other):
    (truth, masses), (coarse, few) = made, other
    coarse = np.array([coarse[0] + coarse[1], coarse[2] + coarse[3]])
    both = added(
        [
            masses,
            Masses(
                np.array([0.5, math.inf]),
                *(
                    np.array([part[0] + part[1], part[2] + part[3]])
                    for part in (few.value, few.low, few.high)
                ),
            ),
        ]
    )
    assert {0.5, math.inf} <= set(both.edges.tolist())
    # Where the coarse one has no edge and the sum has, the coarse one got nothing.
    up_to = [
        truth[edge >= BOUNDS].sum() + coarse[edge >= [0.5, math.inf]].sum() for edge in both.edges
    ]
    wanted = np.diff(up_to, prepend=0)
    assert (both.low <= wanted).all()
    assert (wanted <= both.high).all()


def test_a_reading_that_was_cut_counts_as_none():
    columns = {
        0.1: np.array([1.0, 1.0, 2.0]),
        0.5: np.array([3.0, math.nan, 4.0]),
        math.inf: np.array([3.0, math.nan, 5.0]),
    }
    _, counts = bucket_counts(columns)
    assert np.isnan(counts[1]).all()
    assert counts[2].tolist() == [2, 2, 1]
