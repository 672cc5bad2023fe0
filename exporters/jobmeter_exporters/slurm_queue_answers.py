"""What ``squeue`` and ``sinfo`` answer, as JSON of any version or as text, and how to ask.

JSON has been renamed and reshaped from 21.08 to 26.05: numbers are numbers or
``{"set", "infinite", "number"}``, states are text or lists, ``sinfo`` lists nodes or groups of
them. The text has fields that we name, none of which a user may choose but the last, and a
separator that nobody types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobmeter_exporters.errors import CommandError
from jobmeter_exporters.slurm_queue_state import (
    Job,
    NodeGroup,
    Use,
    job_state,
    node_state,
    reason_of,
    tasks_in,
    use_of_node,
)

SEPARATOR = "\x1f"

SQUEUE_JSON = ("squeue", "--json")
SINFO_JSON = ("sinfo", "--json")
SQUEUE_TEXT = (
    "squeue",
    "--noheader",
    "--format",
    SEPARATOR.join(("%U", "%T", "%K", "%V", "%S", "%r")),
)
SINFO_TEXT = (
    "sinfo",
    "--noheader",
    "--Node",
    "--format",
    SEPARATOR.join(("%N", "%R", "%T", "%F", "%C")),
)

_READ = frozenset(
    re.findall(
        r"\w+",
        "jobs nodes sinfo errors description error job_state state current state_flags "
        "state_reason user_id array_task_string submit_time start_time set infinite number name "
        "node partition partitions hostnames cpus alloc_cpus allocated idle other",
    )
)
"""Keys of any version that are looked at; the others, nine of ten, are dropped while reading."""


class Unreadable(CommandError):  # noqa: N818 - reads as what happened
    """An answer that is not as any version is known to print it."""


def jobs_from_json(text: str) -> list[Job]:
    """Return the jobs that wait, run or are ending in the output of ``SQUEUE_JSON``.

    Raises:
        Unreadable: It is not as any version is known to print it.
        CommandError: It is an error of the controller.
    """
    jobs = []
    for record in _records(text, "squeue", ("jobs",)):
        uid = _number(record.get("user_id"))
        jobs.append(
            Job(
                state=job_state(_words(record.get("job_state", record.get("state")))),
                reason=reason_of(str(record.get("state_reason") or "None")),
                uid=None if uid is None else int(uid),
                tasks=tasks_in(str(record.get("array_task_string") or "")),
                submit_s=_time(record.get("submit_time")),
                start_s=_time(record.get("start_time")),
            )
        )
    return [job for job in jobs if job.state]


def nodes_from_json(text: str) -> list[NodeGroup]:
    """Return the nodes in the output of ``SINFO_JSON``.

    Raises:
        Unreadable: It is not as any version is known to print it.
        CommandError: It is an error of the controller.
    """
    groups: list[NodeGroup] = []
    for record in _records(text, "sinfo", ("sinfo", "nodes")):
        groups += [_group(record)] if "partition" in record else _groups_of_node(record)
    return groups


def jobs_from_text(text: str) -> list[Job]:
    """Return the jobs in the output of ``SQUEUE_TEXT``, with times in seconds since the epoch.

    Raises:
        Unreadable: A line has other fields than were asked for.
    """
    jobs = [
        Job(
            state=job_state([state]),
            reason=reason_of(reason),
            uid=int(uid) if uid.isdecimal() else None,
            tasks=tasks_in(array),
            submit_s=_time(submit),
            start_s=_time(start),
        )
        for uid, state, array, submit, start, reason in _lines(text, "squeue", 6)
    ]
    return [job for job in jobs if job.state]


def nodes_from_text(text: str) -> list[NodeGroup]:
    """Return the nodes in the output of ``SINFO_TEXT``.

    Raises:
        Unreadable: A line has other fields than were asked for.
    """
    return [
        NodeGroup(partition, node_state([state]), frozenset((name,)), _use(nodes), _use(cpus))
        for name, partition, state, nodes, cpus in _lines(text, "sinfo", 5)
    ]


def _records(text: str, program: str, keys: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    try:
        answer = json.loads(text, object_pairs_hook=_wanted)
        records = next((answer[key] for key in keys if isinstance(answer.get(key), list)), None)
        errors = answer.get("errors") or []
    except (ValueError, AttributeError, RecursionError) as cause:
        raise _unreadable(program, text[:100]) from cause
    if errors and not records:  # with an exit status of 0 in some versions
        raise CommandError(f"{program} says {_words_of(errors)!r}; is the controller up?")
    if records is None or not all(isinstance(record, dict) for record in records):
        raise _unreadable(program, text[:100])
    yield from records


def _words_of(errors: object) -> str:
    first = errors[0] if isinstance(errors, list) else errors
    if isinstance(first, dict):
        first = first.get("description") or first.get("error") or first
    return str(first)[:200]


def _wanted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if key in _READ}


def _group(record: Mapping[str, Any]) -> NodeGroup:
    """Read what stands for nodes of one partition and state, since 23.02."""
    partition, nodes = record["partition"], record.get("nodes")
    name = partition.get("name") if isinstance(partition, dict) else partition or ""
    listed = nodes.get("nodes") or nodes.get("hostnames") if isinstance(nodes, dict) else None
    if not isinstance(name, str) or not isinstance(listed, list):
        raise _unreadable("sinfo", str(record)[:100])
    state = record.get("node", record)
    return NodeGroup(
        name,
        node_state(_words(state.get("state")) if isinstance(state, dict) else _words(state)),
        frozenset(map(str, listed)),
        _use_of(nodes),
        _use_of(record.get("cpus")),
    )


def _groups_of_node(record: Mapping[str, Any]) -> Iterator[NodeGroup]:
    """Read what stands for one node, up to 22.05; it may be in several partitions."""
    name, partitions = record.get("name"), record.get("partitions")
    cpus, allocated = _number(record.get("cpus")), _number(record.get("alloc_cpus"))
    if not isinstance(name, str) or not isinstance(partitions, list) or None in (cpus, allocated):
        raise _unreadable("sinfo", str(record)[:100])
    words = [*_words(record.get("state")), *_words(record.get("state_flags"))]
    if (allocated or 0.0) < (cpus or 0.0):  # pyslurm leaves it to its caller, sinfo does not
        words = ["MIXED" if word == "ALLOCATED" else word for word in words]
    use = use_of_node(words, cpus or 0.0, allocated or 0.0)
    for partition in partitions:
        yield NodeGroup(str(partition), node_state(words), frozenset((name,)), *use)


def _lines(text: str, program: str, fields: int) -> Iterator[list[str]]:
    for line in text.split("\n"):  # splitlines knows other ends too
        # With several clusters each has a line before its own.
        if not line or (line.startswith("CLUSTER:") and SEPARATOR not in line):
            continue
        values = line.split(SEPARATOR, fields - 1)
        if len(values) != fields:
            raise _unreadable(program, line[:100])
        yield values


def _use(text: str) -> Use:
    """Read ``allocated/idle/other/total``; large numbers may end in K."""
    numbers = [
        float(part[:-1]) * 1000 if part.endswith("K") else float(part)
        for part in text.split("/")
        if part.rstrip("K").replace(".", "", 1).isdecimal()
    ]
    if len(numbers) != 4:
        raise _unreadable("sinfo", text[:100])
    return Use(*numbers[:3])


def _use_of(record: object) -> Use:
    parts = ("allocated", "idle", "other")
    numbers = [_number(record.get(part)) for part in parts] if isinstance(record, dict) else []
    known = [number for number in numbers if number is not None]
    if len(known) != len(parts):
        raise _unreadable("sinfo", str(record)[:100])
    return Use(*known)


def _number(value: object) -> float | None:
    """Return a number of any version; None for what is not set, infinite, or no number."""
    if isinstance(value, dict):
        is_one = value.get("set", True) and not value.get("infinite", False)
        return _number(value.get("number")) if is_one else None
    if isinstance(value, str):
        return float(value) if value.isascii() and value.isdecimal() else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _time(value: object) -> float | None:
    """Return a time in seconds since the epoch; 0 stands for none."""
    return _number(value) or None


def _words(value: object) -> list[str]:
    """Return the words of a state: a text, a list, or an object with one of them."""
    if isinstance(value, dict):
        value = value.get("current", value.get("state"))
    if isinstance(value, str):
        return value.replace("+", " ").replace(",", " ").split()
    return [str(word) for word in value] if isinstance(value, list) else []


def _unreadable(program: str, text: str) -> Unreadable:
    return Unreadable(
        f"{program} printed what this version cannot read, {text!r}; please report this"
    )
