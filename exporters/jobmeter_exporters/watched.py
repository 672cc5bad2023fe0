"""The boundary of a scrape: no collector can break another one, and each says how it went."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.rate import Rate

logger = logging.getLogger(__name__)

LONGEST_S = 3.0
"""How long a scrape waits for one before it that reads the same source."""

LINES_PER_S, BURST = 1 / 60, 10
"""What a collector may log, in the long run and at once: a problem may come in ever new words."""


class NoData(Exception):  # noqa: N818 - not an error
    """The source is fine and has nothing to report: no GPU, no Slurm job group.

    It counts as success: a node that has no such thing is healthy, and the absent families say the
    rest. The reason is logged once.
    """


class Watched(Collector):
    """Collects from several collectors and adds the health of each.

    ``jobmeter_collector_success{collector}`` is 1 when the source was read, also when it had
    nothing to report (``NoData``), and 0 when it failed; what was read before the failure is kept.
    ``jobmeter_collector_duration_seconds{collector}`` is the wall time it took. The two families
    of all collectors come together at the end, as the exposition formats want it.

    A collector that hangs, in a driver or on a file system, costs the scrape that it holds up. The
    next ones go without it.

    Args:
        collectors: By the name that becomes the label.
        clock: Seconds that never go back; tests have their own.
    """

    def __init__(
        self, collectors: Mapping[str, Collector], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._collectors = dict(collectors)
        self._clock = clock
        self._locks = {name: threading.Lock() for name in collectors}
        self._began_s = dict.fromkeys(collectors, clock())
        self._said: dict[str, str] = {}
        self._rates = {name: Rate(LINES_PER_S, BURST, clock) for name in collectors}

    def collect(self) -> Iterator[Metric]:
        """Yield the families of every collector, then the two health families."""
        success = GaugeMetricFamily(
            "jobmeter_collector_success", "1 if the last scrape worked.", labels=["collector"]
        )
        duration = GaugeMetricFamily(
            "jobmeter_collector_duration_seconds",
            "Wall time of the last scrape.",
            labels=["collector"],
        )
        for name in self._collectors:
            began = time.perf_counter()
            families: list[Metric] = []
            success.add_metric([name], float(self._collect_one(name, families)))
            yield from families
            duration.add_metric([name], time.perf_counter() - began)
        yield success
        yield duration

    def _collect_one(self, name: str, into: list[Metric]) -> bool:
        # Collectors keep state between scrapes, and two scrapes may arrive at once.
        lock = self._locks[name]
        if not lock.acquire(timeout=max(0.0, self._began_s[name] + LONGEST_S - self._clock())):
            self._say_once(name, logging.WARNING, "an earlier scrape still reads it; does it hang?")
            return False
        try:
            self._began_s[name] = self._clock()
            return self._collect_alone(name, into)
        finally:
            lock.release()

    def _collect_alone(self, name: str, into: list[Metric]) -> bool:
        try:
            # One by one, to keep what came before a failure.
            for family in self._collectors[name].collect():
                into.append(family)
        except NoData as nothing:
            self._say_once(name, logging.INFO, f"no data: {nothing}")
        except ExporterError as problem:
            self._say_once(name, logging.WARNING, str(problem))
            return False
        except Exception as problem:
            if self._say_once(name, logging.ERROR, f"collector failed: {problem!r}"):
                logger.debug("%s: traceback", name, exc_info=True)
            return False
        else:
            self._said.pop(name, None)
        return True

    def _say_once(self, name: str, level: int, message: str) -> bool:
        """Log what is new: at a scrape every second the same line would fill a disk."""
        if self._said.get(name) == message or not self._rates[name].allows():
            return False
        self._said[name] = message
        logger.log(level, "%s: %s", name, message)
        return True
