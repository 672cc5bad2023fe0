"""What Slurm says of one start of a job: from its database, its controller, or nobody.

Each source has a command and a reader of what it printed. ``accounting_of`` asks them in turn and
is the only function here that starts anything.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from jobmeter.accounting import FILLABLE, JobAccounting, StepAccounting
from jobmeter.errors import SchedulerError
from jobmeter.process import run
from jobmeter.slurm_words import (
    FINAL_STATES,
    bytes_from,
    count_from,
    epoch_from,
    exit_from,
    measured_seconds_from,
    name_from,
    seconds_from,
    state_from,
    tres_from,
)

# Epoch seconds: local times are ambiguous for an hour each autumn, and wrong on another machine.
# TZ is for a Slurm that ignores the format; those print without a zone.
_ENVIRONMENT = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC"}

PYSLURM_LIMIT_S = 5.0
"""Its import retries for a minute where the configuration cannot be found."""

_SKEW_S = 300
"""Two clocks of a cluster cannot differ by more, or munge refuses to work."""

_JITTER_S = 2
"""How far they differ where they are kept in step, and whole seconds are cut off."""


@dataclass(frozen=True)
class Start:
    """One start of a job.

    Args:
        job_id: ``1234``, ``1234_5`` of an array, ``1234+1`` of a heterogeneous job.
        restart: How often the job had been started before; None means the last start.
        at_s: When the job's script began, by its own clock. It tells the starts of a job apart,
            and the job from another one with the same number: of another cluster, or of this one
            after its numbers began again.
    """

    job_id: str
    restart: int | None = 0
    at_s: float | None = None

    def within(self, start_s: int | None, end_s: int | None, clocks_s: float) -> bool:
        """Whether something that ran in this time can be what we mean, by clocks that differ."""
        if self.at_s is None or start_s is None:
            return True
        ended = end_s is not None and end_s < self.at_s - clocks_s
        return start_s <= self.at_s + clocks_s and not ended


# --- sacct ----------------------------------------------------------------------------------------

_SACCT_FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "DerivedExitCode",
    "Submit",
    "Eligible",
    "Start",
    "End",
    "ElapsedRaw",
    "Suspended",
    "TimelimitRaw",
    "AllocCPUS",
    "AllocNodes",
    "AllocTRES",
    "NodeList",
    "Partition",
    "QOS",
    "Account",
    "Reason",
    "NTasks",
    "UserCPU",
    "SystemCPU",
    "TotalCPU",
    "MaxRSS",
    "MaxRSSNode",
    "MaxRSSTask",
    "ConsumedEnergyRaw",
    "Restarts",
    "FailedNode",
)


def sacct_fields(helpformat: str) -> tuple[str, ...]:
    """Return those of our fields that this sacct has; it prints nothing at all for one it has not.

    Args:
        helpformat: What ``sacct --helpformat`` printed.
    """
    known = frozenset(helpformat.split())
    return tuple(name for name in _SACCT_FIELDS if name in known) or _SACCT_FIELDS


def sacct_command(job_id: str, names: Sequence[str] = _SACCT_FIELDS) -> tuple[str, ...]:
    """Return the command that asks for the accounting of one job, its restarts and its steps."""
    return (
        *("sacct", "--parsable2", "--noconvert", "--duplicates"),
        *(f"--jobs={job_id}", f"--format={','.join(names)}"),
    )


@dataclass(frozen=True)
class _Record:
    """One start of a job, as sacct prints it: its own row and those of its steps."""

    job: Mapping[str, str]
    steps: tuple[Mapping[str, str], ...]

    @property
    def start_s(self) -> int | None:
        return epoch_from(self.job.get("Start", ""))

    @property
    def end_s(self) -> int | None:
        return epoch_from(self.job.get("End", ""))


def accounting_from_sacct(stdout: str, wanted: Start) -> JobAccounting | None:
    """Read what ``sacct_command`` printed; None when it does not know this start of the job.

    Args:
        stdout: A line with the names of the fields, and one of ``|``-separated values for each
            start of the job and each of its steps.
        wanted: Of a heterogeneous job without a component the first component is read: the one
            in which the script runs.
    """
    record = _chosen(_records(stdout, wanted.job_id), wanted)
    if record is None:
        return None
    job = record.job
    state = state_from(job.get("State", ""))
    code, signal = _exit_of(record, state)
    steps = tuple(_step_from(row) for row in record.steps)
    tres = tres_from(job.get("AllocTRES", ""))
    minutes = count_from(job.get("TimelimitRaw", ""))
    elapsed_s = count_from(job.get("ElapsedRaw", ""))
    return JobAccounting(
        job_id=wanted.job_id,
        state=state,
        final=_is_final(state, record.end_s, job.get("QOS", "")),
        source="sacct",
        exit_code=code,
        signal=signal,
        derived_exit_code=exit_from(job.get("DerivedExitCode", ""), "COMPLETED")[0],
        submit_s=epoch_from(job.get("Submit", "")),
        eligible_s=epoch_from(job.get("Eligible", "")),
        start_s=record.start_s,
        end_s=record.end_s,
        elapsed_s=None if elapsed_s is None else float(elapsed_s),
        suspended_s=seconds_from(job.get("Suspended", "")),
        time_limit_s=None if minutes is None else minutes * 60.0,
        restarts=count_from(job.get("Restarts", "")),
        nodes=tres.get("node") or count_from(job.get("AllocNodes", "")) or None,
        node_list=name_from(job.get("NodeList", "")),
        failed_node=name_from(job.get("FailedNode", "")),
        cpus=tres.get("cpu") or count_from(job.get("AllocCPUS", "")) or None,
        alloc_tres={name: n for name, n in tres.items() if name != "energy"},
        reason=name_from(job.get("Reason", "")),
        partition=name_from(job.get("Partition", "")),
        qos=name_from(job.get("QOS", "")),
        account=name_from(job.get("Account", "")),
        user_cpu_s=_part_of_cpu(job, "UserCPU"),
        system_cpu_s=_part_of_cpu(job, "SystemCPU"),
        total_cpu_s=measured_seconds_from(job.get("TotalCPU", "")),
        max_rss_bytes=max((step.max_rss_bytes or 0 for step in steps), default=0) or None,
        # Without a plugin it is 0, empty or -2, by version.
        consumed_energy_joules=count_from(job.get("ConsumedEnergyRaw", "")) or None,
        steps=steps,
    )


def _records(stdout: str, job_id: str) -> list[_Record]:
    """Return every start of the job, oldest first."""
    lines = [line.split("|") for line in stdout.splitlines() if "|" in line]
    header = next((number for number, names in enumerate(lines) if names[0] == "JobID"), None)
    if header is None:
        return []
    names = lines[header]
    rows = [
        dict(zip(names, values, strict=True))
        for values in lines[header + 1 :]
        if len(values) == len(names)
    ]
    starts = [n for n, row in enumerate(rows) if row["JobID"] in (job_id, f"{job_id}+0")]
    return [
        _Record(
            job=rows[start],
            steps=tuple(
                row
                for row in rows[start + 1 : following]
                if row["JobID"].startswith(f"{rows[start]['JobID']}.")
            ),
        )
        for start, following in zip(starts, [*starts[1:], None], strict=False)
    ]


def _chosen(records: Sequence[_Record], wanted: Start) -> _Record | None:
    """Return the start that the count says, unless the time of the script contradicts."""
    if wanted.restart is None:
        counted = records[-1] if records else None
    else:
        numbered = [r for r in records if r.job.get("Restarts") == str(wanted.restart)]
        there = numbered or records[wanted.restart : wanted.restart + 1]
        counted = there[-1] if there else None
    if wanted.at_s is None:
        return counted
    if counted is not None and wanted.within(counted.start_s, counted.end_s, _JITTER_S):
        return counted
    # Old records may have been purged, and numbers used again: the latest start before the script.
    near = [r for r in records if wanted.within(r.start_s, r.end_s, _SKEW_S)]
    begun = [r for r in near if r.start_s is not None and r.start_s <= wanted.at_s + _JITTER_S]
    return begun[-1] if begun else next(iter(near), None)


def _is_final(state: str, end_s: int | None, qos: str) -> bool:
    """Whether the database has said its last word on one start.

    For seconds after a job's end it may know a part of it only, with a state that is wrong; it
    then calls the QOS Unknown. A start that was requeued stays REQUEUED, the next one is another.
    """
    return state in FINAL_STATES | {"REQUEUED"} and end_s is not None and qos != "Unknown"


def _exit_of(record: _Record, state: str) -> tuple[int | None, int | None]:
    """Return exit code and signal of the batch script; its step knows better than the job.

    The job's own is 0:0 also after a TIMEOUT or a scancel.
    """
    for step in record.steps:
        if step["JobID"].endswith(".batch"):
            code, signal = exit_from(step.get("ExitCode", ""), state_from(step.get("State", "")))
            if code is not None:
                return code, signal
    return exit_from(record.job.get("ExitCode", ""), state)


def _part_of_cpu(job: Mapping[str, str], name: str) -> float | None:
    """Return user or system time, of which one alone may well be zero."""
    measured = measured_seconds_from(job.get("TotalCPU", "")) is not None
    return seconds_from(job.get(name, "")) if measured else None


def _step_from(row: Mapping[str, str]) -> StepAccounting:
    state = state_from(row.get("State", ""))
    elapsed_s = count_from(row.get("ElapsedRaw", ""))
    max_rss = bytes_from(row.get("MaxRSS", "")) or None
    return StepAccounting(
        name=row["JobID"].partition(".")[2],
        state=state,
        exit_code=exit_from(row.get("ExitCode", ""), state)[0],
        elapsed_s=None if elapsed_s is None else float(elapsed_s),
        tasks=count_from(row.get("NTasks", "")),
        total_cpu_s=measured_seconds_from(row.get("TotalCPU", "")),
        max_rss_bytes=max_rss,
        max_rss_node=name_from(row.get("MaxRSSNode", "")) if max_rss else None,
        max_rss_task=count_from(row.get("MaxRSSTask", "")) if max_rss else None,
    )


# --- scontrol -------------------------------------------------------------------------------------


def scontrol_command(job_id: str) -> tuple[str, ...]:
    """Return the command that asks the controller, which forgets a job minutes after its end."""
    return ("scontrol", "--oneliner", "show", "job", job_id)


def accounting_from_scontrol(stdout: str, wanted: Start) -> JobAccounting | None:
    """Read what ``scontrol_command`` printed; None when the job is now in another start."""
    jobs = map(_scontrol_words, stdout.splitlines())
    job = next((job for job in jobs if wanted.job_id in _scontrol_ids(job)), None)
    if job is None:
        return None
    state = state_from(job.get("JobState", ""))
    start_s = epoch_from(job.get("StartTime", ""))
    end_s = epoch_from(job.get("EndTime", ""))
    restarts = count_from(job.get("Restarts", ""))
    if wanted.restart not in (None, restarts) or not wanted.within(start_s, end_s, _SKEW_S):
        return None
    final = state in FINAL_STATES and end_s is not None
    code, signal = exit_from(job.get("ExitCode", ""), state)
    # 22.05 calls it TRES, and later ones AllocTRES; it is what was asked for until the start.
    tres = tres_from(job.get("AllocTRES", job.get("TRES", "")))
    began = final or state in ("RUNNING", "COMPLETING", "SUSPENDED")
    return JobAccounting(
        job_id=wanted.job_id,
        state=state,
        final=final,
        source="scontrol",
        exit_code=code if final else None,
        signal=signal if final else None,
        submit_s=epoch_from(job.get("SubmitTime", "")),
        eligible_s=epoch_from(job.get("EligibleTime", "")),
        # Of a job that waits it is a forecast; the end of one that runs is its time limit.
        start_s=start_s if began else None,
        end_s=end_s if final else None,
        elapsed_s=seconds_from(job.get("RunTime", "")) if began else None,
        time_limit_s=seconds_from(job.get("TimeLimit", "")),
        restarts=restarts,
        nodes=count_from(job.get("NumNodes", "")) if began else None,
        node_list=name_from(job.get("NodeList", "")),
        cpus=(tres.get("cpu") or count_from(job.get("NumCPUs", ""))) if began else None,
        alloc_tres={name: n for name, n in tres.items() if name != "energy"} if began else {},
        reason=name_from(job.get("Reason", "")),
        partition=name_from(job.get("Partition", "")),
        qos=name_from(job.get("QOS", "")),
        account=name_from(job.get("Account", "")),
    )


def _scontrol_words(line: str) -> dict[str, str]:
    """Return the ``Name=value`` words of one line; of a name that is there twice, the first.

    A job's name may hold anything and stands first, so it is taken out; what may hold anything
    else (command, comment) stands behind all that we read.
    """
    line = re.sub(r" JobName=.*?(?= UserId=)", "", line, count=1)
    words: dict[str, str] = {}
    for word in line.split():
        name, _, value = word.partition("=")
        words.setdefault(name, value)
    return words


def _scontrol_ids(job: Mapping[str, str]) -> tuple[str, ...]:
    """Return every name by which sacct or the job itself calls this job."""
    if "ArrayJobId" in job:
        return (f"{job['ArrayJobId']}_{job.get('ArrayTaskId')}",)
    if "HetJobId" in job:
        first = (job["HetJobId"],) if job.get("HetJobOffset") == "0" else ()
        return (f"{job['HetJobId']}+{job.get('HetJobOffset')}", *first)
    return (job.get("JobId", ""),)


# --- pyslurm --------------------------------------------------------------------------------------


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
        job = next(job for job in jobs if wanted.job_id == _pyslurm_id(job))
    except (ValueError, TypeError, AttributeError, StopIteration):
        return None
    start_s, end_s = _integer(job, "start_time"), _integer(job, "end_time")
    state = state_from(str(job.get("state") or ""))
    another = job.get("requeue_count", wanted.restart) != wanted.restart
    too_late = wanted.at_s is None or start_s is None or start_s > wanted.at_s
    if another or too_late or not wanted.within(start_s, end_s, _SKEW_S):
        return None
    steps = tuple(_pyslurm_step(step) for step in job.get("steps", ()))
    batch: Mapping[str, Any] = next(
        (step for step in job.get("steps", ()) if step.get("name") == "batch"), {}
    )
    code, signal = _pyslurm_exit(batch, state_from(str(batch.get("state") or "")))
    if code is None:
        code, signal = _pyslurm_exit(job, state)
    elapsed_s, minutes = _integer(job, "elapsed_time"), _integer(job, "time_limit")
    qos = str(job.get("qos") or "")
    return JobAccounting(
        job_id=wanted.job_id,
        state=state,
        final=_is_final(state, end_s, qos),
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


def _pyslurm_id(job: Mapping[str, Any]) -> str:
    if isinstance(job.get("array_task_id"), int):
        return f"{job.get('array_id')}_{job['array_task_id']}"
    return str(job.get("id"))


def _pyslurm_exit(thing: Mapping[str, Any], state: str) -> tuple[int | None, int | None]:
    code, signal = _integer(thing, "exit_code"), _integer(thing, "exit_code_signal")
    return exit_from(f"{code}:{signal or 0}", state)


def _pyslurm_step(step: Mapping[str, Any]) -> StepAccounting:
    state = state_from(str(step.get("state") or ""))
    elapsed_s = _integer(step, "elapsed_time")
    max_rss = _integer(step, "max_resident_memory") or None
    return StepAccounting(
        name=str(step.get("name")),
        state=state,
        exit_code=_pyslurm_exit(step, state)[0],
        elapsed_s=None if elapsed_s is None else float(elapsed_s),
        tasks=_integer(step, "ntasks"),
        max_rss_bytes=max_rss,
        max_rss_node=name_from(str(step.get("max_resident_memory_node") or "")),
        max_rss_task=_integer(step, "max_resident_memory_task") if max_rss else None,
    )


def _integer(thing: Mapping[str, Any], name: str) -> int | None:
    value = thing.get(name)
    return value if isinstance(value, int) else None


# --- all together ---------------------------------------------------------------------------------


def ask_sacct(wanted: Start) -> JobAccounting | None:
    """Return what the accounting database says; None where there is no answer."""
    try:
        names = sacct_fields(run(("sacct", "--helpformat"), error=SchedulerError))
        text = run(
            sacct_command(wanted.job_id, names), environment=_ENVIRONMENT, error=SchedulerError
        )
    except SchedulerError:
        return None
    return accounting_from_sacct(text, wanted)


def ask_scontrol(wanted: Start) -> JobAccounting | None:
    """Return what the controller says; None where there is no answer."""
    try:
        text = run(scontrol_command(wanted.job_id), environment=_ENVIRONMENT, error=SchedulerError)
    except SchedulerError:
        return None
    return accounting_from_scontrol(text, wanted)


def ask_pyslurm(wanted: Start, limit_s: float = PYSLURM_LIMIT_S) -> JobAccounting | None:
    """Return what pyslurm says; None where it is not installed, fails or takes too long."""
    command = pyslurm_command(wanted.job_id)
    if command is None:
        return None
    try:
        text = run(command, timeout_s=limit_s, environment=_ENVIRONMENT, error=SchedulerError)
    except SchedulerError:
        return None
    return accounting_from_pyslurm(text, wanted)


def accounting_of(wanted: Start, settle_s: float = 0.0) -> JobAccounting | None:
    """Return what Slurm says of one start of a job; None where nobody answers.

    The database, through pyslurm or sacct, knows all; it is seconds behind the controller. What
    pyslurm does not say is filled in from sacct.

    Args:
        wanted: Which.
        settle_s: How long to wait for a final answer of the database, of a job that has ended.
    """
    ask_database, said = _database(wanted)
    deadline = time.monotonic() + settle_s
    while said is not None and not _all_ended(said) and time.monotonic() < deadline:
        time.sleep(0.5)
        said = ask_database(wanted) or said
    if said is not None and said.source == "pyslurm":
        said = said.filled_from(_if_as_final(ask_sacct(wanted), said), *FILLABLE)
    if said is not None and said.final:
        return said
    # It answers where the database does not, and is ahead of it where both do.
    return ask_scontrol(wanted) or said


def _database(
    wanted: Start,
) -> tuple[Callable[[Start], JobAccounting | None], JobAccounting | None]:
    """Return the way to the database that works, and the first answer."""
    said = ask_pyslurm(wanted)
    return (ask_pyslurm, said) if said is not None else (ask_sacct, ask_sacct(wanted))


def _all_ended(said: JobAccounting) -> bool:
    """Whether no step lags behind its job."""
    return said.final and all(step.state != "RUNNING" for step in said.steps)


def _if_as_final(other: JobAccounting | None, said: JobAccounting) -> JobAccounting | None:
    return other if other is not None and other.final >= said.final else None
