"""From the bytes of a log to its lines, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LONGEST_LINE_BYTES = 16384
"""What is behind it in a line is not looked at."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Line(NamedTuple):
    """One line, and whether it was longer than what is here."""

    text: str
    cut: bool


class LineCutter:
    """Takes the bytes of a file as they come, gives lines.

    Args:
        in_a_line: Whether the bytes begin in the middle of a line, whose rest is left out.
    """

    def __init__(self, in_a_line: bool = False) -> None:
        self._kept = bytearray()
        self._cut = False
        self._skipping = in_a_line

    def feed(self, data: bytes) -> Iterator[Line]:
        """Yield the lines that end in ``data``."""
        # What a hole of a file reads as: a writer went on where it was before a truncation.
        *ended, begun = data.replace(b"\0", b"").split(b"\n")
        for piece in ended:
            if not self._kept and not self._skipping and len(piece) <= LONGEST_LINE_BYTES:
                yield Line(shown(piece), False)  # nearly all of them
                continue
            self._keep(piece)
            if not self._skipping:
                yield self._line()
            self._forget()
        self._keep(begun)

    def finish(self) -> Iterator[Line]:
        """Yield the line that has begun and will not go on, if there is one."""
        if self._kept and not self._skipping:
            yield self._line()
        self._forget()

    def _keep(self, piece: bytes) -> None:
        room = LONGEST_LINE_BYTES - len(self._kept)
        self._kept += piece[:room]
        self._cut = self._cut or len(piece) > room

    def _line(self) -> Line:
        return Line(shown(self._kept), self._cut)

    def _forget(self) -> None:
        self._kept.clear()
        self._cut = self._skipping = False


def shown(line: bytes | bytearray) -> str:
    r"""Return what a terminal would show of a line: no colours, the last state of a progress bar.

    >>> shown(b"\x1b[1;36m(APIServer pid=1)\x1b[0;0m INFO\r")
    '(APIServer pid=1) INFO'
    >>> shown(b" 10%\r 20%")
    ' 20%'
    """
    text = line.decode("utf-8", "replace")
    if "\r" in text:
        text = text.rstrip("\r").rpartition("\r")[2]
    return _COLOURS.sub("", text) if "\x1b" in text else text
