"""What sacct printed of jobs that ran, read; the real one is in tests/e2e."""

from pathlib import Path

import pytest

from jobmeter.slurm_query import Start
from jobmeter.slurm_sacct import accounting_from_sacct, sacct_command, sacct_fields

RECORDED = Path(__file__).parents[1] / "fixtures" / "slurm"
SACCT = (RECORDED / "sacct-22.05.8.txt").read_text()


def test_a_completed_job():
    job = accounting_from_sacct(SACCT, Start("1"))
    assert (job.state, job.final, job.settled, job.source) == ("COMPLETED", True, True, "sacct")
    assert (job.exit_code, job.signal, job.derived_exit_code) == (0, None, 0)
    assert (job.start_s, job.end_s, job.elapsed_s) == (1795378551, 1795378558, 7.0)
    assert (job.queue_wait_s, job.submit_to_start_s) == (0.0, 0.0)
    assert (job.time_limit_s, job.time_limit_used_ratio) == (300.0, 7 / 300)
    assert (job.nodes, job.cpus, job.node_list) == (2, 2, "mel[0001-0002]")
    assert (job.memory_bytes, job.billing, job.gpus) == (200 * 2**20, 2, None)
    assert (job.user_cpu_s, job.system_cpu_s, job.total_cpu_s) == (0.883, 2.173, 3.057)
    assert job.cpu_efficiency_ratio == pytest.approx(3.057 / 14)
    assert job.consumed_energy_joules is None
    assert (job.partition, job.qos, job.account) == ("gpu", "default", "p200999")
    assert (job.restarts, job.reason, job.failed_node) == (None, None, None)
    batch, step = job.steps
    assert (batch.name, step.name, step.tasks, step.total_cpu_s) == ("batch", "0", 2, 3.043)
    assert (step.max_rss_bytes, step.max_rss_node, step.max_rss_task) == (22843392, "mel0001", 0)
    assert job.max_rss_bytes == 22843392


def test_the_exit_code_of_a_job_that_was_ended_is_that_of_its_script():
    timeout = accounting_from_sacct(SACCT, Start("5"))
    assert (timeout.state, timeout.exit_code, timeout.signal) == ("TIMEOUT", 143, 15)
    cancelled = accounting_from_sacct(SACCT, Start("6"))
    assert (cancelled.state, cancelled.exit_code) == ("CANCELLED", 143)
    assert accounting_from_sacct(SACCT, Start("7")).exit_code == 7


def test_a_delayed_job_did_not_wait_in_the_queue_for_its_time():
    job = accounting_from_sacct(SACCT, Start("8"))
    assert (job.queue_wait_s, job.submit_to_start_s) == (0.0, 1.0)


def test_no_sample_is_not_zero():
    job = accounting_from_sacct(SACCT, Start("7"))
    assert job.max_rss_bytes is None
    assert job.steps[0].max_rss_node is None


def test_components_of_a_heterogeneous_job():
    first, second = (accounting_from_sacct(SACCT, Start(name)) for name in ("9+0", "9+1"))
    assert (first.cpus, second.cpus) == (1, 2)
    # No step ran in the second, so nobody counted.
    assert (second.steps, second.total_cpu_s, second.user_cpu_s) == ((), None, None)
    job = accounting_from_sacct(SACCT, Start("9", components=2))
    assert (job.job_id, job.state, job.final, job.exit_code) == ("9", "COMPLETED", True, 0)
    assert (job.nodes, job.cpus, job.node_list) == (2, 3, "mel0001,mel0003")
    assert job.alloc_tres == {"billing": 3, "cpu": 3, "mem": 1200 * 2**20, "node": 2}
    assert (job.total_cpu_s, job.elapsed_s, job.partition) == (None, 1.0, "cpu")
    assert [(one.job_id, one.nodes, one.cpus) for one in job.components] == [
        ("9+0", 1, 1),
        ("9+1", 1, 2),
    ]
    assert job.steps == first.steps


def test_a_heterogeneous_job_is_as_bad_as_its_worst_component_and_final_with_the_last():
    head = "JobID|State|ExitCode|Start|End|TotalCPU|NodeList|AllocTRES\n"
    first = "9+0|COMPLETED|0:0|5|9|00:01.500|n1|cpu=2\n9+0.batch|COMPLETED|0:0|5|9|00:01.500|n1|\n"
    second = "9+1|NODE_FAIL|0:0|5|8|00:02.000|n[2-3]|cpu=8\n9+1.0|NODE_FAIL|0:0|5|8|||\n"
    both = accounting_from_sacct(head + second + first, Start("9", components=2))
    assert (both.state, both.final, both.exit_code, both.total_cpu_s) == ("NODE_FAIL", True, 0, 3.5)
    assert (both.cpus, both.node_list) == (10, "n1,n[2-3]")
    assert [step.name for step in both.steps] == ["batch", "+1.0"]
    one = accounting_from_sacct(head + first, Start("9", components=2))
    assert (one.final, one.cpus) == (False, 2)
    assert accounting_from_sacct(head + second, Start("9", components=2)) is None
    assert accounting_from_sacct(head + first, Start("9")).final


def test_a_task_of_an_array_is_not_its_neighbour():
    text = "JobID|State|ExitCode|End\n6_1|COMPLETED|0:0|2\n6_10|FAILED|7:0|2\n"
    assert accounting_from_sacct(text, Start("6_1")).exit_code == 0
    assert accounting_from_sacct(text, Start("6_10")).exit_code == 7
    assert accounting_from_sacct(SACCT, Start("2_2")).exit_code == 2


def test_each_start_of_a_requeued_job_is_its_own():
    first, second = (accounting_from_sacct(SACCT, Start("11", restart)) for restart in (0, 1))
    assert (first.state, first.final, first.elapsed_s) == ("REQUEUED", True, 1.0)
    assert first.exit_code == 143
    # Slurm gave it the eligible time of the second start.
    assert (first.eligible_s > first.start_s, first.queue_wait_s) == (True, None)
    assert (second.state, second.exit_code, second.node_list) == ("FAILED", 3, "mel0002")
    assert second.steps[0].max_rss_bytes == 212992
    assert accounting_from_sacct(SACCT, Start("11", 2)) is None
    assert accounting_from_sacct(SACCT, Start("11", None)) == second


@pytest.mark.parametrize(
    ("script_began", "state"),
    [
        (1795379779.4, "REQUEUED"),  # four seconds before the next start
        (1795379783.9, "FAILED"),
        (1795379778.0, "REQUEUED"),  # it is behind the first start too
        (1795379790.0, "FAILED"),  # or ahead of the end
    ],
)
def test_the_time_of_the_script_tells_the_starts_apart(script_began, state):
    # Whatever the count says: old records may have been purged.
    for restart in (0, 1, 7):
        job = accounting_from_sacct(SACCT, Start("11", restart, script_began))
        assert job.state == state


def test_the_count_tells_starts_apart_that_follow_within_the_jitter_of_clocks():
    text = "JobID|State|Start|End\n7|REQUEUED|100|101\n7|FAILED|102|109\n"
    assert accounting_from_sacct(text, Start("7", 0, 100.2)).state == "REQUEUED"
    assert accounting_from_sacct(text, Start("7", 1, 102.3)).state == "FAILED"


def test_another_job_with_the_same_number_is_not_ours():
    assert accounting_from_sacct(SACCT, Start("1", 0, 1795378551 + 7200.0)) is None
    assert accounting_from_sacct(SACCT, Start("1", 0, 1795378551 - 7200.0)) is None


def test_the_count_of_restarts_decides_where_sacct_has_it():
    text = "JobID|State|Start|End|Restarts\n7|REQUEUED|10|20|1\n7|COMPLETED|30|40|2\n"
    assert accounting_from_sacct(text, Start("7", 2)).state == "COMPLETED"
    assert accounting_from_sacct(text, Start("7", 1)).restarts == 1


def test_a_running_job_is_not_final_and_lacks_what_it_lacks():
    text = "JobID|State|ExitCode|Start|End|TotalCPU|QOS\n5|RUNNING|0:0|9|Unknown|00:00:00|q\n"
    job = accounting_from_sacct(text, Start("5"))
    assert not job.final
    assert (job.end_s, job.max_rss_bytes, job.total_cpu_s, job.exit_code) == (None,) * 4


@pytest.mark.parametrize(("end", "qos"), [("Unknown", "default"), ("1795367680", "Unknown")])
def test_a_job_that_the_database_knows_in_part_is_not_final(end, qos):
    """Seen on 22.05 for seconds after the end: a wrong state, and QOS Unknown."""
    text = f"JobID|State|Start|End|QOS\n5|FAILED|1795367669|{end}|{qos}\n"
    assert not accounting_from_sacct(text, Start("5")).final


@pytest.mark.parametrize("raw", ["", "0", "-2", "4294967294", "18446744073709551614", "Unknown"])
def test_energy_that_nobody_measured(raw):
    text = f"JobID|State|End|ConsumedEnergyRaw|AllocTRES\n5|COMPLETED|9|{raw}|energy=0,cpu=1\n"
    job = accounting_from_sacct(text, Start("5"))
    assert job.consumed_energy_joules is None
    assert job.alloc_tres == {"cpu": 1}


def test_energy_and_gpus():
    text = (
        "JobID|State|End|ConsumedEnergyRaw|AllocTRES|TimelimitRaw\n"
        "5|COMPLETED|9|81234|gres/gpu:a100=4,gres/gpu:l40=1|UNLIMITED\n"
    )
    job = accounting_from_sacct(text, Start("5"))
    assert (job.consumed_energy_joules, job.gpus) == (81234, 5)
    assert (job.time_limit_s, job.time_limit_used_ratio) == (None, None)


SONAR_COLUMNS = (
    "JobID|JobIDRaw|User|Account|State|Start|End|AveCPU|AveDiskRead|AveDiskWrite|AveRSS|AveVMSize|"
    "ElapsedRaw|ExitCode|Layout|MaxRSS|MaxVMSize|MinCPU|ReqCPUS|ReqMem|ReqNodes|Reservation|Submit|"
    "Suspended|SystemCPU|TimelimitRaw|UserCPU|NodeList|Partition|AllocTRES|Priority|JobName\n"
)


def test_the_records_of_a_real_site():
    text = SONAR_COLUMNS + (RECORDED / "sonar-sacct.txt").read_text()
    ids = {line.split("|")[0] for line in text.splitlines()[1:]}
    jobs = [accounting_from_sacct(text, Start(name)) for name in sorted(ids) if "." not in name]
    read = {job.job_id: job for job in jobs if job is not None}
    assert len(read) == len(jobs) > 100
    timeout = read["1955319"]
    assert (timeout.state, timeout.final, timeout.exit_code) == ("TIMEOUT", True, 143)
    assert (timeout.gpus, timeout.cpus, timeout.memory_bytes) == (1, 24, 256 * 2**30)
    assert timeout.time_limit_used_ratio == pytest.approx(82811 / 82800)
    assert timeout.max_rss_bytes == 12954092 * 1024
    killed = read["1956882"]
    assert killed.steps[-1].exit_code == 253
    assert killed.steps[-1].max_rss_bytes == 617032140 * 1024
    waiting = read["1903070"]
    assert (waiting.state, waiting.final, waiting.start_s) == ("PENDING", False, None)
    assert (waiting.queue_wait_s, waiting.nodes, waiting.node_list) == (None, None, None)
    assert {job.state for job in jobs} >= {"RUNNING", "PENDING", "CANCELLED", "COMPLETED"}
    assert not any(job.final for job in jobs if job.state in ("RUNNING", "PENDING"))


@pytest.mark.parametrize(
    "text", ["", "garbage", "||||", "JobID|State\n9|COMPLETED|x\n", "sacct: error\n", "9|FAILED|0"]
)
def test_unreadable_accounting_is_absent(text):
    assert accounting_from_sacct(text, Start("9")) is None


def test_only_fields_that_this_sacct_has_are_asked_for():
    names = sacct_fields((RECORDED / "sacct-helpformat-22.05.8.txt").read_text())
    assert "Restarts" not in names
    assert "FailedNode" not in names
    assert len(names) == len(SACCT.splitlines()[0].split("|"))
    assert sacct_command("4", names)[-1] == f"--format={SACCT.splitlines()[0].replace('|', ',')}"
    assert "Restarts" in sacct_fields("JobID State Restarts")
