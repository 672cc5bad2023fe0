"""Builds attempt folders whose truth is known."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobmeter.manifest import PlannedTarget, RunManifest, write_manifest
from jobmeter.paths import AttemptPaths, RunPaths

RUN_ID = "demo-20260102T030405-abcd"
T0 = 1_700_000_000_000
"""Milliseconds: a round moment to count from."""

STACK = (
    PlannedTarget("node", "every_node", "stack"),
    PlannedTarget("cgroup", "every_node", "stack"),
    PlannedTarget("prometheus", "first_node", "stack"),
)
TRAIN = PlannedTarget("train", "first_node", "payload")


def manifest(**changes) -> RunManifest:
    values = {
        "run_id": RUN_ID,
        "name": "demo",
        "site": "local",
        "created": "2026-01-02T03:04:05+00:00",
        "nodes": 1,
        "interval_s": 5.0,
        "checkpoint_interval_s": 15.0,
        "required": False,
        "phases": ("main",),
        "targets": (*STACK, TRAIN),
        "job_file_sha256": "0" * 64,
        "git_commit": "c" * 40,
        "jobmeter_version": "0.1.0",
    }
    return RunManifest(**{**values, **changes})


@dataclass
class AttemptBuilder:
    """Writes the files of one attempt; times are milliseconds after ``T0``."""

    root: Path
    plan: RunManifest = field(default_factory=manifest)
    name: str = "4242"
    nodes: tuple[str, ...] = ("n1",)
    lines: list[str] = field(default_factory=list)
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[int, float]]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        self.run = RunPaths(self.root / self.plan.run_id)
        self.attempt: AttemptPaths = self.run.attempt(self.name)
        self.attempt.attempt.mkdir(parents=True)
        write_manifest(self.plan, self.run.manifest)

    def event(self, at: int, name: str, node: str | None = None, **fields) -> None:
        line = {"t": T0 + at, "node": node or self.nodes[0], "event": name, **fields}
        self.lines.append(json.dumps(line))
        self.attempt.events.write_text("\n".join(self.lines) + "\n")

    def job_start(self, at: int = 0) -> None:
        self.event(
            at,
            "job_start",
            run_id=self.plan.run_id,
            attempt=self.name,
            job_id=self.name,
            nodes=" ".join(self.nodes),
            restart=0,
        )

    def phase(self, name: str, start: int, end: int | None, **end_fields) -> None:
        self.event(start, "phase_start", phase=name)
        if end is not None:
            fields = {"exit_code": 0, "signal": None, **end_fields}
            self.event(end, "phase_end", phase=name, **fields)

    def edge(
        self,
        phase: str,
        side: str,
        service: str,
        text: str,
        before: int,
        after: int,
        node: str | None = None,
        status: str = "ok",
    ) -> Path:
        node = node or self.nodes[0]
        folder = self.attempt.edge(phase, side)
        folder.mkdir(parents=True, exist_ok=True)
        file = f"{service}@{node}.prom"
        if status in ("ok", "left"):
            (folder / file).write_text(text)
        fetch = {
            "node": node,
            "service": service,
            "file": file,
            "before_ms": T0 + before,
            "after_ms": T0 + after,
            "status": status,
        }
        with (folder / "fetches.jsonl").open("a") as index:
            index.write(json.dumps(fetch) + "\n")
        return folder / file

    def record(
        self,
        service: str,
        metric: str,
        points: Sequence[tuple[int, float]],
        node: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Record samples of one series, with the labels that Prometheus would attach."""
        kind = (
            "payload"
            if service in {t.service for t in self.plan.targets if t.kind == "payload"}
            else "stack"
        )
        attached = {
            "node": node or self.nodes[0],
            "service": service,
            "run_id": self.plan.run_id,
            "job": kind,
            "instance": "127.0.0.1:9100",
        }
        key = (metric, tuple(sorted({**attached, **(labels or {})}.items())))
        self.samples.setdefault(key, []).extend((T0 + at, value) for at, value in points)

    def write_tsdb(self) -> None:
        write_blocks(self.samples, self.attempt.tsdb)


def write_blocks(samples, folder: Path) -> None:
    """Write blocks with promtool; times with milliseconds."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not on PATH")
    by_metric: dict[str, list[str]] = {}
    for (metric, labels), points in samples.items():
        inside = ",".join(f'{key}="{value}"' for key, value in labels)
        for at, value in sorted(points):
            line = f"{metric}{{{inside}}} {value!r} {at / 1000:.3f}"
            by_metric.setdefault(metric, []).append(line)
    lines = []
    for metric, of_metric in by_metric.items():
        lines += [f"# TYPE {metric} unknown", *of_metric]
    text = folder.with_suffix(".om")
    text.write_text("\n".join([*lines, "# EOF", ""]))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    text.unlink()


def run_info(run_id: str = RUN_ID) -> str:
    return f'# TYPE jobmeter_run_info gauge\njobmeter_run_info{{run_id="{run_id}"}} 1\n'


STEP_EDGES = (0.1, 0.25, 0.5, 1.0)


def training_text(samples: float, step_counts: Sequence[int], step_sum: float, loss: float) -> str:
    """Return an exposition of a training program; ``step_counts`` are cumulative."""
    edges = [*(str(edge) for edge in STEP_EDGES), "+Inf"]
    lines = ["# TYPE training_samples_total counter", f"training_samples_total {samples}"]
    lines += ["# TYPE training_step_duration_seconds histogram"]
    lines += [
        f'training_step_duration_seconds_bucket{{le="{edge}"}} {count}'
        for edge, count in zip(edges, step_counts, strict=True)
    ]
    lines += [f"training_step_duration_seconds_count {step_counts[-1]}"]
    lines += [f"training_step_duration_seconds_sum {step_sum}"]
    lines += ["# TYPE training_loss gauge", f"training_loss {loss}"]
    lines += ["# TYPE app_retries counter", 'app_retries{kind="a"} 3', 'app_retries{kind="b"} 4']
    return "\n".join(lines) + "\n"


def node_text(t: float, cpus: int = 2) -> str:
    """Return node_exporter's text at ``t`` seconds: half busy, 1000 bytes/s in, 10 GiB used."""
    lines = [run_info().strip(), "# TYPE node_cpu_seconds_total counter"]
    for cpu in range(cpus):
        lines.append(f'node_cpu_seconds_total{{cpu="{cpu}",mode="idle"}} {5000 + t / 2}')
        lines.append(f'node_cpu_seconds_total{{cpu="{cpu}",mode="user"}} {3000 + t / 2}')
    lines += [
        f'node_network_receive_bytes_total{{device="{d}"}} {7e9 + 1000 * t}' for d in ("ib0", "lo")
    ]
    lines += [f"node_memory_MemTotal_bytes {64 * 2**30}"]
    lines += [f"node_memory_MemAvailable_bytes {54 * 2**30}"]
    return "\n".join(lines) + "\n"


def cgroup_text(t: float) -> str:
    """Return our exporter's text at ``t`` seconds of the job: 1.5 cores, 0.1 of them monitoring."""
    return run_info() + "\n".join(
        [
            "# TYPE job_cpu_seconds_total counter",
            f"job_cpu_seconds_total {1.5 * t}",
            f"job_monitoring_cpu_seconds_total {0.1 * t}",
            "job_cpus 2",
            f"job_memory_used_bytes {2**30}",
            f"job_memory_peak_bytes {2**30 + 1000 * t}",
            "job_memory_oom_kills_total 0",
            f"process_cpu_seconds_total {0.01 * t}",
            f"process_resident_memory_bytes {40 * 2**20}",
            "",
        ]
    )


def trained(root: Path) -> AttemptBuilder:
    """Return a complete attempt: job from 0 to 80 s, phase ``main`` from 10 s to 70 s, two nodes.

    The payload counts 10 samples before the phase, 610 at its end. Its 100 steps of the phase
    take 20 s: 50 in (0.1, 0.25], 45 in (0.25, 0.5], 5 above 1 s.
    """
    plan = manifest(nodes=2, targets=(*STACK, TRAIN))
    builder = AttemptBuilder(root, plan, nodes=("n1", "n2"))
    builder.job_start(0)
    for node in builder.nodes:
        builder.event(500, "component_start", node, component="node_exporter", node_t=T0 + 510)
    builder.event(2000, "targets_up", up=5, expected=6, missing="train@n1")
    builder.phase("main", 10_000, 70_000)
    builder.event(75_000, "checkpoint", ms=20, copied_bytes=1000)
    builder.event(79_000, "recording_closed", ms=20, copied_bytes=500, clean=True)
    builder.event(80_000, "job_end", exit_code=0)
    builder.edge(
        "main", "start", "train", training_text(10, (0, 5, 5, 5, 5), 1.0, 9.0), 9_900, 9_910
    )
    builder.edge(
        "main",
        "end",
        "train",
        training_text(610, (0, 55, 100, 100, 105), 21.0, 0.5),
        70_010,
        70_020,
    )
    for node in builder.nodes:
        for side, before in (("start", 9_920), ("end", 70_030)):
            at = (before + 5) / 1000
            builder.edge("main", side, "node", node_text(at), before, before + 10, node)
            builder.edge("main", side, "cgroup", cgroup_text(at), before + 10, before + 20, node)
    for side, before in (("start", 9_950), ("end", 70_060)):
        text = f"process_cpu_seconds_total {before / 1e5}\nprocess_resident_memory_bytes 8e7\n"
        builder.edge("main", side, "prometheus", text, before, before + 10)
    _record_everything(builder)
    builder.write_tsdb()
    return builder


def _record_everything(builder: AttemptBuilder) -> None:
    """Record every text above every 5 s, as Prometheus would."""
    for at in range(3_000, 79_000, 5_000):
        t = at / 1000
        phase = min(max(t - 10, 0), 60) / 60
        _record_text(
            builder, "train", training_text(10 + 600 * phase, (0, 5, 5, 5, 5), 1.0, 1.0), at, "n1"
        )
        prometheus = f"process_cpu_seconds_total {t / 100}\nprocess_resident_memory_bytes 8e7\n"
        _record_text(builder, "prometheus", prometheus, at, "n1")
        for node in builder.nodes:
            _record_text(builder, "node", node_text(t), at, node)
            _record_text(builder, "cgroup", cgroup_text(t), at, node)


def _record_text(builder: AttemptBuilder, service: str, text: str, at: int, node: str) -> None:
    from jobmeter_analysis.exposition import parse_exposition

    for sample in parse_exposition(text).samples:
        labels = {f"exported_{k}" if k == "run_id" else k: v for k, v in sample.labels.items()}
        builder.record(service, sample.name, [(at, sample.value)], node, labels)
    builder.record(service, "up", [(at, 1.0)], node)
    builder.record(service, "scrape_duration_seconds", [(at, 0.004)], node)
