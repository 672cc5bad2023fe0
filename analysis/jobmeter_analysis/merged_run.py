"""All attempts of a run as one analysis: its table, and what is to stand in its MANIFEST.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobmeter.errors import RunFolderError
from jobmeter.events import read_events
from jobmeter.manifest import RunManifest, read_manifest
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import JOB
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.engine import Analysis, analyze_attempt, table_of
from jobmeter_analysis.merge import Tried, merged_rows
from jobmeter_analysis.validity import SCHEMA_VERSION

MERGED = "merged"
"""In place of an attempt's name: all of them together."""
LEFT_NOTHING = "left nothing that can be read"


def merged(run: RunPaths, attempts: Mapping[AttemptPaths, Analysis | None]) -> Analysis:
    """Put the analyses of several attempts together.

    Args:
        run: Whose they are.
        attempts: In order, the analysis of each; None of one that left nothing.

    Raises:
        RunFolderError: run.json cannot be used.
    """
    manifest = read_manifest(run.manifest)
    tried = [_tried(attempt, analysis) for attempt, analysis in attempts.items()]
    table = table_of(merged_rows(tried, load_catalogue(), manifest.workload))
    by_name = {attempt.name: analysis for attempt, analysis in attempts.items()}
    return Analysis(table, _manifest(manifest, by_name))


def analyze_all(run: RunPaths) -> dict[str, Analysis]:
    """Return by name the analysis of each attempt and, as ``merged``, of all together.

    An attempt that left nothing is left out; in what all are together it is missing.

    Raises:
        RunFolderError: no attempt left anything.
    """
    done: dict[AttemptPaths, Analysis | None] = {}
    for attempt in run.all_attempts():
        try:
            done[attempt] = analyze_attempt(run, attempt)
        except RunFolderError:
            done[attempt] = None
    found = {attempt.name: one for attempt, one in done.items() if one is not None}
    if not found:
        raise RunFolderError(f"{run.run}: no attempt left anything to analyse")
    return {**found, MERGED: merged(run, done)}


def phases_begun(attempt: AttemptPaths, names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that an attempt has begun, the whole attempt among them."""
    begun = _begun(attempt)
    return [name for name in names if name in begun or name == JOB]


def _begun(attempt: AttemptPaths) -> frozenset[str]:
    marks = read_events(attempt.events).named("phase_start")
    return frozenset(str(mark.fields.get("phase")) for mark in marks)


def last_tries(attempts: Sequence[AttemptPaths]) -> tuple[AttemptPaths, ...]:
    """Return of each task the last try; ``attempts`` are in the order of their restarts."""
    return tuple({attempt.task: attempt for attempt in attempts}.values())


def _tried(attempt: AttemptPaths, analysis: Analysis | None) -> Tried:
    if analysis is None:
        return Tried(attempt.task, {}, begun=None)
    phases = {one.phase.name: one for one in analysis.phases}
    # Of a node that loses its power the last marks may be lost, and what still runs may go on.
    ended = analysis.manifest["events"]["ended"]
    return Tried(attempt.task, phases, begun=_begun(attempt) if ended else None)


def _manifest(run: RunManifest, attempts: Mapping[str, Analysis | None]) -> dict[str, Any]:
    known = {name: one.manifest for name, one in attempts.items() if one is not None}
    return {
        "schema_version": SCHEMA_VERSION,
        "state": _state([one["state"] for one in known.values()], len(attempts)),
        "reasons": [
            f"attempt {name}: {reason}"
            for name in attempts
            for reason in (known[name]["reasons"] if name in known else [LEFT_NOTHING])
        ],
        "run_id": run.run_id,
        "name": run.name,
        "attempt": MERGED,
        "attempts": [_attempt(name, known.get(name)) for name in attempts],
        "site": run.site,
        "interval_seconds": run.interval_s,
        "git_commit": run.git_commit,
        "jobmeter_version": run.jobmeter_version,
        "job_file_sha256": run.job_file_sha256,
        "service_kpis": {name: list(of) for name, of in run.service_kpis.items()},
        "phases": [
            {"name": name, "attempts": [one for one in known if name in _phases(known[one])]}
            for name in dict.fromkeys(name for one in known.values() for name in _phases(one))
        ],
        "phases_planned": list(run.phases),
    }


def _state(states: Sequence[str], attempts: int) -> str:
    """Return what the recording of the whole run is.

    >>> _state(["complete", "failed"], 2), _state(["complete"], 2), _state(["failed"], 1)
    ('incomplete', 'incomplete', 'failed')
    """
    if len(set(states)) == 1 and len(states) == attempts:
        return states[0]
    return "incomplete" if set(states) - {"failed"} else "failed"


def _attempt(name: str, manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    if manifest is None:
        return {"name": name, "state": "failed", "exit_code": None, "slurm_state": None}
    slurm = manifest["slurm"]
    return {
        "name": name,
        "state": manifest["state"],
        "exit_code": manifest["events"]["exit_code"],
        "slurm_state": slurm["state"] if slurm else None,
    }


def _phases(manifest: Mapping[str, Any]) -> list[str]:
    return [phase["name"] for phase in manifest["phases"]]
