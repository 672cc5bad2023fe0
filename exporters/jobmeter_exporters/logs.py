"""Logs of services, turned into metrics and events by rules.

For what a service says nowhere else: Ollama has no ``/metrics``, and vLLM tells only its log how
evenly experts are used. ``--logs-follow SERVICE=PATH`` names a log, or with a pattern several; it
may come later, and is followed through rotations and truncations. ``--logs-rules`` names rules:
``ollama``, ``vllm``, ``levels`` and ``json`` come with jobmeter, others are files of yours
(``docs/log-rules.md``), whose families are on the same page and not in the table below. Without a
rule, lines and bytes are counted.

A thread reads; a scrape has what was read up to half a second ago. Of a line the first 16 KiB are
read. Events are the log's own words: what a service logs, prompts and keys included, is in
the events file too, which is for its owner alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.families import Family
from jobmeter_exporters.log_reader import LogReader, Source
from jobmeter_exporters.log_rule_file import read_rules, rule_set, shipped_names
from jobmeter_exporters.registry import EXPORTERS, exporter
from jobmeter_exporters.series import Series
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

_READER = "the reader's own count"
FAMILIES: dict[str, Family] = {
    "jobmeter_log_files": Family("Log files that are open.", ("service",), source=_READER),
    "jobmeter_log_lines_total": Family("Lines read.", ("service",), source=_READER),
    "jobmeter_log_bytes_total": Family("Bytes read.", ("service",), source=_READER, unit="bytes"),
    "jobmeter_log_unread_bytes": Family(
        "Bytes in the files that are not read yet.", ("service",), source=_READER
    ),
    "jobmeter_log_unmatched_lines_total": Family(
        "Lines that no rule is about.", ("service",), source=_READER
    ),
    "jobmeter_log_cut_lines_total": Family(
        "Lines of which only the beginning was looked at.", ("service",), source=_READER
    ),
    "jobmeter_log_bad_values_total": Family(
        "Values of matching lines that are no number, or not of their unit.",
        ("service", "metric"),
        source=_READER,
    ),
    "jobmeter_log_folded_series_total": Family(
        "Values whose labels became `other` (of a gauge: left out), as there were too many.",
        ("service", "metric"),
        source=_READER,
    ),
    "jobmeter_log_events_total": Family(
        "Lines that a rule wants kept.", ("service", "level"), source=_READER
    ),
    "jobmeter_log_dropped_events_total": Family(
        "Those not kept: too many at once, no file for them, or a full disk.",
        ("service",),
        source=_READER,
    ),
    "jobmeter_log_disabled_rules": Family(
        "Rules that were switched off as a line took them too long.", ("service",), source=_READER
    ),
    "jobmeter_log_last_read_timestamp_seconds": Family(
        "When the reader last had looked at all files.", ("service",), source="the node's clock"
    ),
}


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add which logs, which rules, and where events go."""
    parser.add_argument(
        "--logs-follow",
        type=_source,
        action="append",
        default=[],
        metavar="SERVICE=PATH",
        help="a log, or a pattern such as 'db=/tmp/db-*.log'; may be repeated",
    )
    parser.add_argument(
        "--logs-rules",
        action="append",
        default=[],
        metavar="[SERVICE=]FILE",
        help=f"rules, for one service or all: {', '.join(shipped_names())} or a file of yours; "
        "may be repeated",
    )
    parser.add_argument(
        "--logs-events", type=Path, metavar="F", help="file that events are appended to, as JSON"
    )
    parser.add_argument(
        "--logs-from",
        choices=("start", "end"),
        default="start",
        help="whether to read what is in the logs already (default: start); "
        "logs that come later are read whole",
    )


def from_settings(settings: Settings) -> Collector:
    """Return the reader of this node's logs.

    Raises:
        ExporterError: No log is named, or rules that are none.
    """
    options = settings.options
    follow: list[tuple[str, str]] = options.get("logs_follow", [])
    if not follow:
        raise ExporterError("no log to read; give --logs-follow SERVICE=PATH")
    services = list(dict.fromkeys(service for service, _ in follow))
    entries: dict[str, list[tuple[str, object]]] = {service: [] for service in services}
    for given in dict.fromkeys(options.get("logs_rules", [])):
        service, _, name = given.partition("=")
        wanted, name = ([service], name) if service in entries and name else (services, given)
        rules = read_rules(name)
        for one in wanted:
            entries[one] += rules
    taken = {name for other in EXPORTERS for name in exporter(other).FAMILIES}
    # Once together, so that services agree on what a family is.
    everything = {id(rule): (where, rule) for rules in entries.values() for where, rule in rules}
    together = rule_set(everything.values(), taken)
    from_end = options.get("logs_from", "start") == "end"
    sources = [
        Source(
            service,
            tuple(path for owner, path in follow if owner == service),
            rule_set(entries[service], taken),
            from_end,
        )
        for service in services
    ]
    series = Series({**FAMILIES, **together.families}, together.bounds)
    return Logs(LogReader(sources, series, options.get("logs_events")), series)


class Logs(Collector):
    """What the reader has counted. The reader runs between enter and exit.

    Args:
        reader: Reads in a thread of its own.
        series: What it counts into.
    """

    def __init__(self, reader: LogReader, series: Series) -> None:
        self._reader = reader
        self._series = series

    def __enter__(self) -> Logs:
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reader.stop()

    def collect(self) -> Iterator[Metric]:
        """Yield what was counted so far.

        Raises:
            NoData: No log is there yet.
            ExporterError: A log cannot be read, events cannot be written, or a rule was too slow.
        """
        yield from self._series.collect()
        if self._reader.problems:
            raise ExporterError("; ".join(self._reader.problems))
        if self._reader.waits_for is not None:
            raise NoData(self._reader.waits_for)


def _source(text: str) -> tuple[str, str]:
    service, equals, path = text.partition("=")
    if not equals or not service or not path or "/" in service:
        raise argparse.ArgumentTypeError(f"{text!r} is not SERVICE=PATH, such as ollama=ollama.log")
    return service, path
