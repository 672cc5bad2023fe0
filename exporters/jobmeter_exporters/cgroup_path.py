r"""Where the control groups of this job are, from the point of view of a process inside it.

Layouts (the part in angle brackets varies):

* Slurm, v2: ``/<system.slice>/[<node>_]slurmstepd.scope/<job>/step_<id>/user/task_<n>``. Until
  25.11 ``<job>`` is ``job_<id>``, since 26.05 it is the SLUID (``s5K1KKYAYG5D00``), so nothing here
  looks at its form. https://slurm.schedmd.com/cgroup_v2.html
* Slurm, v1, once per controller: ``/slurm[_<node>]/uid_<uid>/job_<id>/step_<id>/task_<n>``.
  https://slurm.schedmd.com/cgroups.html
* psslurm, v2: ``/<prefix>/user-<name>/job-<id>/step-<id>/tasks``; the job script itself lies in
  ``job-<id>/tasks``. https://github.com/ParaStation/psmgmt, plugins/jail/scripts/jail-main.sh

``/proc/self/cgroup`` and the root column of ``/proc/self/mountinfo`` are both relative to the
cgroup namespace of the reader (cgroup_namespaces(7)), so the folder of a group is the mount point
plus what remains of the path after the root of the mount.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jobmeter_exporters import kernel_text
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

UNIFIED = "unified"
"""Stands in for the name of a controller where all of them share one tree (v2)."""

MOST_GROUPS = 512
"""What is below a job is walked up to here."""

Parts = tuple[str, ...]


class NoJobGroup(NoData):
    """This process is in no control group of a Slurm job."""


class Membership(NamedTuple):
    """One line of ``/proc/self/cgroup``."""

    controllers: tuple[str, ...]
    """``(UNIFIED,)`` for the v2 line."""
    path: Parts


class Mount(NamedTuple):
    """One control group file system of ``/proc/self/mountinfo``."""

    controllers: frozenset[str]
    """``{UNIFIED}`` for cgroup2; for v1 all super options, the controllers among them."""
    root: Parts
    point: str


class JobPath(NamedTuple):
    """The job's group and, below it, the step of the reader; None outside of any step."""

    job: Parts
    step: Parts | None


@dataclass(frozen=True)
class JobGroups:
    """The folders of this job's groups.

    Args:
        source: ``cgroup_v2`` or ``cgroup_v1``.
        job: Folder of the job by controller; v2 has the one key ``UNIFIED``.
        step: The same for the step that this process is in.
    """

    source: str
    job: dict[str, str]
    step: dict[str, str]


def parse_membership(text: str) -> list[Membership]:
    r"""Return the lines of ``/proc/<pid>/cgroup`` (cgroups(7)); malformed ones are left out.

    >>> parse_membership("0::/system.slice/x\n")
    [Membership(controllers=('unified',), path=('system.slice', 'x'))]
    """
    found = []
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and fields[2].startswith("/"):
            controllers = (UNIFIED,) if fields[0] == "0" else tuple(fields[1].split(","))
            found.append(Membership(controllers, _parts(fields[2])))
    return found


def parse_mounts(text: str) -> list[Mount]:
    """Return the control group mounts of ``/proc/<pid>/mountinfo`` (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if not dash or len(left) < 6 or len(right) < 3 or right[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = [UNIFIED] if right[0] == "cgroup2" else right[2].split(",")
        root, point = _unescape(left[3]), _unescape(left[4])
        found.append(Mount(frozenset(controllers), _parts(root), point))
    return found


def job_path_v2(path: Parts) -> JobPath | None:
    """Return the job and step part of a v2 path, or None where no Slurm job is in it.

    >>> job_path_v2(("n1_slurmstepd.scope", "s5K1KKYAYG5D00", "step_0", "user", "task_0"))
    JobPath(job=('n1_slurmstepd.scope', 's5K1KKYAYG5D00'), step=('step_0',))
    """
    for index in range(len(path) - 2, -1, -1):
        # slurmstepd.scope/system holds the daemon that keeps the scope alive, not a job.
        if path[index].endswith("slurmstepd.scope") and path[index + 1] != "system":
            return _split(path, index + 2, "step_")
        if path[index].startswith("user-") and re.fullmatch(r"job-\d+", path[index + 1]):
            return _split(path, index + 2, "step-")
    return None


def job_path_v1(path: Parts) -> JobPath | None:
    """Return the job and step part of a v1 path, or None where no Slurm job is in it.

    >>> job_path_v1(("slurm", "uid_1000", "job_7", "step_batch", "task_0"))
    JobPath(job=('slurm', 'uid_1000', 'job_7'), step=('step_batch',))
    """
    for index in range(len(path) - 1):
        if re.fullmatch(r"uid_\d+", path[index]) and path[index + 1].startswith("job_"):
            return _split(path, index + 2, "step_")
    return None


class Locator:
    """Finds the job's groups, and again only when something has changed.

    The table of mounts, which may be long, takes two tenths of a millisecond. It is not read while
    the groups are there, nor where this process is in no group of a job.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = f"{settings.proc}/self/cgroup"
        self._membership: str | None = None
        self._found: JobGroups | None = None
        self._none: str | None = None

    def locate(self) -> JobGroups:
        """Return what the function of this name does.

        Raises:
            NoData: As that.
        """
        membership = kernel_text.read(self._path)
        if membership != self._membership:
            self._membership, self._found, self._none = membership, None, None
        if self._none is not None:
            raise NoData(self._none)
        if self._found is None or not all(map(os.path.isdir, self._found.job.values())):
            self._found = self._locate()
        return self._found

    def _locate(self) -> JobGroups:
        try:
            return locate(self._settings)
        except NoJobGroup as none:
            self._none = str(none)
            raise


def locate(settings: Settings) -> JobGroups:
    """Return the folders of the job that this process belongs to.

    Raises:
        NoJobGroup: This process is in no Slurm job group.
        NoData: It is in one that is not mounted here.
    """
    membership = parse_membership(kernel_text.read(settings.proc / "self" / "cgroup") or "")
    named = [(controllers, _job_path(controllers, path)) for controllers, path in membership]
    if all(found is None for _, found in named):
        raise NoJobGroup("this process is in no control group of a Slurm job")
    mounts = parse_mounts(kernel_text.read(settings.proc / "self" / "mountinfo") or "")
    job: dict[str, str] = {}
    step: dict[str, str] = {}
    for controllers, found in named:
        if found is None:
            continue
        for controller in controllers:
            folder = _folder(found.job, controller, mounts, settings.cgroup_root)
            if folder is not None:
                job[controller] = folder
                if found.step is not None:
                    step[controller] = "/".join((folder, *found.step))
    if UNIFIED in job:
        return JobGroups("cgroup_v2", {UNIFIED: job[UNIFIED]}, _only(UNIFIED, step))
    if job:
        return JobGroups("cgroup_v1", job, step)
    raise NoData("the control group of this job is not visible in any mount")


def subgroups(group: str) -> list[str]:
    """Return ``group`` and the groups below it, parents first, ``MOST_GROUPS`` at the most.

    Nothing below the groups of tasks, in which users cannot make any.
    """
    found = [group]
    for path in found:  # grows while it is walked
        if path.rpartition("/")[2].startswith("task"):
            continue
        try:
            # Two links mean no folder inside: a look instead of a listing of some sixty files.
            if os.stat(path).st_nlink == 2:  # noqa: PTH116 - a string already, and often
                continue
            with os.scandir(path) as entries:
                found.extend(sorted(entry.path for entry in entries if entry.is_dir()))
        except OSError:
            continue  # a step may end while it is looked at
        if len(found) >= MOST_GROUPS:
            return found[:MOST_GROUPS]
    return found


def step_name(folder: str) -> str | None:
    """Return the step that the group of this name is of: its number, ``batch``, ``extern``.

    >>> step_name("step_batch"), step_name("step-0"), step_name("tasks")
    ('batch', '0', None)
    """
    return folder[5:] if folder.startswith(("step_", "step-")) else None


def task_name(folder: str) -> str | None:
    """Return the task that the group of this name is of: its number, or ``special``.

    >>> task_name("task_3"), task_name("tasks")
    ('3', None)
    """
    return folder[5:] if folder.startswith("task_") else None


def _job_path(controllers: tuple[str, ...], path: Parts) -> JobPath | None:
    return job_path_v2(path) if UNIFIED in controllers else job_path_v1(path)


def _split(path: Parts, end: int, prefix: str) -> JobPath:
    below = path[end : end + 1]
    return JobPath(path[:end], below if below and below[0].startswith(prefix) else None)


def _only(key: str, mapping: dict[str, str]) -> dict[str, str]:
    return {key: mapping[key]} if key in mapping else {}


def _folder(group: Parts, controller: str, mounts: list[Mount], cgroup_root: Path) -> str | None:
    # The last mount over a folder is the one that is seen there.
    for mount in reversed(mounts):
        if controller in mount.controllers and group[: len(mount.root)] == mount.root:
            folder = "/".join((_rebased(mount.point, cgroup_root), *group[len(mount.root) :]))
            if os.path.isdir(folder):  # noqa: PTH112 - a string already
                return folder
    return None


def _rebased(point: str, cgroup_root: Path) -> str:
    standard = "/sys/fs/cgroup"
    if point == standard or point.startswith(standard + "/"):
        return f"{cgroup_root}{point[len(standard) :]}"
    return point


def _parts(path: str) -> Parts:
    return tuple(part for part in path.split("/") if part)


def _unescape(field: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
