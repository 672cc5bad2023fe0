"""What is counted of jobs and nodes, under labels that stay few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from jobmeter_exporters.families import Labels, Readings
from jobmeter_exporters.slurm_queue_state import Job, NodeGroup

OTHER = "other"
"""The label of all values beyond the first."""


class FirstSeen:
    """Keeps the number of values of a label small: the first ones stay, the rest are one.

    Args:
        most: How many stay.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value to use as a label."""
        if value not in self._kept and len(self._kept) < self._most:
            self._kept.add(value)
        return value if value in self._kept else OTHER


def bounds() -> Mapping[str, FirstSeen]:
    """Return what keeps the values of each label few."""
    return {
        "job state": FirstSeen(40),
        "node state": FirstSeen(40),
        "reason": FirstSeen(20),
        "partition": FirstSeen(100),
    }


def job_readings(
    jobs: Sequence[Job], uid: int, now_s: float, labels: Mapping[str, FirstSeen]
) -> Readings:
    """Return the families about jobs.

    Args:
        jobs: All of them.
        uid: Whose are own.
        now_s: Seconds since the epoch.
        labels: What bounds the values of each label.
    """
    own = [job for job in jobs if job.uid == uid]
    readings: Readings = {
        "queue_jobs": _by_state(jobs, labels["job state"]),
        "queue_own_jobs": _by_state(own, labels["job state"]),
        "queue_pending_jobs": _by_reason(jobs, labels["reason"]),
        "queue_own_pending_jobs": _by_reason(own, labels["reason"]),
    }
    waiting = [job.submit_s for job in own if job.state == "PENDING" and job.submit_s is not None]
    running = [job.start_s for job in own if job.state == "RUNNING" and job.start_s is not None]
    for name, times in (("pending", waiting), ("running", running)):
        if times:  # the controller's clock may be ahead of ours
            readings[f"queue_own_oldest_{name}_seconds"] = max(0.0, now_s - min(times))
    return readings


def _by_state(jobs: Iterable[Job], label: FirstSeen) -> dict[str, float]:
    counts = Counter({label("PENDING"): 0, label("RUNNING"): 0})
    for job in jobs:
        counts[label(job.state)] += job.tasks
    return dict(counts)


def _by_reason(jobs: Iterable[Job], label: FirstSeen) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for job in jobs:
        if job.state == "PENDING":
            counts[label(job.reason)] += job.tasks
    return dict(counts)


def node_readings(groups: Sequence[NodeGroup], labels: Mapping[str, FirstSeen]) -> Readings:
    """Return the families about nodes; one that is in several partitions is one node."""
    states: dict[str, set[str]] = {}
    nodes: dict[Labels, float] = {}
    cpus: dict[Labels, float] = {}
    for group in groups:
        states.setdefault(labels["node state"](group.state), set()).update(group.names)
        partition = labels["partition"](group.partition)
        for counts, use in ((nodes, group.nodes), (cpus, group.cpus)):
            for kind, number in use._asdict().items():
                counts[partition, kind] = counts.get((partition, kind), 0.0) + number
    return {
        "queue_nodes": {state: float(len(names)) for state, names in states.items()},
        "queue_partition_nodes": nodes,
        "queue_partition_cpus": cpus,
    }
