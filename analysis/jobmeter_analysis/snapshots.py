"""What services said of their own settings, for MANIFEST.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from jobmeter.events import Event, EventLog
from jobmeter.paths import AttemptPaths

LARGEST_CONTENT_BYTES = 4096
"""What is larger is named by its checksum only."""


@dataclass(frozen=True)
class Snapshot:
    """One answer of a service, or why there is none.

    Args:
        service: Its label.
        name: Of the recipe, with what of several things it is about: ``collections.docs``.
        when: ``ready``, or ``<phase>.end``.
        time_ms: When it was there.
        failed: Why there is none; None when there is.
        sha256: Of the file.
        size_bytes: Of the file.
        content: What it says, if it is JSON and not long; else None.
    """

    service: str
    name: str
    when: str
    time_ms: int
    failed: str | None = None
    sha256: str | None = None
    size_bytes: int = 0
    content: Any = None


def read_snapshots(attempt: AttemptPaths, log: EventLog) -> tuple[Snapshot, ...]:
    """Return every snapshot that the job took or could not take, in the order of its events."""
    return tuple(
        _missing(event) if event.name == "snapshot_missing" else _kept(attempt, event)
        for event in log.events
        if event.name in ("snapshot_kept", "snapshot_missing")
    )


def as_manifest(snapshots: Sequence[Snapshot]) -> Mapping[str, list[dict[str, Any]]]:
    """Return by service what MANIFEST.json says of its snapshots."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in snapshots:
        at = datetime.fromtimestamp(one.time_ms / 1000, tz=timezone.utc)
        told: dict[str, Any] = {
            "name": one.name,
            "when": one.when,
            "time": at.isoformat(timespec="milliseconds"),
            "failed": one.failed,
        }
        if one.failed is None:
            told |= {"sha256": one.sha256, "bytes": one.size_bytes, "content": one.content}
        found.setdefault(one.service, []).append(told)
    return found


def _missing(event: Event) -> Snapshot:
    return Snapshot(*_names(event), event.time_ms, failed=str(event.fields.get("why")))


def _kept(attempt: AttemptPaths, event: Event) -> Snapshot:
    service, name, when = _names(event)
    try:
        data = attempt.snapshot(when, service, name).read_bytes()
    except OSError as cause:
        why = f"was kept and cannot be read: {cause.strerror}"
        return Snapshot(service, name, when, event.time_ms, failed=why)
    digest = hashlib.sha256(data).hexdigest()
    content = _content(data) if len(data) <= LARGEST_CONTENT_BYTES else None
    return Snapshot(service, name, when, event.time_ms, None, digest, len(data), content)


def _names(event: Event) -> tuple[str, str, str]:
    service, name, when = (str(event.fields.get(key)) for key in ("service", "name", "when"))
    return service, name, when


def _content(data: bytes) -> Any:  # noqa: ANN401  # whatever JSON can hold
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
