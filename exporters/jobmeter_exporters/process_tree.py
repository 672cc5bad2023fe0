"""A job's resource use from its processes, where no control group accounts for it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jobmeter_exporters import kernel_text, process_text
from jobmeter_exporters.cgroup_v2 import parse_cpus
from jobmeter_exporters.families import Readings
from jobmeter_exporters.open_files import OpenFiles
from jobmeter_exporters.process_memory import ProcessMemory
from jobmeter_exporters.process_text import Key, Stat
from jobmeter_exporters.watched import NoData

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

MOST_OPEN_FILES = 128
"""One for each process."""

TURNS = 32
"""Scrapes in which all strangers are asked again. A node may run a thousand, kernel threads most of
them; and the id of one passes to another process only when all ids were used up meanwhile."""


class Member(NamedTuple):
    """A process of the tree, and whether it is payload or monitoring."""

    stat: Stat
    payload: bool


class ProcessTree:
    """CPU time and memory of the live descendants of a process, and of the monitoring among them.

    CPU time is the sum of ``utime + stime + cutime + cstime``: a process carries the time of the
    children it has waited for. What was once below the root stays in the account when it is
    adopted by init. When a process ends, its time passes to its parent; where that parent is
    on the other side (monitoring or payload) or outside, the last value seen is moved by hand. The
    CPU time of the job is that of both sides, as in a control group.

    Limits, all on the low side, for a total never goes down:

    * the last moments of a process whose parent does not wait (double fork, SIGCHLD ignored) are
      lost, and all of it if it lived between two scrapes;
    * processes that moved elsewhere (a daemon asked to work, ``docker run``) are not descendants;
    * the time of monitoring that ended between two scrapes is known as of the earlier one, so what
      it used after that counts as the payload's.

    Memory is the sum of what ``process_memory`` says of each process.

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
        self._last: dict[Key, Member] = {}
        self._strangers: set[int] = set()
        self._turn = 0
        self._moved_ticks = {True: [0, 0], False: [0, 0]}
        self._highest: dict[str, float] = {}
        self._memory = ProcessMemory(proc)
        self._files = OpenFiles(MOST_OPEN_FILES)

    def read(self) -> Readings:
        """Return what the tree uses now, in base units, under the names of ``FAMILIES``.

        Raises:
            NoData: The root has ended.
            UnexpectedText: A file of procfs is not as documented.
        """
        seen = self._scan()
        if self._root not in seen or seen[self._root].key != self._root_key:
            raise NoData(f"process {self._root}, the job script, has ended")
        members = self._classify(seen)
        self._strangers |= seen.keys()
        self._strangers.difference_update(member.stat.pid for member in members)
        alive = {member.stat.key: member for member in members}
        self._settle(alive)
        # Those known before have been read in this order, those that are new have not.
        in_order = alive.keys() <= self._last.keys()
        self._last = alive
        readings: Readings = {
            "job_source_info": {"process_tree": 1.0},
            **self._cpu_readings(members if in_order else self._looked_at_again()),
            **self._memory_readings(members),
            **self._count_readings([member.stat for member in members if member.payload]),
        }
        self._files.close_unread()
        return readings

    def close(self) -> None:
        """Close the files that are open."""
        self._files.close()

    @property
    def sides(self) -> dict[int, bool]:
        """Its processes as of the last ``read``, and whether they are payload."""
        return {member.stat.pid: member.payload for member in self._last.values()}

    def _scan(self) -> dict[int, Stat]:
        """Return every process but those known to be strangers, of whom some are asked in turns.

        A stranger stays one, but its id may pass to a process of the job. The members of the last
        time come first and in the order in which they began, so parents before their children.
        """
        self._turn += 1
        alive = {int(name) for name in os.listdir(self._proc) if name.isdecimal()}  # noqa: PTH208
        self._strangers &= alive
        members = [pid for pid, _ in self._last if pid in alive]
        asked = {pid for pid in self._strangers if (pid + self._turn) % TURNS == 0}
        others = sorted(asked | (alive - self._strangers).difference(members))
        stats = [self._stat_again(pid) for pid in members] + [self._stat(pid) for pid in others]
        return {stat.pid: stat for stat in stats if stat is not None}

    def _stat(self, pid: int) -> Stat | None:
        text = kernel_text.read(f"{self._proc}/{pid}/stat")
        return process_text.parse_stat(text) if text else None

    def _stat_again(self, pid: int) -> Stat | None:
        text = self._files.read(f"{self._proc}/{pid}/stat")
        return process_text.parse_stat(text) if text else None

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

    def _classify(self, seen: dict[int, Stat]) -> list[Member]:
        """Return the members that live, parents first."""
        children: dict[int, list[Stat]] = defaultdict(list)
        for stat in seen.values():
            children[stat.parent].append(stat)
        found: dict[Key, Member] = {}
        queue = [(seen[self._root], True)]
        # Those adopted by init are not below the root any more.
        queue += [
            (seen[pid], member.payload)
            for (pid, started), member in self._last.items()
            if pid in seen and seen[pid].started == started
        ]
        for stat, inherited in queue:  # grows while it is walked
            if stat.key not in found:
                payload, below = self._side(stat.key, inherited)
                found[stat.key] = Member(stat, payload)
                queue += [(child, below) for child in children[stat.pid]]
        return sorted(found.values(), key=lambda member: member.stat.started)

    def _side(self, key: Key, inherited: bool) -> tuple[bool, bool]:
        """Return whether a process is payload, and whether its children are by default."""
        if key in self._monitoring_roots:
            return False, False
        if key in self._lone:
            return False, True
        payload = self._last[key].payload if key in self._last else inherited
        return payload, payload

    def _settle(self, alive: Mapping[Key, Member]) -> None:
        """Move the time of the processes that ended to the side where it belongs."""
        by_pid = {member.stat.pid: member for member in self._last.values()}
        for key, member in self._last.items():
            heir = by_pid.get(member.stat.parent)
            if key in alive or (heir is not None and heir.payload == member.payload):
                continue
            self._move(member.payload, member.stat, 1)
            if heir is not None:
                self._move(heir.payload, member.stat, -1)

    def _move(self, payload: bool, stat: Stat, sign: int) -> None:
        self._moved_ticks[payload][0] += sign * stat.user
        self._moved_ticks[payload][1] += sign * stat.system

    def _looked_at_again(self) -> list[Member]:
        """Return the members that still live, each read after its parent.

        In this order a child that ends meanwhile is missed until the next scrape. In the other
        order it would count twice, and a total that never goes down would keep the excess.
        """
        now = []
        for key, member in self._last.items():
            stat = self._stat_again(member.stat.pid)
            if stat is not None and stat.key == key:
                now.append(Member(stat, member.payload))
        self._last.update((member.stat.key, member) for member in now)
        return now

    def _cpu_readings(self, members: list[Member]) -> Readings:
        ticks = {side: list(moved) for side, moved in self._moved_ticks.items()}
        for stat, payload in members:
            ticks[payload][0] += stat.user
            ticks[payload][1] += stat.system
        both = [payload + monitoring for payload, monitoring in zip(*ticks.values(), strict=True)]
        user = self._rising("user", both[0] / TICKS_PER_SECOND)
        system = self._rising("system", both[1] / TICKS_PER_SECOND)
        return {
            "job_cpu_seconds_total": user + system,
            "job_cpu_user_seconds_total": user,
            "job_cpu_system_seconds_total": system,
            "job_monitoring_cpu_seconds_total": self._rising(
                "monitoring", sum(ticks[False]) / TICKS_PER_SECOND
            ),
        }

    def _rising(self, name: str, value: float) -> float:
        self._highest[name] = max(value, self._highest.get(name, 0.0))
        return self._highest[name]

    def _memory_readings(self, members: list[Member]) -> Readings:
        used = {True: 0, False: 0}
        anonymous = 0
        memory = self._memory.read(member.stat for member in members)
        for stat, payload in members:
            one = memory[stat.key]
            used[payload] += one.used
            anonymous += one.anonymous if payload else 0
        return {
            "job_memory_used_bytes": float(used[True]),
            "job_memory_anonymous_bytes": float(anonymous),
            "job_monitoring_memory_used_bytes": float(used[False]),
        }

    def _count_readings(self, payload: list[Stat]) -> Readings:
        readings: Readings = {
            "job_processes": float(len(payload)),
            "job_threads": float(sum(stat.threads for stat in payload)),
        }
        status = self._files.read(f"{self._proc}/{self._root}/status")
        cpus = process_text.parse_allowed_cpus(status or "")
        return readings | parse_cpus(cpus or "")
