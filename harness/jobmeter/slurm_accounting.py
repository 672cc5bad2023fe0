"""What is known of one start of a job: from Slurm's database, its controller, or the job itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobmeter.accounting import (
    FILLABLE,
    JobAccounting,
    preferred,
    read_accounting,
    write_accounting,
)
from jobmeter.events import groups_in, read_events
from jobmeter.own_record import OWN_WORD, own_record, started_s
from jobmeter.paths import AttemptPaths
from jobmeter.slurm_pyslurm import ask_pyslurm
from jobmeter.slurm_query import Start, job_and_restart
from jobmeter.slurm_sacct import ask_sacct
from jobmeter.slurm_scontrol import ask_scontrol


def refresh_accounting(attempt: AttemptPaths, *, settle: bool = False) -> JobAccounting | None:
    """Ask about an attempt and keep the answer, unless the last word is there already.

    Where no Slurm answers, or not to everything, the attempt's own record does.

    Args:
        attempt: Whose accounting.
        settle: Whether the job has ended, so that a final answer is worth some seconds' wait.
    """
    known = read_accounting(attempt.accounting)
    job = job_and_restart(attempt.name)
    if job is None or (known is not None and known.settled):
        return known
    log = read_events(attempt.events)
    own = own_record(log, *job)
    wanted = Start(*job, at_s=started_s(log), components=max(1, len(groups_in(log))))
    said = accounting_of(wanted, settle_s=10.0 if settle else 0.0)
    if said is not None and said.final:
        said = said.filled_from(own, *OWN_WORD)
    accounting = preferred(known, said or own)
    if accounting is not None and accounting != known:
        write_accounting(accounting, attempt.accounting)
    return accounting


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
    while said is not None and (said.lagging or not said.final) and time.monotonic() < deadline:
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


def _if_as_final(other: JobAccounting | None, said: JobAccounting) -> JobAccounting | None:
    return other if other is not None and other.final >= said.final else None
