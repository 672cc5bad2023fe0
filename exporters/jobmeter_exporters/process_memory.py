"""The memory of processes, shared pages divided among those that share them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jobmeter_exporters import kernel_text, process_text
from jobmeter_exporters.process_text import Key, Stat

# For the proportional share the kernel walks the page tables with the process's memory map locked,
# about 10 ms per GiB: beyond this size the look would disturb what it looks at.
LARGEST_SHARED_OUT_BYTES = 256 * 2**20

TURNS = 8
"""Scrapes after which a process is looked at again although nothing says that it has changed."""


class Memory(NamedTuple):
    """Bytes of one process, and how many of them no file backs."""

    used: int
    anonymous: int


NOTHING = Memory(0, 0)


class _Known(NamedTuple):
    faults: int
    resident_pages: int
    memory: Memory


class ProcessMemory:
    """Reads the proportional shares (PSS) of processes that are looked at again and again.

    The resident set (RSS), which counts shared pages once per process, stands for processes above
    ``LARGEST_SHARED_OUT_BYTES`` and for those whose share may not be read.

    A look costs 40 microseconds and more. A process without a page fault since the last one, and
    with as many pages, maps what it did then, and its share changes only by what others do. So
    where the processes are the same as before, such a one is looked at in turns.

    Args:
        proc: Mount point of procfs.
    """

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._known: dict[Key, _Known] = {}
        self._turn = 0

    def read(self, stats: Iterable[Stat]) -> dict[Key, Memory]:
        """Return the memory of each process, ``NOTHING`` for one that has ended.

        Raises:
            UnexpectedText: A file of procfs is not as documented.
        """
        self._turn += 1
        by_key = {stat.key: stat for stat in stats}
        same = by_key.keys() == self._known.keys()
        known = {key: self._of(stat, same) for key, stat in by_key.items()}
        self._known = known
        return {key: one.memory for key, one in known.items()}

    def _of(self, stat: Stat, same: bool) -> _Known:
        sizes = stat.faults, stat.resident_pages
        before = self._known.get(stat.key)
        if before is None or not same or before[:2] != sizes or not (stat.pid + self._turn) % TURNS:
            return _Known(*sizes, self._look(stat.pid))
        return before

    def _look(self, pid: int) -> Memory:
        text = kernel_text.read(f"{self._proc}/{pid}/statm")
        if not text:
            return NOTHING
        resident = Memory(*process_text.parse_statm(text))
        if not 0 < resident.used <= LARGEST_SHARED_OUT_BYTES:
            return resident
        rollup = kernel_text.read(f"{self._proc}/{pid}/smaps_rollup")
        shares = process_text.parse_shares(rollup or "")
        return resident if shares is None else Memory(*shares)
