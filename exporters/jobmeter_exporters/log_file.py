"""One log file that is written while we read: rotated, truncated, gone, and back."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.log_lines import Line, LineCutter

PART_BYTES = 262144
"""How much of a file is in memory at a time."""

REMEMBERED_BYTES = 64
"""What is remembered of the end of what was read, to know the file again."""


class Identity(NamedTuple):
    """What stays with a file when it gets another name."""

    device: int
    inode: int


@dataclass(frozen=True)
class Place:
    """Where reading stopped in a file that cannot be read any more, to go on there."""

    offset: int
    remembered: bytes
    cutter: LineCutter


class LogFile:
    """Reads one file from where it is, as it grows.

    It is kept open, so it is read to its end also when it has another name by now or none. What
    is shorter than before, or has other bytes where reading stopped, has been written anew and is
    read from its beginning.

    Args:
        path: Its name now.
        at_end: Whether to leave out what is in it already.

    Raises:
        OSError: It cannot be opened.
        ExporterError: It is a folder, a device or a pipe.
    """

    def __init__(self, path: str, at_end: bool = False) -> None:
        # A pipe without a writer would wait for one.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ExporterError(f"{path} is no regular file; name the file of a log")
            self.identity = Identity(status.st_dev, status.st_ino)
            self._offset = status.st_size if at_end else 0
            self._remembered = self._bytes_before(self._offset, REMEMBERED_BYTES)
            self._cutter = LineCutter(
                in_a_line=bool(self._remembered) and not self._remembered.endswith(b"\n")
            )
            self._checked = (0, 0)
        except BaseException:
            self.close()
            raise
        self.unread_bytes = 0

    def go_on(self, place: Place) -> None:
        """Begin where reading of the same file stopped before, if this is the same file."""
        size = os.fstat(self._descriptor).st_size
        there = self._bytes_before(place.offset, len(place.remembered))
        if size >= place.offset and there == place.remembered:
            self._offset, self._remembered = place.offset, place.remembered
            self._cutter = place.cutter

    @property
    def place(self) -> Place:
        """Where reading is."""
        return Place(self._offset, self._remembered, self._cutter)

    def read(self) -> tuple[int, Iterator[Line]]:
        """Return how many bytes there were, up to ``PART_BYTES``, and the lines that end in them.

        Raises:
            OSError: It cannot be read any more.
        """
        status = os.fstat(self._descriptor)
        size = status.st_size
        ended: Iterator[Line] = iter(())
        if self._was_written_anew(status):
            ended = self._cutter.finish()
            self._offset, self._remembered, self._cutter = 0, b"", LineCutter()
        data = os.pread(self._descriptor, PART_BYTES, self._offset)
        self._offset += len(data)
        self._remembered = (self._remembered + data)[-REMEMBERED_BYTES:]
        self.unread_bytes = max(size - self._offset, 0)
        return len(data), _both(ended, self._cutter.feed(data))

    def finish(self) -> Iterator[Line]:
        """Yield the last line when no newline ends it."""
        return self._cutter.finish()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _was_written_anew(self, status: os.stat_result) -> bool:
        if status.st_size < self._offset:
            return True
        version = (status.st_size, status.st_mtime_ns)
        if version == self._checked:
            return False
        self._checked = version
        # Truncated and already as long as before or longer: only the bytes can tell.
        return self._bytes_before(self._offset, len(self._remembered)) != self._remembered

    def _bytes_before(self, offset: int, length: int) -> bytes:
        length = min(length, offset)
        return os.pread(self._descriptor, length, offset - length)


def _both(first: Iterator[Line], second: Iterator[Line]) -> Iterator[Line]:
    yield from first
    yield from second
