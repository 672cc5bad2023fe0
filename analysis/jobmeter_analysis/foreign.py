"""A recording without a run folder: somebody's Prometheus data, a live server, an export.

There is no plan, so what is there counts: each pair of ``job`` and ``instance`` is a target, and
the KPIs follow from what it exposes. Nothing was fetched at the ends of the window, so its numbers
are bounds from the samples around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobmeter import __version__
from jobmeter.events import EventLog
from jobmeter.manifest import PlannedTarget, RunManifest
from jobmeter.window import Phase, Window
from jobmeter_analysis.attempt import (
    LOCAL,
    Attempt,
    clock_offsets_ms,
    clocks_of,
    selectors_of,
    skewed,
)
from jobmeter_analysis.catalogue import Catalogue
from jobmeter_analysis.entities import knows_any
from jobmeter_analysis.recording import Recording, Series, widened
from jobmeter_analysis.targets import UNKNOWN_CLOCK, Target, TargetBuilder, TargetName
from jobmeter_analysis.vocabulary import load_vocabulary

NO_SERVICE = "recording"
"""Service of series that carry no label that names one."""
LONGEST_INTERVAL_MS = 300_000
"""Between two scrapes of the same target, for samples on both sides of the window to be found."""
_HOST_LABELS = ("hostname", "Hostname", "nodename", "host")


def read_foreign(
    recording: Recording, window: Window, phase: str, catalogue: Catalogue, origin: str
) -> Attempt:
    """Read what ``catalogue`` needs of ``window``.

    Args:
        recording: Where the samples are.
        window: The stretch of time.
        phase: What to call it.
        catalogue: What will be computed.
        origin: What to call the recording.

    Raises:
        RecordingError: nothing can be read.
    """
    vocabulary = load_vocabulary()
    series = named_targets(
        recording.select(selectors_of(catalogue, vocabulary), widened(window, LONGEST_INTERVAL_MS))
    )
    builders: dict[TargetName, TargetBuilder] = {}
    for one in series:
        name = TargetName(one.labels["service"], one.labels["node"])
        if name not in builders:
            builders[name] = TargetBuilder(name, "recorded", None, "", vocabulary)
        builders[name].add_series(one)
    offsets = clock_offsets_ms(series)
    clocks = clocks_of(offsets)
    targets = tuple(
        builder.build(clock=clocks.get(name.node, UNKNOWN_CLOCK))
        for name, builder in sorted(builders.items())
    )
    nodes = tuple(sorted({target.name.node for target in targets}))
    intervals_ms = [target.interval_ms for target in targets]
    return Attempt(
        manifest=_manifest(origin, window, nodes, builders, min(intervals_ms, default=0.0)),
        name=LOCAL,
        log=EventLog((), 0),
        nodes=nodes,
        nodes_known=True,
        targets=targets,
        phases=(Phase(phase, window, end_source="given"),),
        whole=None,
        last_fact_ms=window.end_ms,
        accounting=None,
        skewed=skewed(offsets),
        problems=(*recording.problems, *_nothing_known(catalogue, targets)),
        recording_usable=not recording.problems,
    )


def _nothing_known(catalogue: Catalogue, targets: Sequence[Target]) -> tuple[str, ...]:
    """Say so when targets answered and no KPI is made of anything that they expose."""
    if not any(target.ever_up for target in targets) or knows_any(catalogue, targets):
        return ()
    return ("no KPI is made of anything in this recording",)


def named_targets(found: Sequence[Series]) -> list[Series]:
    """Return the series with a service and a node, whatever their Prometheus calls them.

    Several instances of one job on one host are several services: ``vllm:8000``, ``vllm:8001``;
    of several addresses of one node that have the same port, ``vllm:10.0.0.5:8000``.
    """
    instances: dict[tuple[str, str], set[str]] = {}
    ports: dict[tuple[str, str], set[str]] = {}
    for one in found:
        if not _ours(one.labels):
            service, host, port = _address(one.labels)
            instances.setdefault((service, host), set()).add(one.labels.get("instance", ""))
            ports.setdefault((service, host), set()).add(port)
    named = []
    for one in found:
        service, host, port = _address(one.labels)
        if not _ours(one.labels) and (several := len(instances[service, host])) > 1:
            told_by_port = len(ports[service, host]) == several
            service = f"{service}:{port if told_by_port else one.labels.get('instance', '')}"
        named.append(replace(one, labels={**one.labels, "service": service, "node": host}))
    return named


def _ours(labels: Mapping[str, str]) -> bool:
    """Whether a series carries the labels of a recording of jobmeter.

    Others have services and nodes too, with several instances of a service on one node.
    """
    return labels.keys() >= {"service", "node", "run_id"}


def _address(labels: Mapping[str, str]) -> tuple[str, str, str]:
    """Return service, host and port of the target of a series.

    >>> _address({"job": "vllm", "instance": "gpu1:8000"}), _address({"Hostname": "gpu1"})
    (('vllm', 'gpu1', '8000'), ('recording', 'gpu1', ''))
    """
    service = labels.get("service") or labels.get("job") or NO_SERVICE
    host, _, port = labels.get("instance", "").rpartition(":")
    if not port.isdigit():
        host, port = labels.get("instance", ""), ""
    named = next((labels[label] for label in _HOST_LABELS if labels.get(label)), "")
    return service, labels.get("node") or host or named, port


def _manifest(
    origin: str,
    window: Window,
    nodes: Sequence[str],
    targets: Mapping[TargetName, object],
    interval_ms: float,
) -> RunManifest:
    services = dict.fromkeys(name.service for name in targets)
    return RunManifest(
        run_id=origin,
        name=origin,
        site="",
        created=window.start.isoformat(),
        nodes=len(nodes),
        interval_s=interval_ms / 1000,
        checkpoint_interval_s=0.0,
        required=False,
        phases=(),
        targets=tuple(PlannedTarget(service, "every_node", "payload") for service in services),
        job_file_sha256="",
        git_commit=None,
        jobmeter_version=__version__,
    )
