"""What the helpers of the monitoring cost on this node: its scripts, and a container runtime.

All processes at and below ``--exclude-pid`` count, the roots of the monitoring, but this one and
the programs that tell of themselves (``--helpers-known``): so the sum of all parts counts each
process once. A container costs a process that started it and, without privileges, one that serves
its image (``squashfuse``).

CPU time is that of the live processes and of the children that they have waited for. The time of a
known program that ended passes to the process that waited for it; as of the last look it is taken
off again. Memory is the sum of the resident sets: what two processes share counts twice.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters import kernel_text, process_text
from jobmeter_exporters.families import Family, Readings, to_metrics
from jobmeter_exporters.process_text import PAGE_BYTES, Key, Stat
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

FAMILIES = {
    "monitoring_helpers_cpu_seconds_total": Family(
        "CPU time of the helpers and of the children that they have waited for.",
        source="/proc/<pid>/stat",
    ),
    "monitoring_helpers_memory_bytes": Family(
        "Resident sets of the helpers.", source="/proc/<pid>/stat"
    ),
    "monitoring_helpers_processes": Family("Helpers that live now.", source="/proc/<pid>/task"),
}

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LONGEST_NAME = 15
"""Of a command, as the kernel keeps it."""


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add what says which programs are no helpers."""
    parser.add_argument(
        "--helpers-known",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="name of a program that tells of itself what it costs; may be repeated",
    )


def from_settings(settings: Settings) -> Collector:
    """Return the collector for this node."""
    return Helpers(settings.exclude_pids, settings.options.get("helpers_known", ()), settings.proc)


class Helpers(Collector):
    """CPU time and memory of the monitoring's processes that do not tell of themselves.

    Args:
        roots: Process ids; what is below them counts too.
        known: Names of programs that do not count.
        proc: Mount point of procfs.
        own: This process, which does not count either.
    """

    def __init__(
        self, roots: Iterable[int], known: Iterable[str], proc: Path, own: int | None = None
    ) -> None:
        self._proc = proc
        self._own = os.getpid() if own is None else own
        self._known_names = frozenset(name[:LONGEST_NAME] for name in known)
        # Identified now: later the same number may be another process.
        self._roots = tuple(stat.key for pid in roots if (stat := self._stat(pid)) is not None)
        self._known: dict[Key, int] = {}
        self._ended_ticks = 0
        self._highest_ticks = 0

    def collect(self) -> Iterator[Metric]:
        """Yield the families.

        Raises:
            NoData: No root lives, or this kernel does not list a process's children.
            UnexpectedText: A file of procfs is not as documented.
        """
        if kernel_text.read(f"{self._proc}/{self._own}/task/{self._own}/children") is None:
            raise NoData("this kernel does not list the children of a process")
        helpers, known = self._processes()
        if not helpers:
            raise NoData("no --exclude-pid lives, the processes that the monitoring starts from")
        ended = self._known.keys() - known.keys()
        self._ended_ticks += sum(self._known.pop(key) for key in ended)
        self._known.update(known)
        ticks = sum(stat.user + stat.system for stat in helpers) - self._ended_ticks
        self._highest_ticks = max(self._highest_ticks, ticks)
        readings: Readings = {
            "monitoring_helpers_cpu_seconds_total": self._highest_ticks / TICKS_PER_SECOND,
            "monitoring_helpers_memory_bytes": float(
                sum(stat.resident_pages for stat in helpers) * PAGE_BYTES
            ),
            "monitoring_helpers_processes": float(len(helpers)),
        }
        yield from to_metrics(readings, FAMILIES)

    def _processes(self) -> tuple[list[Stat], dict[Key, int]]:
        """Return the helpers that live, and the CPU ticks of the known programs below them."""
        helpers, known = [], {}
        roots = dict(self._roots)
        queue = list(roots)
        for pid in queue:  # grows while it is walked
            text = kernel_text.read(f"{self._proc}/{pid}/stat")
            if not text:
                continue
            stat = process_text.parse_stat(text)
            if roots.get(pid, stat.started) != stat.started:
                continue
            queue += self._children(pid)
            if pid == self._own or _name_in(text) in self._known_names:
                known[stat.key] = stat.user + stat.system
            else:
                helpers.append(stat)
        return helpers, known

    def _stat(self, pid: int) -> Stat | None:
        text = kernel_text.read(f"{self._proc}/{pid}/stat")
        return process_text.parse_stat(text) if text else None

    def _children(self, pid: int) -> Iterator[int]:
        """Yield the children of a process, whichever of its threads started them."""
        try:
            threads = os.listdir(f"{self._proc}/{pid}/task")  # noqa: PTH208
        except OSError:
            return
        for thread in threads:
            text = kernel_text.read(f"{self._proc}/{pid}/task/{thread}/children")
            yield from (int(word) for word in (text or "").split())


def _name_in(stat: str) -> str:
    """Return the command in the text of ``/proc/<pid>/stat``.

    >>> _name_in("7 (a (b) c) S 1")
    'a (b) c'
    """
    return stat.partition("(")[2].rpartition(")")[0]
