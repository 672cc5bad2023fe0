"""Files of the kernel that are read at every scrape, through descriptors that stay open."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress

from jobmeter_exporters import kernel_text

Read = Callable[[str], "str | None"]
"""Returns the text of a file, None where it is absent or may not be read."""

PART_BYTES = 65536
SURELY_ALL_BYTES = 2048
"""Less than this is no full page of a list."""


class OpenFiles:
    """Reads files of control groups, of which opening costs four times as much as reading.

    For files that the kernel makes up at every read. One that is gone says so (ENODEV), and whoever
    removes a group does not wait for who has its files open.

    Args:
        most: How many stay open, if that is affordable; what is beyond is opened at each read.
    """

    def __init__(self, most: int) -> None:
        self._most = affordable(most, 8)
        self._handles: dict[str, int] = {}
        self._unread: set[str] = set()

    def read(self, path: str) -> str | None:
        """Return the text of ``path``, None where it is absent or may not be read."""
        self._unread.discard(path)
        handle = self._handles.get(path)
        if handle is not None:
            text = _text_of(handle)
            if text is not None:
                return text
            self._close(path)  # gone, perhaps to come back
        if len(self._handles) >= self._most:
            return kernel_text.read(path)
        try:
            handle = self._handles[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        text = _text_of(handle)
        if text is None:
            self._close(path)
        return text

    def close_unread(self) -> None:
        """Close what was not read since this was called last."""
        for path in self._unread:
            self._close(path)
        self._unread = set(self._handles)

    def close(self) -> None:
        """Close all of them."""
        for path in list(self._handles):
            self._close(path)
        self._unread.clear()

    def _close(self, path: str) -> None:
        handle = self._handles.pop(path, None)
        if handle is not None:
            with suppress(OSError):
                os.close(handle)


def affordable(most: int, parts: int) -> int:
    """Return how many descriptors can be spent, one of so many parts: the rest is for others."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(most, limit // parts) if limit != resource.RLIM_INFINITY else most


def _text_of(handle: int) -> str | None:
    """Return the whole text, None where it cannot be read."""
    try:
        text = part = os.pread(handle, PART_BYTES, 0)
        # The kernel gives a file of one piece in one piece, a list of numbers page by page.
        while len(part) >= SURELY_ALL_BYTES:
            part = os.pread(handle, PART_BYTES, len(text))
            text += part
    except OSError:
        return None
    return text.decode("utf-8", "replace")
