"""Slurm's commands in pairs: one function builds the command, one reads what it printed.

Only ``submit``, ``job_state``, ``follow`` and ``fetch_accounting`` start anything, all of them
through ``jobmeter.process``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from jobmeter.accounting import JobAccounting
from jobmeter.errors import SchedulerError
from jobmeter.process import run

FINAL_STATES = frozenset(
    # https://slurm.schedmd.com/sacct.html#SECTION_JOB-STATE-CODES
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)

_SACCT_FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "ElapsedRaw",
    "Start",
    "End",
    "MaxRSS",
    "TotalCPU",
    "QOS",
)


def submit_command(script: Path) -> tuple[str, ...]:
    """Return the command that submits ``script``."""
    return ("sbatch", "--parsable", str(script))


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


def state_from(word: str) -> str:
    """Return Slurm's state without its decorations; a word that we do not know stays as it is.

    >>> state_from("CANCELLED by 1000"), state_from("CANCELLED+"), state_from("")
    ('CANCELLED', 'CANCELLED', 'UNKNOWN')
    """
    return word.split()[0].rstrip("+") if word.strip() else "UNKNOWN"


def accounting_command(job_id: str) -> tuple[str, ...]:
    """Return the command that asks for the accounting of one job, its restarts and its steps."""
    fields = ",".join(_SACCT_FIELDS)
    return (
        "sacct",
        "--parsable2",
        "--noheader",
        "--duplicates",
        f"--jobs={job_id}",
        f"--format={fields}",
    )


def accounting_from(stdout: str, job_id: str, restart: int = 0) -> JobAccounting | None:
    """Read what ``accounting_command`` printed.

    Args:
        stdout: Lines of ``|``-separated fields; times are epoch seconds (SLURM_TIME_FORMAT=%s).
        job_id: ``1234`` or ``1234_5``.
        restart: Which start of a requeued job, 0 for the first.

    Returns:
        None when the database does not know the job, or that start of it.
    """
    rows = [
        line.split("|") for line in stdout.splitlines() if line.count("|") >= len(_SACCT_FIELDS) - 1
    ]
    starts = [index for index, row in enumerate(rows) if row[0] == job_id]
    if restart >= len(starts):
        return None
    job = dict(zip(_SACCT_FIELDS, rows[starts[restart]], strict=False))
    following = starts[restart + 1] if restart + 1 < len(starts) else len(rows)
    steps = [
        dict(zip(_SACCT_FIELDS, row, strict=False))
        for row in rows[starts[restart] + 1 : following]
        if row[0].startswith(f"{job_id}.")
    ]
    state = state_from(job["State"])
    rss = [size for step in steps if (size := bytes_from(step["MaxRSS"]))]
    return JobAccounting(
        job_id=job_id,
        state=state,
        # For seconds after a job's end the database may know a part of it only, with a state that
        # is wrong; it then calls the QOS Unknown.
        final=state in FINAL_STATES and job["End"].isdigit() and job["QOS"] != "Unknown",
        source="sacct",
        exit_code=_exit_code_from(job["ExitCode"]),
        elapsed_s=float(job["ElapsedRaw"]) if job["ElapsedRaw"].isdigit() else None,
        start_s=int(job["Start"]) if job["Start"].isdigit() else None,
        end_s=int(job["End"]) if job["End"].isdigit() else None,
        max_rss_bytes=max(rss) if rss else None,
        total_cpu_s=cpu_seconds_from(job["TotalCPU"]),
    )


def _exit_code_from(text: str) -> int | None:
    """Return the exit code of ``code:signal``, 128 + signal when a signal ended it.

    >>> _exit_code_from("7:0"), _exit_code_from("0:9"), _exit_code_from("")
    (7, 137, None)
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None
    return 128 + int(match[2]) if int(match[2]) else int(match[1])


def bytes_from(text: str) -> int | None:
    """Return bytes from a size as sacct prints it; None when there is none.

    >>> bytes_from("12504K"), bytes_from("1.50G"), bytes_from("0"), bytes_from("")
    (12804096, 1610612736, 0, None)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)[nc]?", text)
    if match is None:
        return None
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2] or " "))


def cpu_seconds_from(text: str) -> float | None:
    """Return seconds from ``[days-[hours:]]minutes:seconds[.fraction]``; None when unreadable.

    >>> cpu_seconds_from("00:01.250"), cpu_seconds_from("1-02:03:04"), cpu_seconds_from("")
    (1.25, 93784.0, None)
    """
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4])


def submit(script: Path) -> str:
    """Submit ``script`` and return the job id.

    Raises:
        SchedulerError: sbatch is missing or refused; its own words are in the message.
    """
    return job_id_from(run(submit_command(script), error=SchedulerError))


def job_state(job_id: str) -> str | None:
    """Return the state of one job: from the controller while it remembers, else from accounting.

    None when neither answers just now.
    """
    try:
        state = state_from(run(state_command(job_id), error=SchedulerError))
        if state != "UNKNOWN":
            return state
    except SchedulerError:
        pass  # the controller forgets a job minutes after its end, and may be busy
    accounting = fetch_accounting(job_id)
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


def fetch_accounting(job_id: str, restart: int = 0) -> JobAccounting | None:
    """Return what the accounting database says of a job; None where there is no answer."""
    try:
        text = run(
            accounting_command(job_id),
            environment={"SLURM_TIME_FORMAT": "%s"},
            error=SchedulerError,
        )
    except SchedulerError:
        return None
    return accounting_from(text, job_id, restart)


def settled_accounting(
    job_id: str, restart: int = 0, limit_s: float = 10.0
) -> JobAccounting | None:
    """Return the accounting of a job that has ended, once it says so itself.

    The database is seconds behind the controller; after ``limit_s`` its last answer is returned.
    """
    deadline = time.monotonic() + limit_s
    while True:
        accounting = fetch_accounting(job_id, restart)
        if accounting is None or accounting.final or time.monotonic() >= deadline:
            return accounting
        time.sleep(0.5)


def job_and_restart(attempt_name: str) -> tuple[str, int] | None:
    """Return job id and restart count of an attempt folder's name; None for a run without Slurm.

    >>> job_and_restart("12_3.r2"), job_and_restart("12"), job_and_restart("local")
    (('12_3', 2), ('12', 0), None)
    """
    match = re.fullmatch(r"(\d+(?:[_+]\d+)?)(?:\.r(\d+))?", attempt_name)
    return (match[1], int(match[2] or 0)) if match is not None else None
