import logging
import threading

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.run_info import RunInfo
from jobmeter_exporters.watched import LONGEST_S, NoData, Watched


class Says:
    """Yields a family, then raises what it was given."""

    def __init__(self, name, problem=None):
        self.name = name
        self.problem = problem

    def collect(self):
        yield GaugeMetricFamily(self.name, "", value=7)
        if self.problem is not None:
            raise self.problem


def registry_of(**collectors):
    registry = CollectorRegistry()
    registry.register(Watched(collectors))
    return registry


def success(registry, name):
    return registry.get_sample_value("jobmeter_collector_success", {"collector": name})


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(None, 1), (NoData("none here"), 1), (ExporterError("odd"), 0), (RuntimeError("bug"), 0)],
)
def test_success_by_outcome(problem, expected):
    registry = registry_of(a=Says("a_bytes", problem), b=Says("b_bytes"))
    assert success(registry, "a") == expected
    assert success(registry, "b") == 1
    assert registry.get_sample_value("a_bytes") == 7
    assert registry.get_sample_value("b_bytes") == 7
    labels = {"collector": "a"}
    assert registry.get_sample_value("jobmeter_collector_duration_seconds", labels) >= 0


def test_a_lasting_problem_is_logged_once_and_again_after_it_was_gone(caplog):
    caplog.set_level(logging.INFO)
    collector = Says("a_bytes", ExporterError("odd"))
    registry = registry_of(a=collector)
    list(registry.collect())
    list(registry.collect())
    assert caplog.messages == ["a: odd"]
    collector.problem = None
    list(registry.collect())
    collector.problem = ExporterError("odd")
    list(registry.collect())
    assert caplog.messages == ["a: odd", "a: odd"]


class Clock:
    """Seconds that go on when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


def test_a_problem_in_ever_new_words_does_not_fill_the_log(caplog):
    clock, collector = Clock(), Says("a_bytes")
    watched = Watched({"a": collector}, clock)
    for scrape in range(3600):
        clock.now = float(scrape)
        collector.problem = ExporterError(f"at {scrape}") if scrape % 2 else None
        list(watched.collect())
    assert len(caplog.messages) <= 70
    clock.now += 60
    collector.problem = ExporterError("other")
    list(watched.collect())
    assert caplog.messages[-1] == "a: other"


class Hangs:
    """Yields nothing until it is told to go on, as a read of a dead file server."""

    def __init__(self):
        self.reached, self.go_on = threading.Event(), threading.Event()

    def collect(self):
        self.reached.set()
        assert self.go_on.wait(20)
        yield GaugeMetricFamily("late_bytes", "", value=1)


def test_a_collector_that_hangs_costs_one_scrape_and_no_other_collector(caplog):
    clock, hanging = Clock(), Hangs()
    registry = CollectorRegistry()
    registry.register(Watched({"late": hanging, "b": Says("b_bytes")}, clock))
    hanging.go_on.set()
    list(registry.collect())
    hanging.reached.clear()
    hanging.go_on.clear()
    held_up = threading.Thread(target=lambda: list(registry.collect()))
    held_up.start()
    assert hanging.reached.wait(20)
    clock.now = LONGEST_S
    for _ in range(5):
        assert success(registry, "late") == 0
        assert registry.get_sample_value("b_bytes") == 7
    assert caplog.messages == ["late: an earlier scrape still reads it; does it hang?"]
    hanging.go_on.set()
    held_up.join(20)
    assert success(registry, "late") == 1


def test_health_families_of_all_collectors_are_together():
    families = list(registry_of(a=Says("a_bytes"), b=Says("b_bytes")).collect())
    assert [(family.name, len(family.samples)) for family in families] == [
        ("a_bytes", 1),
        ("b_bytes", 1),
        ("jobmeter_collector_success", 2),
        ("jobmeter_collector_duration_seconds", 2),
    ]


def test_run_info():
    registry = CollectorRegistry()
    registry.register(RunInfo('a "run"'))
    assert registry.get_sample_value("jobmeter_run_info", {"run_id": 'a "run"'}) == 1
