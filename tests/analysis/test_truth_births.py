"""Births and restarts, case by case: what proves a zero, and when."""

import math

import numpy as np
import pytest

from jobmeter.window import Phase, Window
from jobmeter_analysis.counters import increases
from jobmeter_analysis.histogram_statistics import histogram_block
from jobmeter_analysis.readings import blocks, creations, seen_in
from jobmeter_analysis.targets import NO_TIMES, Boundary, Clock, Scrapes, Target, TargetName, Track

A, B = 101_000, 158_000
PHASE = Phase("main", Window(A, B))
LATE = [(at, 10.0 + (at - 125_000) / 5000) for at in range(125_000, 170_000, 5000)]
"""10 at 125 s, then one more per scrape; 16 at the last scrape of the window, 17 behind it."""


def track(points, edges=None, labels=()):
    times = np.array([at for at, _ in points], np.int64)
    values = np.array([value for _, value in points], float)
    return Track(frozenset(labels), times, values, NO_TIMES, edges or {})


def bounds(
    points, edges=None, boundaries=(), failed=(), up=(), offset=0.0, since="process", **more
):
    """Return low and high; ``failed`` are scrapes in vain and how long they took."""
    record = dict.fromkeys([*(at for at, _ in points), *up], (5, True))
    record.update({at: (took, False) for at, took in failed})
    times = np.array(sorted(record), np.int64)
    took = np.array([record[int(at)][0] for at in times], np.int64)
    answered = np.array([record[int(at)][1] for at in times], np.bool_)
    target = Target(
        TargetName("train", "n1"),
        "payload",
        5000,
        "run",
        Scrapes(times, times + took, answered),
        tuple(boundaries),
        {"work_total": (track(points, edges),), **more},
        clock=Clock(offset),
    )
    (block,) = blocks(target.tracks["work_total"], creations(target, "work_total"))
    up = increases(seen_in(PHASE, block, target, since).readings, PHASE.window)
    return float(up.low[0]), float(up.high[0]), int(up.resets[0])


def told(seconds, at=125_000):
    return {"process_start_time_seconds": (track([(at, seconds)]),)}


def test_a_start_in_the_window_is_a_zero_there():
    assert bounds(LATE, **told(110.0)) == (16, 17, 0)


def test_a_start_may_be_a_tick_later_than_told():
    """It says half a second into the window; it may have been before, and counted before."""
    low, high, _ = bounds(LATE, **told(101.5))
    assert (low, high) == (6, 17)


@pytest.mark.parametrize("offset", [-20_000.0, 30_000.0])
def test_a_start_is_told_by_the_clock_of_the_target(offset):
    assert bounds(LATE, **told(110.0 + offset / 1000), offset=offset) == (16, 17, 0)
    assert bounds(LATE, **told(90.0 + offset / 1000), offset=offset) == (6, 17, 0)
    created = {"work_created": (track([(125_000, 110.0 + offset / 1000)]),)}
    assert bounds(LATE, offset=offset, **created) == (16, 17, 0)


def test_a_birth_after_the_first_reading_is_none():
    assert bounds(LATE, work_created=(track([(125_000, 140.0)]),)) == (6, 17, 0)
    assert bounds(LATE, **told(140.0)) == (6, 17, 0)


def test_the_first_creation_counts():
    """What was created again later was created by another process."""
    again = track([(at, 110.0 if at < 150_000 else 148.0) for at, _ in LATE])
    assert bounds(LATE, work_created=(again,))[0] == 16


def test_the_start_that_is_told_later_may_be_that_of_another_process():
    assert bounds(LATE, **told(148.0, at=150_000)) == (6, 17, 0)
    assert bounds(LATE, **told(110.0, at=150_000)) == (16, 17, 0)


def test_who_refused_was_not_there_and_who_was_slow_may_have_been():
    assert bounds(LATE, failed=[(115_000, 3), (120_000, 3)]) == (16, 17, 0)
    assert bounds(LATE, failed=[(115_000, 5000), (120_000, 5000)]) == (6, 17, 0)


def test_the_same_holds_for_an_edge():
    refused = Boundary("main", "start", A - 20, A - 10, False, False)
    slow = Boundary("main", "start", A - 5020, A - 20, False, False)
    assert bounds(LATE, boundaries=[refused]) == (16, 17, 0)
    assert bounds(LATE, boundaries=[slow]) == (6, 17, 0)
    earlier = [(90_000, 40.0), *LATE]
    assert bounds(earlier, boundaries=[refused]) == (16, 17, 0)
    low, _, resets = bounds(earlier, boundaries=[slow])
    assert (low, resets) == (6, 1)


def test_an_answer_without_the_counter_was_at_its_beginning():
    """It lasted from before the start of the window into it: zero at the one, not at the other."""
    long = Boundary("", "boot", A - 10, A + 300, True, True)
    assert bounds(LATE, boundaries=[long]) == (6, 17, 0)
    inside = Boundary("", "boot", A + 10, A + 300, True, True)
    assert bounds(LATE, boundaries=[inside]) == (16, 17, 0)


def test_a_time_stamp_may_have_been_moved():
    assert bounds(LATE, up=[A + 1]) == (6, 17, 0)
    assert bounds(LATE, up=[A + 2]) == (16, 17, 0)
    late = [(155_000, 9.0), (160_000, 10.0)]
    assert bounds([(90_000, 1.0), (A + 1, 5.0), *late]) == (0, 9, 0)
    assert bounds([(90_000, 1.0), (A + 2, 5.0), *late]) == (4, 9, 0)


def test_an_answer_by_an_earlier_process_does_not_hide_the_restart():
    start = track([(120_000, 50.0), *((at, 122.0) for at, _ in LATE)])
    low, high, resets = bounds(LATE, up=[120_000], process_start_time_seconds=(start,))
    assert (low, resets) == (16, 1)
    assert high > 17


def test_a_torn_answer_before_a_birth_was_of_another_process():
    torn = Boundary("", "boot", 90_000, 90_010, True, False)
    assert bounds(LATE, boundaries=[torn], **told(110.0)) == (6, 17, 0)
    same = Boundary("", "boot", 115_000, 115_010, True, False)
    assert bounds(LATE, boundaries=[same], **told(110.0)) == (16, 17, 0)


def test_a_start_that_jumps_by_a_second_is_no_restart():
    """A program that computes its start anew from a boot time in whole seconds."""
    points = [(at, float(at)) for at in range(90_000, 170_000, 5000)]
    start = track([(at, 50.0 + (at // 5000) % 2) for at, _ in points])
    low, high, resets = bounds(points, process_start_time_seconds=(start,))
    assert (low, high, resets) == (50_000, 60_000, 0)


def test_a_reading_between_two_processes_that_tells_of_none():
    """With a fall it is known whose it is, without it is left out."""
    points = [(90_000, 5.0), (130_000, 9.0), (165_000, 12.0)]
    start = track([(90_000, 50.0), (130_000, 115.0), (165_000, 115.0)])
    torn = Boundary("", "boot", 120_000, 120_010, True, False)
    fell = bounds(points, {0: 2.0}, [torn], process_start_time_seconds=(start,))
    assert (fell[0], fell[2]) == (7, 1)
    unclear = bounds(points, {0: 6.0}, [torn], process_start_time_seconds=(start,))
    assert (unclear[0], unclear[2]) == (0, 1)
    assert unclear[1] >= 12 + 7


def test_counters_of_the_node_may_dip():
    points = [(at, 5000.0 + at / 1000) for at in range(90_000, 170_000, 5000)]
    points[5] = (points[5][0], points[5][1] - 6)
    assert bounds(points, since="boot") == (50, 60, 0)


def test_one_reading_says_no_more_than_it_can():
    assert bounds([(120_000, 4.0)]) == (0, math.inf, 0)
    assert bounds([(170_000, 4.0)]) == (0, 4, 0)
    assert bounds([(90_000, 4.0)]) == (0, math.inf, 0)


def test_a_scrape_between_an_edge_and_its_mark_is_as_one_at_the_mark():
    """The edge was read before it, and it alone shows that the payload restarted."""
    start = Boundary("main", "start", A - 13, A - 10, True, True)
    end = Boundary("main", "end", B + 6, B + 8, True, True)
    edges = {0: 0.0, 1: 9.0}
    across = [(A - 2, 5.0), (125_000, 2.0), (B + 1, 9.0)]
    low, high, resets = bounds(across, edges, [start, end])
    assert (low, resets) == (14, 1)
    assert high > 14
    during = [(A - 12, 5.0), (125_000, 7.0)]
    assert bounds(during, edges, [start, end]) == (9, 9, 0)


def test_a_scrape_across_the_start_by_who_began_after_it():
    """Nobody was there at the start, so its answer lies behind it; who came later began anew."""
    start = Boundary("main", "start", A - 20, A - 10, False, False)
    points = [(90_000, 50.0), (A - 2, 3.0), (140_000, 2.0), (160_000, 2.0)]
    began = track([(90_000, 20.0), (A - 2, 101.0), (140_000, 130.0), (160_000, 130.0)])
    low, high, resets = bounds(points, None, [start], process_start_time_seconds=(began,))
    assert (low, resets) == (5, 1)
    assert 5 < high < 50


def test_a_fetch_that_was_cut_among_the_buckets_hides_no_restart():
    """Its counts are unknown; the readings around it tell of the restart."""
    times = np.array([90_000, 110_000, 130_000, 150_000, 170_000], np.int64)
    counts = {"1.0": [1.0, 2, 3, 1, 2], "+Inf": [2.0, 4, 6, 2, 4]}
    tracks = {
        float(le): Track(
            frozenset({("le", le)}),
            times,
            np.array(values),
            NO_TIMES,
            {0: 3.0} if le == "1.0" else {},
        )
        for le, values in counts.items()
    }
    _, block = histogram_block(tracks, None, None)
    target = Target(
        TargetName("train", "n1"),
        "payload",
        5000,
        "run",
        Scrapes(times, times + 5, np.ones(5, np.bool_)),
        (Boundary("", "boot", 140_000, 140_005, True, False),),
        {},
    )
    up = increases(seen_in(PHASE, block, target, "process").readings, PHASE.window, together=2)
    assert up.resets[:2].tolist() == [1, 1]
    assert up.low[:2].tolist() == [2, 2]
