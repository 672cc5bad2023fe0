"""CPU, memory, I/O and pressure of this job on this node, and of its steps and tasks.

Taken from the first of these sources that is there; ``job_source_info{source}`` says which one:

1. ``cgroup_v2``: the group of the job, found from ``/proc/self/cgroup`` (Slurm with job ids or
   SLUIDs, psslurm);
2. ``cgroup_v1``: the same, controller by controller; a controller without a group of the job leaves
   its families out;
3. ``process_tree``: the live descendants of ``--job-pid``, where there is no group of a job or none
   that accounts CPU time. What it cannot see is in the docstring of ``process_tree.ProcessTree``.

A file that is absent or may not be read leaves its families out. Groups keep what ended processes
have used, and vanish with the last step of the job. In a cgroup namespace that begins below the job
(some containers) the job is out of sight, and the process tree is what remains.

**Monitoring.** The step that the exporter runs in is the monitoring, except ``batch``,
``interactive`` and ``extern``, where the payload may run too: there the families
``job_monitoring_*`` are absent. The CPU time of the job includes the monitoring's (take it off).
With control groups so do its other families, with the process tree they do not: ``--exclude-pid``
names the roots of monitoring. The families of calls and of storage leave out the monitoring's step,
the exporter itself and what is below ``--exclude-pid``.

**I/O.** ``job_io_*`` is what the kernel accounts to the group at block devices: local disks, for
which the site must have switched the controller on. ``job_syscall_*`` is what the processes
themselves asked for with read(2), write(2) and their like, wherever it went: a local disk, Lustre,
NFS, the page cache, a pipe; not what they map into memory, and not recv(2) and send(2).
``job_storage_*`` is what these calls and mapped memory made the kernel fetch or mark for writing;
what of a network file system is in it depends on its client. The last two come from
``/proc/<pid>/io`` of each process and are lower bounds: what happens between the last look and the
end of a process is lost, unless its parent belongs to the job and waits for it. They never go down.
Inside a container without setuid they are absent: the kernel shows them in one user namespace only.
Up to 256 processes are followed; where a job has more than 48 groups on the node, no more than 48
of them are asked for new processes at a scrape, new groups first, so that what a process did may be
counted some scrapes late.

**Steps and tasks.** ``--cgroup-steps`` says how much of them is told: ``off``, ``steps`` (the
default), ``tasks``. A step costs four series and 0.05 ms a scrape, and a job seldom has more than
five; tasks may be a hundred and more. Of one job no more than 32 steps and 128 tasks on a node ever
have series, those that came first. A step's peak is of that step alone, so the peak of the job can
be below their sum.

``job_threads`` counts threads because that is what ``pids.current`` counts, whatever its name.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters import cgroup_path, cgroup_steps, cgroup_v1, cgroup_v2, kernel_text
from jobmeter_exporters.cgroup_families import FAMILIES
from jobmeter_exporters.cgroup_path import UNIFIED, JobGroups, Locator
from jobmeter_exporters.cgroup_processes import MOST_LISTS, Processes, ProcessLists
from jobmeter_exporters.cgroup_steps import StepUse
from jobmeter_exporters.errors import ExporterError, UnexpectedText
from jobmeter_exporters.families import Readings, merge, to_metrics
from jobmeter_exporters.group_file import read_files
from jobmeter_exporters.open_files import OpenFiles
from jobmeter_exporters.process_io import ProcessIo
from jobmeter_exporters.process_tree import ProcessTree
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

# The payload runs in these steps too, so what they use is not the monitoring's.
SHARED_STEPS = frozenset(
    f"step{dash}{name}" for dash in "_-" for name in ("batch", "interactive", "extern")
)


MOST_OPEN_FILES = 128
"""Of control groups, beside the descriptors of processes (``process_io``) and connections."""


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add what says how much is told of steps and tasks."""
    parser.add_argument(
        "--cgroup-steps",
        choices=cgroup_steps.DETAILS,
        default=cgroup_steps.STEPS,
        help="CPU and memory by step, or by step and task (default: %(default)s)",
    )


def from_settings(settings: Settings) -> Collector:
    """Return the collector for this node."""
    return JobUse(settings)


class JobUse(Collector):
    """CPU, memory, I/O and pressure of the job that this process belongs to.

    A context manager: the end closes the descriptors by which it follows processes.

    Args:
        settings: Where to read, what to tell, and the process ids of the fallback.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._locator = Locator(settings)
        self._oom_kills: dict[str, int] = {}
        self._files = OpenFiles(MOST_OPEN_FILES)
        self._lists = ProcessLists(self._files.read)
        detail = settings.options.get("cgroup_steps", cgroup_steps.STEPS)
        self._steps = StepUse(detail, self._files.read)
        self._io = ProcessIo(settings.proc, (*settings.exclude_pids, os.getpid()))
        self._tree_io = ProcessIo(settings.proc)  # the tree knows which side each is on
        self._tree = (
            ProcessTree(settings.job_pid, settings.exclude_pids, settings.proc)
            if settings.job_pid is not None
            else None
        )

    def __enter__(self) -> JobUse:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._io.close()
        self._tree_io.close()
        self._files.close()
        if self._tree is not None:
            self._tree.close()

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
            groups = self._locator.locate()
        except NoData as reason:
            if self._tree is None:
                raise NoData(f"{reason}, and no --job-pid was given") from None
            return self._tree_readings(self._tree, problems)
        if self._tree is not None and not {UNIFIED, "cpuacct"} & groups.job.keys():
            return self._tree_readings(self._tree, problems)
        readings = self._group_readings(groups, problems)
        _name_devices(readings, self._settings.block_devices)
        readings["job_source_info"] = {groups.source: 1.0}
        return readings

    def _tree_readings(self, tree: ProcessTree, problems: list[str]) -> Readings:
        return tree.read() | self._io_readings(self._tree_io, tree.sides, problems)

    def _group_readings(self, groups: JobGroups, problems: list[str]) -> Readings:
        readings: Readings = {}
        own = {name: path for name, path in groups.step.items() if _is_ours(path)}
        table = cgroup_v2 if groups.source == "cgroup_v2" else cgroup_v1
        read_files(groups.job, table.JOB, readings, problems, self._files.read)
        read_files(own, table.MONITORING, readings, problems, self._files.read)
        # Any v1 tree knows the processes; that of memory knows more.
        root = groups.job.get("memory") or next(iter(groups.job.values()))
        below = cgroup_path.subgroups(root)
        merge(readings, self._steps.read(groups.job, below, groups.source, problems))
        processes = self._lists.read(below)
        if processes.total is not None:
            readings["job_processes"] = processes.total
        if "memory" in groups.job:
            merge(readings, self._oom_kills_v1(processes.looked_at))
        self._files.close_unread()
        sides = _sides(processes, root, own)
        merge(readings, self._io_readings(self._io, sides, problems))
        return readings

    def _io_readings(self, io: ProcessIo, sides: dict[int, bool], problems: list[str]) -> Readings:
        try:
            return io.read(sides)
        except UnexpectedText as problem:
            problems.append(f"{self._settings.proc}: {problem}")
            return {}

    def _oom_kills_v1(self, groups: list[str]) -> Readings:
        """Sum the kills over the groups of the job, each of which counts its own alone.

        The last count of a group that is gone is kept, so the total never goes down. A group often
        goes with the process that was killed, before anyone has read its count: the total is a
        lower bound, and none seen is no reason to claim zero.
        """
        read = self._files.read if len(groups) <= MOST_LISTS else kernel_text.read
        for group in groups:
            text = read(f"{group}/memory.oom_control")
            kills = None if text is None else cgroup_v1.parse_oom_kills(text)
            if kills:  # a script may start a hundred thousand steps
                self._oom_kills[group] = kills
        total = sum(self._oom_kills.values())
        return {"job_memory_oom_kills_total": float(total)} if total else {}


def _sides(processes: Processes, job: str, own: dict[str, str]) -> dict[int, bool]:
    """Return the processes of the job to whether they are payload."""
    steps = {path.rpartition("/")[2] for path in own.values()}
    sides = {}
    for group, pids in processes.by_group.items():
        step = group[len(job) + 1 :].partition("/")[0]
        sides.update(dict.fromkeys(pids, step not in steps))
    return sides


def _is_ours(step: str) -> bool:
    return step.rpartition("/")[2] not in SHARED_STEPS


def _name_devices(readings: Readings, block_devices: Path) -> None:
    """Replace ``8:0`` by ``sda`` where the kernel gives the name, in place."""
    for family in cgroup_v2.IO_STAT.values():
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
