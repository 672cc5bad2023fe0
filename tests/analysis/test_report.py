import hashlib
import io
import json
import math

import pandas as pd
import pytest
from rich.console import Console

from jobmeter_analysis.display import brief, human, interval, print_analysis
from jobmeter_analysis.engine import analyze_attempt
from jobmeter_analysis.report import write_report

pytestmark = pytest.mark.prometheus


@pytest.fixture(scope="module")
def analysis(trained):
    return analyze_attempt(trained.run, trained.attempt)


def test_report_files_agree(analysis, tmp_path):
    folder = tmp_path / "report"
    write_report(analysis, folder)
    write_report(analysis, folder)  # again, over the first
    assert sorted(p.name for p in folder.iterdir()) == [
        "MANIFEST.json",
        "kpis.csv",
        "kpis.json",
        "kpis.parquet",
    ]
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "kpis.parquet"), analysis.table, check_dtype=False
    )
    csv = pd.read_csv(folder / "kpis.csv", keep_default_na=True)
    assert csv["value"].tolist() == pytest.approx(analysis.table["value"].tolist(), nan_ok=True)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    for name, artifact in manifest["artifacts"].items():
        content = (folder / name).read_bytes()
        assert artifact == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert all(oct(path.stat().st_mode)[-3:] == "600" for path in folder.iterdir())


def test_json_has_null_for_what_is_no_number(analysis, tmp_path):
    write_report(analysis, tmp_path)
    data = json.loads((tmp_path / "kpis.json").read_text(), parse_constant=pytest.fail)
    assert list(data) == ["rows", "manifest"]
    assert [row["kpi"] for row in data["rows"]] == analysis.table["kpi"].tolist()
    tokens = next(row for row in data["rows"] if row["kpi"] == "tokens_total")
    assert (tokens["value"], tokens["low"]) == (None, None)
    overflow = next(row for row in data["rows"] if row["kpi"] == "step_seconds_p99")
    assert overflow["high"] is None
    assert data["manifest"]["state"] == "complete"


def test_manifest_says_what_was_seen(analysis):
    manifest = analysis.manifest
    nodes = {"planned": 2, "expected": ["n1", "n2"], "observed": ["n1", "n2"], "groups": {}}
    assert manifest["nodes"] == nodes
    assert len(manifest["targets"]) == 6
    by_name = {(t["service"], t["node"]): t["phases"]["main"] for t in manifest["targets"]}
    assert by_name["node", "n2"]["coverage"] == 1
    assert by_name["node", "n2"]["largest_gap_seconds"] == 5
    assert by_name["node", "n2"]["edges"] == ["start", "end"]
    assert manifest["checkpoint"] == {
        "count": 1,
        "closed": True,
        "clean": True,
        "copied_bytes": 1500,
        "seconds_before_end": 1,
    }
    assert manifest["monitoring"]["n1"]["monitoring_cpu_seconds_total"] > 0
    assert manifest["phases"][0]["window_source"] == "marks"


def shown(analysis, width, terminal, every=False):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    print_analysis(analysis, console, every)
    return out.getvalue()


def test_compact_table_fits_in_100_columns(analysis):
    text = shown(analysis, 100, terminal=True)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    assert lines[0].startswith("demo-20260102T030405-abcd attempt 4242 · recording complete")
    line = next(line for line in lines if line.startswith("samples_per_second"))
    assert line.split() == ["samples_per_second", "train@n1", "10", "samples/s", "exact", "100%"]
    assert "missing: " in text


def test_a_pipe_gets_one_line_per_row(analysis):
    text = shown(analysis, 80, terminal=False)
    assert "\x1b" not in text
    shown_kpis = [line.split()[0] for line in text.splitlines()]
    numbers = brief(analysis.table)
    numbers = numbers[numbers["status"] != "unavailable"]
    assert [name for name in shown_kpis if name in set(numbers["kpi"])] == numbers["kpi"].tolist()


def test_what_has_no_number_is_named_with_its_reason(analysis):
    text = shown(analysis, 80, terminal=False)
    (line,) = [line for line in text.splitlines() if line.startswith("no number: ")]
    assert "tokens_per_second" in line


def test_the_brief_table_leaves_parts_and_runtime_counters_out(analysis):
    table = brief(analysis.table)
    assert len(table) < len(analysis.table) / 2
    assert set(table.loc[table["kpi"] == "job_cpu_cores_mean", "scope"]) == {"job"}
    assert "training_samples_total" not in set(table["kpi"])  # samples_total says it
    assert "phase_seconds" in set(table.loc[table["phase"] == "job", "kpi"])
    one_node = analysis.table[analysis.table["entity"] != "n2"]
    alone = brief(one_node)
    assert set(alone.loc[alone["kpi"] == "job_cpu_cores_mean", "entity"]) == {"n1"}


def test_every_column_is_there_on_demand(analysis):
    text = shown(analysis, 80, terminal=False, every=True)
    assert len(text.splitlines()) == len(analysis.table) + 3
    assert text.splitlines()[1].split() == list(analysis.table.columns)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "bytes", "0 B"),
        (1536.0, "bytes", "1.5 KiB"),
        (2.5e6, "bytes/s", "2.384 MiB/s"),
        (0.0, "seconds", "0 s"),
        (3600.0, "seconds", "3600 s"),
        (2e-5, "seconds", "20 µs"),
        (1e-9, "seconds", "0.001 µs"),
        (0.123456, "ratio", "12.35 %"),
        (1234567.0, "1", "1.235 M"),
        (12345.0, "1", "12345"),
        (0.25, "1", "0.25"),
        (3.5, "cores", "3.5 cores"),
        (math.nan, "bytes", "-"),
    ],
)
def test_human_units(value, unit, text):
    assert human(value, unit) == text


def test_intervals_use_the_unit_of_the_value():
    assert interval(2**30, 2**29, math.inf, "bytes") == "0.5 or more"
    assert interval(1.0, math.nan, math.nan, "1") == ""
