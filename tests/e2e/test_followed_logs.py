"""Logs of a payload that rules turn into metrics and events while the job runs."""

import json
from pathlib import Path

import pytest

import jobmeter

REAL = Path(__file__).parents[1] / "fixtures" / "logs" / "ollama.log"

pytestmark = pytest.mark.prometheus


def test_a_log_becomes_metrics_and_events(started, tmp_path):
    child = started(f"""
run: sleep 1; cat {REAL} >>later.log; sleep 4
monitoring: {{interval: 1s, exporters: [cgroup]}}
logs:
  ollama: {{file: later.log, rules: ollama}}
""")
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    (folder,) = (tmp_path / "runs").iterdir()
    (attempt,) = (folder / "attempts").iterdir()
    requests = sum("[GIN]" in line for line in REAL.read_text().splitlines())
    (exposition,) = (attempt / "edges" / "run.end").glob("logs@*.prom")
    counted = [
        float(line.rpartition(" ")[2])
        for line in exposition.read_text().splitlines()
        if line.startswith("ollama_http_requests_total{")
    ]
    assert sum(counted) == requests > 0
    recorded = jobmeter.open_run(folder).series("ollama_http_requests_total")
    assert set(recorded["exported_service"]) == {"ollama"}
    events = [json.loads(line) for line in (attempt / "log_events.jsonl").read_text().splitlines()]
    assert events
    assert {event["service"] for event in events} == {"ollama"}


def test_wrong_rules_cost_nobody_else_his_numbers(started, tmp_path):
    (tmp_path / "rules.yaml").write_text("rules: [{match: '(', event: {}}]\n")
    child = started(f"""
run: sleep 1
monitoring: {{interval: 1s, exporters: [cgroup]}}
logs: {{own: {{file: own.log, rules: {tmp_path}/rules.yaml}}}}
""")
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    (attempt,) = (tmp_path / "runs").glob("*/attempts/local")
    table = json.loads((attempt / "report" / "kpis.json").read_text())
    assert any(
        reason.startswith("target_never_up: logs@") for reason in table["manifest"]["reasons"]
    )
    # Perhaps 0: a payload that sleeps spends less than the kernel counts.
    values = [row["value"] for row in table["rows"] if row["kpi"] == "job_cpu_seconds_total"]
    assert values
    assert None not in values
    (log,) = (attempt / "logs").glob("logs.*.log")
    assert "rules.yaml: rule 1: match:" in log.read_text()
