"""Where the numbers of a rank can be read: while it runs a port, afterwards a file."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.server import (
    CHECK_INTERVAL_S,
    ExporterServer,
    registries,
)
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.training.rank import Rank, node_name

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Of the files in ``JOBMETER_ENDPOINTS_DIR``."""

WORD = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Place:
    """Where a rank is read, decided from the arguments and the environment of the job.

    Args:
        service: Name of the target, unique on its node.
        node: Name of the node.
        settings: What the server is built from.
        final: File for the last exposition; None writes none.
        announcement: File that tells where the endpoint is; None where the job file says it.
        rank: Whose it is.
    """

    service: str
    node: str
    settings: Settings
    final: Path | None
    announcement: Path | None
    rank: Rank


def place(
    service: str | None, port: int | None, rank: Rank, environment: Mapping[str, str]
) -> Place:
    """Return where a rank is read.

    A port that is given is one that the job file names under ``metrics:``. Those are asked without
    a password and on loopback, and are not announced: they would be recorded twice.

    Raises:
        ExporterError: The name of the service can be no part of a file name.
    """
    name = service or ("training" if rank.alone else f"training-rank{rank.number}")
    if not WORD.fullmatch(name):
        raise ExporterError(f"service {name!r} is no name; use letters, digits, '-', '_' and '.'")
    node = re.sub(r"[^A-Za-z0-9_.-]", "-", node_name())
    declared = bool(port)
    password, endpoints, final = (
        Path(environment[f"JOBMETER_{name}"]) if environment.get(f"JOBMETER_{name}") else None
        for name in ("PASSWORD_FILE", "ENDPOINTS_DIR", "FINAL_METRICS")
    )
    settings = Settings(
        run_id=environment.get("JOBMETER_RUN_ID", ""),
        host="127.0.0.1" if declared else environment.get("JOBMETER_LISTEN_HOST", "127.0.0.1"),
        port=port or 0,
        password_file=None if declared else password,
    )
    # The job looks for a target that its file names on the first node, whatever this one is.
    last = f"{name}.prom" if declared else f"{name}@{node}.prom"
    return Place(
        name,
        node,
        settings,
        final=final / last if final else None,
        announcement=endpoints / f"{name}@{node}.json" if endpoints and not declared else None,
        rank=rank,
    )


class Endpoint:
    """Serves a collector, tells where, and leaves its last exposition behind.

    What does not work is logged once and left out: a training does not end for its metrics.

    Args:
        where: What to listen on and what to write.
        collector: What to read.
    """

    def __init__(self, where: Place, collector: Collector) -> None:
        self.where = where
        self._collectors = {"training": collector}
        self._complained: set[str] = set()
        self._announced = ""
        self._server = self._serve()
        if self._server is not None:
            self._announce(self._server.port)

    @property
    def port(self) -> int | None:
        """The TCP port, None when it does not listen."""
        return None if self._server is None else self._server.port

    def flush(self) -> None:
        """Write the exposition as it is now into its file, as a whole."""
        if self.where.final is None:
            return
        registry = registries(self.where.settings, self._collectors)["/metrics"]
        self._replace(self.where.final, generate_latest(registry).decode())

    def close(self) -> None:
        """Stop listening."""
        self.withdraw()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def withdraw(self) -> None:
        """Take the announcement back, unless a process that took our place has written its own."""
        path = self.where.announcement
        if path is not None:
            with suppress(OSError):
                if path.read_text() == self._announced:
                    path.unlink()

    def forget(self) -> None:
        """Let go of the parent's socket, in a child: the port is not its own."""
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()

    def _serve(self) -> ExporterServer | None:
        try:
            server = ExporterServer(self.where.settings, self._collectors)
        except ExporterError as problem:
            logger.warning("the metrics of the training cannot be read while it runs: %s", problem)
            return None
        threading.Thread(
            target=server.serve_forever,
            args=(CHECK_INTERVAL_S,),
            name="training-metrics",
            daemon=True,
        ).start()
        logger.info("metrics of the training on port %d", server.port)
        return server

    def _announce(self, port: int) -> None:
        if self.where.announcement is None:
            return
        host = self.where.settings.host
        said = json.dumps(
            {
                "schema": SCHEMA,
                "service": self.where.service,
                "node": self.where.node,
                "host": self.where.node if host in ("", "0.0.0.0", "::") else host,  # noqa: S104
                "port": port,
                "path": "/metrics",
                "auth": "none" if self.where.settings.password_file is None else "basic",
                "run_id": self.where.settings.run_id,
                "rank": self.where.rank.number,
                "world_size": self.where.rank.world_size,
                "pid": os.getpid(),
            }
        )
        self._announced = f"{said}\n"
        self._replace(self.where.announcement, self._announced)

    def _replace(self, path: Path, text: str) -> None:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text)
            draft.replace(path)
        except OSError as problem:
            if path.name not in self._complained:
                self._complained.add(path.name)
                logger.warning(
                    "cannot write %s: %s; its folder has to be there and yours",
                    *(path, problem.strerror),
                )
