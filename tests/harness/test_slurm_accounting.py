"""Who is asked of a job that ran, whose answer counts, and what is kept of it.

The commands are stand-ins; the real ones are in tests/e2e.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

import jobmeter_analysis.kpis
from jobmeter.accounting import JobAccounting, preferred, read_accounting, write_accounting
from jobmeter.events import parse_event, read_events
from jobmeter.own_record import own_record
from jobmeter.paths import AttemptPaths
from jobmeter.slurm_accounting import accounting_of, refresh_accounting
from jobmeter.slurm_query import Start, job_and_restart
from jobmeter.slurm_sacct import accounting_from_sacct
from jobmeter.slurm_scontrol import accounting_from_scontrol

RECORDED = Path(__file__).parents[1] / "fixtures" / "slurm"
SACCT = (RECORDED / "sacct-22.05.8.txt").read_text()
SCONTROL = (RECORDED / "scontrol-22.05.8.txt").read_text()


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


def test_a_database_that_lags_is_waited_for(stand_in, sacct_prints, tmp_path):
    lagging = SACCT.replace("5|TIMEOUT", "5|RUNNING")
    (tmp_path / "first").write_text(lagging)
    sacct_prints(SACCT)
    stand_in(
        "sacct",
        f'cd "{tmp_path}"; cat first 2>/dev/null || cat sacct.txt\n'
        '[ "$1" = --helpformat ] || rm -f first',
    )
    assert accounting_of(Start("5"), settle_s=5).state == "TIMEOUT"


def test_a_step_that_lags_behind_its_job_leaves_open_what_is_said_of_it(
    sacct_prints, stand_in, attempt
):
    """The batch step of a job that was killed ends up to a second after the job."""
    stand_in("scontrol", "exit 1")
    (batch,) = (line for line in SACCT.splitlines() if line.startswith("5.batch"))
    running = batch.replace("CANCELLED|0:15", "RUNNING|0:0").replace("1795379809", "Unknown")
    attempt.events.write_text(EVENTS.replace(', "exit_code": 0', ""))
    sacct_prints(SACCT.replace(batch, running))
    first = refresh_accounting(attempt)
    assert (first.state, first.final, first.settled) == ("TIMEOUT", True, False)
    open_yet = ("exit_code", "total_cpu_s", "cpu_efficiency_ratio", "max_rss_bytes")
    assert [name for name in open_yet if first.is_final(name)] == []
    assert first.is_final("elapsed_s")
    sacct_prints(SACCT)
    then = refresh_accounting(attempt)
    assert (then.settled, then.exit_code) == (True, 143)
    assert all(map(then.is_final, open_yet))


def test_the_controller_is_ahead_of_a_database_that_lags(stand_in, sacct_prints):
    sacct_prints(SACCT.replace("5|TIMEOUT", "5|RUNNING"))
    stand_in("scontrol", f'cat "{RECORDED}/scontrol-22.05.8.txt"')
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


def test_the_sources_in_turn(stand_in, sacct_prints, attempt):
    """From nobody to the database: each better answer replaces the one before, none goes back."""
    own = refresh_accounting(attempt)
    assert (own.source, own.state, own.final, own.settled) == ("attempt", "COMPLETED", True, False)
    assert (own.elapsed_s, own.exit_code, own.nodes, own.restarts) == (4.1, 0, 2, 0)
    assert read_accounting(attempt.accounting) == own

    stand_in("sacct", "echo 'Problem talking to the database' >&2; exit 1")
    stand_in("scontrol", f'cat "{RECORDED}/scontrol-22.05.8.txt"')
    controller = refresh_accounting(attempt)
    assert (controller.source, controller.state) == ("scontrol", "TIMEOUT")

    stand_in("scontrol", "exit 1")
    assert refresh_accounting(attempt) == controller

    sacct_prints(SACCT)
    database = refresh_accounting(attempt)
    assert (database.source, database.settled) == ("sacct", True)
    assert database.restarts == 0
    assert database.source_of("restarts") == "attempt"
    assert read_accounting(attempt.accounting) == database

    stand_in("sacct", "exit 1")
    assert refresh_accounting(attempt) == database


def test_the_script_knows_its_exit_code_where_slurm_does_not(sacct_prints, attempt):
    sacct_prints(SACCT.replace("5.batch|CANCELLED|0:15", "5.batch|CANCELLED|0:0"))
    job = refresh_accounting(attempt)
    assert (job.state, job.exit_code, job.source_of("exit_code")) == ("TIMEOUT", 0, "attempt")


def test_nothing_is_asked_of_a_run_without_slurm(tmp_path, stand_in):
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
