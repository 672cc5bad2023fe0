"""How long a job waits for its monitoring: before the payload, and after it."""

from __future__ import annotations

from dataclasses import dataclass

from installed_cluster import Run, User
from tables import progress, spread, table

JOB = """
name: short
resources: {nodes: 3, time: "00:05:00"}
monitoring: {interval: 5s, analysis: false}
run: "srun --ntasks=3 sleep 2"
"""


@dataclass(frozen=True)
class Waits:
    """Stretches of one job, in seconds; ``copy`` is part of ``close``."""

    exporters: float
    prometheus: float
    targets_up: float
    payload_started: float
    close: float
    copy: float
    job_end: float


def measure(user: User, jobs: int) -> str:
    """Run ``jobs`` short jobs one after the other."""
    waits = []
    for number in range(jobs):
        user.cluster.wait_idle()
        run = user.submit(f"short{number}.yaml", JOB)
        run.wait_for_event("job_end")
        run.wait_for_end()
        waits.append(_waits(run))
        progress(f"startup: job {number + 1} of {jobs}: {waits[-1]}")
    rows = [
        ("job start → last exporter answers", "exporters"),
        ("job start → Prometheus answers", "prometheus"),
        ("**job start → all 7 targets up**", "targets_up"),
        ("job start → payload starts", "payload_started"),
        ("**last end of a phase → recording safe**", "close"),
        ("… of which the copy", "copy"),
        ("last end of a phase → job script ends", "job_end"),
    ]
    return table(
        (f"{jobs} jobs, seconds", "min", "median", "max"),
        [(label, *spread([getattr(one, name) for one in waits])) for label, name in rows],
    )


def _waits(run: Run) -> Waits:
    """Read them from the events, all of which are stamped by the first node's clock."""
    (up,) = run.events("targets_up")
    if up["missing"]:
        raise RuntimeError(f"{run.folder.name}: {up['missing']} missing")
    start = run.events("job_start")[0]["t"]
    end = max(event["t"] for event in run.events("phase_end"))
    (closed,) = run.events("recording_closed")
    answers = run.events("component_start")
    exporters = [event["t"] for event in answers if event["component"] != "prometheus"]
    prometheus = [event["t"] for event in answers if event["component"] == "prometheus"]
    return Waits(
        exporters=(max(exporters) - start) / 1000,
        prometheus=(max(prometheus) - start) / 1000,
        targets_up=(up["t"] - start) / 1000,
        payload_started=(run.events("phase_start")[0]["t"] - start) / 1000,
        close=(closed["t"] - end) / 1000,
        copy=closed["ms"] / 1000,
        job_end=(run.events("job_end")[0]["t"] - end) / 1000,
    )
