"""An exposition that is larger than a pipe, through a whole job."""

import json
import os
import signal
from pathlib import Path

import pytest
from slurm_user import Table, until

PROGRAMS = Path(__file__).parent / "programs"
SERIES = 5000
SITE = f"""
description: node_exporter by a wrapper
launcher: bash
programs: {{node_exporter: [{PROGRAMS}/many_series.sh]}}
"""
JOB = """
monitoring: {interval: 1s, required: true}
run: until [[ -e told ]]; do sleep 0.1; done
"""

pytestmark = pytest.mark.prometheus


def events(folder, name):
    for path in folder.glob("*/attempts/local/events.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return [event for event in lines if event["event"] == name]
    return []


def node_exporters(folder):
    """Return what was said of each start of node_exporter."""
    return [e for e in events(folder, "component_start") if e["component"] == "node_exporter"]


def test_a_page_of_thousands_of_series_is_ready_recorded_and_started_again(started, tmp_path):
    (tmp_path / "site.yaml").write_text(SITE)
    child = started(JOB, "--site", tmp_path / "site.yaml")
    runs = tmp_path / "runs"
    until(lambda: child.poll() is not None or events(runs, "phase_start"), 60, lambda: str(runs))
    assert child.poll() is None, child.communicate()
    (up,) = events(runs, "targets_up")
    assert (up["up"], up["missing"]) == (up["expected"], "")
    (first,) = node_exporters(runs)
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: len(node_exporters(runs)) > 1, 60, lambda: events(runs, "component_gave_up"))
    (tmp_path / "work" / "told").touch()
    _, stderr = child.communicate(timeout=180)
    assert child.returncode in (0, 3), stderr  # 3: the recording has a gap
    (attempt,) = runs.glob("*/attempts/local")
    assert not events(runs, "component_gave_up")
    table = Table(json.loads((attempt / "report" / "kpis.json").read_text()))
    assert not [r for r in table.manifest["reasons"] if "never" in r or "foreign" in r]
    assert table.one("cpu_utilization_ratio_mean", phase="run")["value"] > 0
    edges = list((attempt / "edges").glob("*/node@*.prom"))
    pages = [path.read_text().count("\nsite_state{") for path in edges]
    assert pages
    assert set(pages) == {SERIES}
