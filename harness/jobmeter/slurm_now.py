"""What Slurm says of a job right now: where it waits or runs, and how long it still may.

The queue knows what is not over; the accounting of an attempt says the rest. None of it is
required: without an answer nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jobmeter.accounting import JobAccounting, read_accounting
from jobmeter.events import read_events
from jobmeter.own_record import started_s
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.process import find_program
from jobmeter.slurm_accounting import accounting_of
from jobmeter.slurm_query import JITTER_S, Start, answer, job_and_restart
from jobmeter.slurm_words import FINAL_STATES, epoch_from, name_from, seconds_from, state_from
from jobmeter.submission import read_submission


@dataclass(frozen=True)
class JobNow:
    """One job, array task or component as Slurm knows it now.

    Args:
        job_id: As Slurm prints it; several waiting tasks of an array are one, ``12_[4-9]``.
        state: Slurm's word without its decorations.
        final: Whether it is over.
        source: Who said so: ``squeue``, ``sacct``, ``pyslurm``, ``scontrol``.
        reason: Slurm's word for why it waits or ended.
        node_list: Its nodes in Slurm's notation.
        time_left_s: Until its time limit; None without one, or when it does not run.
        start_s: When it started; of one that waits when Slurm expects it to, seconds since the
            epoch.
    """

    job_id: str
    state: str
    final: bool
    source: str
    reason: str | None = None
    node_list: str | None = None
    time_left_s: float | None = None
    start_s: int | None = None


def queue_command(job_id: str) -> tuple[str, ...]:
    """Return the command that asks for a job with all its tasks and components."""
    return (
        *("squeue", "--noheader", "--states=all", f"--jobs={job_id}"),
        "--format=%i|%T|%r|%N|%L|%S",
    )


def queue_from(stdout: str) -> tuple[JobNow, ...]:
    r"""Return what ``queue_command`` printed.

    >>> (job,) = queue_from("7|PENDING|Resources||5:00|N/A\n")
    >>> job.state, job.reason, job.node_list, job.time_left_s
    ('PENDING', 'Resources', None, None)
    """
    jobs = []
    for line in stdout.splitlines():
        words = line.strip().split("|")
        if len(words) != 6:
            continue
        job_id, word, reason, nodes, left, start = words
        state = state_from(word)
        runs = state in ("RUNNING", "COMPLETING", "SUSPENDED")
        jobs.append(
            JobNow(
                job_id=job_id,
                state=state,
                final=state in FINAL_STATES,
                source="squeue",
                reason=name_from(reason),
                node_list=name_from(nodes),
                time_left_s=seconds_from(left) if runs else None,
                start_s=epoch_from(start),
            )
        )
    return tuple(jobs)


@dataclass(frozen=True)
class SlurmNow:
    """What Slurm says of a run.

    Args:
        jobs: All that it knows of the run's job.
        attempts: By name of an attempt, what it says of that one.
        why_not: Why nothing is said; empty where something is.
    """

    jobs: tuple[JobNow, ...]
    attempts: dict[str, JobNow]
    why_not: str = ""

    def over(self, attempt: str) -> bool | None:
        """Whether the job of an attempt is over; None where Slurm does not say."""
        said = self.attempts.get(attempt)
        return said.final if said is not None else None


def slurm_now(run: RunPaths, attempts: Sequence[AttemptPaths]) -> SlurmNow:
    """Ask Slurm about a run and its attempts; nothing is written."""
    starts = {one.name: job_and_restart(one.name) for one in attempts}
    submitted = read_submission(run.submission)
    known = [*(start[0] for start in starts.values() if start), *([submitted] if submitted else [])]
    if not known:
        local = bool(attempts)
        return SlurmNow((), {}, "" if local else "no job id: it was not submitted by jobmeter")
    if find_program(["squeue"]) is None:
        return SlurmNow((), {}, "squeue is not on PATH")
    base = re.split(r"[_+]", known[-1])[0]
    text = answer(queue_command(base))
    jobs = queue_from(text) if text is not None else ()
    said: dict[str, JobNow] = {}
    for paths in attempts:
        start = starts[paths.name]
        found = _said_of(paths, *start, jobs) if start is not None else None
        if found is not None:
            said[paths.name] = found
    if not jobs and not said:
        return SlurmNow((), {}, f"Slurm does not know job {base} any more, or does not answer")
    return SlurmNow(jobs, said)


def _said_of(
    attempt: AttemptPaths, job_id: str, restart: int, jobs: Sequence[JobNow]
) -> JobNow | None:
    """Return what is said of one start of a job, of which the queue knows the last only."""
    wanted = Start(job_id, restart, started_s(read_events(attempt.events)))
    for job in jobs:
        this_start = wanted.within(job.start_s, None, JITTER_S) and job.state != "PENDING"
        if job.job_id in (job_id, f"{job_id}+0") and this_start:
            return job
    known = read_accounting(attempt.accounting)
    if known is None or not known.settled:
        known = accounting_of(wanted) or known
    return _job_now(known) if known is not None and known.source != "attempt" else None


def _job_now(said: JobAccounting) -> JobNow:
    return JobNow(
        job_id=said.job_id,
        state=said.state,
        final=said.final,
        source=said.source,
        reason=said.reason,
        node_list=said.node_list,
        start_s=said.start_s,
    )
