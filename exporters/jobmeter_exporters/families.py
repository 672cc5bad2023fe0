"""The metric families of a job's resource use, in one table for every source.

A source returns ``Readings``: base units under the name of the family, and a mapping from label
value to number where the family has a label. What a source cannot read it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Readings = dict[str, "float | dict[str, float]"]


class Family(NamedTuple):
    """One family: its help text, and the name of its label if it has one.

    The type follows from the name: ``_total`` is a counter, anything else a gauge.
    """

    documentation: str
    label: str | None = None


FAMILIES: dict[str, Family] = {
    "job_source_info": Family("Where the job_ families of this node come from.", "source"),
    "job_cpu_seconds_total": Family("CPU time of the job on this node, ended processes included."),
    "job_cpu_user_seconds_total": Family("The part of the CPU time spent in user mode."),
    "job_cpu_system_seconds_total": Family("The part of the CPU time spent in the kernel."),
    "job_cpu_throttled_seconds_total": Family("Time the job was held back by a CPU quota."),
    "job_cpus": Family("CPUs that the job may use on this node."),
    "job_cpu_list_info": Family("Which CPUs these are, as the kernel lists them.", "cpus"),
    "job_memory_used_bytes": Family("Memory of the job; with page cache if from a cgroup."),
    "job_memory_anonymous_bytes": Family("The part of the memory that no file backs."),
    "job_memory_peak_bytes": Family("Highest memory charged to the job so far."),
    "job_memory_limit_bytes": Family("Memory limit of the job; absent when unlimited."),
    "job_memory_oom_kills_total": Family("Processes of the job killed for lack of memory."),
    "job_processes": Family("Processes of the job on this node."),
    "job_threads": Family("Threads of the job on this node."),
    "job_io_read_bytes_total": Family("Bytes the job read from block devices.", "device"),
    "job_io_write_bytes_total": Family("Bytes the job wrote to block devices.", "device"),
    "job_pressure_waiting_seconds_total": Family(
        "Time in which at least one task of the job waited for the resource.", "resource"
    ),
    "job_monitoring_cpu_seconds_total": Family("CPU time of the monitoring in this job."),
    "job_monitoring_memory_used_bytes": Family("Memory charged to the monitoring in this job."),
}


def merge(into: Readings, more: Readings) -> None:
    """Add ``more`` to ``into``; families with a label are joined label by label."""
    for name, value in more.items():
        present = into.get(name)
        if isinstance(present, dict) and isinstance(value, dict):
            present.update(value)
        else:
            into[name] = value


def to_metrics(readings: Mapping[str, float | dict[str, float]]) -> Iterator[Metric]:
    """Yield one metric family per reading, in the order of ``FAMILIES``."""
    for name, family in FAMILIES.items():
        value = readings.get(name)
        if value is None:
            continue
        metric: CounterMetricFamily | GaugeMetricFamily
        labels = [family.label] if family.label else []
        if name.endswith("_total"):
            metric = CounterMetricFamily(name, family.documentation, labels=labels)
        else:
            metric = GaugeMetricFamily(name, family.documentation, labels=labels)
        for label, number in value.items() if isinstance(value, dict) else [(None, value)]:
            metric.add_metric([label] if label is not None else [], number)
        yield metric
