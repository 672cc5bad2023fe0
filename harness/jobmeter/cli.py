"""The command line: arguments in, other people's functions called, words and exit codes out.

Nothing below this module prints or exits. Heavy imports happen inside the commands, so that
``jobmeter --help`` is instant.
"""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from jobmeter import __version__
from jobmeter.commands import attach, doctor, health, hook, images, planning, status, top
from jobmeter.commands import attempts as attempts_command
from jobmeter.commands import site as site_commands
from jobmeter.commands import tests as test_commands
from jobmeter.errors import InvalidRecordingError, JobmeterError, RunFolderError, SpecError
from jobmeter.manifest import read_manifest
from jobmeter.paths import AttemptPaths, RunPaths

if TYPE_CHECKING:
    from jobmeter.window import Window
    from jobmeter_analysis.engine import Analysis

app = typer.Typer(
    help="The meter for batch jobs: one job file in, a monitored job, a table of KPIs out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB_FILE", help="The job file, YAML.")]
Site = Annotated[
    str, typer.Option("--site", help="Site profile: a shipped name, or the path of a .yaml file.")
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder in which the run directory is made.")]
AllColumns = Annotated[bool, typer.Option("--all", help="Show every column.")]
RunFolder = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run or attempt folder.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="FOLDER|URL|FILE",
        help="Instead of RUN: a Prometheus data folder, a live Prometheus, an export.",
    ),
]
Start = Annotated[
    str | None,
    typer.Option("--start", help="Start of one window: epoch seconds or ISO 8601 with zone."),
]
End = Annotated[str | None, typer.Option("--end", help="End of that window.")]


class Format(str, enum.Enum):
    """What ``analyze`` prints."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jobmeter {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command("run")
def run_command(
    job_file: JobFile,
    site: Site = "local",
    runs: Runs = Path("runs"),
    all_columns: AllColumns = False,
) -> None:
    """Run a job here, in the foreground, and print its KPI table.

    The exit code is the payload's, or 3 when monitoring is required and did not work.
    """
    from jobmeter import launch

    prepared = planning.prepare(job_file, site, runs)
    if prepared.site.launcher != "bash":
        raise SpecError(f"--site {site}: its jobs go through Slurm; use 'jobmeter submit'")
    launch.check_programs(site, prepared.site)
    paths = launch.create_run(prepared)
    _say(f"run {paths.run}")
    code = launch.run_locally(paths)
    for attempt in paths.all_attempts():
        _show(_analyzed(paths, attempt, attempt.report), all_columns)
    _say(f"run {paths.run}")
    raise typer.Exit(code)


@app.command("submit")
def submit_command(
    job_file: JobFile,
    site: Site,
    runs: Runs = Path("runs"),
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job to its end and print its KPI table.")
    ] = False,
    all_columns: AllColumns = False,
) -> None:
    """Submit a job to Slurm; prints the run directory and the job id.

    With --wait the exit code is the job's, of an array the largest of its tasks.
    """
    from jobmeter import launch, slurm, slurm_accounting

    prepared = planning.prepare(job_file, site, runs)
    if prepared.site.launcher != "slurm":
        raise SpecError(f"--site {site}: it has no batch system; use 'jobmeter run'")
    for remark in prepared.remarks:
        _say(remark)
    paths = launch.create_run(prepared)
    job_id = launch.submit(paths)
    typer.echo(f"run {paths.run}")
    typer.echo(f"job {job_id}")
    if not wait:
        return
    try:
        for state in slurm.follow(job_id):
            _say(f"job {job_id} {state}")
    except KeyboardInterrupt:
        _say(f"job {job_id} goes on; later: jobmeter analyze {paths.run}")
        raise typer.Exit(130) from None
    attempts = _attempts_of(paths)
    codes: dict[str, int] = {}
    for attempt in attempts:
        accounting = slurm_accounting.refresh_accounting(attempt, settle=True)
        if accounting is not None and accounting.exit_code is not None:
            failed = accounting.exit_code == 0 and accounting.state != "COMPLETED"
            codes[attempt.task] = 1 if failed else accounting.exit_code
    for analysis in attempts_command.analyses(paths, attempts):
        _show(analysis, all_columns)
    raise typer.Exit(max(codes.values(), default=1))


@app.command("render")
def render_command(
    job_file: JobFile,
    site: Site = "local",
    runs: Runs = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write every rendered file below this new folder instead."),
    ] = None,
) -> None:
    """Print the script that would be submitted; writes and submits nothing."""
    from jobmeter.render import render_files

    prepared = planning.prepare(job_file, site, runs)
    for remark in prepared.remarks:
        _say(remark)
    files = render_files(prepared.plan)
    if out is None:
        typer.echo(files["job.sbatch"], nl=False)
        return
    out.mkdir(parents=True)
    for name, text in files.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    typer.echo(f"{len(files)} files in {out}")


@app.command("analyze")
def analyze_command(
    run: RunFolder = None,
    source: Source = None,
    phase: Annotated[
        list[str] | None, typer.Option("--phase", help="Only this phase; may be repeated.")
    ] = None,
    start: Start = None,
    end: End = None,
    output_format: Annotated[
        Format, typer.Option("--format", help="What to print.")
    ] = Format.TABLE,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the report here instead of into the run directory."),
    ] = None,
    attempt: Annotated[
        str | None,
        typer.Option("--attempt", help="Only this attempt; 'last' is the last try of each task."),
    ] = None,
    all_columns: AllColumns = False,
) -> None:
    """Compute the KPI table of a run, write it, and print it.

    Of several attempts (an array, a requeue) each has a table, and at last all together have one;
    in formats for programs only that one is printed.
    Of a recording without a run folder (--source) nothing is written unless --out says where.
    Exits with 3 when the job file required a valid recording and it is not.
    """
    from jobmeter.slurm_accounting import refresh_accounting

    asked = _asked(run, source, bool(phase))
    window = _window(start, end, bool(phase))
    if isinstance(asked, str):
        if window is None:
            raise SpecError("--source needs a window; add --start and --end")
        if attempt is not None:
            raise SpecError("--source has no attempts; leave --attempt out")
        _give(_analyzed_source(asked, window, out), output_format, all_columns)
        return
    paths, found = _find(asked)
    attempts = attempts_command.chosen(found, attempt)
    for one in attempts:
        refresh_accounting(one)
    states = set()
    for analysis in attempts_command.analyses(
        paths, attempts, out=out, phases=phase, window=window
    ):
        states.add(analysis.manifest["state"])
        is_last = len(attempts) == 1 or "attempts" in analysis.manifest
        if output_format is Format.TABLE or is_last:
            _give(analysis, output_format, all_columns)
    required = read_manifest(paths.manifest).required
    if required and states != {"complete"}:
        raise InvalidRecordingError(
            f"{run}: the recording is not valid and was required to be; see MANIFEST.json"
        )


@app.command("export")
def export_command(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The Parquet file to write.")],
    run: RunFolder = None,
    source: Source = None,
    phase: Annotated[str | None, typer.Option("--phase", help="Only this phase.")] = None,
    start: Start = None,
    end: End = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write the raw samples of a recording into a Parquet file.

    Everything by default; of a phase or a window also five minutes on both sides.
    """
    asked = _asked(run, source, phase is not None)
    window = _window(start, end, phase is not None)
    from jobmeter_analysis.sources import export, open_source, parquet, without_password

    if isinstance(asked, str):
        origin = parquet.Origin(without_password(asked), window)
        done = export.export(open_source(asked), to, origin, force=force)
    else:
        done = export.export_attempt(*_find(asked), to, window, phase, force=force)
    for problem in done.problems:
        _say(problem)
    typer.echo(f"{done.samples} samples of {done.series} series in {to}")


app.command("attach")(attach.attach_command)
app.command("mark")(attach.mark_command)
app.command("detach")(attach.detach_command)
app.command("hook")(hook.hook_command)
app.command("doctor")(doctor.doctor_command)
app.command("status")(status.status_command)
app.command("health")(health.health_command)
app.command("top")(top.top_command)
app.command("test")(test_commands.run_command)


@app.command(
    "exporter",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def exporter_command(context: typer.Context) -> None:
    """Serve our own exporters; 'jobmeter exporter --help' lists them."""
    from jobmeter_exporters.__main__ import main as serve

    raise typer.Exit(serve(context.args))


app.add_typer(images.app, name="images")
app.add_typer(site_commands.app, name="site")


def _say(text: str) -> None:
    """Tell a person; machines read standard output."""
    typer.echo(f"jobmeter: {text}", err=True)


def _attempts_of(paths: RunPaths) -> tuple[AttemptPaths, ...]:
    attempts = paths.all_attempts()
    if not attempts:
        raise RunFolderError(
            f"{paths.run}: the job has not started, so there is nothing to analyse; "
            f"what it printed is in {paths.job_output}"
        )
    return attempts


def _find(folder: Path) -> tuple[RunPaths, tuple[AttemptPaths, ...]]:
    """Return the run and the attempts that ``folder`` means."""
    folder = folder.absolute()
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder; give one that 'jobmeter run' printed")
    if folder.parent.name == "attempts":
        return RunPaths(folder.parent.parent), (AttemptPaths(folder),)
    paths = RunPaths(folder)
    read_manifest(paths.manifest)  # first: a folder that is no run says so
    return paths, _attempts_of(paths)


def _analyzed(
    paths: RunPaths,
    attempt: AttemptPaths,
    report: Path | None,
    phases: list[str] | None = None,
    window: Window | None = None,
) -> Analysis:
    """Analyse one attempt and write the table into the folder ``report``, if there is one."""
    from jobmeter_analysis.engine import analyze_attempt
    from jobmeter_analysis.report import write_report

    analysis = analyze_attempt(paths, attempt, phases=phases, window=window)
    if report is not None:
        write_report(analysis, report)
    return analysis


def _analyzed_source(source: str, window: Window, report: Path | None) -> Analysis:
    from jobmeter_analysis.engine import analyze_recording
    from jobmeter_analysis.report import write_report
    from jobmeter_analysis.sources import open_source, without_password

    analysis = analyze_recording(open_source(source), window, without_password(source))
    if report is not None:
        write_report(analysis, report)
    return analysis


def _give(analysis: Analysis, output_format: Format, all_columns: bool) -> None:
    from jobmeter_analysis.report import as_json

    if output_format is Format.TABLE:
        _show(analysis, all_columns)
    elif output_format is Format.JSON:
        typer.echo(as_json(analysis), nl=False)
    elif output_format is Format.CSV:
        typer.echo(analysis.table.to_csv(index=False), nl=False)
    else:
        sys.stdout.buffer.write(analysis.table.to_parquet(index=False))


def _show(analysis: Analysis, all_columns: bool) -> None:
    from jobmeter_analysis.display import print_analysis

    print_analysis(analysis, every=all_columns)


def _asked(run: Path | None, source: str | None, phases: bool) -> Path | str:
    """Return what to read: the folder of a run or attempt, or a source as text."""
    if run is None and source is not None:
        if phases:
            raise SpecError("--source has no phases; give --start and --end")
        return source
    if run is None or source is not None:
        raise SpecError("give a run folder, or --source with a recording; one of them")
    return run


def _window(start: str | None, end: str | None, phases: bool) -> Window | None:
    """Return the window of --start and --end, of which there is none beside phases."""
    if start is None and end is None:
        return None
    if phases:
        raise SpecError("--phase and --start/--end exclude each other; give one of them")
    if start is None or end is None:
        raise SpecError("--start and --end belong together; give both")
    from jobmeter.window import Window

    try:
        return Window(_time_ms("--start", start), _time_ms("--end", end))
    except ValueError as cause:
        raise SpecError(f"--start {start} --end {end}: {cause}") from cause


def _time_ms(option: str, text: str) -> int:
    from jobmeter.quantities import time_ms

    try:
        return time_ms(text)
    except ValueError as cause:
        raise SpecError(f"{option}: {cause}") from cause


def main() -> NoReturn:
    """Run the command line; every error of ours becomes one line and an exit code."""
    try:
        app()
    except JobmeterError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more can be written, not even by exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    _say(" ".join(message.split()))
    sys.exit(code)
