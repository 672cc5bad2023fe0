"""The images of a job's stack: found and verified before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jobmeter import __version__
from jobmeter.errors import ImageError
from jobmeter.images import LockedImage, locked_images, sha256_of, verify
from jobmeter.images_catalogue import read_catalogue
from jobmeter.images_store import image_folder
from jobmeter.manifest import UsedImage
from jobmeter.runtime import ContainerImage
from jobmeter.site import SiteProfile

OURS = "exporters"
"""The image that holds a part of jobmeter itself."""


def verified_images(
    names: Sequence[str], site_name: str, site: SiteProfile
) -> tuple[UsedImage, ...]:
    """Return the images called ``names``, each read as a whole and found to be what was built.

    Raises:
        ImageRequestError: the profile does not say where they are.
        ImageError: one is missing, damaged, replaced, of another release of jobmeter, or for other
            nodes than the site's.
    """
    if not names:
        return ()
    folder = image_folder(site_name, site.images)
    if site.runtime.kind == "pyxis":
        return tuple(_squashed(name, folder, site) for name in names)
    locked = locked_images(folder)
    for name in names:
        if name not in locked:
            raise ImageError(
                f"{folder}: image {name!r} of the stack is not there; make it with "
                f"'jobmeter images build {name} --site {site_name}'"
            )
        _check_release(locked[name], site_name)
        verify(locked[name], site.architecture)
    return tuple(
        UsedImage(
            name=name,
            version=image.version,
            sha256=image.sha256,
            file=str(image.file),
            size_bytes=image.size_bytes,
            architecture=image.architecture,
        )
        for name, image in ((name, locked[name]) for name in names)
    )


def _check_release(image: LockedImage, site_name: str) -> None:
    """Refuse our own exporters of another release: the scripts ask for what these have."""
    if image.name == OURS and image.version != __version__:
        raise ImageError(
            f"{image.file}: has the exporters of jobmeter {image.version}, this is {__version__}; "
            f"make it again with 'jobmeter images build {image.name} --site {site_name}'"
        )


def _squashed(name: str, folder: Path, site: SiteProfile) -> UsedImage:
    """Return an image as pyxis takes it: a file that ``enroot import`` has made."""
    file = folder / f"{name}.sqsh"
    if not file.is_file():
        raise ImageError(
            f"{file}: no such file; pyxis takes no SIF, make it with 'enroot import --output'"
        )
    size_bytes = file.stat().st_size
    return UsedImage(name, None, sha256_of(file), str(file), size_bytes, site.architecture)


def container_images(images: Sequence[UsedImage]) -> Mapping[str, ContainerImage]:
    """Return the images by name, as the scripts of a job need them."""
    catalogue = read_catalogue()
    return {
        image.name: ContainerImage(
            name=image.name,
            program=catalogue[image.name].program,
            file=image.file,
            size_bytes=image.size_bytes,
            architecture=image.architecture,
        )
        for image in images
    }
