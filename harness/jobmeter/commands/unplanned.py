"""What the commands that record a payload of others have in common: their options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jobmeter.spec import JobSpec

Site = Annotated[
    str, typer.Option("--site", help="Site profile: a shipped name, or the path of a .yaml file.")
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder in which run directories are made.")]
Name = Annotated[str, typer.Option("--name", help="First part of the run directory's name.")]
Interval = Annotated[str, typer.Option("--interval", help="Time between two scrapes.")]
Exporters = Annotated[
    str, typer.Option("--exporters", help="auto, or a list as in node,cgroup,nvidia.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="NAME=URL",
        help="An endpoint of the payload, as first node sees it; may be repeated.",
    ),
]

GENERIC = "generic-slurm"


def spec_of(
    name: str,
    interval: str,
    exporters: str,
    metrics: list[str] | None,
    resources: Mapping[str, object] | None = None,
) -> JobSpec:
    """Return the options as a job file would say them.

    Raises:
        SpecError: one of them is wrong.
    """
    from jobmeter import strict
    from jobmeter.errors import SpecError
    from jobmeter.spec import JobSpec

    endpoints = {}
    for text in metrics or ():
        service, equals, url = text.partition("=")
        if not equals or service in endpoints:
            raise SpecError(f"--metrics {text}: write NAME=URL, each name once")
        endpoints[service] = url
    data = {
        "name": name,
        "resources": resources or {},
        "monitoring": {
            "interval": interval,
            "exporters": exporters if exporters == "auto" else exporters.split(","),
        },
        "run": ":",  # a job file needs a command, which nobody runs
    }
    if endpoints:
        data["metrics"] = endpoints
    return strict.validate(JobSpec, data, lambda _: "options", SpecError)


def checked_phase(name: str) -> str:
    """Return the name of a phase.

    Raises:
        SpecError: it cannot be one.
    """
    from jobmeter import strict
    from jobmeter.errors import SpecError
    from jobmeter.spec import JobSpec

    data = {"phases": [{"name": name, "run": ":"}]}
    return strict.validate(JobSpec, data, lambda _: "phase", SpecError).phases[0].name
