"""``jobmeter status``: what Slurm, the phases and the monitoring of a run are doing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from jobmeter.commands.live import AsJson, Run, find_run, look, now_ms

if TYPE_CHECKING:
    from jobmeter.paths import RunPaths
    from jobmeter.slurm_now import JobNow, SlurmNow
    from jobmeter_analysis.live_state import AttemptNow

SCHEMA_VERSION = 1


def status_command(run: Run, as_json: AsJson = False) -> None:
    """Show what a run is doing: Slurm, phases, targets, checkpoints, warnings.

    Reads the run directory and asks Slurm; needs no network and no running Prometheus.
    """
    paths, attempts = find_run(run)
    slurm, states = look(paths, attempts)
    if as_json:
        typer.echo(json.dumps(_data(paths, slurm, states), indent=2))
        return
    for text in _lines(paths, slurm, states):
        typer.echo(text)


def _data(paths: RunPaths, slurm: SlurmNow, states: tuple[AttemptNow, ...]) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run": paths.run.name,
        "time_ms": now_ms(),
        "slurm": {"jobs": [asdict(job) for job in slurm.jobs], "why_not": slurm.why_not or None},
        "attempts": [
            {**asdict(state), "slurm": asdict(said) if said else None}
            for state in states
            for said in [slurm.attempts.get(state.name)]
        ],
    }


def _lines(paths: RunPaths, slurm: SlurmNow, states: tuple[AttemptNow, ...]) -> Iterator[str]:
    from jobmeter_analysis.live_words import attempt_line, attempt_lines, line

    yield line("run", paths.run.name)
    if slurm.why_not:
        yield line("slurm", f"unknown: {slurm.why_not}")
    told = {said.job_id for said in slurm.attempts.values()}
    for job in slurm.jobs:
        if job.job_id not in told:
            yield line("slurm", f"job {job.job_id}", *_words(job))
    if not states:
        yield line("attempt", "none: the job has not started")
    for state in states:
        yield ""
        yield attempt_line(state)
        said = slurm.attempts.get(state.name)
        if said is not None:
            yield line("slurm", f"job {said.job_id}", *_words(said))
        elif state.nodes:
            yield line("nodes", " ".join(state.nodes))
        yield from attempt_lines(state)


def _words(job: JobNow) -> Iterator[str]:
    from jobmeter_analysis.live_words import duration

    yield job.state
    if job.reason and (job.state == "PENDING" or job.final):
        yield job.reason
    if job.state == "PENDING" and job.start_s is not None:
        wait_s = job.start_s - now_ms() / 1000
        yield f"expected to start in {duration(wait_s)}" if wait_s > 0 else ""
    yield job.node_list or ""
    if job.time_left_s is not None:
        yield f"{duration(job.time_left_s)} left"
    if job.source != "squeue":
        yield f"says {job.source}"
