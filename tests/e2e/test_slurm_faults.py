"""Jobs that end badly, and components that are killed: what is left, and what is said of it."""

import math

import pytest
from slurm_user import UNTIL_TOLD, kill, now_ms, until

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

CHECKPOINT_S = 2.0
LONG = f"""
name: long
resources: {{nodes: 2, time: "00:05:00"}}
monitoring: {{interval: 1s, checkpoint_interval: {CHECKPOINT_S:g}s}}
phases:
  - {{name: serve, run: "sleep 300"}}
"""


@pytest.fixture
def lost_seconds(capsys, request):
    """Seconds of samples that were due before a moment and are not in the recording, stated."""

    def stated(report, killed_ms):
        silent = killed_ms / 1000 - report.manifest["recording"]["last_scrape"]
        lost = max(0.0, silent - report.manifest["interval_seconds"])
        with capsys.disabled():
            print(f"\n{request.node.name}: {lost:.2f} s of samples lost ", end="")
        return lost

    return stated


def wait_until_recording(run):
    """Until Prometheus's own samples, not only the job's fetches, have been copied twice."""
    until(
        lambda: len([e for e in run.events("checkpoint") if e["copied_bytes"] > 0]) >= 2,
        30,
        lambda: str(run.events("checkpoint")),
    )


def wait_until_much_is_at_stake(user, run):
    """Until most of a checkpoint interval has passed since the last checkpoint."""
    wait_until_recording(run)
    until(
        lambda: now_ms(user) - run.events("checkpoint")[-1]["t"] > 0.8 * CHECKPOINT_S * 1000,
        30,
        lambda: str(run.events("checkpoint")),
    )


def test_time_limit(user, lost_seconds):
    run = user.submit("long.yaml", LONG)
    run.wait_for_event("phase_start")
    user.cluster.run("scontrol", "update", f"job={run.job_id}", "EndTime=now+20")
    run.wait_for_event("signal", signal="TERM", timeout_s=120)
    killed = now_ms(user)
    run.wait_for_end()
    report = run.table()
    assert lost_seconds(report, killed) <= CHECKPOINT_S
    row = report.one("cpu_utilization_ratio_mean", phase="serve", entity="mel0002")
    assert row["value"] is not None
    assert report.one("slurm_elapsed_seconds")["source"].endswith("TIMEOUT")
    assert "phase_interrupted" in report.one("phase_seconds", phase="serve")["reason"]
    # Slurm's warning and its TERM may come in one tick, and the first be lost in the second.
    # Without control groups the TERM kills the exporters too, perhaps before their last words.
    assert [event["signal"] for event in run.events("signal")] in (["USR1", "TERM"], ["TERM"])
    row = report.one("network_transmit_bytes_total", phase="serve", entity="mel0002")
    assert row["value"] > 0
    assert row["high"] is not None or "window_not_bracketed" in row["reason"]
    assert row["high"] is not None or not user.cluster.cgroups


def test_scancel(user, lost_seconds):
    run = user.submit("long.yaml", LONG)
    run.wait_for_event("phase_start")
    wait_until_recording(run)
    killed = now_ms(user)
    user.cluster.run("scancel", run.job_id)
    run.wait_for_end()
    report = run.table()
    assert lost_seconds(report, killed) <= CHECKPOINT_S
    assert report.one("slurm_elapsed_seconds")["source"].endswith("CANCELLED")
    assert "phase_interrupted" in report.one("phase_seconds", phase="serve")["reason"]
    row = report.one("memory_used_bytes_mean", phase="serve", entity="mel0002")
    assert row["value"] > 0
    assert run.events("job_end")


def test_power_failure_of_the_first_node(user, lost_seconds):
    """Nothing in the job gets a chance to act: what is left is the last checkpoint."""
    run = user.submit("long.yaml", LONG)
    run.wait_for_event("phase_start")
    wait_until_much_is_at_stake(user, run)
    killed = now_ms(user)
    user.cluster.power_off("mel0001")
    try:
        report = run.table()
        assert lost_seconds(report, killed) <= CHECKPOINT_S
        assert not run.events("job_end")
        seconds = report.one("phase_seconds", phase="serve")
        assert "end_unmarked" in seconds["reason"]
        row = report.one("cpu_utilization_ratio_mean", phase="serve", entity="mel0002")
        assert row["status"] == "bounded"
        assert "window_not_bracketed" in row["reason"]
        assert report.manifest["state"] != "complete"
    finally:
        user.cluster.power_on("mel0001")
        user.cluster.run("scancel", run.job_id, check=False)
        run.wait_for_end()
        user.cluster.run(
            "scontrol", "update", "nodename=mel0001", "state=resume", user="root", check=False
        )


SERVES = f"""
name: serves
resources: {{nodes: 2, time: "00:05:00"}}
monitoring: {{interval: 1s, checkpoint_interval: {CHECKPOINT_S:g}s}}
phases:
  - {{name: serve, run: '{UNTIL_TOLD}'}}
"""
TARGETS_MS = 5000
"""A Prometheus takes up its targets at a tick of 5 s (DefaultDiscoveryReloadInterval)."""


def back_ms(run):
    """When a Prometheus was started again; for ever, if it was not."""
    starts = [e["t"] for e in run.events("component_start") if e["component"] == "prometheus"]
    return starts[1] if len(starts) > 1 else math.inf


def test_prometheus_is_killed_and_comes_back(user):
    run = user.submit("serves.yaml", SERVES)
    wait_until_recording(run)
    killed = now_ms(user)
    kill(user, "mel0001", "--storage.tsdb.path", run.folder.name)
    run.wait_for_event("component_exit", component="prometheus", status=137)
    until(
        lambda: (
            len([e for e in run.events("checkpoint") if e["t"] > back_ms(run) + TARGETS_MS]) > 2
        ),
        60,
        lambda: str(run.events()),
    )
    run.enough()
    run.wait_for_end()
    report = run.table()
    # Its own samples stop for seconds, because it takes up targets at a 5 s tick ...
    assert report.manifest["recording"]["last_scrape"] > killed / 1000
    assert 2 < report.manifest["recording"]["largest_gap_seconds"] < 12
    # ... and the job's own fetches stand in: what is lost is the restart itself.
    gaps = [
        target["phases"]["serve"]["largest_gap_seconds"]
        for target in report.manifest["targets"]
        if target["service"] in ("node", "cgroup")
    ]
    assert len(gaps) == 4
    assert max(gaps) <= CHECKPOINT_S + 2
    for row in report.find("memory_used_bytes_mean", phase="serve"):
        assert row["coverage"] > 0.8
    # The counters were fetched at both edges of the phase, whatever happened to the recording.
    row = report.one("network_transmit_bytes_total", phase="serve", entity="mel0002")
    assert row["high"] == row["value"] > 0
    exits = report.manifest["events"]["component_exits"]
    assert [(e["component"], e["status"]) for e in exits] == [("prometheus", 137)]


def started(run, component):
    return [
        event
        for event in run.events("component_start")
        if (event["component"], event["node"]) == (component, "mel0002")
    ]


@pytest.mark.parametrize("component", ["node_exporter", "exporters"])
def test_an_exporter_is_killed_and_comes_back(component, user):
    run = user.submit("serves.yaml", SERVES)
    run.wait_for_event("phase_start")
    pattern = {"node_exporter": "--collector.textfile", "exporters": "jobmeter_exporters"}
    kill(user, "mel0002", pattern[component], run.folder.name)
    died = run.wait_for_event("component_exit", component=component, status=137, node="mel0002")
    until(
        lambda: [e for e in started(run, component) if e["t"] > died["t"]],
        30,
        lambda: str(run.events()),
    )
    run.enough()
    run.wait_for_end()
    report = run.table()
    service = {"node_exporter": "node", "exporters": "cgroup"}[component]
    row = report.one("monitoring_memory_bytes_max", phase="serve", entity=f"{service}@mel0002")
    assert row["value"] > 0
    monitoring = report.one(
        "monitoring_cpu_seconds_total", phase="serve", entity=f"{service}@mel0002"
    )
    assert "counter_reset" in monitoring["reason"]
    assert monitoring["status"] == "estimated"


def test_an_exporter_that_keeps_dying_becomes_a_gap(user):
    run = user.submit("serves.yaml", SERVES)
    began = run.wait_for_event("phase_start")
    for deaths in range(1, 5):
        kill(user, "mel0002", "--collector.textfile", run.folder.name)
        until(
            lambda deaths=deaths: (
                len(started(run, "node_exporter")) > deaths or run.events("component_gave_up")
            ),
            30,
            lambda: str(run.events()),
        )
    (gone,) = run.events("component_gave_up")
    assert (gone["component"], gone["node"]) == ("node_exporter", "mel0002")
    # It is away for at least a third of the phase.
    until(lambda: now_ms(user) - gone["t"] > (gone["t"] - began["t"]) / 2, 60, lambda: str(gone))
    run.enough()
    run.wait_for_end()
    report = run.table()
    row = report.one("memory_used_bytes_mean", phase="serve", entity="mel0002")
    assert "target_lost" in row["reason"]
    assert row["coverage"] < 0.9
    other = report.one("memory_used_bytes_mean", phase="serve", entity="mel0001")
    assert other["coverage"] == 1.0
    assert report.manifest["state"] == "incomplete"


def test_required_monitoring_that_cannot_start_stops_the_job(user):
    profile = user.write(
        "broken.yaml",
        "description: no exporters here\nlauncher: slurm\n"
        "programs: {node_exporter: [no_such_program]}\n",
    )
    job = "run: echo payload\nmonitoring: {required: true, ready_limit: 5s}\n"
    run = user.submit("job.yaml", job, "--wait", site=profile, check=False)
    assert run.submitted.returncode == 3
    assert "monitoring is required and not ready" in run.output
    assert "payload\n" not in run.output


def test_without_requirement_a_missing_program_is_a_reason_in_the_table(user):
    profile = user.write(
        "broken.yaml",
        "description: no Prometheus here\nlauncher: slurm\n"
        "programs: {prometheus: [no_such_program]}\n",
    )
    job = "run: 'sleep 1; exit 4'\nmonitoring: {ready_limit: 3s}\n"
    run = user.submit("job.yaml", job, "--wait", site=profile, check=False)
    assert run.submitted.returncode == 4
    report = user.jobmeter("analyze", run.inside, "--format", "json")
    # The edges alone still give what counters did.
    assert '"cpu_utilization_ratio_mean"' in report.stdout
    assert "not on PATH" in report.stdout
