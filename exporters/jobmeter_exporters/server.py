"""The HTTP side: who may read, what is where, and how long a connection may live."""

from __future__ import annotations

import base64
import errno
import hmac
import http
import http.server
import ipaddress
import logging
import socket
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError, PortInUse
from jobmeter_exporters.exposition import encoder
from jobmeter_exporters.routes import Answer, BrokenBody, Routes
from jobmeter_exporters.run_info import RunInfo
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.spare_threads import SpareThreads
from jobmeter_exporters.watched import Watched

logger = logging.getLogger(__name__)

LONGEST_CONNECTION_S = 10.0
"""A connection older than this is cut: the scrape timeout of Prometheus is shorter."""

MOST_CONNECTIONS = 256
"""For one more than this the oldest idle one is cut, so that these cannot keep Prometheus out."""

MOST_SPARE_THREADS = 2
"""Kept for the next scrape: one each for Prometheus and for who fetches the edges of phases."""

CHECK_INTERVAL_S = 0.25
"""How often old connections are looked for, and how long a stop may wait to be noticed."""


def registries(
    settings: Settings, collectors: Mapping[str, Collector]
) -> dict[str, CollectorRegistry]:
    """Return what each path serves: everything, and each collector by itself.

    ``/metrics`` and the page of the first collector also have the ``process_`` families of this
    process, the cost of the monitoring.
    """
    everything = CollectorRegistry()
    everything.register(RunInfo(settings.run_id))
    ProcessCollector(registry=everything, proc=str(settings.proc))
    everything.register(Watched(collectors))
    by_path = {"/metrics": everything}
    for number, (name, collector) in enumerate(collectors.items()):
        alone = CollectorRegistry()
        alone.register(RunInfo(settings.run_id))
        if not number:
            ProcessCollector(registry=alone, proc=str(settings.proc))
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
    protocol_version = "HTTP/1.1"  # for bodies in chunks; a connection still has one answer
    server_version = "jobmeter"
    sys_version = ""

    def do_GET(self) -> None:
        with self.server.answering(self.connection):
            self._answer(with_body=True)

    def do_HEAD(self) -> None:
        with self.server.answering(self.connection):
            self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.answer(self.path.partition("?")[0], headers)
        with answer:
            # Before chunks, the end of a connection was the end of a body, broken or not.
            if answer.length is None and self.request_version < "HTTP/1.1":
                answer = Answer.text(505, "this page is sent in chunks; ask with HTTP/1.1")
            self._send(self._head(answer), answer if with_body else None)

    def _head(self, answer: Answer) -> bytes:
        self.close_connection = True
        length = (
            "Transfer-Encoding: chunked"
            if answer.length is None
            else f"Content-Length: {answer.length}"
        )
        lines = (
            f"{self.protocol_version} {answer.status} {http.HTTPStatus(answer.status).phrase}",
            f"Server: {self.server_version}",
            f"Date: {self.date_time_string()}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
            length,
            "Connection: close\r\n\r\n",
        )
        return "\r\n".join(lines).encode("latin-1")

    def _send(self, head: bytes, answer: Answer | None) -> None:
        """Send the head, with the first part of the body: the client wakes up once."""
        if answer is None:
            self.wfile.write(head)
            return
        try:
            for part in filter(None, answer.parts):  # an empty chunk would be the end
                self.wfile.write(head + (_chunk(part) if answer.length is None else part))
                head = b""
        except BrokenBody:
            self.wfile.write(head)
            return  # without the last chunk, or short of the length: the client sees it
        if head or answer.length is None:
            self.wfile.write(head + (_chunk(b"") if answer.length is None else b""))

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

    request_queue_size = MOST_CONNECTIONS

    def __init__(self, settings: Settings, collectors: Mapping[str, Collector]) -> None:
        self._gate = _gate(settings)
        self._registries = registries(settings, collectors)
        self._routes = [one for one in collectors.values() if isinstance(one, Routes)]
        self._connections: dict[socket.socket, float] = {}
        self._threads_of_answers = SpareThreads("answer", MOST_SPARE_THREADS)
        self._lock = threading.Lock()
        self._answering: set[socket.socket] = set()
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

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Return the answer to a GET of ``path``; the names of ``headers`` are in lower case."""
        if self._gate is not None and not self._gate.opens(headers.get("authorization")):
            challenge = {"WWW-Authenticate": 'Basic realm="jobmeter", charset="UTF-8"'}
            return Answer.text(401, "the user name and password of the run are needed", challenge)
        registry = self._registries.get(path)
        if registry is not None:
            encode, content_type = encoder(headers.get("accept", ""))
            return Answer.whole(200, encode(registry), content_type)
        if path == "/":
            return Answer.text(200, f"jobmeter exporters: {' '.join(self.paths())}")
        for routes in self._routes:
            answer = routes.answer(path, headers)
            if answer is not None:
                return answer
        return Answer.text(404, f"nothing here; there is {' '.join(self.paths())}")

    def paths(self) -> list[str]:
        """Return what can be asked for now."""
        offered = (path for routes in self._routes for path in routes.paths())
        return list(dict.fromkeys((*self._registries, *offered)))

    @contextmanager
    def answering(self, connection: socket.socket) -> Iterator[None]:
        """Note an answer in progress: nobody cuts it to make room, and the end waits for it."""
        with self._lock:
            self._answering.add(connection)
        try:
            yield
        finally:
            with self._idle:
                self._answering.discard(connection)
                self._idle.notify_all()

    def finish(self, timeout_s: float) -> bool:
        """Wait until no answer is in progress; return False when the time was not enough."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._answering, timeout_s)

    def verify_request(self, request: Request, client_address: object) -> bool:
        """Note when a connection came, and make room when they become too many.

        An idle one is cut for it, the oldest first. With all of them in an answer, the new one is
        refused: an answer that has begun is never cut short for another.
        """
        if isinstance(request, tuple):
            return False
        with self._lock:
            excess = len(self._connections) + 1 - MOST_CONNECTIONS
            idle = [one for one in self._connections if one not in self._answering]
            cut = idle[: max(excess, 0)]
            if len(cut) < excess:
                return False
            self._connections[request] = time.monotonic()
        _cut(cut)
        return True

    def process_request(self, request: Request, client_address: object) -> None:
        """Answer in a thread of its own, which may be one that has answered before."""
        self._threads_of_answers.run(lambda: self.process_request_thread(request, client_address))

    def server_close(self) -> None:
        """Stop to listen, and end the threads that wait for a connection."""
        super().server_close()
        self._threads_of_answers.close()

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


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


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
    try:
        # A new file of a name that nobody can foresee: the folder may be one that others write to.
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f"{path.name}.", delete=False
        ) as draft:
            draft.write(f"{port}\n")
        Path(draft.name).replace(path)
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
