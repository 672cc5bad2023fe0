"""The image in which the tests run."""

from __future__ import annotations

from pathlib import Path

from jobmeter import __version__
from jobmeter.errors import ImageError
from jobmeter.images import sha256_of
from jobmeter.images_sif import read_header
from jobmeter.manifest import UsedImage
from jobmeter.site import SiteProfile

NAME = "tests"


def given_image(file: Path, site: SiteProfile) -> UsedImage:
    """Return an image as somebody gives it: of no folder, without a list.

    Raises:
        ImageError: it is missing, damaged, or for other nodes than the site's.
    """
    path = file.absolute()
    architecture: str = site.architecture
    if site.runtime.kind != "pyxis":
        architecture = read_header(path).architecture
    elif not path.is_file():
        raise ImageError(f"{path}: the image is missing; give one that 'enroot import' has made")
    if site.launcher == "slurm" and architecture != site.architecture:
        raise ImageError(
            f"{path}: is built for {architecture}, the nodes are {site.architecture}; build it on "
            "a machine of that architecture"
        )
    return UsedImage(NAME, None, sha256_of(path), str(path), path.stat().st_size, architecture)


def remark_on(image: UsedImage) -> str | None:
    """Return what a person should know of an image: that it is of another version, if it is."""
    if image.version in (None, __version__):
        return None
    return (
        f"image {NAME!r} was made by jobmeter {image.version}, this is {__version__}; "
        "--build makes it anew"
    )
