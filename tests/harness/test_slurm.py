"""What Slurm's commands print when a job is submitted and followed, read."""

import pytest

from jobmeter.errors import SchedulerError
from jobmeter.slurm import job_id_from, job_state, states_from


def test_every_task_has_its_state():
    assert states_from("COMPLETED\nCANCELLED+\n\n") == ("COMPLETED", "CANCELLED")


@pytest.mark.parametrize("stdout", ["", "Submitted batch job 4", "-1", "12 34"])
def test_sbatch_that_prints_no_id_is_an_error(stdout):
    with pytest.raises(SchedulerError, match="did not print a job id"):
        job_id_from(stdout)


def test_an_array_goes_on_until_its_last_task_has_ended(stand_in):
    stand_in("squeue", "printf 'COMPLETED\\nRUNNING\\n'")
    assert job_state("6") == "RUNNING"


def test_a_job_that_the_controller_forgot_has_the_state_of_its_last_start(stand_in):
    stand_in("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    stand_in("sacct", "printf 'JobID|State|End\\n7|REQUEUED|5\\n7|FAILED|9\\n'")
    assert job_state("7") == "FAILED"
    stand_in("sacct", "exit 1")
    assert job_state("7") is None
