"""Reads logs in a thread, applies rules to their lines, and counts."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmeter_exporters.log_events import BURST, EVENTS_PER_S, EventFile
from jobmeter_exporters.log_files import LogFiles
from jobmeter_exporters.log_lines import Line
from jobmeter_exporters.log_rule import (
    EventOutput,
    Groups,
    MetricOutput,
    Rule,
    RuleSet,
    level,
    parse_record,
)
from jobmeter_exporters.rate import Rate
from jobmeter_exporters.series import Series

logger = logging.getLogger(__name__)

READ_INTERVAL_S = 0.25
SEARCH_INTERVAL_S = 1.0
SLOW_MATCH_S = 0.25
"""A rule that computes longer for one line is switched off: nothing can interrupt it, and while it
computes no scrape is answered."""

LONGEST_START_S = 2.0
LONGEST_FINISH_S = 3.0
"""How long the end waits for what is still unread."""


@dataclass(frozen=True)
class Source:
    """The logs of one service.

    Args:
        service: Value of the label ``service``.
        patterns: Paths, or patterns for them.
        rules: What their lines become.
        from_end: Whether to leave out what is in them at the start.
    """

    service: str
    patterns: tuple[str, ...]
    rules: RuleSet
    from_end: bool


class ServiceLogs:
    """Reads the logs of one service into the series.

    Args:
        source: Which, and what their lines become.
        series: Where to count.
        events: Where to keep lines; None keeps none.
        clock: Seconds that never go back.
        cpu_clock: Seconds that this thread has computed.
    """

    def __init__(
        self,
        source: Source,
        series: Series,
        events: EventFile | None,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.service = source.service
        self._files = LogFiles(source.patterns, source.from_end, clock)
        self._rules = list(source.rules.rules)
        self._reads_json = source.rules.reads_json
        self._series = series
        self._events = events
        self._rate = Rate(EVENTS_PER_S, BURST, clock)
        self._cpu_clock = cpu_clock
        self._computed_s = 0.0
        self._slow: list[str] = []
        self._begin(source.rules)

    @property
    def problems(self) -> list[str]:
        """What is wrong now."""
        return [*self._files.problems.values(), *self._slow]

    @property
    def has_files(self) -> bool:
        """Whether one is open."""
        return len(self._files) > 0

    @property
    def missing(self) -> list[str]:
        """The paths and patterns that stand for no file."""
        return self._files.missing

    def search(self) -> None:
        """Open what is new and close what is gone."""
        self._take(self._files.search())
        self._set("jobmeter_log_files", len(self._files))

    def read(self) -> bool:
        """Read a part of each file; return whether there may be more."""
        some = False
        for count, lines in self._files.read():
            some = True
            self._add("jobmeter_log_bytes_total", float(count))
            self._take(lines)
        self._set("jobmeter_log_unread_bytes", self._files.unread_bytes)
        self._set("jobmeter_log_last_read_timestamp_seconds", time.time())
        return some

    def close(self) -> None:
        """Take the last lines without a newline, and close all files."""
        self._take(self._files.close())

    def _begin(self, rules: RuleSet) -> None:
        """Counters without labels of their own begin at 0: nothing has been counted yet."""
        for name in ("lines", "bytes", "unmatched_lines", "cut_lines", "dropped_events"):
            self._add(f"jobmeter_log_{name}_total", 0.0)
        self._set("jobmeter_log_disabled_rules", 0)
        for rule in rules.rules:
            for output in rule.metrics:
                if output.kind == "counter" and not output.groups:
                    self._series.add(output.name, (self.service,), 0.0)

    def _take(self, lines: Iterable[Line]) -> None:
        count = unmatched = cut = 0
        self._computed_s = self._cpu_clock()
        for line in lines:
            count += 1
            cut += line.cut
            unmatched += not self._apply(line.text)
        if count:
            self._add("jobmeter_log_lines_total", count)
            self._add("jobmeter_log_unmatched_lines_total", unmatched)
            self._add("jobmeter_log_cut_lines_total", cut)

    def _apply(self, line: str) -> bool:
        """Apply all rules to a line; return whether one is about it."""
        record = parse_record(line) if self._reads_json else None
        matched = False
        for rule, groups in self._matches(line, record):
            matched = True
            for output in rule.metrics:
                self._count(output, groups)
            if rule.event is not None:
                self._keep(rule.event, groups, line)
        return matched

    def _matches(
        self, line: str, record: Mapping[str, Any] | None
    ) -> Iterator[tuple[Rule, Groups]]:
        began_s = time.perf_counter()
        for rule in tuple(self._rules):
            groups = rule.match(line, record)
            ended_s = time.perf_counter()
            if ended_s - began_s > SLOW_MATCH_S:
                # Unless others had the processor meanwhile: the lines before took next to none.
                computed_s = self._cpu_clock() - self._computed_s
                if computed_s > SLOW_MATCH_S:
                    self._switch_off(rule, computed_s)
            began_s = ended_s
            if groups is not None:
                yield rule, groups

    def _switch_off(self, rule: Rule, took_s: float) -> None:
        self._rules.remove(rule)
        self._slow.append(
            f"{rule.where} took {took_s:.1f} s for one line of {self.service} and is switched off; "
            "give it 'contains', or a pattern with fewer '*'"
        )
        self._set("jobmeter_log_disabled_rules", len(self._slow))

    def _count(self, output: MetricOutput, groups: Groups) -> None:
        text = None if output.value is None else groups[output.value]
        if output.value is not None and text is None:
            return  # the part of the pattern with the number took no part in the match
        try:
            value = 1.0 if text is None else output.read(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (output.kind == "counter" and value < 0):
            self._series.add("jobmeter_log_bad_values_total", (self.service, output.name))
            return
        labels = (self.service, *output.labels(groups))
        if output.kind == "counter":
            as_asked = self._series.add(output.name, labels, value)
        elif output.kind == "gauge":
            as_asked = self._series.set(output.name, labels, value, output.lasts_s)
        else:
            as_asked = self._series.observe(output.name, labels, value)
        if not as_asked:
            self._series.add("jobmeter_log_folded_series_total", (self.service, output.name))

    def _keep(self, event: EventOutput, groups: Groups, line: str) -> None:
        named = event.fixed_level
        if event.level_group is not None:
            named = level(groups[event.level_group] or "")
        text = line if event.text_group is None else groups[event.text_group] or ""
        self._series.add("jobmeter_log_events_total", (self.service, named))
        if (
            self._events is None
            or not self._rate.allows()
            or not self._events.write(self.service, named, text)
        ):
            self._add("jobmeter_log_dropped_events_total", 1.0)

    def _add(self, name: str, amount: float) -> None:
        self._series.add(name, (self.service,), amount)

    def _set(self, name: str, value: float) -> None:
        self._series.set(name, (self.service,), value)


class LogReader:
    """Reads the logs of all services, over and over, in a thread of its own.

    Args:
        sources: Which logs.
        series: Where to count.
        events: File for events; None keeps none.
    """

    def __init__(self, sources: Iterable[Source], series: Series, events: Path | None) -> None:
        self._events = None if events is None else EventFile(events)
        self._services = [ServiceLogs(source, series, self._events) for source in sources]
        self._stop = threading.Event()
        self._searched = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._failed: str | None = None

    @property
    def problems(self) -> list[str]:
        """What is wrong now, one line each."""
        found = [problem for service in self._services for problem in service.problems]
        if self._events is not None and self._events.problem is not None:
            found.append(self._events.problem)
        return found if self._failed is None else [*found, self._failed]

    @property
    def waits_for(self) -> str | None:
        """That no log is there at all, and which would be; None when one is."""
        if any(service.has_files for service in self._services):
            return None
        missing = [path for service in self._services for path in service.missing]
        return f"no log is there yet: {', '.join(missing)}"

    def start(self) -> None:
        """Begin to read; returns when the logs were looked for, if the file system answers."""
        self._thread.start()
        self._searched.wait(LONGEST_START_S)

    def stop(self) -> None:
        """Read what is left, for a few seconds at most, and end."""
        self._stop.set()
        self._thread.join(LONGEST_FINISH_S + READ_INTERVAL_S)
        if self._thread.is_alive():
            logger.warning("logs: a file system does not answer; what is unread stays so")
        elif self._events is not None:
            self._events.close()

    def _run(self) -> None:
        try:
            self._read_until_stopped()
            self._read_the_rest()
        except Exception as problem:  # a bug must be seen in the series, not only in a lost thread
            logger.debug("logs: traceback", exc_info=True)
            self._failed = f"reading ended: {problem!r}; please report this"

    def _read_until_stopped(self) -> None:
        next_search_s = 0.0
        while not self._stop.is_set():
            now_s = time.monotonic()
            if now_s >= next_search_s:
                self._search()
                next_search_s = now_s + SEARCH_INTERVAL_S
            if not self._read():
                self._stop.wait(READ_INTERVAL_S)

    def _read_the_rest(self) -> None:
        deadline_s = time.monotonic() + LONGEST_FINISH_S
        self._search()
        while self._read():
            if time.monotonic() > deadline_s:
                logger.warning("logs: more is unread than can be read now; the rest is left out")
                break
        for service in self._services:
            service.close()

    def _search(self) -> None:
        for service in self._services:
            service.search()
        self._searched.set()

    def _read(self) -> bool:
        """Read one part of each file, so that a long one holds up no other."""
        some = False
        for service in self._services:
            some = service.read() or some
        return some
