"""The command as a real process, over the stand-in for the driver."""

import http.client
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from nvml_node import DEADLINE_S, Node
from waiting import until

from jobmeter_exporters.__main__ import main

COMMAND = (sys.executable, "-m", "jobmeter_exporters")


@contextmanager
def serving(node, *arguments, within=()):
    """Run the exporters, ``within`` a program; yield what gets a path, and the process."""
    port_file = node.root / "port"
    with subprocess.Popen(
        [*within, *COMMAND, *arguments, "--run-id", "r1", "--port-file", str(port_file)],
        env=node.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not port_file.exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
        port = int(port_file.read_text())

        def get(path="/metrics"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            assert answer.status == 200
            return text

        try:
            yield get, process
        finally:
            process.kill()


def samples(text, family):
    return [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(f"{family}{{")
    ]


def test_serves_four_gpus_and_leaves_the_driver_in_order(node):
    with serving(node, "cgroup", "nvidia") as (get, process):
        text = get()
        assert samples(text, "DCGM_FI_DEV_POWER_USAGE") == [600.123] * 4
        assert 'jobmeter_collector_success{collector="nvidia"} 1.0' in text
        assert samples(get("/metrics/nvidia"), "DCGM_FI_DEV_GPU_TEMP") == [60] * 4
        assert not samples(get("/metrics/cgroup"), "DCGM_FI_DEV_GPU_TEMP")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, "")
    assert "nvidia" not in err
    assert node.take_calls()[-1] == "shutdown"


def test_many_scrapes_at_once_are_each_whole(node):
    """Over both paths, whose locks are not the same."""
    with (
        serving(node, "nvidia", "--nvidia-sample-interval", "10ms") as (get, process),
        ThreadPoolExecutor(8) as pool,
    ):
        texts = list(pool.map(get, ["/metrics", "/metrics/nvidia"] * 20))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert all(len(samples(text, "DCGM_FI_DEV_POWER_USAGE")) == 4 for text in texts)
    assert all('success{collector="nvidia"} 1.0' in text for text in texts)
    assert (process.returncode, err) == (0, "")


def test_the_sampler_reads_in_the_background(node):
    with serving(node, "nvidia", "--nvidia-sample-interval", "10ms") as (get, _):
        get()
        node.say({"*.field.186": "900000"})
        node.take_calls()
        asked, deadline = 0, time.monotonic() + DEADLINE_S
        while asked < 5:
            asked += node.take_calls().count("3.field.186")
            assert time.monotonic() < deadline
        text = get()
    assert min(samples(text, "nvidia_sampled_readings")) >= 5
    assert samples(text, "nvidia_sampled_power_watts_max") == [900] * 4


def test_a_sampler_that_fails_says_so_once_and_goes_on(node):
    """Of what is no error of NVML: no memory for as many samples as a mad driver announces."""
    limited = ("prlimit", f"--as={8 * 2**30}")
    with serving(node, "nvidia", "--nvidia-sample-interval", "10ms", within=limited) as (get, run):
        node.say({"2.samples.1.buffer": 2**32 - 1, "2.samples.1": "2000000:50"})
        until(lambda: 'success{collector="nvidia"} 0.0' in get())
        text = get()
        assert samples(text, "DCGM_FI_DEV_POWER_USAGE") == [600.123] * 4
        assert 'success{collector="nvidia"} 0.0' in text
        node.say({"2.samples.1.buffer": None})
        until(lambda: 'success{collector="nvidia"} 1.0' in get())
        until(lambda: len(samples(get(), "nvidia_sampled_power_watts_max")) == 4)
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=DEADLINE_S)
    (line,) = err.splitlines()
    assert "GPU 2: the sampler failed: MemoryError(); please report this" in line


@pytest.mark.parametrize(
    ("options", "hangs"),
    [((), "*.power"), (("--nvidia-sample-interval", "10ms"), "*.field.186")],
)
def test_a_driver_that_hangs_stops_neither_the_others_nor_the_end(node, options, hangs):
    with serving(node, "cgroup", "nvidia", *options) as (get, process):
        node.say({hangs: "hang"})
        text = get()
        assert 'success{collector="cgroup"} 1.0' in text
        assert 'success{collector="nvidia"} 0.0' in text
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert "the driver does not answer" in err
    assert "Traceback" not in err


def run(node, *arguments, **variables):
    return subprocess.run(
        [*COMMAND, "nvidia", "--run-id", "r1", *arguments],
        env={**node.environment, **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def test_required_and_no_driver_is_3_and_one_line(node):
    node.say({"init": "error 9"})
    done = run(node, "--required")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("jobmeter exporter: nvidia: NVML: Driver Not Loaded (9): ")
    assert done.stderr.count("\n") == 1


def test_required_and_no_gpu_for_the_job_is_3(node):
    done = run(node, "--required", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 3
    assert done.stderr == "jobmeter exporter: nvidia: CUDA_VISIBLE_DEVICES names no GPU\n"


def test_required_and_no_library_is_3(tmp_path):
    done = run(Node(tmp_path, None), "--required")
    assert done.returncode == 3
    assert "libnvidia-ml.so.1 is not found" in done.stderr


def test_without_the_bindings_it_says_what_to_install(node, tmp_path):
    (tmp_path / "pynvml.py").write_text("raise ImportError('no module named pynvml')\n")
    path = f"{tmp_path}{os.pathsep}{node.environment['PYTHONPATH']}"
    done = run(node, PYTHONPATH=path)
    assert done.returncode == 1
    assert "install nvidia-ml-py" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--nvidia-devices", "", "names no GPU; write auto, all or such as 0,2-3"),
        ("--nvidia-devices", "none", "'none' names no GPU"),
        ("--nvidia-sample-interval", "50", "write it as 50ms or 0.5s"),
        ("--nvidia-sample-interval", "1ms", "between 10 ms and 10 s"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_right(option, value, words, capsys):
    assert main(["nvidia", "--run-id", "r1", option, value]) == 2
    assert words in capsys.readouterr().err


def test_who_asks_for_another_exporter_loads_no_binding():
    code = (
        "import sys; from jobmeter_exporters.__main__ import parse; "
        "parse(['cgroup', '--run-id', 'r1']); print('pynvml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
