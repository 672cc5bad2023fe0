"""Facts about the images of the stack, verified by the code that ``submit`` uses."""

from __future__ import annotations

from collections.abc import Sequence

from jobmeter.doctor.facts import Fact
from jobmeter.errors import ImageError, ImageRequestError
from jobmeter.images_store import image_folder
from jobmeter.manifest import UsedImage
from jobmeter.site import SiteProfile
from jobmeter.stack_images import verified_images

UNSET = "the site profile names no images.folder"


def image_facts(
    names: Sequence[str], site_name: str, site: SiteProfile
) -> tuple[tuple[Fact, ...], tuple[UsedImage, ...]]:
    """Return a fact for each of the images ``names``, and those that a job would take."""
    if not names:
        return (), ()
    if site.images.folder is None:
        return (_store(UNSET),), ()
    try:
        image_folder(site_name, site.images)
    except ImageRequestError as problem:
        return (_store(str(problem)),), ()
    facts, used = [_store("")], []
    for name in names:
        try:
            (image,) = verified_images((name,), site_name, site)
        except ImageError as amiss:
            facts.append(_image(name, problem=str(amiss)))
        else:
            used.append(image)
            facts.append(_image(name, version=image.version or "", file=image.file))
    return tuple(facts), tuple(used)


def _image(name: str, *, version: str = "", file: str = "", problem: str = "") -> Fact:
    return {"fact": "image", "name": name, "version": version, "file": file, "problem": problem}


def _store(problem: str) -> Fact:
    return {"fact": "images", "problem": problem}
