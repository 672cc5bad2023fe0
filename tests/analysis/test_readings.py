"""Edges, births and restarts of one target, against simulated truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmeter.window import Phase, Window
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.statistics import STATISTICS
from jobmeter_analysis.subjects import Scene, Subject
from jobmeter_analysis.targets import NO_TIMES, Boundary, Scrapes, Target, TargetName, Track

A, B = 100_000, 160_000
PHASE = Phase("main", Window(A, B))
KPI = Kpi(unit="1", help="", statistic="increase", metric="work_total")


def increase(target, kpi, phase):
    return computed("increase", target, kpi, phase)


def rate(target, kpi, phase):
    return computed("rate", target, kpi, phase)


def computed(name, target, kpi, phase):
    statistic = STATISTICS[name]
    return statistic.finish([statistic.measure(Subject(target), kpi, Scene(phase))], kpi)


def scrapes(up, down=()):
    moments = np.array(sorted([*up, *down]), np.int64)
    return Scrapes(moments, moments + 5, np.isin(moments, list(up)))


def track(points, edges=None, labels=()):
    moments = np.array([at for at, _ in points], np.int64)
    values = np.array([value for _, value in points], float)
    return Track(frozenset(labels), moments, values, NO_TIMES, edges or {})


def target(points=(), edges=None, kind="payload", boundaries=(), up=None, down=(), **tracks):
    return Target(
        TargetName("train" if kind == "payload" else "cgroup", "n1"),
        kind,
        5000,
        "run",
        scrapes([at for at, _ in points] if up is None else up, down),
        tuple(boundaries),
        {"work_total": (track(points, edges),), **tracks},
    )


def boundary(side, usable=True, whole=True):
    at = A - 20 if side == "start" else B + 10
    return Boundary("main", side, at, at + 10, usable, usable and whole)


ENDS = (boundary("start"), boundary("end"))


def interval(estimate):
    return estimate.low, estimate.value, estimate.high, estimate.status


def test_both_edges_of_a_payload_are_exact_whatever_was_recorded():
    points = [(98_000, 7), (99_990, 10), (120_000, 15), (159_999, 40)]
    one = target(points, {0: 10.0, 1: 40.0}, boundaries=ENDS)
    assert interval(increase(one, KPI, PHASE)) == (30, 30, 30, "exact")
    assert increase(one, KPI, PHASE).sources == {"edges"}
    assert interval(rate(one, KPI, PHASE)) == (0.5, 0.5, 0.5, "exact")


@given(st.lists(st.tuples(st.integers(A + 1, B - 1), st.integers(1, 9)), max_size=30), st.data())
def test_edges_of_a_payload_give_the_truth(happened, data):
    moments = sorted(data.draw(st.sets(st.integers(A - 20_000, B + 20_000), max_size=30)))
    points = [(at, float(sum(n for t, n in happened if t <= at))) for at in moments]
    truth = float(sum(n for _, n in happened))
    one = target(points, {0: 0.0, 1: truth}, boundaries=ENDS)
    assert interval(increase(one, KPI, PHASE)) == (truth, truth, truth, "exact")


def test_what_an_edge_does_not_have_yet_is_zero_there():
    one = target([(120_000, 3)], {1: 8.0}, boundaries=ENDS)
    assert interval(increase(one, KPI, PHASE)) == (8, 8, 8, "exact")


def test_a_target_that_ended_by_itself_left_its_last_word():
    """Asked in vain at both ends, and in between nothing was recorded: what it left is all."""
    left = Boundary("main", "end", B - 3, B - 3, True, True)
    ends = (boundary("start", usable=False), left, boundary("end", usable=False))
    one = target([], {1: 8.0}, boundaries=ends)
    assert interval(increase(one, KPI, PHASE)) == (8, 8, 8, "exact")
    assert increase(one, KPI, PHASE).coverage == 1


def test_what_a_torn_edge_does_not_have_is_unknown():
    torn = (boundary("start", whole=False), ENDS[1])
    one = target([(90_000, 5), (120_000, 6)], {1: 8.0}, boundaries=torn)
    low, _, high, status = interval(increase(one, KPI, PHASE))
    assert (low, high, status) == (2, 3, "bounded")


def test_a_payload_that_did_not_answer_at_the_start_began_at_zero():
    one = target([(120_000, 3)], {1: 8.0}, boundaries=(boundary("start", usable=False), ENDS[1]))
    assert interval(increase(one, KPI, PHASE)) == (8, 8, 8, "exact")


@pytest.mark.parametrize("begun_s", [99.5, 101.0])
def test_what_only_a_later_process_counts_began_with_it(begun_s):
    """An earlier one answered without it, and left; whoever came since then began at zero."""
    begun = {"process_start_time_seconds": (track([(90_000, 10.0), (120_000, begun_s)]),)}
    ends = (
        Boundary("before", "end", A - 5000, A - 5000, True, True, left=True),
        Boundary("main", "end", B - 3, B - 3, True, True, left=True),
    )
    one = target([(120_000, 3)], {1: 8.0}, boundaries=ends, up=[90_000, 120_000], **begun)
    assert interval(increase(one, KPI, PHASE)) == (8, 8, 8, "exact")


def test_a_process_that_is_older_than_the_phase_did_not_begin_at_zero():
    begun = {"process_start_time_seconds": (track([(120_000, 50.0)]),)}
    silent = (boundary("start", usable=False), ENDS[1])
    one = target([(120_000, 3)], {1: 8.0}, boundaries=silent, **begun)
    assert interval(increase(one, KPI, PHASE))[::2] == (5, 8)


def test_a_new_process_in_the_phase_starts_from_zero_even_when_it_overtakes_the_old_one():
    begun = {"process_start_time_seconds": (track([(90_000, 10.0), (120_000, 105.0)]),)}
    silent = (boundary("start", usable=False), ENDS[1])
    points = [(90_000, 100), (120_000, 120)]
    one = target(points, {1: 150.0}, boundaries=silent, **begun)
    assert interval(increase(one, KPI, PHASE)) == (150, 150, 150, "exact")


def test_a_label_set_that_appears_on_a_target_that_was_up_was_zero_before():
    up = range(90_000, 170_000, 5000)
    points = [(at, 2.0 + (at - 130_000) / 5000) for at in up if at >= 130_000]
    one = target(points, up=up)
    low, value, high, status = interval(increase(one, KPI, PHASE))
    assert (low, high, status) == (7, 8 + 1, "bounded")
    assert low <= value <= high


def test_the_last_failed_scrape_is_before_the_birth():
    points = [(at, (at - 100_000) / 5000) for at in range(125_000, 170_000, 5000)]
    one = target(points, down=range(90_000, 125_000, 5000))
    low, _, high, _ = interval(increase(one, KPI, PHASE))
    assert (low, high) == (11, 13)


def test_created_tells_the_birth():
    points = [(at, float(at - 110_000)) for at in range(125_000, 170_000, 5000)]
    born = {"work_created": (track([(125_000, 110.0)]),)}
    one = target(points, **born)
    low, _, high, _ = interval(increase(one, KPI, PHASE))
    assert (low, high) == (45_000, 55_000)


def test_counters_of_the_node_are_never_born():
    points = [(at, 1e9 + at) for at in range(120_000, 170_000, 5000)]
    one = target(points, kind="stack", up=range(90_000, 170_000, 5000))
    kpi = Kpi(unit="1", help="", statistic="increase", metric="work_total", since="boot")
    info = Track(frozenset({("exported_run_id", "run")}), NO_TIMES, np.empty(0), NO_TIMES, {})
    one.tracks["jobmeter_run_info"] = (info,)
    found = increase(one, kpi, PHASE)
    assert abs(found.value - 40_000) < 10  # the scrape at the end read somewhere in 5 ms
    assert found.reasons == {"window_not_bracketed"}
    assert found.coverage == pytest.approx((B - 119_998) / (B - A), abs=1e-4)


def test_a_killed_payload_has_no_upper_bound():
    one = target([(90_000, 1), (110_000, 5), (115_000, 6)], down=[120_000, 125_000])
    found = increase(one, KPI, PHASE)
    assert (found.low, found.high, found.status) == (1, np.inf, "bounded")
    assert found.reasons == {"window_not_bracketed", "target_lost", "sample_gap"}


def test_a_target_that_ended_before_the_phase_has_no_number():
    one = target([(80_000, 1), (85_000, 5)], down=[90_000, 95_000])
    found = increase(one, KPI, PHASE)
    assert np.isnan(found.value)
    assert found.reasons == {"window_not_bracketed", "target_lost"}


def test_resets_are_estimated_and_say_so():
    points = [
        (at, v) for at, v in zip(range(105_000, 160_000, 10_000), (4, 8, 1, 5, 9, 13), strict=True)
    ]
    one = target(points, {0: 0.0, 1: 15.0}, boundaries=ENDS)
    found = increase(one, KPI, PHASE)
    assert (found.low, found.value, found.status) == (23, 23, "estimated")
    fastest = 4 / (10_000 - 7)  # a scrape of 5 ms whose time stamp was moved by 2 at most
    assert found.high == pytest.approx(23 + fastest * (10_000 + 7))
    assert found.reasons == {"counter_reset"}


def test_node_wide_counters_know_what_moved_between_the_reads():
    info = Track(frozenset({("exported_run_id", "run")}), NO_TIMES, np.empty(0), NO_TIMES, {0: 1.0})
    points = [(at, float(at)) for at in range(90_000, 170_000, 5000)]
    one = target(
        points,
        {0: 99_985.0, 1: 160_015.0},
        kind="stack",
        boundaries=ENDS,
        jobmeter_run_info=(info,),
    )
    assert interval(increase(one, KPI, PHASE)) == (50_000, 60_030, 60_030, "bounded")
    low, value, high, status = interval(rate(one, KPI, PHASE))
    assert (low, status) == (60_030 / 60.04, "bounded")
    assert high == 60_030 / 60.02
    assert low < value < high


def test_a_restart_that_has_overtaken_its_last_reading_is_a_reset():
    """8 events, a new process, 9 more by the next scrape: 17, and more may have been lost."""
    points = [(at, 8.0) for at in range(90_000, 130_000, 5000)]
    points += [(at, 9.0) for at in range(130_000, 170_000, 5000)]
    began = [(at, 50.0 if at < 130_000 else 127.0) for at, _ in points]
    start = track(began, {0: 50.0, 1: 127.0})
    one = target(points, {0: 8.0, 1: 9.0}, boundaries=ENDS, process_start_time_seconds=(start,))
    estimate = increase(one, KPI, PHASE)
    assert (estimate.value, estimate.low) == (9, 9)
    assert estimate.status == "estimated"
    assert "counter_reset" in estimate.reasons
