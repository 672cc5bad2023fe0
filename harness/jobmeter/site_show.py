"""A resolved site profile as YAML that can be read back, each value with the file it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from jobmeter.site import ResolvedSite, SiteProfile
from jobmeter.site_facts import Unanswered
from jobmeter.site_files import INHERITS, KeyPath
from jobmeter.site_limits import Partition, Qos

DEFAULT = "default"
COMMENT_COLUMN = 60
LINE_LIMIT = 100


def values_of(profile: SiteProfile) -> dict[str, Any]:
    """Return every value that holds; limits that are not known are left out."""
    values = profile.model_dump(exclude_none=True, exclude={INHERITS, "partitions", "qos"})
    limits = profile.model_dump(exclude_unset=True, include={"partitions", "qos"})
    return {**values, **limits}


def origins_of(resolved: ResolvedSite) -> dict[str, str]:
    """Return which file gave each value, by its dotted path; defaults are not in it."""
    known = resolved.merged.origins.items()
    return {".".join(path): str(file) for path, file in known if path != (INHERITS,)}


def yaml_lines(resolved: ResolvedSite) -> Iterator[str]:
    """Yield the lines of the profile as one file, without ``inherits``."""
    yield f"# site {resolved.name}, put together from:"
    for file in resolved.merged.files:
        yield f"#   {file}"
    yield from _lines(resolved, values_of(resolved.profile), ())


def draft_lines(
    partitions: Mapping[str, Partition], qos: Mapping[str, Qos] | Unanswered
) -> Iterator[str]:
    """Yield the lines of a profile that begins with what Slurm says."""
    yield "inherits: generic-slurm"
    yield "description: my cluster"
    yield "mandatory: [] # of account, partition, qos, time: what sbatch demands here"
    yield "defaults: {} # account, partition, qos, time"
    if partitions:
        yield "partitions:"
    for name, partition in partitions.items():
        yield f"  {_flow(name)}: {_flow(partition.model_dump(exclude_none=True))}"
    if isinstance(qos, Unanswered):
        yield f"# qos: Slurm's accounting does not answer: {qos.why}"
        return
    if qos:
        yield "qos: # an association may limit more"
    for name, limits in qos.items():
        known = limits.model_dump(exclude_none=True, exclude_defaults=True)
        yield f"  {_flow(name)}: {_flow(known)}"


def _lines(resolved: ResolvedSite, values: Mapping[str, Any], path: KeyPath) -> Iterator[str]:
    for key, value in values.items():
        place = (*path, key)
        text = f"{'  ' * len(path)}{_flow(key)}: {_flow(value)}"
        origins = {_origin(resolved, leaf) for leaf in _leaves(value, place)}
        together = len(origins) == 1 and len(text) <= LINE_LIMIT
        if isinstance(value, Mapping) and value and not (together and path):
            yield f"{'  ' * len(path)}{_flow(key)}:"
            yield from _lines(resolved, value, place)
        else:
            yield f"{text:<{COMMENT_COLUMN}}  # {', '.join(sorted(origins))}"


def _leaves(value: object, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path


def _origin(resolved: ResolvedSite, path: KeyPath) -> str:
    file = resolved.merged.origins.get(path)
    return str(file) if file is not None else DEFAULT


def _flow(value: object) -> str:
    """Return ``value`` as YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
