"""Services without authentication on loopback, exposed again behind the password of the run.

``/metrics/SERVICE`` on the port of the exporters is the service's own exposition, byte for byte,
for each ``--gateway-upstream SERVICE=URL`` and for each file in ``--gateway-endpoints-dir`` that
reads ``{"service": "vllm", "url": "http://127.0.0.1:8000/metrics"}``. Such files may come, change
and go while the job runs; an option of the same name counts before a file. Where the service asks
for a token, ``"bearer_file"`` names the file that holds it, and the gateway shows it.

Only ``http`` and only this machine, unless ``--gateway-allow-host`` names another one: nothing
there would check a certificate. Of a request, ``Accept`` and ``Accept-Encoding`` are passed on and
nothing else, above all no password. Of the answer, the body, its type and its encoding. It is
copied as it comes, so its size does not matter. Redirects are not followed.

A service that is down, that does not answer 200 or that answers something else than an exposition
is 502 with the reason as text, one that has not answered in ``--gateway-timeout`` seconds 504. An
answer that breaks off is passed on as a broken one, never as a short one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.families import Family, Labels, to_metric
from jobmeter_exporters.gateway_endpoints import EndpointFolder
from jobmeter_exporters.gateway_upstream import Exposition, Unavailable, Upstream, upstream
from jobmeter_exporters.registry import EXPORTERS
from jobmeter_exporters.routes import Answer, BrokenBody
from jobmeter_exporters.series import Series
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

PREFIX = "/metrics/"
LONGEST_TIMEOUT_S = 9.0
"""The server cuts its own connections after ten seconds."""

DURATION_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

UPSTREAM_INFO: dict[str, Family] = {
    "jobmeter_gateway_upstream_info": Family(
        "Where a service is.", ("service", "url"), source="an option or a file"
    ),
}
COUNTED: dict[str, Family] = {
    "jobmeter_gateway_requests_total": Family(
        "Requests for the exposition of a service.", ("service",), source="the gateway's own count"
    ),
    "jobmeter_gateway_failures_total": Family(
        "Requests without a whole exposition, by reason: `unreachable`, `timeout`, `bad_status`, "
        "`bad_answer`, `broken_off`.",
        ("service", "reason"),
        source="the gateway's own count",
    ),
    "jobmeter_gateway_response_bytes_total": Family(
        "Bytes of expositions passed on, as they were encoded.",
        ("service",),
        source="the gateway's own count",
        unit="bytes",
    ),
    "jobmeter_gateway_request_duration_seconds": Family(
        "Time from a request to the last byte of its answer.",
        ("service",),
        source="the gateway's own clock",
        kind="histogram",
    ),
}
FAMILIES = UPSTREAM_INFO | COUNTED


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add where the services are, and how long they may take."""
    parser.add_argument(
        "--gateway-upstream",
        type=_named_url,
        action="append",
        default=[],
        metavar="SERVICE=URL",
        help="such as vllm=http://127.0.0.1:8000/metrics; may be repeated",
    )
    parser.add_argument(
        "--gateway-endpoints-dir",
        type=Path,
        metavar="DIR",
        help='folder of files such as {"service": "vllm", "url": ...}; read again when it changes',
    )
    parser.add_argument(
        "--gateway-allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help="a host that may be asked beside this machine; may be repeated",
    )
    parser.add_argument(
        "--gateway-timeout",
        type=_timeout_s,
        default=LONGEST_TIMEOUT_S,
        metavar="SECONDS",
        help=f"for a whole answer of a service, at most {LONGEST_TIMEOUT_S:g} (the default)",
    )


def from_settings(settings: Settings) -> Collector:
    """Return the gateway of this node.

    Raises:
        ExporterError: A service that can never be asked, or nowhere to find one.
    """
    options = settings.options
    allowed_hosts = frozenset(host.lower() for host in options.get("gateway_allow_host", ()))
    fixed: dict[str, Upstream] = {}
    for service, url in options.get("gateway_upstream", ()):
        if service in fixed:
            raise ExporterError(f"--gateway-upstream names {service!r} twice; give one URL")
        fixed[service] = _with_free_name(upstream(service, url, allowed_hosts))
    folder = options.get("gateway_endpoints_dir")
    if not fixed and folder is None:
        raise ExporterError(
            "the gateway has nothing to ask; give --gateway-upstream SERVICE=URL "
            "or --gateway-endpoints-dir DIR"
        )
    found = None if folder is None else EndpointFolder(folder, allowed_hosts)
    return Gateway(fixed, found, options.get("gateway_timeout", LONGEST_TIMEOUT_S))


class Gateway(Collector):
    """Passes on expositions, and counts how that went.

    Args:
        fixed: Services of the command line, by name.
        folder: Where others say where they are.
        timeout_s: For one whole answer.
    """

    def __init__(
        self, fixed: Mapping[str, Upstream], folder: EndpointFolder | None, timeout_s: float
    ) -> None:
        self._fixed = fixed
        self._folder = folder
        self._timeout_s = timeout_s
        self._series = Series(
            COUNTED, {"jobmeter_gateway_request_duration_seconds": DURATION_BOUNDS_S}
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the services and what was counted.

        Raises:
            NoData: There is no service yet.
            ExporterError: A file of the folder is of no use; the services of the others are there.
        """
        services, problems = self._services()
        if services:
            labels: dict[Labels, float] = {
                (name, service.url): 1.0 for name, service in services.items()
            }
            for name, family in UPSTREAM_INFO.items():
                yield to_metric(name, family, labels)
        yield from self._series.collect()
        if problems:
            raise ExporterError("; ".join(problems))
        if not services:
            raise NoData("no service has said where it is")

    def paths(self) -> Iterable[str]:
        """Return a path for each service."""
        return [PREFIX + service for service in self._services()[0]]

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer | None:
        """Return the exposition of the service that ``path`` names."""
        if not path.startswith(PREFIX):
            return None
        source = self._services()[0].get(path[len(PREFIX) :])
        return None if source is None else self._ask(source, headers)

    def _ask(self, source: Upstream, headers: Mapping[str, str]) -> Answer:
        began_s = time.perf_counter()

        def note_the_end() -> None:
            took_s = time.perf_counter() - began_s
            self._series.observe(
                "jobmeter_gateway_request_duration_seconds", (source.service,), took_s
            )

        self._series.add("jobmeter_gateway_requests_total", (source.service,))
        try:
            exposition = Exposition(source, headers, self._timeout_s)
        except Unavailable as problem:
            self._note_failure(source, problem)
            note_the_end()
            return Answer.text(504 if problem.reason == "timeout" else 502, str(problem))
        return Answer(
            200,
            self._counted(source, exposition),
            exposition.length,
            exposition.headers,
            _both(exposition.close, note_the_end),
        )

    def _counted(self, source: Upstream, exposition: Exposition) -> Iterator[bytes]:
        try:
            for part in exposition.parts():
                amount = float(len(part))
                self._series.add("jobmeter_gateway_response_bytes_total", (source.service,), amount)
                yield part
        except Unavailable as problem:
            self._note_failure(source, problem)
            raise BrokenBody from problem

    def _note_failure(self, source: Upstream, problem: Unavailable) -> None:
        labels = (source.service, problem.reason)
        self._series.add("jobmeter_gateway_failures_total", labels)

    def _services(self) -> tuple[dict[str, Upstream], list[str]]:
        """Return the services by name, and what is wrong with files."""
        if self._folder is None:
            return dict(self._fixed), []
        found, problems = self._folder.read()
        for service in [service for service in found if service in EXPORTERS]:
            problems.append(f"{service!r} is the name of an exporter; give the service another one")
            del found[service]
        return {**found, **self._fixed}, problems


def _with_free_name(source: Upstream) -> Upstream:
    if source.service in EXPORTERS:
        raise ExporterError(
            f"--gateway-upstream {source.service}: that is the name of an exporter, "
            f"whose path is {PREFIX}{source.service}; give the service another one"
        )
    return source


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def close() -> None:
        first()
        second()

    return close


def _named_url(text: str) -> tuple[str, str]:
    service, equals, url = text.partition("=")
    if not equals or not service or not url:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not SERVICE=URL, such as vllm=http://127.0.0.1:8000/metrics"
        )
    return service, url


def _timeout_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds above 0 and up to {LONGEST_TIMEOUT_S:g}"
        )
    return seconds
