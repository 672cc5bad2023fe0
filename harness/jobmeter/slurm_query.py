"""One question to Slurm: which start of which job is meant, and what a command printed of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jobmeter.errors import SchedulerError
from jobmeter.process import run

# Epoch seconds: local times are ambiguous for an hour each autumn, and wrong on another machine.
# TZ is for a Slurm that ignores the format; those print without a zone.
_ENVIRONMENT = {"SLURM_TIME_FORMAT": "%s", "TZ": "UTC"}

SKEW_S = 300
"""Two clocks of a cluster cannot differ by more, or munge refuses to work."""

JITTER_S = 2
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
        components: Of a heterogeneous job, as the script knows; without a script 1.
    """

    job_id: str
    restart: int | None = 0
    at_s: float | None = None
    components: int = 1

    def within(self, start_s: int | None, end_s: int | None, clocks_s: float) -> bool:
        """Whether something that ran in this time can be what we mean, by clocks that differ."""
        if self.at_s is None or start_s is None:
            return True
        ended = end_s is not None and end_s < self.at_s - clocks_s
        return start_s <= self.at_s + clocks_s and not ended


def job_and_restart(attempt_name: str) -> tuple[str, int] | None:
    """Return job id and restart count of an attempt folder's name; None for a run without Slurm.

    >>> job_and_restart("12_3.r2"), job_and_restart("12"), job_and_restart("local")
    (('12_3', 2), ('12', 0), None)
    """
    match = re.fullmatch(r"(\d+(?:[_+]\d+)?)(?:\.r(\d+))?", attempt_name)
    return (match[1], int(match[2] or 0)) if match is not None else None


def ask(command: Sequence[str], timeout_s: float = 30.0) -> str:
    """Return what ``command`` printed, with times in epoch seconds.

    Raises:
        SchedulerError: it failed; its own words are in the message.
    """
    return run(command, timeout_s=timeout_s, environment=_ENVIRONMENT, error=SchedulerError)


def answer(command: Sequence[str], timeout_s: float = 30.0) -> str | None:
    """Return what ``command`` printed, with times in epoch seconds; None where it has no answer."""
    try:
        return ask(command, timeout_s)
    except SchedulerError:
        return None
