"""What a job reads and writes is told without what its monitoring does, on every node."""

from pathlib import Path

import pytest
from slurm_user import UNTIL_TOLD, until

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

MEGABYTE = 1_000_000
JOB = f"""
name: reads
resources: {{nodes: 2, time: "00:05:00"}}
monitoring: {{interval: 200ms, checkpoint_interval: 1s, cgroup_steps: tasks}}
phases:
  - name: reads
    run: |
      srun --ntasks=2 bash -c 'dd if=/dev/zero bs=40M count=1 status=none | true; {UNTIL_TOLD}'
"""


def written(user, pattern):
    """Return how many bytes one process of the first node has written, found by its command."""
    (pid,) = [pid for pid, line in user.cluster.pids("mel0001").items() if pattern in line]
    counts = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(":") for line in counts)["wchar"])


def excluded(user, node):
    """Return the commands of a node that its exporter takes for monitoring."""
    running = user.cluster.pids(node)
    (line,) = [line for line in running.values() if "-m jobmeter_exporters" in line]
    words = line.split()
    inside = {words[at + 1] for at, word in enumerate(words) if word == "--exclude-pid"}
    return {line for pid, line in running.items() if inside & {pid_inside(pid)}}


def pid_inside(pid):
    """Return the number of a process in its own pid namespace, None when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next(line for line in status if line.startswith("NSpid")).split()[-1]


def test_the_monitoring_of_the_first_node_is_no_part_of_what_the_job_does(user):
    if not user.cluster.cgroups:
        pytest.skip("this cluster's Slurm has no control groups")
    run = user.submit("reads.yaml", JOB)
    run.wait_for_event("phase_start")
    before = written(user, "prometheus --config")
    until(lambda: written(user, "prometheus --config") > before + MEGABYTE, 90, run.events)
    for node, scripts in (("mel0001", 3), ("mel0002", 1)):
        lines = excluded(user, node)
        assert len(lines) == scripts, lines
        assert any("node.sh" in line and "srun" not in line for line in lines), lines
    run.enough()
    run.wait_for_end()
    table = run.table()
    for node in ("mel0001", "mel0002"):
        read = table.one("job_syscall_read_bytes_total", phase="reads", entity=node)
        assert read["value"] >= 40 * MEGABYTE
        wrote = table.one("job_syscall_write_bytes_total", phase="reads", entity=node)
        assert wrote["value"] < MEGABYTE, node
        assert (wrote["high"], wrote["reason"]) == (None, "partly_seen")
    # Step 0 is the monitoring's.
    tasks = table.find("job_task_cpu_seconds_total", phase="reads", scope="task")
    found = {row["entity"] for row in tasks if not row["entity"].startswith("step0.")}
    assert found >= {"step1.task0@mel0001", "step1.task1@mel0002"}
    steps = table.find("job_step_cpu_seconds_total", phase="reads", scope="step")
    assert {"step1@mel0001", "step1@mel0002"} <= {row["entity"] for row in steps}
