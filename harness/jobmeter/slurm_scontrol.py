"""What the controller says of one start of a job, through scontrol."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobmeter.accounting import JobAccounting
from jobmeter.slurm_components import together
from jobmeter.slurm_query import SKEW_S, Start, answer
from jobmeter.slurm_words import (
    FINAL_STATES,
    count_from,
    epoch_from,
    exit_from,
    name_from,
    seconds_from,
    state_from,
    tres_from,
)


def scontrol_command(job_id: str) -> tuple[str, ...]:
    """Return the command that asks the controller, which forgets a job minutes after its end."""
    return ("scontrol", "--oneliner", "show", "job", job_id)


def accounting_from_scontrol(stdout: str, wanted: Start) -> JobAccounting | None:
    """Read what ``scontrol_command`` printed; None when the job is now in another start.

    The components of a heterogeneous job are put together.
    """
    jobs = map(words_of, stdout.splitlines())
    parts = [_accounting(job, wanted) for job in jobs if wanted.job_id in _ids(job)]
    known = [part for part in parts if part is not None]
    return together(known, wanted.components) if known else None


def _accounting(job: Mapping[str, str], wanted: Start) -> JobAccounting | None:
    state = state_from(job.get("JobState", ""))
    start_s = epoch_from(job.get("StartTime", ""))
    end_s = epoch_from(job.get("EndTime", ""))
    restarts = count_from(job.get("Restarts", ""))
    if wanted.restart not in (None, restarts) or not wanted.within(start_s, end_s, SKEW_S):
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


def words_of(line: str) -> dict[str, str]:
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


def _ids(job: Mapping[str, str]) -> tuple[str, ...]:
    """Return every name by which sacct or the job itself calls this job."""
    if "ArrayJobId" in job:
        return (f"{job['ArrayJobId']}_{job.get('ArrayTaskId')}",)
    if "HetJobId" in job:
        return (f"{job['HetJobId']}+{job.get('HetJobOffset')}", job["HetJobId"])
    return (job.get("JobId", ""),)


def ask_scontrol(wanted: Start) -> JobAccounting | None:
    """Return what the controller says; None where there is no answer."""
    text = answer(scontrol_command(wanted.job_id))
    return None if text is None else accounting_from_scontrol(text, wanted)
