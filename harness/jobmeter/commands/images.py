"""``jobmeter images``: the images of the stack and of the workloads, listed, made and proved."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jobmeter.images import Image, LockedImage
    from jobmeter.images_build import Recipe, Say, Workshop
    from jobmeter.images_catalogue import Base
    from jobmeter.site import SiteProfile

app = typer.Typer(
    help="Images of the stack and of the workloads: list, build, pull and verify them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Images by name.")]
Site = Annotated[
    str, typer.Option("--site", help="Site profile: a shipped name, or the path of a .yaml file.")
]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Of the images; instead of the profile's.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_command(site: Site = "local", folder: Folder = None, json_output: Json = False) -> None:
    """Show every image that there is, and what lies in the folder."""
    from jobmeter import images
    from jobmeter.errors import ImageRequestError
    from jobmeter.images_store import image_folder

    place, absent = folder, ""
    try:
        place = folder or image_folder(site, _profile(site).images)
    except ImageRequestError as error:
        absent = str(error)
    here = {} if place is None else dict(images.locked_images(place))
    rows = [_row(name, image, here.get(name)) for name, image in images.read_catalogue().items()]
    if json_output:
        typer.echo(json.dumps({"folder": place and str(place), "images": rows}, indent=2))
        return
    _table(
        ("image", "here", "version", "base", "size", "licence", "can be made from"),
        [_shown(row) for row in rows],
    )
    if place is None:
        _say(absent)
        return
    for stray in _strays(place, here):
        _say(f"{stray}: an older image; remove it when no job needs it any more")


@app.command("build")
def build_command(
    names: Names = None,
    site: Site = "local",
    folder: Folder = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="registry or debian; instead of the profile's."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Debian root file system of base debian.")
    ] = None,
    wheelhouse: Annotated[
        Path | None,
        typer.Option("--wheelhouse", help="Folder of Python packages, in place of an index."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--source", help="Checkout of jobmeter whose tests go into image tests."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Build images from their definitions into the folder."""
    from jobmeter import images_build
    from jobmeter.images_store import expanded

    profile = _profile(site)
    chosen_base = _base(base or profile.images.base)
    if root is None and profile.images.root is not None:
        root = expanded(profile.images.root, "images.root")
    recipes = [
        images_build.recipe(
            name,
            image,
            chosen_base,
            root and root.absolute(),
            wheelhouse and wheelhouse.absolute(),
            source,
        )
        for name, image in _chosen(names).items()
    ]
    _make(workshop(site, profile, folder), recipes, images_build.build, json_output)


@app.command("pull")
def pull_command(
    names: Names = None, site: Site = "local", folder: Folder = None, json_output: Json = False
) -> None:
    """Fetch the vendors' images as they are into the folder."""
    from jobmeter import images_build

    recipes = [
        images_build.Recipe(name, image, "registry") for name, image in _chosen(names).items()
    ]
    _make(workshop(site, _profile(site), folder), recipes, images_build.pull, json_output)


@app.command("verify")
def verify_command(
    names: Names = None, site: Site = "local", folder: Folder = None, json_output: Json = False
) -> None:
    """Prove that the images of the folder are whole, fit the nodes, and are not out of date.

    Exits with 1 when one of them is not.
    """
    from jobmeter import images
    from jobmeter.errors import ImageError
    from jobmeter.images_store import image_folder

    profile = _profile(site)
    catalogue = images.read_catalogue()
    place = folder or image_folder(site, profile.images)
    here = images.locked_images(place)
    if not here and not names:
        raise ImageError(f"{place}: has no images yet; jobmeter images build NAME...")
    problems = {
        name: _problem(name, place, catalogue.get(name), here.get(name), _architecture(profile))
        for name in (images.chosen(names, catalogue) if names else here)
    }
    if json_output:
        rows = [
            {"name": name, "ok": problem is None, "problem": problem}
            for name, problem in problems.items()
        ]
        typer.echo(json.dumps({"folder": str(place), "images": rows}, indent=2))
    for name, problem in problems.items():
        if problem is not None:
            _say(problem)
        elif not json_output:
            typer.echo(f"{name}: whole, {here[name].version}, sha256 {here[name].sha256}")
    if any(problems.values()):
        raise typer.Exit(1)


def _problem(
    name: str, place: Path, image: Image | None, locked: LockedImage | None, architecture: str
) -> str | None:
    """Return what is wrong with an image in one line, if anything is."""
    from jobmeter.errors import ImageError
    from jobmeter.images import verify
    from jobmeter.images_definition import outdated

    if locked is None:
        return f"{place}: has no image {name}; jobmeter images build {name}"
    try:
        verify(locked, architecture)
    except ImageError as error:
        return str(error)
    return outdated(locked, image)


def _profile(site: str) -> SiteProfile:
    from jobmeter.site import read_site

    return read_site(site, Path.cwd())


def _architecture(profile: SiteProfile) -> str:
    """Return the architecture of the nodes, which without a batch system is this machine."""
    import platform

    return platform.machine() if profile.launcher == "bash" else profile.architecture


def _base(text: str) -> Base:
    from jobmeter.errors import ImageRequestError

    if text == "registry":
        return "registry"
    if text == "debian":
        return "debian"
    raise ImageRequestError(f"--base {text}: unknown; give registry or debian")


def _chosen(names: Sequence[str] | None) -> Mapping[str, Image]:
    from jobmeter import images
    from jobmeter.errors import ImageRequestError

    catalogue = images.read_catalogue()
    if not names:
        raise ImageRequestError(
            f"name the images, of {', '.join(catalogue)}; a job's own monitoring needs "
            "prometheus node-exporter exporters"
        )
    return images.chosen(names, catalogue)


def workshop(site: str, profile: SiteProfile, folder: Path | None) -> Workshop:
    """Return where images are made on this machine.

    What the profile does not say never falls into the user's home: layers are kept beside the
    images, and unpacked where temporary files go.
    """
    import os
    import tempfile

    from jobmeter.errors import ImageError
    from jobmeter.images_build import Workshop
    from jobmeter.images_store import expanded, image_folder
    from jobmeter.process import find_program

    runtime, store = profile.runtime, profile.images
    place = (folder or image_folder(site, store)).absolute()
    kinds = {"apptainer": ["apptainer"], "singularity": ["singularity"]}
    wanted = [runtime.program] if runtime.program else kinds.get(runtime.kind)
    wanted = wanted or ["apptainer", "singularity"]
    program = find_program(wanted)
    if program is None:
        modules = f" (the profile's prologue: {'; '.join(profile.prologue)})"
        raise ImageError(
            f"{' or '.join(wanted)}: not on PATH, and it makes the images; load its module first"
            f"{modules if profile.prologue else ''}"
        )
    inherited = os.environ.get("APPTAINER_CACHEDIR") or os.environ.get("SINGULARITY_CACHEDIR")
    cache = expanded(store.cache, "images.cache") if store.cache else None
    return Workshop(
        program=program,
        folder=place,
        cache=cache or (Path(inherited) if inherited else place / ".cache"),
        tmp=expanded(store.tmp, "images.tmp") if store.tmp else Path(tempfile.gettempdir()),
        architecture=_architecture(profile),
    )


def _make(
    shop: Workshop,
    recipes: Sequence[Recipe],
    make: Callable[[Workshop, Recipe, Say], LockedImage],
    json_output: bool,
) -> None:
    """Make one image after the other; one that fails keeps no other from being made."""
    from jobmeter.errors import ImageError
    from jobmeter.images_folder import in_words

    made, failed = [], 0
    for recipe in recipes:
        began_s = time.monotonic()
        try:
            with progress(recipe.name) as say:
                image = make(shop, recipe, say)
        except ImageError as error:
            if len(recipes) == 1:
                raise
            _say(str(error))
            failed += 1
            continue
        took_s = round(time.monotonic() - began_s, 1)
        made.append(_fields(image) | {"took_s": took_s})
        if not json_output:
            typer.echo(
                f"{image.name} {image.version}: {image.file} "
                f"({in_words(image.size_bytes)}, {image.architecture}, {took_s:.0f} s)"
            )
    if json_output:
        typer.echo(json.dumps({"folder": str(shop.folder), "images": made}, indent=2))
    if failed:
        raise typer.Exit(1)


@contextmanager
def progress(name: str) -> Iterator[Say]:
    """Show on a terminal what is being done; in a pipe nobody is told."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _text: None
        return
    began_s = time.monotonic()
    with console.status(name) as status:

        def say(text: str) -> None:
            passed_s = time.monotonic() - began_s
            status.update(escape(f"{name} {passed_s:.0f} s: {text[: console.width - 30]}"))

        yield say


def _row(name: str, image: Image, locked: LockedImage | None) -> dict[str, Any]:
    registry = image.registry
    return {
        "name": name,
        "program": image.program,
        "licence": image.licence,
        "architectures": image.architectures,
        "bases": image.bases,
        "registry": registry.reference if registry is not None else None,
        "tag": registry.tag if registry is not None else None,
        "here": None if locked is None else _fields(locked) | {"state": _state(locked, image)},
    }


def _state(locked: LockedImage, image: Image) -> str:
    from jobmeter.images_definition import outdated

    if not locked.file.is_file():
        return "missing"
    return "out of date" if outdated(locked, image) else "here"


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    from jobmeter.images_folder import in_words

    here = row["here"]
    found = (
        ("no", "", "", "")
        if here is None
        else (here["state"], here["version"], here["base"], in_words(here["size_bytes"]))
    )
    bases = f"{row['bases'][0]} {row['tag']}" if row["tag"] else ""
    offered = ", ".join(bases if base == "registry" else base for base in row["bases"])
    return (row["name"], *found, row["licence"], offered)


def _fields(image: LockedImage) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(image) | {"file": str(image.file)}


def _strays(place: Path, here: Mapping[str, LockedImage]) -> list[Path]:
    known = {image.file.name for image in here.values()}
    return [path for path in sorted(place.glob("[!.]*.sif")) if path.name not in known]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _say(text: str) -> None:
    """Tell a person; machines read standard output."""
    typer.echo(f"jobmeter: {text}", err=True)
