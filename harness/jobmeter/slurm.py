"""Slurm's commands in pairs: one function builds the command, one reads what it printed.

Only ``submit``, ``job_state`` and ``follow`` start anything, all of them through
``jobmeter.process``. What Slurm says of a job that has run is in ``jobmeter.slurm_accounting``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from jobmeter.errors import SchedulerError
from jobmeter.process import run
from jobmeter.slurm_query import Start
from jobmeter.slurm_sacct import ask_sacct
from jobmeter.slurm_words import FINAL_STATES, state_from


def submit_command(script: Path) -> tuple[str, ...]:
    """Return the command that submits ``script``."""
    return ("sbatch", "--parsable", str(script))


def test_command(script: Path) -> tuple[str, ...]:
    """Return the command that asks whether ``script`` would be accepted, and submits nothing."""
    return ("sbatch", "--test-only", str(script))


def job_id_from(stdout: str) -> str:
    r"""Return the job id from what ``sbatch --parsable`` printed.

    >>> job_id_from("1234;cluster\\n")
    '1234'
    """
    match = re.fullmatch(r"(?P<id>\d+)(;\S*)?", stdout.strip())
    if match is None:
        raise SchedulerError(f"sbatch did not print a job id but {stdout!r}")
    return match["id"]


def state_command(job_id: str) -> tuple[str, ...]:
    """Return the command that asks the controller for one job's state."""
    return ("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T")


def states_from(stdout: str) -> tuple[str, ...]:
    r"""Return the state of every task or component that ``state_command`` has printed.

    >>> states_from("COMPLETED\nRUNNING\n"), states_from("")
    (('COMPLETED', 'RUNNING'), ())
    """
    return tuple(state_from(line) for line in stdout.splitlines() if line.strip())


def submit(script: Path) -> str:
    """Submit ``script`` and return the job id.

    Raises:
        SchedulerError: sbatch is missing or refused; its own words are in the message.
    """
    return job_id_from(run(submit_command(script), error=SchedulerError))


def job_state(job_id: str) -> str | None:
    """Return the state of one job: from the controller while it remembers, else from accounting.

    Of several tasks or components it is that of one which is not at its end, if there is one.
    None when neither answers just now.
    """
    try:
        states = states_from(run(state_command(job_id), error=SchedulerError))
    except SchedulerError:
        states = ()  # the controller forgets a job minutes after its end, and may be busy
    if states:
        return next((state for state in states if state not in FINAL_STATES), states[0])
    accounting = ask_sacct(Start(job_id, restart=None))
    return accounting.state if accounting is not None else None


def follow(job_id: str, give_up_after_s: float = 300.0) -> Iterator[str]:
    """Yield each new state of a job until a final one.

    Asks every second at first, and less and less often up to every ten seconds.

    Raises:
        SchedulerError: Slurm has not answered for ``give_up_after_s``.
    """
    last = ""
    pause_s = 1.0
    silent_since: float | None = None
    while last not in FINAL_STATES:
        state = job_state(job_id)
        if state is None:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > give_up_after_s:
                raise SchedulerError(
                    f"Slurm says nothing of job {job_id} for {give_up_after_s:g} s; "
                    "see 'squeue' and 'sacct', and analyse the run later"
                )
        elif state != last:
            silent_since = None
            yield state
            last, pause_s = state, 1.0
            continue
        time.sleep(pause_s)
        pause_s = min(10.0, pause_s * 1.3)
