"""What is said of a job that waits, runs, or is over; Slurm's commands are stand-ins."""

import json

import pytest
from typer.testing import CliRunner

from jobmeter.cli import app
from jobmeter.paths import RunPaths
from jobmeter.slurm_now import queue_from, slurm_now
from jobmeter.submission import read_submission, write_submission

PLAN = {
    "schema_version": 1,
    **dict.fromkeys(("name", "site", "created", "job_file_sha256", "jobmeter_version"), "x"),
    **{"run_id": "x-1", "nodes": 1, "interval_s": 5.0, "checkpoint_interval_s": 15.0},
    **{"required": False, "phases": ["main"], "targets": [], "git_commit": None},
}


@pytest.fixture
def run(tmp_path):
    paths = RunPaths(tmp_path / "x-1")
    paths.run.mkdir()
    paths.manifest.write_text(json.dumps(PLAN))
    write_submission("12", paths.submission)
    return paths


@pytest.fixture
def queue_prints(stand_in, tmp_path):
    def prints(*lines):
        (tmp_path / "squeue.txt").write_text("".join(f"{line}\n" for line in lines))
        stand_in("squeue", f'cat "{tmp_path}/squeue.txt"')

    return prints


def attempt(run, name, *events):
    paths = run.attempt(name)
    paths.attempt.mkdir(parents=True)
    lines = [json.dumps({"t": at, "node": "n1", "event": event}) for at, event in events]
    paths.events.write_text("".join(f"{line}\n" for line in lines))
    return paths


def test_a_line_of_the_queue():
    (job,) = queue_from("12|RUNNING|None|mel[0001-0002]|1-02:03:04|1700000000\n")
    assert (job.state, job.final, job.reason) == ("RUNNING", False, None)
    assert (job.node_list, job.time_left_s, job.start_s) == (
        *("mel[0001-0002]", 93784.0, 1700000000),
    )
    assert queue_from("slurm_load_jobs error: Invalid job id specified\n\n") == ()
    (job,) = queue_from("12|WHATEVER|None||UNLIMITED|N/A\n")
    assert (job.state, job.final, job.time_left_s) == ("WHATEVER", False, None)


def test_a_job_that_waits(run, queue_prints):
    queue_prints("12|PENDING|QOSMaxJobsPerUserLimit||1:00:00|N/A")
    said = slurm_now(run, ())
    (job,) = said.jobs
    assert (job.state, job.reason) == ("PENDING", "QOSMaxJobsPerUserLimit")
    done = CliRunner().invoke(app, ["status", str(run.run)])
    assert done.exit_code == 0, done.output
    assert done.output == (
        "run        x-1\n"
        "slurm      job 12 · PENDING · QOSMaxJobsPerUserLimit\n"
        "attempt    none: the job has not started\n"
    )


def test_tasks_of_an_array_stand_beside_those_that_wait(run, queue_prints):
    queue_prints("12_0|RUNNING|None|n1|5:00|1700000000", "12_[1-3]|PENDING|Resources||9:00|N/A")
    first = attempt(run, "12_0", (1700000000500, "job_start"))
    said = slurm_now(run, (first,))
    assert said.attempts["12_0"].state == "RUNNING"
    assert said.over("12_0") is False
    done = CliRunner().invoke(app, ["status", str(run.run)])
    assert "slurm      job 12_[1-3] · PENDING · Resources\n" in done.output
    assert "slurm      job 12_0 · RUNNING · n1 · 5 min 00 s left\n" in done.output


def test_the_first_component_of_a_heterogeneous_job(run, queue_prints):
    queue_prints("12+0|RUNNING|None|n1|5:00|1700000000", "12+1|RUNNING|None|n2|5:00|1700000000")
    first = attempt(run, "12", (1700000000500, "job_start"))
    assert slurm_now(run, (first,)).attempts["12"].job_id == "12+0"


@pytest.mark.parametrize(
    "line", ["12|PENDING|BeginTime||5:00|N/A", "12|RUNNING|None|n1|5:00|1700000100"]
)
def test_a_job_that_was_requeued_says_nothing_of_its_first_start(run, queue_prints, line):
    queue_prints(line)
    first = attempt(run, "12", (1700000000500, "job_start"))
    said = slurm_now(run, (first,))
    assert said.attempts == {}
    assert said.over("12") is None


def test_what_the_queue_forgot_the_database_knows(run, queue_prints, stand_in, sacct_prints):
    stand_in("squeue", "echo 'Invalid job id specified' >&2; exit 1")
    sacct_prints(
        "JobID|State|Start|End|NodeList|QOS|Submit\n"
        "12|CANCELLED by 1000|1700000000|1700000060|n1|normal|1700000000\n"
    )
    first = attempt(run, "12", (1700000000500, "job_start"))
    said = slurm_now(run, (first,))
    assert (said.attempts["12"].state, said.attempts["12"].source) == ("CANCELLED", "sacct")
    assert said.over("12") is True
    assert not first.accounting.exists()


def test_without_slurm_nothing_is_required(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    attempt(run, "12", (1700000000500, "job_start"))
    done = CliRunner().invoke(app, ["status", str(run.run)])
    assert done.exit_code == 0
    assert "slurm      unknown: squeue is not on PATH\n" in done.output
    assert "silent: nothing was heard of it" in done.output


def test_a_script_that_was_submitted_by_hand(run, queue_prints):
    run.submission.unlink()
    queue_prints()
    assert slurm_now(run, ()).why_not == "no job id: it was not submitted by jobmeter"
    run.submission.write_text("{")
    assert read_submission(run.submission) is None


def test_json_for_programs(run, queue_prints):
    queue_prints("12|RUNNING|None|n1|5:00|1700000000")
    attempt(run, "12", (1700000000500, "job_start"), (1700000001000, "phase_start"))
    done = CliRunner().invoke(app, ["status", "--json", str(run.run)])
    data = json.loads(done.output)
    (one,) = data["attempts"]
    assert (one["name"], one["state"], one["slurm"]["time_left_s"]) == ("12", "running", 300.0)
    assert data["slurm"]["why_not"] is None
    files = [path.name for path in run.attempt("12").attempt.iterdir()]
    assert files == ["events.jsonl"]  # nothing was written
