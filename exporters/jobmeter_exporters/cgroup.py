"""CPU, memory, I/O and pressure of this job on this node.

What is emitted, and from where: ``cgroup.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters import cgroup_path, cgroup_v1, cgroup_v2, kernel_text
from jobmeter_exporters.cgroup_families import FAMILIES
from jobmeter_exporters.cgroup_path import UNIFIED, JobGroups
from jobmeter_exporters.errors import ExporterError, UnexpectedText
from jobmeter_exporters.families import Readings, merge, to_metrics
from jobmeter_exporters.group_file import GroupFile
from jobmeter_exporters.process_tree import ProcessTree
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

# The payload runs in these steps too, so what they use is not the monitoring's.
SHARED_STEPS = frozenset(
    f"step{dash}{name}" for dash in "_-" for name in ("batch", "interactive", "extern")
)


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add none: the options it has are those of every exporter that looks at processes."""


def from_settings(settings: Settings) -> Collector:
    """Return the collector for this node."""
    return JobUse(settings)


class JobUse(Collector):
    """CPU, memory, I/O and pressure of the job that this process belongs to.

    They come from the job's control group, which keeps what its ended steps have used. Where
    there is none, or (v1) none that accounts CPU time, they come from the processes below
    ``settings.job_pid``. The step that this process is in is reported as the monitoring, unless it
    is one that the job script or a login shell runs in.

    Args:
        settings: Where to read, and the process ids of the fallback.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._oom_kills: dict[str, int] = {}
        self._tree = (
            ProcessTree(settings.job_pid, settings.exclude_pids, settings.proc)
            if settings.job_pid is not None
            else None
        )

    def collect(self) -> Iterator[Metric]:
        """Yield one family per number that can be read now, in base units.

        Raises:
            NoData: Neither a control group of a job nor a process to start from.
            ExporterError: Some files read, and others were not as documented.
        """
        problems: list[str] = []
        yield from to_metrics(self._readings(problems), FAMILIES)
        if problems:
            raise ExporterError(
                f"{'; '.join(problems)}; the other families are complete, please report this"
            )

    def _readings(self, problems: list[str]) -> Readings:
        try:
            groups = cgroup_path.locate(self._settings)
        except NoData as reason:
            if self._tree is None:
                raise NoData(f"{reason}, and no --job-pid was given") from None
            return self._tree.read()
        if self._tree is not None and not {UNIFIED, "cpuacct"} & groups.job.keys():
            return self._tree.read()
        readings = self._group_readings(groups, problems)
        _name_devices(readings, self._settings.block_devices)
        readings["job_source_info"] = {groups.source: 1.0}
        return readings

    def _group_readings(self, groups: JobGroups, problems: list[str]) -> Readings:
        readings: Readings = {}
        own = {name: path for name, path in groups.step.items() if _is_ours(path)}
        if groups.source == "cgroup_v2":
            _read_files(groups.job, cgroup_v2.JOB, readings, problems)
            _read_files(own, cgroup_v2.MONITORING, readings, problems)
        else:
            _read_files(groups.job, cgroup_v1.JOB, readings, problems)
            _read_files(own, cgroup_v1.MONITORING, readings, problems)
        # Any v1 tree knows the processes; that of memory knows more.
        below = cgroup_path.subgroups(groups.job.get("memory") or next(iter(groups.job.values())))
        processes = cgroup_path.count_processes(below)
        if processes is not None:
            readings["job_processes"] = processes
        if "memory" in groups.job:
            merge(readings, self._oom_kills_v1(below))
        return readings

    def _oom_kills_v1(self, groups: list[str]) -> Readings:
        """Sum the kills over the groups of the job, each of which counts its own alone.

        The last count of a group that is gone is kept, so the total never goes down. A group often
        goes with the process that was killed, before anyone has read its count: the total is a
        lower bound, and none seen is no reason to claim zero.
        """
        for group in groups:
            text = kernel_text.read(f"{group}/memory.oom_control")
            kills = None if text is None else cgroup_v1.parse_oom_kills(text)
            if kills is not None:
                self._oom_kills[group] = kills
        total = sum(self._oom_kills.values())
        return {"job_memory_oom_kills_total": float(total)} if total else {}


def _read_files(
    folders: dict[str, str],
    files: Iterable[GroupFile],
    into: Readings,
    problems: list[str],
) -> None:
    for file, parse, controller in files:
        folder = folders.get(controller)
        text = None if folder is None else kernel_text.read(f"{folder}/{file}")
        if text is None:
            continue
        try:
            merge(into, parse(text))
        except UnexpectedText as problem:
            problems.append(f"{folder}/{file}: {problem}")


def _is_ours(step: str) -> bool:
    return step.rpartition("/")[2] not in SHARED_STEPS


def _name_devices(readings: Readings, block_devices: Path) -> None:
    """Replace ``8:0`` by ``sda`` where the kernel gives the name, in place."""
    for family in ("job_io_read_bytes_total", "job_io_write_bytes_total"):
        by_number = readings.get(family)
        if isinstance(by_number, dict):
            readings[family] = {
                _device_name(number, block_devices): value for number, value in by_number.items()
            }


def _device_name(number: str, block_devices: Path) -> str:
    try:
        return (block_devices / number).readlink().name
    except OSError:
        return number
