"""A Prometheus for a moment, to read blocks where pypdu cannot be had.

This module alone starts a process in the analysis. The server gets a folder of its own with
symbolic links to the files of the blocks: it may compact and delete there as it likes. It scrapes
nothing, listens on loopback, and asks for a random password, because others may work on this host.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import httpx

from jobmeter.errors import RecordingError

PROGRAM = "prometheus"
READY_S = 120.0
"""Opening many blocks takes a while."""
_STOP_S = 30.0
_ATTEMPTS = 3
_USER = "jobmeter"


def available() -> bool:
    """Whether the program is on PATH."""
    return shutil.which(PROGRAM) is not None


@contextmanager
def serving(blocks: Sequence[Path]) -> Iterator[str]:
    """Give the URL, with password, of a Prometheus that serves ``blocks``; stop it afterwards.

    Raises:
        RecordingError: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="jobmeter-prometheus-") as scratch:
        folder = Path(scratch)
        for block in blocks:
            _link(block, folder / "data" / block.name)
        password = secrets.token_urlsafe(32)
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        (folder / "web.yml").write_text(json.dumps({"basic_auth_users": {_USER: hashed}}))
        (folder / "prometheus.yml").write_text("global: {}\n")
        process, port = _started(folder, password)
        try:
            yield f"http://{_USER}:{password}@127.0.0.1:{port}"
        finally:
            _stop(process)


def _link(block: Path, target: Path) -> None:
    """Make a block whose files are links to those of another."""
    for path in block.rglob("*"):
        if path.is_file():
            link = target / path.relative_to(block)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


def _started(folder: Path, password: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start it; again when somebody took its port meanwhile."""
    for _ in range(_ATTEMPTS):
        port = _free_port()
        command = [
            PROGRAM,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--web.config.file={folder / 'web.yml'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            "--query.max-samples=100000000",
            "--log.level=error",
        ]
        with (folder / "log").open("wb") as log:
            try:
                process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603  # no shell
            except OSError as cause:
                raise RecordingError(f"{PROGRAM} cannot be started: {cause.strerror}") from cause
        try:
            if _ready(process, port, password):
                return process, port
        except BaseException:
            _stop(process)
            raise
        _stop(process)
    last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
    raise RecordingError(f"{PROGRAM} did not become ready to read the blocks: {' '.join(last)}")


def _ready(process: subprocess.Popen[bytes], port: int, password: str) -> bool:
    """Wait until it answers; False when it ended or takes too long."""
    deadline = time.monotonic() + READY_S
    with httpx.Client(auth=(_USER, password), timeout=5, trust_env=False) as http:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if http.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
