"""Reading the small text files of the kernel, and the shapes that several of them share."""

from __future__ import annotations

import os
from pathlib import Path

from jobmeter_exporters.errors import UnexpectedText


def read(path: str | Path) -> str | None:
    """Return the text of ``path``, or None where it is absent or may not be read.

    A file that exists may still refuse: pressure files do (EOPNOTSUPP) when the kernel was booted
    without PSI, and every file of a group that has just ended does (ENODEV).
    """
    parts = []
    try:
        # A scrape of a process tree opens hundreds of files: a file object would cost a fifth more.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(handle, 65536):
                parts.append(part)
        finally:
            os.close(handle)
    except OSError:
        return None
    return b"".join(parts).decode("utf-8", "replace")


def number(text: str) -> int:
    r"""Return the one non-negative integer that ``text`` holds.

    Raises:
        UnexpectedText: Anything else.

    >>> number("4096\n")
    4096
    """
    word = text.strip()
    # isdecimal alone also accepts digits of other scripts; int() has a limit of 4300 digits.
    if not (word.isascii() and word.isdecimal() and len(word) < 40):
        raise UnexpectedText(f"expected one number and found {text[:60]!r}")
    return int(word)


def keyed_numbers(text: str) -> dict[str, int]:
    r"""Return the lines ``key number`` of a flat keyed file, such as ``cpu.stat``.

    Lines of another shape are left out: the kernel adds some from time to time.

    >>> keyed_numbers("anon 10\nfile 20\n")
    {'anon': 10, 'file': 20}
    """
    fields = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isascii() and value.isdecimal() and len(value) < 40:
            fields[key] = int(value)
    return fields


def cpu_count(text: str) -> int:
    r"""Return how many CPUs a list such as ``0-3,8`` names (cpuset(7), "List format").

    Raises:
        UnexpectedText: The text is no such list.

    >>> cpu_count("0-3,8\n")
    5
    """
    count = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low = number(first)
        high = number(last) if dash else low
        if high < low:
            raise UnexpectedText(f"expected a list of CPUs and found {text[:60]!r}")
        count += high - low + 1
    return count
