"""The job file: what the user asks for, exactly as written, nothing decided yet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from jobmeter import strict
from jobmeter.errors import SpecError
from jobmeter.quantities import duration_s, slurm_time_s
from jobmeter.window import JOB
from jobmeter.workload import Workload

Exporter = Literal["node", "cgroup", "nvidia", "dcgm", "hl-smi", "queue"]

OWN_SERVICES = (*get_args(Exporter), "gateway", "helpers", "logs", "prometheus")
"""``service`` labels of our own stack; an endpoint of the payload needs another name."""

SHORTEST_INTERVAL_S = 0.1


def _checked_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) is None:
        raise ValueError(
            f"{name!r} cannot be a name; use up to 64 letters, digits, '-', '_' and '.', "
            f"as in {_plain(name)!r}"
        )
    return name


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:64] or "my-job"


def _checked_duration(text: str) -> str:
    duration_s(text)
    return text


def _checked_interval(text: str) -> str:
    if duration_s(text) < SHORTEST_INTERVAL_S:
        raise ValueError(f"{text!r} is too short; write {SHORTEST_INTERVAL_S * 1000:g}ms or more")
    return text


def _checked_time(text: str) -> str:
    slurm_time_s(text)
    return text


def _checked_identifier(name: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise ValueError(f"{name!r} cannot be a port's name; use small letters, digits and '_'")
    return name


def _checked_line(text: str) -> str:
    if "\n" in text or "\r" in text or "\0" in text:
        raise ValueError(f"{text!r} must be a single line")
    return text


def _checked_option(text: str) -> str:
    _checked_line(text)
    if re.match(r"--[a-z]", text) is None:
        raise ValueError(f"{text!r} is not a long sbatch option; write it as '--name=value'")
    return text


def _checked_command(text: str) -> str:
    if not text.strip():
        raise ValueError("the command is empty; write what to run")
    if "\0" in text:
        raise ValueError("the command holds a NUL character; remove it")
    return text


def _checked_path(text: str) -> str:
    _checked_line(text)
    if not text.strip() or text.endswith("/"):
        raise ValueError(f"{text!r} is not the path of a file")
    return text


def _checked_variable(text: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text, re.ASCII) is None:
        raise ValueError(f"{text!r} cannot be a variable's name; use letters, digits and '_'")
    return text


def _checked_service_name(name: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) is None:
        raise ValueError(
            f"{name!r} cannot be a service's name; use up to 32 small letters, digits and '_'"
        )
    return name


def _one_or_several(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _off(value: object) -> object:
    """Return the word for what YAML makes of it."""
    return "off" if value is False else value


def _no_list(value: object) -> object:
    if isinstance(value, list):
        raise ValueError(
            "a list; write the groups of a heterogeneous job by their names, below a key 'groups'"
        )
    return value


def _checked_group_name(name: str) -> str:
    if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) is None:
        raise ValueError(
            f"{name!r} cannot be a group's name; use up to 32 small letters, digits and '_'"
        )
    return name


Name = Annotated[str, AfterValidator(_checked_name)]
Duration = Annotated[str, AfterValidator(_checked_duration)]
TimeLimit = Annotated[str, AfterValidator(_checked_time)]
PortName = Annotated[str, AfterValidator(_checked_identifier)]
Line = Annotated[str, AfterValidator(_checked_line)]
VariableName = Annotated[str, AfterValidator(_checked_variable)]
ServiceName = Annotated[str, AfterValidator(_checked_service_name)]
Lines = Annotated[list[Line], BeforeValidator(_one_or_several)]
GroupName = Annotated[str, AfterValidator(_checked_group_name)]
SbatchOption = Annotated[str, AfterValidator(_checked_option)]
Command = Annotated[str, AfterValidator(_checked_command)]
FilePath = Annotated[str, AfterValidator(_checked_path)]
FilePaths = Annotated[list[FilePath], BeforeValidator(_one_or_several)]


class GroupResources(strict.StrictModel):
    """What one group of nodes may have different from another."""

    nodes: int = Field(default=1, ge=1)
    tasks_per_node: int | None = Field(default=None, ge=1)
    cpus_per_task: int | None = Field(default=None, ge=1)
    gpus_per_node: int = Field(default=0, ge=0)
    memory: Line | None = None
    partition: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    reservation: Line | None = None
    exclusive: bool = False
    extra: list[SbatchOption] = Field(default_factory=list)


class Resources(GroupResources):
    """What to ask the batch system for; with groups, what each of them does not say itself."""

    time: TimeLimit | None = None
    account: Line | None = None
    groups: dict[GroupName, GroupResources] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _are_several(self) -> Resources:
        if len(self.groups) == 1:
            (name,) = self.groups
            raise ValueError(
                f"groups: {name!r} is the only one; write what it has below 'resources' itself, "
                "or add another"
            )
        return self


class Monitoring(strict.StrictModel):
    """How to record."""

    interval: Annotated[str, AfterValidator(_checked_interval)] = "5s"
    exporters: Literal["auto"] | list[Exporter] = "auto"
    cgroup_steps: Annotated[Literal["off", "steps", "tasks"], BeforeValidator(_off)] = "steps"
    required: bool = False
    checkpoint_interval: Duration = "15s"
    ready_limit: Duration = "30s"
    analysis: bool = True

    @model_validator(mode="after")
    def _checked(self) -> Monitoring:
        if {"nvidia", "dcgm"} <= self._asked:
            raise ValueError(
                "exporters: 'nvidia' and 'dcgm' tell of the same GPUs; keep one ('nvidia' takes "
                "the place of 'dcgm' where that cannot be had)"
            )
        if "cgroup_steps" in self.model_fields_set and not {"auto", "cgroup"} & self._asked:
            raise ValueError(
                "cgroup_steps: it is the exporter 'cgroup' that tells of steps; add it to "
                "'exporters', or leave this out"
            )
        return self

    @property
    def _asked(self) -> set[str]:
        """Names of exporters, or ``auto``."""
        return {self.exporters} if isinstance(self.exporters, str) else set(self.exporters)


class Phase(strict.StrictModel):
    """One measured stretch of the job: a name, a shell command, and the files it leaves."""

    name: Name
    run: Command
    results: FilePaths = Field(default_factory=list)


class FollowedLog(strict.StrictModel):
    """A log of the payload, and the rules by which its lines become metrics and events."""

    file: FilePath
    rules: FilePath


class Service(strict.StrictModel):
    """A server that the job starts and its phases use; the recipe has further keys."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    recipe: Line
    group: GroupName | None = None
    node: int = Field(default=0, ge=0)
    nodes: int = Field(default=1, ge=1)
    replicas: int = Field(default=1, ge=1)
    after: list[ServiceName] = Field(default_factory=list)
    args: list[Line] = Field(default_factory=list)
    environment: dict[VariableName, Line] = Field(default_factory=dict)
    ready_limit: Duration | None = None
    image: Line | None = None
    reach: Literal["node", "job"] | None = None


class JobSpec(strict.StrictModel):
    """A whole job file."""

    name: Name | None = None
    resources: Annotated[Resources, BeforeValidator(_no_list)] = Field(default_factory=Resources)
    monitoring: Monitoring = Field(default_factory=Monitoring)
    ports: list[PortName] = Field(default_factory=list)
    metrics: dict[Name, Line] = Field(default_factory=dict)
    logs: dict[Name, FollowedLog] = Field(default_factory=dict)
    services: dict[ServiceName, Service] = Field(default_factory=dict)
    workload: Workload = Field(default_factory=Workload)
    run: Command | None = None
    phases: list[Phase] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_runnable(self) -> JobSpec:
        if self.run is None and not self.phases:
            raise ValueError("no command; add 'run: COMMAND' or a list of 'phases'")
        if self.run is not None and self.phases:
            raise ValueError(
                "both 'run' and 'phases'; keep one ('run' is a single phase called run)"
            )
        names = [phase.name for phase in self.phases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"phases: the name {name!r} is used twice; rename one")
            if name == JOB:
                raise ValueError(f"phases: {JOB!r} means the whole job; choose another name")
        return self

    @model_validator(mode="after")
    def _has_distinct_names(self) -> JobSpec:
        ours = (("metrics", self.metrics.keys()), ("services", self.services.keys()))
        for key, names in ours:
            for name in names & set(OWN_SERVICES):
                raise ValueError(
                    f"{key}: {name!r} is one of our own exporters; choose another name"
                )
        theirs = (("metrics", set(self.metrics)), ("ports", set(self.ports)))
        for key, taken in theirs:
            for name in self.services.keys() & taken:
                raise ValueError(f"{key}: {name!r} is also a service; choose another name")
        return self


def read_spec(path: Path) -> tuple[JobSpec, str]:
    """Return the job file at ``path`` and its text; a job without a name is called after its file.

    Raises:
        SpecError: naming the file, the key and the likely fix.
    """
    spec, text = strict.read(JobSpec, path, SpecError)
    if spec.name is None:
        try:
            spec = spec.model_copy(update={"name": _checked_name(path.stem)})
        except ValueError as cause:
            raise SpecError(f"{path}: name: {cause}; or add a line 'name: ...'") from cause
    return spec, text
