"""Images of the stack and of the workloads: which there are, which lie in a folder, are they whole.

Where they are built and pulled: ``images_build.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from jobmeter.errors import ImageError
from jobmeter.images_catalogue import Image, chosen, read_catalogue
from jobmeter.images_lock import LockedImage, locked_images
from jobmeter.images_sif import read_header

__all__ = ["Image", "LockedImage", "chosen", "locked_images", "read_catalogue", "verify"]


def verify(locked: LockedImage, architecture: str | None = None) -> None:
    """Prove that an image is the one that was built, and that it can run.

    The whole file is read: about a second per gigabyte.

    Args:
        locked: The image.
        architecture: Of the nodes, as ``uname -m`` prints it there; None where it is not known.

    Raises:
        ImageError: it is missing, damaged, replaced, or built for another architecture.
    """
    header = read_header(locked.file)
    if header.architecture != locked.architecture:
        raise ImageError(
            f"{locked.file}: is built for {header.architecture}, images.lock.json says "
            f"{locked.architecture}; build or pull {locked.name} again"
        )
    if architecture is not None and header.architecture != architecture:
        raise ImageError(
            f"{locked.file}: is built for {header.architecture}, the nodes are {architecture}; "
            f"build {locked.name} on a machine of that architecture"
        )
    found = sha256_of(locked.file)
    if found != locked.sha256:
        raise ImageError(
            f"{locked.file}: has sha256 {found[:12]}..., images.lock.json says "
            f"{locked.sha256[:12]}...: damaged or replaced; build or pull {locked.name} again"
        )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hex digits.

    Raises:
        ImageError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    except OSError as cause:
        raise ImageError(f"{path}: cannot be read: {cause.strerror or cause}") from cause
    return digest.hexdigest()
