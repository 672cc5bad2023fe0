"""Everything that one attempt left, read once: plan, events, targets, phases.

What is missing or damaged becomes a line in ``problems``; only a folder in which there is nothing
at all is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from jobmeter.accounting import JobAccounting, read_accounting
from jobmeter.errors import RecordingError, RunFolderError
from jobmeter.events import EventLog, read_events
from jobmeter.manifest import PlannedTarget, RunManifest, read_manifest
from jobmeter.paths import AttemptPaths, RunPaths, Side
from jobmeter.window import Phase, job_window, phases_from
from jobmeter_analysis.catalogue import Catalogue, metrics_of
from jobmeter_analysis.clients import ClientNumber, client_rows
from jobmeter_analysis.readings import PROCESS_START
from jobmeter_analysis.recording import NO_SAMPLE, Recording, Selector, Series
from jobmeter_analysis.snapshots import Snapshot, read_snapshots
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.targets import (
    MEASURED_ERROR_MS,
    RUN_INFO,
    SAME_CLOCK,
    UNKNOWN_CLOCK,
    Boundary,
    Clock,
    Edge,
    Target,
    TargetBuilder,
    TargetName,
    read_edges,
)
from jobmeter_analysis.vocabulary import Vocabulary, load_vocabulary

LOCAL = "local"
"""Name of an attempt that ran without Slurm."""
SKEW_MS = 1000
"""Clocks further apart than this are worth a word."""

_ALWAYS = ("up", "scrape_duration_seconds", RUN_INFO)
_CLOCK = "node_time_seconds"
_ALWAYS_DESCRIBED = (PROCESS_START, "job_source_info", _CLOCK)
_BUILD_INFO = "_build_info"


@dataclass(frozen=True)
class Attempt:
    """One attempt as it is known.

    Args:
        manifest: What was planned.
        name: Of the attempt folder.
        log: Its events.
        nodes: Names of its nodes, the first one first.
        nodes_known: Whether the job said which nodes it has; else they are those that appear.
        targets: Every planned endpoint on every node where it belongs, in order of the plan.
        phases: Phases that were started, in order.
        whole: From the first to the last event; None without any.
        last_fact_ms: Time of the last thing that is known.
        accounting: What Slurm said, None when it did not.
        skewed: Nodes whose clock differs from that of the first node by more than a second.
        problems: What could not be read, in words.
        recording_usable: Whether the recording could be read without loss.
        clients: By phase, what the load generators measured themselves.
        snapshots: What services said of their settings.
    """

    manifest: RunManifest
    name: str
    log: EventLog
    nodes: tuple[str, ...]
    nodes_known: bool
    targets: tuple[Target, ...]
    phases: tuple[Phase, ...]
    whole: Phase | None
    last_fact_ms: int
    accounting: JobAccounting | None
    skewed: frozenset[str]
    problems: tuple[str, ...]
    recording_usable: bool
    clients: Mapping[str, Sequence[ClientNumber]] = field(default_factory=dict)
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def local(self) -> bool:
        """Whether it ran without Slurm."""
        return self.name.split(".")[0] == LOCAL


def read_attempt(
    run: RunPaths,
    attempt: AttemptPaths,
    catalogue: Catalogue,
    recording: Recording | None = None,
    *,
    fetched: bool = True,
) -> Attempt:
    """Read everything of one attempt that the catalogue needs.

    Args:
        run: The run it belongs to.
        attempt: Its folder.
        catalogue: What will be computed.
        recording: Where the samples are, by default the attempt's data folder.
        fetched: Whether what the job fetched at boundaries, and what clients measured, is read
            too, which a window of the last minute does not need.

    Raises:
        RunFolderError: run.json cannot be used, or the attempt left nothing.
    """
    manifest = read_manifest(run.manifest)
    log = read_events(attempt.events)
    if not (log.events or attempt.tsdb.is_dir() or attempt.edges.is_dir()):
        raise RunFolderError(
            f"{attempt.attempt}: this attempt left no events, edges or recording; "
            "the job ended before its script began, or the folder is not an attempt"
        )
    problems = _event_problems(log)
    vocabulary = load_vocabulary()
    described = list(selectors_of(catalogue, vocabulary))
    planned = [*manifest.targets, *(target for target, _, _ in _found(log))]
    stack = {target.service for target in planned if target.kind == "stack"}
    edges, edge_problems = read_edges(attempt, _wanted(described), stack) if fetched else ({}, [])
    source = recording or PrometheusFolder(attempt.tsdb)
    series, recording_problems = _recorded(source, [*described, *_of_payload(edges)])
    if any(event.fields.get("clean") is True for event in log.named("recording_closed")):
        # A job that ends before Prometheus's first scrape has all its samples in its edges.
        recording_problems = [p for p in recording_problems if not p.endswith(NO_SAMPLE)]
    nodes, nodes_known = _nodes(manifest, log, series, edges)
    job_start = next((event.time_ms for event in log.named("job_start")), None)
    # Of a job that was there before its recording, the groups did not begin with it.
    began_before = attempt.name.split(".")[0] == LOCAL or manifest.kind != "job"
    offsets = clock_offsets_ms(series)
    clocks = clocks_of(offsets)
    if nodes_known:
        clocks[nodes[0]] = SAME_CLOCK  # Prometheus and the job script are there
    builders = _builders(manifest, nodes, log, edges, vocabulary)
    _fill(builders, series, _with_silence(edges, manifest, nodes))
    targets = tuple(
        builder.build(None if began_before else job_start, clocks.get(name.node, UNKNOWN_CLOCK))
        for name, builder in builders.items()
    )
    last_fact = _last_fact_ms(log, targets)
    phases = phases_from(log.events, last_fact)
    of_clients = phases if fetched else ()
    clients = {phase.name: client_rows(attempt, phase.name) for phase in of_clients}
    client_problems = [problem for _, problems in clients.values() for problem in problems]
    return Attempt(
        manifest=manifest,
        name=attempt.name,
        log=log,
        nodes=nodes,
        nodes_known=nodes_known,
        targets=targets,
        phases=phases,
        whole=job_window(log.events, last_fact),
        last_fact_ms=last_fact,
        accounting=read_accounting(attempt.accounting),
        skewed=_skewed(log).union(skewed(offsets)),
        problems=(*problems, *edge_problems, *recording_problems, *client_problems),
        recording_usable=not recording_problems,
        clients={name: rows for name, (rows, _) in clients.items()},
        snapshots=read_snapshots(attempt, log) if fetched else (),
    )


def _event_problems(log: EventLog) -> list[str]:
    if not log.events:
        return ["events.jsonl is missing or empty: phases and nodes are not known"]
    if log.unreadable_lines:
        return [f"events.jsonl has {log.unreadable_lines} line(s) that cannot be read"]
    return []


def selectors_of(catalogue: Catalogue, vocabulary: Vocabulary) -> Sequence[Selector]:
    """Return what to read for the KPIs of ``catalogue``."""
    return (
        *(Selector(name) for name in _ALWAYS),
        *vocabulary.selectors(metrics_of(catalogue).union(_ALWAYS_DESCRIBED)),
        Selector(_BUILD_INFO, suffix=True),
    )


def _wanted(selectors: Sequence[Selector]) -> Callable[[str], bool]:
    names = {one.name for one in selectors if not one.suffix}
    ends = tuple(one.name for one in selectors if one.suffix)
    return lambda name: name in names or name.endswith(ends)


def _of_payload(edges: Mapping[TargetName, Sequence[Edge]]) -> Sequence[Selector]:
    """Return what to read beside: every counter of the payload."""
    declared = {
        name
        for of_target in edges.values()
        for edge in of_target
        if edge.exposition
        for name, kind in edge.exposition.types.items()
        if kind == "counter"
    }
    payload = {"job": "payload"}
    return (
        *(Selector(name, labels=payload) for name in sorted(declared)),
        Selector("_total", suffix=True, labels=payload),
        Selector("_created", suffix=True, labels=payload),
    )


def clock_offsets_ms(series: Sequence[Series]) -> dict[str, float]:
    """Return by node how far its clock is ahead of the one that stamped its samples.

    The scrape itself takes some milliseconds, which are in the number.
    """
    return {
        one.labels.get("node", ""): float(np.median(one.values * 1000 - one.times_ms))
        for one in series
        if one.name == _CLOCK and one.times_ms.size
    }


def clocks_of(offsets_ms: Mapping[str, float]) -> dict[str, Clock]:
    """Return the clocks of nodes, as they were measured."""
    return {node: Clock(offset, MEASURED_ERROR_MS) for node, offset in offsets_ms.items()}


def skewed(offsets_ms: Mapping[str, float]) -> frozenset[str]:
    """Return the nodes whose clock is so far off that it is worth a word."""
    return frozenset(node for node, offset in offsets_ms.items() if abs(offset) > SKEW_MS)


def _recorded(source: Recording, selectors: list[Selector]) -> tuple[list[Series], list[str]]:
    try:
        return source.select(selectors), list(source.problems)
    except RecordingError as cause:
        return [], [str(cause)]


def _nodes(
    manifest: RunManifest,
    log: EventLog,
    series: Sequence[Series],
    edges: dict[TargetName, list[Edge]],
) -> tuple[tuple[str, ...], bool]:
    """Return the nodes that the job named, or, without that, those that appear anywhere."""
    for event in log.named("job_start"):
        names = str(event.fields.get("nodes", "")).split()
        if names:
            return tuple(dict.fromkeys(names)), True
    seen = [event.node for event in log.events]
    seen += [name.node for name in edges]
    first = [s.labels["node"] for s in series if s.labels.get("service") == "prometheus"]
    rest = sorted({s.labels["node"] for s in series if "node" in s.labels})
    return tuple(dict.fromkeys([*seen[:1], *first, *seen, *rest])), False


def _builders(
    manifest: RunManifest,
    nodes: tuple[str, ...],
    log: EventLog,
    edges: Mapping[TargetName, Sequence[Edge]],
    vocabulary: Vocabulary,
) -> dict[TargetName, TargetBuilder]:
    """Return every target: those that were planned, and those that turned up."""
    builders: dict[TargetName, TargetBuilder] = {}

    def add(planned: PlannedTarget, node: str, found_ms: int | None = None) -> None:
        name = TargetName(planned.service, node)
        builders[name] = TargetBuilder(
            name,
            planned.kind,
            manifest.interval_s * 1000,
            manifest.run_id,
            vocabulary,
            third_party=planned.third_party,
            found_ms=found_ms,
            kpi_groups=manifest.service_kpis.get(planned.service, ()),
        )

    for planned in manifest.targets:
        for node in nodes if planned.placement == "every_node" else nodes[:1]:
            add(planned, node)
    for target, node, found_ms in _found(log):
        if TargetName(target.service, node) not in builders:
            add(target, node, found_ms)
    for name, of_target in edges.items():
        if name not in builders and name.node in nodes:
            # It ended before it was found, and left its last exposition.
            found_ms = min(edge.boundary.before_ms for edge in of_target)
            add(PlannedTarget(name.service, "every_node", "payload"), name.node, found_ms)
    return builders


def _found(log: EventLog) -> Iterator[tuple[PlannedTarget, str, int]]:
    """Give the targets that nobody planned, their nodes, and when they were found."""
    for event in log.named("exporters_found"):
        for service in str(event.fields.get("services", "")).split():
            yield PlannedTarget(service, "every_node", "stack"), event.node, event.time_ms
    for event in log.named("endpoint_found"):
        service = str(event.fields.get("service"))
        yield PlannedTarget(service, "every_node", "payload"), event.node, event.time_ms


def _with_silence(
    edges: Mapping[TargetName, Sequence[Edge]], manifest: RunManifest, nodes: tuple[str, ...]
) -> Mapping[TargetName, Sequence[Edge]]:
    """Return the edges with a fetch that failed for each that should have been there and is not.

    Of a component that was given up the job asks no more, which is no less silent.
    """
    asked: dict[tuple[str, Side | Literal["boot"]], Boundary] = {}
    for of_target in edges.values():
        for edge in of_target:
            if edge.boundary.side != "boot":
                asked.setdefault((edge.boundary.phase, edge.boundary.side), edge.boundary)
    whole = {name: list(of_target) for name, of_target in edges.items()}
    for planned in manifest.targets:
        for node in nodes if planned.placement == "every_node" else nodes[:1]:
            of_target = whole.setdefault(TargetName(planned.service, node), [])
            have = {(edge.boundary.phase, edge.boundary.side) for edge in of_target}
            if planned.kind == "stack":
                of_target += [
                    Edge(replace(boundary, usable=False, whole=False, left=False), None)
                    for key, boundary in asked.items()
                    if key not in have
                ]
    return whole


def _fill(
    builders: Mapping[TargetName, TargetBuilder],
    series: Sequence[Series],
    edges: Mapping[TargetName, Sequence[Edge]],
) -> None:
    """Give every target what was recorded of it."""
    for one in series:
        name = TargetName(one.labels.get("service", ""), one.labels.get("node", ""))
        if name in builders:
            builders[name].add_series(one)
    for name, of_target in edges.items():
        if name in builders:
            builders[name].add_edges(of_target)


def _last_fact_ms(log: EventLog, targets: Sequence[Target]) -> int:
    facts = [event.time_ms for event in log.events]
    facts += [
        int(target.scrapes.times_ms[-1]) for target in targets if target.scrapes.times_ms.size
    ]
    facts += [one.after_ms for target in targets for one in target.boundaries if one.usable]
    return max(facts, default=0)


def _skewed(log: EventLog) -> frozenset[str]:
    """Return the nodes whose own clock was far from the first node's when a component started."""
    skewed = set()
    for event in log.named("component_start"):
        theirs = event.fields.get("node_t")
        if isinstance(theirs, int) and abs(theirs - event.time_ms) > SKEW_MS:
            skewed.add(event.node)
    return frozenset(skewed)
