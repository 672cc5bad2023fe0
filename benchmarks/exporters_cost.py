"""What each of our exporters costs by itself, beside node_exporter in the same run."""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from exporter_subjects import Subject, subjects
from tables import progress, table

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20
INTERVAL_S = 5
WARM_UP = 20
ROUND_S = 0.15
"""From one scrape of an exporter to its next: some sources give nothing new within 0.1 s."""
DEADLINE_S = 30.0
LARGEST_RSS_MB = 40


HEADERS = (
    "Host: 127.0.0.1\r\nConnection: close\r\nAccept: application/openmetrics-text;version=1.0.0,"
    "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n"
)
"""As Prometheus 2.42 asks, but for compression, which our exporters do not have."""


class _Received:
    """An answer that has come, for the parser of http.client, which wants a socket."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._text)


@dataclass(frozen=True)
class Use:
    """CPU of a process with its ended children, in seconds, and its memory in bytes."""

    cpu_s: float
    rss: int
    anonymous: int


@dataclass
class Running:
    """An exporter that runs, and what was measured of it."""

    subject: Subject
    process: subprocess.Popen[bytes]
    port: int
    wall_s: list[float] = field(default_factory=list)
    collector_s: list[float] = field(default_factory=list)
    scraping_cpu_s: float = 0.0
    idle_cores: float = 0.0
    samples: int = 0
    missing: list[str] = field(default_factory=list)

    def scrape(self) -> None:
        """Fetch once and note how long it took, as the client and the exporter see it."""
        self.subject.before_scrape()
        request = f"GET {self.subject.path} HTTP/1.1\r\n{HEADERS}\r\n".encode()
        # Not http.client: it would add half a millisecond of its own.
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as connection:
            connection.sendall(request)
            parts = list(iter(lambda: connection.recv(65536), b""))
        self.wall_s.append(time.perf_counter() - began)
        answer = http.client.HTTPResponse(_Received(b"".join(parts)))  # type: ignore[arg-type]
        answer.begin()
        text = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{self.subject.label}: {answer.status} {text[:200]}")
        took = re.search(r"^jobmeter_collector_duration_seconds\{.*\} (\S+)$", text, re.MULTILINE)
        if took:
            self.collector_s.append(float(took[1]))
        self.samples = sum(1 for line in text.splitlines() if line and line[0] != "#")
        self.missing = [name for name in self.subject.must_have if f"\n{name}" not in f"\n{text}"]

    def warm_up(self) -> None:
        """Scrape until everything is there, and some more."""
        deadline = time.monotonic() + DEADLINE_S
        self.scrape()
        while self.missing:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.subject.label} does not say {self.missing}")
            time.sleep(0.2)
            self.scrape()
        for _ in range(WARM_UP):
            self.scrape()
        self.wall_s.clear()
        self.collector_s.clear()

    def use(self) -> Use:
        """Read the process from outside."""
        folder = Path("/proc") / str(self.process.pid)
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        sizes = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB", _status(folder), re.MULTILINE))
        cpu_s = sum(int(ticks) for ticks in fields[11:15]) / TICKS
        return Use(cpu_s, int(sizes["VmRSS"]) * 1024, int(sizes["RssAnon"]) * 1024)


def measure(scrapes: int, idle_s: int) -> str:
    """Run all exporters at once, let them idle, then scrape them in turns."""
    with ExitStack() as stack:
        chosen, absent = stack.enter_context(subjects())
        running = [stack.enter_context(_running(subject)) for subject in chosen]
        for one in running:
            progress(f"exporters: {one.subject.label}")
            one.warm_up()
        progress(f"exporters: idle for {idle_s} s")
        _idle(running, idle_s)
        progress(f"exporters: {scrapes} scrapes of each, in turns")
        _scrape_in_turns(running, scrapes)
        for one in running:
            if one.missing:
                raise RuntimeError(f"{one.subject.label} does not say {one.missing} any more")
        return _as_table(running, absent)


def _idle(running: list[Running], idle_s: int) -> None:
    before = [one.use().cpu_s for one in running]
    began = time.monotonic()
    time.sleep(idle_s)
    elapsed = time.monotonic() - began
    for one, cpu_s in zip(running, before, strict=True):
        one.idle_cores = (one.use().cpu_s - cpu_s) / elapsed


def _scrape_in_turns(running: list[Running], scrapes: int) -> None:
    before = [one.use().cpu_s for one in running]
    began = time.monotonic()
    for number in range(scrapes):
        time.sleep(max(0.0, began + number * ROUND_S - time.monotonic()))
        for one in running:
            one.scrape()
    elapsed = time.monotonic() - began
    for one, cpu_s in zip(running, before, strict=True):
        one.scraping_cpu_s = one.use().cpu_s - cpu_s - one.idle_cores * elapsed


@contextmanager
def _running(subject: Subject) -> Iterator[Running]:
    with subprocess.Popen(
        subject.command,
        env={**os.environ, **subject.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield Running(subject, process, _port(subject, process))
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)


def _port(subject: Subject, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        port = subject.port()
        if port is not None:
            return port
        time.sleep(0.02)
    process.kill()
    _, said = process.communicate()
    raise RuntimeError(f"{subject.label} does not answer: {said.decode()[-500:]}")


def _status(folder: Path) -> str:
    return (folder / "status").read_text()


def _as_table(running: list[Running], absent: Mapping[str, str]) -> str:
    rows: list[tuple[object, ...]] = []
    for one in running:
        use = one.use()
        cpu_s = one.scraping_cpu_s / len(one.wall_s)
        per_hour = cpu_s * 3600 / INTERVAL_S + one.idle_cores * 3600
        rows.append(
            (
                one.subject.label,
                f"{one.samples}",
                f"{min(one.collector_s) * 1e3:.2f}" if one.collector_s else "",
                _milliseconds(one.collector_s),
                f"{min(one.wall_s) * 1e3:.2f}",
                _milliseconds(one.wall_s),
                f"{sorted(one.wall_s)[int(len(one.wall_s) * 0.95)] * 1e3:.2f}",
                f"{cpu_s * 1e3:.2f}",
                f"{one.idle_cores * 3600:.1f}",
                f"{per_hour:.1f}",
                f"{use.rss / MIB:.1f}",
                f"{use.anonymous / MIB:.1f}",
                "" if one.subject.target_ms is None else f"{one.subject.target_ms:g}",
            )
        )
    head = (
        f"{len(running[0].wall_s)} scrapes of each",
        "samples",
        "collector ms, least",
        "collector ms",
        "wall ms, least",
        "wall ms",
        "wall ms, 95 %",
        "CPU ms",
        "idle CPU s/h",
        f"CPU s/h at {INTERVAL_S} s",
        "RSS MB",
        "of it anonymous",
        "target ms",
    )
    text = table(head, rows)
    return text + "".join(f"\nNot measured: {name}, {why}.\n" for name, why in absent.items())


def _milliseconds(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.2f}" if values else ""
