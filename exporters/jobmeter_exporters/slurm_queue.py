"""The Slurm cluster as this user sees it: jobs that wait and run, nodes, partitions.

Asked in the background, once at the start and then every ``--queue-interval``, 30 s at least,
however often it is scraped; one exporter for a job is enough, on its first node. By pyslurm where
it is installed, else by ``squeue`` and ``sinfo``, as JSON or, where they have none or it is larger
than 16 MiB, as text; ``--queue-source`` asks for one of them. When there is no answer the success
is 0, and the last numbers stay until they are three intervals old. Each task of an array that waits
is a job here. Ended jobs are not counted, although Slurm remembers them for a while. What others do
may be hidden by the site (``PrivateData``).

States are Slurm's own words. Of states, reasons and partitions the first that are seen (40, 20 and
100) have series of their own, all further ones are ``other``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from types import TracebackType

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters.families import Family, Readings, to_metrics
from jobmeter_exporters.polled import LONGEST_DEATH_S, Polled, at_least
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.slurm_queue_readings import bounds, job_readings, node_readings
from jobmeter_exporters.slurm_queue_source import Slurm

INTERVAL_S = 30.0
TIMEOUT_S = 20.0
OLD_AFTER_INTERVALS = 3

FAMILIES: dict[str, Family] = {
    "queue_source_info": Family(
        "How the cluster was asked: pyslurm, json or text.",
        ("jobs", "nodes"),
        source="which of the three",
    ),
    "queue_data_age_seconds": Family(
        "Time since the reading began that the other queue_ families are from.",
        source="the clock of the exporter",
    ),
    "queue_jobs": Family(
        "Jobs of all users by state; PENDING and RUNNING also when there are none.",
        ("state",),
        source="`squeue` state",
    ),
    "queue_own_jobs": Family(
        "Jobs of this user by state; PENDING and RUNNING also when there are none.",
        ("state",),
        source="`squeue` state, user id",
    ),
    "queue_pending_jobs": Family(
        "Jobs of all users that wait, by reason.", ("reason",), source="`squeue` reason"
    ),
    "queue_own_pending_jobs": Family(
        "Jobs of this user that wait, by reason.",
        ("reason",),
        source="`squeue` reason, user id",
    ),
    "queue_own_oldest_pending_seconds": Family(
        "Time since the submission of this user's job that waits longest; absent when none waits.",
        source="`squeue` submit time, when it was asked",
    ),
    "queue_own_oldest_running_seconds": Family(
        "Time since the start of this user's job that runs longest; absent when none runs.",
        source="`squeue` start time, when it was asked",
    ),
    "queue_nodes": Family("Nodes by state.", ("state",), source="`sinfo` state"),
    "queue_partition_nodes": Family(
        "Nodes of a partition by use: allocated, idle, other (down, drained); together all.",
        ("partition", "use"),
        source="`sinfo` nodes",
    ),
    "queue_partition_cpus": Family(
        "CPUs of a partition by use: allocated, idle, other (down, drained); together all.",
        ("partition", "use"),
        source="`sinfo` CPUs",
    ),
}


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add how and how often to ask."""
    add = parser.add_argument
    add(
        "--queue-interval",
        type=at_least(INTERVAL_S),
        default=INTERVAL_S,
        metavar="DURATION",
        help="from one question to the next, 30s or more (default: 30s)",
    )
    add(
        "--queue-timeout",
        type=at_least(1.0),
        default=TIMEOUT_S,
        metavar="DURATION",
        help="after which a hanging squeue or sinfo is killed (default: 20s)",
    )
    add(
        "--queue-source",
        choices=("auto", "pyslurm", "json", "text"),
        default="auto",
        help="default: auto, the first of them that works here",
    )


def from_settings(settings: Settings) -> Collector:
    """Return the collector of the cluster that this node belongs to."""
    timeout_s: float = settings.options.get("queue_timeout", TIMEOUT_S)
    return Queue(
        Slurm(settings.options.get("queue_source", "auto"), timeout_s),
        interval_s=settings.options.get("queue_interval", INTERVAL_S),
        timeout_s=timeout_s,
        wait_for_first=settings.required,
    )


class Queue(Collector):
    """The queue, asked for in the background from enter to exit.

    Args:
        slurm: Who is asked.
        interval_s: Seconds from one question to the next.
        timeout_s: The longest that one program may take.
        wait_for_first: Whether to enter only when the first question has been answered.
    """

    def __init__(
        self, slurm: Slurm, interval_s: float, timeout_s: float, wait_for_first: bool = False
    ) -> None:
        self._slurm = slurm
        self._labels = bounds()
        longest_s = 2 * (timeout_s + LONGEST_DEATH_S)  # two programs
        self._first_within_s = longest_s if wait_for_first else 0.0
        self._polled = Polled(
            "Slurm",
            self._read,
            interval_s,
            longest_age_s=max(OLD_AFTER_INTERVALS * interval_s, 2 * longest_s),
            cancel=slurm.command.cancel,
        )

    def __enter__(self) -> Queue:
        self._polled.start(self._first_within_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._polled.stop()

    def collect(self) -> Iterator[Metric]:
        """Yield what was answered last, unless it is too old.

        Raises:
            NoData: There is no answer yet.
            ExporterError: The last question was not answered, and why.
        """
        reading, problem = self._polled.latest()
        if reading is not None:
            yield from to_metrics(
                {**reading.value, "queue_data_age_seconds": reading.age_s}, FAMILIES
            )
        if problem is not None:
            raise problem

    def _read(self) -> Readings:
        source, jobs, nodes = self._slurm.read()
        return {
            "queue_source_info": {source: 1.0},
            **job_readings(jobs, own_uid(), time.time(), self._labels),
            **node_readings(nodes, self._labels),
        }


def own_uid() -> int:
    """Return the user id of this job's owner; in a container it may be another one than ours."""
    given = os.environ.get("SLURM_JOB_UID", "")
    return int(given) if given.isascii() and given.isdecimal() else os.getuid()
