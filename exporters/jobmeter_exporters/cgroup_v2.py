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
    r"""Return the bytes read and written by device, named ``major:minor``.

    >>> parse_io_stat("8:0 rbytes=512 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n")
    {'job_io_read_bytes_total': {'8:0': 512.0}, 'job_io_write_bytes_total': {'8:0': 0.0}}
    """
    read: dict[str, float] = {}
    written: dict[str, float] = {}
    for line in text.splitlines():
        device, *pairs = line.split()[:64] or [""]
        values = kernel_text.keyed_numbers("\n".join(pair.replace("=", " ", 1) for pair in pairs))
        # A device that the job has only opened has a line without values.
        if "rbytes" in values and "wbytes" in values:
            read[device], written[device] = float(values["rbytes"]), float(values["wbytes"])
    if not read:
        return {}
    return {"job_io_read_bytes_total": read, "job_io_write_bytes_total": written}


def pressure(resource: str) -> Parse:
    """Return a parser for the ``some`` total (microseconds) of a pressure file.

    Format: https://docs.kernel.org/accounting/psi.html
    """

    def parse(text: str) -> Readings:
        for line in text.splitlines():
            if line.startswith("some "):
                total = kernel_text.number(line.rpartition("total=")[2])
                return {"job_pressure_waiting_seconds_total": {resource: total / 1e6}}
        raise UnexpectedText(f"expected a line 'some ... total=' and found {text[:60]!r}")

    return parse


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
    GroupFile("memory.stat", keyed(("anon", "job_memory_anonymous_bytes", 1))),
    GroupFile("memory.peak", single("job_memory_peak_bytes")),  # Linux 5.19
    GroupFile("memory.max", parse_limit),
    GroupFile("memory.events", keyed(("oom_kill", "job_memory_oom_kills_total", 1))),
    GroupFile("pids.current", single("job_threads")),  # the kernel counts tasks, that is threads
    GroupFile("io.stat", parse_io_stat),
    GroupFile("cpu.pressure", pressure("cpu")),
    GroupFile("io.pressure", pressure("io")),
    GroupFile("memory.pressure", pressure("memory")),
)

MONITORING = (
    GroupFile("cpu.stat", keyed(("usage_usec", "job_monitoring_cpu_seconds_total", 1e6))),
    GroupFile("memory.current", single("job_monitoring_memory_used_bytes")),
)
