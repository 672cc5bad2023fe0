"""Which run is meant when nobody says it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobmeter.attach_control import has_ended
from jobmeter.errors import RunFolderError, SchedulerError
from jobmeter.events import read_events
from jobmeter.manifest import RunManifest, read_manifest
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.process import find_program
from jobmeter.slurm import job_state
from jobmeter.slurm_query import job_and_restart
from jobmeter.slurm_words import FINAL_STATES


@dataclass(frozen=True)
class Going:
    """A run that is going on.

    Args:
        paths: Its folder.
        attempt: Its only attempt.
        manifest: What was planned.
    """

    paths: RunPaths
    attempt: AttemptPaths
    manifest: RunManifest


def given_run(folder: Path) -> Going:
    """Return the run that ``folder`` means.

    Raises:
        RunFolderError: it is no run, one whose phases are in its job file, or not going on.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder; give one that 'jobmeter attach' printed")
    in_attempt = folder.parent.name == "attempts"
    paths = RunPaths(folder.parent.parent if in_attempt else folder)
    manifest = read_manifest(paths.manifest)
    if manifest.kind == "job":
        raise RunFolderError(
            f"{paths.run}: this run was not attached to a job; its phases are those of its job file"
        )
    attempts = (AttemptPaths(folder),) if in_attempt else paths.all_attempts()
    if not attempts:
        raise RunFolderError(f"{paths.run}: this run has not begun; see {paths.job_output}")
    going = Going(paths, attempts[-1], manifest)
    if not has_ended(going.attempt) and _job_is_over(going.attempt):
        raise RunFolderError(
            f"{paths.run}: the job of this run is over, and the recording with it; "
            f"'jobmeter analyze {paths.run}' shows its table"
        )
    return going


def only_run(runs: Path, job_id: str | None) -> Going:
    """Return the only run in ``runs`` that is going on.

    Args:
        runs: Folder of run directories.
        job_id: Of the allocation that we are in; None outside of one.

    Raises:
        RunFolderError: there is none, or there are several.
    """
    where = f"{runs}: no attached run is going on here"
    found = list(_going(runs, job_id))
    if not found:
        of_job = f" in job {job_id}" if job_id else ""
        raise RunFolderError(
            f"{where}{of_job}; begin one with 'jobmeter attach', or name its folder"
        )
    if len(found) > 1:
        names = ", ".join(str(one.paths.run) for one in found)
        raise RunFolderError(f"{runs}: several attached runs are going on; name one of {names}")
    return found[0]


def going_in(runs: Path, job_id: str) -> tuple[Going, ...]:
    """Return the runs in ``runs`` that are being recorded in a job."""
    return tuple(_going(runs, job_id))


def _going(runs: Path, job_id: str | None) -> Iterator[Going]:
    for folder in sorted(runs.absolute().iterdir()) if runs.is_dir() else ():
        paths = RunPaths(folder)
        attempts = paths.all_attempts()
        if not attempts or not attempts[-1].commands.exists():
            continue
        attempt = attempts[-1]
        if job_id not in (None, _job_of(attempt)) or has_ended(attempt) or _job_is_over(attempt):
            continue
        yield Going(paths, attempt, read_manifest(paths.manifest))


def _job_of(attempt: AttemptPaths) -> str | None:
    """Return the number of its job, as SLURM_JOB_ID has it."""
    starts = read_events(attempt.events).named("job_start")
    return str(starts[0].fields.get("job_id")) if starts else None


def _job_is_over(attempt: AttemptPaths) -> bool:
    """Whether Slurm says so; not where there is none to say it."""
    of_job = job_and_restart(attempt.name)
    if of_job is None or find_program(["squeue"]) is None:
        return False
    try:
        return job_state(of_job[0]) in FINAL_STATES
    except SchedulerError:
        return False
