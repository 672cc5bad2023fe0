"""The command as a real process."""

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import jobmeter_exporters
from jobmeter_exporters.__main__ import STOP_SIGNALS, address, main, parse, serve, stop_requests
from jobmeter_exporters.errors import NothingToReport
from jobmeter_exporters.registry import EXPORTERS
from jobmeter_exporters.server import ExporterServer
from jobmeter_exporters.settings import Settings

DEADLINE_S = 20.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(jobmeter_exporters.__file__).parents[1])}


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "jobmeter_exporters", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def port_of(path, process):
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
    return int(path.read_text())


@pytest.fixture
def port_file(tmp_path):
    return tmp_path / "port"


def get(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal(port_file, stop):
    process = start("cgroup", "--run-id", "r 1", "--port-file", str(port_file))
    port = port_of(port_file, process)
    status, text = get(port)
    assert status == 200
    assert 'jobmeter_run_info{run_id="r 1"} 1.0' in text
    assert 'jobmeter_collector_success{collector="cgroup"} 1.0' in text
    with socket.create_connection(("127.0.0.1", port)):  # half open, must not hold up the end
        process.send_signal(stop)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert "GET" not in err


def test_job_pid_and_excluded_pid(port_file):
    pid = str(os.getpid())
    arguments = ("--run-id", "r1", "--port-file", str(port_file), "--job-pid", pid)
    process = start("cgroup", "cgroup", *arguments, "--exclude-pid", "1", "--exclude-pid", "2")
    _, text = get(port_of(port_file, process))
    process.terminate()
    process.communicate(timeout=DEADLINE_S)
    assert "job_cpu_seconds_total " in text


def test_port_in_use_is_98_and_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = run("cgroup", "--run-id", "r1", "--listen", where)
    assert code == 98
    assert (out, err) == ("", f"jobmeter exporter: {where} is in use; try another port\n")


def test_no_password_beyond_loopback_is_1_and_one_line():
    code, _, err = run("cgroup", "--run-id", "r1", "--listen", "0.0.0.0:0")
    assert code == 1
    assert err.count("\n") == 1
    assert "give --password-file" in err


def test_unknown_exporter_names_the_known_ones(capsys):
    assert main(["cgroup", "nvidea", "--run-id", "r1"]) == 2
    assert "no exporter 'nvidea'; there is cgroup" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["cgroup"],
        ["cgroup", "--run-id", "r1", "--job-pid", "0"],
        ["cgroup", "--run-id", "r1", "--listen", "localhost"],
    ],
)
def test_wrong_usage_is_2(arguments, capsys):
    assert main(arguments) == 2
    assert "usage:" in capsys.readouterr().err


def test_help_is_0(capsys):
    assert main(["--help"]) == 0
    assert "--password-file" in capsys.readouterr().out


def test_signals_are_as_before_after_the_end(capsys):
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    main(["--help"])
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_stop_during_the_start_is_orderly():
    """The signal waits until the server runs, and then ends it at once."""
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert serve(["cgroup"], Settings(run_id="r1"), stop) == 0


def test_a_signal_of_the_caller_is_not_a_stop():
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGTERM)
            assert serve(["cgroup"], Settings(run_id="r1"), stop) == 0
            stop.setblocking(False)
            with pytest.raises(BlockingIOError):
                stop.recv(1)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_scrape_in_progress_is_finished(port_file, monkeypatch):
    released = threading.Event()

    class Blocked:
        def collect(self):
            stop_writer.send(bytes([signal.SIGTERM]))
            assert released.wait(DEADLINE_S)
            return iter(())

    def finish(server, timeout_s):
        released.set()
        return wait_until_idle(server, timeout_s)

    wait_until_idle = ExporterServer.finish
    monkeypatch.setattr(ExporterServer, "finish", finish)
    module = SimpleNamespace(from_settings=lambda settings: Blocked())
    monkeypatch.setitem(EXPORTERS, "blocked", "blocked")
    monkeypatch.setitem(sys.modules, "blocked", module)
    stop_reader, stop_writer = socket.socketpair()
    settings = Settings(run_id="r1", port_file=port_file)
    with stop_reader, stop_writer, ThreadPoolExecutor() as pool:
        code = pool.submit(serve, ["blocked"], settings, stop_reader)
        deadline = time.monotonic() + DEADLINE_S
        while not port_file.exists():
            assert time.monotonic() < deadline
        status, text = get(int(port_file.read_text()))
        assert code.result(DEADLINE_S) == 0
    assert status == 200
    assert 'jobmeter_collector_success{collector="blocked"} 1.0' in text


def test_settings_from_the_command_line():
    listen = ("--listen", "[::1]:9400", "--username", "u", "--password-file", "/p")
    pids = ("--exclude-pid", "7", "--exclude-pid", "8", "--job-pid", "6")
    names, settings = parse(["cgroup", "--run-id", "r1", *listen, *pids])
    assert names == ("cgroup",)
    assert (settings.host, settings.port, settings.username) == ("::1", 9400, "u")
    assert (settings.password_file, settings.port_file) == (Path("/p"), None)
    assert (settings.job_pid, settings.exclude_pids) == (6, (7, 8))


@pytest.mark.parametrize(
    "text", ["", "9400", "host", "host:", "host:x", "host:65536", "::1:9400", "h:-1", "h:²"]
)
def test_no_address(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not HOST:PORT"):
        address(text)


def test_start_imports_no_heavy_module():
    heavy = {"numpy", "pandas", "pydantic", "httpx", "jobmeter", "asyncio"}
    code = f"import sys, jobmeter_exporters.__main__; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert out.stdout == "[]\n"


class InBackground:
    """A collector with something to start, and to end."""

    def __init__(self):
        self.did = []

    def __enter__(self):
        self.did.append("started")
        return self

    def __exit__(self, *_):
        self.did.append("ended")

    def collect(self):
        self.did.append("read")
        return iter(())


def test_what_runs_in_the_background_is_started_and_ended(monkeypatch):
    collector = InBackground()
    monkeypatch.setitem(EXPORTERS, "own", "own")
    monkeypatch.setitem(
        sys.modules, "own", SimpleNamespace(from_settings=lambda settings: collector)
    )
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.send(bytes([signal.SIGTERM]))
        assert serve(["own"], Settings(run_id="r1"), reader) == 0
        assert collector.did == ["started", "ended"]
        with pytest.raises(NothingToReport, match="own: nothing of it is on this node"):
            serve(["own"], Settings(run_id="r1", required=True), reader)
    assert collector.did[2:] == ["started", "read", "ended"]


def test_nothing_to_report_is_3_and_one_line():
    # No process is named from which the monitoring starts, which is nothing to report anywhere.
    code, out, err = run("helpers", "--run-id", "r1", "--required")
    assert (code, out) == (3, "")
    assert err.startswith("jobmeter exporter: helpers: no --exclude-pid lives")
    assert err.count("\n") == 1
