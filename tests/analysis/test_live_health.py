"""Health: what is wrong is found, what cannot be told is never well."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from attempts import T0, AttemptBuilder, manifest, trained

from jobmeter.errors import CatalogueError
from jobmeter.paths import RunPaths
from jobmeter_analysis.live_checkup import of_attempt, of_run_before_its_start
from jobmeter_analysis.live_health import CHECKS, load_checks, report
from jobmeter_analysis.live_health_text import as_json, lines, one_line

FIXTURES = Path(__file__).parents[1] / "fixtures" / "runs"
STACK = (("node", "n1"), ("node", "n2"), ("cgroup", "n1"), ("cgroup", "n2"), ("prometheus", "n1"))


def write(builder, *, silent=(), failing=(), memory=8e7, until=58_000, info=None):
    """Record a stack every 5 s; some endpoints stop at 31 s."""
    for service, node in STACK:
        end = 31_000 if (service, node) in silent else until
        times = range(3000, until, 5000)
        builder.record(service, "up", [(at, float(at < end)) for at in times], node)
        seen = [at for at in times if at < end]
        labels = {"exported_run_id": info or builder.plan.run_id}
        builder.record(service, "jobmeter_run_info", [(at, 1.0) for at in seen], node, labels)
        if service == "prometheus":
            samples = [(at, float(memory)) for at in seen]
            builder.record(service, "process_resident_memory_bytes", samples, node)
        if service == "cgroup":
            works = float((service, node) not in failing)
            builder.record(
                *(service, "jobmeter_collector_success", [(at, works) for at in seen], node),
                {"collector": "cgroup"},
            )
    builder.write_tsdb()
    return builder


@pytest.fixture
def running(tmp_path):
    builder = AttemptBuilder(tmp_path, manifest(nodes=2))
    builder.nodes = ("n1", "n2")
    builder.job_start()
    builder.phase("main", 10_000, None)
    builder.event(58_000, "checkpoint", ms=20, copied_bytes=1000)
    return builder


def health(builder, at=60_000, over=False):
    said = of_attempt(builder.run, builder.attempt, T0 + at, over)
    return said, {result.check: result for result in said.results}


def test_an_attempt_that_is_well(running):
    said, results = health(write(running))
    assert (said.health, said.exit_code) == ("healthy", 0), "\n".join(lines(said))
    assert results["sample_age"].value == 1.0
    assert results["scratch_space"].health == "unknown"
    assert not results["scratch_space"].required


@pytest.mark.parametrize(
    ("broken", "check", "expected"),
    [
        ({"silent": [("node", "n2")]}, "target_answers", "degraded"),
        ({"silent": STACK[:3]}, "targets_up", "unhealthy"),
        ({"failing": [("cgroup", "n2")]}, "exporter_success", "degraded"),
        ({"memory": 2e9}, "prometheus_memory", "degraded"),
        ({"memory": 5e9}, "prometheus_memory", "unhealthy"),
        ({"until": 40_000}, "sample_age", "degraded"),
        ({"info": "another-run"}, "target_is_ours", "unhealthy"),
    ],
)
def test_each_thing_that_breaks_is_found(running, broken, check, expected):
    said, results = health(write(running, **broken))
    assert (said.health, said.exit_code) == (expected, {"degraded": 2, "unhealthy": 1}[expected])
    assert results[check].health == expected
    assert results[check].value is not None


@pytest.mark.parametrize(
    ("at", "event", "fields", "check", "expected"),
    [
        (41_000, "component_gave_up", {"component": "dcgm", "why": "w"}, "component_gave_up", 2),
        (41_000, "component_gave_up", {"component": "prometheus"}, "prometheus_gave_up", 1),
        (59_000, "checkpoint_failed", {"why": "No space left"}, "checkpoint_works", 2),
        (41_000, "source_degraded", {"service": "dcgm", "instead": "x"}, "source_as_planned", 2),
    ],
)
def test_what_the_job_says_is_heeded(running, at, event, fields, check, expected):
    write(running).event(at, event, **fields)
    said, results = health(running)
    assert said.exit_code == expected
    assert results[check].health != "healthy"


def test_a_copy_that_is_too_old(running):
    write(running)
    assert health(running, at=100_000)[0].exit_code == 0
    assert health(running, at=110_000)[1]["checkpoint_age"].health == "degraded"
    assert health(running, at=300_000)[0].exit_code == 1


def test_a_job_beyond_its_time_limit_and_phases_that_will_not_begin(tmp_path):
    builder = AttemptBuilder(tmp_path, manifest(phases=("main", "last")))
    limit = {"SLURM_JOB_END_TIME": str(T0 // 1000 + 100)}
    builder.event(0, "job_start", nodes="n1", slurm=limit)
    builder.phase("main", 1000, None)
    builder.event(98_500, "checkpoint", ms=1, copied_bytes=1)
    assert "time_for_the_rest" in health(builder, 50_000)[1]
    assert health(builder, 99_000)[1]["time_for_the_rest"].health == "degraded"
    assert health(builder, 99_000)[1]["time_limit"].health == "healthy"
    assert health(builder, 101_000)[1]["time_limit"].health == "degraded"


def test_an_attempt_that_ended_in_order(tmp_path):
    said, results = health(trained(tmp_path), at=10**9, over=None)
    assert said.exit_code == 0, "\n".join(lines(said))
    assert "checkpoint_age" not in results
    assert results["recording_closed"].health == "healthy"


def test_an_attempt_that_was_killed(running):
    said, results = health(write(running), at=10**6, over=True)
    assert said.exit_code == 2
    assert results["recording_closed"].reason == "the recording was never closed"
    assert results["phase_marked"].entities == ("main",)


def test_what_cannot_be_told_is_not_well(running):
    said, results = health(running)  # nothing recorded
    assert said.exit_code == 2
    assert results["target_answers"].health == "unknown"
    assert results["target_answers"].value is None


def test_a_run_that_has_not_started(tmp_path):
    said = of_run_before_its_start(RunPaths(tmp_path), T0)
    assert said.exit_code == 2
    assert "not started" in "\n".join(lines(said))


def test_damaged_runs(tmp_path):
    shutil.copytree(FIXTURES / "training", tmp_path / "runs")
    (run,) = map(RunPaths, (tmp_path / "runs").iterdir())
    (attempt,) = run.all_attempts()
    assert of_attempt(run, attempt, T0, None).exit_code == 0
    (log,) = attempt.tsdb.glob("wal/0*")
    log.write_bytes(log.read_bytes()[:5000] + bytes(100) + log.read_bytes()[5100:])
    said = of_attempt(run, attempt, T0, None)
    assert said.exit_code == 2
    assert "damaged" in "\n".join(lines(said))
    attempt.events.unlink()
    shutil.rmtree(attempt.tsdb)
    shutil.rmtree(attempt.edges)
    said = of_attempt(run, attempt, T0, None)
    assert said.exit_code == 1
    assert said.results[0].check == "attempt_known"


def test_one_line_and_json_say_the_same(running):
    said, _ = health(write(running, silent=[("node", "n2")]))
    assert one_line(said).startswith("2023-11-14T22:14:20Z degraded target_answers node@n2")
    data = json.loads(as_json(said))
    assert (data["health"], data["exit_code"]) == ("degraded", 2)
    unknown = next(one for one in data["checks"] if one["check"] == "scratch_space")
    assert unknown["value"] is None
    assert "NaN" not in as_json(said)
    assert max(map(len, lines(said, 80))) <= 80


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fact": "target_dwn"}, "did you mean 'target_down'"),
        ({"fact": None}, "one fact or one metric"),
        ({"above": {}}, "nothing is ever wrong"),
        ({"abvoe": {}}, "did you mean 'above'"),
    ],
)
def test_wrong_checks_are_refused(tmp_path, change, words):
    check = {"fact": "target_down", "above": {"degraded": 0}, "help": "h", "advice": "a", **change}
    path = tmp_path / "checks.yaml"
    path.write_text(yaml.safe_dump({"checks": {"mine": check}}))
    with pytest.raises(CatalogueError, match=words):
        load_checks(path)


def test_no_reading_is_no_check_and_nothing_at_all_is_not_well():
    said = report("x", T0, "run", "runs", {}, load_checks())
    assert (said.results, said.exit_code) == ((), 2)


def test_every_check_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "live.md").read_text()
    for name in yaml.safe_load(CHECKS.read_text())["checks"]:
        assert f"`{name}`" in page, name
