"""What scontrol printed of jobs, read; the real one is in tests/e2e."""

from pathlib import Path

import pytest

from jobmeter.slurm_query import Start
from jobmeter.slurm_scontrol import accounting_from_scontrol

RECORDED = Path(__file__).parents[1] / "fixtures" / "slurm"
SCONTROL = (RECORDED / "scontrol-22.05.8.txt").read_text()


def test_the_controller_says_what_it_knows():
    job = accounting_from_scontrol(SCONTROL, Start("5"))
    assert (job.state, job.final, job.settled, job.source) == ("TIMEOUT", True, False, "scontrol")
    assert (job.exit_code, job.signal, job.reason) == (143, 15, "TimeLimit")
    assert (job.submit_s, job.start_s, job.end_s) == (1795379778, 1795379779, 1795379808)
    assert (job.elapsed_s, job.time_limit_s, job.queue_wait_s) == (29.0, 60.0, 1.0)
    assert (job.nodes, job.cpus, job.memory_bytes, job.billing) == (1, 1, 400 * 2**20, 1)
    assert (job.restarts, job.partition, job.account) == (0, "cpu", "p200999")
    assert (job.total_cpu_s, job.max_rss_bytes, job.steps) == (None, None, ())


def test_the_controller_knows_the_last_start_only():
    assert accounting_from_scontrol(SCONTROL, Start("11", 1)).exit_code == 3
    assert accounting_from_scontrol(SCONTROL, Start("11", 0)) is None
    assert accounting_from_scontrol(SCONTROL, Start("12")) is None


def test_another_job_with_the_same_number_is_not_ours():
    assert accounting_from_scontrol(SCONTROL, Start("7", 0, 1795379779 + 7200.0)) is None


def test_components_by_the_controller():
    job = accounting_from_scontrol(SCONTROL, Start("9"))
    assert (job.cpus, job.nodes, job.node_list) == (3, 2, "mel0001,mel0003")
    assert [one.job_id for one in job.components] == ["9+0", "9+1"]
    assert accounting_from_scontrol(SCONTROL, Start("9+0")).cpus == 1
    assert accounting_from_scontrol(SCONTROL, Start("9+1")).cpus == 2


def test_jobs_of_a_real_site_that_wait():
    text = (RECORDED / "sonar-scontrol.txt").read_text()
    job = accounting_from_scontrol(text, Start("2066283"))
    assert (job.state, job.final, job.account) == ("PENDING", False, "ec12")
    # Start, nodes and resources are a forecast and a wish.
    assert (job.start_s, job.end_s, job.nodes, job.cpus, job.elapsed_s) == (None,) * 5
    assert job.alloc_tres == {}
    assert job.time_limit_s == 23 * 3600
    assert job.submit_s == 1761214809  # without SLURM_TIME_FORMAT, in UTC


def test_a_running_job_has_no_end_yet():
    line = SCONTROL.splitlines()[0].replace("JobState=TIMEOUT", "JobState=RUNNING")
    job = accounting_from_scontrol(line, Start("5"))
    assert (job.end_s, job.exit_code, job.final) == (None, None, False)
    assert job.is_final("queue_wait_s")
    assert not job.is_final("elapsed_s")


def test_a_name_cannot_pretend():
    line = SCONTROL.splitlines()[0].replace("JobName=a b", "JobName=x JobState=COMPLETED Reason=y")
    job = accounting_from_scontrol(line + " Comment=JobState=FAILED", Start("5"))
    assert (job.state, job.reason) == ("TIMEOUT", "TimeLimit")


@pytest.mark.parametrize("text", ["", "No jobs in the system", "JobId=5", "JobId=5 JobState="])
def test_a_controller_that_says_little(text):
    job = accounting_from_scontrol(text, Start("5", None))
    assert job is None or (job.state, job.final) == ("UNKNOWN", False)
