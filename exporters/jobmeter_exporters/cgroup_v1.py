"""What the v1 groups of a job say about themselves, controller by controller.

Formats: https://docs.kernel.org/admin-guide/cgroup-v1/ (cpuacct, cpusets, memory,
blkio-controller). Unless said otherwise the number of a group includes its descendants.
"""

from __future__ import annotations

import os

from jobmeter_exporters import kernel_text
from jobmeter_exporters.cgroup_v2 import parse_cpus
from jobmeter_exporters.families import Readings
from jobmeter_exporters.group_file import GroupFile, Parse, keyed, single

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# The kernel's "no limit" is LONG_MAX rounded down to a page; 64 KiB is the largest page.
UNLIMITED = 2**63 - 2**16


def parse_limit(text: str) -> Readings:
    r"""Return the memory limit in bytes; the kernel's largest number is no limit.

    >>> parse_limit("9223372036854771712\n")
    {}
    """
    limit = kernel_text.number(text)
    return {} if limit >= UNLIMITED else {"job_memory_limit_bytes": float(limit)}


def by_direction(read: str, written: str) -> Parse:
    r"""Return a parser of a file that tells reads from writes by device, ``major:minor``.

    >>> by_direction("read", "written")("8:0 Read 512\n8:0 Write 0\n8:0 Total 512\nTotal 512\n")
    {'read': {'8:0': 512.0}, 'written': {'8:0': 0.0}}
    """
    names = {"Read": read, "Write": written}

    def parse(text: str) -> Readings:
        families: dict[str, dict[str, float]] = {}
        for line in text.splitlines():
            words = line.split()
            if len(words) == 3 and words[1] in names:
                number = float(kernel_text.number(words[2]))
                families.setdefault(names[words[1]], {})[words[0]] = number
        return {**families}

    return parse


def parse_oom_kills(text: str) -> int | None:
    """Return the kills in one group alone, without its descendants; None before Linux 4.13."""
    return kernel_text.keyed_numbers(text).get("oom_kill")


def part(prefix: str) -> tuple[GroupFile, ...]:
    """Return what is read of a step or a task, for families of this prefix."""
    return (
        GroupFile("cpuacct.usage", single(f"{prefix}_cpu_seconds_total", per=1e9), "cpuacct"),
        GroupFile("memory.usage_in_bytes", single(f"{prefix}_memory_used_bytes"), "memory"),
        GroupFile("memory.max_usage_in_bytes", single(f"{prefix}_memory_peak_bytes"), "memory"),
    )


JOB = (
    GroupFile("cpuacct.usage", single("job_cpu_seconds_total", per=1e9), "cpuacct"),
    GroupFile(
        "cpuacct.stat",
        keyed(
            ("user", "job_cpu_user_seconds_total", TICKS_PER_SECOND),
            ("system", "job_cpu_system_seconds_total", TICKS_PER_SECOND),
        ),
        "cpuacct",
    ),
    GroupFile("cpu.stat", keyed(("throttled_time", "job_cpu_throttled_seconds_total", 1e9)), "cpu"),
    GroupFile("cpuset.effective_cpus", parse_cpus, "cpuset"),
    GroupFile("memory.usage_in_bytes", single("job_memory_used_bytes"), "memory"),
    GroupFile(
        "memory.stat",
        keyed(
            ("total_rss", "job_memory_anonymous_bytes", 1),
            ("total_cache", "job_memory_page_cache_bytes", 1),
            ("total_pgmajfault", "job_memory_major_faults_total", 1),
        ),
        "memory",
    ),
    GroupFile("memory.max_usage_in_bytes", single("job_memory_peak_bytes"), "memory"),
    GroupFile("memory.limit_in_bytes", parse_limit, "memory"),
    GroupFile("pids.current", single("job_threads"), "pids"),
    # The file without _recursive counts the processes of the group itself, and a job has none.
    GroupFile(
        "blkio.throttle.io_service_bytes_recursive",
        by_direction("job_io_read_bytes_total", "job_io_write_bytes_total"),
        "blkio",
    ),
    GroupFile(
        "blkio.throttle.io_serviced_recursive",
        by_direction("job_io_reads_total", "job_io_writes_total"),
        "blkio",
    ),
)

STEP, TASK = part("job_step"), part("job_task")

MONITORING = (
    GroupFile("cpuacct.usage", single("job_monitoring_cpu_seconds_total", per=1e9), "cpuacct"),
    GroupFile("memory.usage_in_bytes", single("job_monitoring_memory_used_bytes"), "memory"),
)
