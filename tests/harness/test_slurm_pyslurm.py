"""What pyslurm said of a job, read, and a stand-in for it asked in a process of its own."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import pytest

from jobmeter.slurm_accounting import accounting_of
from jobmeter.slurm_pyslurm import accounting_from_pyslurm, ask_pyslurm
from jobmeter.slurm_query import Start
from jobmeter.slurm_sacct import accounting_from_sacct

SACCT = (Path(__file__).parents[1] / "fixtures" / "slurm" / "sacct-22.05.8.txt").read_text()

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
def pyslurm(stand_in, tmp_path, monkeypatch):
    """Return a function that installs a stand-in for pyslurm made of ``body``."""

    def install(body):
        package = tmp_path / "site" / "pyslurm"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(body)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

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


def test_what_pyslurm_does_not_say_is_filled_in_from_sacct(pyslurm, sacct_prints):
    pyslurm(STAND_IN_FOR_PYSLURM)
    assert accounting_of(FIRST).filled == {}
    sacct_prints(SACCT)
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
def test_a_pyslurm_that_fails_is_passed_over(body, pyslurm, sacct_prints):
    pyslurm(body)
    sacct_prints(SACCT)
    assert accounting_of(FIRST) == accounting_from_sacct(SACCT, FIRST)


def test_a_pyslurm_that_waits_for_a_slurm_is_given_up(pyslurm):
    pyslurm("import time; time.sleep(60)")
    began = time.monotonic()
    assert ask_pyslurm(FIRST, limit_s=0.5) is None
    assert time.monotonic() - began < 5
