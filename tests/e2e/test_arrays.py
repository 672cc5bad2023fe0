"""Jobs with several attempts on a real Slurm: arrays and requeues, each by itself and together."""

import json

import pytest
from slurm_user import UNTIL_TOLD, Table

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

ARRAY = """
name: array
resources: {nodes: 1, extra: ["--array=1-3"]}
monitoring: {interval: 1s, analysis: false}
ports: [work]
metrics: {worker: "http://localhost:{{ ports.work }}/metrics"}
phases:
  - name: serve
    run: |
      if (( SLURM_ARRAY_TASK_ID == 3 )); then exit 7; fi
      /opt/programs/start_counter.sh {{ ports.work }}
      curl -sf -X POST localhost:{{ ports.work }}/add/$(( 100 * SLURM_ARRAY_TASK_ID ))
  - name: more
    run: "curl -sf -X POST localhost:{{ ports.work }}/add/$SLURM_ARRAY_TASK_ID"
"""


def test_the_tasks_of_an_array_together_and_one_of_them_fails(user):
    run = user.submit("array.yaml", ARRAY, "--wait", check=False)
    assert run.submitted.returncode == 7, run.submitted.stderr
    tasks = [f"{run.job_id}_{task}" for task in (1, 2, 3)]
    assert f"all 3 attempts together: {', '.join(tasks)}" in run.submitted.stdout
    assert "Slurm 2 COMPLETED, 1 FAILED" in run.submitted.stdout

    table = run.table()
    assert [one["exit_code"] for one in table.manifest["attempts"]] == [0, 0, 7]
    serve = table.one("work_units_total", phase="serve")
    assert (serve["scope"], serve["entity"]) == ("service", "worker")
    assert (serve["value"], serve["low"], serve["high"]) == (300, 300, None), "at least"
    assert (serve["status"], "attempt_missing" in serve["reason"]) == ("bounded", True)
    more = table.one("work_units_total", phase="more")
    assert (more["low"], more["high"], more["status"]) == (3, 3, "exact")
    assert more["reason"] == "phase_not_begun"
    assert table.one("slurm_exit_code")["value"] == 7
    assert table.one("slurm_nodes")["value"] == 1
    elapsed = [own_row(run, task, "slurm_elapsed_seconds") for task in tasks]
    assert table.one("slurm_elapsed_seconds")["value"] == sum(elapsed)
    for name in ("kpis.csv", "kpis.json", "kpis.parquet", "MANIFEST.json"):
        assert (run.folder / "report" / name).exists()


def own_row(run, attempt, kpi):
    """The value of one attempt's own row, as its report has it."""
    report = run.folder / "attempts" / attempt / "report" / "kpis.json"
    return Table(json.loads(report.read_text())).one(kpi)["value"]


REQUEUED = f"""
name: again
resources: {{nodes: 1, extra: [--requeue]}}
monitoring: {{interval: 1s, analysis: false}}
ports: [work]
metrics: {{worker: "http://localhost:{{{{ ports.work }}}}/metrics"}}
phases:
  - name: serve
    run: |
      /opt/programs/start_counter.sh {{{{ ports.work }}}}
      curl -sf -X POST localhost:{{{{ ports.work }}}}/add/40
  - {{name: hold, run: '{UNTIL_TOLD}'}}
"""


def test_two_tries_of_a_requeued_job_together_and_the_last_alone(user):
    run = user.submit("again.yaml", REQUEUED)
    run.wait_for_event("phase_start", phase="hold")
    again = run.requeue()
    run.enough()
    run.wait_for_end()
    both = run.table()
    assert [one["name"] for one in both.manifest["attempts"]] == [run.job_id, again]
    row = both.one("work_units_total", phase="serve")
    assert (row["low"], row["high"], row["status"], row["reason"]) == (80, 80, "exact", "restarts")
    done = user.jobmeter("analyze", run.inside, "--attempt", "last", "--format", "json")
    last = Table(json.loads(done.stdout))
    assert last.manifest["attempt"] == again
    row = last.one("work_units_total", phase="serve")
    assert (row["low"], row["high"], row["reason"]) == (40, 40, "")
