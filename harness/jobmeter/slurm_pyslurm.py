"""What the accounting database says of one start of a job, through pyslurm if it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from jobmeter.accounting import JobAccounting, StepAccounting
from jobmeter.slurm_query import SKEW_S, Start, answer
from jobmeter.slurm_words import exit_from, name_from, said_last_word, state_from

PYSLURM_LIMIT_S = 5.0
"""Its import retries for a minute where the configuration cannot be found."""


def pyslurm_command(job_id: str) -> tuple[str, ...] | None:
    """Return the command that asks the database through pyslurm; None where that is no use.

    It has no notion of heterogeneous jobs.
    """
    if "+" in job_id or find_spec("pyslurm") is None:
        return None
    # Not -m: that would put the folder in which the user happens to stand before all others.
    start = "import sys; sys.path[:] = filter(None, sys.path); import jobmeter.pyslurm_probe as p"
    return (sys.executable, "-c", f"{start}; p.main()", job_id.partition("_")[0])


def accounting_from_pyslurm(stdout: str, wanted: Start) -> JobAccounting | None:
    """Read what ``jobmeter.pyslurm_probe`` printed; None when it is not about this start.

    Left out because they were found wrong: times suspended, CPU times (milliseconds or whole
    seconds, by version and field), and memory (what was asked for, not what was given). Of the
    starts of a job pyslurm knows the last one only, so without the script's own time it is of no
    use: nothing says which start that was.
    """
    try:
        jobs = json.loads(stdout.strip().rpartition("\n")[2])
        job = next(job for job in jobs if wanted.job_id == _id_of(job))
    except (ValueError, TypeError, AttributeError, StopIteration):
        return None
    start_s, end_s = _integer(job, "start_time"), _integer(job, "end_time")
    state = state_from(str(job.get("state") or ""))
    another = job.get("requeue_count", wanted.restart) != wanted.restart
    too_late = wanted.at_s is None or start_s is None or start_s > wanted.at_s
    if another or too_late or not wanted.within(start_s, end_s, SKEW_S):
        return None
    steps = tuple(_step_from(step) for step in job.get("steps", ()))
    batch: Mapping[str, Any] = next(
        (step for step in job.get("steps", ()) if step.get("name") == "batch"), {}
    )
    code, signal = _exit_of(batch, state_from(str(batch.get("state") or "")))
    if code is None:
        code, signal = _exit_of(job, state)
    elapsed_s, minutes = _integer(job, "elapsed_time"), _integer(job, "time_limit")
    qos = str(job.get("qos") or "")
    return JobAccounting(
        job_id=wanted.job_id,
        state=state,
        final=said_last_word(state, end_s, qos),
        source="pyslurm",
        exit_code=code,
        signal=signal,
        derived_exit_code=_integer(job, "derived_exit_code"),
        submit_s=_integer(job, "submit_time"),
        eligible_s=_integer(job, "eligible_time"),
        start_s=start_s,
        end_s=end_s,
        # It says None where it means 0.
        elapsed_s=float(elapsed_s or 0) if end_s is not None else None,
        time_limit_s=None if minutes is None else minutes * 60.0,
        nodes=_integer(job, "num_nodes") or None,
        node_list=name_from(str(job.get("nodelist") or "")),
        failed_node=name_from(str(job.get("failed_node") or "")),
        cpus=_integer(job, "cpus") or None,
        reason=name_from(str(job.get("state_reason") or "")),
        partition=name_from(str(job.get("partition") or "")),
        qos=name_from(qos),
        account=name_from(str(job.get("account") or "")),
        max_rss_bytes=max((step.max_rss_bytes or 0 for step in steps), default=0) or None,
        steps=steps,
    )


def _id_of(job: Mapping[str, Any]) -> str:
    if isinstance(job.get("array_task_id"), int):
        return f"{job.get('array_id')}_{job['array_task_id']}"
    return str(job.get("id"))


def _exit_of(thing: Mapping[str, Any], state: str) -> tuple[int | None, int | None]:
    code, signal = _integer(thing, "exit_code"), _integer(thing, "exit_code_signal")
    return exit_from(f"{code}:{signal or 0}", state)


def _step_from(step: Mapping[str, Any]) -> StepAccounting:
    state = state_from(str(step.get("state") or ""))
    elapsed_s = _integer(step, "elapsed_time")
    max_rss = _integer(step, "max_resident_memory") or None
    return StepAccounting(
        name=str(step.get("name")),
        state=state,
        exit_code=_exit_of(step, state)[0],
        elapsed_s=None if elapsed_s is None else float(elapsed_s),
        tasks=_integer(step, "ntasks"),
        max_rss_bytes=max_rss,
        max_rss_node=name_from(str(step.get("max_resident_memory_node") or "")),
        max_rss_task=_integer(step, "max_resident_memory_task") if max_rss else None,
    )


def _integer(thing: Mapping[str, Any], name: str) -> int | None:
    value = thing.get(name)
    return value if isinstance(value, int) else None


def ask_pyslurm(wanted: Start, limit_s: float = PYSLURM_LIMIT_S) -> JobAccounting | None:
    """Return what pyslurm says; None where it is not installed, fails or takes too long."""
    command = pyslurm_command(wanted.job_id) if wanted.components == 1 else None
    text = None if command is None else answer(command, limit_s)
    return None if text is None else accounting_from_pyslurm(text, wanted)
