"""A payload with a life of its own, scraped and fetched at random: the truth lies in the bounds."""

from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobmeter.window import Phase, Window
from jobmeter_analysis.catalogue import Kpi
from jobmeter_analysis.statistics import STATISTICS
from jobmeter_analysis.subjects import Scene, Subject
from jobmeter_analysis.targets import NO_TIMES, Boundary, Scrapes, Target, TargetName, Track

A = 100_000
KPI = Kpi(unit="1", help="", statistic="increase", metric="work_total")


@dataclass
class Payload:
    """One process: when it lived, when its counter appeared, when that counted."""

    born: int
    counter_born: int
    died: int
    events: list[int]

    def alive(self, at):
        return self.born <= at < self.died

    def count(self, at):
        return sum(event <= at for event in self.events)


def payload(random, end):
    born = A + random.randrange(1, (end - A) // 2) if random.random() < 0.4 else random.randrange(A)
    died = random.randrange(max(born, A) + 1, end + 1)
    if random.random() < 0.6:
        died = end + random.randrange(1, 60_000)
    counter_born = born + random.randrange(min(20_000, died - born)) * (random.random() < 0.3)
    counter_born = int(counter_born)
    events = [random.randrange(counter_born, died) for _ in range(random.randrange(60))]
    return Payload(born, counter_born, died, events)


def scraped(random, one, end, interval):
    """Return Prometheus's own record, the counter's samples and those of the process start."""
    at = random.randrange(interval) + (random.randrange(end) if random.random() < 0.3 else 0)
    stop = end + 20_000 if random.random() < 0.7 else random.randrange(A, end)
    scrapes, points, starts = [], [], []
    while at < stop:
        took = random.randrange(1, 50)
        moment, stamp = at + random.randrange(took), at + random.randrange(-2, 3)
        if random.random() < 0.05:
            at += interval * random.randrange(1, 6)
            continue
        scrapes.append((stamp, stamp + took + 2, one.alive(moment)))
        if one.alive(moment):
            starts.append((stamp, one.born / 1000))
            if moment >= one.counter_born:
                points.append((stamp, one.count(moment)))
        at += interval
    return scrapes, points, starts


def fetched(random, one, end):
    """Return boundaries and values; none where the counter moved between fetch and mark."""
    boundaries, values = [], {}
    for side, low, high in (("start", A - 15, A), ("end", end, end + 15)):
        moved = any(low <= event <= high for event in one.events)
        if moved or one.alive(low) != one.alive(high) or random.random() < 0.4:
            continue
        at = (low + high) // 2
        usable = one.alive(at)
        boundaries.append(Boundary("main", side, at - 2, at + 2, usable, usable))
        if usable and at >= one.counter_born:
            values[len(boundaries) - 1] = float(one.count(at))
    return tuple(boundaries), values


def track(points, edges):
    times = np.array([at for at, _ in points], np.int64)
    values = np.array([value for _, value in points], float)
    return Track(frozenset(), times, values, NO_TIMES, edges)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.randoms(use_true_random=True))
def test_truth_lies_between_the_bounds(random):
    end = A + random.randrange(1000, 90_000)
    interval = random.choice([1000, 5000])
    one = payload(random, end)
    scrapes, points, starts = scraped(random, one, end, interval)
    boundaries, values = fetched(random, one, end)
    tracks = {"work_total": (track(points, values),)} if points or values else {}
    if random.random() < 0.5 and starts:
        tracks["process_start_time_seconds"] = (track(starts, {}),)
    record = [np.array(column, np.int64) for column in zip(*scrapes, strict=True)] or [NO_TIMES] * 3
    target = Target(
        TargetName("train", "n1"),
        "payload",
        interval,
        "run",
        Scrapes(record[0], record[1], record[2].astype(bool)),
        boundaries,
        tracks,
    )
    statistic = STATISTICS["increase"]
    scene = Scene(Phase("main", Window(A, end)))
    found = statistic.finish([statistic.measure(Subject(target), KPI, scene)], KPI)
    truth = sum(A < event <= end for event in one.events)
    if found.available:
        assert found.low <= truth <= found.high
        assert found.low <= found.value <= found.high
        assert 0 <= found.coverage <= 1
    else:
        assert found.reasons
