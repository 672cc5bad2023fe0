"""The files between the job and the analysis: written whole, read leniently or refused clearly."""

import json

import pytest

from jobmeter.accounting import JobAccounting, read_accounting, write_accounting
from jobmeter.edges import read_fetches
from jobmeter.errors import RunFolderError
from jobmeter.events import read_events
from jobmeter.manifest import PlannedTarget, RunManifest, read_manifest, write_manifest
from jobmeter.window import Window, job_window, phases_from

MANIFEST = RunManifest(
    run_id="r-1",
    name="r",
    site="local",
    created="2026-11-22T12:00:00+00:00",
    nodes=1,
    interval_s=1.0,
    checkpoint_interval_s=15.0,
    required=False,
    phases=("a",),
    targets=(PlannedTarget("node", "every_node", "stack"),),
    job_file_sha256="0" * 64,
    git_commit=None,
    jobmeter_version="0",
)


def test_run_json_comes_back_as_written(tmp_path):
    write_manifest(MANIFEST, tmp_path / "run.json")
    assert read_manifest(tmp_path / "run.json") == MANIFEST
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda text: None, "no run.json here"),
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda text: "", "cut short"),
        (lambda text: "[]", "schema version None"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 99'), "version 99"),
        (lambda text: text.replace('"phases"', '"fases"'), "a field is missing or wrong"),
        (lambda text: text.replace('"placement"', '"place"'), "a field is missing or wrong"),
    ],
)
def test_a_damaged_run_json_is_refused_with_a_reason(damage, expected, tmp_path):
    path = tmp_path / "run.json"
    write_manifest(MANIFEST, path)
    text = damage(path.read_text())
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(RunFolderError, match=expected):
        read_manifest(path)


def test_events_survive_a_torn_line(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [
        {"t": 20, "node": "n1", "event": "phase_end", "phase": "a", "exit_code": 3},
        {"t": 10, "node": "n1", "event": "phase_start", "phase": "a"},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"t": 30, "no')
    log = read_events(path)
    assert [event.time_ms for event in log.events] == [10, 20]
    assert log.unreadable_lines == 1
    assert read_events(tmp_path / "none").events == ()


def test_phases_end_at_the_mark_or_at_the_last_fact(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [
        {"t": 1, "event": "job_start"},
        {"t": 10, "event": "phase_start", "phase": "a"},
        {"t": 15, "event": "phase_end", "phase": "a", "exit_code": None, "signal": "USR1"},
        {"t": 20, "event": "phase_end", "phase": "a", "exit_code": 0, "signal": None},
        {"t": 30, "event": "phase_start", "phase": "b"},
    ]
    path.write_text("".join(json.dumps({"node": "n", **line}) + "\n" for line in lines))
    events = read_events(path).events
    first, second = phases_from(events, last_fact_ms=50)
    # The warning wrote an end down; the payload went on, ended by itself, and that is the end.
    assert (first.window, first.exit_code, first.interrupted_by) == (Window(10, 20), 0, None)
    assert (second.window, second.end_source) == (Window(30, 50), "last_fact")
    assert job_window(events, 50).window == Window(1, 50)
    assert job_window((), 50) is None


def test_a_window_cannot_be_empty():
    with pytest.raises(ValueError, match="window is empty"):
        Window(5, 5)


def test_fetches_keep_what_is_readable_and_stay_in_their_folder(tmp_path):
    line = {"node": "n1", "service": "node", "before_ms": 1, "after_ms": 2, "status": "ok"}
    (tmp_path / "fetches.jsonl").write_text(
        json.dumps({**line, "file": "node@n1.prom"})
        + "\n"
        + json.dumps({**line, "file": "../../secrets/password"})
        + '\n{"node": "n1", "serv'
    )
    inside, elsewhere = read_fetches(tmp_path)
    assert inside.path == tmp_path / "node@n1.prom"
    assert elsewhere.path == tmp_path / "password"
    assert read_fetches(tmp_path / "never") == ()


def test_accounting_is_joined_never_required(tmp_path):
    path = tmp_path / "accounting.json"
    assert read_accounting(path) is None
    known = JobAccounting("4", "COMPLETED", final=True, source="sacct", exit_code=0)
    write_accounting(known, path)
    assert read_accounting(path) == known
    path.write_text(path.read_text()[:20])
    assert read_accounting(path) is None
