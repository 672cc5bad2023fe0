"""What the stack costs on each node, read from the kernel and not from the stack's own metrics."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from installed_cluster import Run, Table, User
from tables import progress, table

JOB = """
name: cost
resources: {{nodes: 3, time: "00:20:00"}}
monitoring: {{interval: {interval}s, analysis: false}}
run: "srun --ntasks=3 sleep {seconds}"
"""
SETTLE_S = 1.0
"""After ``phase_start``, so that the start edges are no part of what is measured."""
BRIDGE_S = 20.0
"""Until Prometheus has taken up its targets, recorder.sh fetches them (docs/design.md)."""
TARGETS = {True: (0.03, 200), False: (0.01, 80)}
"""Cores and MB at an interval of 5 s, on the first node and on the others."""

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20

STEP_OF_SLURM = "slurmstepd of the sidecar step"
COMPONENTS: Mapping[str, Callable[[str], object]] = {
    "node_exporter": re.compile(r"node.exporter .*--web\.config\.file").search,
    "exporters": re.compile(r"-m jobmeter_exporters ").search,
    "prometheus": re.compile(r"--storage\.tsdb\.path=").search,
    "srun of the sidecar step": re.compile(r"^srun .*/scripts/node\.sh").search,
    "node.sh": re.compile(r"^(\S*/)?bash \S*/runs/\S*/node\.sh").search,
    "recorder.sh": re.compile(r"^(\S*/)?bash \S*/runs/\S*/recorder\.sh").search,
    "job.sbatch": re.compile(r"/slurm_script$").search,
    STEP_OF_SLURM: re.compile(r"^slurmstepd: \[\d+\.0\]").search,
}
"""Component by command line. The sidecar step is the job's first, so its number is 0; the test
cluster has a node.sh of its own, which is not below runs/."""


@dataclass(frozen=True)
class Use:
    """Of the processes of one component: CPU with that of ended children, memory now."""

    cpu_s: float
    rss: int
    pss: int
    processes: int


@dataclass(frozen=True)
class Snapshot:
    """Every component of every node, and when."""

    at: float
    uses: Mapping[tuple[str, str], Use]


def measure(user: User, intervals: tuple[int, ...], seconds: int) -> str:
    """Run one job per interval and compare two snapshots taken while its payload sleeps."""
    return "\n".join(_one_job(user, interval, seconds) for interval in intervals)


def _one_job(user: User, interval: int, seconds: int) -> str:
    user.cluster.wait_idle()
    progress(f"monitoring cost: interval {interval} s, {seconds} s")
    run = user.submit(f"cost{interval}.yaml", JOB.format(interval=interval, seconds=seconds))
    run.wait_for_event("phase_start")
    began = time.monotonic()
    snapshots = []
    for moment in (SETTLE_S, BRIDGE_S, seconds - 2.0):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        snapshots.append(_snapshot(user))
    if run.events("phase_end"):
        raise RuntimeError("the payload ended before the last snapshot")
    run.wait_for_event("job_end")
    run.wait_for_end()
    if run.events("component_exit"):
        raise RuntimeError(f"a component was started again: {run.events('component_exit')}")
    return _as_table(user, run, interval, snapshots)


def _as_table(user: User, run: Run, interval: int, snapshots: list[Snapshot]) -> str:
    begin, steady, end = snapshots
    own = run.table()
    head = ("component", "cores", "cores, first 20 s left out", "RSS MB", "PSS MB", "processes")
    text = ""
    for node in user.cluster.nodes:
        first = node == user.cluster.nodes[0]
        rows: list[tuple[object, ...]] = []
        ours = [name for name in COMPONENTS if name != STEP_OF_SLURM]
        for name in (*ours, "", STEP_OF_SLURM):
            names = ours if name == "" else [name]
            uses = [end.uses[node, one] for one in names if (node, one) in end.uses]
            if uses:
                label = name or f"**sum of {node}**"
                rows.append((label, *_cells(node, names, begin, steady, end, uses)))
        cores, megabytes = TARGETS[first]
        if interval == 5:
            rows.append(("target", cores, cores, megabytes, "", ""))
        text += f"\nInterval {interval} s, {node}{' (first node)' if first else ''}, "
        text += f"{end.at - begin.at:.0f} s of payload:\n\n{table(head, rows)}"
    return text + f"\nThe same job in its own table:\n\n{_beside(user, own, begin, end)}"


def _cells(
    node: str, names: list[str], begin: Snapshot, steady: Snapshot, end: Snapshot, uses: list[Use]
) -> tuple[str, ...]:
    return (
        f"{_cores(node, names, begin, end):.4f}",
        f"{_cores(node, names, steady, end):.4f}",
        f"{sum(use.rss for use in uses) / MIB:.1f}",
        f"{sum(use.pss for use in uses) / MIB:.1f}",
        str(sum(use.processes for use in uses)),
    )


def _cores(node: str, names: list[str], since: Snapshot, until: Snapshot) -> float:
    spent = sum(
        until.uses[node, name].cpu_s - since.uses[node, name].cpu_s
        for name in names
        if (node, name) in until.uses
    )
    return spent / (until.at - since.at)


def _beside(user: User, own: Table, begin: Snapshot, end: Snapshot) -> str:
    """Compare what the kernel says with ``monitoring_*``, where jobmeter has a number."""
    services = {"node": "node_exporter", "cgroup": "exporters", "prometheus": "prometheus"}
    rows = []
    for node in user.cluster.nodes:
        for service, component in services.items():
            found = own.find("monitoring_cpu_cores_mean", phase="run", entity=f"{service}@{node}")
            memory = own.find(
                "monitoring_memory_bytes_max", phase="run", entity=f"{service}@{node}"
            )
            if found:
                rows.append(
                    (
                        f"{component}, {node}",
                        f"{_cores(node, [component], begin, end):.4f}",
                        f"{found[0]['value']:.4f} [{found[0]['low']:.4f}, {found[0]['high']:.4f}]",
                        f"{end.uses[node, component].rss / MIB:.1f}",
                        f"{memory[0]['value'] / MIB:.1f}",
                    )
                )
    head = ("", "cores, kernel", "`monitoring_cpu_cores_mean`", "RSS MB, kernel")
    return table((*head, "`monitoring_memory_bytes_max` MB"), rows)


def _snapshot(user: User) -> Snapshot:
    at = time.monotonic()
    uses: dict[tuple[str, str], list[Use]] = {}
    for node in user.cluster.nodes:
        for pid, command in user.cluster.pids(node).items():
            names = [name for name, matches in COMPONENTS.items() if matches(command)]
            if len(names) > 1:
                raise RuntimeError(f"{command!r} is more than one component: {names}")
            if names and (use := _use(pid)):
                uses.setdefault((node, names[0]), []).append(use)
    return Snapshot(at, {key: _sum(parts) for key, parts in uses.items()})


def _use(pid: int) -> Use | None:
    """Read one process; None when it has just ended, its time then being in its parent's."""
    folder = Path("/proc") / str(pid)
    try:
        # The name in parentheses may hold anything; fields from the state on (proc(5)).
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        rollup = (folder / "smaps_rollup").read_text()
    except OSError:
        return None
    ticks = sum(int(field) for field in fields[11:15])  # utime stime cutime cstime
    sizes = dict(re.findall(r"^(Rss|Pss):\s+(\d+) kB", rollup, re.MULTILINE))
    return Use(ticks / TICKS, int(sizes["Rss"]) * 1024, int(sizes["Pss"]) * 1024, 1)


def _sum(parts: list[Use]) -> Use:
    return Use(
        sum(part.cpu_s for part in parts),
        sum(part.rss for part in parts),
        sum(part.pss for part in parts),
        len(parts),
    )
