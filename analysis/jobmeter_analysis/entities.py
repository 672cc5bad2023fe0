"""Which targets a group of KPIs is about, and the entities in them: nodes, devices, ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobmeter.window import JOB
from jobmeter_analysis.catalogue import JOB_CPUS, Catalogue, Group, Kpi
from jobmeter_analysis.subjects import Subject
from jobmeter_analysis.targets import Target


@dataclass(frozen=True)
class Entity:
    """What one row is about.

    Args:
        name: In the ``entity`` column.
        subjects: Label sets of one or several targets.
        instrumented: Whether the group knows anything that it exposes.
    """

    name: str
    subjects: tuple[Subject, ...]
    instrumented: bool

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes that its targets are on."""
        return tuple(subject.target.name.node for subject in self.subjects)

    def should_have(self, group: str) -> bool:
        """Whether the group of this name is one that its users read."""
        return any(group in subject.target.kpi_groups for subject in self.subjects)

    def has(self, metric: str) -> bool:
        """Whether it exposes ``metric``, of a histogram its buckets."""
        names = (metric, f"{metric}_bucket")
        return any(subject.has(name) for subject in self.subjects for name in names)


def unknown_to(catalogue: Catalogue, targets: Sequence[Target]) -> Sequence[Target]:
    """Return the endpoints of the payload of which no group knows anything."""
    payload = [target for target in targets if target.kind == "payload"]
    return [one for one in payload if not knows_any(catalogue, [one])]


def knows_any(catalogue: Catalogue, targets: Sequence[Target]) -> bool:
    """Whether any group is about any of ``targets``."""
    return any(_has(name, group, one) for name, group in catalogue.items() for one in targets)


def entities_of(
    name_of_group: str,
    group: Group,
    targets: Sequence[Target],
    unknown: Sequence[Target],
    cpus: Mapping[str, frozenset[str]],
) -> Iterator[Entity]:
    """Yield the entities of ``group``, in the order of the targets.

    Args:
        name_of_group: In the catalogue.
        group: With services that are expected, and metrics by which others are found.
        targets: All of the attempt.
        unknown: Those that no group knows.
        cpus: By node, the CPUs that the job was given.
    """
    chosen = [target for target in targets if _has(name_of_group, group, target)]
    known = bool(chosen)
    if not chosen and group.fallback:
        chosen = list(unknown)
    for target in chosen:
        of_node = cpus.get(target.name.node)
        if not group.by:
            node = target.name.node if group.scope == "node" else ""
            name = node or str(target.name)
            yield Entity(name, (Subject(target, cpus=of_node),), known)
            continue
        for labels in _label_values(group, target):
            name = group.entity_name(dict(labels))
            name += f"@{target.name.node}" if target.name.node else ""
            yield Entity(name, (Subject(target, labels, of_node),), known)


def with_rows(entities: Sequence[Entity], group: str, kpi: Kpi) -> Sequence[Entity]:
    """Return those of ``entities`` that have a row of ``kpi``, a KPI of the group of this name.

    What is optional has one where it is exposed. Of services that should have the group, it has one
    where nothing is known of the service too, and in each when none exposes it.
    """
    metric = kpi.metric
    if not kpi.optional or metric is None:
        return entities
    exposed = any(one.has(metric) for one in entities)
    return [
        one
        for one in entities
        if one.has(metric)
        or (one.should_have(group) and not (exposed and one.subjects[0].target.ever_up))
    ]


def _has(name: str, group: Group, target: Target) -> bool:
    if name in target.kpi_groups:
        return True
    if target.kind == "stack":
        return target.name.service in group.services
    signs = group.detect
    if target.kind == "recorded" and target.name.service in group.services and not signs:
        signs = tuple(metric for kpi in group.kpis.values() for metric in kpi.metrics)
    return any(metric in target.tracks or f"{metric}_bucket" in target.tracks for metric in signs)


def _label_values(group: Group, target: Target) -> Sequence[tuple[tuple[str, str], ...]]:
    """Return the values of the labels that tell the entities of a target apart, sorted.

    A label set that has none of them belongs to no entity.
    """
    metrics = {metric for kpi in group.kpis.values() for metric in kpi.metrics}
    found = {
        tuple((label, track.label(label)) for label in group.by)
        for metric in metrics
        for name in (metric, f"{metric}_bucket")
        for track in target.tracks.get(name, ())
    }
    named = [labels for labels in found if any(value for _, value in labels)]
    return sorted(named, key=lambda labels: [_natural(value) for _, value in labels])


def _natural(value: str) -> tuple[int, str]:
    """Sort numbers by size: GPU 10 comes after GPU 9."""
    return (int(value) if value.isdigit() else -1, value)


def grouped(entities: Sequence[Entity], scope: str, metric: str) -> dict[str, list[int]]:
    """Return by name of the total which entities belong to it.

    What is there as a whole and in parts (a GPU and its instances) counts in its parts only.
    """
    having: dict[int, list[Subject]] = {}
    for one in entities:
        if one.has(metric):
            having.setdefault(id(one.subjects[0].target), []).append(one.subjects[0])
    found: dict[str, list[int]] = {}
    for index, entity in enumerate(entities):
        target = entity.subjects[0].target
        if any(_part_of(one, entity.subjects[0]) for one in having.get(id(target), ())):
            continue
        name = {"node": target.name.node, "service": str(target.name)}.get(scope, JOB)
        found.setdefault(name, []).append(index)
    return found


def _part_of(part: Subject, whole: Subject) -> bool:
    """Whether ``part`` has the labels of ``whole``, and one that is open in it."""
    pairs = zip(part.only, whole.only, strict=True)
    return part.only != whole.only and all(mine == its or not its[1] for mine, its in pairs)


def cpus_of_job(targets: Sequence[Target]) -> dict[str, frozenset[str]]:
    """Return by node the CPUs that the job was given, where an exporter lists them."""
    return {
        target.name.node: cpu_list(tracks[-1].label("cpus"))
        for target in targets
        if (tracks := target.tracks.get(JOB_CPUS, ())) and not target.foreign
    }


def cpu_list(text: str) -> frozenset[str]:
    """Return the CPUs of a list as the kernel writes it (cpuset(7), list format).

    >>> sorted(cpu_list("0-2,8"))
    ['0', '1', '2', '8']
    """
    cpus: set[str] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (last or first).isdigit():
            cpus.update(str(cpu) for cpu in range(int(first), int(last or first) + 1))
    return frozenset(cpus)
