"""``jobmeter attach``, ``mark`` and ``detach``: recording in an allocation that is there."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobmeter.commands.unplanned import (
    GENERIC,
    Exporters,
    Interval,
    Metrics,
    Name,
    Runs,
    Site,
    checked_phase,
    spec_of,
)

if TYPE_CHECKING:
    from jobmeter.allocation import Allocation
    from jobmeter.attach import Listening
    from jobmeter.attach_find import Going
    from jobmeter.launch import Prepared
    from jobmeter.paths import RunPaths

RunFolder = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="A run folder; by default the only one going on."),
]


def attach_command(
    job_id: Annotated[
        str | None,
        typer.Argument(metavar="[JOBID]", help="A running job; by default the one we are in."),
    ] = None,
    site: Site = GENERIC,
    interval: Interval = "5s",
    exporters: Exporters = "auto",
    metrics: Metrics = None,
    name: Name = "attached",
    phase: Annotated[
        str, typer.Option("--phase", help="Name of the phase that begins at once.")
    ] = "run",
    runs: Runs = Path("runs"),
) -> None:
    """Record in a running allocation: salloc's, or that of any job of yours.

    Returns when the targets are up; the recording goes on until 'jobmeter detach' or the end of the
    job.
    """
    from jobmeter import attach, launch
    from jobmeter.allocation import find_allocation
    from jobmeter.attach_find import going_in
    from jobmeter.errors import SchedulerError, SpecError

    phase = checked_phase(phase)
    wanted = job_id or os.environ.get("SLURM_JOB_ID")
    if not wanted:
        raise SchedulerError(
            "no allocation to attach to: this shell is in none; give a job id ('squeue --me' shows "
            "yours), or get one with 'salloc'"
        )
    spec_of(name, interval, exporters, metrics)  # says what is wrong before Slurm is asked
    allocation = find_allocation(wanted)
    spec = spec_of(name, interval, exporters, metrics, allocation.resources)
    prepared = launch.prepare_unplanned(
        spec, site, runs, launch.new_name(name), "attached", allocation
    )
    if prepared.site.launcher != "slurm":
        raise SpecError(f"--site {site}: it has no batch system, so there is nothing to attach to")
    for other in going_in(runs, allocation.job_id):
        _say(f"job {wanted} is being recorded already, in {other.paths.run}; now also here")
    paths = launch.create_run(prepared)
    child = attach.start(prepared, paths, allocation, phase)
    limit_s = prepared.plan.ready_limit_s + attach.STEP_LIMIT_S
    try:
        listening = attach.await_stack(child, paths, allocation, limit_s)
    except KeyboardInterrupt:
        child.terminate()
        _say(f"not attached; what there is of it is in {paths.run}")
        raise typer.Exit(130) from None
    _tell(prepared, paths, allocation, listening, phase)


def _tell(
    prepared: Prepared, paths: RunPaths, allocation: Allocation, listening: Listening, phase: str
) -> None:
    from jobmeter import attach

    typer.echo(f"run {paths.run}")
    typer.echo(
        f"job {allocation.attempt}, nodes {' '.join(allocation.nodes)}: "
        f"{listening.up} of {listening.expected} targets up, phase {phase}"
    )
    if listening.missing:
        _say(f"not up: {' '.join(listening.missing)}; see {paths.run}/attempts/*/logs")
    if listening.port is not None:
        login = prepared.site.login
        user = getpass.getuser()
        typer.echo(f"prometheus {listening.node}:{listening.port}, on loopback there")
        typer.echo(f"tunnel {attach.tunnel(listening, user, login)}")
        if login is None:
            typer.echo(
                "       LOGIN is the login node as you name it at home; 'login' in a site profile "
                "fills it in"
            )
        typer.echo(
            f"       then http://localhost:9090, user jobmeter, password in {paths.password}"
        )
    typer.echo(f"payload: source {paths.environment}")
    typer.echo("next: jobmeter mark NAME, jobmeter detach")


def mark_command(
    phase: Annotated[str, typer.Argument(metavar="NAME", help="Name of the phase that begins.")],
    run: RunFolder = None,
    runs: Runs = Path("runs"),
) -> None:
    """End the running phase of an attached run and begin another.

    Returns when both edges are taken: what is counted from then on is in the new phase.
    """
    from jobmeter import attach_control

    phase = checked_phase(phase)
    marked = attach_control.mark(_going(run, runs).attempt, phase)
    again = "" if marked.phase == phase else f" ({phase} was used before)"
    typer.echo(
        f"phase {marked.phase}{again} began; {marked.answered} of {marked.asked} targets answered"
    )


def detach_command(
    run: RunFolder = None,
    runs: Runs = Path("runs"),
    analysis: Annotated[
        bool, typer.Option("--analysis/--no-analysis", help="Print the KPI table.")
    ] = True,
    all_columns: Annotated[bool, typer.Option("--all", help="Show every column.")] = False,
) -> None:
    """End an attached run in order, and print its KPI table. The job goes on."""
    from jobmeter import attach_control

    going = _going(run, runs)
    clean = attach_control.detach(going.attempt)
    if not clean:
        _say(f"the recording was not closed in order; see {going.attempt.logs}")
    if analysis:
        from jobmeter.slurm_accounting import refresh_accounting
        from jobmeter_analysis.display import print_analysis
        from jobmeter_analysis.engine import analyze_attempt
        from jobmeter_analysis.report import write_report

        refresh_accounting(going.attempt)
        analysed = analyze_attempt(going.paths, going.attempt)
        write_report(analysed, going.attempt.report)
        print_analysis(analysed, every=all_columns)
    typer.echo(f"run {going.paths.run}")


def _going(run: Path | None, runs: Path) -> Going:
    from jobmeter.attach_find import given_run, only_run

    if run is not None:
        return given_run(run)
    return only_run(runs, os.environ.get("SLURM_JOB_ID"))


def _say(text: str) -> None:
    typer.echo(f"jobmeter: {text}", err=True)
