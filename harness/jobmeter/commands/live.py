"""What the commands that look at a run while it runs have in common."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobmeter.errors import RunFolderError
from jobmeter.manifest import read_manifest
from jobmeter.paths import AttemptPaths, RunPaths

if TYPE_CHECKING:
    from jobmeter.slurm_now import SlurmNow
    from jobmeter_analysis.live_state import AttemptNow

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run or attempt folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def now_ms() -> int:
    """Return the time, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def find_run(folder: Path) -> tuple[RunPaths, tuple[AttemptPaths, ...]]:
    """Return the run and the attempts that ``folder`` means; none before the job has started.

    Raises:
        RunFolderError: it is no run, and has no attempts either.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise RunFolderError(
            f"{folder}: no such folder; give one that 'jobmeter run' or 'jobmeter submit' printed"
        )
    if folder.parent.name == "attempts":
        return RunPaths(folder.parent.parent), (AttemptPaths(folder),)
    paths = RunPaths(folder)
    attempts = paths.all_attempts()
    if not attempts:
        read_manifest(paths.manifest)  # a folder that is no run says so
    return paths, attempts


def look(
    run: RunPaths, attempts: tuple[AttemptPaths, ...]
) -> tuple[SlurmNow, tuple[AttemptNow, ...]]:
    """Return what Slurm says of a run, and what each attempt is doing."""
    from jobmeter.slurm_now import slurm_now
    from jobmeter_analysis.live_state import attempt_now

    slurm = slurm_now(run, attempts)
    states = [attempt_now(run, one, now_ms(), slurm.over(one.name)) for one in attempts]
    return slurm, tuple(states)
