"""What a job asks Slurm for in the end: the job file, the site's defaults, and options in words.

Of several ``#SBATCH`` lines that say the same, the last one counts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobmeter.groups import Group
from jobmeter.quantities import slurm_memory_mb, slurm_time_s
from jobmeter.site import SiteProfile
from jobmeter.spec import Resources

CHOSEN = ("time", "account", "partition", "qos")
"""What a job file may leave to the defaults of the site."""


@dataclass(frozen=True)
class Request:
    """What Slurm is asked for; None is not asked for, or not understood.

    Args:
        nodes: How many, at least.
        time_s: Time limit.
        account: To be charged.
        partitions: Names, any of which will do.
        qos: Names, any of which will do.
        reservation: Its name.
        gpus_per_node: 0 where none is asked for.
        tasks_per_node: How many.
        cpus_per_task: How many.
        memory_mb: Of one node.
        said: Where each of these comes from, by its name.
        unclear: Options that are not understood.
        doubtful: Names of what those may set, which is None or empty here.
    """

    nodes: int | None
    time_s: int | None = None
    account: str | None = None
    partitions: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    reservation: str | None = None
    gpus_per_node: int | None = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    memory_mb: int | None = None
    said: Mapping[str, str] = field(default_factory=dict)
    unclear: tuple[str, ...] = ()
    doubtful: frozenset[str] = frozenset()

    def place(self, name: str) -> str:
        """Return what messages call the place where ``name`` was said."""
        return self.said.get(name, f"resources.{_KEYS.get(name, name)}")


def request_of(group: Group, site: SiteProfile) -> Request:
    """Return what a group of a job asks of Slurm on ``site``."""
    asked, places = group.asked, group.said
    request = Request(
        nodes=asked.nodes,
        reservation=asked.reservation,
        gpus_per_node=asked.gpus_per_node,
        tasks_per_node=asked.tasks_per_node,
        cpus_per_task=asked.cpus_per_task,
        said=places,
    )
    for key, value in chosen(asked, site).items():
        own = getattr(asked, key) is not None
        place = places.get(key, "") if own else f"defaults.{key} of the site"
        request = _with(request, key, value, place)
    request = _with(request, "mem", asked.memory, places.get("memory", ""))
    own_options = (asked.extra, places.get("extra", "resources.extra"))
    for options, place in ((site.options, "options of the site"), own_options):
        for name, value in _words(options):
            request = _with(request, name, value, place)
    return request


def chosen(asked: Resources, site: SiteProfile) -> dict[str, str | None]:
    """Return what the job file says, or else the site's defaults."""
    return {key: getattr(asked, key) or getattr(site.defaults, key) for key in CHOSEN}


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _count(text: str) -> int:
    return int(text)


def _fewest(text: str) -> int:
    """Return the lower end of ``2`` or ``2-4``."""
    return int(text.partition("-")[0])


def _gpus(text: str) -> int:
    """Return how many ``4`` or ``a100:4`` are."""
    return int(text.rpartition(":")[2])


def _gpus_of_gres(text: str) -> int:
    """Return how many GPUs are in ``gpu:a100:4,tmp:1``; other resources are not counted."""
    gpus = [words for words in text.split(",") if re.match(r"gpu(:|$)", words)]
    return sum(1 if gpu == "gpu" else _gpus(gpu) for gpu in gpus)


_READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "account": ("account", str),
    "cpus-per-task": ("cpus_per_task", _count),
    "gpus-per-node": ("gpus_per_node", _gpus),
    "gres": ("gpus_per_node", _gpus_of_gres),
    "mem": ("memory_mb", slurm_memory_mb),
    "nodes": ("nodes", _fewest),
    "ntasks-per-node": ("tasks_per_node", _count),
    "partition": ("partitions", _names),
    "qos": ("qos", _names),
    "reservation": ("reservation", str),
    "time": ("time_s", slurm_time_s),
}
"""By sbatch option: what it sets, and how its value is read."""

_UNREAD: dict[str, str] = {
    "gpus": "gpus_per_node",
    "gpus-per-socket": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
    "mem-per-cpu": "memory_mb",
    "mem-per-gpu": "memory_mb",
    "ntasks": "tasks_per_node",
}
"""By sbatch option: what it may change in a way that is left to Slurm."""

_KEYS = {"memory_mb": "memory", "partitions": "partition", "time_s": "time"}


def _with(request: Request, option: str, value: str | None, place: str) -> Request:
    """Return ``request`` after one option; ``place`` is empty for a key of the job file."""
    if option in _READERS:
        name, reader = _READERS[option]
        if value is None:
            return request
        try:
            change: dict[str, Any] = {name: reader(value)}
        except ValueError:
            # 0 is all memory of a node, or no time limit of the job's own.
            return _unclear(request, [name], f"--{option}={value}", place)
        said = {**request.said, name: place} if place else request.said
        return replace(request, **change, said=said)
    if option in _UNREAD:
        return _unclear(request, [_UNREAD[option]], f"--{option}", place)
    # sbatch takes the beginning of a name for the name.
    meant = [name for known, (name, _) in _READERS.items() if known.startswith(option)]
    meant += [name for known, name in _UNREAD.items() if known.startswith(option)]
    return _unclear(request, meant, f"--{option}", place) if meant else request


def _unclear(request: Request, names: Sequence[str], option: str, place: str) -> Request:
    """Return ``request`` without what an option may have changed in a way that we cannot tell."""
    nothing: dict[str, Any] = {"partitions": (), "qos": ()}
    forgotten: dict[str, Any] = {name: nothing.get(name) for name in names}
    what = f"{place}: {option}" if place else option
    doubtful = request.doubtful.union(names)
    return replace(request, **forgotten, unclear=(*request.unclear, what), doubtful=doubtful)


def _words(options: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield name and value of each option in lines as sbatch reads them: quoted like a shell's."""
    for line in options:
        try:
            words = shlex.split(line)
        except ValueError:
            continue  # sbatch will say what it thinks of it
        name = ""
        for word in words:
            if word.startswith("--"):
                if name:
                    yield name, None
                name, equals, value = word[2:].partition("=")
                if equals:
                    yield name, value
                    name = ""
            elif name:
                yield name, word
                name = ""
        if name:
            yield name, None
