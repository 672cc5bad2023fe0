"""``jobmeter test``: the project's own tests on a node of a site."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jobmeter.manifest import UsedImage
    from jobmeter.site import SiteProfile
    from jobmeter.spec import Resources


def run_command(
    site: Annotated[
        str,
        typer.Option("--site", help="Site profile: a shipped name, or the path of a .yaml file."),
    ] = "local",
    keyword: Annotated[
        str | None, typer.Option("--keyword", "-k", help="Which tests, as pytest's -k.")
    ] = None,
    marker: Annotated[
        str | None, typer.Option("--marker", "-m", help="Which tests, as pytest's -m.")
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option("--time", help="Time limit of the job; 15 minutes by default.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="Of the job.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="Of the job.")] = None,
    qos: Annotated[str | None, typer.Option("--qos", help="Of the job.")] = None,
    reservation: Annotated[str | None, typer.Option("--reservation", help="Of the job.")] = None,
    cpus: Annotated[
        int, typer.Option("--cpus", min=1, help="How many CPUs to ask for; memory goes with them.")
    ] = 4,
    gpus_per_node: Annotated[
        int, typer.Option("--gpus-per-node", min=0, help="How many GPUs to ask for.")
    ] = 0,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="Take this image as it is."),
    ] = None,
    build: Annotated[
        bool, typer.Option("--build", help="Make the image anew, also where there is one.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option("--source", help="Checkout of jobmeter; by default where jobmeter runs from."),
    ] = None,
    wheelhouse: Annotated[
        Path | None,
        typer.Option("--wheelhouse", help="Folder of Python packages for the image."),
    ] = None,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder in which the run directory is made.")
    ] = Path("runs"),
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run jobmeter's own tests on a node of a site, and show what became of them.

    Exits with 0 when all passed, 1 when some failed or the run is not whole.
    """
    from jobmeter import strict
    from jobmeter.errors import SpecError
    from jobmeter.paths import SuitePaths
    from jobmeter.site import read_site
    from jobmeter.spec import Resources
    from jobmeter.suite import display, run
    from jobmeter.suite.plan import TIME_LIMIT, Asked, check_demands, suite_plan

    profile = read_site(site, Path.cwd())
    wanted = {
        "time": time_limit or TIME_LIMIT,
        "account": account,
        "partition": partition,
        "qos": qos,
        "reservation": reservation,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus_per_node,
    }
    resources = strict.validate(Resources, wanted, lambda path: f"--{path[0]}", SpecError)
    # First of all: what is wrong in the request is said before an image is made for it.
    check_demands(site, profile, resources)
    _say_what_counts(site, profile, resources)
    used, tree = None, None
    if profile.runtime.kind == "native":
        tree = _tree(site, source, image)
    else:
        used = _image(site, profile, image, source, wheelhouse, build=build)
    created = datetime.now(tz=timezone.utc)
    name = f"tests-{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    asked = Asked(resources, keyword, marker)
    suite = suite_plan(site, profile, asked, runs.absolute() / name, used, tree)
    run.write(suite)
    begin = run.run_on_slurm if profile.launcher == "slurm" else run.run_here
    ending = begin(suite, _say)
    report = display.report_of(SuitePaths(suite.paths.run), site, used, ending)
    if json_output:
        typer.echo(display.as_json(report), nl=False)
    else:
        for line in display.lines_of(report):
            typer.echo(line)
    if report.problem is not None:
        _say(report.problem)
    raise typer.Exit(report.exit_code)


def _say_what_counts(site: str, profile: SiteProfile, resources: Resources) -> None:
    """Say what of the request is not checked, or is overridden."""
    import os

    from jobmeter.site_refusal import overriding, remarks

    if profile.launcher == "slurm":
        for remark in (*remarks(resources, site, profile), *overriding(os.environ)):
            _say(remark)


def _tree(site: str, source: Path | None, image: Path | None) -> Path:
    """Return the source tree that is tested on a site without containers.

    Raises:
        ImageRequestError: there is none, or an image was named.
        SiteError: there is no pytest.
    """
    import sys

    from jobmeter.errors import ImageRequestError, SiteError
    from jobmeter.suite.run import pytest_is_here
    from jobmeter.suite.sources import source_tree

    if image is not None:
        raise ImageRequestError(
            f"--image {image}: site {site!r} has no container runtime (runtime.kind: native)"
        )
    tree = source_tree(source)
    if not pytest_is_here():
        raise SiteError(
            f"{sys.executable}: has no pytest, and site {site!r} no container runtime; install it "
            f"with 'pip install {tree}[tests]'"
        )
    _say(f"site {site!r} has no container runtime: {tree} is tested with {sys.executable}")
    return tree


def _image(
    site: str,
    profile: SiteProfile,
    file: Path | None,
    source: Path | None,
    wheelhouse: Path | None,
    *,
    build: bool,
) -> UsedImage:
    """Return the image in which the tests run; one that is missing is built.

    Raises:
        ImageError: it is damaged, for other nodes, or could not be built.
    """
    from jobmeter.images import locked_images
    from jobmeter.images_store import image_folder
    from jobmeter.stack_images import verified_images
    from jobmeter.suite.image import NAME, given_image, remark_on

    if file is not None:
        return given_image(file, profile)
    if profile.runtime.kind != "pyxis":
        folder = image_folder(site, profile.images)
        if build or NAME not in locked_images(folder):
            _build(site, profile, source, wheelhouse)
    (used,) = verified_images((NAME,), site, profile)
    remark = remark_on(used)
    if remark:
        _say(remark)
    return used


def _build(site: str, profile: SiteProfile, source: Path | None, wheelhouse: Path | None) -> None:
    from jobmeter import images, images_build
    from jobmeter.commands.images import progress, workshop
    from jobmeter.images_store import expanded
    from jobmeter.suite.image import NAME

    store = profile.images
    root = None if store.root is None else expanded(store.root, "images.root")
    recipe = images_build.recipe(
        NAME,
        images.read_catalogue()[NAME],
        store.base,
        root,
        wheelhouse and wheelhouse.absolute(),
        source,
    )
    shop = workshop(site, profile, None)
    _say(f"{shop.folder}: image {NAME!r} is built there from base {store.base!r}; it takes minutes")
    with progress(NAME) as say:
        images_build.build(shop, recipe, say)


def _say(text: str) -> None:
    typer.echo(f"jobmeter: {text}", err=True)
