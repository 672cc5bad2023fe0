"""``jobmeter health``: whether the recording of a run, or a Prometheus, is well."""

from __future__ import annotations

import enum
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobmeter.commands.live import find_run, now_ms
from jobmeter.errors import JobmeterError, SpecError
from jobmeter.files import write_atomically

if TYPE_CHECKING:
    from jobmeter_analysis.live_health import Report


class Format(str, enum.Enum):
    """What ``health`` prints."""

    TABLE = "table"
    JSON = "json"


def health_command(
    target: Annotated[
        str, typer.Argument(metavar="RUN|URL", help="A run or attempt folder, or a Prometheus.")
    ],
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Look again and again, a line for each time.")
    ] = False,
    interval: Annotated[
        str, typer.Option("--interval", help="Between two looks, as in 15s or 1m.")
    ] = "15s",
    output_format: Annotated[
        Format, typer.Option("--format", help="What to print.")
    ] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Write it here instead, each time as a whole."),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", help="Of a URL: a file with nothing but the password."),
    ] = None,
) -> None:
    """Say whether the recording of a run is well, or a Prometheus and its targets.

    Exits with 0 when healthy, 1 when unhealthy, 2 when degraded or when what matters cannot be
    told; with --continuous with that of the last look.
    """
    pause_s = _seconds(interval)
    look = _looking(target, password_file)
    code = 130
    try:
        while True:
            report = look()
            code = report.exit_code
            _give(report, output_format, output, continuous=continuous)
            if not continuous:
                break
            time.sleep(pause_s)
    except KeyboardInterrupt:
        pass
    raise typer.Exit(code)


def _seconds(text: str) -> float:
    from jobmeter.quantities import duration_s

    try:
        return duration_s(f"{text}s" if text.replace(".", "", 1).isdecimal() else text)
    except ValueError as cause:
        raise SpecError(f"--interval {text}: {cause}") from cause


def _looking(target: str, password_file: Path | None) -> Callable[[], Report]:
    """Return what looks once at a run or a server."""
    if target.startswith(("http://", "https://")):
        from jobmeter_analysis.live_checkup import of_server
        from jobmeter_analysis.live_server import LiveServer

        server = LiveServer(target, _password(password_file))
        return lambda: of_server(server, now_ms())
    if "://" in target:
        scheme = target.partition("://")[0]
        raise SpecError(f"{scheme}://: no Prometheus answers so; give an http(s) URL or a folder")
    if password_file is not None:
        raise SpecError(f"--password-file {password_file}: only a URL needs one; leave it out")
    folder = Path(target)
    find_run(folder)  # a folder that is no run says so before the first look
    return lambda: _of_run(folder)


def _of_run(folder: Path) -> Report:
    from jobmeter.slurm_now import slurm_now
    from jobmeter_analysis.live_checkup import of_attempt, of_run_before_its_start

    run, attempts = find_run(folder)
    if not attempts:
        return of_run_before_its_start(run, now_ms())
    last = attempts[-1]
    return of_attempt(run, last, now_ms(), slurm_now(run, (last,)).over(last.name))


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise SpecError(f"--password-file {file}: cannot be read: {cause}") from cause
    if not password:
        raise SpecError(f"--password-file {file}: is empty; the password stands alone in it")
    return password


def _give(report: Report, form: Format, output: Path | None, *, continuous: bool) -> None:
    from jobmeter_analysis import live_health_text as text

    whole = output is not None or not continuous
    if form is Format.JSON:
        said = text.as_json(report, indent=2 if whole else None)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        said = "\n".join(text.lines(report, width)) if whole else text.one_line(report)
    if output is None:
        typer.echo(said)
        return
    try:
        write_atomically(f"{said}\n", output.absolute())
    except OSError as cause:
        raise JobmeterError(f"--output {output}: cannot be written: {cause.strerror}") from cause
