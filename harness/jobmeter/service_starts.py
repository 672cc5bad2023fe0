"""How the services of a job are started in their images, where the site runs containers.

A service is the user's, so its container sees more than those of the stack do: the home, the folder
where the job was submitted, and the run directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jobmeter.runtime import (
    ContainerImage,
    Mount,
    Start,
    container_start,
    device_words,
    whole_node_words,
)
from jobmeter.services import PlannedService, PlannedServices
from jobmeter.site import SiteProfile
from jobmeter.starts import expected_image

_MOUNTS = tuple(
    Mount(path, writable=True) for path in ('"$HOME"', '"$PWD"', '"$RUN"', '"$SERVICE_SCRATCH"')
)
_OURS = ("JOBMETER_HOST", "JOBMETER_PORT", "JOBMETER_SERVICE")


def service_starts_of(
    services: PlannedServices, site: SiteProfile, images: Mapping[str, ContainerImage]
) -> Mapping[str, Start]:
    """Return by label how each service is started that has an image, where there are containers.

    Args:
        services: Of the job.
        site: The profile.
        images: Those that were found, by name.
    """
    if site.runtime.kind == "native":
        return {}
    return {
        one.label: _start(one, one.image, site, images)
        for one in services.every
        if one.image is not None
    }


def _start(
    service: PlannedService, name: str, site: SiteProfile, images: Mapping[str, ContainerImage]
) -> Start:
    image = images.get(name) or expected_image(name, site)
    names = [*_OURS, *(variable for variable, _ in service.environment)]
    if service.key_variable is not None:
        names.append(service.key_variable)
    return container_start(
        site.runtime,
        replace(image, program=service.command[0].words[0]),
        component=service.label,
        variables={},
        mounts=(*_MOUNTS, *_storage(service)),
        late_words=(
            *whole_node_words(site.runtime.kind),
            *(device_words(site.runtime.kind, site.vendor) if service.devices else ()),
        ),
        passed=names,
    )


def _storage(service: PlannedService) -> tuple[Mount, ...]:
    """Return the folders of the site that a service reads and keeps its caches in."""
    models = dict.fromkeys(folder for search in service.searches for folder in search.folders)
    caches = () if service.cache is None else (Mount(service.cache, writable=True),)
    return (*(Mount(folder) for folder in models), *caches)
