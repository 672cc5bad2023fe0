"""The arithmetic against simulated truth: whatever was read when, the truth lies in [low, high]."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmeter.window import Window
from jobmeter_analysis import gauges
from jobmeter_analysis.counters import Readings, increases
from jobmeter_analysis.histograms import Masses, added, bucket_counts, quantile

SPAN = 100_000
times = st.integers(0, SPAN)
events = st.lists(st.tuples(times, st.integers(1, 50)), max_size=40)


def counted(happened, at):
    """The truth: what a counter that was never reset shows at ``at``."""
    return sum(size for time, size in happened if time <= at)


def readings(spans, values, **changes):
    earliest, latest = zip(*spans, strict=True) if spans else ((), ())
    return Readings(
        np.array(earliest, np.int64),
        np.array(latest, np.int64),
        np.array(values, float).reshape(len(spans), -1),
        np.ones(len(spans), np.bool_),
        **changes,
    )


@st.composite
def windows(draw):
    start = draw(st.integers(0, SPAN - 1))
    return Window(start, draw(st.integers(start + 1, SPAN)))


@st.composite
def scrapes(draw):
    """Spans of scrapes, one after the other, and a moment in each at which it read."""
    starts = sorted(draw(st.sets(times, min_size=1, max_size=20)))
    spans, moments = [], []
    for start, following in zip(starts, [*starts[1:], SPAN * 2], strict=True):
        end = min(start + draw(st.integers(0, 3000)), following)
        spans.append((start, end))
        moments.append(draw(st.integers(start, end)))
    return spans, moments


@given(events, scrapes(), windows())
def test_truth_lies_between_the_bounds(happened, read, window):
    spans, moments = read
    values = [1000 + counted(happened, moment) for moment in moments]
    up = increases(readings(spans, values), window)
    truth = counted(happened, window.end_ms) - counted(happened, window.start_ms)
    assert up.low[0] <= truth <= up.high[0]
    assert up.low[0] <= up.value[0] <= up.high[0]
    assert up.closed or math.isinf(up.high[0])
    assert 0 <= up.covered_ms <= window.end_ms - window.start_ms


@given(events, scrapes(), windows())
def test_readings_at_both_ends_are_exact(happened, read, window):
    spans, moments = read
    inside = [
        (span, moment)
        for span, moment in zip(spans, moments, strict=True)
        if span[0] >= window.start_ms and span[1] <= window.end_ms
    ]
    ends = (window.start_ms, window.end_ms)
    rows = [((ends[0], ends[0]), ends[0]), *inside, ((ends[1], ends[1]), ends[1])]
    values = [counted(happened, moment) / 10 for _, moment in rows]
    up = increases(readings([span for span, _ in rows], values), window)
    assert up.low[0] == up.value[0] == up.high[0] == values[-1] - values[0]
    assert up.covered_ms == window.end_ms - window.start_ms


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=3, max_size=30), st.data())
def test_resets_lose_at_most_what_the_upper_bound_allows(steps, data):
    """A restart takes with it what came after the last reading; here at most 10 per interval.

    Two intervals are known to have moved by 10, so that the largest step bounds every loss.
    """
    values, truth, now = [0.0, 10.0], 10, 10
    for moved, restarts in steps:
        if restarts:
            lost = data.draw(st.integers(0, 10 - moved))
            truth += lost + moved
            now = moved
        else:
            truth += moved
            now += moved
        values.append(float(now))
    spans = [(1000 * i, 1000 * i) for i in range(len(values))]
    window = Window(0, spans[-1][0])
    up = increases(readings(spans, values), window)
    hidden = sum(
        1 for i, (moved, restarts) in enumerate(steps) if restarts and moved >= values[i + 1]
    )
    if hidden == 0:  # a restart that overtakes its last reading cannot be seen in the counter
        assert up.low[0] <= truth <= up.high[0]
        assert up.resets[0] == sum(restarts for _, restarts in steps)


def test_increases_are_differences_not_sums_of_rounded_steps():
    values = [0.1 * i for i in range(1001)]
    spans = [(i, i) for i in range(1001)]
    up = increases(readings(spans, values), Window(0, 1000))
    assert up.value[0] == values[-1] - values[0]


def test_born_counters_without_any_witness_count_from_zero_but_promise_less():
    up = increases(readings([(50, 50), (90, 90)], [7, 9], zero_based=True), Window(10, 90))
    assert (up.low[0], up.value[0], up.high[0]) == (2, 9, 9)
    assert not up.opened


def test_nothing_after_the_window_leaves_it_open():
    up = increases(readings([(0, 0), (50, 50)], [1, 5]), Window(10, 90))
    assert (up.low[0], up.high[0], up.closed) == (0, math.inf, False)


BOUNDS = (0.1, 0.5, 1.0, math.inf)
observations = st.lists(
    st.tuples(times, st.floats(0, 3, allow_nan=False, allow_subnormal=False)), max_size=60
)


def histogram_row(observed, at):
    seen = [value for time, value in observed if time <= at]
    return {edge: np.array([sum(v <= edge for v in seen)], float) for edge in BOUNDS}


@given(observations, scrapes(), windows(), st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99]))
def test_true_quantile_lies_in_the_bracket(observed, read, window, q):
    spans, moments = read
    rows = [bucket_counts(histogram_row(observed, moment))[1][0] for moment in moments]
    up = increases(readings(spans, rows), window, together=len(BOUNDS))
    masses = Masses(np.array(BOUNDS), up.value, up.low, up.high)
    found = quantile(masses, q)
    inside = sorted(v for t, v in observed if window.start_ms < t <= window.end_ms)
    if found is None or not inside:
        return
    truth = inside[max(0, math.ceil(q * len(inside) * (1 - 1e-12)) - 1)]
    assert found.low <= truth <= found.high
    assert found.low <= found.value <= found.high


@given(st.lists(st.floats(0, 3, allow_subnormal=False), min_size=1, max_size=120), st.data())
def test_bracket_of_exact_masses_is_one_bucket(values, data):
    q = data.draw(st.sampled_from([0.5, 0.9, 0.99]))
    masses = [
        sum(lo < v <= hi for v in values) for lo, hi in zip((-1, *BOUNDS), BOUNDS, strict=False)
    ]
    array = np.array(masses, float)
    found = quantile(Masses(np.array(BOUNDS), array, array, array), q)
    edges = (0.0, *BOUNDS)
    rank = math.ceil(q * len(values) * (1 - 1e-12))
    holder = next(i for i, m in enumerate(itertools.accumulate(masses)) if m >= rank)
    assert found.few_observations == (masses[holder] < 20)
    assert found.low <= edges[holder] < edges[holder + 1] <= found.high
    if not found.few_observations:
        assert (found.low, found.high) == edges[holder : holder + 2]
    assert found.overflow == math.isinf(found.high)
    assert found.single_bucket == (sum(m > 0 for m in masses) == 1)


def test_histograms_with_other_buckets_are_added_on_common_edges():
    few = Masses(np.array([1.0, math.inf]), *[np.array([3.0, 1.0])] * 3)
    many = Masses(np.array([0.5, 1.0, 2.0, math.inf]), *[np.array([1.0, 1.0, 1.0, 1.0])] * 3)
    both = added([few, many])
    assert both.edges.tolist() == [1.0, math.inf]
    assert both.value.tolist() == [5.0, 3.0]


def test_sparse_and_sinking_buckets_are_filled_and_raised():
    columns = {0.1: np.array([1.0]), 0.5: np.array([np.nan]), 1.0: np.array([0.0])}
    edges, counts = bucket_counts({**columns, math.inf: np.array([4.0])})
    assert edges.tolist() == [0.1, 0.5, 1.0, math.inf]
    assert counts.tolist() == [[1.0, 0.0, 0.0, 3.0]]


def samples(points, ends=()):
    moments, values = zip(*points, strict=True)
    return gauges.GaugeSamples(
        np.array(moments, np.int64), np.array(values, float), np.array(ends, np.int64)
    )


def test_mean_is_weighted_with_time_and_coverage_is_what_it_stands_on():
    """The case of reference section 8.2: 100 for 30 s, an outage of 30 s, then 0 for 20 s."""
    points = [(1000 * t, 100.0) for t in range(0, 31)] + [(1000 * t, 0.0) for t in range(60, 81)]
    found = gauges.mean(samples(points), Window(0, 80_000), 2500, "trapezoid")
    assert found.value == pytest.approx(60)
    assert found.covered_ms / 80_000 == pytest.approx(0.625)


@given(st.sets(times, min_size=2, max_size=50), windows(), st.floats(-5, 5), st.floats(-5, 5))
def test_trapezoid_of_a_straight_line_is_exact_where_covered(moments, window, slope, offset):
    points = [(moment, offset + slope * moment / SPAN) for moment in sorted(moments)]
    gauge = samples(points)
    found = gauges.mean(gauge, window, 2 * SPAN, "trapezoid")
    start, end = max(window.start_ms, min(moments)), min(window.end_ms, max(moments))
    assert found.covered_ms == max(0, end - start)
    if found.covered_ms:
        assert found.value == pytest.approx(offset + slope * (start + end) / 2 / SPAN, abs=1e-9)


@given(st.sets(times, min_size=1, max_size=50), windows(), st.integers(1, SPAN))
def test_coverage_counts_neighbours_that_are_near(moments, window, max_gap):
    gauge = samples([(moment, 1.0) for moment in sorted(moments)])
    found = gauges.mean(gauge, window, max_gap, "step")
    ordered = sorted(moments)
    covered = sum(
        max(0, min(right, window.end_ms) - max(left, window.start_ms))
        for left, right in itertools.pairwise(ordered)
        if right - left <= max_gap
    )
    assert found.covered_ms == covered


def test_a_marked_end_covers_nothing():
    gauge = samples([(0, 1.0), (1000, 1.0), (2000, 1.0)], ends=(1500,))
    assert gauges.mean(gauge, Window(0, 2000), 2500, "step").covered_ms == 1000


def test_few_or_alike_samples_justify_no_interval():
    window = Window(0, 100_000)
    few = samples([(1000 * t, float(t)) for t in range(5)])
    assert math.isnan(gauges.mean(few, window, 2500, "step").error)
    ramp = samples([(1000 * t, float(t)) for t in range(60)])
    assert math.isnan(gauges.mean(ramp, window, 2500, "step").error)
    noise = samples([(1000 * t, float(t * 7919 % 13)) for t in range(60)])
    assert 0 < gauges.mean(noise, window, 2500, "step").error < 2
