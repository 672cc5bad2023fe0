"""Real Prometheus servers for the tests: of the versions at hand, fed by remote write."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from log_writer import varint

REPOSITORY = Path(__file__).parents[2]
PROGRAMS_3 = REPOSITORY / ".programs" / "prometheus-3" / "usr" / "bin"
STALE = 0x7FF0000000000002
DUMPED = re.compile(r"\{(?P<labels>.*)\} (?P<value>\S+) (?P<time>\d+)")
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')

Labels = frozenset[tuple[str, str]]
Samples = dict[Labels, dict[int, int]]
"""Bits of the value by milliseconds, by label set."""


def bits(value: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", value))[0]


@dataclass(frozen=True)
class Programs:
    """One version of Prometheus.

    Args:
        folder: Where prometheus and promtool are; None for those on PATH.
        major: Version.
    """

    folder: Path | None
    major: int

    def command(self, name: str) -> str:
        return name if self.folder is None else str(self.folder / name)


def programs(major: int) -> Programs:
    """Return one version, or skip and say what is missing."""
    if major == 3:
        if not (PROGRAMS_3 / "promtool").exists():
            pytest.skip("no Prometheus 3: tools/get-prometheus-3.sh .programs/prometheus-3")
        return Programs(PROGRAMS_3, 3)
    if not (shutil.which("prometheus") and shutil.which("promtool")):
        pytest.skip("prometheus and promtool are not on PATH")
    return Programs(None, 2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(
    version: Programs, data: Path, *options: str, config: Mapping | None = None
) -> Iterator[httpx.Client]:
    """Start a server on ``data`` that scrapes nothing; give a client of it."""
    data.mkdir(parents=True, exist_ok=True)
    file = data.with_name(f"{data.name}.yml")
    file.write_text(json.dumps(config or {"global": {}}))
    port = free_port()
    command = [
        version.command("prometheus"),
        f"--config.file={file}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        "--web.enable-remote-write-receiver",
        *options,
    ]
    log = data.with_name(f"{data.name}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http:
            deadline = time.monotonic() + 30
            while not ready(http):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield http
    finally:
        process.terminate()
        process.wait(30)


def ready(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def send(http: httpx.Client, samples: Mapping[Labels, Mapping[int, int]]) -> None:
    """Send samples by remote write, as one request: prometheus/prompb in protobuf and snappy."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(content)) + content

    body = b""
    for labels, points in samples.items():
        series = b"".join(
            field(1, field(1, name.encode()) + field(2, value.encode()))
            for name, value in sorted(labels)
        )
        for at, value in sorted(points.items()):
            series += field(2, b"\x09" + struct.pack("<Q", value) + b"\x10" + varint(at))
        body += field(1, series)
    # One literal with a length of four bytes is valid snappy.
    content = varint(len(body)) + b"\xfc" + struct.pack("<I", len(body) - 1) + body
    headers = {
        "Content-Encoding": "snappy",
        "Content-Type": "application/x-protobuf",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }
    answer = http.post("/api/v1/write", content=content, headers=headers)
    assert answer.status_code < 300, answer.text


def dumped(version: Programs, folder: Path, scratch: Path) -> dict[Labels, dict[int, float]]:
    """Return what promtool reads from a copy of a data folder: it writes beside what it reads."""
    scratch = Path(tempfile.mkdtemp(dir=scratch))
    copy = shutil.copytree(folder, scratch / folder.name)
    (copy / "wal").mkdir(exist_ok=True)
    command = [version.command("promtool"), "tsdb", "dump", str(copy)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(scratch)
    found: dict[Labels, dict[int, float]] = {}
    for line in text.splitlines():
        match = DUMPED.fullmatch(line)
        assert match, line
        labels = frozenset((k, json.loads(f'"{v}"')) for k, v in LABEL.findall(match["labels"]))
        found.setdefault(labels, {})[int(match["time"])] = float(match["value"])
    return found
