"""Jobs and nodes as the exporter of the queue sees them, and Slurm's words for their states.

Slurm prints one word for a state, or (in JSON) a base state and flags, as text or list, by
version. Both become the word that ``squeue`` and ``sinfo`` print.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# In the order of job_state_string() in Slurm's slurm_protocol_defs.c; other flags are not shown.
_JOB_FLAGS = (
    "COMPLETING",
    "STAGE_OUT",
    "CONFIGURING",
    "EXPEDITING",
    "RESIZING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "STOPPED",
    "REVOKED",
    "RESV_DEL_HOLD",
    "SIGNALING",
)
_JOB_ENDING = frozenset(("COMPLETING", "STAGE_OUT"))
_JOB_ENDED = frozenset(
    (
        "COMPLETED",
        "CANCELLED",
        "FAILED",
        "TIMEOUT",
        "NODE_FAIL",
        "PREEMPTED",
        "BOOT_FAIL",
        "DEADLINE",
        "OUT_OF_MEMORY",
    )
)

_NODE_BASES = ("ALLOCATED", "MIXED", "IDLE", "DOWN", "ERROR", "FUTURE", "UNKNOWN")
_MAINTENANCE = frozenset(("MAINT", "MAINTENANCE"))
_REBOOT = frozenset(("REBOOT", "REBOOT_REQUESTED", "REBOOT_ISSUED"))
_IDLE_FLAGS = ("RESERVED", "BLOCKED", "PLANNED")


@dataclass(frozen=True)
class Job:
    """One job, or the tasks of an array that wait together.

    Args:
        state: Slurm's word, in capitals.
        reason: Why it waits, one of Slurm's words; ``None`` if it does not wait.
        uid: User id of its owner.
        tasks: How many jobs it is.
        submit_s: When it was submitted; seconds since the epoch.
        start_s: When it was started.
    """

    state: str
    reason: str = "None"
    uid: int | None = None
    tasks: int = 1
    submit_s: float | None = None
    start_s: float | None = None


class Use(NamedTuple):
    """CPUs or nodes by what they do: together they are all there are."""

    allocated: float
    idle: float
    other: float


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one partition that are in one state.

    Args:
        partition: Its name.
        state: Slurm's word, in lower case.
        names: The nodes.
        nodes: Use of the nodes.
        cpus: Use of their CPUs.
    """

    partition: str
    state: str
    names: frozenset[str]
    nodes: Use
    cpus: Use


def job_state(words: Iterable[str]) -> str:
    """Return the one word for a job; empty for a job that has ended.

    >>> job_state(["RUNNING", "COMPLETING"])
    'COMPLETING'
    """
    known = [word.upper() for word in words]
    shown = next((flag for flag in _JOB_FLAGS if flag in known), "")
    if shown not in _JOB_ENDING and _JOB_ENDED.intersection(known):
        return ""
    return shown or (known or [""])[0]


def node_state(words: Iterable[str]) -> str:
    """Return the one word for a node, as node_state_string() in slurm_protocol_defs.c chooses it.

    Marks such as ``*`` (does not answer) are left out.

    >>> node_state(["IDLE", "DRAIN"]), node_state(["idle*"])
    ('drained', 'idle')
    """
    known = {re.sub(r"[^A-Z_]", "", word.upper()) for word in words} - {""}
    base = next((word for word in _NODE_BASES if word in known), "")
    if not base:  # as sinfo prints it, or a word of a later version
        return min(known, default="unknown").lower()
    in_use = base in ("ALLOCATED", "MIXED")
    if known & {"INVAL", "INVALID_REG"}:
        return "inval"
    if known & _MAINTENANCE and not in_use and base != "DOWN" and "DRAIN" not in known:
        return "maint"
    if known & _REBOOT and not in_use:
        return "reboot"
    if "DRAIN" in known:
        return "draining" if in_use or "COMPLETING" in known else "drained"
    if "FAIL" in known:
        return "failing" if in_use or "COMPLETING" in known else "fail"
    if "COMPLETING" in known and base not in ("DOWN", "ALLOCATED"):
        return "completing"
    flags = _IDLE_FLAGS if base == "IDLE" else ()
    return next((flag for flag in flags if flag in known), base).lower()


def use_of_node(words: Iterable[str], cpus: float, allocated: float) -> tuple[Use, Use]:
    """Return what a node and its CPUs do, as sinfo counts it in the file of that name.

    Args:
        words: Of its state.
        cpus: All of them.
        allocated: Those that jobs have.
    """
    known = {word.upper() for word in words}
    is_out = bool(known & {"DRAIN", "DOWN"})
    free = cpus - allocated
    of_cpus = Use(allocated, 0.0, free) if is_out else Use(allocated, free, 0.0)
    if known & {"ALLOCATED", "MIXED", "COMPLETING"}:
        return Use(1, 0, 0), of_cpus
    return Use(0, 0, 1) if is_out else Use(0, 1, 0), of_cpus


def reason_of(text: str) -> str:
    """Return the word in a reason: what follows it names nodes, limits or a free text.

    >>> reason_of("ReqNodeNotAvail, UnavailableNodes:n1")
    'ReqNodeNotAvail'
    """
    if re.match(r"\(?Nodes[ _]required", text):  # in words; the word for it in JSON is this one
        return "Resources"
    match = re.match(r"\(?(\w+)(?:[,:()]|$)", text.strip(), re.ASCII)
    return match[1] if match else "other"


def tasks_in(text: str) -> int:
    """Return how many tasks of an array wait together; 1 for what is no array.

    >>> tasks_in("3-20%2"), tasks_in("1-9:4,12"), tasks_in("N/A")
    (18, 4, 1)
    """
    total = 0
    for part in text.partition("%")[0].strip("[]").split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", part.strip(), re.ASCII)
        if match is not None:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            total += len(range(first, last + 1, step or 1))
    return total or 1
