"""What is said of an attempt that starts, runs, ended, was killed, or is damaged."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from attempts import T0, TRAIN, AttemptBuilder, manifest, run_info, trained

from jobmeter.paths import RunPaths
from jobmeter_analysis.live_state import attempt_now
from jobmeter_analysis.live_words import attempt_line, attempt_lines

FIXTURES = Path(__file__).parents[1] / "fixtures" / "runs"


def now_of(builder, at, over=None):
    return attempt_now(builder.run, builder.attempt, T0 + at, over)


def by_name(things):
    return {thing.name: thing for thing in things}


@pytest.fixture
def running(tmp_path):
    """An attempt 30 s into its second phase, whose last copy is from 58 s."""
    builder = AttemptBuilder(tmp_path, manifest(nodes=2, phases=("warmup", "main", "after")))
    builder.nodes = ("n1", "n2")
    builder.job_start()
    builder.phase("warmup", 10_000, 30_000)
    builder.phase("main", 30_500, None)
    for service, node in (("node", "n1"), ("node", "n2"), ("cgroup", "n1"), ("prometheus", "n1")):
        end = 31_000 if (service, node) == ("node", "n2") else 58_000
        times = range(3000, 58_000, 5000)
        builder.record(service, "up", [(at, float(at < end)) for at in times], node)
        info = [(at, 1.0) for at in times if at < end]
        labels = {"exported_run_id": builder.plan.run_id}
        builder.record(service, "jobmeter_run_info", info, node, labels)
    builder.event(58_000, "checkpoint", ms=20, copied_bytes=1000)
    builder.write_tsdb()
    return builder


def test_phases_of_an_attempt_that_runs(running):
    now = now_of(running, 60_500)
    assert (now.state, now.seconds, now.over) == ("running", 60.5, False)
    phases = by_name(now.phases)
    assert [phases[name].state for name in ("warmup", "main", "after")] == [
        *("done", "running", "planned")
    ]
    assert phases["warmup"].seconds == 20
    assert phases["main"].seconds == 30
    assert phases["after"].seconds is None


def test_a_phase_that_was_marked_at_the_warning_goes_on(running):
    running.event(59_000, "signal", signal="USR1")
    running.event(59_000, "phase_end", phase="main", exit_code=None, signal="USR1")
    assert by_name(now_of(running, 60_500).phases)["main"].state == "running"
    assert "the job received USR1" in now_of(running, 60_500).warnings
    over = by_name(now_of(running, 80_000, over=True).phases)
    assert (over["main"].state, over["main"].seconds) == ("interrupted", 28.5)


def test_targets_that_answer_that_stopped_and_that_were_never_asked(running):
    targets = by_name(now_of(running, 60_000).targets)
    assert {name: target.state for name, target in targets.items()} == {
        "node@n1": "up",
        "cgroup@n1": "up",
        "prometheus@n1": "up",
        "node@n2": "down",
        "cgroup@n2": "unknown",
        "train@n1": "unknown",
    }
    assert targets["node@n2"].age_s == 32
    assert targets["node@n1"].age_s == 7
    assert targets["cgroup@n2"].age_s is None


def test_a_target_that_prometheus_was_told_to_forget_is_down(running):
    shutil.rmtree(running.attempt.tsdb)
    key = next(k for k in running.samples if k[0] == "up" and ("node", "n2") in k[1])
    running.samples[key] = [point for point in running.samples[key] if point[1] == 1.0]
    running.write_tsdb()
    assert by_name(now_of(running, 60_000).targets)["node@n2"].state == "down"


def test_the_job_asks_before_prometheus_does(tmp_path):
    builder = AttemptBuilder(tmp_path)
    builder.job_start()
    builder.edge("boot", "0", "node", run_info(), 900, 910)
    builder.edge("boot", "0", "cgroup", "", 900, 910, status="foreign")
    builder.edge("boot", "0", "prometheus", "", 900, 910, status="curl: (7) no")
    builder.attempt.tsdb.mkdir()
    now = now_of(builder, 3000)
    assert now.state == "starting"
    assert {name: target.state for name, target in by_name(now.targets).items()} == {
        "node@n1": "up",
        "cgroup@n1": "foreign",
        "prometheus@n1": "down",
        "train@n1": "unknown",
    }
    assert not now.problems
    assert "foreign_target: cgroup@n1 does not belong to this run" in now.warnings


def test_what_went_wrong_is_told(running):
    for status in (1, 137):
        running.event(40_000, "component_exit", "n2", component="node_exporter", status=status)
    why = "ended 4 times, last with status 137"
    running.event(41_000, "component_gave_up", "n2", component="node_exporter", why=why)
    running.event(42_000, "source_degraded", service="dcgm", instead="nvidia", why="died")
    running.event(43_000, "endpoint_refused", service="x", why="is of another run")
    for at in (59_000, 59_500):
        running.event(at, "checkpoint_failed", why="No space left on device")
    now = now_of(running, 60_000)
    (component,) = now.components
    assert (component.name, component.exits, component.gave_up) == ("node_exporter@n2", 2, True)
    assert component.why == why
    assert "source_degraded: nvidia in place of dcgm@n1, which died" in now.warnings
    assert "endpoint x@n1 is not recorded: it is of another run" in now.warnings
    assert (now.checkpoint.failures, now.checkpoint.age_s) == (2, 2)
    text = "\n".join([attempt_line(now), *attempt_lines(now)])
    assert "node_exporter@n2 · gave up · ended 4 times" in text
    assert "2 failed since: No space left on device" in text


def test_an_attempt_that_was_killed_is_about_its_last_moment(running):
    now = now_of(running, 600_000, over=True)
    assert (now.state, now.at_ms) == ("killed", T0 + 58_000)
    assert by_name(now.phases)["main"].state == "unmarked"
    assert by_name(now.targets)["node@n1"].age_s == 5


def test_nobody_says_whether_a_silent_attempt_runs(running):
    assert now_of(running, 600_000, over=None).state == "silent"
    assert now_of(running, 600_000, over=False).state == "running"
    assert now_of(running, 100_000, over=None).state == "running"


def test_an_attempt_that_ended(tmp_path):
    now = now_of(trained(tmp_path), 10**9)
    assert (now.state, now.exit_code, now.seconds) == ("ended", 0, 80)
    assert (now.checkpoint.closed, now.checkpoint.clean) == (True, True)
    assert {target.state for target in now.targets} == {"up"}


def test_a_payload_that_left_is_gone(running):
    running.record("train", "up", [(at, float(at < 40_000)) for at in range(33_000, 58_000, 5000)])
    shutil.rmtree(running.attempt.tsdb)
    running.write_tsdb()
    assert TRAIN.kind == "payload"
    assert by_name(now_of(running, 60_000).targets)["train@n1"].state == "gone"


def test_a_clock_that_is_ahead_is_named(running):
    (warning,) = now_of(running, 20_000).warnings
    assert "38 s ahead" in warning


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(FIXTURES / "training", tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    paths = RunPaths(run)
    return paths, paths.all_attempts()[0]


def test_a_run_without_its_events(copied):
    run, attempt = copied
    attempt.events.unlink()
    now = attempt_now(run, attempt, 1795379700000)
    assert now.problems
    assert now.exit_code is None
    assert {phase.state for phase in now.phases} == {"planned"}
    assert by_name(now.targets)["node@n1"].last_sample_ms == 1795379654167


def test_a_run_without_its_recording_or_with_a_damaged_one(copied):
    run, attempt = copied
    (log,) = attempt.tsdb.glob("wal/0*")
    data = bytearray(log.read_bytes())
    data[5000:5100] = bytes(100)
    log.write_bytes(data)
    assert any("damaged" in one for one in attempt_now(run, attempt, 1795379700000).problems)
    shutil.rmtree(attempt.tsdb)
    now = attempt_now(run, attempt, 1795379700000)
    assert any("no recording" in one for one in now.problems)
    assert by_name(now.targets)["node@n1"].state == "up"  # the job asked it itself


def test_a_run_whose_plan_is_cut(copied):
    run, attempt = copied
    run.manifest.write_text('{"schema_v')
    now = attempt_now(run, attempt, 1795379700000)
    assert any("run.json" in one for one in now.problems)
    assert [phase.name for phase in now.phases] == ["warmup", "train", "again"]
    assert now.targets == ()


def test_an_attempt_that_has_only_its_folder(tmp_path):
    builder = AttemptBuilder(tmp_path)
    now = now_of(builder, 0)
    assert (now.state, now.began_ms, now.seconds) == ("silent", None, None)
    assert now.problems
    assert "".join(attempt_lines(now))


def test_many_targets_are_summed_up_and_those_not_up_named(running):
    now = now_of(running, 60_000)
    many = [replace(now.targets[0], node=f"m{n}") for n in range(30)]
    text = "\n".join(attempt_lines(replace(now, targets=(*now.targets, *many))))
    assert "node              31 of 32 up · oldest last sample 7.0 s ago" in text
    assert "node@n2  down" in text
    assert "m17" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
