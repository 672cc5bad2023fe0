"""``jobmeter doctor``."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer


def doctor_command(
    site: Annotated[
        str,
        typer.Option("--site", help="Site profile: a shipped name, or the path of a .yaml file."),
    ] = "local",
    on_compute: Annotated[
        bool, typer.Option("--on-compute", help="Ask compute nodes, too, by a job of one minute.")
    ] = False,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder in which run directories will be made.")
    ] = Path("runs"),
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="How many nodes to ask.")] = 1,
    gpus_per_node: Annotated[
        int, typer.Option("--gpus-per-node", min=0, help="How many GPUs to ask for on each.")
    ] = 0,
    account: Annotated[str | None, typer.Option("--account", help="Of the probe job.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="Of the probe job.")] = None,
    qos: Annotated[str | None, typer.Option("--qos", help="Of the probe job.")] = None,
    reservation: Annotated[
        str | None, typer.Option("--reservation", help="Of the probe job.")
    ] = None,
    wait_s: Annotated[
        int,
        typer.Option("--wait", min=1, help="Seconds that the probe job may wait for nodes."),
    ] = 600,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON, facts included.")
    ] = False,
) -> None:
    """Say what works here before a job is submitted.

    Exits with 0 when healthy, 1 when unhealthy, 2 when degraded or something could not be told.
    """
    from jobmeter.doctor import display, examine
    from jobmeter.doctor.finding import EXIT_CODES
    from jobmeter.spec import Resources

    asked = Resources(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        time=examine.TIME_LIMIT,
        account=account,
        partition=partition,
        qos=qos,
        reservation=reservation,
    )
    created = datetime.now(tz=timezone.utc)
    try:
        report = examine.examine(
            site,
            runs,
            asked,
            job_name=f".doctor-{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
            wait_limit_s=wait_s if on_compute else None,
            say=lambda text: typer.echo(f"jobmeter: {text}", err=True),
        )
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if json_output:
        typer.echo(display.as_json(report), nl=False)
    else:
        display.print_report(report)
    raise typer.Exit(EXIT_CODES[report.health])
