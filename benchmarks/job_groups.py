"""A job's control groups in the machine's own trees, laid out as by Slurm, with real processes."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio")
_NUMBERS = itertools.count()
NAMES = {"v1": "uid_1000/job_1", "v2": "slurmstepd.scope/job_1"}
BELOW_STEP = {"v1": "", "v2": "user/"}
JOIN = (
    'for group; do [ "$group" = -- ] && break; echo $$ >"$group/cgroup.procs"; shift; done; shift'
)


@dataclass(frozen=True)
class Job:
    """Groups of one job; the last step is for the monitoring.

    Args:
        trees: The job's folder in every tree of that version.
        version: ``v1`` or ``v2``.
    """

    trees: tuple[Path, ...]
    version: str

    def command(self, step: int, task: int, *command: str) -> list[str]:
        """Return a command line that runs ``command`` as a task of a step."""
        groups = [str(path) for path in self.task(step, task)]
        return ["sh", "-c", f'{JOIN}; exec "$@"', "sh", *groups, "--", *command]

    def task(self, step: int, task: int) -> list[Path]:
        """Return the folders of a task."""
        below = f"step_{step}/{BELOW_STEP[self.version]}task_{task}"
        return [tree / below for tree in self.trees]


def versions() -> list[str]:
    """Return the versions of control groups whose trees can be written here."""
    found = {"v1": _mounts("v1"), "v2": _mounts("v2")}
    return [version for version, mounts in found.items() if mounts]


@contextmanager
def job(version: str, steps: int, tasks: int, processes: int) -> Iterator[Job]:
    """Make ``steps`` of ``tasks`` of ``processes`` that sleep, and one more step without any."""
    tops = [mount / f"jobmeter-bench-{os.getpid()}-{next(_NUMBERS)}" for mount in _mounts(version)]
    made = Job(tuple(top / NAMES[version] for top in tops), version)
    sleepers: list[subprocess.Popen[bytes]] = []
    try:
        for step in range(steps + 1):
            for task in range(tasks if step < steps else 1):
                for folder in made.task(step, task):
                    _make(folder)
                if step < steps:
                    command = made.command(step, task, "sleep", "infinity")
                    sleepers += [subprocess.Popen(command) for _ in range(processes)]
        yield made
    finally:
        for sleeper in sleepers:
            sleeper.kill()
        for sleeper in sleepers:
            sleeper.wait()
        for top in tops:
            _remove(top)


def _mounts(version: str) -> list[Path]:
    if version == "v2":
        candidates = [ROOT, ROOT / "unified"]
        return [path for path in candidates if _usable(path, "cgroup.controllers")][:1]
    return [path for name in V1_CONTROLLERS if _usable(path := ROOT / name, "tasks")]


def _usable(path: Path, file: str) -> bool:
    return (path / file).exists() and os.access(path, os.W_OK)


def _make(folder: Path) -> None:
    """Make a folder and those above it; a group of cpuset is empty, and unusable, before that."""
    for path in (*reversed(folder.parents), folder):
        if path.exists() or ROOT not in path.parents:
            continue
        path.mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (path / file).exists() and (path / "tasks").exists():
                (path / file).write_text((path.parent / file).read_text())


def _remove(top: Path) -> None:
    folders = [path for path in top.rglob("*") if path.is_dir()] if top.exists() else []
    for folder in sorted([*folders, top], key=lambda path: len(path.parts), reverse=True):
        if folder.exists():
            folder.rmdir()
