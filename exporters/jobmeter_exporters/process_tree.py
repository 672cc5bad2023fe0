"""A job's resource use from its processes, where no control group accounts for it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jobmeter_exporters import kernel_text
from jobmeter_exporters.errors import UnexpectedText
from jobmeter_exporters.families import Readings
from jobmeter_exporters.watched import NoData

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# For the proportional share the kernel walks the page tables with the process's memory map locked,
# about 10 ms per GiB: beyond this size the look would disturb what it looks at.
LARGEST_SHARED_OUT_BYTES = 256 * 2**20

Key = tuple[int, int]
"""Process id and start time: together they outlive the reuse of an id."""


class Stat(NamedTuple):
    """What ``/proc/<pid>/stat`` says, times in clock ticks and with those of waited children."""

    pid: int
    parent: int
    started: int
    user: int
    system: int
    threads: int

    @property
    def key(self) -> Key:
        """Process id and start time."""
        return self.pid, self.started


def parse_stat(text: str) -> Stat:
    """Return the fields of ``/proc/<pid>/stat`` (proc_pid_stat(5)) that are needed here.

    The command in the second field may hold spaces and brackets; the last bracket ends it.

    Raises:
        UnexpectedText: The text is no such line.
    """
    pid, fields = text.partition(" ")[0], text.rpartition(")")[2].split()
    try:
        return Stat(
            pid=int(pid),
            parent=int(fields[1]),
            started=int(fields[19]),
            user=int(fields[11]) + int(fields[13]),
            system=int(fields[12]) + int(fields[14]),
            threads=int(fields[17]),
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


def parse_shares(text: str) -> tuple[int, int] | None:
    """Return the proportional share and its anonymous part in bytes from ``smaps_rollup``.

    None where a field is missing; ``Pss_Anon`` came with Linux 5.4.
    """
    fields = {line.partition(":")[0]: line.split() for line in text.splitlines()}
    try:
        return int(fields["Pss"][1]) * 1024, int(fields["Pss_Anon"][1]) * 1024
    except (KeyError, IndexError, ValueError):
        return None


class ProcessTree:
    """CPU time and memory of the live descendants of a process, and of the monitoring among them.

    CPU time is the sum of ``utime + stime + cutime + cstime``: a process carries the time of the
    children it has waited for. What was once below the root stays in the account when it is
    adopted by init. When a process ends, its time passes to its parent; where that parent is
    on the other side (monitoring or payload) or outside, the last value seen is moved by hand.

    Limits, all on the low side, for a total never goes down:

    * the last moments of a process whose parent does not wait (double fork, SIGCHLD ignored) are
      lost, and all of it if it lived between two scrapes;
    * processes that moved elsewhere (a daemon asked to work, ``docker run``) are not descendants;
    * the time of monitoring that ended between two scrapes is known as of the earlier one, so what
      it used after that counts as the payload's.

    Memory is the sum of the proportional shares (PSS), for processes above 256 MiB or not readable
    by us the resident set (RSS), which counts shared pages once per process.

    Args:
        root: The job script. It is part of the payload.
        excluded: Roots of subtrees that are monitoring. This process's own subtree always is,
            and so are, without their other children, the processes between it and the root.
        proc: Mount point of procfs.
        own: This process.
    """

    def __init__(
        self, root: int, excluded: Iterable[int], proc: Path, own: int | None = None
    ) -> None:
        self._proc = proc
        self._root = root
        own = os.getpid() if own is None else own
        # Identified now: later the same number may be another process.
        self._root_key = self._key_of(root)
        self._monitoring_roots = {self._key_of(pid) for pid in (*excluded, own)}
        self._lone = {self._key_of(pid) for pid in self._between(own)}
        self._is_payload: dict[Key, bool] = {}
        self._last: dict[Key, Stat] = {}
        self._moved = {True: (0, 0), False: (0, 0)}
        self._highest: dict[str, float] = {}

    def read(self) -> Readings:
        """Return what the tree uses now, in base units, under the names of ``FAMILIES``.

        Raises:
            NoData: The root has ended.
        """
        seen = {stat.pid: stat for stat in self._scan()}
        if self._root not in seen or seen[self._root].key != self._root_key:
            raise NoData(f"process {self._root}, the job script, has ended")
        members = self._classify(seen)
        self._settle(members)
        payload = [stat for stat in members if self._is_payload[stat.key]]
        monitoring = [stat for stat in members if not self._is_payload[stat.key]]
        now = self._again(members)
        readings = self._cpu(now)
        readings["job_source_info"] = {"process_tree": 1.0}
        readings["job_processes"] = float(len(payload))
        readings["job_threads"] = float(sum(stat.threads for stat in payload))
        used, anonymous = self._memory(payload)
        readings["job_memory_used_bytes"] = float(used)
        readings["job_memory_anonymous_bytes"] = float(anonymous)
        readings["job_monitoring_memory_used_bytes"] = float(self._memory(monitoring)[0])
        cpus = _allowed_cpus(kernel_text.read(self._proc / str(self._root) / "status") or "")
        if cpus is not None:
            readings["job_cpus"] = float(cpus)
        return readings

    def _scan(self) -> Iterator[Stat]:
        for name in os.listdir(self._proc):  # noqa: PTH208 - thousands of names, no Path needed
            if name.isdecimal() and (stat := self._stat(int(name))) is not None:
                yield stat

    def _stat(self, pid: int) -> Stat | None:
        text = kernel_text.read(f"{self._proc}/{pid}/stat")
        return parse_stat(text) if text else None

    def _key_of(self, pid: int) -> Key | None:
        stat = self._stat(pid)
        return None if stat is None else stat.key

    def _between(self, own: int) -> list[int]:
        """Return the processes between this one and the root; empty if it is not below it."""
        path: list[int] = []
        stat = self._stat(own)
        while stat is not None and stat.parent > 1:
            if stat.parent == self._root:
                return path
            path.append(stat.parent)
            stat = self._stat(stat.parent)
        return []

    def _classify(self, seen: dict[int, Stat]) -> list[Stat]:
        """Return the members that live, parents first, and note the side of each."""
        children: dict[int, list[Stat]] = defaultdict(list)
        for stat in seen.values():
            children[stat.parent].append(stat)
        remembered = [
            seen[pid] for pid, start in self._is_payload if pid in seen and seen[pid][2] == start
        ]
        members: list[Stat] = []
        side: dict[Key, bool] = {}
        for top in (seen[self._root], *remembered):
            queue = [] if top.key in side else [(top, self._is_payload.get(top.key, True))]
            for stat, inherited in queue:  # grows while it is walked
                if stat.key in side:
                    continue
                payload, below = self._side(stat.key, inherited)
                side[stat.key] = payload
                members.append(stat)
                queue.extend((child, below) for child in children[stat.pid])
        self._is_payload = side
        return members

    def _side(self, key: Key, inherited: bool) -> tuple[bool, bool]:
        """Return whether a process is payload, and whether its children are unless they differ."""
        if key in self._monitoring_roots:
            return False, False
        if key in self._lone:
            return False, True
        known = self._is_payload.get(key, inherited)
        return known, known

    def _settle(self, members: list[Stat]) -> None:
        """Move the time of the processes that ended to the side where it belongs."""
        alive = {stat.key for stat in members}
        ended = [stat for key, stat in self._last.items() if key not in alive]
        by_pid = {stat.pid: key for key, stat in self._last.items()}
        for stat in ended:
            own = self._side_before[stat.key]
            heir = by_pid.get(stat.parent)
            if heir is not None and self._side_before[heir] == own:
                continue
            self._move(own, stat, 1)
            if heir is not None:
                self._move(not own, stat, -1)
        self._side_before = dict(self._is_payload)

    def _move(self, payload: bool, stat: Stat, sign: int) -> None:
        user, system = self._moved[payload]
        self._moved[payload] = user + sign * stat.user, system + sign * stat.system
