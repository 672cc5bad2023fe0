"""What a real Slurm says of jobs that ended in different ways, and who says it without one."""

import json
import os
import signal

import pytest
from slurm_user import User, is_settled, until
from testbed import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

BURNS = """
name: burns
resources: {nodes: 2, time: "00:03:00", extra: ["--ntasks=2", "--mem-per-cpu=100"]}
monitoring: {interval: 1s, analysis: false}
phases:
  - {name: work, run: "srun --ntasks=2 /opt/programs/burn.py 2; sleep 3"}
"""


def said(run, attempt=None):
    """Analyse, and return the rows by KPI and Slurm's part of the manifest."""
    folder = f"{run.inside}/attempts/{attempt or run.job_id}"
    done = run.user.jobmeter("analyze", folder, "--format", "json")
    report = json.loads(done.stdout)
    rows = {row["kpi"]: row for row in report["rows"] if row["kpi"].startswith("slurm_")}
    return rows, report["manifest"]["slurm"]


def settled(run, attempt=None):
    """Analyse until the database has said its last word."""

    def final():
        rows, slurm = said(run, attempt)
        return (rows, slurm) if is_settled(slurm) else None

    return until(final, 30, lambda: said(run, attempt)[1])


def sacct(run, fields):
    listing = run.user.cluster.run(
        *("sacct", "--noheader", "--parsable2", "--allocations", "--noconvert"),
        *(f"--jobs={run.job_id}", f"--format={fields}"),
        env={"SLURM_TIME_FORMAT": "%s"},
    )
    return listing.stdout.strip().split("|")


def test_a_finished_job_has_a_number_for_every_question(user):
    run = user.submit("burns.yaml", BURNS, "--wait")
    rows, slurm = settled(run)
    submit, eligible, start, elapsed = map(int, sacct(run, "Submit,Eligible,Start,ElapsedRaw"))
    expected = {
        "slurm_queue_wait_seconds": start - eligible,
        "slurm_submit_to_start_seconds": start - submit,
        "slurm_elapsed_seconds": elapsed,
        "slurm_time_limit_seconds": 180,
        "slurm_time_limit_used_ratio": elapsed / 180,
        "slurm_exit_code": 0,
        "slurm_restarts_total": 0,
        "slurm_nodes": 2,
        "slurm_cpus": 2,
        "slurm_memory_bytes": 200 * 2**20,
        "slurm_billing": 2,
    }
    assert {name: rows[name]["value"] for name in expected} == pytest.approx(expected)
    assert all("sacct" in rows[name]["source"] for name in expected if "restarts" not in name)
    assert 4 <= rows["slurm_cpu_seconds_total"]["value"] <= 30
    parts = ("slurm_cpu_user_seconds_total", "slurm_cpu_system_seconds_total")
    total = sum(rows[name]["value"] for name in parts)
    assert total == pytest.approx(rows["slurm_cpu_seconds_total"]["value"], abs=0.01)
    assert rows["slurm_cpu_efficiency_ratio"]["value"] == pytest.approx(
        rows["slurm_cpu_seconds_total"]["value"] / (2 * elapsed)
    )
    # The database here tracks no GPUs, and no plugin measures energy.
    for name in ("slurm_gpus", "slurm_energy_joules"):
        assert (rows[name]["value"], rows[name]["reason"]) == (None, "accounting_missing")
    assert slurm["state"] == "COMPLETED"
    assert slurm["node_list"] == "mel[0001-0002]"
    assert {step["name"] for step in slurm["steps"]} >= {"batch", "0", "1"}
    largest = max(slurm["steps"], key=lambda step: step["max_rss_bytes"] or 0)
    assert largest["max_rss_bytes"] == rows["slurm_max_rss_bytes"]["value"] > 2**20
    assert largest["max_rss_node"] in ("mel0001", "mel0002")


def test_a_job_at_its_time_limit(user):
    run = user.submit("long.yaml", 'run: "sleep 300"\nresources: {time: "00:01:00"}\n')
    run.wait_for_event("phase_start")
    # The owner may shorten a job; Slurm looks every 30 s.
    user.cluster.run("scontrol", "update", f"job={run.job_id}", "EndTime=now+2")
    run.wait_for_end()
    rows, slurm = settled(run)
    assert slurm["state"] == "TIMEOUT"
    assert rows["slurm_exit_code"]["value"] not in (None, 0)
    limit = rows["slurm_time_limit_seconds"]["value"]
    used = rows["slurm_elapsed_seconds"]["value"] / limit
    assert rows["slurm_time_limit_used_ratio"]["value"] == pytest.approx(used)


def test_every_start_of_a_requeued_job(user):
    job = (
        'run: "sleep 4; exit 3"\nresources: {extra: [--requeue]}\n'
        "monitoring: {interval: 1s, analysis: false}\n"
    )
    run = user.submit("again.yaml", job)
    run.wait_for_event("phase_start")
    second = run.requeue()
    run.wait_for_end()
    rows, slurm = settled(run)
    assert (slurm["state"], rows["slurm_restarts_total"]["value"]) == ("REQUEUED", 0)
    first_end = slurm["end_s"]
    rows, slurm = settled(run, second)
    assert (slurm["state"], rows["slurm_restarts_total"]["value"]) == ("FAILED", 1)
    assert rows["slurm_exit_code"]["value"] == 3
    assert slurm["start_s"] >= first_end
    assert rows["slurm_queue_wait_seconds"]["value"] is not None


def test_a_task_of_an_array(user):
    run = user.submit(
        "array.yaml",
        'run: "exit $SLURM_ARRAY_TASK_ID"\nresources: {extra: ["--array=0-1"]}\n'
        "monitoring: {analysis: false}\n",
    )
    run.wait_for_end()
    for task, state in enumerate(("COMPLETED", "FAILED")):
        rows, slurm = settled(run, f"{run.job_id}_{task}")
        assert (slurm["state"], rows["slurm_exit_code"]["value"]) == (state, task)


@pytest.fixture
def broken(cluster_settings):
    """A user of a Slurm of its own, whose daemons may be killed."""
    with Cluster.start(nodes=2, **cluster_settings) as cluster:
        yield User(cluster)


def kill_daemon(cluster, name):
    (pid,) = [p for p, command in cluster.pids().items() if command.split()[0] == name]
    os.kill(pid, signal.SIGKILL)


def test_without_a_database_the_controller_and_without_both_the_script(broken):
    run = broken.submit("burns.yaml", BURNS)
    run.wait_for_end()
    kept = run.attempt / "accounting.json"
    kill_daemon(broken.cluster, "slurmdbd")

    rows, slurm = said(run)
    assert (slurm["source"], slurm["state"], slurm["final"]) == ("scontrol", "COMPLETED", True)
    assert rows["slurm_elapsed_seconds"]["source"].startswith("scontrol")
    assert (rows["slurm_exit_code"]["value"], rows["slurm_restarts_total"]["value"]) == (0, 0)
    assert (rows["slurm_nodes"]["value"], rows["slurm_cpus"]["value"]) == (2, 2)
    assert rows["slurm_memory_bytes"]["value"] == 200 * 2**20
    assert rows["slurm_time_limit_seconds"]["value"] == 180
    assert rows["slurm_cpu_seconds_total"]["reason"] == "accounting_missing"
    by_controller = rows["slurm_elapsed_seconds"]["value"]

    kill_daemon(broken.cluster, "slurmctld")
    assert said(run)[1]["source"] == "scontrol"  # kept from the last time
    kept.unlink()
    rows, slurm = said(run)
    assert (slurm["source"], slurm["state"]) == ("attempt", "COMPLETED")
    assert rows["slurm_elapsed_seconds"]["value"] == pytest.approx(by_controller, abs=2.5)
    assert (rows["slurm_exit_code"]["value"], rows["slurm_nodes"]["value"]) == (0, 2)
    assert rows["slurm_queue_wait_seconds"]["reason"] == "accounting_missing"
