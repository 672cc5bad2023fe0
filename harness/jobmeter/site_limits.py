"""What a site's partitions and QOS allow, as data; what is not known is left out."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, Field

from jobmeter import strict
from jobmeter.quantities import slurm_memory_mb
from jobmeter.spec import Line, TimeLimit

OTHERS = "*"
"""Key of a partition or QOS that stands for every other one, and says that there are others."""


def _checked_memory(text: str) -> str:
    slurm_memory_mb(text)
    return text


Memory = Annotated[str, AfterValidator(_checked_memory)]


class Partition(strict.StrictModel):
    """Nodes of one kind.

    Args:
        nodes: How many there are.
        min_nodes: Fewest that one job may have.
        max_nodes: Most that one job may have.
        max_time: Longest time limit of a job.
        cpus_per_node: CPUs as Slurm counts them, hardware threads where it counts those.
        memory: What a job can have of one node, written as sbatch does.
        gpus_per_node: 0 where there is none.
        gpu: How a GPU is called.
        local_disk: Whether a node has a disk of its own; where not, its ``/tmp`` is memory.
        note: What else a person should know.
    """

    nodes: int | None = Field(default=None, ge=1)
    min_nodes: int | None = Field(default=None, ge=1)
    max_nodes: int | None = Field(default=None, ge=1)
    max_time: TimeLimit | None = None
    cpus_per_node: int | None = Field(default=None, ge=1)
    memory: Memory | None = None
    gpus_per_node: int | None = Field(default=None, ge=0)
    gpu: Line | None = None
    local_disk: bool | None = None
    note: Line | None = None


class Qos(strict.StrictModel):
    """What a quality of service allows to one job.

    Args:
        min_nodes: Fewest nodes of a job.
        max_nodes: Most nodes of a job.
        max_nodes_share: The same as a share of the partition's nodes, 0 to 1.
        max_time: Longest time limit of a job.
        jobs_per_user: How many a user may have at a time; more of them wait.
        reservations: Of which a job must name one.
        note: What else a person should know.
    """

    min_nodes: int | None = Field(default=None, ge=1)
    max_nodes: int | None = Field(default=None, ge=1)
    max_nodes_share: float | None = Field(default=None, gt=0, le=1)
    max_time: TimeLimit | None = None
    jobs_per_user: int | None = Field(default=None, ge=1)
    reservations: list[Line] = Field(default_factory=list)
    note: Line | None = None

    def max_nodes_of(self, partition: Partition | None) -> int | None:
        """Return the most nodes that a job may have there; None where that is not known."""
        nodes = partition.nodes if partition is not None else None
        limits = [self.max_nodes] if self.max_nodes is not None else []
        if self.max_nodes_share is not None and nodes is not None:
            # Whole nodes: 5 % of 573 are 28. A share such as 0.07 is no exact binary number.
            limits.append(max(1, math.floor(self.max_nodes_share * nodes + 1e-9)))
        return min(limits, default=None)
