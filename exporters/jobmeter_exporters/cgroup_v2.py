"""What a v2 group says about itself.

Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html, "Controllers". Every number of a group
includes its descendants, also those that have been removed.
"""

from __future__ import annotations

from jobmeter_exporters import kernel_text
from jobmeter_exporters.errors import UnexpectedText
from jobmeter_exporters.families import Readings
from jobmeter_exporters.group_file import GroupFile, Parse, keyed, single


def parse_limit(text: str) -> Readings:
    r"""Return the memory limit in bytes; ``max`` is no limit and gives nothing.

    >>> parse_limit("max\n")
    {}
    """
    if text.strip() == "max":
        return {}
    return {"job_memory_limit_bytes": float(kernel_text.number(text))}


def parse_cpus(text: str) -> Readings:
    r"""Return how many CPUs ``cpuset.cpus.effective`` names, and which; empty gives nothing.

    >>> parse_cpus("0-3,8\n")
    {'job_cpus': 5.0, 'job_cpu_list_info': {'0-3,8': 1.0}}
    """
    cpus = text.strip()
    if not cpus:
        return {}
    return {"job_cpus": float(kernel_text.cpu_count(cpus)), "job_cpu_list_info": {cpus: 1.0}}


def parse_io_stat(text: str) -> Readings:
    r"""Return bytes and requests by device, named ``major:minor``; discards are left out.

    >>> told = parse_io_stat("8:0 rbytes=512 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n")
    >>> told["job_io_read_bytes_total"], told["job_io_writes_total"]
    ({'8:0': 512.0}, {'8:0': 0.0})
    """
    families: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        device, *pairs = line.split()[:64] or [""]
        values = kernel_text.keyed_numbers("\n".join(pair.replace("=", " ", 1) for pair in pairs))
        # A device that the job has only opened has a line without values.
        for key, family in IO_STAT.items():
            if key in values:
                families.setdefault(family, {})[device] = float(values[key])
    return {**families}


def parse_events(text: str) -> Readings:
    r"""Return how often memory ran short, by what happened then; and the processes killed.

    >>> parse_events("low 0\nmax 3\noom 1\noom_kill 1\n")
    {'job_memory_oom_kills_total': 1.0, 'job_memory_events_total': {'max': 3.0, 'oom': 1.0}}
    """
    values = kernel_text.keyed_numbers(text)
    readings: Readings = {}
    if "oom_kill" in values:
        readings["job_memory_oom_kills_total"] = float(values["oom_kill"])
    events = {name: float(values[name]) for name in EVENTS if name in values}
    if events:
        readings["job_memory_events_total"] = events
    return readings


def pressure(resource: str) -> Parse:
    """Return a parser for the totals (microseconds) of a pressure file.

    Format: https://docs.kernel.org/accounting/psi.html. There is no ``full`` line for the CPU
    before Linux 5.13.
    """

    def parse(text: str) -> Readings:
        readings: Readings = {}
        for line in text.splitlines():
            family = PRESSURE.get(line.partition(" ")[0])
            if family is not None:
                total = kernel_text.number(line.rpartition("total=")[2])
                readings[family] = {resource: total / 1e6}
        if PRESSURE["some"] not in readings:
            raise UnexpectedText(f"expected a line 'some ... total=' and found {text[:60]!r}")
        return readings

    return parse


def part(prefix: str) -> tuple[GroupFile, ...]:
    """Return what is read of a step or a task, for families of this prefix.

    Not ``memory.stat``, which costs as much as the others together.
    """
    return (
        GroupFile("cpu.stat", keyed(("usage_usec", f"{prefix}_cpu_seconds_total", 1e6))),
        GroupFile("memory.current", single(f"{prefix}_memory_used_bytes")),
        GroupFile("memory.peak", single(f"{prefix}_memory_peak_bytes")),
        GroupFile("memory.events", keyed(("oom_kill", f"{prefix}_memory_oom_kills_total", 1))),
    )


EVENTS = ("high", "max", "oom")

IO_STAT = {
    "rbytes": "job_io_read_bytes_total",
    "wbytes": "job_io_write_bytes_total",
    "rios": "job_io_reads_total",
    "wios": "job_io_writes_total",
}

PRESSURE = {
    "some": "job_pressure_waiting_seconds_total",
    "full": "job_pressure_stalled_seconds_total",
}

JOB = (
    GroupFile(
        "cpu.stat",
        keyed(
            ("usage_usec", "job_cpu_seconds_total", 1e6),
            ("user_usec", "job_cpu_user_seconds_total", 1e6),
            ("system_usec", "job_cpu_system_seconds_total", 1e6),
            ("throttled_usec", "job_cpu_throttled_seconds_total", 1e6),
        ),
    ),
    GroupFile("cpuset.cpus.effective", parse_cpus),
    GroupFile("memory.current", single("job_memory_used_bytes")),
    GroupFile(
        "memory.stat",
        keyed(
            ("anon", "job_memory_anonymous_bytes", 1),
            ("file", "job_memory_page_cache_bytes", 1),
            ("pgmajfault", "job_memory_major_faults_total", 1),
        ),
    ),
    GroupFile("memory.peak", single("job_memory_peak_bytes")),  # Linux 5.19
    GroupFile("memory.max", parse_limit),
    GroupFile("memory.events", parse_events),
    GroupFile("pids.current", single("job_threads")),  # the kernel counts tasks, that is threads
    GroupFile("io.stat", parse_io_stat),
    GroupFile("cpu.pressure", pressure("cpu")),
    GroupFile("io.pressure", pressure("io")),
    GroupFile("memory.pressure", pressure("memory")),
)

STEP, TASK = part("job_step"), part("job_task")

MONITORING = (
    GroupFile("cpu.stat", keyed(("usage_usec", "job_monitoring_cpu_seconds_total", 1e6))),
    GroupFile("memory.current", single("job_monitoring_memory_used_bytes")),
)
