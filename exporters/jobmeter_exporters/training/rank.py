"""Which of how many processes of a training this is."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI
    # srun. Not SLURM_NTASKS, which a batch script has too, though it is no task.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
"""Variables with rank and number of ranks, the most specific first."""


@dataclass(frozen=True)
class Rank:
    """The place of a process in its training.

    Args:
        number: From 0.
        world_size: How many there are, on all nodes together.
    """

    number: int = 0
    world_size: int = 1

    @property
    def alone(self) -> bool:
        """Whether it is the only one."""
        return self.world_size == 1


def current_rank() -> Rank:
    """Return what ``torch.distributed`` says where it is in use, else what the launcher said."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Rank(distributed.get_rank(), distributed.get_world_size())
    return rank_from(os.environ)


def rank_from(environment: Mapping[str, str]) -> Rank:
    """Return the rank that a launcher's variables give; alone without any.

    >>> rank_from({"RANK": "3", "WORLD_SIZE": "8"})
    Rank(number=3, world_size=8)
    """
    for rank, size in LAUNCHERS:
        number, world_size = environment.get(rank), environment.get(size)
        if number is None or world_size is None:
            continue
        if number.isdecimal() and world_size.isdecimal() and int(number) < int(world_size):
            return Rank(int(number), int(world_size))
        logger.warning(
            "%s=%r and %s=%r are no rank; give TrainingMonitor(rank=, world_size=)",
            *(rank, number, size, world_size),
        )
    return Rank()


def node_name() -> str:
    """Return the name of this node as Slurm knows it, else as the kernel does."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename
