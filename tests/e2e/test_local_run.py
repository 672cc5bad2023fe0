"""``jobmeter run`` on this machine: the same script, without Slurm."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_user import Table, until

ROOT = Path(__file__).parents[2]
JOBMETER = Path(sys.executable).parent / "jobmeter"

pytestmark = [pytest.mark.prometheus, pytest.mark.usefixtures("local_programs")]


def jobmeter(*arguments, **options):
    return subprocess.run(
        [JOBMETER, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
    )


def only_run(folder):
    (run,) = folder.iterdir()
    return run


def table_of(run):
    return Table(json.loads((run / "attempts" / "local" / "report" / "kpis.json").read_text()))


def await_phase(runs):
    until(
        lambda: [e for e in runs.glob("*/attempts/*/events.jsonl") if "phase_st" in e.read_text()],
        20,
        lambda: "the phase does not start",
    )


def processes_of(run):
    found = subprocess.run(["pgrep", "-f", run.name], capture_output=True, text=True)
    return found.stdout.split()


def test_the_example_gives_a_table_with_exact_counts(tmp_path):
    done = jobmeter("run", ROOT / "examples" / "train-cpu.yaml", "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert "3000 steps, loss" in done.stdout
    assert "samples_per_second" in done.stdout
    assert str(run) in done.stderr
    table = table_of(run)
    assert table.manifest["state"] == "complete"
    for phase, steps in {"warmup": 300, "train": 3000}.items():
        for kpi, count in {"steps_total": steps, "samples_total": steps * 2048}.items():
            row = table.one(kpi, phase=phase)
            assert (row["value"], row["status"], row["coverage"]) == (count, "exact", 1.0), kpi
        mean = table.one("step_seconds_mean", phase=phase)["value"]
        assert 0 < mean < table.one("phase_seconds", phase=phase)["value"] / steps
    cores = table.one("job_cpu_cores_mean", phase="train", scope="job")
    assert 0.3 < cores["value"] <= os.cpu_count()
    # Without a batch system there is nothing of Slurm to be absent.
    assert not any(row["kpi"].startswith("slurm_") for row in table.rows)
    until(lambda: not processes_of(run), 10, lambda: processes_of(run))
    names = {path.name for path in (run / "attempts" / "local" / "report").iterdir()}
    assert names == {"kpis.csv", "kpis.json", "kpis.parquet", "MANIFEST.json"}
    again = jobmeter("analyze", run, "--format", "csv", "--phase", "train")
    assert again.stdout.splitlines()[0].startswith("kpi,unit,phase,scope,entity,value,low,high")


def test_a_failing_payload_is_the_exit_code(tmp_path):
    job = tmp_path / "fails.yaml"
    job.write_text("run: 'echo to the terminal; exit 5'\n")
    done = jobmeter("run", job, "--runs", tmp_path / "runs")
    assert done.returncode == 5
    assert "to the terminal" in done.stdout
    assert table_of(only_run(tmp_path / "runs")).one("phase_seconds", phase="run")["value"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_finished_in_order(number, code, started, tmp_path):
    child = started("run: 'sleep 300 & touch running; sleep 300'\nmonitoring: {interval: 1s}\n")
    # A phase that is ended in the millisecond of its start has no length, and no row.
    until((tmp_path / "work" / "running").exists, 30, lambda: "the phase does not start")
    if number == signal.SIGINT:
        os.killpg(child.pid, number)  # what a terminal does with Ctrl-C
    else:
        child.send_signal(number)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == code, stderr
    run = only_run(tmp_path / "runs")
    assert "phase_seconds" in stdout
    assert "Traceback" not in stderr
    row = table_of(run).one("phase_seconds", phase="run")
    assert "phase_interrupted" in row["reason"]
    assert '"recording_closed"' in (run / "attempts" / "local" / "events.jsonl").read_text()
    until(lambda: not processes_of(run), 10, lambda: processes_of(run))


def test_a_hail_of_signals_does_not_break_the_script(started, tmp_path):
    """bash 5.2 aborts when a signal meets certain expansions, and Slurm sends several at once."""
    child = started("run: 'sleep 4; exit 6'\nmonitoring: {interval: 1s}\n")
    (script,) = until(
        lambda: subprocess.run(
            ["pgrep", "-P", str(child.pid)], capture_output=True, text=True
        ).stdout.split(),
        20,
        lambda: "the script does not start",
    )
    await_phase(tmp_path / "runs")
    sent = 0
    while child.poll() is None and sent < 5000:
        try:
            os.kill(int(script), signal.SIGUSR1)
        except ProcessLookupError:
            break
        sent += 1
        time.sleep(0.001)
    _, stderr = child.communicate(timeout=60)
    assert sent > 500
    assert child.returncode == 6, stderr
    assert "unexpected" not in stderr
    assert table_of(only_run(tmp_path / "runs")).one("phase_seconds", phase="run")["value"] >= 4


def test_a_missing_program_is_said_before_anything_is_written(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("run: 'true'\n")
    empty = tmp_path / "bin"
    empty.mkdir()
    done = jobmeter("run", job, "--runs", tmp_path / "runs", env={"PATH": str(empty)})
    assert done.returncode == 2
    assert done.stderr.startswith("jobmeter: prometheus is not on PATH; install it")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("run: 'true'\n")
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = jobmeter("run", job, "--runs", blocked / "runs")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def shortened(run, tmp_path):
    """Copies of a run, each damaged in one way, and what must be said of it."""
    attempt = "attempts/local"
    damages = {
        "events cut in half": lambda r: halve(r / attempt / "events.jsonl"),
        "no events": lambda r: (r / attempt / "events.jsonl").unlink(),
        "no recording": lambda r: shutil.rmtree(r / attempt / "tsdb"),
        "recording torn": lambda r: halve(next((r / attempt / "tsdb/wal").iterdir())),
        "recording is noise": lambda r: next((r / attempt / "tsdb/wal").iterdir()).write_bytes(
            b"\x07noise" * 9999
        ),
        "no edges": lambda r: shutil.rmtree(r / attempt / "edges"),
        "an edge torn": lambda r: halve(r / attempt / "edges/run.end/node@NODE.prom"),
        "no run.json": lambda r: (r / "run.json").unlink(),
        "run.json cut in half": lambda r: halve(r / "run.json"),
        "another schema": lambda r: (r / "run.json").write_text(
            (r / "run.json").read_text().replace('"schema_version": 1', '"schema_version": 7')
        ),
        "empty": lambda r: (shutil.rmtree(r), r.mkdir()),
        "no attempts": lambda r: shutil.rmtree(r / "attempts"),
        "empty attempt": lambda r: (shutil.rmtree(r / attempt), (r / attempt).mkdir()),
    }
    for name, damage in damages.items():
        copy = tmp_path / name / run.name
        shutil.copytree(run, copy)
        for edge in copy.glob("attempts/local/edges/run.end/node@*.prom"):
            edge.rename(edge.with_name("node@NODE.prom")) if name == "an edge torn" else None
        damage(copy)
        yield name, copy


def halve(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_damaged_run_gives_a_clear_error_or_a_table_with_reasons(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("run: 'sleep 8'\nmonitoring: {interval: 1s}\n")
    assert jobmeter("run", job, "--runs", tmp_path / "runs").returncode == 0
    for name, copy in shortened(only_run(tmp_path / "runs"), tmp_path / "damaged"):
        done = jobmeter("analyze", copy, "--format", "json")
        assert "Traceback" not in done.stderr, name
        if done.returncode == 0:
            table = Table(json.loads(done.stdout))
            assert table.manifest["state"] != "complete" or name == "recording torn", name
            for row in table.rows:
                assert row["value"] is not None or row["reason"], (name, row)
        else:
            assert done.returncode == 1, name
            assert done.stdout == "", name
            assert len(done.stderr.splitlines()) == 1, name
            assert str(copy) in done.stderr, name
