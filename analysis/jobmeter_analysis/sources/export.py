"""From a recording to a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobmeter.errors import RecordingError, RunFolderError, SpecError
from jobmeter.events import read_events
from jobmeter.manifest import read_manifest
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import Window, phases_from
from jobmeter_analysis.recording import Recording, Selector, widened
from jobmeter_analysis.sources.parquet import Origin, write_parquet
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

_EVERYTHING = (Selector("", suffix=True),)


@dataclass(frozen=True)
class Exported:
    """What was written."""

    series: int
    samples: int
    problems: tuple[str, ...]


def export(
    recording: Recording,
    path: Path,
    origin: Origin,
    *,
    interval_ms: float = 0,
    force: bool = False,
) -> Exported:
    """Write all series of a recording into a Parquet file.

    Of a window also what brackets it: five minutes, or three intervals if that is more.

    Args:
        recording: Where the samples are.
        path: The file.
        origin: Where they come from, and which window is exported.
        interval_ms: Between two samples, as far as it is known.
        force: Whether a file that is there already is replaced.

    Raises:
        RecordingError: nothing can be read, nothing is there, or the file cannot be written.
    """
    if path.exists() and not force:
        raise RecordingError(f"{path}: is there already; give --force to replace it")
    if not path.parent.is_dir():
        raise RecordingError(f"{path.parent}: no such folder; make it first")
    span = origin.window and widened(origin.window, interval_ms)
    series = recording.select(_EVERYTHING, span)
    if not series:
        raise RecordingError(f"nothing to export: {'; '.join(recording.problems)}")
    problems = recording.problems
    write_parquet(series, path, replace(origin, problems=problems), replace=force)
    return Exported(len(series), sum(one.times_ms.size for one in series), problems)


def export_attempt(
    run: RunPaths,
    attempts: Sequence[AttemptPaths],
    path: Path,
    window: Window | None,
    phase: str | None,
    *,
    force: bool = False,
) -> Exported:
    """Write all series of one attempt into a Parquet file.

    Args:
        run: The run.
        attempts: What was asked for; one.
        path: The file.
        window: What to export; None for everything, or the phase.
        phase: Name of a phase, instead of a window.
        force: Whether a file that is there already is replaced.

    Raises:
        RunFolderError: there are several attempts.
        SpecError: there is no such phase.
        RecordingError: as ``export``.
    """
    if len(attempts) > 1:
        names = ", ".join(str(one.attempt) for one in attempts)
        raise RunFolderError(
            f"{run.run}: has {len(attempts)} attempts and a file holds one; give one of {names}"
        )
    (attempt,) = attempts
    manifest = read_manifest(run.manifest)
    if phase is not None:
        window = _phase(attempt, phase)
    origin = Origin(
        f"run {manifest.run_id}, attempt {attempt.name}", window, manifest.run_id, attempt.name
    )
    interval_ms = manifest.interval_s * 1000
    recording = PrometheusFolder(attempt.tsdb)
    return export(recording, path, origin, interval_ms=interval_ms, force=force)


def _phase(attempt: AttemptPaths, name: str) -> Window:
    events = read_events(attempt.events).events
    last_ms = max((event.time_ms for event in events), default=0)
    phases = {phase.name: phase.window for phase in phases_from(events, last_ms)}
    if name not in phases:
        known = f"phases of this attempt: {', '.join(phases)}" if phases else "it has no phases"
        raise SpecError(f"--phase {name}: {attempt.attempt} has no such phase; {known}")
    return phases[name]
