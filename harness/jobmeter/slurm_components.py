"""What Slurm says of the components of a heterogeneous job, put together.

Slurm accounts for each component as for a job of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from jobmeter.accounting import ComponentAccounting, JobAccounting

Number = TypeVar("Number", int, float)


def together(parts: Sequence[JobAccounting], expected: int) -> JobAccounting:
    """Return one answer on a job from those on its components.

    A sum of which a part was not told is not told either. The job has ended well when all of its
    components have.

    Args:
        parts: In their order, the one with the script first.
        expected: How many the job has; with fewer of them nothing is final.
    """
    first = parts[0]
    if len(parts) == 1:
        return first if expected <= 1 else replace(first, final=False)
    bad = [part for part in parts if part.state != "COMPLETED"]
    worst = first if first in bad or not bad else bad[0]
    kinds = dict.fromkeys(name for part in parts for name in part.alloc_tres)
    return replace(
        first,
        state=worst.state,
        reason=worst.reason,
        final=len(parts) >= expected and all(part.final for part in parts),
        derived_exit_code=_largest(part.derived_exit_code for part in parts),
        nodes=_sum(part.nodes for part in parts),
        node_list=_names(part.node_list for part in parts),
        failed_node=_names(part.failed_node for part in parts),
        cpus=_sum(part.cpus for part in parts),
        alloc_tres={kind: sum(part.alloc_tres.get(kind, 0) for part in parts) for kind in kinds},
        partition=_names(part.partition for part in parts),
        qos=_names(part.qos for part in parts),
        account=_names(part.account for part in parts),
        user_cpu_s=_sum(part.user_cpu_s for part in parts),
        system_cpu_s=_sum(part.system_cpu_s for part in parts),
        total_cpu_s=_sum(part.total_cpu_s for part in parts),
        max_rss_bytes=_largest(part.max_rss_bytes for part in parts),
        consumed_energy_joules=_sum(part.consumed_energy_joules for part in parts),
        steps=(
            *first.steps,
            *(
                replace(step, name=f"+{number}.{step.name}")
                for number, part in enumerate(parts)
                for step in part.steps
                if number
            ),
        ),
        components=tuple(_component(number, part) for number, part in enumerate(parts)),
    )


def _component(number: int, part: JobAccounting) -> ComponentAccounting:
    return ComponentAccounting(
        job_id=f"{part.job_id.partition('+')[0]}+{number}",
        state=part.state,
        partition=part.partition,
        nodes=part.nodes,
        node_list=part.node_list,
        cpus=part.cpus,
        total_cpu_s=part.total_cpu_s,
        max_rss_bytes=part.max_rss_bytes,
    )


def _sum(values: Iterable[Number | None]) -> Number | None:
    told = list(values)
    known = [value for value in told if value is not None]
    return sum(known) if len(known) == len(told) else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _names(values: Iterable[str | None]) -> str | None:
    return ",".join(dict.fromkeys(value for value in values if value)) or None
