"""Recipes: how a service of a known kind is started, found ready and measured, as data.

The text of a recipe holds placeholders, as a job file does. Parameters of the recipe are filled
when the job is planned; where the service will listen is known only on its node, so those
placeholders become variables of the shell (``services.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from jobmeter import strict
from jobmeter.errors import SpecError
from jobmeter.quantities import duration_s
from jobmeter.spec import Duration, FilePath, Line, Name, PortName, VariableName

MAIN_PORT = "http"
"""The port that clients use; every recipe has it."""

Scalar = str | int | float | bool


class Parameter(strict.StrictModel):
    """Something that a service of the job file may say, or must when there is no default.

    Args:
        help: What it means.
        default: What it is when the job file does not say; None for a parameter without a value.
        required: Whether the job file must say it.
        look_up: ``models`` for a path that may lie in a folder of the site; it is then looked up
            there, and ``found.NAME`` is where it was found, or the value as it is.
    """

    help: Line
    default: Scalar | list[Scalar] | None = None
    required: bool = False
    look_up: Literal["models"] | None = None


class ConditionalWords(strict.StrictModel):
    """Words of a command that are there only sometimes.

    Args:
        words: The words.
        when: A parameter: only when it has a value, and that is not ``false``.
        since: Only from this version of the program on; not when its version cannot be told.
    """

    words: list[Line] = Field(min_length=1)
    when: str | None = None
    since: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")] | None = None


class Ready(strict.StrictModel):
    """How to tell that the service can be used.

    Args:
        path: Of its main port; it answers with a success when the service is ready.
        limit: How long that may take.
    """

    path: Line
    limit: Duration = "10m"


class Metrics(strict.StrictModel):
    """Where the service exposes its metrics.

    Args:
        path: Of the port.
        port: Which of its ports.
        key: Whether the key of the service must be shown, as a bearer's.
    """

    path: Line = "/metrics"
    port: PortName = MAIN_PORT
    key: bool = False


class Snapshot(strict.StrictModel):
    """What the service says of its own settings, kept with the run.

    Args:
        path: Of its main port; the answer is JSON.
        each: Where each thing is told of to which the answer gives a ``name``, which is put behind.
    """

    path: Line
    each: Line | None = None


class Key(strict.StrictModel):
    """A random key that only this run's clients know.

    Args:
        server: Variable in which the service gets it.
        client: Variable in which the phases get it, beside our own.
    """

    server: VariableName
    client: VariableName | None = None


class Recipe(strict.StrictModel):
    """How to run one kind of service.

    Args:
        description: What it is.
        image: Name of its image, where the site runs containers.
        parameters: What the job file may say of such a service, by name.
        command: What runs on the (first) node of the service: words, each with placeholders.
        follower: What runs on its further nodes; empty for a service that has one node.
        environment: Variables of the service.
        offline: Further ones where the nodes of the site have no internet.
        caches: Variables that say where it keeps what it downloads or compiles, each with its place
            below the cache folder of the site.
        version: Command that prints the program's version.
        ports: Ports beside the main one.
        key: The key of the service, if it asks for one.
        ready: How to tell that it is ready.
        metrics: Where its metrics are; none for a service that has none.
        snapshots: What is kept of its settings when it is ready and after each phase, by name.
        kpis: Groups of KPIs that its users read, by their names in the catalogue: they have rows
            whatever the service exposes.
        log_rules: Rules by which lines of its log become metrics.
        devices: Whether it uses the devices of its node.
    """

    description: Line
    image: Line | None = None
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    command: list[Line | ConditionalWords] = Field(min_length=1)
    follower: list[Line | ConditionalWords] = Field(default_factory=list)
    environment: dict[VariableName, Line] = Field(default_factory=dict)
    offline: dict[VariableName, Line] = Field(default_factory=dict)
    caches: dict[VariableName, FilePath] = Field(default_factory=dict)
    version: list[Line] = Field(default_factory=list)
    ports: list[PortName] = Field(default_factory=list)
    key: Key | None = None
    ready: Ready
    metrics: Metrics | None = None
    snapshots: dict[Name, Snapshot] = Field(default_factory=dict)
    kpis: list[Line] = Field(default_factory=list)
    log_rules: Line | None = None
    devices: Literal["gpu", "none"] = "none"


_SHIPPED = Path(__file__).parent / "recipes"


def shipped_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with jobmeter."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def read_recipe(name: str, job_dir: Path, where: str) -> Recipe:
    """Return the recipe called ``name``, or the one in that file when it ends in .yaml.

    Args:
        name: As in the job file; a path starts where the job file lies.
        job_dir: Folder of the job file.
        where: How messages call the place of the name.

    Raises:
        SpecError: there is none, or it is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return strict.read(Recipe, job_dir / name, SpecError)[0]
    known = shipped_recipes()
    if name not in known:
        raise SpecError(f"{where}: no such recipe {name!r}; {strict.nearest(name, known)}")
    return strict.read(Recipe, _SHIPPED / f"{name}.yaml", SpecError)[0]


def parameters_of(
    recipe: Recipe, given: Mapping[str, object], known: list[str], where: str
) -> Mapping[str, object]:
    """Return every parameter of ``recipe`` with its value, None for one that has none.

    Args:
        recipe: Whose.
        given: Keys of the service that are no keys of every service.
        known: Those keys, for messages.
        where: How messages call the service.

    Raises:
        SpecError: one is unknown, missing, or of the wrong kind.
    """
    for name, value in given.items():
        if name not in recipe.parameters:
            names = [*known, *recipe.parameters]
            raise SpecError(f"{where}: unknown key {name!r}; {strict.nearest(name, names)}")
        several = isinstance(value, list)
        for one in value if several else [value]:  # type: ignore[attr-defined]
            if not isinstance(one, Scalar):
                raise SpecError(f"{where}.{name}: {one!r} is neither text nor a number")
        if several and not isinstance(recipe.parameters[name].default, list):
            raise SpecError(f"{where}.{name}: a list, where one value is expected")
    values = {}
    for name, parameter in recipe.parameters.items():
        if parameter.required and given.get(name) is None:
            raise SpecError(f"{where}: key {name!r} is missing; add it ({parameter.help})")
        value = given.get(name)
        values[name] = parameter.default if value is None else value
    return values


def limit_s(recipe: Recipe, asked: str | None) -> int:
    """Return how long the service may take until it is ready, in seconds."""
    return max(1, round(duration_s(asked or recipe.ready.limit)))
