"""``python -m jobmeter_exporters NAME ...``: serve the named exporters until told to stop."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError, NothingToReport
from jobmeter_exporters.registry import EXPORTERS, exporter
from jobmeter_exporters.server import CHECK_INTERVAL_S, ExporterServer, write_port_file
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

LONGEST_FINISH_S = 2.0
"""How long the end waits for answers in progress."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    0 after such a signal, 1 when it cannot serve, 2 for wrong usage, 3 when an exporter that is
    required has nothing to report, 98 (EADDRINUSE) when the port is taken. To be called in the main
    thread, the only one that may handle signals.
    """
    try:
        # First of all, so that a stop during the start is as orderly as a later one.
        with stop_requests() as stop:
            names, settings = parse(argv)
            logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
            return serve(names, settings, stop)
    except ExporterError as problem:
        sys.stderr.write(f"jobmeter exporter: {problem}\n")
        return problem.exit_code
    except SystemExit as stop:  # argparse: 0 after --help, 2 for wrong usage
        return stop.code if isinstance(stop.code, int) else 1


@contextmanager
def stop_requests() -> Iterator[socket.socket]:
    """Yield a socket that gets one byte, its number, for each signal that arrives.

    A socket, because it wakes the reader whichever thread the kernel chose to interrupt: a caller
    may have loaded libraries with threads of their own.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in STOP_SIGNALS}
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(before_fd)
        reader.close()
        writer.close()


def serve(names: Sequence[str], settings: Settings, stop: socket.socket) -> int:
    """Serve the exporters ``names`` until ``stop`` gets one of ``STOP_SIGNALS``.

    Raises:
        ExporterError: It cannot listen, or a file cannot be read or written.
    """
    collectors = {name: exporter(name).from_settings(settings) for name in names}
    with ExporterServer(settings, collectors) as server, ExitStack() as background:
        for collector in collectors.values():
            if isinstance(collector, AbstractContextManager):
                background.enter_context(collector)
        if settings.required:
            require(collectors)
        if settings.port_file is not None:
            write_port_file(settings.port_file, server.port)
        loop = threading.Thread(
            target=server.serve_forever, args=(CHECK_INTERVAL_S,), name="accept", daemon=True
        )
        loop.start()
        while stop.recv(1)[0] not in STOP_SIGNALS:
            continue  # a signal that the caller handles
        server.shutdown()
        server.finish(LONGEST_FINISH_S)
    return 0


def require(collectors: Mapping[str, Collector]) -> None:
    """Read every collector once.

    Raises:
        NothingToReport: One of them has no numbers, and why.
    """
    for name, collector in collectors.items():
        try:
            found = any(family.samples for family in collector.collect())
        except (NoData, ExporterError) as reason:
            raise NothingToReport(f"{name}: {reason}") from reason
        if not found:
            raise NothingToReport(f"{name}: nothing of it is on this node")


def parse(argv: Sequence[str] | None) -> tuple[tuple[str, ...], Settings]:
    """Return the exporters asked for, each once, and the settings.

    Raises:
        SystemExit: Wrong usage (2), or ``--help`` (0); the text is printed.
    """
    parser = _parser()
    given = parser.parse_args(argv)
    names = tuple(dict.fromkeys(given.names))
    unknown = [name for name in names if name not in EXPORTERS]
    if unknown:
        parser.error(f"no exporter {unknown[0]!r}; there is {', '.join(EXPORTERS)}")
    host, port = given.listen
    own = tuple(f"{name.replace('-', '_')}_" for name in EXPORTERS)
    return names, Settings(
        run_id=given.run_id,
        host=host,
        port=port,
        username=given.username,
        password_file=given.password_file,
        port_file=given.port_file,
        job_pid=given.job_pid,
        exclude_pids=tuple(given.exclude_pid),
        required=given.required,
        options={name: value for name, value in vars(given).items() if name.startswith(own)},
    )


def address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 host stands in brackets.

    Raises:
        argparse.ArgumentTypeError: It is no such text, or no such port.

    >>> address("[::1]:9100")
    ('::1', 9100)
    """
    host, colon, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not 0 <= number < 2**16 or (":" in bare and bare == host):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9400")
    return bare, number


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 11 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id, a number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobmeter exporter",
        description="Serve Prometheus metrics about this job on this node.",
        epilog="Exit codes: 0 stopped by SIGTERM or SIGINT, 1 cannot serve, 2 wrong usage, "
        "3 nothing to report and --required, 98 the port is in use.",
    )
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help=f"exporters: {', '.join(EXPORTERS)}")
    add("--run-id", required=True, metavar="ID", help="the run that this belongs to")
    add(
        "--listen",
        type=address,
        default=("127.0.0.1", 0),
        metavar="HOST:PORT",
        help="port 0 takes any free one (default: 127.0.0.1:0)",
    )
    add("--port-file", type=Path, metavar="F", help="file that gets the port, once it listens")
    add("--username", default="jobmeter", metavar="NAME", help="default: jobmeter")
    add("--password-file", type=Path, metavar="F", help="needed to listen beyond this machine")
    add("--job-pid", type=_pid, metavar="P", help="the job script, where there is no Slurm group")
    add(
        "--exclude-pid",
        type=_pid,
        action="append",
        default=[],
        metavar="P",
        help="root of processes that are monitoring, not payload; may be repeated",
    )
    add(
        "--required",
        action="store_true",
        help="end with 3 when an exporter has nothing to report here, such as no GPU",
    )
    for name in EXPORTERS:
        module = exporter(name)
        about, _, _ = (module.__doc__ or "").partition("\n")
        module.add_options(parser.add_argument_group(name, about))
    return parser


if __name__ == "__main__":
    sys.exit(main())
