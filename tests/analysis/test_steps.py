"""KPIs of steps and tasks, and of the queue: what each had of the job, and what the user saw."""

import pytest
from attempts import RUN_ID, STACK, manifest, run_info

from jobmeter.manifest import PlannedTarget
from jobmeter_analysis.engine import analyze_attempt

pytestmark = pytest.mark.prometheus

QUEUE = PlannedTarget("queue", "first_node", "stack")


def page(seconds):
    """Return our exporter's text: step 0 uses half a core; step 1 two from 20 s to 60 s."""
    lines = [f'job_step_cpu_seconds_total{{step="0"}} {seconds / 2}']
    lines += [
        'job_step_memory_used_bytes{step="0"} 1000',
        'job_step_memory_peak_bytes{step="0"} 5e3',
    ]
    if 20 <= seconds < 60:
        used = 2 * (seconds - 20)
        lines += [f'job_step_cpu_seconds_total{{step="1"}} {used}']
        lines += [f'job_task_cpu_seconds_total{{step="1",task="7"}} {used / 2}']
    return run_info() + "\n".join([*lines, ""])


def rows(analysis, kpi, scope):
    table = analysis.table
    found = table[(table["kpi"] == kpi) & (table["scope"] == scope) & (table["phase"] == "main")]
    return {row["entity"]: row for _, row in found.iterrows()}


@pytest.fixture
def steps(build):
    one = build(plan=manifest(targets=STACK[1:2]))
    one.job_start(0)
    one.phase("main", 10_000, 70_000)
    for side, at in (("start", 9_900), ("end", 70_010)):
        one.edge("main", side, "cgroup", page(at / 1000), at, at + 10)
    for number, at in enumerate(range(15_000, 70_000, 5_000)):
        one.edge("boot", str(number), "cgroup", page(at / 1000), at, at + 10)
    return analyze_attempt(one.run, one.attempt)


def test_each_step_has_a_row_of_its_own(steps):
    cpu = rows(steps, "job_step_cpu_seconds_total", "step")
    assert sorted(cpu) == ["step0@n1", "step1@n1"]
    own = cpu["step0@n1"]
    assert own["low"] <= 30 <= own["high"]
    assert own["high"] - own["low"] < 5.1
    ended = cpu["step1@n1"]
    # Seen at 55 s for the last time: of its last seconds there is no reading.
    assert (ended["low"], ended["value"], ended["high"]) == (70, 70, float("inf"))
    assert "window_not_bracketed" in ended["reason"]
    cores = rows(steps, "job_step_cpu_cores_mean", "step")
    assert cores["step0@n1"]["value"] == pytest.approx(0.5, rel=1e-3)
    memory = rows(steps, "job_step_memory_bytes_max", "step")["step0@n1"]
    assert (memory["value"], memory["low"], memory["high"]) == (1000, 1000, 5000)


def test_a_task_is_named_with_its_step(steps):
    (entity,) = rows(steps, "job_task_cpu_seconds_total", "task")
    assert entity == "step1.task7@n1"


def test_the_queue_is_told_by_user_and_partition(build):
    one = build(plan=manifest(targets=(QUEUE,)))
    one.job_start(0)
    one.phase("main", 10_000, 70_000)
    for at in range(5_000, 80_000, 5_000):
        one.record("queue", "up", [(at, 1)])
        one.record("queue", "jobmeter_run_info", [(at, 1)], labels={"exported_run_id": RUN_ID})
        for state, count in (("PENDING", 7 if 20_000 < at < 50_000 else 2), ("RUNNING", 1)):
            one.record("queue", "queue_own_jobs", [(at, count)], labels={"state": state})
        for partition, use, count in (("cpu", "idle", 12), ("cpu", "other", 3), ("gpu", "idle", 0)):
            labels = {"partition": partition, "use": use}
            one.record("queue", "queue_partition_nodes", [(at, count)], labels=labels)
    one.write_tsdb()
    analysis = analyze_attempt(one.run, one.attempt)
    (waiting,) = rows(analysis, "queue_own_pending_jobs_max", "service").values()
    assert (waiting["value"], waiting["low"], waiting["high"]) == (7, 7, float("inf"))
    (running,) = rows(analysis, "queue_own_running_jobs_max", "service").values()
    assert running["value"] == 1
    idle = rows(analysis, "queue_idle_nodes_mean", "service")
    assert {name: row["value"] for name, row in idle.items()} == {
        "partition cpu@n1": 12,
        "partition gpu@n1": 0,
    }
    lost = rows(analysis, "queue_lost_nodes_mean", "service")
    assert lost["partition cpu@n1"]["value"] == 3
    assert lost["partition gpu@n1"]["reason"] == "metric_absent"
    assert not rows(analysis, "queue_own_oldest_pending_seconds_max", "service")
