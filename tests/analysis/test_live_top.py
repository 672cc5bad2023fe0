"""The numbers of the last window are those of the analysis, from whatever part is there."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobmeter.errors import CatalogueError, RunFolderError
from jobmeter.events import read_events
from jobmeter.paths import RunPaths
from jobmeter.window import Window
from jobmeter_analysis.engine import analyze_attempt
from jobmeter_analysis.live_panels import PANELS, Cell, catalogue_for, load_panels
from jobmeter_analysis.live_top import NO_SAMPLES, Top
from jobmeter_analysis.live_top_text import lines

FIXTURES = Path(__file__).parents[1] / "fixtures" / "runs"
JOBMETER = Path(sys.executable).parent / "jobmeter"
CHECKPOINT_MS = 1795379616852
"""In the middle of the phase 'train'."""


@pytest.fixture
def growing(tmp_path):
    """A run up to its fourth checkpoint, and a function that adds the rest of it."""
    shutil.copytree(FIXTURES / "training", tmp_path / "runs")
    (run,) = map(RunPaths, (tmp_path / "runs").iterdir())
    (attempt,) = run.all_attempts()
    (log,) = attempt.tsdb.glob("wal/0*")
    data, events = log.read_bytes(), attempt.events.read_text()
    copied = [e for e in read_events(attempt.events).events if e.name == "checkpoint"]
    size = sum(int(e.fields["copied_bytes"]) for e in copied if e.time_ms <= CHECKPOINT_MS)
    log.write_bytes(data[:size])
    kept = [line for line in events.splitlines(True) if int(line[6:19]) <= CHECKPOINT_MS]
    attempt.events.write_text("".join(kept))
    (attempt.edges / "train.end").rename(tmp_path / "edge")

    def rest():
        log.write_bytes(data)
        attempt.events.write_text(events)
        (tmp_path / "edge").rename(attempt.edges / "train.end")

    return run, attempt, rest


def cells(view):
    return {
        (panel.title, entity, column): cell
        for panel in view.panels
        for entity, row in panel.rows.items()
        for column, cell in row.items()
    }


def test_the_numbers_are_those_of_the_analysis(growing):
    run, attempt, rest = growing
    view = Top(run, attempt, 20_000).look(CHECKPOINT_MS + 4000, over=False)
    assert (view.state, view.phase.name, view.source) == ("running", "train", "copy")
    assert view.window.seconds == 20
    assert 4 <= view.age_s < 6
    rest()
    shutil.rmtree(attempt.edges)  # the window is read without them
    table = analyze_attempt(run, attempt, window=view.window).table
    for (_, entity, _), kpi in {
        ("nodes", "n1", "cpu"): "cpu_utilization_ratio_mean",
        ("nodes", "n1", "memory"): "memory_used_bytes_mean",
        ("training", "training@n1", "step"): "step_seconds_mean",
        ("training", "training@n1", "samples"): "samples_per_second",
    }.items():
        row = table[(table["kpi"] == kpi) & (table["entity"] == entity)]
        shown = [c for c in cells(view).values() if c.value == pytest.approx(row["value"].iloc[0])]
        assert shown, kpi


def test_a_copy_that_grows_is_looked_at_again(growing):
    run, attempt, rest = growing
    top = Top(run, attempt, 20_000)
    first = top.look(CHECKPOINT_MS + 2000, over=False)
    again = top.look(CHECKPOINT_MS + 9000, over=False)
    assert (again.window, again.panels) == (first.window, first.panels)
    assert again.age_s == pytest.approx(first.age_s + 7)
    rest()
    last = top.look(CHECKPOINT_MS + 100_000, over=None)
    assert (last.state, last.over, last.phase.name, last.age_s) == ("ended", True, "again", None)
    assert last.window.end_ms > first.window.end_ms


def test_one_phase_of_a_run_that_ended(growing):
    run, attempt, rest = growing
    rest()
    view = Top(run, attempt, 600_000, phase="warmup").look(0, over=None)
    assert view.window == Window(1795379541954, 1795379559283)
    steps = analyze_attempt(run, attempt, phases=["warmup"]).table
    exact = steps[steps["kpi"] == "step_seconds_mean"]["value"].iloc[0]
    assert cells(view)["training", "training@n1", "step"].value == pytest.approx(exact)
    with pytest.raises(RunFolderError, match="no phase 'nothing' in attempt local; it has warmup"):
        Top(run, attempt, 600_000, phase="nothing").look(0)


def test_before_the_first_sample_and_after_the_folder_is_gone(growing):
    run, attempt, _ = growing
    shutil.rmtree(attempt.tsdb)
    top = Top(run, attempt, 20_000)
    attempt.events.write_text(attempt.events.read_text().splitlines(True)[0])
    view = top.look(CHECKPOINT_MS, over=False)
    assert (view.window, view.panels, view.problems) == (None, (), (NO_SAMPLES,))
    assert NO_SAMPLES in "\n".join(lines(view))
    shutil.rmtree(run.run)
    with pytest.raises(RunFolderError, match="not there any more"):
        top.look(CHECKPOINT_MS, over=False)


def test_what_is_not_there_is_a_reason_and_never_zero(growing):
    run, attempt, _ = growing
    log = next(attempt.tsdb.glob("wal/0*"))
    text = attempt.events.read_text().replace('"nodes": "n1"', '"nodes": "n1 n2"')
    attempt.events.write_text(text)
    assert log.exists()
    view = Top(run, attempt, 20_000).look(CHECKPOINT_MS + 2000, over=False)
    cell = cells(view)["nodes", "n2", "cpu"]
    assert isinstance(cell, Cell)
    assert math.isnan(cell.value)
    assert cell.reason == "target_never_up"
    assert "nodes n2 cpu=target_never_up" in "\n".join(lines(view))


def test_formulas_bring_what_they_need():
    names = {name for group in catalogue_for(load_panels()).values() for name in group.kpis}
    assert {"qdrant_requests_per_second", "qdrant_rest_requests_per_second"} <= names
    assert "gpu_energy_joules" not in names


def test_a_panel_with_an_unknown_kpi_is_refused(tmp_path):
    data = yaml.safe_load(PANELS.read_text())
    data["panels"]["nodes"]["columns"]["cpu"] = ["cpu_utilisation_ratio_mean"]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(CatalogueError, match="did you mean 'cpu_utilization_ratio_mean'"):
        load_panels(path)


def watching(*arguments):
    return subprocess.Popen(
        [JOBMETER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": "/nowhere"},
    )


@pytest.mark.parametrize("command", [("top",), ("health", "--continuous", "--interval", "1")])
def test_ctrl_c_ends_what_watches(growing, command):
    run, attempt, _ = growing
    # Of now, or the attempt would be silent and Slurm asked.
    name, *options = command
    child = watching(name, str(run.run), *options)
    assert run.run.name in child.stdout.readline() or command[0] == "health"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode in (0, 1, 2)
    assert errors == ""
    assert attempt.attempt.is_dir()
