"""What an attempt itself recorded of its job: the source that is there when no Slurm answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jobmeter.accounting import JobAccounting
from jobmeter.events import EventLog
from jobmeter.slurm_words import count_from, epoch_from, name_from

OWN_WORD = ("exit_code", "restarts", "nodes", "cpus")
"""What it knows as well as Slurm does, to be filled in where Slurm does not say."""


_CPUS = "SLURM_JOB_CPUS_PER_NODE"
"""Of a heterogeneous job the number of a group follows."""


def started_s(log: EventLog) -> float | None:
    """Return when the job script began, seconds since the epoch."""
    starts = log.named("job_start")
    return starts[0].time_ms / 1000 if starts else None


def own_record(log: EventLog, job_id: str, restart: int) -> JobAccounting | None:
    """Return what the script saw of its own job; None when it never began.

    The script starts a little after the job and ends a little before it. A script that was told
    to end does not know why, so the state is then UNKNOWN.
    """
    starts, ends = log.named("job_start"), log.named("job_end")
    if not starts:
        return None
    start = starts[0]
    variables = start.fields.get("slurm")
    said = _from_environment(variables if isinstance(variables, Mapping) else {})
    nodes = str(start.fields.get("nodes", "")).split()
    whole = start.fields.get("kind", "job") == "job"
    signals = [str(event.fields.get("signal")) for event in log.named("signal")]
    record = replace(
        said,
        job_id=job_id,
        start_s=said.start_s or (start.time_ms // 1000 if whole else None),
        restarts=restart,
        nodes=len(nodes) or None,
        node_list=",".join(nodes) or None,
        reason=f"signal {signals[-1]}" if signals else None,
    )
    if not ends or not whole:
        return record  # the end of a recording that was attached is not the end of the job
    code = ends[-1].fields.get("exit_code")
    told = "UNKNOWN" if signals else "FAILED"
    return replace(
        record,
        state="COMPLETED" if code == 0 else told,
        final=True,
        exit_code=code if isinstance(code, int) else None,
        end_s=ends[-1].time_ms // 1000,
        elapsed_s=(ends[-1].time_ms - start.time_ms) / 1000,
    )


def _from_environment(variables: Mapping[str, object]) -> JobAccounting:
    """Read Slurm's variables as far as the script kept them, by their names."""
    text = {name: str(value) for name, value in variables.items()}
    start_s = epoch_from(text.get("SLURM_JOB_START_TIME", ""))
    limit_s = epoch_from(text.get("SLURM_JOB_END_TIME", ""))
    return JobAccounting(
        job_id="",
        state="UNKNOWN",
        final=False,
        source="attempt",
        start_s=start_s,
        time_limit_s=float(limit_s - start_s) if start_s and limit_s else None,
        cpus=_cpus_from(",".join(v for name, v in text.items() if name.startswith(_CPUS))),
        partition=name_from(text.get("SLURM_JOB_PARTITION", "")),
        qos=name_from(text.get("SLURM_JOB_QOS", "")),
        account=name_from(text.get("SLURM_JOB_ACCOUNT", "")),
    )


def _cpus_from(text: str) -> int | None:
    """Return the sum of ``SLURM_JOB_CPUS_PER_NODE``; None when unreadable.

    >>> _cpus_from("32(x2),8"), _cpus_from("4"), _cpus_from("")
    (72, 4, None)
    """
    total = 0
    for part in text.split(","):
        cpus, _, times = part.rstrip(")").partition("(x")
        each, nodes = count_from(cpus), count_from(times or "1")
        if each is None or nodes is None:
            return None
        total += each * nodes
    return total
