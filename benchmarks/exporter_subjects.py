"""The exporters as they are measured, each with a source that is as large as in a real job."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import job_groups

from jobmeter.stack import NODE_EXPORTER_OPTIONS
from jobmeter_exporters.registry import EXPORTERS

TESTS = Path(__file__).parents[1] / "tests"
CGROUP_MS, NVIDIA_MS, OTHERS_MS = 2.0, 10.0, 5.0
STEPS, TASKS, PROCESSES = 3, 4, 1


@dataclass(frozen=True)
class Subject:
    """One exporter to start and scrape.

    Args:
        label: The first cell of its row.
        command: Starts it.
        port: Returns where it listens, None as long as it does not.
        path: What is scraped.
        environment: Variables beside those of this process.
        must_have: How samples begin without which the measurement would be of nothing.
        target_ms: Longest scrape, None where there is no target.
        before_scrape: Called before each, to let the source go on.
    """

    label: str
    command: list[str]
    port: Callable[[], int | None]
    path: str = "/metrics"
    environment: Mapping[str, str] = field(default_factory=dict)
    must_have: tuple[str, ...] = ()
    target_ms: float | None = OTHERS_MS
    before_scrape: Callable[[], None] = lambda: None


class Builder:
    """Builds subjects in a folder, and keeps what has to be undone.

    Args:
        folder: For everything that is written.
        stack: Gets what must end.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self._files = 0

    def ours(
        self,
        label: str,
        exporter: str,
        *options: str,
        wrap: Callable[..., list[str]] = lambda *words: list(words),
        **more: object,
    ) -> Subject:
        """Return one of our own exporters in a process of its own."""
        self._files += 1
        port_file = self.folder / f"port{self._files}"
        words = (sys.executable, "-m", "jobmeter_exporters", exporter, "--run-id", "bench")
        command = wrap(*words, "--port-file", str(port_file), *options)
        return Subject(label, command, lambda: _number_in(port_file), **more)  # type: ignore[arg-type]


@contextmanager
def subjects() -> Iterator[tuple[list[Subject], dict[str, str]]]:
    """Yield what can be measured here, and why what else there is cannot."""
    absent: dict[str, str] = {}
    found: list[Subject] = []
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="jobmeter-benchmark-"))
        builder = Builder(Path(name), stack)
        found += _node_exporter(builder, absent)
        for exporter in EXPORTERS:
            build = BUILDERS.get(exporter)
            if build is None:
                absent[exporter] = "no source stands in for it yet"
                continue
            found += build(builder, absent)
        yield found, absent


def _node_exporter(builder: Builder, absent: dict[str, str]) -> list[Subject]:
    names = ("node_exporter", "prometheus-node-exporter")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        absent["node_exporter"] = "not on PATH"
        return []
    port = _free_port()
    empty = builder.folder / "textfile"
    empty.mkdir()
    command = [
        *("env", "GOMAXPROCS=1", program, *NODE_EXPORTER_OPTIONS, "--collector.textfile"),
        *(f"--collector.textfile.directory={empty}", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    return [
        Subject(
            "node_exporter, as jobs have it",
            command,
            lambda: port if _answers(port) else None,
            must_have=("node_cpu_seconds_total",),
            target_ms=None,
        )
    ]


def _cgroup(builder: Builder, absent: dict[str, str]) -> list[Subject]:
    found = [
        builder.ours("cgroup, outside of a job: the frame alone", "cgroup", target_ms=CGROUP_MS)
    ]
    if not job_groups.versions():
        absent["cgroup in a job"] = "control groups cannot be written here"
    for version in job_groups.versions():
        for steps, tasks, options in (
            (STEPS, TASKS, ()),
            (STEPS, TASKS, ("--cgroup-steps", "tasks")),
            (1, 128, ()),
        ):
            groups = job_groups.job(f"{version}", steps, tasks, PROCESSES)
            job = builder.stack.enter_context(groups)
            found.append(
                builder.ours(
                    f"cgroup, {version}, {steps * tasks} tasks {' '.join(options)}".strip(),
                    "cgroup",
                    *options,
                    wrap=lambda *words, job=job, step=steps: job.command(step, 0, *words),
                    must_have=("job_cpu_seconds_total", "job_step_cpu_seconds_total"),
                    target_ms=CGROUP_MS,
                )
            )
    found.append(
        builder.ours(
            f"cgroup, {STEPS * TASKS} processes instead of groups",
            "cgroup",
            *("--job-pid", str(_tree(builder, STEPS * TASKS))),
            must_have=("job_cpu_seconds_total", "job_syscall_read_bytes_total"),
            target_ms=CGROUP_MS,
        )
    )
    parent, go_on = _changing_tree(builder, STEPS * TASKS)
    found.append(
        builder.ours(
            f"cgroup, {STEPS * TASKS} processes, one of them new at each scrape",
            "cgroup",
            *("--job-pid", str(parent)),
            must_have=("job_cpu_seconds_total", "job_syscall_read_bytes_total"),
            target_ms=CGROUP_MS,
            before_scrape=go_on,
        )
    )
    return found


def _tree(builder: Builder, processes: int) -> int:
    """Start a process with children that sleep, and return its id."""
    script = f"for i in $(seq {processes}); do sleep infinity & done; wait"
    parent = subprocess.Popen(["sh", "-c", script], start_new_session=True)
    builder.stack.callback(parent.wait)
    builder.stack.callback(os.killpg, parent.pid, signal.SIGKILL)
    return parent.pid


def _changing_tree(builder: Builder, processes: int) -> tuple[int, Callable[[], None]]:
    """Do the same; return also what replaces one of the children by a new one."""
    script = f"""
        for i in $(seq {processes}); do sleep infinity & done
        while read -r line; do kill $!; wait $! || true; sleep infinity & echo; done
    """
    pipe = subprocess.PIPE
    parent = subprocess.Popen(
        ["sh", "-c", script],
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    builder.stack.callback(parent.communicate)
    builder.stack.callback(os.killpg, parent.pid, signal.SIGKILL)
    assert parent.stdin is not None
    assert parent.stdout is not None
    orders, answers = parent.stdin, parent.stdout

    def replace_one() -> None:
        orders.write(b"\n")
        orders.flush()
        answers.readline()

    return parent.pid, replace_one


def _nvidia(builder: Builder, absent: dict[str, str]) -> list[Subject]:
    sys.path.append(str(TESTS / "exporters" / "nvml"))
    if shutil.which("cc") is None:
        absent["nvidia"] = "no C compiler for the stand-in of the driver"
        return []
    import nvml_node

    library = nvml_node.build_library(builder.folder / "nvml")
    node = nvml_node.Node(builder.folder / "gpus", library)

    def go_on() -> None:
        """Let the integrals of GPM grow as time does."""
        seconds = time.monotonic()
        busy = {f"*.gpm.{metric}": 50.0 * seconds for metric in (*range(1, 14), 20, 21, 60, 61)}
        node.say({"*.gpm.clock": seconds, **busy})

    go_on()
    environment = {
        key: value for key, value in node.environment.items() if key != "JOBMETER_NVML_CALLS"
    }
    more = {
        "environment": environment,
        "must_have": ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_"),
        "target_ms": NVIDIA_MS,
        "before_scrape": go_on,
    }
    every = ("--nvidia-devices", "all")
    return [
        builder.ours("nvidia, 4 GPUs", "nvidia", *every, **more),
        builder.ours(
            "nvidia, 4 GPUs, sampled every 50 ms",
            "nvidia",
            *(*every, "--nvidia-sample-interval", "50ms"),
            **more,
        ),
    ]


GAUDI_FIELDS = (
    "index\tuuid\tname\tutilization.aip [%]\tmemory.used [MiB]\tmemory.total [MiB]"
    "\ttemperature.aip [C]\tpower.draw [W]\tbus_id\tmodule_id\tclocks.current.soc [MHz]"
    "\tclocks.max.soc [MHz]"
)


def _hl_smi(builder: Builder, absent: dict[str, str]) -> list[Subject]:
    folder = builder.folder / "gaudi"
    folder.mkdir()
    rows = [
        f"{n}\t01P0-HL3090A0-{n}\tHL-325L\t90\t64000\t131072\t50\t400\t0000:3{n}:00.0\t{n}\t1600\t1800"
        for n in range(8)
    ]
    (folder / "rows").write_text("\n".join([GAUDI_FIELDS, *rows, ""]))
    path = f"{TESTS / 'exporters' / 'programs'}{os.pathsep}{os.environ['PATH']}"
    return [
        builder.ours(
            "hl-smi, 8 devices",
            "hl-smi",
            *("--hl-smi-source", "hl-smi"),
            environment={"PATH": path, "HL_SMI_ANSWERS": str(folder)},
            must_have=("hpu_utilization",),
        )
    ]


UPSTREAM = """
import http.server, pathlib, sys
body = pathlib.Path(sys.argv[1]).read_bytes()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


def _gateway(builder: Builder, absent: dict[str, str]) -> list[Subject]:
    source, port = TESTS / "fixtures" / "expositions" / "vllm-0.32.0-cpu-after.prom", _free_port()
    service = subprocess.Popen([sys.executable, "-c", UPSTREAM, str(source), str(port)])
    builder.stack.callback(service.wait)
    builder.stack.callback(service.terminate)
    _wait_for(port)
    return [
        builder.ours(
            f"gateway, {source.stat().st_size / 1000:.0f} kB of vLLM",
            "gateway",
            *("--gateway-upstream", f"vllm=http://127.0.0.1:{port}/metrics"),
            path="/metrics/vllm",
        )
    ]


LOG = """
import sys, time
line = ("INFO 11-22 20:40:%02d [loggers.py:123] Engine 000: Avg prompt throughput: 123.4 tokens/s, "
        "Avg generation throughput: 456.7 tokens/s, Running: 8 reqs, Waiting: 0 reqs\\n")
with open(sys.argv[1], "a", buffering=1) as log:
    for second in range(86400):
        for _ in range(int(sys.argv[2])):
            log.write(line % (second % 60))
        time.sleep(1)
"""
LINES_PER_SECOND = 100


def _logs(builder: Builder, absent: dict[str, str]) -> list[Subject]:
    log = builder.folder / "vllm.log"
    command = [sys.executable, "-c", LOG, str(log), str(LINES_PER_SECOND)]
    writer = subprocess.Popen(command)
    builder.stack.callback(writer.wait)
    builder.stack.callback(writer.terminate)
    rules = ("--logs-rules", "vllm", "--logs-rules", "levels")
    return [
        builder.ours(
            f"logs, {LINES_PER_SECOND} lines per second",
            "logs",
            *("--logs-follow", f"vllm={log}", *rules),
            must_have=("jobmeter_log_lines_total",),
        )
    ]


SLURM = """#!/bin/sh
[ "$1" = --json ] && { echo "unrecognized option '--json'" >&2; exit 1; }
cat "$(dirname "$0")/${0##*/}.answer"
"""
JOBS, NODES = 2000, 500


def _queue(builder: Builder, absent: dict[str, str]) -> list[Subject]:
    folder = builder.folder / "slurm"
    folder.mkdir()
    from jobmeter_exporters.slurm_queue_answers import SEPARATOR

    times = ("", "2026-11-22T20:00:00", "2026-11-22T21:00:00")
    states = (("PENDING", *times, "Priority"), ("RUNNING", *times, "None"))
    jobs = [SEPARATOR.join((str(1000 + n % 40), *states[n % 2])) for n in range(JOBS)]
    uses = (("idle", "0/1/0/1", "0/128/0/128"), ("allocated", "1/0/0/1", "128/0/0/128"))
    nodes = [SEPARATOR.join((f"n{n:04}", "cpu", *uses[n % 2])) for n in range(NODES)]
    for name, lines in (("squeue", jobs), ("sinfo", nodes)):
        (folder / f"{name}.answer").write_text("\n".join([*lines, ""]))
        (folder / name).write_text(SLURM)
        (folder / name).chmod(0o755)
    return [
        builder.ours(
            f"queue, {JOBS} jobs, {NODES} nodes",
            "queue",
            *("--queue-source", "text"),
            environment={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
            must_have=("queue_jobs",),
        )
    ]


BUILDERS: Mapping[str, Callable[[Builder, dict[str, str]], list[Subject]]] = {
    "cgroup": _cgroup,
    "gateway": _gateway,
    "hl-smi": _hl_smi,
    "logs": _logs,
    "nvidia": _nvidia,
    "queue": _queue,
}


def _number_in(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20.0
    while not _answers(port):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.02)
