"""events.jsonl: what the job script saw, in the order in which it saw it.

One JSON object per line with at least ``t`` (milliseconds since the epoch, clock of the first
node), ``node`` and ``event``. The script appends and never rewrites, so a killed job leaves at most
one torn line, at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """One line of events.jsonl."""

    time_ms: int
    node: str
    name: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class EventLog:
    """All readable events in order, and how many lines could not be read."""

    events: tuple[Event, ...]
    unreadable_lines: int

    def named(self, name: str) -> tuple[Event, ...]:
        """Return the events called ``name``."""
        return tuple(event for event in self.events if event.name == name)


def parse_event(line: str) -> Event | None:
    """Return the event of one line; None when the line is torn or no event.

    >>> parse_event('{"t": 5, "node": "n1", "event": "signal", "signal": "TERM"}').fields
    {'signal': 'TERM'}
    >>> parse_event('{"t": 5, "no') is None
    True
    """
    try:
        data = json.loads(line)
        time_ms, node, name = data.pop("t"), data.pop("node"), data.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    if not isinstance(time_ms, int):
        return None
    return Event(time_ms, str(node), str(name), data)


def read_events(path: Path) -> EventLog:
    """Read events.jsonl; a missing file is a log without events."""
    if not path.exists():
        return EventLog((), 0)
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    parsed = [parse_event(line) for line in lines]
    events = sorted((event for event in parsed if event is not None), key=lambda e: e.time_ms)
    return EventLog(tuple(events), parsed.count(None))


def groups_in(log: EventLog) -> Mapping[str, tuple[str, ...]]:
    """Return the nodes of each group of a heterogeneous job by its name, as the script saw them."""
    for event in log.named("job_start"):
        groups = event.fields.get("groups")
        if isinstance(groups, Mapping):
            return {str(name): tuple(str(nodes).split()) for name, nodes in groups.items()}
    return {}
