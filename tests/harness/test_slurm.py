"""What Slurm's commands print, read. The real commands are in tests/e2e."""

import pytest

from jobmeter.errors import SchedulerError
from jobmeter.slurm import accounting_from, job_id_from, state_from

SACCT = """\
4|COMPLETED|0:0|12|1795367669|1795367681||00:03.250|default
4.batch|COMPLETED|0:0|12|1795367669|1795367681|12504K|00:01.250|
4.0|COMPLETED|0:0|11|1795367670|1795367681|1.50M|00:02|
"""


def test_accounting_of_a_finished_job():
    job = accounting_from(SACCT, "4")
    assert (job.state, job.final, job.exit_code) == ("COMPLETED", True, 0)
    assert (job.elapsed_s, job.start_s, job.end_s) == (12.0, 1795367669, 1795367681)
    assert job.max_rss_bytes == 12504 * 1024
    assert job.total_cpu_s == 3.25


def test_a_running_job_is_not_final_and_lacks_what_it_lacks():
    job = accounting_from("5|RUNNING|0:0|3|1795367669|Unknown||00:00:00|default\n", "5")
    assert not job.final
    assert job.end_s is None
    assert job.max_rss_bytes is None


def test_a_final_word_without_an_end_is_not_final():
    assert not accounting_from(
        "5|CANCELLED by 1000|0:0|3|1795367669|Unknown|||default\n", "5"
    ).final


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


def test_a_job_that_the_database_knows_in_part_is_not_final():
    """Seen on 22.05 for seconds after the end: a wrong state, and QOS Unknown."""
    half = accounting_from("5|FAILED|0:0|3|1795367669|1795367680||00:00:00|Unknown\n", "5")
    assert not half.final


def test_each_start_of_a_requeued_job_is_its_own():
    text = (
        "7|REQUEUED|0:0|5|100|105||00:01|q\n7.batch|CANCELLED|0:15|5|100|105|10K|00:01|\n"
        "7|COMPLETED|0:0|9|200|209||00:02|q\n7.batch|COMPLETED|0:0|9|200|209|20K|00:02|\n"
    )
    first, second = accounting_from(text, "7", 0), accounting_from(text, "7", 1)
    assert (first.elapsed_s, first.max_rss_bytes) == (5.0, 10240)
    assert (second.state, second.max_rss_bytes) == ("COMPLETED", 20480)
    assert accounting_from(text, "7", 2) is None


def test_a_task_of_an_array_is_not_its_neighbour():
    text = "6_1|COMPLETED|0:0|1|1|2||00:01|q\n6_10|FAILED|7:0|1|1|2||00:01|q\n"
    assert accounting_from(text, "6_1").exit_code == 0
    assert accounting_from(text, "6_10").exit_code == 7


@pytest.mark.parametrize("text", ["", "garbage", "||||||||", "9|COMPLETED", "sacct: error\n"])
def test_unreadable_accounting_is_absent(text):
    assert accounting_from(text, "9") is None


@pytest.mark.parametrize("stdout", ["", "Submitted batch job 4", "-1", "12 34"])
def test_sbatch_that_prints_no_id_is_an_error(stdout):
    with pytest.raises(SchedulerError, match="did not print a job id"):
        job_id_from(stdout)
