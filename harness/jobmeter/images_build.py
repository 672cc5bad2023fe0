"""Building and pulling images with the runtime's own program.

An image is made under another name and takes its own when it is whole, so that what was killed or
ran out of space never counts.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from jobmeter import __version__, process
from jobmeter.errors import ImageError, ImageRequestError
from jobmeter.images import sha256_of
from jobmeter.images_catalogue import Base, Image
from jobmeter.images_definition import fingerprint, image_build, stage
from jobmeter.images_folder import (
    exclusive,
    keep,
    log_path,
    no_space,
    partial_path,
    require_space,
    space_errors,
    workspace,
)
from jobmeter.images_lock import LockedImage, locked_images, write_images
from jobmeter.images_root import DebianRoot, debian_root
from jobmeter.images_sif import read_header
from jobmeter.suite.sources import source_tree

Say = Callable[[str], None]

_SQUASH = "APPTAINER_MKSQUASHFS_ARGS"
_GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|i/o timeout|connection refused|x509:|TLS handshake", re.IGNORECASE
)


@dataclass(frozen=True)
class Workshop:
    """Where and with what images are made.

    Args:
        program: apptainer or singularity.
        folder: Of the images.
        cache: Of the layers that the program pulls.
        tmp: Where it unpacks.
        architecture: Of the nodes on which the images shall run, as ``uname -m`` prints it.
    """

    program: Path
    folder: Path
    cache: Path
    tmp: Path
    architecture: str


@dataclass(frozen=True)
class Recipe:
    """One image, and how it is asked for.

    Args:
        name: As the list of images calls it.
        image: Its entry there.
        base: From what it is built.
        root: The Debian root file system, where that is the base.
        wheelhouse: Folder of Python packages that are installed instead of those of an index.
        project: Source tree of jobmeter, where its tests go into the image.
    """

    name: str
    image: Image
    base: Base
    root: DebianRoot | None = None
    wheelhouse: Path | None = None
    project: Path | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, for the lock file."""
        if self.root is not None:
            return self.root.release
        return self.image.registry.reference if self.image.registry is not None else ""


def recipe(
    name: str,
    image: Image,
    base: Base,
    root: Path | None = None,
    wheelhouse: Path | None = None,
    source: Path | None = None,
) -> Recipe:
    """Return how ``image`` is built, when it can be.

    Args:
        name: As the list of images calls it.
        image: Its entry there.
        base: From what it shall be built.
        root: Folder of the Debian root file system.
        wheelhouse: Folder of Python packages.
        source: Source tree of jobmeter; by default that from which it runs.

    Raises:
        ImageRequestError: it does not offer the base, or a folder was not given.
        ImageError: the root file system is missing, or cannot be copied.
    """
    if base not in image.bases:
        raise ImageRequestError(
            f"image {name}: cannot be built from base {base!r}; give --base {image.bases[0]}"
        )
    if wheelhouse is not None and not wheelhouse.is_dir():
        raise ImageRequestError(f"--wheelhouse {wheelhouse}: no such folder")
    project = source_tree(source) if image.project else None
    if base == "registry":
        return Recipe(name, image, base, wheelhouse=wheelhouse, project=project)
    if root is None:
        raise ImageRequestError(
            "base 'debian' needs a root file system; give --root DIR or write images.root into the "
            "profile; docs/images.md says how one is made"
        )
    return Recipe(name, image, base, debian_root(root), wheelhouse, project)


def build(shop: Workshop, recipe: Recipe, say: Say) -> LockedImage:
    """Build an image from its definition, and write it into the folder's list.

    Args:
        shop: Where and with what.
        recipe: What.
        say: Is told how far it is.

    Raises:
        ImageError: it could not be built; nothing is left but a log.
    """
    machine = platform.machine()
    if machine != shop.architecture:
        raise ImageError(
            f"image {recipe.name}: this machine is {machine}, the nodes are {shop.architecture}; "
            "build it on one of them"
        )
    root_bytes = 0 if recipe.root is None else recipe.root.size_bytes

    def make(room: Path, partial: Path) -> tuple[str, ...]:
        root = "" if recipe.root is None else str(recipe.root.folder)
        decided = image_build(
            recipe.name,
            recipe.image,
            recipe.base,
            root,
            wheelhouse=recipe.wheelhouse is not None,
        )
        definition = stage(recipe.image, decided, room / "build", recipe.wheelhouse, recipe.project)
        return (str(shop.program), "build", str(partial), definition.name)

    made_of = fingerprint(recipe.name, recipe.image, recipe.base)
    return _make(shop, recipe, make, made_of, root_bytes, say)


def pull(shop: Workshop, recipe: Recipe, say: Say) -> LockedImage:
    """Fetch the vendor's image as it is, and write it into the folder's list.

    Raises:
        ImageRequestError: no registry has it.
        ImageError: it could not be fetched; nothing is left but a log.
    """
    name, image = recipe.name, recipe.image
    if image.registry is None or image.is_ours:
        raise ImageRequestError(
            f"image {name}: a part of it is ours, so no registry has it; "
            f"jobmeter images build {name}"
        )
    machine = platform.machine()
    other = () if machine == shop.architecture else ("--arch", _GO_NAMES[shop.architecture])
    source = f"docker://{image.registry.reference}"

    def make(room: Path, partial: Path) -> tuple[str, ...]:
        (room / "build").mkdir()
        return (str(shop.program), "pull", *other, str(partial), source)

    return _make(shop, recipe, make, None, 0, say)


def _make(
    shop: Workshop,
    recipe: Recipe,
    make: Callable[[Path, Path], tuple[str, ...]],
    definition_sha256: str | None,
    more_bytes: int,
    say: Say,
) -> LockedImage:
    """Make an image under another name, prove it, and give it its own."""
    name, image = recipe.name, recipe.image
    if shop.architecture not in image.architectures:
        raise ImageError(
            f"image {name}: there is none for {shop.architecture}, only for "
            f"{', '.join(image.architectures)}"
        )
    verb = "pull" if definition_sha256 is None else "build"
    what = f"'jobmeter images {verb} {name}'"
    with exclusive(shop.folder, what), workspace(shop.tmp, shop.folder) as room:
        for place, option in (
            (shop.tmp, "images.tmp in the profile"),
            (shop.folder, "images.folder in the profile, or --folder"),
        ):
            require_space(place, image.space_bytes + more_bytes, option)
        partial = partial_path(shop.folder, name)
        version = _Version(recipe, say)
        try:
            with space_errors(f"image {name}"):
                _run(shop, recipe, make(room, partial), room, version)
                locked = _proved(shop, recipe, partial, version.found, definition_sha256)
                known = locked_images(shop.folder)
                write_images(shop.folder, {**known, name: locked})
        finally:
            partial.unlink(missing_ok=True)
    return locked


_UNTOLD = "unknown"


class _Version:
    """Listens to a build: where Debian decides the version, the definition prints it."""

    def __init__(self, recipe: Recipe, say: Say) -> None:
        self._say = say
        self.found = _UNTOLD
        if recipe.image.is_ours:
            self.found = __version__
        elif recipe.base == "registry" and recipe.image.registry is not None:
            self.found = recipe.image.registry.tag

    def __call__(self, line: str) -> None:
        told = re.fullmatch(r"jobmeter\.version (\S+)", line)
        if told is not None and self.found == _UNTOLD:
            self.found = told[1]
        if line.strip():
            self._say(re.sub(r"^INFO:\s*", "", line.strip()))


def _run(shop: Workshop, recipe: Recipe, command: tuple[str, ...], room: Path, listen: Say) -> None:
    """Run the program; its output is kept when it fails."""
    log = log_path(shop.folder, recipe.name)
    last: deque[str] = deque(maxlen=200)
    unpacked = room / "unpacked"
    unpacked.mkdir()
    environment = _environment(shop.cache, unpacked)
    with log.open("w", buffering=1, encoding="utf-8") as handle:

        def line(text: str) -> None:
            handle.write(text + "\n")
            last.append(text)
            listen(text)

        line("+ " + shlex.join(command))
        code = process.run_followed(command, line, folder=room / "build", environment=environment)
    if code != 0:
        _fail(recipe, shop, code, list(last), log)
    log.unlink()


def _environment(cache: Path, tmp: Path) -> Mapping[str, str]:
    """Return the variables that keep the program away from the user's home, in both spellings.

    Unless the user says otherwise images are compressed as fast as can be: of the same tree that
    took 3 instead of 15 CPU seconds for 7 % more bytes. A program that knows it not ignores it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folders = {"CACHEDIR": str(cache), "TMPDIR": str(tmp)}
    squash = {_SQUASH: os.environ.get(_SQUASH, "-Xcompression-level 1")}
    both = {f"{p}_{key}": x for p in ("APPTAINER", "SINGULARITY") for key, x in folders.items()}
    return both | squash


def _fail(recipe: Recipe, shop: Workshop, code: int, lines: list[str], log: Path) -> None:
    name = recipe.name
    text = "\n".join(lines)
    if code in (130, 143):
        raise ImageError(f"image {name}: interrupted; nothing of it was kept")
    if _FULL.search(text):
        no_space(f"image {name}: no space was left in {shop.tmp}, {shop.cache} or {shop.folder}")
    fatal = [re.sub(r"^FATAL:\s*", "", x) for x in lines if x.startswith("FATAL:")]
    said = fatal[-1] if fatal else next((x for x in reversed(lines) if x.strip()), "nothing")
    advice = ""
    if _UNREACHABLE.search(said):
        offline = "build it from --base debian, or " if "debian" in recipe.image.bases else ""
        advice = f"; without internet {offline}make it elsewhere and copy the folder"
    raise ImageError(
        f"image {name}: {shop.program.name} ended with {code}: {said}{advice}; the whole log: {log}"
    )


def _proved(
    shop: Workshop, recipe: Recipe, partial: Path, version: str, definition_sha256: str | None
) -> LockedImage:
    """Return a finished image in its place, for the nodes it was made for."""
    header = read_header(partial)
    if header.architecture != shop.architecture:
        raise ImageError(
            f"image {recipe.name}: came out for {header.architecture}, the nodes are "
            f"{shop.architecture}; build it on a machine of that architecture"
        )
    sha256 = sha256_of(partial)
    file = keep(partial, shop.folder, recipe.name, sha256)
    return LockedImage(
        name=recipe.name,
        version=version,
        base=recipe.base,
        origin=recipe.origin,
        architecture=header.architecture,
        program=recipe.image.program,
        file=file,
        sha256=sha256,
        size_bytes=file.stat().st_size,
        definition_sha256=definition_sha256,
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
