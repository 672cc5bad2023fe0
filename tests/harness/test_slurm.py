"""What Slurm's commands print when a job is submitted and followed, read."""

import pytest

from jobmeter.errors import SchedulerError
from jobmeter.slurm import job_and_restart, job_id_from, job_state, states_from
from jobmeter.slurm_words import state_from


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("CANCELLED by 1000", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("OUT_OF_MEMORY", "OUT_OF_MEMORY"),
        ("FROZEN_IN_2031", "FROZEN_IN_2031"),
        ("", "UNKNOWN"),
    ],
)
def test_a_word_we_do_not_know_is_a_value(word, state):
    assert state_from(word) == state


def test_every_task_has_its_state():
    assert states_from("COMPLETED\nCANCELLED+\n\n") == ("COMPLETED", "CANCELLED")


@pytest.mark.parametrize("stdout", ["", "Submitted batch job 4", "-1", "12 34"])
def test_sbatch_that_prints_no_id_is_an_error(stdout):
    with pytest.raises(SchedulerError, match="did not print a job id"):
        job_id_from(stdout)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("12", ("12", 0)),
        ("12_3.r2", ("12_3", 2)),
        ("12+1", ("12+1", 0)),
        ("local", None),
        ("local-2", None),
    ],
)
def test_an_attempt_says_which_start_of_which_job_it_is(name, expected):
    assert job_and_restart(name) == expected


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Return a function that puts a stand-in for a command first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return put


def test_an_array_goes_on_until_its_last_task_has_ended(stand_ins):
    stand_ins("squeue", "printf 'COMPLETED\\nRUNNING\\n'")
    assert job_state("6") == "RUNNING"


def test_a_job_that_the_controller_forgot_has_the_state_of_its_last_start(stand_ins):
    stand_ins("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    stand_ins("sacct", "printf 'JobID|State|End\\n7|REQUEUED|5\\n7|FAILED|9\\n'")
    assert job_state("7") == "FAILED"
    stand_ins("sacct", "exit 1")
    assert job_state("7") is None
