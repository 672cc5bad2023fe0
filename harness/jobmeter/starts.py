"""How each component of the stack is started on a site: from the node itself, or from its image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jobmeter.images_catalogue import read_catalogue
from jobmeter.runtime import (
    ContainerImage,
    Mount,
    Start,
    Vendor,
    container_start,
    device_words,
    native_start,
)
from jobmeter.site import SiteProfile
from jobmeter.templating import ShellText

PROMETHEUS_THREADS = 2
PROMETHEUS_MEMORY = "1GiB"

_RUN = Mount('"$RUN"')
_WORK = Mount('"$WORK"')
_DEVICES = ShellText('"${DEVICES[@]}"')


@dataclass(frozen=True)
class Component:
    """A process of the stack.

    Args:
        image: In which it runs; None where it needs programs of the node and has no container.
        variables: What it finds in its environment, by name.
        mounts: Paths of the node that it sees in its container.
        late_words: Words of its container that the script fills in.
    """

    image: str | None
    variables: Mapping[str, str]
    mounts: tuple[Mount, ...]
    late_words: tuple[str, ...] = ()


_OURS = Component("exporters", {}, (_RUN, _WORK), (_DEVICES,))

COMPONENTS: Mapping[str, Component] = {
    # Its data lie on the node, never in the few megabytes that a container may write.
    "prometheus": Component(
        "prometheus",
        {"GOMAXPROCS": str(PROMETHEUS_THREADS), "GOMEMLIMIT": PROMETHEUS_MEMORY},
        (_RUN, Mount('"$DATA"', writable=True)),
    ),
    # The kernel's /proc and /sys are the node's in any of the runtimes.
    "node_exporter": Component(
        "node-exporter", {"GOMAXPROCS": "1"}, (_RUN, _WORK, Mount("/", "/host"))
    ),
    "exporters": _OURS,
    "fallback": _OURS,
    # A process of its own: pages of others, of whatever size, do not hold up our own numbers.
    "gateway": _OURS,
    "dcgm": Component("dcgm-exporter", {}, (_RUN, _WORK), (_DEVICES,)),
    # It writes what it found into the attempt, and sees the folders of what it follows.
    "logs": Component(
        "exporters", {}, (Mount('"$RUN"', writable=True), _WORK), (ShellText('"${MOUNTS[@]}"'),)
    ),
    # It asks Slurm's own commands, which no image has.
    "queue": Component(None, {}, ()),
}

SERVICE_VENDORS: Mapping[str, Vendor] = {"nvidia": "nvidia", "dcgm": "nvidia", "hl-smi": "gaudi"}
"""Whose devices the exporter behind a ``service`` label looks at."""

NODE_FILES: Mapping[str, tuple[str, ...]] = {"hl-smi": ("/usr/bin/hl-smi", "/usr/lib/habanalabs")}
"""Files of the node that an exporter needs in its container, where they are there."""


def image_names(components: Iterable[str]) -> tuple[str, ...]:
    """Return the images in which these components run, sorted."""
    return tuple(sorted({image for name in components if (image := COMPONENTS[name].image)}))


def starts_of(
    site: SiteProfile, images: Mapping[str, ContainerImage], python: str
) -> Mapping[str, Start]:
    """Return how every component is started on ``site``, whether a job has it or not.

    Args:
        site: The profile.
        images: Those that were found, by name. What is missing is taken to lie in the site's folder
            under its name: a plan that is only looked at needs no images.
        python: The interpreter that runs our exporters where they have no container.
    """
    return {
        name: _start(name, component, site, images, python)
        for name, component in COMPONENTS.items()
    }


def _start(
    name: str,
    component: Component,
    site: SiteProfile,
    images: Mapping[str, ContainerImage],
    python: str,
) -> Start:
    if site.runtime.kind == "native" or component.image is None:
        return _native(name, component, site, python)
    image = images.get(component.image) or expected_image(component.image, site)
    return container_start(
        site.runtime,
        image,
        component=name,
        variables=component.variables,
        mounts=component.mounts,
        late_words=component.late_words,
    )


def _native(name: str, component: Component, site: SiteProfile, python: str) -> Start:
    named = {
        "prometheus": site.programs.prometheus,
        "node_exporter": site.programs.node_exporter,
        "dcgm": site.programs.dcgm_exporter,
    }
    if name in named:
        programs = named[name]
        missing = f"{' or '.join(programs)} is not on PATH of this node"
        return native_start(programs, component.variables, missing)
    missing = f"{python}, which runs our exporters, is not on this node"
    return Start((python,), (), ("-m", "jobmeter_exporters"), missing)


def expected_image(name: str, site: SiteProfile) -> ContainerImage:
    """Return an image where nobody has looked: a path as it is, a name in the site's folder."""
    if "/" in name:
        return ContainerImage(name, "", name, None, site.architecture)
    file = f"{site.images.folder or '/images.folder'}/{name}.sif"
    return ContainerImage(name, read_catalogue()[name].program, file, None, site.architecture)


def device_access(site: SiteProfile) -> Mapping[str, tuple[str, ...]]:
    """Return by ``service`` label the words by which its exporter's container sees the devices."""
    words = {
        service: device_words(site.runtime.kind, vendor)
        for service, vendor in SERVICE_VENDORS.items()
    }
    return {service: found for service, found in words.items() if found}
