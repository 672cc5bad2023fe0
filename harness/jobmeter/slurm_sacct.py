"""What the accounting database says of one start of a job, through sacct."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobmeter.accounting import JobAccounting, StepAccounting
from jobmeter.slurm_components import together
from jobmeter.slurm_query import JITTER_S, SKEW_S, Start, answer
from jobmeter.slurm_words import (
    bytes_from,
    count_from,
    epoch_from,
    exit_from,
    measured_seconds_from,
    name_from,
    said_last_word,
    seconds_from,
    state_from,
    tres_from,
)

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
        wanted: Of a heterogeneous job without a component all of them are put together.
    """
    rows = _rows(stdout)
    first = _chosen(_records(rows, wanted.job_id), wanted)
    if first is None:
        return None
    others = (_chosen(_records(rows, name), wanted) for name in _components(rows, wanted.job_id))
    records = (first, *(record for record in others if record is not None))
    return together([_accounting(one, wanted.job_id) for one in records], wanted.components)


def _accounting(record: _Record, job_id: str) -> JobAccounting:
    job = record.job
    state = state_from(job.get("State", ""))
    code, signal = _exit_of(record, state)
    steps = tuple(_step_from(row) for row in record.steps)
    tres = tres_from(job.get("AllocTRES", ""))
    minutes = count_from(job.get("TimelimitRaw", ""))
    elapsed_s = count_from(job.get("ElapsedRaw", ""))
    return JobAccounting(
        job_id=job_id,
        state=state,
        final=said_last_word(state, record.end_s, job.get("QOS", "")),
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


def _rows(stdout: str) -> list[dict[str, str]]:
    """Return what was printed by the names of the fields."""
    lines = [line.split("|") for line in stdout.splitlines() if "|" in line]
    header = next((number for number, names in enumerate(lines) if names[0] == "JobID"), None)
    if header is None:
        return []
    names = lines[header]
    return [
        dict(zip(names, values, strict=True))
        for values in lines[header + 1 :]
        if len(values) == len(names)
    ]


def _components(rows: Sequence[Mapping[str, str]], job_id: str) -> list[str]:
    """Return the components of a heterogeneous job, in order, but for the first."""
    starts = (re.fullmatch(rf"{re.escape(job_id)}\+(\d+)", row["JobID"]) for row in rows)
    numbers = {int(start[1]) for start in starts if start}
    return [f"{job_id}+{number}" for number in sorted(numbers - {0})]


def _records(rows: Sequence[Mapping[str, str]], job_id: str) -> list[_Record]:
    """Return every start of a job or of a component, oldest first."""
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
    if counted is not None and wanted.within(counted.start_s, counted.end_s, JITTER_S):
        return counted
    # Old records may have been purged, and numbers used again: the latest start before the script.
    near = [r for r in records if wanted.within(r.start_s, r.end_s, SKEW_S)]
    begun = [r for r in near if r.start_s is not None and r.start_s <= wanted.at_s + JITTER_S]
    return begun[-1] if begun else next(iter(near), None)


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


def ask_sacct(wanted: Start) -> JobAccounting | None:
    """Return what the accounting database says; None where there is no answer."""
    helpformat = answer(("sacct", "--helpformat"))
    if helpformat is None:
        return None
    text = answer(sacct_command(wanted.job_id, sacct_fields(helpformat)))
    return None if text is None else accounting_from_sacct(text, wanted)
