"""What a person asks of a run that is going on, and the answers.

A request is a line in a file of the run directory, which only its owner can write, and the answer
an event. Nothing is asked of the network. Both files are there from the beginning and are opened
anew at each look: a network file system tells late of new files, and at once of what is new in one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from jobmeter.edges import read_fetches
from jobmeter.errors import RunFolderError
from jobmeter.events import Event, EventLog, read_events
from jobmeter.paths import AttemptPaths
from jobmeter.slurm_query import answer as answer_of

POLL_S = 0.1
PATIENCE_S = 3.0
"""After so long without an answer Slurm is asked whether there is anybody to give one."""
ANSWER_LIMIT_S = 60.0
CLOSE_LIMIT_S = 180.0


@dataclass(frozen=True)
class Marked:
    """A phase that has begun.

    Args:
        phase: Its name: that was asked for, or with a number where it had been used.
        start_ms: When, milliseconds since the epoch, on the clock of the first node.
        answered: How many targets answered at its start.
        asked: How many were asked.
    """

    phase: str
    start_ms: int
    answered: int
    asked: int


def mark(attempt: AttemptPaths, phase: str, limit_s: float = ANSWER_LIMIT_S) -> Marked:
    """Begin a phase, and end the one before.

    Raises:
        RunFolderError: the run has ended, or does not answer.
    """
    number = _ask(attempt, f"mark {phase}")

    def answer(log: EventLog) -> Event | None:
        return next((e for e in log.named("command_done") if e.fields.get("id") == number), None)

    name = str(_await(attempt, answer, limit_s).fields.get("phase"))
    starts = read_events(attempt.events).named("phase_start")
    start_ms = next((e.time_ms for e in reversed(starts) if e.fields.get("phase") == name), 0)
    fetches = read_fetches(attempt.edge(name, "start"))
    return Marked(name, start_ms, sum(fetch.usable for fetch in fetches), len(fetches))


def detach(attempt: AttemptPaths, limit_s: float = CLOSE_LIMIT_S) -> bool:
    """End the last phase and close the recording; return whether that was done in order.

    Raises:
        RunFolderError: the run had ended before, or does not answer.
    """
    _ask(attempt, "detach")
    log = read_events(attempt.events)
    if not log.named("job_end"):
        _await(attempt, lambda log: next(iter(log.named("job_end")), None), limit_s)
        log = read_events(attempt.events)
    return any(event.fields.get("clean") is True for event in log.named("recording_closed"))


def has_ended(attempt: AttemptPaths) -> bool:
    """Whether it has said its last word."""
    return bool(read_events(attempt.events).named("job_end"))


def _step_runs(attempt: AttemptPaths) -> bool:
    """Whether the control of an attached run is there; True where nobody can say."""
    starts = read_events(attempt.events).named("job_start")
    if not starts or starts[0].fields.get("kind") != "attached":
        return True
    job_id, run_id = str(starts[0].fields.get("job_id")), str(starts[0].fields.get("run_id"))
    said = answer_of(("squeue", "--noheader", "--steps", f"--jobs={job_id}", "--format=%j"))
    return said is None or run_id in said.split()


def _ask(attempt: AttemptPaths, words: str) -> str:
    """Add a request and return its number."""
    if has_ended(attempt):
        raise RunFolderError(
            f"{attempt.attempt}: this recording has ended; "
            f"'jobmeter analyze {attempt.attempt}' shows its table"
        )
    number = secrets.token_hex(8)
    try:
        file = os.open(attempt.commands, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError as cause:
        raise RunFolderError(
            f"{attempt.attempt}: nothing can be asked of this run; it was not attached to a job, "
            "or has not begun"
        ) from cause
    try:
        with suppress(OSError):  # not every file system can, and two at once are rare
            fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(file, f"{number} {words}\n".encode())
    finally:
        os.close(file)
    return number


def _await(
    attempt: AttemptPaths, answer: Callable[[EventLog], Event | None], limit_s: float
) -> Event:
    deadline = time.monotonic() + limit_s
    next_question = time.monotonic() + PATIENCE_S
    while True:
        over = time.monotonic() > next_question and not _step_runs(attempt)
        next_question += PATIENCE_S if time.monotonic() > next_question else 0.0
        log = read_events(attempt.events)
        found = answer(log)
        if found is not None:
            return found
        if log.named("job_end"):
            raise RunFolderError(f"{attempt.attempt}: this recording has just ended")
        if over:
            raise RunFolderError(
                f"{attempt.attempt}: its monitoring has ended without a last word; what it "
                f"recorded is safe: 'jobmeter analyze {attempt.attempt}'"
            )
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"{attempt.attempt}: no answer after {limit_s:g} s; 'jobmeter status' says what is "
                f"known, and what was recorded is safe; see {attempt.logs}"
            )
        time.sleep(POLL_S)
