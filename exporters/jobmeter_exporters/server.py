"""The HTTP side: who may read, what is where, and how long a connection may live."""

from __future__ import annotations

import base64
import errno
import hmac
import http.server
import ipaddress
import logging
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError, PortInUse
from jobmeter_exporters.run_info import RunInfo
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import Watched

logger = logging.getLogger(__name__)

LONGEST_CONNECTION_S = 10.0
"""A connection older than this is cut: the scrape timeout of Prometheus is shorter."""

MOST_CONNECTIONS = 32
"""For one more than this the oldest is cut, so that idle ones cannot keep Prometheus out."""

CHECK_INTERVAL_S = 0.25
"""How often old connections are looked for, and how long a stop may wait to be noticed."""


def registries(
    settings: Settings, collectors: Mapping[str, Collector]
) -> dict[str, CollectorRegistry]:
    """Return what each path serves: everything, and each collector by itself.

    ``/metrics`` also has the ``process_`` families of this process, the cost of the monitoring.
    """
    everything = CollectorRegistry()
    everything.register(RunInfo(settings.run_id))
    ProcessCollector(registry=everything, proc=str(settings.proc))
    everything.register(Watched(collectors))
    by_path = {"/metrics": everything}
    for name, collector in collectors.items():
        alone = CollectorRegistry()
        alone.register(RunInfo(settings.run_id))
        alone.register(Watched({name: collector}))
        by_path[f"/metrics/{name}"] = alone
    return by_path


def read_password(path: Path) -> str:
    """Return the first line of ``path``.

    Raises:
        ExporterError: The file cannot be read, or the line is empty.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as cause:
        raise ExporterError(
            f"cannot read the password file {path}: {cause}; give a text file with the password"
        ) from cause
    password = text.partition("\n")[0].rstrip("\r")
    if not password:
        raise ExporterError(f"the password file {path} has an empty first line; write one into it")
    return password


class Gate:
    """HTTP basic auth (RFC 7617) for one user.

    Args:
        username: The name to ask for.
        password: The password to ask for.
    """

    def __init__(self, username: str, password: str) -> None:
        self._expected = f"{username}:{password}".encode()

    def opens(self, authorization: str | None) -> bool:
        """Return whether the value of the Authorization header is right, in constant time."""
        scheme, _, encoded = (authorization or "").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except ValueError:
            given = b""
        return hmac.compare_digest(given, self._expected) and scheme.lower() == "basic"


Request: TypeAlias = "socket.socket | tuple[bytes, socket.socket]"
"""As socketserver has it; here it is always the socket."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ExporterServer
    timeout = LONGEST_CONNECTION_S
    server_version = "jobmeter"
    sys_version = ""

    def do_GET(self) -> None:
        with self.server.answering():
            self._answer(with_body=True)

    def do_HEAD(self) -> None:
        with self.server.answering():
            self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        status, headers, body = self.server.answer(
            self.path.partition("?")[0],
            self.headers.get("Authorization"),
            self.headers.get("Accept", ""),
        )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - overridden
        """Log nothing: a line per scrape says nothing that the series do not."""


class ExporterServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Serves the registries by path; bound when built, one thread per connection.

    Args:
        settings: Where to listen, and who may read.
        collectors: By the name that becomes part of the path.

    Raises:
        PortInUse: Something else listens there.
        ExporterError: The address is no address of this machine, or anyone could read it.
    """

    daemon_threads = True  # a half-open connection must not hold up the end
    request_queue_size = 64

    def __init__(self, settings: Settings, collectors: Mapping[str, Collector]) -> None:
        self._gate = _gate(settings)
        self._registries = registries(settings, collectors)
        self._connections: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._answering = 0
        self._idle = threading.Condition(self._lock)
        self.address_family, address = _resolve(settings)
        try:
            super().__init__(address, _Handler)
        except OSError as cause:
            where = f"{settings.host or '*'}:{settings.port}"
            if cause.errno == errno.EADDRINUSE:
                raise PortInUse(f"{where} is in use; try another port") from cause
            raise ExporterError(
                f"cannot listen on {where}: {cause.strerror}; give an address of this machine"
            ) from cause

    @property
    def port(self) -> int:
        """The TCP port that was bound."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind, without HTTPServer's question to the name service about this host."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "jobmeter", self.port

    def answer(
        self, path: str, authorization: str | None, accept: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a GET of ``path``."""
        plain = {"Content-Type": "text/plain; charset=utf-8"}
        if self._gate is not None and not self._gate.opens(authorization):
            challenge = {"WWW-Authenticate": 'Basic realm="jobmeter", charset="UTF-8"'}
            return 401, plain | challenge, b"the user name and password of the run are needed\n"
        if path == "/":
            return 200, plain, f"jobmeter exporters: {' '.join(self._registries)}\n".encode()
        registry = self._registries.get(path)
        if registry is None:
            known = " ".join(self._registries)
            return 404, plain, f"nothing here; there is {known}\n".encode()
        encode, content_type = _encoder(accept)
        return 200, {"Content-Type": content_type}, encode(registry)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count an answer in progress, so that the end can wait for it."""
        with self._lock:
            self._answering += 1
        try:
            yield
        finally:
            with self._idle:
                self._answering -= 1
                self._idle.notify_all()

    def finish(self, timeout_s: float) -> bool:
        """Wait until no answer is in progress; return False when the time was not enough."""
        with self._idle:
            return self._idle.wait_for(lambda: self._answering == 0, timeout_s)

    def verify_request(self, request: Request, client_address: object) -> bool:
        """Note when a connection came, and cut the oldest when they become too many."""
        if isinstance(request, tuple):
            return False
        with self._lock:
            oldest = list(self._connections)[: len(self._connections) + 1 - MOST_CONNECTIONS]
            self._connections[request] = time.monotonic()
        _cut(oldest)
        return True

    def shutdown_request(self, request: Request) -> None:
        """Close the connection and forget it."""
        if isinstance(request, socket.socket):
            with self._lock:
                self._connections.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut the connections that are too old: a timeout per read would let a slow one live on."""
        oldest = time.monotonic() - LONGEST_CONNECTION_S
        with self._lock:
            old = [request for request, came in self._connections.items() if came < oldest]
        _cut(old)

    def handle_error(self, request: Request, client_address: object) -> None:
        """Log what went wrong in an answer; a client that went away is not worth a line."""
        if not isinstance(sys.exc_info()[1], OSError):
            logger.exception("an answer failed")


def _cut(connections: Iterable[socket.socket]) -> None:
    for connection in connections:
        # Its thread wakes up, finds the end of the request, and closes it. It may have done so.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def write_port_file(path: Path, port: int) -> None:
    """Replace ``path`` as a whole by the number and a newline: a reader never sees half of it.

    Raises:
        ExporterError: It cannot be written.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(f"{port}\n")
        draft.replace(path)
    except OSError as cause:
        raise ExporterError(
            f"cannot write the port file {path}: {cause.strerror}; name a file in a folder of yours"
        ) from cause


def _gate(settings: Settings) -> Gate | None:
    if settings.password_file is None:
        return None
    return Gate(settings.username, read_password(settings.password_file))


def _resolve(settings: Settings) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return family and address to bind; without a password only a loopback one."""
    if not settings.host:
        family, host = socket.AF_INET, "0.0.0.0"  # noqa: S104 - asked for, and guarded below
    else:
        try:
            family, _, _, _, where = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM
            )[0]
        except (OSError, UnicodeError) as cause:
            raise ExporterError(
                f"cannot resolve {settings.host!r}: {cause}; give an address such as 127.0.0.1"
            ) from cause
        host = str(where[0])
    if settings.password_file is None and not ipaddress.ip_address(host).is_loopback:
        raise ExporterError(
            f"{host} can be reached from other machines and no password was given; "
            "listen on 127.0.0.1 or give --password-file"
        )
    return family, (host, settings.port)


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no version
        return choose_encoder("")
