"""What a judge is given: the facts of one machine, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jobmeter.doctor.facts import Facts
from jobmeter.doctor.finding import Verdict, not_applicable, unknown
from jobmeter.site import SiteProfile

Place = Literal["login", "node", "both"]
"""``both``: one machine that submits and computes, as inside an allocation."""


@dataclass(frozen=True)
class Subject:
    """One machine to be judged.

    Args:
        facts: What the probe told of it.
        site: The profile of its site.
        place: What it is for.
        nodes: How many nodes a job shall have.
        gpus_per_node: How many GPUs were asked for on each.
        nodes_told: Whether compute nodes tell of themselves beside this machine.
    """

    facts: Facts
    site: SiteProfile
    place: Place = "both"
    nodes: int = 1
    gpus_per_node: int = 0
    nodes_told: bool = False

    @property
    def slurm(self) -> bool:
        """Whether jobs go through Slurm here."""
        return self.site.launcher == "slurm"

    def elsewhere(self, why: str) -> Verdict:
        """Return the verdict on a login machine that lacks what compute nodes must have."""
        if self.nodes_told:
            return not_applicable(f"{why}, which need not have it")
        return unknown(
            f"{why}, which need not have it", "ask a compute node: jobmeter doctor --on-compute"
        )

    @property
    def native(self) -> bool:
        """Whether the stack runs without containers."""
        return self.site.runtime.kind == "native"


Judge = Callable[[Subject], Verdict]
