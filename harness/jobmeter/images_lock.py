"""images.lock.json: which images lie in a folder, and what proves that they are what was built."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jobmeter.errors import ImageError
from jobmeter.files import write_atomically

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class LockedImage:
    """One image as it was built or pulled.

    Args:
        name: As the list of images calls it.
        version: Of the program: the registry's tag, Debian's package, or jobmeter's own.
        base: ``registry`` or ``debian``.
        origin: The registry's reference, or what the Debian root file system calls itself.
        architecture: As ``uname -m`` prints it, from the header of the file.
        program: What is started inside.
        file: The SIF file.
        sha256: Of the file.
        size_bytes: Of the file.
        definition_sha256: Of the definition and of what was copied in; None when it was pulled.
        made_at: When, UTC, ISO 8601.
    """

    name: str
    version: str
    base: str
    origin: str
    architecture: str
    program: str
    file: Path
    sha256: str
    size_bytes: int
    definition_sha256: str | None
    made_at: str


def lock_path(folder: Path) -> Path:
    """Where the list of the images in ``folder`` lies."""
    return folder / "images.lock.json"


def locked_images(folder: Path) -> Mapping[str, LockedImage]:
    """Return the images of ``folder`` by name; none when nothing was built there yet.

    Raises:
        ImageError: its list cannot be read, or is of another version.
    """
    path = lock_path(folder)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as cause:
        raise ImageError(f"{path}: cannot be read: {cause}") from cause
    try:
        data = json.loads(text)
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise ImageError(
                f"{path}: has schema version {version}, this jobmeter reads {SCHEMA_VERSION}; "
                "build the images into another folder"
            )
        return {name: _image(folder, name, entry) for name, entry in data["images"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        raise ImageError(
            f"{path}: is not a list of images ({cause}); remove it and build the images again"
        ) from cause


def _image(folder: Path, name: str, entry: dict[str, Any]) -> LockedImage:
    given = {field.name: entry[field.name] for field in fields(LockedImage) if field.name != "name"}
    return LockedImage(name=name, **{**given, "file": folder / Path(given["file"]).name})


def write_images(folder: Path, images: Mapping[str, LockedImage]) -> None:
    """Replace the list of the images in ``folder``; whoever may read the folder may read it."""
    entries = {name: _entry(image) for name, image in sorted(images.items())}
    path = lock_path(folder)
    write_atomically(
        json.dumps({"schema_version": SCHEMA_VERSION, "images": entries}, indent=2) + "\n", path
    )
    share(path)


def _entry(image: LockedImage) -> dict[str, Any]:
    entry = asdict(image) | {"file": image.file.name}
    del entry["name"]
    return entry


def share(path: Path) -> None:
    """Give a file the mode that the user's umask gives to new files: images serve a project."""
    umask = os.umask(0o077)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
