"""Facts about images, by the code that jobs use: present, and what their lock file says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jobmeter import images
from jobmeter.doctor.facts import Fact
from jobmeter.doctor.probe import ImageFile
from jobmeter.errors import ImageError
from jobmeter.images_store import image_folder
from jobmeter.site import SiteProfile

UNSET = "the site profile names no images.folder"

NEEDED = ("prometheus", "node-exporter", "exporters")
"""The images of the components of every job."""


def image_facts(site_name: str, site: SiteProfile) -> tuple[Fact, ...]:
    """Return a fact for each image that a job needs; none where the stack needs no images."""
    if site.runtime.kind == "native":
        return ()
    if site.images.folder is None:
        return (_store(UNSET),)
    try:
        folder = image_folder(site_name, site.images)
        locked = images.locked_images(folder)
    except ImageError as problem:
        return (_store(str(problem)),)
    return (_store(""), *(_image(name, locked, folder, site.architecture) for name in NEEDED))


def _image(
    name: str, locked: Mapping[str, images.LockedImage], folder: Path, architecture: str
) -> Fact:
    fact = {"fact": "image", "name": name, "version": "", "file": "", "program": "", "problem": ""}
    image = locked.get(name)
    if image is None:
        return {**fact, "problem": f"{name}: not in {folder}"}
    fact |= {"version": image.version, "file": str(image.file), "program": image.program}
    try:
        images.verify(image, architecture)
    except ImageError as amiss:
        fact["problem"] = str(amiss)
    return fact


def _store(problem: str) -> Fact:
    return {"fact": "images", "problem": problem}


def image_files(facts: tuple[Fact, ...]) -> tuple[ImageFile, ...]:
    """Return the files that a node must be able to read."""
    return tuple(
        ImageFile(fact["name"], fact["file"], fact["program"])
        for fact in facts
        if fact["fact"] == "image" and fact["file"]
    )
