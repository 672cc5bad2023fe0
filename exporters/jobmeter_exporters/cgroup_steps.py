"""The part that each step of a job, and each of its tasks, has in what the job uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jobmeter_exporters import cgroup_path, cgroup_v1, cgroup_v2
from jobmeter_exporters.families import Labels, Readings, merge
from jobmeter_exporters.group_file import GroupFile, read_files
from jobmeter_exporters.open_files import Read

OFF, STEPS, TASKS = DETAILS = ("off", "steps", "tasks")

MOST_STEPS = 32
MOST_TASKS = 128


class Part(NamedTuple):
    """A step or a task: the values of its labels, and its group below that of the job."""

    labels: Labels
    below: str


class StepUse:
    """Reads the groups of steps and tasks; no more than ``MOST_STEPS`` and ``MOST_TASKS`` of them.

    The limits hold for the life of the exporter: a script that calls srun a thousand times would
    leave as many series behind. Who came first stays.

    Args:
        detail: One of ``DETAILS``.
        read: Reads a file.
    """

    def __init__(self, detail: str, read: Read) -> None:
        self._detail = detail
        self._read = read
        self._steps: set[Labels] = set()
        self._tasks: set[Labels] = set()

    def read(
        self,
        job: Mapping[str, str],
        walked: Sequence[str],
        source: str,
        problems: list[str],
    ) -> Readings:
        """Return the families of steps and tasks.

        Args:
            job: The job's folder by controller.
            walked: One of these folders, and those below it.
            source: ``cgroup_v2`` or ``cgroup_v1``.
            problems: Gets what was not as documented.
        """
        steps = find_steps(walked)
        readings: Readings = {"job_steps": float(len(steps))}
        table = cgroup_v2 if source == "cgroup_v2" else cgroup_v1
        if self._detail in (STEPS, TASKS):
            for step in _known(steps, self._steps, MOST_STEPS):
                merge(readings, self._read_part(step, job, table.STEP, problems))
        if self._detail == TASKS:
            for task in _known(find_tasks(walked), self._tasks, MOST_TASKS):
                merge(readings, self._read_part(task, job, table.TASK, problems))
        return readings

    def _read_part(
        self, part: Part, job: Mapping[str, str], files: Sequence[GroupFile], problems: list[str]
    ) -> Readings:
        folders = {controller: f"{folder}/{part.below}" for controller, folder in job.items()}
        found: Readings = {}
        read_files(folders, files, found, problems, self._read)
        return {
            name: {part.labels: value} for name, value in found.items() if isinstance(value, float)
        }


def find_steps(walked: Sequence[str]) -> list[Part]:
    """Return the steps among the groups below a job, whose own group is the first."""
    start = len(walked[0]) + 1
    names = [folder[start:] for folder in walked[1:]]
    return [
        Part((step,), name)
        for name in names
        if "/" not in name and (step := cgroup_path.step_name(name)) is not None
    ]


def find_tasks(walked: Sequence[str]) -> list[Part]:
    """Return the tasks among the groups below a job, whose own group is the first."""
    start = len(walked[0]) + 1
    tasks = []
    for folder in walked[1:]:
        below = folder[start:]
        step = cgroup_path.step_name(below.partition("/")[0])
        task = cgroup_path.task_name(below.rpartition("/")[2])
        if step is not None and task is not None:
            tasks.append(Part((step, task), below))
    return tasks


def _known(parts: Sequence[Part], known: set[Labels], most: int) -> Iterator[Part]:
    for part in parts:
        if part.labels not in known and len(known) < most:
            known.add(part.labels)
        if part.labels in known:
            yield part
