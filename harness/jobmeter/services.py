"""The services of a job file, made ready: from names of recipes to words of the shell.

What only the node of a service knows (its ports, its scratch) stays a variable of the shell, set by
``scripts/service.sh`` there.
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jobmeter.errors import SpecError
from jobmeter.groups import Group, groups_of, node_count
from jobmeter.images_catalogue import read_catalogue
from jobmeter.payload import Placeholders, PlannedLog
from jobmeter.recipe import (
    MAIN_PORT,
    ConditionalWords,
    Recipe,
    limit_s,
    parameters_of,
    read_recipe,
)
from jobmeter.site import SiteProfile
from jobmeter.spec import JobSpec, Service
from jobmeter.strict import nearest
from jobmeter.templating import ShellText, path_word

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - behind the key of the run where the server knows keys
FIRST_NODE = 0
"""Of Prometheus and of the phases."""


@dataclass(frozen=True)
class PlannedWords:
    """Words of a command, from a version of the program on; None for any version."""

    words: tuple[ShellText, ...]
    since: str | None = None


@dataclass(frozen=True)
class PlannedEndpoint:
    """Where a service exposes its metrics: the name of the port, the path, who may read it.

    Args:
        port: Name of the port.
        path: On it.
        kind: How it is scraped: ``payload`` without a password, ``keyed`` with the key of the run,
            ``gated`` through our gateway on its node, as others cannot reach it.
        keyed: Whether the service itself asks for the key.
    """

    port: str
    path: str
    kind: Literal["payload", "keyed", "gated"]
    keyed: bool


@dataclass(frozen=True)
class PlannedSnapshot:
    """What is kept of a service's settings: under which name, and from which paths."""

    name: str
    path: str
    each: str


@dataclass(frozen=True)
class PlannedSearch:
    """Something of the site that is looked for on the node, as a variable and words of the shell.

    Args:
        variable: Which says where it was found.
        value: What to look for: a path below one of the folders, or anything else.
        folders: In which, best first.
    """

    variable: str
    value: ShellText
    folders: tuple[ShellText, ...]


@dataclass(frozen=True)
class PlannedService:
    """One server, or one replica of several.

    Args:
        label: Its ``service`` label: the name, of a replica with its number.
        name: In the job file.
        image: Name or path of its image, None for a program on PATH.
        nodes: Which nodes of the job, the one that answers clients first.
        listen_host: Where it listens.
        ports: Names of its ports, the main one first.
        command: Of the first node.
        follower: Of the others, if there are any.
        environment: Variables with their values, as words of the shell.
        searches: What is looked for in folders of the site.
        cache: Folder of the site for what it downloads or compiles, None for none.
        homeless: Variables of caches that nothing sets, so that these lie in the home.
        key_variable: In which it gets the key, None when it knows none.
        version: The command that prints its version; empty when nothing depends on it.
        ready_path: On the main port.
        limit_s: How long it may take until it is ready.
        metrics: Where its metrics are, if it has any.
        devices: Whether it uses GPUs.
        snapshots: What it says of its settings.
        kpis: Groups of KPIs that its users read.
    """

    label: str
    name: str
    image: str | None
    nodes: tuple[int, ...]
    listen_host: str
    ports: tuple[str, ...]
    command: tuple[PlannedWords, ...]
    follower: tuple[PlannedWords, ...]
    environment: tuple[tuple[str, ShellText], ...]
    searches: tuple[PlannedSearch, ...]
    cache: ShellText | None
    homeless: tuple[str, ...]
    key_variable: str | None
    version: tuple[ShellText, ...]
    ready_path: str
    limit_s: int
    metrics: PlannedEndpoint | None
    devices: bool
    snapshots: tuple[PlannedSnapshot, ...]
    kpis: tuple[str, ...]

    @property
    def away(self) -> bool:
        """Whether it cannot be reached from the node of Prometheus and of the phases."""
        return _away(self.listen_host, self.nodes)


@dataclass(frozen=True)
class PlannedServices:
    """All services of a job.

    Args:
        levels: Each waits for the ones before it.
        client_variables: In which phases get the key, beside our own.
        logs: Those that become metrics by rules.
    """

    levels: tuple[tuple[PlannedService, ...], ...] = ()
    client_variables: tuple[str, ...] = ()
    logs: tuple[PlannedLog, ...] = ()

    @property
    def every(self) -> tuple[PlannedService, ...]:
        """All of them, in the order in which they are started."""
        return tuple(service for level in self.levels for service in level)

    @property
    def gated(self) -> tuple[PlannedService, ...]:
        """Those that are recorded through a gateway on their nodes."""
        return tuple(one for one in self.every if one.metrics and one.metrics.kind == "gated")

    @property
    def keep_snapshots(self) -> bool:
        """Whether any says something of its settings."""
        return any(service.snapshots for service in self.every)

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """Labels by name in the job file."""
        labels: dict[str, tuple[str, ...]] = {}
        for service in self.every:
            labels[service.name] = (*labels.get(service.name, ()), service.label)
        return labels


def services_of(spec: JobSpec, placeholders: Placeholders, site: SiteProfile) -> PlannedServices:
    """Return every service of ``spec``.

    Args:
        spec: The job file.
        placeholders: What its placeholders may name.
        site: Where it runs.

    Raises:
        SpecError: a recipe, a key, a node or an order is wrong.
    """
    recipes = {
        name: read_recipe(
            service.recipe, placeholders.job_dir, placeholders.where(f"services.{name}.recipe")
        )
        for name, service in spec.services.items()
    }
    planned = {
        name: _planned(spec, name, recipes[name], placeholders, site) for name in spec.services
    }
    keys = [recipe.key.client for recipe in recipes.values() if recipe.key and recipe.key.client]
    return PlannedServices(
        tuple(
            tuple(one for name in level for one in planned[name])
            for level in _levels(spec.services, placeholders)
        ),
        tuple(dict.fromkeys(keys)),
        tuple(
            _followed(one, recipes[name])
            for name in planned
            for one in planned[name]
            if recipes[name].log_rules
        ),
    )


def in_the_home(services: PlannedServices, site_name: str) -> tuple[str, ...]:
    """Return a line for each service whose caches go where its user's quota is small."""
    found = {one.name: one.homeless for one in services.every if one.homeless}
    return tuple(
        f"services.{name}: what it downloads and compiles goes to the home, as site {site_name!r} "
        f"has no 'storage.cache'; name a folder there, or set {', '.join(variables)}"
        for name, variables in found.items()
    )


def _levels(services: Mapping[str, Service], placeholders: Placeholders) -> Iterable[list[str]]:
    """Yield names of services such that each comes after those that it needs.

    Raises:
        SpecError: they wait for each other, or for one that does not exist.
    """
    for name, service in services.items():
        for other in service.after:
            if other not in services:
                raise SpecError(
                    f"{placeholders.where(f'services.{name}.after')}: no service {other!r}; "
                    f"{nearest(other, list(services))}"
                )
    order = graphlib.TopologicalSorter({name: one.after for name, one in services.items()})
    try:
        order.prepare()
    except graphlib.CycleError as cause:
        raise SpecError(
            f"{placeholders.where('services')}: {' waits for '.join(reversed(cause.args[1]))}, "
            "so that none can start; remove one 'after'"
        ) from cause
    while order.is_active():
        level = order.get_ready()
        yield [name for name in services if name in level]
        order.done(*level)


def _planned(
    spec: JobSpec, name: str, recipe: Recipe, placeholders: Placeholders, site: SiteProfile
) -> tuple[PlannedService, ...]:
    """Return the replicas of one service."""
    service = spec.services[name]
    where = placeholders.where(f"services.{name}")
    text = _Texts(name, service, recipe, placeholders, where, site.storage.models)
    groups = groups_of(spec.resources)
    eligible = _eligible(service, groups, where)
    listen = _listen_host(service, node_count(groups))
    offline = recipe.offline if site.offline else {}
    settings = text.environment({**recipe.environment, **offline, **service.environment})
    unset = {name: place for name, place in recipe.caches.items() if name not in dict(settings)}
    if site.storage.cache is not None:
        settings += text.environment(
            {name: f"{site.storage.cache}/{place}" for name, place in unset.items()}
        )
        unset = {}
    if service.nodes > 1 and not recipe.follower:
        raise SpecError(
            f"{where}.nodes: {service.nodes}, but a service by recipe {service.recipe!r} has one "
            "node; use 'replicas' for several servers"
        )
    image = service.image or recipe.image
    if image is not None and "/" not in image and image not in read_catalogue():
        raise SpecError(
            f"{where}.image: no image {image!r}; {nearest(image, list(read_catalogue()))}, or "
            "write the path of a file"
        )
    places = [_nodes(service, replica, eligible, where) for replica in range(service.replicas)]
    return tuple(
        PlannedService(
            label=name if service.replicas == 1 else f"{name}-{replica}",
            name=name,
            image=image,
            nodes=nodes,
            listen_host=listen,
            ports=(MAIN_PORT, *recipe.ports),
            command=text.commands(recipe.command, service.args),
            follower=text.commands(recipe.follower, service.args) if service.nodes > 1 else (),
            environment=settings,
            searches=text.searches,
            cache=path_word(site.storage.cache) if recipe.caches and site.storage.cache else None,
            homeless=tuple(unset),
            key_variable=recipe.key.server if recipe.key else None,
            version=tuple(text.word(word, "version") for word in recipe.version),
            ready_path=text.plain(recipe.ready.path, "ready_path"),
            limit_s=limit_s(recipe, service.ready_limit),
            metrics=_metrics(recipe, text, away=_away(listen, nodes)),
            devices=recipe.devices == "gpu",
            snapshots=tuple(
                PlannedSnapshot(
                    kept, text.plain(one.path, "snapshots"), text.plain(one.each or "", "snapshots")
                )
                for kept, one in recipe.snapshots.items()
            ),
            kpis=tuple(dict.fromkeys(recipe.kpis)),
        )
        for replica, nodes in enumerate(places)
    )


def _away(listen_host: str, nodes: Sequence[int]) -> bool:
    return listen_host == LOOPBACK and nodes[0] != FIRST_NODE


def _metrics(recipe: Recipe, text: _Texts, *, away: bool) -> PlannedEndpoint | None:
    """Return where the metrics are; ``away`` when the node of Prometheus cannot reach them."""
    if recipe.metrics is None:
        return None
    path = text.plain(recipe.metrics.path, "metrics_path")
    kind: Literal["keyed", "payload"] = "keyed" if recipe.metrics.key else "payload"
    return PlannedEndpoint(
        recipe.metrics.port, path, "gated" if away else kind, keyed=recipe.metrics.key
    )


def _eligible(service: Service, groups: Sequence[Group], where: str) -> range:
    """Return the numbers of the nodes on which a service may run: all, or those of its group."""
    if service.group is None:
        return range(node_count(groups))
    by_name = {group.name: group for group in groups if group.name is not None}
    if service.group not in by_name:
        raise SpecError(
            f"{where}.group: no group {service.group!r} in 'resources'; "
            f"{nearest(service.group, list(by_name))}"
        )
    return by_name[service.group].nodes


def _listen_host(service: Service, nodes: int) -> str:
    reach = service.reach or ("job" if nodes > 1 else "node")
    return EVERYWHERE if reach == "job" else LOOPBACK


def _nodes(service: Service, replica: int, nodes: range, where: str) -> tuple[int, ...]:
    """Return the nodes of one replica: the next ones, and from the first again."""
    whose = f"group {service.group!r}" if service.group else "the job"
    if service.node >= len(nodes):
        raise SpecError(
            f"{where}.node: {service.node}, but the nodes of {whose} are 0 to {len(nodes) - 1}"
        )
    if service.nodes > len(nodes):
        raise SpecError(f"{where}.nodes: {service.nodes}, but {whose} has {len(nodes)}")
    first = service.node + replica * service.nodes
    return tuple(nodes[(first + rank) % len(nodes)] for rank in range(service.nodes))


def _followed(service: PlannedService, recipe: Recipe) -> PlannedLog:
    return PlannedLog(
        service.label,
        ShellText(f'"$LOGS/service.{service.label}.log"'),
        ShellText(recipe.log_rules or ""),
        shipped=True,
    )


_PLACE = {
    "scratch": ShellText("${SERVICE_SCRATCH}"),
    "rank": ShellText("${SERVICE_RANK}"),
    "address": ShellText("${SERVICE_ADDRESS}"),
    "head": ShellText("${SERVICE_HEAD}"),
    "head_address": ShellText("${SERVICE_HEAD_ADDRESS}"),
    "rendezvous": ShellText("${SERVICE_RENDEZVOUS}"),
    "second_rendezvous": ShellText("${SERVICE_SECOND_RENDEZVOUS}"),
    "host": ShellText("${SERVICE_HOST}"),
    "port": ShellText("${SERVICE_PORT_HTTP}"),
}
"""What the node of a service knows of it."""


class _Texts:
    """Texts of one service with their placeholders filled."""

    def __init__(
        self,
        name: str,
        service: Service,
        recipe: Recipe,
        placeholders: Placeholders,
        where: str,
        folders: Sequence[str],
    ) -> None:
        ports = {port: f"${{SERVICE_PORT_{port.upper()}}}" for port in (MAIN_PORT, *recipe.ports)}
        self._placeholders = placeholders
        self._key = f"services.{name}"
        self._values: dict[str, object] = {
            **_PLACE,
            "ports": ports,
            "service_nodes": service.nodes,
            "spans_nodes": service.nodes > 1,
        }
        known = list(Service.model_fields)
        given = parameters_of(recipe, service.model_extra or {}, known, where)
        self._values |= {key: self._filled(value, key) for key, value in given.items()}
        named = [key for key, parameter in recipe.parameters.items() if parameter.look_up]
        words = tuple(path_word(folder) for folder in folders)
        searches = {
            key: PlannedSearch(f"SERVICE_FOUND_{key.upper()}", path_word(value), words)
            for key in named
            if words and isinstance(value := self._values[key], str) and not value.startswith("/")
        }
        self.searches = tuple(searches.values())
        self._values["found"] = {
            key: f"${{{searches[key].variable}}}" if key in searches else self._values[key]
            for key in named
        }

    def _filled(self, value: object, key: str) -> object:
        """Return the value of a parameter, in which texts may hold placeholders themselves."""
        if isinstance(value, list):
            return [self._filled(one, key) for one in value]
        return self.plain(value, key) if isinstance(value, str) else value

    def plain(self, text: str, key: str) -> str:
        """Return a text."""
        return self._placeholders.filled(
            text, f"{self._key}.{key}", for_shell=False, more=self._values
        )

    def word(self, text: str, key: str) -> ShellText:
        """Return one word of the shell, in which variables are expanded."""
        return path_word(self.plain(text, key))

    def commands(
        self, parts: Iterable[str | ConditionalWords], args: Iterable[str]
    ) -> tuple[PlannedWords, ...]:
        """Return the words of a command that are there, and from which version on."""
        words: list[tuple[str | None, ShellText]] = []
        for part in parts:
            if isinstance(part, str):
                words += [(None, word) for word in self._words(part)]
            elif part.when is None or self._is_set(part.when):
                words += [(part.since, word) for text in part.words for word in self._words(text)]
        words += [(None, self.word(arg, "args")) for arg in args]
        return tuple(
            PlannedWords(tuple(word for _, word in together), since)
            for since, together in itertools.groupby(words, key=lambda one: one[0])
        )

    def environment(self, settings: Mapping[str, str]) -> tuple[tuple[str, ShellText], ...]:
        """Return the variables that have a value."""
        texts = {name: self.plain(text, f"environment.{name}") for name, text in settings.items()}
        return tuple((name, path_word(text)) for name, text in texts.items() if text)

    def _words(self, text: str) -> tuple[ShellText, ...]:
        """Return one word, or as many as a parameter has that is a list and stands alone."""
        value = self._values.get(text.removeprefix("{{ ").removesuffix(" }}"))
        if isinstance(value, list):
            return tuple(path_word(str(one)) for one in value)
        return (self.word(text, "command"),)

    def _is_set(self, name: str) -> bool:
        return self._values.get(name) not in (None, False, "", [])
