"""``jobmeter site``: which site profiles there are, what one says, and whether it is right here."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jobmeter.site_check import Judgement
    from jobmeter.site_files import ProfileFile

app = typer.Typer(
    help="Site profiles: list them, show one, draft one, and check one against this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A site's name, or the path of a .yaml file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(json_output: Json = False) -> None:
    """Show every profile that has a name, and where it lies.

    Of two with one name the upper one counts. Those of kind job lie in sites/ below this folder.
    """
    from jobmeter.site_files import known_files

    files = known_files(Path.cwd())
    rows = [{"name": f.name, "kind": f.kind, "file": str(f.path), **_described(f)} for f in files]
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        typer.echo(f"{row['name']:<{width}}  {row['kind']:<7}  {row['description']}")


@app.command("show")
def show_command(name: Name, json_output: Json = False) -> None:
    """Print a profile with all that it inherits, and which file each value is from."""
    from jobmeter import site_show
    from jobmeter.site import resolve_site

    resolved = resolve_site(name, Path.cwd())
    if json_output:
        whole = {
            "name": name,
            "files": [str(file) for file in resolved.merged.files],
            "profile": site_show.values_of(resolved.profile),
            "origins": site_show.origins_of(resolved),
        }
        typer.echo(json.dumps(whole, indent=2))
        return
    for line in site_show.yaml_lines(resolved):
        typer.echo(line)


@app.command("draft")
def draft_command() -> None:
    """Print a profile of this cluster to begin with: partitions and QOS as Slurm says."""
    from jobmeter.errors import SchedulerError
    from jobmeter.site_facts import Unanswered, ask_partitions, ask_qos
    from jobmeter.site_show import draft_lines

    partitions = ask_partitions()
    if isinstance(partitions, Unanswered):
        raise SchedulerError(f"{partitions.why}; run this on a login node")
    for line in draft_lines(partitions, ask_qos()):
        typer.echo(line)


@app.command("check")
def check_command(
    name: Name,
    on: Annotated[
        Path | None,
        typer.Option("--on", metavar="JOB_FILE", help="Also whether this job could run there."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Compare a profile with what Slurm and this machine say; nothing is submitted.

    Exits with 0 when healthy, 1 when unhealthy, 2 when degraded or something could not be told.
    """
    from jobmeter.doctor.finding import EXIT_CODES, health_of
    from jobmeter.site import read_site
    from jobmeter.site_check import judge
    from jobmeter.site_facts import gather

    folder = on.absolute().parent if on is not None else Path.cwd()
    profile = read_site(name, folder)
    judgements = [*judge(profile, gather(profile)), *_of_job(on, name)]
    findings = [judgement.finding(platform.node()) for judgement in judgements]
    health = health_of(findings)
    if json_output:
        rows = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({"site": name, "health": health, "findings": rows}, indent=2))
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            advice = f" -> {finding.advice}" if finding.advice else ""
            typer.echo(f"{finding.state:<8}  {finding.check:<{width}}  {finding.value}{advice}")
        typer.echo(f"{health}: site {name} ({profile.description})")
    raise typer.Exit(EXIT_CODES[health])


def _described(file: ProfileFile) -> dict[str, str]:
    """Return the description of a profile, or what is wrong with it: a list shows both."""
    from jobmeter.errors import SiteError
    from jobmeter.site import resolve_file

    try:
        return {"description": resolve_file(file).profile.description}
    except SiteError as wrong:
        return {"description": f"unusable: {wrong}"}


def _of_job(job_file: Path | None, site_name: str) -> Iterator[Judgement]:
    """Yield what our own limits say of a job, and then what Slurm does."""
    from jobmeter.commands import planning
    from jobmeter.errors import JobmeterError
    from jobmeter.render import render_files
    from jobmeter.site_check import Judgement
    from jobmeter.site_facts import would_start

    if job_file is None:
        return
    try:
        prepared = planning.prepare(job_file, site_name, Path("runs"))
    except JobmeterError as refused:
        yield Judgement("job.limits", "broken", str(refused), "correct the job file or the profile")
        return
    yield Judgement("job.limits", "ok", "within the limits of the profile")
    for remark in prepared.remarks:
        yield Judgement("job.limits", "degraded", remark, "see to it that it fits")
    if prepared.site.launcher == "slurm":
        refusal = would_start(render_files(prepared.plan)["job.sbatch"])
        if refusal is None:
            yield Judgement("job.slurm", "ok", "Slurm would take it")
        else:
            yield Judgement("job.slurm", "broken", refusal, "ask for what Slurm has")
