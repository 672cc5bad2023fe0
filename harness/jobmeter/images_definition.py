"""From an entry of the list of images to what is built: a definition, and files beside it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jobmeter.errors import ImageError
from jobmeter.images_catalogue import DEFINITIONS, Base, Image
from jobmeter.images_lock import LockedImage
from jobmeter.suite.sources import copy_tree
from jobmeter.templating import render


@dataclass(frozen=True)
class ImageBuild:
    """Every decision that a definition needs, already taken.

    Args:
        name: Of the image.
        licence: Of its program.
        program: What the stack starts inside.
        base: ``registry`` or ``debian``.
        agent: How the runtime calls that.
        origin: The registry's reference, or the folder of the root file system.
        packages: Of Debian; the first is the program's.
        optional: Packages that not every release of Debian has.
        wheelhouse: Whether Python packages are installed from a folder instead of an index.
    """

    name: str
    licence: str
    program: str
    base: Base
    agent: str
    origin: str
    packages: tuple[str, ...]
    optional: tuple[str, ...]
    wheelhouse: bool


def image_build(
    name: str, image: Image, base: Base, root: str = "ROOT", *, wheelhouse: bool = False
) -> ImageBuild:
    """Return the decisions for one image; it must offer ``base``."""
    docker = image.registry is not None and base == "registry"
    return ImageBuild(
        name=name,
        licence=image.licence,
        program=image.program,
        base=base,
        agent="docker" if docker else "localimage",
        origin=image.registry.reference if image.registry is not None and docker else root,
        packages=tuple(image.debian),
        optional=tuple(image.optional),
        wheelhouse=wheelhouse,
    )


def definition_text(image: Image, build: ImageBuild) -> str:
    """Return the text of the definition.

    Raises:
        RenderError: its template asks for something that there is not.
    """
    return render(DEFINITIONS, image.definition, {"build": build})


def fingerprint(name: str, image: Image, base: Base) -> str:
    """Return the sha256 of everything of ours that makes up an image.

    It does not depend on where a root file system or a folder of wheels lies, nor on the sources
    in the image of the tests, which tells itself which they are.

    Raises:
        ImageError: a package that is copied in is not installed here.
    """
    digest = hashlib.sha256(definition_text(image, image_build(name, image, base)).encode())
    for path, content in sorted(copied_files(image).items()):
        digest.update(f"\0{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def outdated(locked: LockedImage, image: Image | None) -> str | None:
    """Return why an image is not what would be made today, in one line; None when it is.

    Raises:
        ImageError: a package that is copied in is not installed here.
    """
    again = f"jobmeter images {{}} {locked.name}"
    if image is None:
        return f"{locked.file}: the list of images has no {locked.name} any more; remove it"
    if locked.definition_sha256 is None:
        wanted = image.registry.reference if image.registry is not None else None
        if locked.origin == wanted:
            return None
        return f"{locked.file}: was pulled from {locked.origin}; {again.format('pull')}"
    base: Base = "debian" if locked.base == "debian" else "registry"
    if base in image.bases and fingerprint(locked.name, image, base) == locked.definition_sha256:
        return None
    return f"{locked.file}: its definition has changed since; {again.format('build')}"


def stage(
    image: Image,
    build: ImageBuild,
    folder: Path,
    wheelhouse: Path | None,
    project: Path | None = None,
) -> Path:
    """Write the definition and what it copies into the new ``folder``; return the definition.

    Args:
        image: Its entry in the list.
        build: What was decided.
        folder: To be made.
        wheelhouse: Folder of Python packages that goes into it.
        project: Source tree of jobmeter that goes into it.

    Raises:
        ImageError: a package that is copied in is not installed here.
        OSError: there is no space, or it cannot be written.
    """
    folder.mkdir()
    for path, content in copied_files(image).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if wheelhouse is not None:
        shutil.copytree(wheelhouse, folder / "wheelhouse")
    if project is not None:
        copy_tree(project, folder / "project")
    definition = folder / f"{build.name}.def"
    definition.write_text(definition_text(image, build), encoding="utf-8")
    return definition


def copied_files(image: Image) -> Mapping[PurePosixPath, bytes]:
    """Return what is copied into an image, by the path beside the definition.

    Raises:
        ImageError: a package is not installed here.
    """
    files = {
        PurePosixPath("python", *path.relative_to(top).parts): path.read_bytes()
        for package in image.python
        for top, path in _sources(package)
    }
    if image.requirements:
        files[PurePosixPath("requirements.txt")] = _requirements_of_tests().encode()
    return files


def _requirements_of_tests() -> str:
    try:
        declared = importlib.metadata.requires("jobmeter") or ()
    except importlib.metadata.PackageNotFoundError as cause:
        raise ImageError(
            "what the tests require is not known, as jobmeter is not installed; pip install it"
        ) from cause
    return "".join(f"{line}\n" for line in requirements(declared, "tests"))


def _sources(package: str) -> Iterator[tuple[Path, Path]]:
    """Return each file of an installed package or module with the folder it is imported from.

    What is compiled is left out: it fits the Python here, not that of the image.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImageError(
            f"Python package {package!r} goes into the image and is not installed here; "
            "install jobmeter with its dependencies"
        )
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        yield origin.parent, origin
        return
    for path in origin.parent.rglob("*"):
        if path.is_file() and path.suffix not in (".pyc", ".so"):
            yield origin.parent.parent, path


def requirements(declared: Iterable[str], extra: str) -> list[str]:
    """Return what a distribution requires with one of its extras, without the word of the extra.

    >>> requirements(["a>=1", "b; extra == 'dev'", "c; os == 'x'", "d; extra == 'x'"], "dev")
    ['a>=1', 'b', "c; os == 'x'"]
    """
    found = []
    for line in declared:
        needs = re.search(r"\bextra == ['\"]([^'\"]+)['\"]", line)
        if needs is None:
            found.append(line)
        elif needs[1] == extra:
            rest = re.sub(r"\s*(\band\b)?\s*extra == ['\"][^'\"]+['\"]", "", line)
            found.append(re.sub(r"\s*;\s*$", "", rest))
    return sorted(found)
