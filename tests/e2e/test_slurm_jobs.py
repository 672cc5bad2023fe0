"""Whole jobs on a real Slurm, as an unprivileged user submits them."""

import json
import math

import pytest
from slurm_user import UNTIL_TOLD, until

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

THREE_NODES = """
name: three
resources: {nodes: 3, time: "00:05:00"}
monitoring: {interval: 1s}
phases:
  - {name: warmup, run: "srun --ntasks=3 sleep 4"}
  - {name: work, run: "srun --ntasks=3 /opt/programs/burn.py 2"}
"""


def test_three_nodes_two_phases(user):
    run = user.submit("three.yaml", THREE_NODES, "--wait")
    (up,) = run.events("targets_up")
    assert (up["up"], up["expected"], up["missing"]) == (7, 7, "")
    assert "COMPLETED" in run.submitted.stderr
    assert "cpu_utilization_ratio_mean" in run.submitted.stdout

    table = run.table()
    nodes = set(user.cluster.nodes)
    assert table.manifest["state"] == "complete"
    for phase in ("warmup", "work"):
        for kpi in ("cpu_utilization_ratio_mean", "memory_used_bytes_max"):
            rows = table.find(kpi, phase=phase, scope="node")
            assert {row["entity"] for row in rows} == nodes, kpi
            assert {row["coverage"] for row in rows} == {1.0}, kpi
            assert all(math.isfinite(row["value"]) for row in rows), kpi
    check_job_cpu(table, nodes, user.cluster.cgroups)

    elapsed = table.one("slurm_elapsed_seconds")
    assert elapsed["value"] >= 6
    assert "COMPLETED" in elapsed["source"]
    assert table.one("slurm_exit_code")["value"] == 0
    assert table.find("monitoring_cpu_seconds_total", phase="work")
    assert table.find("slurm_max_rss_bytes")


def check_job_cpu(table, nodes, cgroups):
    """Two seconds of CPU time on each of three nodes, and what srun and the script need."""
    busy = table.one("job_cpu_seconds_total", phase="work", scope="job")
    if not cgroups:  # nothing on a node tells this job's processes from others
        assert (busy["value"], busy["status"]) == (None, "unavailable")
        assert busy["reason"] == "metric_absent"
        return
    assert 6 <= busy["value"] <= 8
    # The kernel counts on during the fetches at both ends; what the scrapes inside saw is certain.
    assert busy["low"] <= busy["value"] == busy["high"]
    assert table.one("job_cpu_seconds_total", phase="warmup", scope="job")["value"] < 2
    for phase in ("warmup", "work"):
        rows = table.find("job_cpu_cores_mean", phase=phase, scope="node")
        assert {row["entity"] for row in rows} == nodes
        assert {row["coverage"] for row in rows} == {1.0}


COUNTER = """
name: counter
resources: {nodes: 1, time: "00:05:00"}
monitoring: {interval: 5s}
ports: [work]
metrics: {worker: "http://localhost:{{ ports.work }}/metrics"}
phases:
  - name: serve
    run: |
      /opt/programs/start_counter.sh {{ ports.work }}
      curl -sf -X POST localhost:{{ ports.work }}/add/1000
  - name: short
    run: "curl -sf -X POST localhost:{{ ports.work }}/add/137"
  - name: many
    run: |
      for i in $(seq 40); do curl -sf -X POST localhost:{{ ports.work }}/add/3; done
  - name: idle
    run: "sleep 0.2"
"""


def test_a_known_count_is_counted_exactly_in_phases_shorter_than_the_interval(user):
    run = user.submit("counter.yaml", COUNTER, "--wait")
    table = run.table()
    for phase, count in {"serve": 1000, "short": 137, "many": 120, "idle": 0}.items():
        row = table.one("work_units_total", phase=phase)
        assert (row["value"], row["low"], row["high"]) == (count, count, count), phase
        assert row["status"] == "exact", phase
        assert row["entity"] == "worker@mel0001"
    assert table.one("phase_seconds", phase="short")["value"] < 5, "longer than the interval"


LEFT = """
name: left
resources: {nodes: 1}
ports: [work]
metrics: {training: "http://localhost:{{ ports.work }}/metrics"}
phases:
  - name: train
    run: |
      cat >"$JOBMETER_FINAL_METRICS/training.prom" <<END
      # TYPE training_samples_total counter
      training_samples_total 4096
      # TYPE training_step_duration_seconds histogram
      training_step_duration_seconds_bucket{le="0.1"} 3
      training_step_duration_seconds_bucket{le="0.2"} 8
      training_step_duration_seconds_bucket{le="+Inf"} 8
      training_step_duration_seconds_sum 1.0
      training_step_duration_seconds_count 8
      END
"""


def test_a_payload_that_ends_leaves_its_last_numbers(user):
    table = user.submit("left.yaml", LEFT, "--wait").table()
    samples = table.one("samples_total", phase="train")
    assert (samples["value"], samples["status"]) == (4096, "exact")
    mean = table.one("step_seconds_mean", phase="train")
    assert (mean["value"], mean["status"]) == (0.125, "exact")
    p95 = table.one("step_seconds_p95", phase="train")
    assert (p95["low"], p95["high"], p95["status"]) == (0.1, 0.2, "bounded")
    assert 0.1 < p95["value"] <= 0.2


FAILS = """
name: fails
resources: {nodes: 2}
monitoring: {interval: 1s}
phases:
  - {name: first, run: "sleep 2; exit 7"}
  - {name: second, run: "echo never"}
"""


def test_the_exit_code_of_the_payload_is_that_of_the_job(user):
    run = user.submit("fails.yaml", FAILS, "--wait", check=False)
    assert run.submitted.returncode == 7
    listing = user.cluster.run(
        "sacct", "-nPX", "-j", run.job_id, "-o", "State,ExitCode"
    ).stdout.strip()
    assert listing == "FAILED|7:0"
    assert [event["phase"] for event in run.events("phase_skipped")] == ["second"]
    (closed,) = run.events("recording_closed")
    assert closed["clean"] is True
    table = run.table()
    row = table.one("memory_used_bytes_mean", phase="first", entity="mel0002")
    assert row["coverage"] == 1.0
    assert table.one("slurm_exit_code")["value"] == 7
    assert not table.find("memory_used_bytes_mean", phase="second")
    assert "second" in str(table.manifest)


def test_awkward_folders_are_only_names(user):
    awkward = '/home/hpc/it\'s 100% $(touch x) "odd"'
    user.cluster.run("mkdir", "-p", awkward)
    text = "run: 'echo {{ job_dir }} $JOBMETER_PHASE'\n"
    run = user.submit("odd.yaml", text, "--runs", awkward, "--wait")
    assert run.inside.startswith(awkward)
    assert run.output.startswith("/home/hpc run\n")
    assert not (user.cluster.home / "x").exists()


def test_an_array_and_a_requeue_have_a_folder_each(user):
    run = user.submit(
        "array.yaml",
        'run: "sleep 1"\nresources: {extra: ["--array=1-2"]}\nmonitoring: {analysis: false}\n',
    )
    run.wait_for_end()
    names = {path.name for path in (run.folder / "attempts").iterdir()}
    assert names == {f"{run.job_id}_1", f"{run.job_id}_2"}
    report = user.jobmeter("analyze", f"{run.inside}/attempts/{run.job_id}_2", "--format", "json")
    assert '"slurm_elapsed_seconds"' in report.stdout

    again = user.submit(
        "again.yaml",
        'run: "sleep 5"\nresources: {extra: [--requeue]}\nmonitoring: {interval: 1s}\n',
    )
    again.wait_for_event("phase_start")
    again.requeue()
    again.wait_for_end()
    names = {path.name for path in (again.folder / "attempts").iterdir()}
    assert names == {again.job_id, f"{again.job_id}.r1"}


def test_what_sbatch_refuses_is_one_line_in_its_own_words(user):
    job = user.write("nowhere.yaml", "run: 'true'\nresources: {partition: nowhere}\n")
    done = user.jobmeter("submit", job, "--site", "generic-slurm", check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "nvalid partition" in done.stderr
    assert "job.sbatch" in done.stderr


def test_a_graceful_stop_leaves_exact_numbers(user):
    """scancel --batch signals the script alone, which then ends everything in order."""
    run = user.submit("counter.yaml", COUNTER.replace("sleep 0.2", "sleep 300"))
    run.wait_for_event("phase_start", phase="idle")
    user.cluster.run("scancel", "--batch", "--signal=TERM", run.job_id)
    run.wait_for_end()
    table = run.table()
    row = table.one("work_units_total", phase="idle")
    assert (row["value"], row["status"]) == (0, "exact")
    assert "phase_interrupted" in table.one("phase_seconds", phase="idle")["reason"]
    assert table.manifest["reasons"] == ["phase 'idle' was ended by TERM"]
    assert run.events("recording_closed")[0]["clean"] is True


NAMELESS = f"""
name: nameless
resources: {{nodes: 1}}
monitoring: {{interval: 1s}}
ports: [files]
metrics: {{worker: "http://localhost:{{{{ ports.files }}}}/numbers"}}
phases:
  - name: serve
    run: |
      mkdir served
      printf '# TYPE work_units_total counter\\nwork_units_total 5\\n' >served/numbers
      python3 -m http.server --directory served {{{{ ports.files }}}} &
      {UNTIL_TOLD}
"""


def test_an_endpoint_that_does_not_name_its_format_is_text(user):
    """Prometheus 2 takes it for that; Prometheus 3 must be told to."""
    run = user.submit("nameless.yaml", NAMELESS)
    run.wait_for_event("phase_start")
    recorded = until(
        lambda: scrapes_of(run, "worker"), 60, lambda: prometheus_of(run, "/api/v1/targets")
    )
    assert recorded == "1"
    run.enough()
    run.wait_for_end()
    row = run.table().one("work_units_total", phase="serve")
    assert (row["value"], row["reason"]) == (5, "")


def scrapes_of(run, service):
    """The value of ``up`` once Prometheus has scraped."""
    answer = prometheus_of(run, f'/api/v1/query?query=up{{service="{service}"}}')
    return next((series["value"][1] for series in json.loads(answer)["data"]["result"]), None)


def prometheus_of(run, path):
    (started,) = (e for e in run.events("component_start") if e["component"] == "prometheus")
    curl = ("curl", "--silent", "--globoff", "--config", f"{run.inside}/secrets/curl.conf")
    url = f"http://127.0.0.1:{started['port']}{path}"
    return run.user.cluster.run(*curl, url, node=started["node"]).stdout
