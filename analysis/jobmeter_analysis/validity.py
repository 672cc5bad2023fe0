"""What MANIFEST.json says: how complete a recording is, and everything needed to believe it.

``complete`` means: every planned phase ran and ended by itself; every endpoint of the stack
belonged to this run and answered all through every phase (samples at most 2.5 intervals apart, the
first and the last at most one interval from its ends, edges counted); every endpoint of the payload
answered at least once (they come and go with their programs); nothing that was recorded is lost or
damaged. ``failed``: no phase began, or nothing answered. Everything else is ``incomplete``, and
``reasons`` says why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from jobmeter.events import groups_in
from jobmeter.window import JOB, Phase
from jobmeter_analysis.attempt import Attempt
from jobmeter_analysis.estimate import FOREIGN_TARGET, SOURCE_DEGRADED, TARGET_NEVER_UP
from jobmeter_analysis.expected import expected
from jobmeter_analysis.gauges import largest_gap_ms
from jobmeter_analysis.snapshots import as_manifest
from jobmeter_analysis.targets import NO_TIMES, Target

SCHEMA_VERSION = 1
WHOLE = 1 - 1e-9
"""Coverage that counts as all, rounding forgiven."""


def validity(known: Attempt, phases: Sequence[Phase], table: pd.DataFrame) -> dict[str, Any]:
    """Return the manifest of an analysis, without the artifacts."""
    targets = [_target(target, known.phases) for target in known.targets]
    reasons = [
        *_phase_reasons(known),
        *_stack_reasons(known),
        *_target_reasons(known),
        *_component_reasons(known),
        *known.problems,
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "state": _state(known, reasons),
        "reasons": reasons,
        "run_id": known.manifest.run_id,
        "name": known.manifest.name,
        "attempt": known.name,
        "site": known.manifest.site,
        "interval_seconds": known.manifest.interval_s,
        "git_commit": known.manifest.git_commit,
        "jobmeter_version": known.manifest.jobmeter_version,
        "job_file_sha256": known.manifest.job_file_sha256,
        "nodes": _nodes(known),
        "targets": targets,
        "service_kpis": {name: list(of) for name, of in known.manifest.service_kpis.items()},
        "phases": [_phase(phase) for phase in phases],
        "phases_planned": list(known.manifest.phases),
        "phases_skipped": [str(e.fields.get("phase")) for e in known.log.named("phase_skipped")],
        "versions": _versions(known.targets),
        "runtime": known.manifest.runtime,
        "images": [asdict(image) for image in known.manifest.images],
        "job_source": _job_sources(known.targets),
        "monitoring": _monitoring_cost(table),
        "slurm": asdict(known.accounting) if known.accounting else None,
        "clients": _clients(known),
        "snapshots": as_manifest(known.snapshots),
        "events": _events(known),
        "recording": _recording(known.targets),
        "checkpoint": _checkpoint(known),
    }


def _state(known: Attempt, reasons: Sequence[str]) -> str:
    if not known.phases or not any(target.ever_up for target in known.targets):
        return "failed"
    return "incomplete" if reasons else "complete"


def _phase_reasons(known: Attempt) -> list[str]:
    began = {phase.name: phase for phase in known.phases}
    reasons = [f"phase {n!r} did not begin" for n in known.manifest.phases if n not in began]
    for phase in known.phases:
        if phase.end_source == "last_fact":
            reasons.append(f"phase {phase.name!r} has no end mark")
        elif phase.interrupted_by:
            reasons.append(f"phase {phase.name!r} was ended by {phase.interrupted_by}")
    for event in (*known.log.named("service_failed"), *known.log.named("service_lost")):
        name, why = event.fields.get("service"), event.fields.get("why")
        reasons.append(f"service {name}@{event.node} {why}")
    if not known.nodes_known:
        reasons.append("the job never said which nodes it has")
    return reasons


def _target_reasons(known: Attempt) -> list[str]:
    reasons = []
    for target in known.targets:
        if target.foreign:
            reasons.append(f"{FOREIGN_TARGET}: {target.name}")
        elif not target.ever_up:
            reasons.append(f"{TARGET_NEVER_UP}: {target.name}")
        elif target.kind != "payload":
            for phase in known.phases:
                if not expected(target, phase):
                    continue
                coverage = target.coverage(phase.window, phase.name)
                if coverage < WHOLE:
                    reasons.append(
                        f"{target.name} answered for {100 * coverage:.1f} % of phase {phase.name!r}"
                    )
    for event in known.log.named("source_degraded"):
        instead, why = event.fields.get("instead"), event.fields.get("why")
        source = f"{event.fields.get('service')}@{event.node}"
        reasons.append(f"{SOURCE_DEGRADED}: {instead} in place of {source}, which {why}")
    return reasons


def _stack_reasons(known: Attempt) -> list[str]:
    """Return what the stack's own scripts said of what they could not start or keep."""
    reasons = [
        f"of the site's prologue failed: {event.fields.get('why')}"
        for event in known.log.named("prologue_failed")
    ]
    for event in known.log.named("component_gave_up"):
        component, why = event.fields.get("component"), event.fields.get("why")
        reasons.append(f"{component}@{event.node} was given up: {why}")
    return reasons


def _component_reasons(known: Attempt) -> list[str]:
    """Return which components of a heterogeneous job did not end as the one with the script."""
    components = known.accounting.components if known.accounting else ()
    return [
        f"component {one.job_id} on {one.node_list} is {one.state}, the first {components[0].state}"
        for one in components
        if one.state != components[0].state
    ]


def _nodes(known: Attempt) -> dict[str, Any]:
    observed = {target.name.node for target in known.targets if target.ever_up}
    return {
        "planned": known.manifest.nodes,
        "expected": list(known.nodes),
        "observed": [node for node in known.nodes if node in observed],
        "groups": {name: list(nodes) for name, nodes in groups_in(known.log).items()},
    }


def _target(target: Target, phases: Sequence[Phase]) -> dict[str, Any]:
    return {
        "service": target.name.service,
        "node": target.name.node,
        "kind": target.kind,
        "ever_up": target.ever_up,
        "foreign": target.foreign,
        "scrapes": int(target.scrapes.times_ms.size),
        "scrapes_failed": int((~target.scrapes.up).sum()),
        "phases": {
            phase.name: {
                "coverage": target.coverage(phase.window, phase.name),
                "largest_gap_seconds": largest_gap_ms(
                    target.answers(phase.window, phase.name), phase.window
                )
                / 1000,
                "edges": [
                    one.side for one in target.boundaries if one.phase == phase.name and one.usable
                ],
            }
            for phase in phases
            if expected(target, phase)
        },
    }


def _phase(phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.name,
        "start": phase.window.start.isoformat(),
        "end": phase.window.end.isoformat(),
        "start_ms": phase.window.start_ms,
        "end_ms": phase.window.end_ms,
        "end_source": phase.end_source,
        "window_source": "events" if phase.name == JOB else _window_source(phase),
        "exit_code": phase.exit_code,
        "interrupted_by": phase.interrupted_by,
    }


def _window_source(phase: Phase) -> str:
    return "given" if phase.end_source == "given" else "marks"


def _versions(targets: Sequence[Target]) -> dict[str, list[str]]:
    """Return the versions that ``*_build_info`` metrics name, by program."""
    versions: dict[str, set[str]] = {}
    for target in targets:
        if target.foreign:
            continue
        for metric, tracks in target.tracks.items():
            if metric.endswith("_build_info"):
                found = {track.label("version") for track in tracks} - {""}
                versions.setdefault(metric.removesuffix("_build_info"), set()).update(found)
    return {program: sorted(found) for program, found in sorted(versions.items())}


def _job_sources(targets: Sequence[Target]) -> dict[str, list[str]]:
    """Return where each node's numbers of the job came from: its cgroup, or its processes."""
    return {
        target.name.node: sorted(track.label("source") for track in tracks)
        for target in targets
        if (tracks := target.tracks.get("job_source_info", ())) and not target.foreign
    }


def _monitoring_cost(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the monitoring's own rows by node: of the whole attempt, else of the last phase."""
    rows = table[table["kpi"].str.startswith("monitoring_") & (table["scope"] == "node")]
    rows = rows[rows["value"].notna()]
    if (rows["phase"] == JOB).any():
        rows = rows[rows["phase"] == JOB]
    cost: dict[str, dict[str, float]] = {}
    for entity, kpi, value in zip(rows["entity"], rows["kpi"], rows["value"], strict=True):
        cost.setdefault(str(entity), {})[str(kpi)] = float(value)
    return cost


def _clients(known: Attempt) -> dict[str, list[dict[str, str]]]:
    """Return by phase what exactly the numbers of its clients are numbers of."""
    return {
        phase: [
            {"kpi": n.kpi, "client": n.tool, "file": n.file, "definition": n.definition}
            for n in numbers
        ]
        for phase, numbers in known.clients.items()
        if numbers
    }


def _events(known: Attempt) -> dict[str, Any]:
    log = known.log
    up = next(iter(log.named("targets_up")), None)
    end = next(iter(log.named("job_end")), None)
    return {
        "count": dict(sorted(Counter(event.name for event in log.events).items())),
        "unreadable_lines": log.unreadable_lines,
        "targets_up": dict(up.fields) if up else None,
        "component_exits": [
            {"node": event.node, **event.fields} for event in log.named("component_exit")
        ],
        "components_given_up": [
            {"node": event.node, **event.fields} for event in log.named("component_gave_up")
        ],
        "signals": [str(event.fields.get("signal")) for event in log.named("signal")],
        "exit_code": end.fields.get("exit_code") if end else None,
        "ended": end is not None,
        "clock_skew": sorted(known.skewed),
    }


def _recording(targets: Sequence[Target]) -> dict[str, Any]:
    """Return the extent of what Prometheus recorded, edges left aside; times are epoch seconds."""
    times = np.unique(np.concatenate([NO_TIMES, *(one.scrapes.times_ms for one in targets)]))
    return {
        "first_scrape": float(times[0]) / 1000 if times.size else None,
        "last_scrape": float(times[-1]) / 1000 if times.size else None,
        "largest_gap_seconds": float(np.diff(times).max()) / 1000 if times.size > 1 else None,
    }


def _checkpoint(known: Attempt) -> dict[str, Any]:
    """Return how much of the end may be missing from the copy of the recording."""
    closed = next(iter(known.log.named("recording_closed")), None)
    copies = [*known.log.named("checkpoint"), *([closed] if closed else [])]
    latest = max((event.time_ms for event in copies), default=None)
    behind = None if latest is None else max(0.0, (known.last_fact_ms - latest) / 1000)
    return {
        "count": len(known.log.named("checkpoint")),
        "closed": closed is not None,
        "clean": bool(closed.fields.get("clean")) if closed else False,
        "copied_bytes": _bytes([event.fields for event in copies]),
        "seconds_before_end": behind,
    }


def _bytes(fields: Sequence[Mapping[str, Any]]) -> int:
    sizes = [field.get("copied_bytes") for field in fields]
    return sum(int(size) for size in sizes if isinstance(size, int | float) and math.isfinite(size))
