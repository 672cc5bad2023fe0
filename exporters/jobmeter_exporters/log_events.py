"""Lines worth keeping, in a file of JSON lines that cannot grow without end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from jobmeter_exporters.errors import ExporterError

LONGEST_TEXT = 1000
EVENTS_PER_S = 5.0
BURST = 200
"""So many at once, and ``EVENTS_PER_S`` in the long run: of a crash with its traceback all, of a
line that repeats for hours at most 20 MB an hour."""


class EventFile:
    """Appends ``{"t": ..., "service": ..., "level": ..., "text": ...}``, one line each.

    ``t`` is in milliseconds since the epoch, as in ``events.jsonl``: when the line was read.

    Args:
        path: Where to; the file is made for its owner alone.

    Raises:
        ExporterError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as cause:
            raise ExporterError(
                f"cannot write the events {path}: {cause.strerror}; give a file of yours"
            ) from cause
        self._torn = False
        self.problem: str | None = None
        """Why the last event is not in it."""

    def write(self, service: str, level: str, text: str) -> bool:
        """Append one event; return whether it is in the file."""
        event = {"t": time.time_ns() // 1_000_000, "service": service, "level": level}
        line = json.dumps({**event, "text": text[:LONGEST_TEXT]}).encode() + b"\n"
        if self._torn:
            line = b"\n" + line
        try:
            written = os.write(self._descriptor, line)
        except OSError as cause:
            self.problem = f"cannot write the events {self._path}: {cause.strerror}"
            return False
        self._torn = written < len(line)
        self.problem = f"the events {self._path} are cut; is the disk full?" if self._torn else None
        return not self._torn

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
