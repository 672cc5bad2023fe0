"""The attempts of a run, analysed one after the other and, where there are several, together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobmeter.errors import RunFolderError, SpecError
from jobmeter.paths import AttemptPaths, RunPaths

if TYPE_CHECKING:
    from jobmeter.window import Window
    from jobmeter_analysis.engine import Analysis

LAST = "last"


def chosen(attempts: Sequence[AttemptPaths], name: str | None) -> tuple[AttemptPaths, ...]:
    """Return the attempts that ``--attempt`` means: one by its name, the last tries, or all.

    Raises:
        SpecError: there is none of that name.
    """
    from jobmeter_analysis.merged_run import last_tries

    if name is None:
        return tuple(attempts)
    found = last_tries(attempts) if name == LAST else [a for a in attempts if a.name == name]
    if not found:
        names = ", ".join(attempt.name for attempt in attempts)
        raise SpecError(
            f"--attempt {name}: there is no such attempt; give {LAST} or one of {names}"
        )
    return tuple(found)


def analyses(
    run: RunPaths,
    attempts: Sequence[AttemptPaths],
    *,
    out: Path | None = None,
    phases: Sequence[str] | None = None,
    window: Window | None = None,
) -> Iterator[Analysis]:
    """Yield the analysis of each attempt and, of several, at last that of all together.

    Each is written before it is yielded: into the run directory, unless it is of a window, or below
    ``out``, of several attempts in one folder each.

    Args:
        run: Whose attempts they are.
        attempts: In order, at least one.
        out: Folder for the reports.
        phases: Only these phases; all by default.
        window: Instead of phases, this stretch.

    Raises:
        RunFolderError: no attempt can be read, or none has such a phase.
    """
    from jobmeter_analysis.engine import analyze_attempt
    from jobmeter_analysis.merged_run import MERGED, merged, phases_begun
    from jobmeter_analysis.report import write_report

    several = len(attempts) > 1
    begun = {one: phases_begun(one, phases) if phases and several else phases for one in attempts}
    if phases and not any(begun.values()):
        raise RunFolderError(
            f"no phase {', '.join(map(repr, phases))} began in any of {len(attempts)} attempts"
        )
    done: dict[AttemptPaths, Analysis | None] = {}
    for attempt in attempts:
        try:
            analysis = analyze_attempt(run, attempt, phases=begun[attempt], window=window)
        except RunFolderError as error:
            if not several:
                raise
            typer.echo(f"jobmeter: {error}", err=True)
            done[attempt] = None
            continue
        folder = _folder(out, attempt.name if several else "", attempt.report, window)
        if folder is not None:
            write_report(analysis, folder)
        done[attempt] = analysis
        yield analysis
    if not any(done.values()):
        raise RunFolderError(f"{run.run}: none of {len(done)} attempts left anything to analyse")
    if several:
        together = merged(run, done)
        folder = _folder(out, MERGED, run.report, window)
        if folder is not None:
            write_report(together, folder)
        yield together


def _folder(out: Path | None, name: str, report: Path, window: Window | None) -> Path | None:
    if out is not None:
        return out / name
    return report if window is None else None
