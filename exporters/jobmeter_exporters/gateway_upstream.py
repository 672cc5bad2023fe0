"""One service behind the gateway: where it is, and how its exposition is fetched."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jobmeter_exporters.errors import ExporterError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PART_BYTES = 65536
"""How much of a body is in memory at a time."""

EXPOSITION_TYPES = ("text/plain", "application/openmetrics-text", "application/vnd.google.protobuf")
PASSED_ON = ("accept", "accept-encoding")
_SERVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class Unavailable(Exception):  # noqa: N818 - reads as what happened
    """The service gave no exposition.

    Args:
        reason: One word, as in the label ``reason``.
        message: What happened, then what to try.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Upstream:
    """A service and the address of its ``/metrics``.

    Args:
        service: Its name, the last part of the gateway's path.
        host: Name or address, an IPv6 one without brackets.
        port: TCP port.
        target: Path and query, as in the request line.
        anywhere: Whether it may be on another machine than this one.
        bearer: What it asks for before it tells anything; None when it asks for nothing.
    """

    service: str
    host: str
    port: int
    target: str
    anywhere: bool = False
    bearer: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The address, without the query: that may hold a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.target.partition('?')[0]}"


def upstream(
    service: str, url: str, allowed_hosts: Collection[str] = (), bearer: str | None = None
) -> Upstream:
    """Return the service called ``service`` at ``url``, which may ask for a bearer's token.

    Raises:
        ExporterError: No such name or URL, or a host that may not be asked.

    >>> upstream("vllm", "http://[::1]:8000/metrics").url
    'http://[::1]:8000/metrics'
    """
    if not _SERVICE.fullmatch(service):
        raise ExporterError(
            f"{service!r} is no name for a service; give letters, digits, '_', '-' and '.'"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", 80 if parts.port is None else parts.port
    except ValueError as cause:
        raise ExporterError(f"{service}: {url!r} is no URL: {cause}") from cause
    if parts.scheme != "http" or not host or parts.username is not None:
        raise ExporterError(
            f"{service}: {url!r} cannot be asked; give http://HOST:PORT/PATH, without a password "
            "(on loopback, https protects nothing)"
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not re.fullmatch(r"[!-~]+", target):
        raise ExporterError(f"{service}: {url!r} has odd characters; write them as %XX")
    allowed = host in allowed_hosts
    if not (allowed or host == "localhost" or _is_loopback(host)):
        raise ExporterError(
            f"{service}: {host} is not on this machine; bind the service to 127.0.0.1, "
            f"or give --gateway-allow-host {host}"
        )
    return Upstream(service, host, port, target, allowed, bearer)


class Exposition:
    """An answer of a service, whose head and first part are here and whose rest is on its way.

    Args:
        source: Which service.
        headers: Of the request to us; those in ``PASSED_ON`` are passed on.
        timeout_s: For all of it, from the connection to the last byte.

    Raises:
        Unavailable: There is no exposition.
    """

    def __init__(self, source: Upstream, headers: Mapping[str, str], timeout_s: float) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._connection = http.client.HTTPConnection(source.host, source.port)
        try:
            self._response = self._ask(headers, time.monotonic() + timeout_s)
            self._check_head()
            self._first = self._read()
        except BaseException:
            self.close()
            raise

    @property
    def length(self) -> int | None:
        """Bytes in the body; None when only its end will tell."""
        return self._length

    @property
    def headers(self) -> dict[str, str]:
        """What of the answer's head is about the body."""
        names = ("Content-Type", "Content-Encoding")
        given = {name: self._response.headers.get(name) for name in names}
        return {name: " ".join(value.split()) for name, value in given.items() if value}

    def parts(self) -> Iterator[bytes]:
        """Yield the body.

        Raises:
            Unavailable: It broke off.
        """
        part, seen, last = self._first, 0, b""
        while part:
            seen, last = seen + len(part), part
            yield part
            part = self._read()
        if self._length is not None and seen < self._length:
            raise self._unavailable("broken_off", f"its answer broke off after {seen} bytes")
        if self._is_cut(last):
            raise self._unavailable("broken_off", "its answer ends in the middle of a line")

    def close(self) -> None:
        """Close the connection to the service."""
        self._connection.close()

    def _ask(self, headers: Mapping[str, str], deadline_s: float) -> http.client.HTTPResponse:
        try:
            self._connection.sock = self._connect(deadline_s)
            self._connection.putrequest("GET", self._source.target, skip_accept_encoding=True)
            asked = {"accept-encoding": "identity"} | {
                name: " ".join(headers[name].split()) for name in PASSED_ON if name in headers
            }
            if self._source.bearer is not None:
                asked["authorization"] = f"Bearer {self._source.bearer}"
            for name, value in asked.items():
                self._connection.putheader(name, value)
            self._connection.putheader("Connection", "close")
            self._connection.endheaders()
        except (OSError, UnicodeError) as cause:
            raise self._failed(cause, "unreachable", "cannot be reached") from cause
        try:
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as cause:
            raise self._failed(cause, "bad_answer", "does not answer in HTTP") from cause

    def _connect(self, deadline_s: float) -> socket.socket:
        where = (self._source.host, self._source.port)
        plain = socket.create_connection(where, timeout=self._timeout_s)
        timed = _TimedSocket(plain, deadline_s)
        # "localhost" is what the name service says it is.
        if not self._source.anywhere and not _is_loopback(timed.getpeername()[0]):
            timed.close()
            raise OSError(f"{self._source.host} is not this machine")
        return timed

    def _check_head(self) -> None:
        response = self._response
        self._length = None if response.chunked else response.length
        if response.status != http.HTTPStatus.OK:
            raise self._unavailable(
                "bad_status", f"it answers {response.status} {response.reason}"[:200]
            )
        kind = response.headers.get_content_type() if "Content-Type" in response.headers else None
        if kind is not None and kind not in EXPOSITION_TYPES:
            raise self._unavailable("bad_answer", f"it answers {kind}, which is no exposition")

    def _read(self) -> bytes:
        try:
            return self._response.read(PART_BYTES)
        except (OSError, http.client.HTTPException) as cause:
            raise self._failed(cause, "broken_off", "its answer broke off") from cause

    def _is_cut(self, last: bytes) -> bool:
        """Whether a body whose only end is that of the connection misses its last newline."""
        text = "Content-Encoding" not in self.headers and not self._response.chunked
        binary = "protobuf" in self.headers.get("Content-Type", "")
        return self._length is None and text and not binary and not last.endswith(b"\n")

    def _failed(self, cause: Exception, reason: str, what: str) -> Unavailable:
        if isinstance(cause, TimeoutError):
            return self._unavailable("timeout", f"no whole answer in {self._timeout_s:g} s")
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else repr(cause)
        return self._unavailable(reason, f"{what}: {why}")

    def _unavailable(self, reason: str, what: str) -> Unavailable:
        source = self._source
        return Unavailable(reason, f"{source.service} at {source.url}: {what}; is the service up?")


class _TimedSocket(socket.socket):
    """Gives up at a deadline, however little at a time the other side sends."""

    def __init__(self, plain: socket.socket, deadline_s: float) -> None:
        super().__init__(fileno=plain.detach())
        self._deadline_s = deadline_s
        self.settimeout(self._left_s())

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive; raises TimeoutError at the deadline."""
        self.settimeout(self._left_s())
        return super().recv_into(buffer, nbytes, flags)

    def _left_s(self) -> float:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
