"""Expositions played to a real Prometheus, or written as blocks, so that the truth is known.

``Page`` is an exposition whose counters, gauges and histograms are moved by known amounts.
``replayed`` serves pages over HTTP to a Prometheus on PATH and gives its data folder;
``blocks_from`` writes blocks with promtool at given times, always the same.
"""

from __future__ import annotations

import copy
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attempts
import pytest

from jobmeter.window import Window
from jobmeter_analysis.exposition import TARGET_LABELS, parse_exposition

FIXTURES = Path(__file__).parents[1] / "fixtures" / "expositions"
Texts = Callable[[float], "str | None"] | Sequence["str | None"]
"""By seconds since the first answer, or one after the other (the last again and again).
``None`` is an answer of 503."""
STEP_MS = 5000
SampleKey = tuple[str, tuple[tuple[str, str], ...]]


@dataclass
class Page:
    """An exposition that can be changed; every change returns the page itself."""

    values: dict[SampleKey, float]
    types: dict[str, str]

    @classmethod
    def of(cls, text: str) -> Page:
        """Read an exposition."""
        known = parse_exposition(text if text.endswith("\n") else f"{text}\n")
        values = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in known.samples}
        return cls(values, dict(known.types))

    @classmethod
    def fixture(cls, name: str) -> Page:
        """Read one of ``tests/fixtures/expositions``."""
        return cls.of((FIXTURES / name).read_text())

    def copy(self) -> Page:
        """Return another page that says the same."""
        return copy.deepcopy(self)

    def family(self, sample: str) -> str:
        """Return the family of a sample: of ``x_bucket``, ``x_sum`` and ``x_count`` it is ``x``."""
        stems = [sample, *(sample.removesuffix(f"_{s}") for s in ("bucket", "sum", "count"))]
        return next((stem for stem in stems if stem in self.types), sample)

    def moves(self, sample: str) -> bool:
        """Whether it only grows: a part of a counter, histogram or summary."""
        kind = self.types.get(self.family(sample), "untyped")
        summed = kind == "summary" and sample.endswith(("_sum", "_count"))
        return kind in ("counter", "histogram") or summed

    def moved(self, share: float) -> Page:
        """Let every counter and histogram grow by a share of its value."""
        self.values = {
            key: value * (1 + share) if self.moves(key[0]) else value
            for key, value in self.values.items()
        }
        return self

    def keys(self, name: str, **labels: str) -> list[SampleKey]:
        """Return the samples called ``name`` that have these labels."""
        return [
            key for key in self.values if key[0] == name and labels.items() <= dict(key[1]).items()
        ]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples called ``name`` that have these labels."""
        found = self.keys(name, **labels)
        assert found, f"no sample {name} {labels}"
        return sum(self.values[key] for key in found)

    def add(self, name: str, amount: float, **labels: str) -> Page:
        """Add ``amount`` to each sample of these labels; one that is not there begins at zero."""
        for key in self.keys(name, **labels) or [(name, tuple(sorted(labels.items())))]:
            self.values[key] = self.values.get(key, 0.0) + amount
        return self

    def set(self, name: str, value: float, **labels: str) -> Page:
        """Set each sample of these labels."""
        for key in self.keys(name, **labels) or [(name, tuple(sorted(labels.items())))]:
            self.values[key] = value
        return self

    def drop(self, name: str, **labels: str) -> Page:
        """Leave samples out."""
        for key in self.keys(name, **labels):
            del self.values[key]
        return self

    def observe(
        self,
        name: str,
        observations: Sequence[float],
        edges: Sequence[str],
        sparse: bool = False,
        **labels: str,
    ) -> Page:
        """Add observations to a histogram with exactly these labels.

        Args:
            edges: Upper edges as they are spelled, without ``+Inf``.
            sparse: Whether buckets that got nothing yet are left out, as old Qdrants do; the
                edge below one that got something is kept.
        """
        plain = tuple(sorted(labels.items()))

        def key(edge: str) -> SampleKey:
            return f"{name}_bucket", tuple(sorted({**labels, "le": edge}.items()))

        every = [*edges, "+Inf"]
        counts, below = {}, 0.0
        for edge in every:
            below = self.values.get(key(edge), below)
            counts[edge] = below + sum(one <= float(edge) for one in observations)
        masses = [b - a for a, b in zip([0.0, *counts.values()], counts.values(), strict=False)]
        for at, edge in enumerate(every):
            following = masses[at + 1 : at + 2]
            if not sparse or edge == "+Inf" or masses[at] or (following and following[0]):
                self.values[key(edge)] = counts[edge]
        for part, amount in (("sum", sum(observations)), ("count", len(observations))):
            self.values[f"{name}_{part}", plain] = (
                self.values.get((f"{name}_{part}", plain), 0.0) + amount
            )
        self.types.setdefault(name, "histogram")
        return self

    def prefixed(self, prefix: str) -> Page:
        """Put ``prefix`` before every name."""
        values = {(prefix + name, labels): value for (name, labels), value in self.values.items()}
        return Page(values, {prefix + name: kind for name, kind in self.types.items()})

    @property
    def text(self) -> str:
        """The exposition, families in the order in which they came."""
        families: dict[str, list[str]] = {}
        for (name, labels), value in self.values.items():
            inside = ",".join(f'{key}="{_escaped(given)}"' for key, given in labels)
            line = f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}"
            families.setdefault(self.family(name), []).append(line)
        lines = []
        for family, of_family in families.items():
            if family in self.types:
                lines.append(f"# TYPE {family} {self.types[family]}")
            lines += of_family
        return "\n".join([*lines, ""])


def moved(text: str, share: float) -> str:
    """Return ``text`` with every counter and histogram grown by a share of its value."""
    return Page.of(text).moved(share).text


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@dataclass
class Served:
    """An endpoint on loopback, and what it answered.

    Args:
        texts: What it answers with.
        answers: Time in milliseconds and text of every answer.
    """

    texts: Texts
    address: str = ""
    answers: list[tuple[int, str | None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self) -> str | None:
        """Return the next text."""
        with self._lock:
            now = time.time()
            began = self.answers[0][0] / 1000 if self.answers else now
            if callable(self.texts):
                text = self.texts(now - began)
            else:
                text = self.texts[min(len(self.answers), len(self.texts) - 1)]
            self.answers.append((int(now * 1000), text))
            return text


@contextmanager
def served(texts: Texts) -> Iterator[Served]:
    """Serve ``texts`` at ``http://<address>/metrics``."""
    endpoint = Served(texts)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            text = endpoint.answer()
            body = (text or "").encode()
            self.send_response(503 if text is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Replay:
    """What a Prometheus recorded.

    Args:
        folder: Its data folder; it has ended.
        answers: By service, what was served: milliseconds and text.
    """

    folder: Path
    answers: Mapping[str, Sequence[tuple[int, str | None]]]

    def window(self, service: str, first: int, last: int) -> Window:
        """Return the time in which ``service`` moved from its answer ``first`` to ``last``."""
        times = [at for at, _ in self.answers[service]]
        return Window(_between(times, first), _between(times, last))


def _between(times: Sequence[int], index: int) -> int:
    """Return a moment after one answer and before the next."""
    return (times[index] + times[index + 1]) // 2


def replayed(
    targets: Mapping[str, Texts],
    folder: Path,
    scrapes: int = 8,
    interval_s: float = 0.2,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> Replay:
    """Let a Prometheus scrape ``targets`` until each was recorded ``scrapes`` times, and end it.

    Args:
        targets: Name of the job (our service) to its texts.
        folder: Where to put the data folder.
        scrapes: How many answers of each target are recorded for certain.
        interval_s: Between two scrapes.
        labels: By job, labels to attach; ``node`` is ``n1`` by default.
    """
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        endpoints = {name: stack.enter_context(served(texts)) for name, texts in targets.items()}
        config = folder / "prometheus.yml"
        config.write_text(json.dumps(_config(endpoints, interval_s, labels or {})))
        with (folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(_command(config, folder / "data"), stdout=log, stderr=log)
            try:
                _await(process, endpoints, scrapes, folder / "prometheus.log")
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
    answers = {name: tuple(endpoint.answers) for name, endpoint in endpoints.items()}
    return Replay(folder / "data", answers)


def _config(endpoints, interval_s, labels):
    """Return the configuration; JSON is YAML."""
    interval = f"{round(interval_s * 1000)}ms"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [
            {
                "job_name": name,
                "static_configs": [
                    {"targets": [one.address], "labels": {"node": "n1", **labels.get(name, {})}}
                ],
            }
            for name, one in endpoints.items()
        ],
    }


def _command(config, data):
    return [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--web.listen-address=127.0.0.1:0",
        "--log.level=warn",
    ]


def _await(process, endpoints, scrapes, log):
    """Wait for one more answer than is needed: a scrape begins when the one before is stored."""
    deadline = time.monotonic() + 60
    while any(len(one.answers) <= scrapes for one in endpoints.values()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"too few scrapes in a minute: {log.read_text()}"
        time.sleep(0.02)


def samples_from(texts: Sequence[tuple[int, str | None]], labels: Mapping[str, str]):
    """Return what Prometheus would store of ``texts``, for ``attempts.write_blocks``.

    Args:
        texts: Milliseconds and exposition; None where the target did not answer.
        labels: That Prometheus attaches, such as ``job``, ``instance``, ``node``.
    """
    found: dict[SampleKey, list[tuple[int, float]]] = {}

    def store(name, own, at, value):
        renamed = {f"exported_{k}" if k in TARGET_LABELS else k: v for k, v in own.items() if v}
        attached = {key: _escaped(given) for key, given in {**renamed, **labels}.items()}
        found.setdefault((name, tuple(sorted(attached.items()))), []).append((at, value))

    for at, text in texts:
        store("up", {}, at, 0.0 if text is None else 1.0)
        store("scrape_duration_seconds", {}, at, 0.004)
        for one in parse_exposition(text).samples if text is not None else ():
            store(one.name, one.labels, at, one.value)
    return found


def scraped(pages: Sequence[Page]) -> list[tuple[int, str]]:
    """Return pages as scraped every ``STEP_MS`` from ``T0`` on; before and after nothing moves."""
    every = [pages[0], *pages, pages[-1]]
    return [(attempts.T0 + (at - 1) * STEP_MS, page.text) for at, page in enumerate(every)]


def blocks_from(
    texts: Sequence[tuple[int, str | None]], folder: Path, labels: Mapping[str, str]
) -> Path:
    """Write blocks in which ``texts`` were scraped at these times, and return ``folder``."""
    attempts.write_blocks(samples_from(texts, labels), folder)
    return folder
