"""Services that tell where they are in a folder: one small JSON file each, at any time."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Collection
from pathlib import Path

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.gateway_upstream import Upstream, upstream

LARGEST_FILE_BYTES = 65536
MOST_FILES = 256

Version = tuple[int, int, int]
"""Inode, size and time of the last change: what differs when a file was written again."""


class EndpointFolder:
    """Reads ``*.json`` of a folder, each file again only when it has changed.

    A file holds ``{"service": "vllm", "url": "http://127.0.0.1:8000/metrics"}``, and
    ``"bearer_file"`` where the service asks for a token; other keys are the business of others. The
    folder may come later, and files may come, change and go.

    Args:
        folder: Where they are.
        allowed_hosts: Those that may be asked beside this machine.
    """

    def __init__(self, folder: Path, allowed_hosts: Collection[str]) -> None:
        self._folder = folder
        self._allowed_hosts = allowed_hosts
        self._read: dict[str, tuple[Version, Upstream | ExporterError]] = {}
        self._lock = threading.Lock()

    def read(self) -> tuple[dict[str, Upstream], list[str]]:
        """Return the services by name, and one line for each file that is of no use.

        Of two files with one service the first by name counts.
        """
        with self._lock:
            problems = self._refresh()
            found: dict[str, Upstream] = {}
            for name, (_, outcome) in sorted(self._read.items()):
                if isinstance(outcome, ExporterError):
                    problems.append(f"{self._folder / name}: {outcome}")
                elif outcome.service in found:
                    problems.append(
                        f"{self._folder / name}: service {outcome.service!r} has a file already; "
                        "remove one of them"
                    )
                else:
                    found[outcome.service] = outcome
        return found, problems

    def _refresh(self) -> list[str]:
        """Bring what was read up to date; return what stands in the way."""
        try:
            versions = self._versions()
        except FileNotFoundError:
            versions = {}
        except OSError as cause:
            return [f"cannot read {self._folder}: {cause.strerror}; make it a folder of yours"]
        problems = []
        if len(versions) > MOST_FILES:
            problems.append(f"{self._folder} has over {MOST_FILES} files; the others are not read")
        wanted = sorted(versions)[:MOST_FILES]
        self._read = {
            name: self._read[name]
            if name in self._read and self._read[name][0] == versions[name]
            else (versions[name], self._outcome(self._folder / name))
            for name in wanted
        }
        return problems

    def _versions(self) -> dict[str, Version]:
        versions = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                # A name with a dot in front is how writers hide a file that is not finished.
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    try:
                        stat = entry.stat()
                    except FileNotFoundError:
                        continue  # gone since
                    versions[entry.name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return versions

    def _outcome(self, path: Path) -> Upstream | ExporterError:
        try:
            return parse_endpoint(_read_text(path), self._allowed_hosts)
        except OSError as cause:
            return ExporterError(f"cannot be read: {cause.strerror}")
        except ExporterError as problem:
            return problem


def parse_endpoint(text: str, allowed_hosts: Collection[str]) -> Upstream:
    """Return the service that the text of one file names.

    Raises:
        ExporterError: It is not as described.

    >>> parse_endpoint('{"service": "db", "url": "http://127.0.0.1:6333/metrics"}', ()).port
    6333
    """
    try:
        data = json.loads(text)
        service, url = data["service"], data["url"]
        bearer_file = data.get("bearer_file")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        service = url = bearer_file = None
    if not isinstance(service, str) or not isinstance(url, str):
        raise ExporterError('is not {"service": NAME, "url": "http://127.0.0.1:PORT/metrics"}')
    if not isinstance(bearer_file, str | None):
        raise ExporterError(f"bearer_file: {bearer_file!r} is not the path of a file; give one")
    bearer = None if bearer_file is None else _bearer(Path(bearer_file))
    return upstream(service, url, allowed_hosts, bearer)


def _bearer(path: Path) -> str:
    try:
        text = _read_text(path).strip()
    except OSError as cause:
        raise ExporterError(f"bearer_file {path} cannot be read: {cause.strerror}") from cause
    if not re.fullmatch(r"[!-~]+", text):
        raise ExporterError(f"bearer_file {path} does not hold one word; write the token into it")
    return text


def _read_text(path: Path) -> str:
    # Not to be held up by a pipe of that name.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise ExporterError(f"has over {LARGEST_FILE_BYTES} bytes; it should name one service")
    return content.decode(errors="replace")
