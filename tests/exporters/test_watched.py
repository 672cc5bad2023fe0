import logging

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.run_info import RunInfo
from jobmeter_exporters.watched import NoData, Watched


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
