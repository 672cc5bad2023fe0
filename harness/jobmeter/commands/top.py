"""``jobmeter top``: KPIs of the last minute, in a terminal or through a pipe."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from jobmeter.commands.live import Run, find_run, now_ms
from jobmeter.errors import RunFolderError, SpecError

if TYPE_CHECKING:
    from jobmeter.paths import RunPaths
    from jobmeter_analysis.live_top import Top, View

LEAST_PAUSE_S = 1.0
ASK_SLURM_S = 60.0
"""Slurm is asked once a minute, and only while the attempt is silent."""
TRIES = 5
"""So many looks in a row may fail: a folder on a network file system comes and goes."""


def top_command(
    run: Run,
    phase: Annotated[str | None, typer.Option("--phase", help="Only within this phase.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    window: Annotated[
        str, typer.Option("--window", help="How far back the numbers reach, as in 60s or 5m.")
    ] = "60s",
) -> None:
    """Show KPIs of the last minute per node, device and service, while the run runs.

    Numbers are those of 'analyze', over the last window. Ctrl-C ends it; a run that has ended is
    shown once.
    """
    window_ms = round(1000 * _seconds(window))
    find_run(run)  # a folder that is no run says so before the first look
    screen: _Screen = _Terminal() if sys.stdout.isatty() and not once else _Lines()
    try:
        with screen:
            _watch(_Watched(run, phase, window_ms), screen, once=once)
    except KeyboardInterrupt:
        return


def _seconds(text: str) -> float:
    from jobmeter.quantities import duration_s

    try:
        return duration_s(text)
    except ValueError as cause:
        raise SpecError(f"--window {text}: {cause}") from cause


def _watch(watched: _Watched, screen: _Screen, *, once: bool) -> None:
    failures = 0
    while True:
        began = time.monotonic()
        try:
            view = watched.look()
        except RunFolderError:
            failures += 1
            if once or failures >= TRIES or not watched.seen:
                raise
            time.sleep(LEAST_PAUSE_S)
            continue
        failures = 0
        screen.show(view)
        if once or view.over:
            return
        time.sleep(max(0.1, watched.pause_s - (time.monotonic() - began)))


class _Watched:
    """The last attempt of a run, which may change while it is watched."""

    def __init__(self, folder: Path, phase: str | None, window_ms: int) -> None:
        self._folder, self._phase, self._window_ms = folder, phase, window_ms
        self._top: Top | None = None
        self._name = ""
        self._over: bool | None = None
        self._asked = -ASK_SLURM_S
        self.pause_s = LEAST_PAUSE_S
        self.seen = False

    def look(self) -> View:
        from jobmeter_analysis.live_top import Top

        run, attempts = find_run(self._folder)
        if not attempts:
            raise RunFolderError(
                f"{run.run}: the job has not started; 'jobmeter status' says whether it waits"
            )
        last = attempts[-1]
        if self._top is None or last.name != self._name:
            self._top = Top(run, last, self._window_ms, self._phase)
            self._name, self._over, self._asked = last.name, None, -ASK_SLURM_S
            self.pause_s = max(LEAST_PAUSE_S, self._top.manifest.interval_s)
        view = self._top.look(now_ms(), self._over)
        if view.state == "silent" and time.monotonic() - self._asked >= ASK_SLURM_S:
            self._asked = time.monotonic()
            self._over = self._ask(run, last.name)
            view = self._top.look(now_ms(), self._over)
        self.seen = True
        return view

    def _ask(self, run: RunPaths, name: str) -> bool | None:
        from jobmeter.slurm_now import slurm_now

        return slurm_now(run, (run.attempt(name),)).over(name)


class _Screen(Protocol):
    """Where looks are shown."""

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, view: View) -> None:
        """Show what a look saw."""


class _Lines:
    """Plain lines, where there is anything new; a table for a terminal that is shown one look."""

    def __init__(self) -> None:
        self._shown: object = None

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, view: View) -> None:
        from jobmeter_analysis import live_top_text as text

        if sys.stdout.isatty():
            from rich.console import Console

            Console().print(text.tables(view))
            return
        news = (view.attempt, view.state, view.window)
        if news == self._shown:
            return
        self._shown = news
        for line in text.lines(view):
            typer.echo(line)
        sys.stdout.flush()


class _Terminal:
    """A terminal whose lines are written again and again."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False)

    def __enter__(self) -> object:
        return self._live.__enter__()

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, view: View) -> None:
        from jobmeter_analysis import live_top_text as text

        self._live.update(text.tables(view), refresh=True)
