"""Three routes from a recording to its samples, each timed in a process of its own.

Every route returns what it saw, so that a route that reads less cannot pass for a fast one.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_server import running

from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import Window
from jobmeter_analysis.engine import analyze_attempt
from jobmeter_analysis.recording import Selector, Series
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

SAMPLES_PER_ANSWER = 250_000
"""About 6 MB of JSON; smaller and larger answers were not faster."""


@dataclass(frozen=True)
class Passed:
    """One passage of a route: seconds of it, what it saw, its largest memory.

    ``start_s``, of a server, is not part of ``seconds``; ``read_s``, of the reading, is.
    """

    seconds: float
    read_s: float
    samples: int
    total: float
    peak_bytes: int
    rows: int = 0
    start_s: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Series that one request asks for: a metric, on some nodes."""

    metric: str
    nodes: tuple[str, ...]


class _Timed:
    """A recording that notes what was asked and how long the answer took."""

    def __init__(self, folder: PrometheusFolder) -> None:
        self._folder = folder
        self.read_s = 0.0
        self.series: list[Series] = []
        self.selectors: tuple[Selector, ...] = ()
        self.span: Window | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        return self._folder.problems

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        self.selectors, self.span = tuple(selectors), span
        began = time.perf_counter()
        self.series = self._folder.select(selectors, span)
        self.read_s = time.perf_counter() - began
        return self.series


def alone(route: Callable[..., Passed], *arguments: object) -> Passed:
    """Call a route in a fresh process: no warm imports of another, a peak of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as one:
        return one.submit(route, *arguments).result()


def by_jobmeter(run: RunPaths, attempt: AttemptPaths) -> Passed:
    """From the folder of an attempt to the table of KPIs."""
    recording = _Timed(PrometheusFolder(attempt.tsdb))
    began = time.perf_counter()
    analysis = analyze_attempt(run, attempt, recording=recording)
    seconds = time.perf_counter() - began
    if analysis.manifest["state"] != "complete":
        raise RuntimeError(f"not a complete recording: {analysis.manifest['reasons'][:5]}")
    samples, total = _seen([one.values for one in recording.series])
    rows = len(analysis.table)
    return Passed(seconds, recording.read_s, samples, total, _peak_bytes(), rows)


@dataclass(frozen=True)
class Asked:
    """What the analysis asks a recording for, and requests that ask a server for the same."""

    selectors: tuple[Selector, ...]
    span: Window | None
    chunks: tuple[Chunk, ...]


def asked(run: RunPaths, attempt: AttemptPaths) -> Asked:
    """Return what the analysis of an attempt reads."""
    recording = _Timed(PrometheusFolder(attempt.tsdb))
    analyze_attempt(run, attempt, recording=recording)
    return Asked(recording.selectors, recording.span, tuple(_chunks(recording.series)))


def by_reading(tsdb: Path, wanted: Asked) -> Passed:
    """From the folder to arrays, as the analysis has them done."""
    recording = PrometheusFolder(tsdb)
    began = time.perf_counter()
    series = recording.select(wanted.selectors, wanted.span)
    seconds = time.perf_counter() - began
    samples, total = _seen([one.values for one in series])
    return Passed(seconds, seconds, samples, total, _peak_bytes())


def _chunks(series: Sequence[Series]) -> list[Chunk]:
    by_metric: dict[str, dict[str, int]] = {}
    for one in series:
        by_node = by_metric.setdefault(one.name, {})
        node = one.labels["node"]
        by_node[node] = by_node.get(node, 0) + one.values.size
    found = []
    for metric, by_node in by_metric.items():
        nodes: list[str] = []
        for node, samples in by_node.items():
            if nodes and sum(by_node[n] for n in nodes) + samples > SAMPLES_PER_ANSWER:
                found.append(Chunk(metric, tuple(nodes)))
                nodes = []
            nodes.append(node)
        found.append(Chunk(metric, tuple(nodes)))
    return found


def by_http(data: Path, wanted: Sequence[Chunk], begin_ms: int, end_ms: int) -> Passed:
    """From a server that is ready, as JSON, to arrays; nothing is computed from them."""
    reach = (end_ms - begin_ms) // 1000 + 1
    arrays = []
    starting = time.perf_counter()
    with running(data) as http:
        http.headers["Accept-Encoding"] = "identity"  # on loopback compression only costs
        began = time.perf_counter()
        start_s = began - starting
        for chunk in wanted:
            query = f'{chunk.metric}{{job="stack",node=~"{"|".join(chunk.nodes)}"}}[{reach}s]'
            form = {"query": query, "time": f"{end_ms / 1000:.3f}"}
            answer = http.post("/api/v1/query", data=form).raise_for_status()
            for series in json.loads(answer.content)["data"]["result"]:
                points = series["values"]
                times = np.array([at for at, _ in points])
                values = np.array([float(text) for _, text in points])
                arrays.append((times, values))
        seconds = time.perf_counter() - began
    samples, total = _seen([values for _, values in arrays])
    return Passed(seconds, seconds, samples, total, _peak_bytes(), start_s=start_s)


def by_dump(tsdb: Path, wanted: Sequence[Chunk]) -> Passed:
    """From a folder to lines of text that nobody parses."""
    names = "|".join(sorted({chunk.metric for chunk in wanted}))
    command = [
        "promtool",
        "tsdb",
        "dump",
        f'--match={{__name__=~"{names}",job="stack"}}',
        str(tsdb),
    ]
    began = time.perf_counter()
    lines = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as dump:
        assert dump.stdout is not None
        while piece := dump.stdout.read(1 << 20):
            lines += piece.count(b"\n")
    seconds = time.perf_counter() - began
    if dump.returncode:
        raise RuntimeError(f"promtool tsdb dump ended with {dump.returncode}")
    return Passed(seconds, seconds, lines, float("nan"), _peak_bytes())


def _seen(values: Sequence[np.ndarray]) -> tuple[int, float]:
    """Return how many samples, and a sum that does not depend on the order of the series."""
    return sum(one.size for one in values), float(np.sum(np.sort([one.sum() for one in values])))


def _peak_bytes() -> int:
    """Of this process alone; ru_maxrss would be that of the process that started it."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
