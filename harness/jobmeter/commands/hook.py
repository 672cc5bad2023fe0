"""``jobmeter hook``: a file for job scripts of one's own."""

from __future__ import annotations

from pathlib import Path

import typer

from jobmeter.commands.unplanned import (
    GENERIC,
    Exporters,
    Interval,
    Metrics,
    Name,
    Runs,
    Site,
    spec_of,
)


def hook_command(
    site: Site = GENERIC,
    interval: Interval = "5s",
    exporters: Exporters = "auto",
    metrics: Metrics = None,
    name: Name = "hook",
    runs: Runs = Path("runs"),
) -> None:
    """Print a file for your own job script: source it, then call its three functions.

    They are jobmeter_start, jobmeter_mark NAME and jobmeter_stop. The password of its runs is
    written into a new private folder beside them.
    """
    from jobmeter import hook

    spec = spec_of(name, interval, exporters, metrics)
    prepared, paths = hook.prepare_hook(spec, site, runs)
    text = hook.hook_text(prepared, paths)
    hook.write_hook_secrets(prepared, paths)
    typer.echo(text, nl=False)
    typer.echo(f"jobmeter: its password is in {paths.secrets}, which must stay there", err=True)
