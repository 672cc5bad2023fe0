"""A recording like that of a long job on many nodes, with the stack's own series.

A short real run on this machine gives the expositions. Their series, repeated for every node and
given values that move, are sent to a real Prometheus, one request per target and interval, so that
its log has the shape that scrapes give it: the series of a target in one record. What it then holds
is kept twice, as the log (what a job of up to two or three hours leaves) and as blocks (what a
longer one leaves).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import numpy.typing as npt
from prometheus_server import running
from remote_write import Requests
from tables import progress

from jobmeter.manifest import read_manifest, write_manifest
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter_analysis.exposition import parse_exposition

INTERVAL_MS = 5000
BEGIN_MS = 1_700_006_400_000
"""A multiple of two hours, so that two hours are one block."""
PHASE = "main"
COUNTERS = ("_total", "_sum", "_count", "_bucket")
DROPPED = ("go_", "promhttp_", "net_conntrack_", "prometheus_")
"""What ``prometheus.yml`` drops; nearly all of what starts with these."""
PER_CPU = "node_cpu_seconds_total"
KEPT = ("prometheus_build_info",)
AUTOMATIC = {
    "up": 1.0,
    "scrape_duration_seconds": 0.004,
    "scrape_samples_scraped": 150.0,
    "scrape_samples_post_metric_relabeling": 150.0,
    "scrape_series_added": 0.0,
}

JOB = f"""
name: pattern
run: "sleep 1"
monitoring: {{interval: {INTERVAL_MS // 1000}s}}
"""


@dataclass(frozen=True)
class Synthetic:
    """One attempt, twice; ``log`` and ``blocks`` differ in the form of the recording alone."""

    log: AttemptPaths
    blocks: AttemptPaths
    run: RunPaths
    samples: int
    series: int
    nodes: int
    steps: int
    begin_ms: int
    end_ms: int


@dataclass(frozen=True)
class _Target:
    service: str
    node: str
    series: tuple[tuple[str, Mapping[str, str], float], ...]


def make(folder: Path, nodes: int, cpus: int, hours: float) -> Synthetic:
    """Make the attempt of a job of ``hours`` on ``nodes`` nodes with ``cpus`` each."""
    progress(f"recording: {nodes} nodes, {cpus} CPUs, {hours:g} h at {INTERVAL_MS // 1000} s")
    pattern = _pattern(folder / "pattern")
    targets = tuple(_targets(pattern, nodes, cpus))
    run_id = read_manifest(pattern.manifest).run_id
    of_targets = [
        [_stored(target, name, own, run_id) for name, own, _ in target.series] for target in targets
    ]
    labels = [one for of_target in of_targets for one in of_target]
    first = np.array([value for target in targets for _, _, value in target.series])
    steps = round(hours * 3_600_000 / INTERVAL_MS)
    values = Values([one["__name__"] for one in labels], first)
    run = RunPaths(folder / run_id)
    log, blocks = run.attempt("1"), run.attempt("2")
    _record(folder / "server", log, blocks, list(map(Requests, of_targets)), values, steps)
    end_ms = BEGIN_MS + (steps - 1) * INTERVAL_MS
    _describe(pattern, run, nodes)
    for attempt in (log, blocks):
        _mark(attempt, run_id, targets, values, steps)
    return Synthetic(
        log, blocks, run, len(labels) * steps, len(labels), nodes, steps, BEGIN_MS, end_ms
    )


def _pattern(folder: Path) -> RunPaths:
    """Run a real job of a second for its expositions."""
    folder.mkdir()
    (folder / "pattern.yaml").write_text(JOB)
    command = [sys.executable, "-m", "jobmeter", "run", "pattern.yaml", "--site", "local"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (run,) = (folder / "runs").iterdir()
    return RunPaths(run)


def _targets(pattern: RunPaths, nodes: int, cpus: int) -> Iterator[_Target]:
    edges = pattern.attempt("local").edge("run", "start")
    for number in range(nodes):
        for path in sorted(edges.glob("*.prom")):
            service = path.name.partition("@")[0]
            if service == "prometheus" and number:
                continue
            yield _Target(service, f"n{number + 1:03}", tuple(_series(path, cpus)))


def _series(path: Path, cpus: int) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Give the series of one target, its first CPU as often as a node has CPUs."""
    for one in parse_exposition(path.read_text()).samples:
        if one.name.startswith(DROPPED) and one.name not in KEPT:
            continue
        if one.name != PER_CPU:
            yield one.name, one.labels, one.value
        elif one.labels["cpu"] == "0":
            for cpu in range(cpus):
                yield one.name, {**one.labels, "cpu": str(cpu)}, one.value
    for name, value in AUTOMATIC.items():
        yield name, {}, value


def _stored(target: _Target, name: str, own: Mapping[str, str], run_id: str) -> dict[str, str]:
    """Return all labels that Prometheus would store."""
    attached = {
        "instance": f"{target.node}:9100",
        "job": "stack",
        "node": target.node,
        "run_id": run_id,
        "service": target.service,
    }
    renamed = {f"exported_{key}" if key in attached else key: text for key, text in own.items()}
    return {"__name__": name, **renamed, **attached}


class Values:
    """Values that move as real ones do: counters by a random step, the rest around a level.

    A third of the counters stand still and a third of the rest is constant, as on an idle disk.
    """

    def __init__(self, names: list[str], first: npt.NDArray[np.float64]) -> None:
        rng = np.random.default_rng(1)
        self._counters = np.array([name.endswith(COUNTERS) for name in names])
        fixed = np.array([name in AUTOMATIC or name.endswith("_info") for name in names])
        fixed |= np.array([name.startswith("process_start_time") for name in names])
        self._moving = (rng.random(len(names)) > 1 / 3) & ~fixed
        self._moving |= np.array([name.startswith("process_cpu_seconds") for name in names])
        self._speed = rng.uniform(0.001, 4.0, len(names))
        self._first = first
        born = np.array([name == "process_start_time_seconds" for name in names])
        self._first = np.where(born, BEGIN_MS / 1000 - 60, first)

    def at(self, step: int) -> npt.NDArray[np.float64]:
        """Return the value of every series at one step; the same for the same step."""
        rng = np.random.default_rng((2, step))
        grown = self._first + np.round(self._speed * (step + rng.random(len(self._first))), 2)
        noisy = self._first * rng.uniform(0.9, 1.0, len(self._first))
        return np.where(self._moving, np.where(self._counters, grown, noisy), self._first)


def _record(
    server: Path,
    log: AttemptPaths,
    blocks: AttemptPaths,
    requests: Sequence[Requests],
    values: Values,
    steps: int,
) -> None:
    """Send everything to a Prometheus and keep its log and a snapshot of it as blocks.

    A target is a request, which Prometheus logs as it logs a scrape: in one record.
    """
    for attempt in (log, blocks):
        attempt.attempt.mkdir(parents=True)
    with running(server, "--web.enable-remote-write-receiver", "--web.enable-admin-api") as http:
        # Hundreds of thousands of requests: httpx takes longer for one than the server.
        plain = HTTPConnection(http.base_url.host, http.base_url.port)
        for step in range(steps):
            at, now = BEGIN_MS + step * INTERVAL_MS, values.at(step)
            first = 0
            for one in requests:
                body = one.body(at, now[first : first + one.series])
                first += one.series
                plain.request("POST", "/api/v1/write", body, dict(one.headers))
                with plain.getresponse() as answer:
                    text = answer.read()
                if answer.status >= 300:
                    raise RuntimeError(f"remote write was refused: {text!r}")
        plain.close()
        snapshot = http.post("/api/v1/admin/tsdb/snapshot").raise_for_status().json()
    (server / "snapshots" / snapshot["data"]["name"]).rename(blocks.tsdb)
    (blocks.tsdb / "wal").mkdir()  # promtool wants one
    log.tsdb.mkdir()
    (server / "wal").rename(log.tsdb / "wal")


def _describe(pattern: RunPaths, run: RunPaths, nodes: int) -> None:
    planned = read_manifest(pattern.manifest)
    changed = {**vars(planned), "nodes": nodes, "phases": (PHASE,)}
    write_manifest(type(planned)(**changed), run.manifest)


def _mark(
    attempt: AttemptPaths, run_id: str, targets: tuple[_Target, ...], values: Values, steps: int
) -> None:
    """Write events and the edges of one phase that is nearly the whole job."""
    nodes = list(dict.fromkeys(target.node for target in targets))
    edges = {"start": 2, "end": steps - 3}
    marks = {side: BEGIN_MS + step * INTERVAL_MS + 1000 for side, step in edges.items()}
    job_start = {"run_id": run_id, "attempt": attempt.name, "job_id": "1", "restart": 0}
    events = [
        (BEGIN_MS, "job_start", {**job_start, "nodes": " ".join(nodes)}),
        (marks["start"], "phase_start", {"phase": PHASE}),
        (marks["end"], "phase_end", {"phase": PHASE, "exit_code": 0, "signal": None}),
        (BEGIN_MS + steps * INTERVAL_MS, "job_end", {"exit_code": 0}),
    ]
    lines = [{"t": at, "node": nodes[0], "event": name, **more} for at, name, more in events]
    attempt.events.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for side, step in edges.items():
        # Between the mark and the sample after the end, or before the start.
        early = -500 if side == "start" else 500
        _edge(attempt.edge(PHASE, side), targets, values.at(step), marks[side] + early)


def _edge(
    folder: Path, targets: tuple[_Target, ...], values: npt.NDArray[np.float64], at_ms: int
) -> None:
    folder.mkdir(parents=True)
    rest = iter(values.tolist())
    lines = []
    for target in targets:
        text = "".join(_line(name, own, next(rest)) for name, own, _ in target.series)
        file = f"{target.service}@{target.node}.prom"
        (folder / file).write_text(text)
        times = {"before_ms": at_ms - 5, "after_ms": at_ms}
        who = {"node": target.node, "service": target.service, "file": file}
        lines.append(json.dumps({**who, **times, "status": "ok"}))
    (folder / "fetches.jsonl").write_text("\n".join([*lines, ""]))


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f"{key}={json.dumps(text)}" for key, text in labels.items())
    return f"{name}{{{inside}}} {value!r}\n" if name not in AUTOMATIC else ""
