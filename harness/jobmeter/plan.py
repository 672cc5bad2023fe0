"""The plan: every decision and every default, taken before anything is written or started.

``make_plan`` is pure: the same job file, site and context give the same plan, so that rendering,
testing and submitting all see the same thing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobmeter.allocation import Allocation
from jobmeter.errors import SiteError
from jobmeter.groups import Group, device_count, groups_of, node_count
from jobmeter.manifest import Placement, PlannedTarget, RunKind
from jobmeter.payload import (
    PayloadTarget,
    Placeholders,
    PlannedLog,
    PlannedPhase,
    logs_of,
    node_list_variable,
    phases_of,
    port_variable,
    targets_of,
)
from jobmeter.quantities import duration_s
from jobmeter.runtime import (
    PASSED_VARIABLES,
    ContainerImage,
    Mount,
    RuntimeKind,
    Start,
    device_words,
    mount_word,
    passed_prefix,
)
from jobmeter.service_starts import service_starts_of
from jobmeter.services import PlannedServices, services_of
from jobmeter.site import PortRange, SiteProfile
from jobmeter.site_refusal import check_request
from jobmeter.site_request import chosen
from jobmeter.spec import JobSpec
from jobmeter.stack import (
    AUTO,
    DCGM_PORT,
    DCGM_WATCH_S,
    DEVICE_EXPORTERS,
    FOUND_EXPORTERS,
    NODE_EXPORTER_OPTIONS,
    NODE_TARGETS,
    FoundExporter,
    NodeTarget,
)
from jobmeter.starts import NODE_FILES, device_access, image_names, starts_of
from jobmeter.templating import ShellText, quoted
from jobmeter.workload import numbers_of

USERNAME = "jobmeter"
"""User name of the run's basic authentication; only the password is secret."""

COMPONENT_LIMIT_S = 10
CONTAINED_LIMIT_S = 60
"""Of a component in a container: its image may lie cold on a shared file system."""
CLOSE_LIMIT_S = 10
PAYLOAD_GRACE_S = 10
ANALYSIS_LIMIT_S = 120
RESULT_LIMIT_BYTES = 64 * 2**20
"""A larger result file of a client is not copied: it holds every request's text, most likely."""
RESTARTS = 3
PROMETHEUS_DISCOVERY_S = 10
"""Prometheus hands new targets to its scrapers at two ticks of 5 s each, whatever the interval."""

LONGEST_SCRAPE_S = 10.0
UNKNOWN_NODES = 0
"""Of a hook, which may find itself in a job of any number."""


@dataclass(frozen=True)
class Context:
    """What a plan depends on beside the job file and the site.

    Args:
        run_id: Name, UTC time and random part.
        run_dir: Where the run will lie, absolute.
        job_file: As given, for messages.
        job_dir: Folder of the job file, absolute.
        python: The interpreter that runs jobmeter, which also runs our exporters in the job.
        jobmeter_version: Written into the script.
        images: The images of the stack that were found, by name.
        prometheus_version: Of its image; None where only the node can tell.
        kind: How the run is started.
        allocation: What an attached run is put into.
    """

    run_id: str
    run_dir: Path
    job_file: str
    job_dir: Path
    python: str
    jobmeter_version: str
    images: Mapping[str, ContainerImage] = field(default_factory=dict)
    prometheus_version: str | None = None
    kind: RunKind = "job"
    allocation: Allocation | None = None


@dataclass(frozen=True)
class PlannedGroup:
    """One of several groups of nodes.

    Args:
        name: In the job file.
        number: As ``srun --het-group`` counts.
        nodes: The numbers of its nodes among those of the job.
        node_list: The variable in which Slurm names them.
        step: The srun words that run one process on each of them.
        service_steps: By label of a service that has nodes here, those that run it on one of them.
    """

    name: str
    number: int
    nodes: range
    node_list: str
    step: tuple[str, ...]
    service_steps: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Plan:
    """Every decision the scripts need. Templates only lay it out."""

    run_id: str
    run_dir: Path
    name: str
    site: str
    jobmeter_version: str
    python: str
    username: str
    slurm: bool
    nodes: int
    groups: tuple[PlannedGroup, ...]
    shebang: str
    sbatch_options: tuple[str, ...]
    prologue: tuple[str, ...]
    on_every_node: tuple[str, ...]
    interval_s: float
    checkpoint_interval_s: float
    ready_limit_s: int
    required: bool
    analysis_at_end: bool
    listen_host: str
    target_host: str
    address_suffix: str
    ports: PortRange
    scratch: tuple[str, ...]
    scratch_bytes: int
    shared_file_systems: tuple[str, ...]
    runtime: RuntimeKind
    starts: Mapping[str, Start]
    passed_prefix: str
    passed_variables: tuple[str, ...]
    vendor_words: tuple[str, ...]
    device_words: Mapping[str, tuple[str, ...]]
    node_files: Mapping[str, tuple[str, ...]]
    prometheus_major: int | None
    node_exporter_options: tuple[str, ...]
    node_targets: tuple[NodeTarget, ...]
    found_exporters: tuple[FoundExporter, ...]
    cgroup_steps: str
    payload_targets: tuple[PayloadTarget, ...]
    logs: tuple[PlannedLog, ...]
    port_names: tuple[str, ...]
    services: PlannedServices
    service_starts: Mapping[str, Start]
    service_steps: Mapping[str, tuple[str, ...]]
    phases: tuple[PlannedPhase, ...]
    workload: Mapping[str, float]
    warning_s: int
    kind: RunKind = "job"
    allocation: Allocation | None = None
    gpu_step: tuple[str, ...] = ()
    restarts: int = RESTARTS
    component_limit_s: int = COMPONENT_LIMIT_S
    close_limit_s: int = CLOSE_LIMIT_S
    payload_grace_s: int = PAYLOAD_GRACE_S
    analysis_limit_s: int = ANALYSIS_LIMIT_S
    result_limit_bytes: int = RESULT_LIMIT_BYTES
    dcgm_port: int = DCGM_PORT
    dcgm_watch_s: int = DCGM_WATCH_S

    @property
    def contained(self) -> bool:
        """Whether the stack runs in containers."""
        return self.runtime != "native"

    @property
    def components(self) -> tuple[str, ...]:
        """The processes of the stack, by name."""
        components = {"prometheus", *(target.component for target in self.node_targets)}
        components |= {"exporters"} if self.found_exporters else set()
        components |= {"gateway"} if self.services.gated else set()
        return tuple(sorted(components))

    @property
    def images_needed(self) -> tuple[str, ...]:
        """Images of the list in which something of the job runs; none without containers."""
        if not self.contained:
            return ()
        stack = image_names(self.components)
        theirs = {one.image for one in self.services.every if one.image and "/" not in one.image}
        return tuple(sorted({*stack, *theirs}))

    @property
    def own_options(self) -> tuple[str, ...]:
        """Options of our exporters that run on every node."""
        started = self.started("exporters")
        steps = ("--cgroup-steps", self.cgroup_steps) if "cgroup" in started else ()
        return (*steps, *(self._known_programs if "helpers" in started else ()))

    @property
    def _known_programs(self) -> tuple[str, ...]:
        """The options for the programs that tell of themselves what they cost."""
        starts = (self.starts["node_exporter"], self.starts["prometheus"])
        names = {Path(program).name for start in starts for program in start.own_programs}
        return tuple(word for name in sorted(names) for word in ("--helpers-known", name))

    def shown(self, path: str) -> str:
        """Return the word that shows a container a path of the node, itself a word of the shell."""
        return mount_word(self.runtime, Mount(path))

    @property
    def steps_on_every_node(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """The srun words that together run one process on every node, with the number of the group.

        The first group's come last: its exporters leave out of their count what has been started
        on their node before.
        """
        steps = tuple((group.number, group.step) for group in reversed(self.groups))
        return steps or ((0, self.on_every_node),)

    @property
    def nodes_by_group(self) -> str:
        """Names of the nodes of an allocation by group, as JSON."""
        names = self.allocation.nodes if self.allocation else ()
        return json.dumps(
            {one.name: " ".join(names[one.nodes.start : one.nodes.stop]) for one in self.groups}
        )

    @property
    def single_node(self) -> bool:
        """Whether all traffic stays on loopback."""
        return self.nodes == 1

    @property
    def node_services(self) -> tuple[str, ...]:
        """``service`` labels to expect from every node, whatever else a node finds."""
        return tuple(
            t.service
            for t in self.node_targets
            if t.placement == "every_node" and not t.third_party
        )

    @property
    def first_node_services(self) -> tuple[str, ...]:
        """``service`` labels to expect from the first node alone, Prometheus's left out."""
        return tuple(t.service for t in self.node_targets if t.placement == "first_node")

    @property
    def third_parties(self) -> tuple[str, ...]:
        """``service`` labels of the stack that do not say of which run they are."""
        return tuple(t.service for t in self.node_targets if t.third_party)

    def started(self, component: str, placement: Placement = "every_node") -> tuple[str, ...]:
        """Return the ``service`` labels that a process of the nodes serves from its start."""
        return tuple(
            t.service
            for t in self.node_targets
            if (t.component, t.placement) == (component, placement)
        )

    @property
    def checkpoint_interval_ms(self) -> int:
        """``checkpoint_interval_s`` in milliseconds."""
        return round(self.checkpoint_interval_s * 1000)

    @property
    def interval_ms(self) -> int:
        """``interval_s`` in milliseconds."""
        return round(self.interval_s * 1000)

    @property
    def scrape_timeout_ms(self) -> int:
        """How long one scrape may take: Prometheus refuses more than the interval."""
        return round(min(self.interval_s, LONGEST_SCRAPE_S) * 1000)

    @property
    def bridge_fetches(self) -> int:
        """How often the job fetches by itself, at most, before Prometheus has its targets."""
        return math.ceil((PROMETHEUS_DISCOVERY_S + self.interval_s) / self.interval_s)

    @property
    def target_names(self) -> tuple[str, ...]:
        """``service`` labels that nothing else may take."""
        return (
            *(target.service for target in self.targets),
            *(service.label for service in self.services.every),
        )

    @property
    def targets(self) -> tuple[PlannedTarget, ...]:
        """Every endpoint that the recording should contain."""
        return (
            *(
                PlannedTarget(t.service, t.placement, "stack", t.third_party)
                for t in self.node_targets
            ),
            PlannedTarget("prometheus", "first_node", "stack"),
            *(PlannedTarget(t.service, "first_node", "payload") for t in self.payload_targets),
        )


def make_plan(spec: JobSpec, site_name: str, site: SiteProfile, context: Context) -> Plan:
    """Return every decision for ``spec`` on ``site``.

    Raises:
        SpecError: the job file asks for something that does not exist.
        SiteError: the site cannot run this, or the job file lacks what the site demands.
    """
    slurm = site.launcher == "slurm"
    if not slurm:
        _check_local(spec, site_name, context)
    groups = groups_of(spec.resources)
    nodes = node_count(groups)
    single_node = nodes == 1
    submitted = context.kind == "job"
    placeholders = Placeholders(
        job_file=context.job_file,
        ports=tuple(spec.ports),
        python=context.python,
        job_dir=context.job_dir,
        groups=groups,
        services=tuple(spec.services),
    )
    services = services_of(spec, placeholders, site)
    logs = (*logs_of(spec, placeholders), *services.logs)
    return Plan(
        run_id=context.run_id,
        run_dir=context.run_dir,
        name=str(spec.name),
        site=site_name,
        jobmeter_version=context.jobmeter_version,
        python=context.python,
        username=USERNAME,
        slurm=slurm,
        nodes=nodes if context.kind != "hook" else UNKNOWN_NODES,
        groups=_planned_groups(spec, groups, site, services) if len(groups) > 1 else (),
        shebang=site.shebang,
        sbatch_options=(
            _sbatch_options(spec, site_name, site, context) if slurm and submitted else ()
        ),
        prologue=tuple(site.prologue),
        on_every_node=_sidecar_step(spec, groups[0], site, context.kind) if slurm else (),
        interval_s=duration_s(spec.monitoring.interval),
        checkpoint_interval_s=duration_s(spec.monitoring.checkpoint_interval),
        ready_limit_s=max(1, round(duration_s(spec.monitoring.ready_limit))),
        required=spec.monitoring.required,
        analysis_at_end=spec.monitoring.analysis and slurm and submitted,
        # Other nodes must reach the exporters; a single node keeps them on loopback.
        listen_host=_listen_host(context.kind, single_node),
        target_host="127.0.0.1" if single_node else "",
        address_suffix=site.address_suffix,
        ports=site.ports,
        scratch=tuple(site.scratch),
        scratch_bytes=site.scratch_bytes,
        shared_file_systems=tuple(site.shared_file_systems),
        runtime=site.runtime.kind,
        starts=starts_of(site, context.images, context.python),
        passed_prefix=passed_prefix(site.runtime.kind),
        passed_variables=(*PASSED_VARIABLES, *site.runtime.environment),
        vendor_words=device_words(site.runtime.kind, site.vendor),
        device_words=device_access(site) if site.vendor == "none" else {},
        node_files=NODE_FILES,
        prometheus_major=_major(context.prometheus_version),
        node_exporter_options=NODE_EXPORTER_OPTIONS + _rootfs(site),
        node_targets=_node_targets(spec, site, logs),
        found_exporters=FOUND_EXPORTERS if spec.monitoring.exporters == "auto" else (),
        cgroup_steps=spec.monitoring.cgroup_steps,
        payload_targets=targets_of(spec, placeholders),
        logs=logs,
        port_names=tuple(port_variable(name) for name in spec.ports),
        services=services,
        service_starts=service_starts_of(services, site, context.images),
        service_steps={
            one.label: (
                _service_step(_group_of(one.nodes[0], groups), site, devices=one.devices)
                if slurm
                else ()
            )
            for one in services.every
        },
        phases=phases_of(spec, placeholders) if submitted else (),
        workload=numbers_of(spec.workload, device_count(spec.resources)),
        warning_s=site.warning_s,
        kind=context.kind,
        allocation=context.allocation,
        gpu_step=_gpu_words(site, '"$SLURM_GPUS_ON_NODE"', devices=_sees_devices(spec)),
        component_limit_s=(
            COMPONENT_LIMIT_S if site.runtime.kind == "native" else CONTAINED_LIMIT_S
        ),
    )


def _listen_host(kind: RunKind, single_node: bool) -> str:
    if kind == "hook":
        return "$LISTEN_HOST"
    return "127.0.0.1" if single_node else "0.0.0.0"  # noqa: S104 - behind a password


def _check_local(spec: JobSpec, site_name: str, context: Context) -> None:
    asked = spec.resources
    if asked.groups:
        raise SiteError(
            f"{context.job_file}: resources.groups: {', '.join(asked.groups)} on site "
            f"{site_name!r}, which is one machine; submit it to a Slurm site"
        )
    if asked.nodes > 1:
        raise SiteError(
            f"{context.job_file}: resources.nodes: {asked.nodes} nodes on site "
            f"{site_name!r}, which is one machine; write 1, or submit it to a Slurm site"
        )


def _sbatch_options(
    spec: JobSpec, site_name: str, site: SiteProfile, context: Context
) -> tuple[str, ...]:
    """Return the ``#SBATCH`` lines, each value quoted as sbatch reads quotes: like a shell."""
    check_request(spec.resources, site_name, site, context.job_file)
    # Slurm fills %x and %j in; a percent sign of the path itself is written twice.
    output = str(context.run_dir).replace("%", "%%") + "/output/%x-%j.out"
    of_script = {"output": output, "signal": f"B:USR1@{site.warning_s}" if site.warning_s else None}
    first, *others = groups_of(spec.resources)
    lines = list(_group_options(spec, first, site, of_script))
    for group in others:
        lines += ["hetjob", *_group_options(spec, group, site, {})]
    return tuple(lines)


def _group_options(
    spec: JobSpec, group: Group, site: SiteProfile, more: Mapping[str, object]
) -> tuple[str, ...]:
    asked = group.asked
    values: dict[str, object] = {
        "job-name": spec.name,
        "nodes": asked.nodes,
        "ntasks-per-node": asked.tasks_per_node,
        "cpus-per-task": asked.cpus_per_task,
        "mem": asked.memory,
        **chosen(asked, site),
        "constraint": asked.constraint,
        "reservation": asked.reservation,
        **more,
    }
    options = [f"--{key}={quoted(value)}" for key, value in values.items() if value is not None]
    if asked.exclusive:
        options.append("--exclusive")
    if asked.gpus_per_node:
        options.append(site.gpu_option.format(count=asked.gpus_per_node))
    return (*options, *site.options, *asked.extra)


def _planned_groups(
    spec: JobSpec, groups: Sequence[Group], site: SiteProfile, services: PlannedServices
) -> tuple[PlannedGroup, ...]:
    return tuple(
        PlannedGroup(
            name=str(group.name),
            number=group.number,
            nodes=group.nodes,
            node_list=node_list_variable(group),
            step=_sidecar_step(spec, group, site, "job"),
            service_steps={
                one.label: _service_step(group, site, devices=one.devices)
                for one in services.every
                if set(one.nodes).intersection(group.nodes)
            },
        )
        for group in groups
    )


def _sidecar_step(spec: JobSpec, group: Group, site: SiteProfile, kind: RunKind) -> tuple[str, ...]:
    """Return the srun words that run one process on every node beside everything else.

    How many nodes and GPUs there are is known to a hook only when it runs.
    """
    nodes = str(group.asked.nodes)
    gpus = _devices_of_step(group, site, devices=_sees_devices(spec))
    if kind == "hook":
        nodes, gpus = '"${#NODES[@]}"', (ShellText('"${GPUS[@]}"'),)
    return (
        *_step(nodes),
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        *gpus,
        *_place_of_step(group),
        *site.step_options,
    )


def _sees_devices(spec: JobSpec) -> bool:
    exporters = spec.monitoring.exporters
    return exporters == "auto" or bool(DEVICE_EXPORTERS.intersection(exporters))


def _service_step(group: Group, site: SiteProfile, *, devices: bool) -> tuple[str, ...]:
    """Return the srun words that run a service on one node, with all processors of the job there.

    A step has as many as it asks for, whatever the job has (Slurm from 20.11 on). Of several groups
    Slurm tells the script the processors of a node as ``8(x2),4``, of which the first are taken.
    """
    processors = "${SLURM_CPUS_ON_NODE:-1}"
    if group.name is not None:
        processors = f"${{SLURM_JOB_CPUS_PER_NODE_HET_GROUP_{group.number}%%[(,]*}}"
    return (
        *_step("1"),
        ShellText(f'--cpus-per-task="{processors}"'),
        "--cpu-bind=none",
        *_devices_of_step(group, site, devices=devices),
        *_place_of_step(group),
    )


def _group_of(node: int, groups: Sequence[Group]) -> Group:
    """Return the group that has the node of this number."""
    return next(group for group in groups if node in group.nodes)


def _place_of_step(group: Group) -> tuple[str, ...]:
    """Return the srun words by which a step runs on the nodes of one of several groups."""
    return () if group.name is None else (f"--het-group={group.number}",)


def _step(nodes: str) -> tuple[str, ...]:
    """Return the srun words of a step that takes nothing from the other steps of the job.

    Without ``--mem=0`` it is refused while another step holds the node's memory (Slurm 22.05 to
    26.05).
    """
    words = ("srun", "--overlap", "--mem=0", f"--nodes={nodes}", f"--ntasks={nodes}")
    return tuple(map(ShellText, words))


def _devices_of_step(group: Group, site: SiteProfile, *, devices: bool) -> tuple[str, ...]:
    """Return the srun words by which a step sees the GPUs of the job, and takes them from nobody.

    A step that asks for none sees none where the site constrains devices.
    """
    count = group.asked.gpus_per_node
    return _gpu_words(site, str(count), devices=devices) if count else ()


def _gpu_words(site: SiteProfile, count: str, *, devices: bool) -> tuple[str, ...]:
    if devices:
        return (ShellText(site.gpu_option.format(count=count)), "--gpu-bind=none")
    return ("--gpus-per-node=0",)


def _node_targets(
    spec: JobSpec, site: SiteProfile, logs: Sequence[PlannedLog]
) -> tuple[NodeTarget, ...]:
    targets = (NODE_TARGETS[name] for name in _exporters(spec, logs))
    if site.runtime.kind == "native":
        return tuple(targets)
    # No image has Slurm's commands, so whoever asks the controller runs beside the containers.
    contained = [replace(t, component="queue") if t.service == "queue" else t for t in targets]
    if any(target.component == "exporters" for target in contained):
        contained.append(NODE_TARGETS["helpers"])
    return tuple(contained)


def _rootfs(site: SiteProfile) -> tuple[str, ...]:
    return () if site.runtime.kind == "native" else ("--path.rootfs=/host",)


def _major(version: str | None) -> int | None:
    """Return the first number of a version; None when there is none.

    >>> _major("v3.13.4"), _major("2.42.0+ds"), _major("latest"), _major(None)
    (3, 2, None, None)
    """
    found = re.match(r"v?(\d+)\.", version or "")
    return int(found[1]) if found else None


def _exporters(spec: JobSpec, logs: Sequence[PlannedLog]) -> Sequence[str]:
    exporters = spec.monitoring.exporters
    chosen = AUTO if isinstance(exporters, str) else tuple(dict.fromkeys(exporters))
    return (*chosen, "logs") if logs else chosen
