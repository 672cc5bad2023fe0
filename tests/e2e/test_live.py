"""status, health and top from the login host, as the unprivileged user, while a real job runs."""

import json
import os
import signal

import pytest
from installation import INSIDE
from slurm_user import UNTIL_TOLD, kill, until

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

JOB = f"""
name: watched
resources: {{nodes: 2, time: "00:05:00"}}
monitoring: {{interval: 1s, checkpoint_interval: 2s}}
phases:
  - {{name: serve, run: '{UNTIL_TOLD}'}}
"""


def status(run):
    return json.loads(run.user.jobmeter("status", "--json", run.inside).stdout)


def health(run):
    done = run.user.jobmeter("health", "--format", "json", run.inside, check=False)
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode
    return report, {check["check"]: check for check in report["checks"]}


def wait_until_copied(run):
    until(
        lambda: len([e for e in run.events("checkpoint") if e["copied_bytes"] > 0]) >= 3,
        60,
        lambda: str(run.events("checkpoint")),
    )


def watched_health(run, file):
    """Start a watch of the health that is written again and again."""
    options = ("--continuous", "--interval", "1", "--format", "json", "--output", file)
    return run.user.cluster.popen(INSIDE / "bin" / "jobmeter", "health", run.inside, *options)


def wait_until_rewritten(path, wanted):
    """Read it until it has been replaced three times since, whole each time, and is as wanted."""
    until(path.exists, 60, lambda: f"no {path.name}")
    looks = {}

    def enough():
        for _ in range(200):
            report = json.loads(path.read_text())
            looks[report["time_ms"]] = report
        return len(looks) > 3 and wanted(report) and report

    return until(enough, 60, lambda: str(list(looks.values())[-1:]))


def test_a_job_that_runs_and_is_cancelled(user):
    run = user.submit("watched.yaml", JOB)
    run.wait_for_event("phase_start")
    wait_until_copied(run)
    said = status(run)
    (attempt,) = said["attempts"]
    assert attempt["state"] == "running"
    assert attempt["slurm"]["state"] == "RUNNING"
    assert attempt["slurm"]["node_list"] == "mel[0001-0002]"
    assert 0 < attempt["slurm"]["time_left_s"] <= 300
    assert attempt["nodes"] == ["mel0001", "mel0002"]
    assert {phase["name"]: phase["state"] for phase in attempt["phases"]} == {"serve": "running"}
    assert {target["state"] for target in attempt["targets"]} == {"up"}
    assert all(target["age_s"] is not None for target in attempt["targets"])
    assert not attempt["problems"]
    printed = run.user.jobmeter("status", run.inside).stdout
    assert f"job {run.job_id} · RUNNING · mel[0001-0002]" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())

    kept = user.cluster.home / "health.json"
    watch = watched_health(run, kept.name)
    assert wait_until_rewritten(kept, lambda report: report["health"] == "healthy")

    done = run.user.jobmeter("top", "--once", run.inside)
    assert "from the copy" in done.stdout
    for node in ("mel0001", "mel0002"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"nodes {node} ")]
        assert "cpu=" in line
        assert "%" in line

    user.cluster.run("scancel", run.job_id)
    run.wait_for_end()
    (attempt,) = status(run)["attempts"]
    assert attempt["state"] == "ended"
    assert attempt["phases"][0]["state"] == "interrupted"
    assert attempt["slurm"]["state"] == "CANCELLED"
    report, checks = health(run)
    assert report["health"] == "healthy", report
    assert checks["recording_closed"]["health"] == "healthy"
    closed = {"check": "recording_closed", "health": "healthy"}
    last = wait_until_rewritten(
        kept, lambda report: any(closed.items() <= check.items() for check in report["checks"])
    )
    (pid,) = [pid for pid, command in user.cluster.pids().items() if "--continuous" in command]
    os.kill(pid, signal.SIGINT)
    assert watch.communicate(timeout=60) == ("", "")
    assert watch.returncode == last["exit_code"]
    assert [path.name for path in kept.parent.glob(".health.json*")] == []
    # Watched without --once, a run that has ended is shown once.
    done = run.user.jobmeter("top", run.inside)
    assert "ended · phase serve interrupted" in done.stdout


def test_an_exporter_that_is_gone_for_good(user):
    run = user.submit("watched.yaml", JOB)
    run.wait_for_event("phase_start")
    wait_until_copied(run)
    for deaths in range(1, 5):
        kill(user, "mel0002", "--collector.textfile", run.folder.name)

        def again(deaths=deaths):
            starts = run.events("component_start")
            of_node = [
                e for e in starts if (e["component"], e["node"]) == ("node_exporter", "mel0002")
            ]
            return len(of_node) > deaths or run.events("component_gave_up")

        until(again, 60, lambda: str(run.events()))
    run.wait_for_event("component_gave_up", component="node_exporter", node="mel0002")
    report, checks = until(
        lambda: (found := health(run))[1]["target_answers"]["health"] == "degraded" and found,
        60,
        lambda: str(status(run)),
    )
    assert (report["health"], report["exit_code"]) == ("degraded", 2)
    assert checks["target_answers"]["entities"] == ["node@mel0002"]
    assert checks["component_gave_up"]["entities"] == ["node_exporter@mel0002"]
    printed = run.user.jobmeter("status", run.inside).stdout
    assert "node_exporter@mel0002 · gave up" in printed
    assert "node@mel0002        down" in printed
    run.enough()
    run.wait_for_end()
    assert health(run)[0]["health"] == "degraded"


@pytest.fixture
def drained(user):
    """No node takes a job."""
    nodes = ("scontrol", "update", "nodename=mel[0001-0003]")
    user.cluster.run(*nodes, "state=drain", "reason=test", user="root")
    yield
    user.cluster.run("scancel", "--user=hpc")
    user.cluster.run(*nodes, "state=resume", user="root")


def test_a_job_that_waits_for_nodes(user, drained):
    run = user.submit("watched.yaml", JOB)
    (job,) = status(run)["slurm"]["jobs"]
    assert (job["job_id"], job["state"]) == (run.job_id, "PENDING")
    printed = user.jobmeter("status", run.inside).stdout
    assert f"job {run.job_id} · PENDING" in printed
    assert "attempt    none: the job has not started" in printed
    assert health(run)[0]["exit_code"] == 2
    done = user.jobmeter("top", run.inside, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has not started" in done.stderr


def test_from_its_own_node_the_prometheus_is_asked(user):
    look = "/opt/jobmeter/bin/jobmeter top --once $JOBMETER_RUN_DIR"
    port = 'sed -n "s/.*prometheus.*port.: \\([0-9]*\\).*/\\1/p" $JOBMETER_ATTEMPT_DIR/events.jsonl'
    ask = f"/opt/jobmeter/bin/jobmeter health http://127.0.0.1:$({port})"
    text = f"""
name: inside
resources: {{nodes: 1, time: "00:05:00"}}
monitoring: {{interval: 1s}}
phases:
  - name: look
    run: |
      until {look} | tee look.txt | grep -q cpu=; do :; done
      # Until it has taken up its targets it is not healthy.
      until {ask} --password-file $JOBMETER_PASSWORD_FILE >asked.txt; do sleep 0.5; done
      echo $? >>asked.txt
      {ask} >refused.txt; echo $? >>refused.txt
"""
    run = user.submit("inside.yaml", text)
    run.wait_for_event("job_end", timeout_s=180)
    run.wait_for_end()
    assert "live, " in (user.cluster.home / "look.txt").read_text()
    asked = (user.cluster.home / "asked.txt").read_text()
    assert asked.splitlines()[-1] == "0", asked
    refused = (user.cluster.home / "refused.txt").read_text()
    assert refused.splitlines()[-1] == "1"
    assert "the password is wrong or missing" in refused
