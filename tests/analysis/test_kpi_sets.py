"""The KPIs that users of a service read: there, with a reason if without a number, and first."""

import json
import math
import shutil
from pathlib import Path

import pytest

from jobmeter.paths import RunPaths
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.display import rendered
from jobmeter_analysis.engine import analyze_attempt

SERVING = Path(__file__).parents[1] / "fixtures" / "runs" / "serving"


@pytest.fixture
def analyzed(tmp_path):
    """Analyse the recorded run of a vLLM as if recipes had named KPIs of its services."""
    (recorded,) = SERVING.glob("serve-vllm-*")
    run = RunPaths(tmp_path / recorded.name)
    shutil.copytree(recorded, run.run)

    def analyze(kpis, *silent):
        plan = json.loads(run.manifest.read_text())
        plan["service_kpis"] = kpis
        more = {"placement": "first_node", "kind": "payload"}
        plan["targets"] += [{"service": name, **more} for name in silent]
        run.manifest.write_text(json.dumps(plan))
        return analyze_attempt(run, run.attempt("local"))

    return analyze


def test_a_replica_that_never_answered_leaves_the_total_open(analyzed):
    analysis = analyzed({"vllm": ["llm"], "other": ["llm"]}, "other")
    rows = analysis.table.query("kpi == 'requests_total' and phase == 'benchmark'")
    found = {row.entity: row for row in rows.itertuples()}
    assert (found["vllm@n1"].value, found["vllm@n1"].status) == (300, "exact")
    assert (found["other@n1"].status, found["other@n1"].reason) == (
        "unavailable",
        "target_never_up",
    )
    assert (found["job"].low, found["job"].high) == (300, math.inf)
    # A KPI that servers may lack is no less missing of one that never answered.
    optional = analysis.table.query("kpi == 'requests_corrupted_total' and phase == 'benchmark'")
    assert {row.entity: row.reason for row in optional.itertuples()}[
        "other@n1"
    ] == "target_never_up"
    # Without the recipe's word it would be one endpoint of which nobody knows what it is.
    unnamed = analyzed({}).table.query("entity == 'other@n1'")
    assert "requests_total" not in set(unnamed["kpi"])


def test_what_a_service_does_not_expose_has_a_reason(analyzed):
    table = analyzed({"vllm": ["llm", "qdrant"]}).table
    row = table.query("kpi == 'qdrant_rest_requests_total' and phase == 'benchmark'").iloc[0]
    assert (row["entity"], row["status"], row["reason"]) == (
        "vllm@n1",
        "unavailable",
        "metric_absent",
    )


@pytest.mark.parametrize("kpis", [{}, {"vllm": ["llm"]}])
def test_the_table_of_a_terminal_begins_with_them(kpis, analyzed):
    _, table, *_ = rendered(analyzed(kpis))
    names = list(table.columns[0].cells)
    phases = [str(name) for name in names if str(name).startswith("phase ")]
    assert phases == ["phase start", "phase warmup", "phase benchmark", "phase job"]
    first = names[[str(name) for name in names].index("phase benchmark") + 1]
    assert (first in load_catalogue()["llm"].kpis) == bool(kpis)
