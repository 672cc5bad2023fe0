"""What Slurm says of a job that ran: read from recorded outputs, and asked of stand-ins.

The real commands are in tests/e2e.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import pytest
import yaml

import jobmeter_analysis.kpis
from jobmeter.accounting import JobAccounting, preferred, read_accounting, write_accounting
from jobmeter.events import parse_event, read_events
from jobmeter.launch import refresh_accounting
from jobmeter.own_record import own_record
from jobmeter.paths import AttemptPaths
from jobmeter.slurm_accounting import (
    Start,
    accounting_from_pyslurm,
    accounting_from_sacct,
    accounting_from_scontrol,
    accounting_of,
    ask_pyslurm,
    sacct_command,
    sacct_fields,
)
from jobmeter.slurm_words import bytes_from, epoch_from, exit_from, seconds_from, tres_from

RECORDED = Path(__file__).parents[1] / "fixtures" / "slurm"
SACCT = (RECORDED / "sacct-22.05.8.txt").read_text()
SCONTROL = (RECORDED / "scontrol-22.05.8.txt").read_text()

# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12504K", 12504 * 1024),
        ("771.29M", int(771.29 * 1024**2)),
        ("1.50G", 3 * 2**29),
        ("2T", 2 * 2**40),
        ("4000Mc", 4000 * 2**20),
        ("64Gn", 64 * 2**30),
        ("389120", 389120),
        ("0", 0),
        ("", None),
        ("16?", None),
        ("18446744073709551614", None),
    ],
)
def test_sizes(text, size):
    assert bytes_from(text) == size


@pytest.mark.parametrize("text", ["Unknown", "None", "", "N/A", "0", "noon"])
def test_a_time_that_is_none(text):
    assert epoch_from(text) is None


@pytest.mark.parametrize("text", ["UNLIMITED", "Partition_Limit", "INVALID", "", "5"])
def test_a_duration_that_is_none(text):
    assert seconds_from(text) is None


@pytest.mark.parametrize(
    ("text", "state", "expected"),
    [
        ("0:0", "COMPLETED", (0, None)),
        ("7:0", "FAILED", (7, None)),
        ("0:9", "FAILED", (137, 9)),
        ("0:125", "OUT_OF_MEMORY", (253, 125)),
        ("0:0", "TIMEOUT", (None, None)),
        ("0:0", "CANCELLED", (None, None)),
        ("", "COMPLETED", (None, None)),
        ("None:0", "COMPLETED", (None, None)),
    ],
)
def test_exit_codes(text, state, expected):
    assert exit_from(text, state) == expected


def test_resources_keep_what_is_readable():
    text = "billing=32,cpu=32,gres/gpu:a100=1,mem=128G,energy=18446744073709551614,license/x=?,,"
    assert tres_from(text) == {"billing": 32, "cpu": 32, "gres/gpu:a100": 1, "mem": 128 * 2**30}
    assert tres_from("(null)") == {}


# --- sacct ----------------------------------------------------------------------------------------


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
    assert accounting_from_sacct(SACCT, Start("9")) == dataclasses.replace(first, job_id="9")
    # No step ran in the second, so nobody counted.
    assert (second.steps, second.total_cpu_s, second.user_cpu_s) == ((), None, None)


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
    assert accounting_from_scontrol(SCONTROL, Start("7", 0, 1795379779 + 7200.0)) is None


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


# --- scontrol -------------------------------------------------------------------------------------


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


def test_components_by_the_controller():
    first = accounting_from_scontrol(SCONTROL, Start("9"))
    assert first.cpus == 1
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


# --- pyslurm --------------------------------------------------------------------------------------

PYSLURM_JOB = {
    # As 22.5.3 said it of job 1 in sacct-22.05.8.txt.
    **{"id": 1, "state": "COMPLETED", "state_reason": "None", "qos": "default", "cpus": 2},
    **{"exit_code": 0, "exit_code_signal": 0, "derived_exit_code": 0, "time_limit": 5},
    **{"submit_time": 1795378551, "eligible_time": 1795378551, "start_time": 1795378551},
    **{"end_time": 1795378558, "elapsed_time": 7, "num_nodes": 2, "nodelist": "mel[0001-0002]"},
    **{"partition": "gpu", "account": "p200999"},
    "steps": [
        {
            **{"name": "batch", "state": "COMPLETED", "exit_code": 0, "exit_code_signal": 0},
            **{"elapsed_time": 7, "ntasks": 1, "max_resident_memory": 4112384},
            **{"max_resident_memory_node": "mel0001", "max_resident_memory_task": 0},
        },
        {
            **{"name": "0", "state": "COMPLETED", "exit_code": 0, "exit_code_signal": 0},
            **{"elapsed_time": 6, "ntasks": 2, "max_resident_memory": 22843392},
            **{"max_resident_memory_node": "mel0001", "max_resident_memory_task": 0},
        },
    ],
}
FIRST = Start("1", 0, 1795378551.5)


def pyslurm_says(**changes):
    return "libslurm talks\n" + json.dumps([{**PYSLURM_JOB, **changes}]) + "\n"


def test_pyslurm_agrees_with_sacct_where_it_says_anything():
    theirs = dataclasses.asdict(accounting_from_pyslurm(pyslurm_says(), FIRST))
    ours = dataclasses.asdict(accounting_from_sacct(SACCT, FIRST))
    said = {name: value for name, value in theirs.items() if value not in (None, (), {})}
    assert said.pop("source") == "pyslurm"
    steps = said.pop("steps")
    assert said == {name: ours[name] for name in said}
    assert len(said) > 15
    assert steps == tuple({**step, "total_cpu_s": None} for step in ours["steps"])


def test_what_pyslurm_gets_wrong_is_left_out():
    job = accounting_from_pyslurm(pyslurm_says(elapsed_time=None, memory=200), FIRST)
    assert job.elapsed_s == 0.0
    assert (job.suspended_s, job.total_cpu_s, job.memory_bytes) == (None, None, None)


def test_pyslurm_knows_the_last_start_only():
    assert accounting_from_pyslurm(pyslurm_says(), Start("1")) is None
    earlier = Start("1", 0, 1795378551 - 60.0)
    assert accounting_from_pyslurm(pyslurm_says(), earlier) is None
    assert accounting_from_pyslurm(pyslurm_says(start_time=None), FIRST) is None
    assert accounting_from_pyslurm(pyslurm_says(requeue_count=1), FIRST) is None
    assert accounting_from_pyslurm(pyslurm_says(requeue_count=0), FIRST) is not None


def test_pyslurm_finds_the_task_of_an_array():
    text = pyslurm_says(id=3, array_id=2, array_task_id=1)
    assert accounting_from_pyslurm(text, Start("2_1", 0, FIRST.at_s)).job_id == "2_1"
    assert accounting_from_pyslurm(text, Start("3", 0, FIRST.at_s)) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[1]", "not json", '[{"id": 1'])
def test_unreadable_pyslurm_is_absent(text):
    assert accounting_from_pyslurm(text, FIRST) is None


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    """A PATH without Slurm, to which ``stand_in`` adds; no pyslurm."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "bin").mkdir()
    for name in ("sacct", "scontrol", "squeue"):
        stand_in(tmp_path, name, "exit 127")
    return tmp_path


def stand_in(folder, name, script):
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def sacct_that_prints(folder, text):
    (folder / "sacct.txt").write_text(text)
    stand_in(folder, "sacct", f'cat "{folder}/sacct.txt"')


@pytest.fixture
def pyslurm(no_slurm, monkeypatch):
    """Return a function that installs a stand-in for pyslurm made of ``body``."""

    def install(body):
        package = no_slurm / "site" / "pyslurm"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(body)
        monkeypatch.setenv("PYTHONPATH", str(no_slurm / "site"))
        monkeypatch.syspath_prepend(str(no_slurm / "site"))

    return install


STAND_IN_FOR_PYSLURM = f"""
from types import SimpleNamespace as Thing
def load(wanted):
    assert wanted.ids == [1]
    job = {PYSLURM_JOB!r}
    steps = {{s["name"]: Thing(**s, stats=Thing(**s)) for s in job.pop("steps")}}
    return {{1: Thing(**job, steps=steps)}}
db = Thing(JobFilter=Thing, Jobs=Thing(load=load))
print("libslurm talks")
"""


def test_pyslurm_in_a_process_of_its_own(pyslurm):
    pyslurm(STAND_IN_FOR_PYSLURM)
    assert ask_pyslurm(FIRST) == accounting_from_pyslurm(pyslurm_says(), FIRST)
    assert "pyslurm" not in sys.modules


def test_what_pyslurm_does_not_say_is_filled_in_from_sacct(pyslurm, no_slurm):
    pyslurm(STAND_IN_FOR_PYSLURM)
    assert accounting_of(FIRST).filled == {}
    sacct_that_prints(no_slurm, SACCT)
    job = accounting_of(FIRST)
    assert (job.source, job.total_cpu_s, job.billing) == ("pyslurm", 3.057, 2)
    assert job.source_of("elapsed_s") == "pyslurm"
    assert job.source_of("total_cpu_s") == "sacct"
    assert job.source_of("cpu_efficiency_ratio") == "pyslurm+sacct"


@pytest.mark.parametrize(
    "body",
    [
        "import os; os._exit(1)",
        "raise ImportError('undefined symbol: slurm_init')",
        "import sys; sys.stdout.write('\\x00 garbage'); sys.exit(0)",
        "from types import SimpleNamespace as Thing\ndb = Thing()",
    ],
)
def test_a_pyslurm_that_fails_is_passed_over(body, pyslurm, no_slurm):
    pyslurm(body)
    sacct_that_prints(no_slurm, SACCT)
    assert accounting_of(FIRST) == accounting_from_sacct(SACCT, FIRST)


def test_a_pyslurm_that_waits_for_a_slurm_is_given_up(pyslurm):
    pyslurm("import time; time.sleep(60)")
    began = time.monotonic()
    assert ask_pyslurm(FIRST, limit_s=0.5) is None
    assert time.monotonic() - began < 5


# --- all together ---------------------------------------------------------------------------------


def test_a_database_that_lags_is_waited_for(no_slurm):
    lagging = SACCT.replace("5|TIMEOUT", "5|RUNNING")
    (no_slurm / "first").write_text(lagging)
    sacct_that_prints(no_slurm, SACCT)
    stand_in(
        no_slurm,
        "sacct",
        f'cd "{no_slurm}"; cat first 2>/dev/null || cat sacct.txt\n'
        '[ "$1" = --helpformat ] || rm -f first',
    )
    assert accounting_of(Start("5"), settle_s=5).state == "TIMEOUT"


def test_the_controller_is_ahead_of_a_database_that_lags(no_slurm):
    sacct_that_prints(no_slurm, SACCT.replace("5|TIMEOUT", "5|RUNNING"))
    stand_in(no_slurm, "scontrol", f'cat "{RECORDED}/scontrol-22.05.8.txt"')
    job = accounting_of(Start("5"))
    assert (job.source, job.state) == ("scontrol", "TIMEOUT")


EVENTS = """\
{"t": 1795379779400, "node": "mel0001", "event": "job_start", "run_id": "r", "nodes": "mel0001 \
mel0002", "restart": 0}
{"t": 1795379783500, "node": "mel0001", "event": "job_end", "exit_code": 0}
"""


@pytest.fixture
def attempt(tmp_path):
    paths = AttemptPaths(tmp_path / "attempts" / "5")
    paths.attempt.mkdir(parents=True)
    paths.events.write_text(EVENTS)
    return paths


def test_the_sources_in_turn(no_slurm, attempt):
    """From nobody to the database: each better answer replaces the one before, none goes back."""
    own = refresh_accounting(attempt)
    assert (own.source, own.state, own.final, own.settled) == ("attempt", "COMPLETED", True, False)
    assert (own.elapsed_s, own.exit_code, own.nodes, own.restarts) == (4.1, 0, 2, 0)
    assert read_accounting(attempt.accounting) == own

    stand_in(no_slurm, "sacct", "echo 'Problem talking to the database' >&2; exit 1")
    stand_in(no_slurm, "scontrol", f'cat "{RECORDED}/scontrol-22.05.8.txt"')
    controller = refresh_accounting(attempt)
    assert (controller.source, controller.state) == ("scontrol", "TIMEOUT")

    stand_in(no_slurm, "scontrol", "exit 1")
    assert refresh_accounting(attempt) == controller

    sacct_that_prints(no_slurm, SACCT)
    database = refresh_accounting(attempt)
    assert (database.source, database.settled) == ("sacct", True)
    assert database.restarts == 0
    assert database.source_of("restarts") == "attempt"
    assert read_accounting(attempt.accounting) == database

    stand_in(no_slurm, "sacct", "exit 1")
    assert refresh_accounting(attempt) == database


def test_the_script_knows_its_exit_code_where_slurm_does_not(no_slurm, attempt):
    sacct_that_prints(no_slurm, SACCT.replace("5.batch|CANCELLED|0:15", "5.batch|CANCELLED|0:0"))
    job = refresh_accounting(attempt)
    assert (job.state, job.exit_code, job.source_of("exit_code")) == ("TIMEOUT", 0, "attempt")


def test_nothing_is_asked_of_a_run_without_slurm(tmp_path, no_slurm):
    paths = AttemptPaths(tmp_path / "local")
    paths.attempt.mkdir()
    paths.events.write_text(EVENTS)
    assert refresh_accounting(paths) is None


def events(*lines):
    return dataclasses.replace(
        read_events(Path("/nonexistent")),
        events=tuple(parse_event(json.dumps(line)) for line in lines),
    )


START = {"t": 10_400, "node": "n", "event": "job_start", "nodes": "n m"}


def test_an_attempt_that_was_killed_knows_its_start_only():
    own = own_record(events(START), "7", 1)
    assert (own.state, own.final, own.end_s, own.exit_code) == ("UNKNOWN", False, None, None)
    assert (own.restarts, own.nodes, own.is_final("nodes")) == (1, 2, True)
    assert own_record(events(), "7", 1) is None


@pytest.mark.parametrize(
    ("code", "signal", "state"),
    [(0, None, "COMPLETED"), (7, None, "FAILED"), (143, "TERM", "UNKNOWN")],
)
def test_the_script_does_not_know_why_it_was_told_to_end(code, signal, state):
    told = [{"t": 11_000, "node": "n", "event": "signal", "signal": signal}] if signal else []
    end = {"t": 12_900, "node": "n", "event": "job_end", "exit_code": code}
    own = own_record(events(START, *told, end), "7", 0)
    assert (own.state, own.final, own.exit_code, own.elapsed_s) == (state, True, code, 2.5)


def test_the_script_may_have_kept_slurms_variables():
    variables = {
        **{"SLURM_JOB_START_TIME": "9", "SLURM_JOB_END_TIME": "609", "SLURM_JOB_PARTITION": "gpu"},
        **{"SLURM_JOB_CPUS_PER_NODE": "32(x2),8", "SLURM_JOB_QOS": "default"},
    }
    own = own_record(events({**START, "slurm": variables}), "7", 0)
    assert (own.start_s, own.time_limit_s, own.cpus) == (9, 600.0, 72)
    assert (own.partition, own.qos, own.account) == ("gpu", "default", None)


# --- the file and the catalogue -------------------------------------------------------------------


def test_the_file_keeps_everything(tmp_path):
    for job in (
        accounting_from_sacct(SACCT, Start("1")),
        accounting_from_scontrol(SCONTROL, Start("5")),
    ):
        write_accounting(job, tmp_path / "accounting.json")
        assert read_accounting(tmp_path / "accounting.json") == job


def test_the_file_of_an_earlier_version_is_read_and_asked_for_again(tmp_path):
    path = tmp_path / "accounting.json"
    old = {
        **{"schema_version": 1, "job_id": "4", "state": "COMPLETED", "final": True},
        **{"source": "sacct", "exit_code": 0, "elapsed_s": 12.0, "start_s": 5, "end_s": 17},
        **{"max_rss_bytes": None, "total_cpu_s": 3.25},
    }
    path.write_text(json.dumps(old))
    job = read_accounting(path)
    assert (job.elapsed_s, job.submit_s, job.settled) == (12.0, None, False)
    path.write_text(json.dumps({**old, "schema_version": 3}))
    assert read_accounting(path) is None


def test_the_better_answer_is_kept():
    sacct = JobAccounting("4", "COMPLETED", final=True, source="sacct", submit_s=1)
    running = JobAccounting("4", "RUNNING", final=False, source="sacct")
    own = JobAccounting("4", "COMPLETED", final=True, source="attempt")
    assert preferred(None, None) is None
    assert preferred(sacct, None) is preferred(None, sacct) is sacct
    assert preferred(running, sacct) is preferred(sacct, running) is sacct
    assert preferred(running, own) is running
    again = dataclasses.replace(sacct, state="FAILED")
    assert preferred(sacct, again) is again


def test_every_field_of_the_catalogue_is_a_number_of_the_accounting():
    text = (Path(jobmeter_analysis.kpis.__path__[0]) / "15-slurm.yaml").read_text()
    job = accounting_from_sacct(SACCT, Start("1"))
    names = [kpi["field"] for kpi in yaml.safe_load(text)["kpis"].values()]
    assert len(names) == len(set(names))
    for name in names:
        assert isinstance(getattr(job, name), (int, float, type(None))), name
        assert job.source_of(name) == "sacct"
