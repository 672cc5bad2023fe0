"""A small world whose truth is known: processes that count, and what a recorder gets to see.

Everything is drawn from one ``random.Random``, so that a world is known by its seed. Times are
milliseconds by the recorder's clock unless they are called ``told``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from jobmeter.window import Phase, Window
from jobmeter_analysis.exposition import Exposition, Sample
from jobmeter_analysis.recording import Series
from jobmeter_analysis.targets import (
    NO_TIMES,
    UNKNOWN_CLOCK,
    Boundary,
    Clock,
    Edge,
    Target,
    TargetBuilder,
    TargetName,
)
from jobmeter_analysis.vocabulary import Vocabulary

A = 100_000
"""Where every window begins."""
NEVER = 10**9
KINDS = ("a", "b", "c")
EDGES = (0.1, 0.5, 1.0, math.inf)


@dataclass
class Process:
    """One life: when it began, when each of its counters appeared, what each counted when.

    Args:
        events: By label: time and size; for a histogram the size is what was observed.
        told_error: How wrong it is about its own start, in milliseconds.
    """

    began: int
    died: int
    appeared: dict[str, int]
    events: dict[str, list[tuple[int, float]]]
    told_error: int

    def alive(self, at):
        return self.began <= at < self.died

    def has(self, kind, at):
        return self.appeared[kind] <= at

    def seen(self, kind, at):
        return [size for time, size in self.events[kind] if time <= at]


@dataclass
class Reading:
    """What the recorder saw once: of which process, and whether that told its start.

    Args:
        span: Between which times, as far as anybody can know.
    """

    time: int
    span: tuple[int, int]
    edge: bool
    process: int
    told: bool
    values: dict[str, float]

    def overlaps(self, other):
        return self.span[0] <= other.span[1] and other.span[0] <= self.span[1]


@dataclass
class World:
    """What is true (``processes``), and what is known (``target``)."""

    kinds: tuple[str, ...]
    phase: Phase
    processes: list[Process]
    target: Target
    readings: list[Reading] = field(default_factory=list)

    def truth(self, kind):
        """What was counted in the window, or observed."""
        a, b = self.phase.window.start_ms, self.phase.window.end_ms
        return [size for one in self.processes for time, size in one.events[kind] if a < time <= b]

    def hidden(self, kind):
        """Whether something happened in the window that left no trace: see ``readings``.

        A process that counted and was never read; a restart that overtook, untold; and where a
        scrape overlaps an edge, so that nobody knows which was first.
        """
        edges = [one for one in self.readings if one.edge]
        clear = [
            one
            for one in self.readings
            if one.edge or not any(one.overlaps(edge) for edge in edges)
        ]
        return self._hidden(kind, self.readings) or self._hidden(kind, clear)

    def _hidden(self, kind, readings):
        a, b = self.phase.window.start_ms, self.phase.window.end_ms
        having = [one for one in readings if kind in one.values]
        for index, process in enumerate(self.processes):
            counted = any(a < time <= b for time, _ in process.events[kind])
            if counted and not any(one.process == index for one in having):
                return True
        first = having[0].time if having else NEVER
        lacking = [one for one in readings if kind not in one.values and one.time < first]
        steps = itertools.pairwise([*lacking, *having])
        return any(
            before.process != after.process
            and not (before.told and after.told)
            and not before.values.get(kind, 0) > after.values.get(kind, 0)
            for before, after in steps
        )


def world(random, histogram=False, since="process"):
    """Return a world; its counters are called ``work_total``, its histograms ``work``."""
    end = A + random.choice([random.randrange(200, 4000), *[random.randrange(4000, 90_000)] * 3])
    kinds = KINDS[: random.randrange(1, 4)] if not histogram else KINDS[:1]
    has_edges = random.random() < 0.5
    calm = ((A - 15, A), (end, end + 15)) if has_edges else ()
    interval = random.choice([1000, 5000])
    # Scrapes begin near an end of the window now and then, and things happen while they last.
    grid = random.choice([random.randrange(interval), A % interval, end % interval])
    processes = _lives(random, end, kinds, histogram, since, calm, (interval, grid))
    phase = Phase("main", Window(A, end))
    recorder = _Recorder(random, processes, kinds, end, histogram, since, (interval, grid))
    recorder.scrape()
    edges = recorder.fetch(has_edges)
    target = recorder.target(edges)
    readings = sorted(recorder.readings, key=lambda one: one.time)
    return World(kinds, phase, processes, target, readings)


def _lives(random, end, kinds, histogram, since, calm, rhythm):
    processes = []
    at = random.choice(
        [-500_000, random.randrange(A), random.randrange(A, end), A + random.randrange(-1500, 1500)]
    )
    if since != "process":
        at = -500_000 if since == "boot" else random.randrange(A - 20)
    while at < end + 20_000 and len(processes) < 4:
        died = NEVER
        if since == "process" and random.random() < 0.6:
            died = max(at + 2000, random.randrange(end + 10_000))
        processes.append(
            _life(
                random,
                (_outside(at, calm), _outside(died, calm)),
                end,
                kinds,
                histogram,
                calm,
                rhythm,
            )
        )
        at = died + random.choice([random.randrange(200, 3000), random.randrange(3000, 40_000)])
    return processes


def _outside(time, calm):
    """Nothing begins or ends between an edge and its mark."""
    for low, high in calm:
        if low <= time <= high:
            return high + 1
    return time


def _life(random, life, end, kinds, histogram, calm, rhythm):
    began, died = life
    last = min(died, end + 20_000)
    appeared, events = {}, {}
    for kind in kinds:
        late = random.random() < 0.3
        birth = random.randrange(began, max(last, began + 1)) if late else began
        appeared[kind] = birth
        begin = max(birth, 30_000)
        times = _times(random, begin, last, rhythm) if last > begin else []
        events[kind] = [
            (time, _size(random, histogram))
            for time in sorted(times)
            if not any(low <= time <= high for low, high in calm)
        ]
    return Process(began, died, appeared, events, random.randrange(-500, 1))


def _times(random, begin, end, rhythm):
    """Return moments: anywhere, in bursts, at a steady pace, and where rounding may hurt."""
    times = _spread(random, begin, end)
    if random.random() < 0.4:
        times += [begin + random.randrange(20) for _ in range(3)]
    if random.random() < 0.4:
        interval, grid = rhythm
        first = -((grid - begin) // interval)
        steps = max(1, (end - begin) // interval)
        near = [grid + interval * (first + random.randrange(steps)) for _ in range(8)]
        times += [at + random.randrange(-3, 12) for at in near]
    return [min(max(time, begin), end - 1) for time in times]


def _spread(random, begin, end):
    count = random.choice([0, 1, *[random.randrange(60)] * 3, random.randrange(60, 200)])
    how = random.random()
    if how < 0.4:
        return [random.randrange(begin, end) for _ in range(count)]
    if how < 0.7:  # in bursts
        centre = [random.randrange(begin, end) for _ in range(3)]
        return [random.choice(centre) + random.randrange(-200, 200) for _ in range(count)]
    step = max(1, (end - begin) // (count + 1))
    return list(range(begin, end, step))


def _size(random, histogram):
    if not histogram:
        return random.choice([1, 1, random.randrange(1, 9), random.random()])
    return random.choice([0.0, 0.1, random.random(), random.random() * 0.2, 5 * random.random()])


class _Recorder:
    """Prometheus and the job script, on one clock; the target has its own."""

    def __init__(self, random, processes, kinds, end, histogram, since, rhythm):
        self.random = random
        self.processes = processes
        self.kinds = kinds
        self.end = end
        self.histogram = histogram
        self.since = since
        self.interval, self.grid = rhythm
        self.slow = random.random() < 0.2
        self.tells_start = random.random() < 0.7
        self.tells_created = random.random() < 0.5
        self.sparse = random.random() < 0.5
        # Known and large, or not known and less than a tick.
        self.known = random.random() < 0.3
        self.ahead = random.randrange(-9000, 9000) if self.known else random.randrange(-400, 400)
        self.clock_error = 2 if self.known else 1000
        self.readings = []
        self.scrapes = []
        self.samples = {}
        self.gone = set()
        self.offset = random.choice([0, 1e6]) if since == "boot" else 0

    def _at(self, moment):
        return next((i for i, one in enumerate(self.processes) if one.alive(moment)), None)

    def _exposition(self, index, moment):
        """Return what a process says: metric name and labels to value."""
        one = self.processes[index]
        said = {}
        told = (one.began + self.ahead + one.told_error) / 1000
        if self.tells_start:
            said["process_start_time_seconds", ()] = told
        for kind in self.kinds:
            if not one.has(kind, moment):
                continue
            labels = (("kind", kind),)
            if self.tells_created:
                born = one.appeared[kind] + self.ahead
                said["work_created", labels] = born / 1000
            seen = one.seen(kind, moment)
            if not self.histogram:
                said["work_total", labels] = float(self.offset + math.fsum(seen))
                continue
            below = 0
            for edge in EDGES:
                count = sum(value <= edge for value in seen)
                if self.sparse and count == below and not math.isinf(edge):
                    continue
                below = count
                said["work_bucket", (*labels, ("le", str(edge)))] = float(count)
            said["work_sum", labels] = math.fsum(seen)
            said["work_count", labels] = float(len(seen))
        return said

    def _read(self, index, moment, said, span, edge=False):
        values = {}
        for kind in self.kinds:
            labels = (("kind", kind),)
            key = ("work_total", labels)
            if self.histogram:  # an answer that is cut behind the buckets knows them all the same
                key = ("work_bucket", (*labels, ("le", str(EDGES[-1]))))
            if key in said:
                values[kind] = said[key]
        told = ("process_start_time_seconds", ()) in said
        self.readings.append(Reading(moment, span, edge, index, told, values))

    def scrape(self):
        random = self.random
        late = random.choice(
            [0, 0, random.randrange(self.end), random.randrange(A - 9000, self.end)]
        )
        at = self.grid + late // self.interval * self.interval
        stop = random.choice([self.end + 20_000, self.end + 20_000, random.randrange(A, self.end)])
        while at < stop:
            stamp = at + random.randrange(-2, 3)
            if random.random() < 0.05:  # the recorder itself was away
                at += self.interval * random.randrange(1, 6)
                continue
            took = random.randrange(1, 900 if self.slow else 40)
            at_once = random.random() < 0.5
            moment = at if at_once else at + random.randrange(took)
            index = self._at(moment)
            busy = index is not None and random.random() < 0.04
            if index is None or busy:
                took = self.interval if busy else random.randrange(1, 4)
                self.scrapes.append((stamp, took, 0.0))
                for key in self.samples:
                    self.gone.add((key, stamp))
            else:
                self.scrapes.append((stamp, took, 1.0))
                said = self._exposition(index, moment)
                self._read(index, moment, said, (stamp - 2, max(stamp + took, stamp + 2)))
                for key, value in said.items():
                    self.samples.setdefault(key, []).append((stamp, value))
            at += self.interval

    def fetch(self, at_the_ends):
        """Return the edges: those of the phase, where nothing moves, and others, where it does."""
        random = self.random
        asked = []
        if at_the_ends:
            asked += [("main", "start", A - 12), ("main", "end", self.end + 4)]
        if random.random() < 0.3:
            asked.append(("warm", "end", random.randrange(A // 2, A - 100)))
        if random.random() < 0.3:
            asked.append(("", "boot", random.randrange(A, self.end)))
        if random.random() < 0.2:
            asked.append(("", "boot", random.randrange(self.end)))
        return [self._edge(*one) for one in asked if random.random() < 0.85]

    def _edge(self, phase, side, moment):
        random = self.random
        before, after = moment - random.randrange(3), moment + random.randrange(3)
        index = self._at(moment)
        chance = random.random()
        if index is None or chance < 0.1:
            after = after if index is None else before + 5000
            if side == "start" and index is not None:
                before, after = before - 5000, before
            return Edge(Boundary(phase, side, before, after, False, False), None)
        said = self._exposition(index, moment)
        torn = chance < 0.25
        if torn:
            said = dict(list(said.items())[: random.randrange(len(said) + 1)])
        samples = tuple(Sample(name, dict(labels), value) for (name, labels), value in said.items())
        self._read(index, moment, said, (before, after), edge=True)
        whole = Exposition(samples, {"work": "counter"}, torn)
        return Edge(Boundary(phase, side, before, after, True, not torn), whole)

    def target(self, edges):
        kind = "payload" if self.since == "process" else "stack"
        builder = TargetBuilder(
            TargetName("train", "n1"), kind, self.interval, "run", Vocabulary({})
        )
        for series in self._series():
            builder.add_series(series)
        builder.add_edges(edges)
        start = self.processes[0].began if self.since == "job" and self.processes else None
        return builder.build(
            start, Clock(float(self.ahead), self.clock_error) if self.known else UNKNOWN_CLOCK
        )

    def _series(self):
        yield _series("up", (), [(at, up) for at, _, up in self.scrapes])
        took = [(at, took / 1000) for at, took, _ in self.scrapes]
        yield _series("scrape_duration_seconds", (), took)
        for (name, labels), points in self.samples.items():
            ends = sorted(at for key, at in self.gone if key == (name, labels))
            yield _series(name, labels, points, ends)


def _series(name, labels, points, ends=()):
    times, values = zip(*points, strict=True) if points else ((), ())
    stored = {"__name__": name, "node": "n1", "service": "train", "instance": "x", **dict(labels)}
    return Series(
        stored,
        np.array(times, np.int64),
        np.array(values, float),
        np.array(ends, np.int64) if ends else NO_TIMES,
    )
