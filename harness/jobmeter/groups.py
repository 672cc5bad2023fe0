"""Groups of nodes: what Slurm calls the components of a heterogeneous job.

An ordinary job is one group without a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobmeter.spec import Resources


@dataclass(frozen=True)
class Group:
    """Nodes that are asked for alike.

    Args:
        asked: What for each of them, and their number.
        name: None where the job has no other group.
        number: As ``srun --het-group`` counts.
        first: The number of its first node among the nodes of the job.
        said: By key of the job file, where the group itself says it.
    """

    asked: Resources
    name: str | None = None
    number: int = 0
    first: int = 0
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> range:
        """The numbers of its nodes among those of the job."""
        return range(self.first, self.first + self.asked.nodes)


def groups_of(asked: Resources) -> tuple[Group, ...]:
    """Return the groups of a job in the order of the job file, at least one."""
    groups: list[Group] = []
    for name, own in asked.groups.items():
        changes = {key: getattr(own, key) for key in own.model_fields_set}
        groups.append(
            Group(
                asked=asked.model_copy(update={**changes, "groups": {}}),
                name=name,
                number=len(groups),
                first=groups[-1].nodes.stop if groups else 0,
                said={key: f"resources.groups.{name}.{key}" for key in changes},
            )
        )
    return tuple(groups) or (Group(asked),)


def node_count(groups: Sequence[Group]) -> int:
    """Return how many nodes a job of these groups has."""
    return groups[-1].nodes.stop


def device_count(asked: Resources) -> int:
    """Return how many GPUs a job asks for."""
    return sum(group.asked.nodes * group.asked.gpus_per_node for group in groups_of(asked))
