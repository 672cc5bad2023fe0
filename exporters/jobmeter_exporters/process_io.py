"""What the processes of a job read and write, also on file systems that no block device serves."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobmeter_exporters import kernel_text, process_text
from jobmeter_exporters.families import Readings
from jobmeter_exporters.open_files import affordable
from jobmeter_exporters.process_text import IoCounts

MOST_PROCESSES = 256
"""Of which each costs a descriptor, and about 4 µs a scrape."""

MOST_REMEMBERED = 10_000
"""Of those that were too many: then those that have ended are forgotten."""

FAMILIES = (
    "job_syscall_read_bytes_total",
    "job_syscall_write_bytes_total",
    "job_syscall_reads_total",
    "job_syscall_writes_total",
    "job_storage_read_bytes_total",
    "job_storage_write_bytes_total",
)
"""In the order of ``IoCounts``."""

NOTHING = IoCounts(0, 0, 0, 0, 0, 0)


@dataclass
class _Followed:
    """A process, by an open descriptor: it never shows another one that got the same id."""

    handle: int
    started: int
    parent: int
    payload: bool
    counts: IoCounts


class ProcessIo:
    """The sums of ``/proc/<pid>/io`` over a job's processes; they never go down.

    When a process ends and its parent waits for it, the kernel adds its counts to the parent's, so
    they are kept here only where the parent is none of the followed processes (slurmstepd, init):
    then as they were last seen. Hence a lower bound. What is lost:

    * what the last process of such a line, a task for example, did after the last look at it, and
      all that it did if it lived between two looks;
    * a child that nobody waits for (SIGCHLD ignored).

    Args:
        proc: Mount point of procfs.
        excluded: Roots of subtrees that are monitoring.
        most: How many processes are followed at once.
    """

    def __init__(self, proc: Path, excluded: Iterable[int] = (), most: int | None = None) -> None:
        self._proc = proc
        self._excluded = set(excluded)
        self._most = affordable(MOST_PROCESSES, 2) if most is None else most
        self._followed: dict[int, _Followed] = {}
        self._kept = {True: [0] * len(FAMILIES), False: [0] * len(FAMILIES)}
        # Not followed later either: what of its ended children was kept would count twice.
        self._too_many: set[int] = set()
        self._highest: list[int] | None = None

    def read(self, sides: Mapping[int, bool]) -> Readings:
        """Return the sums over the payload; absent until one of its processes can be read.

        They are zero before where nothing refuses to be read: then there is no payload yet.

        Args:
            sides: Process ids of the job to whether they are payload. Those that were named once
                are followed to their end.

        Raises:
            UnexpectedText: A file of procfs is not as documented.
        """
        unreadable = self._follow(sides)
        ended, refused = self._look()
        self._settle(ended)
        left_out = unreadable + refused
        readings: Readings = {"job_processes_without_io": float(left_out)}
        told = [one.payload for one in self._followed.values() if one.counts is not NOTHING]
        if self._highest is not None or any(told) or (told and not left_out):
            readings |= dict(zip(FAMILIES, self._rising(self._sums()), strict=True))
        return readings

    def close(self) -> None:
        """Close the descriptors."""
        for one in self._followed.values():
            os.close(one.handle)
        self._followed.clear()

    def _follow(self, sides: Mapping[int, bool]) -> int:
        """Open what is new; return how many live processes that did not work for."""
        left_out = 0
        new: dict[int, _Followed] = {}
        for pid in sorted(sides.keys() - self._followed.keys()):
            if len(self._followed) + len(new) >= self._most:
                self._too_many.add(pid)
            one = None if pid in self._too_many else self._open(pid, sides[pid])
            if one is not None:
                new[pid] = one
            elif pid == 0 or self._is_users(pid):
                left_out += 1
        if len(self._too_many) > MOST_REMEMBERED:
            self._too_many = {pid for pid in self._too_many if self._is_users(pid)}
        if not new:
            return left_out
        for pid, one in sorted(new.items(), key=_age):
            if pid in self._excluded or one.parent in self._excluded:
                self._excluded.add(pid)
                one.payload = False
        # Parents first: a child that is waited for between the two looks is then missed until the
        # next scrape. The other way round it would count twice, and a total that never goes down
        # would keep the excess.
        self._followed = dict(sorted((self._followed | new).items(), key=_age))
        return left_out

    def _is_users(self, pid: int) -> bool:
        """Return whether a process lives and is not root's, as slurmstepd is."""
        try:
            return os.stat(f"{self._proc}/{pid}").st_uid != 0  # noqa: PTH116 - no Path
        except OSError:
            return False

    def _open(self, pid: int, payload: bool) -> _Followed | None:
        """Return a process to follow; None if it has ended, or is another user's.

        Id 0 stands for a process of another pid namespace, and has no folder.
        """
        try:
            handle = os.open(f"{self._proc}/{pid}/io", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        text = kernel_text.read(f"{self._proc}/{pid}/stat")
        if not text:
            os.close(handle)
            return None
        stat = process_text.parse_stat(text)
        return _Followed(handle, stat.started, stat.parent, payload, NOTHING)

    def _look(self) -> tuple[dict[int, _Followed], int]:
        """Bring the counts up to date; return the processes that ended, and how many refuse."""
        ended: dict[int, _Followed] = {}
        refused = 0
        for pid, one in self._followed.items():
            try:
                text = os.pread(one.handle, 4096, 0).decode("ascii", "replace")
            except OSError as problem:
                if problem.errno == errno.ESRCH:
                    ended[pid] = one
                else:
                    refused += 1  # it became another user's, by a set-user-id program
                continue
            one.counts = process_text.parse_io(text)
        return ended, refused

    def _settle(self, ended: Mapping[int, _Followed]) -> None:
        """Close the descriptors of processes that ended, and keep what no parent has taken over."""
        for one in ended.values():
            heir = self._heir(one, ended)
            if heir is None or heir.payload != one.payload:
                self._keep(one.payload, one.counts, 1)
                if heir is not None:
                    self._keep(heir.payload, one.counts, -1)
        for pid, one in list(ended.items()):
            os.close(one.handle)
            self._excluded.discard(pid)
            del self._followed[pid]
        if ended:
            self._find_new_parents(ended)

    def _heir(self, one: _Followed, ended: Mapping[int, _Followed]) -> _Followed | None:
        """Return the nearest ancestor that lives, None if it is not followed."""
        while one.parent in ended:
            one = ended[one.parent]
        return self._followed.get(one.parent)

    def _find_new_parents(self, ended: Mapping[int, _Followed]) -> None:
        for pid, one in self._followed.items():
            if one.parent in ended:
                text = kernel_text.read(f"{self._proc}/{pid}/stat")
                one.parent = process_text.parse_stat(text).parent if text else 0

    def _keep(self, payload: bool, counts: IoCounts, sign: int) -> None:
        self._kept[payload] = [
            kept + sign * count for kept, count in zip(self._kept[payload], counts, strict=True)
        ]

    def _sums(self) -> list[int]:
        counts = [one.counts for one in self._followed.values() if one.payload]
        return [sum(column) for column in zip(self._kept[True], *counts, strict=True)]

    def _rising(self, sums: list[int]) -> list[float]:
        before = self._highest or sums
        self._highest = [max(pair) for pair in zip(before, sums, strict=True)]
        return [float(value) for value in self._highest]


def _age(item: tuple[int, _Followed]) -> tuple[int, int]:
    return item[1].started, item[0]
