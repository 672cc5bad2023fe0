"""The text of the files that describe one process, see proc(5)."""

from __future__ import annotations

import os
from typing import NamedTuple

from jobmeter_exporters.errors import UnexpectedText

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Key = tuple[int, int]
"""Process id and start time: together they outlive the reuse of an id."""


class Stat(NamedTuple):
    """What ``/proc/<pid>/stat`` says, times in clock ticks and with those of waited children.

    ``faults`` are those of the process alone, the minor and the major ones.
    """

    pid: int
    parent: int
    started: int
    user: int
    system: int
    threads: int
    faults: int
    resident_pages: int

    @property
    def key(self) -> Key:
        """Process id and start time."""
        return self.pid, self.started


class IoCounts(NamedTuple):
    """What a process has read and written, with the children it has waited for.

    The first four count calls such as read(2), whatever is behind the descriptor; the last two
    what storage was asked for.
    """

    call_read_bytes: int
    call_written_bytes: int
    read_calls: int
    write_calls: int
    storage_read_bytes: int
    storage_written_bytes: int


IO_FIELDS = ("rchar:", "wchar:", "syscr:", "syscw:", "read_bytes:", "write_bytes:")
"""The kernel's names, in the order of ``IoCounts``."""


def parse_stat(text: str) -> Stat:
    """Return the fields of ``/proc/<pid>/stat`` (proc_pid_stat(5)) that are needed here.

    The command in the second field may hold spaces and brackets; the last bracket ends it.

    Raises:
        UnexpectedText: The text is no such line.
    """
    pid, fields = text.partition(" ")[0], text.rpartition(")")[2].split(maxsplit=22)
    try:
        return Stat(
            pid=int(pid),
            parent=int(fields[1]),
            started=int(fields[19]),
            user=int(fields[11]) + int(fields[13]),
            system=int(fields[12]) + int(fields[14]),
            threads=int(fields[17]),
            faults=int(fields[7]) + int(fields[9]),
            resident_pages=int(fields[21]),
        )
    except (IndexError, ValueError):
        raise UnexpectedText(f"expected the stat line of a process: {text[:60]!r}") from None


def parse_statm(text: str) -> tuple[int, int]:
    """Return resident and resident anonymous bytes from ``/proc/<pid>/statm``.

    Raises:
        UnexpectedText: The text is no such line.
    """
    try:
        _, resident, file_backed, *_ = (int(word) for word in text.split())
    except ValueError:
        raise UnexpectedText(f"expected the statm line of a process: {text[:60]!r}") from None
    return resident * PAGE_BYTES, max(resident - file_backed, 0) * PAGE_BYTES


def parse_io(text: str) -> IoCounts:
    """Return the counts of ``/proc/<pid>/io`` (proc_pid_io(5)).

    Raises:
        UnexpectedText: The text is none of that.
    """
    # Always in this order: looking them up by name would take three times as long.
    words = text.split()[: 2 * len(IO_FIELDS)]
    numbers = words[1::2]
    if tuple(words[::2]) != IO_FIELDS or not all(map(_is_number, numbers)):
        raise UnexpectedText(f"expected the I/O counts of a process: {text[:60]!r}")
    return IoCounts(*map(int, numbers))


def parse_shares(text: str) -> tuple[int, int] | None:
    """Return the proportional share and its anonymous part in bytes from ``smaps_rollup``.

    None where a field is missing; ``Pss_Anon`` came with Linux 5.4.
    """
    fields = {line.partition(":")[0]: line.split() for line in text.splitlines()}
    try:
        return int(fields["Pss"][1]) * 1024, int(fields["Pss_Anon"][1]) * 1024
    except (KeyError, IndexError, ValueError):
        return None


def parse_allowed_cpus(text: str) -> str | None:
    r"""Return the list of CPUs that ``/proc/<pid>/status`` allows, None if it does not say.

    >>> parse_allowed_cpus("Cpus_allowed:\t10f\nCpus_allowed_list:\t0-3,8\n")
    '0-3,8'
    """
    for line in text.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return line.partition(":")[2].strip()
    return None


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 40
