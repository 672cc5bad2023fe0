"""What is left of a training when its process ends, and what its children do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jobmeter_exporters

DEADLINE_S = 60.0
START = """
import os, signal, sys
from jobmeter_exporters.training import TrainingMonitor
monitor = TrainingMonitor()
for _ in range(3):
    with monitor.step(samples=2):
        pass
"""


@pytest.fixture
def job(tmp_path):
    """Folders of a job, and the environment of its commands."""
    for name in ("endpoints", "final"):
        (tmp_path / name).mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment = {
        **kept,
        "PYTHONPATH": str(Path(jobmeter_exporters.__file__).parents[1]),
        "JOBMETER_ENDPOINTS_DIR": str(tmp_path / "endpoints"),
        "JOBMETER_FINAL_METRICS": str(tmp_path / "final"),
        "SLURMD_NODENAME": "n1",
    }
    return tmp_path, environment


def run(job, code, **variables):
    folder, environment = job
    program = folder / "program.py"
    program.write_text(code)
    return subprocess.run(
        [sys.executable, str(program)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def left(job, name="training@n1.prom"):
    return (job[0] / "final" / name).read_text()


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(5)", 5),
        ("raise RuntimeError('the loss is no number')", 1),
        ("monitor.close(); os._exit(0)", 0),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); signal.raise_signal(15)", 4),
        ("signal.alarm(20); signal.pthread_kill(__import__('threading').get_ident(), 15)", -15),
    ],
)
def test_the_last_step_is_never_lost(job, end, code):
    done = run(job, f"{START}\n{end}\n")
    assert done.returncode == code, done.stderr
    assert "training_samples_total 6.0" in left(job)
    assert "training_step_duration_seconds_count 3.0" in left(job)
    assert list((job[0] / "endpoints").iterdir()) == []
    assert [path.name for path in (job[0] / "final").iterdir()] == ["training@n1.prom"]


def test_a_handler_that_was_there_is_left_alone(job):
    done = run(
        job,
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('mine'))\n"
        f"{START}\nos.kill(os.getpid(), signal.SIGTERM)\n"
        "with monitor.step(samples=2): pass\n",
    )
    assert (done.returncode, done.stdout) == (0, "mine\n")
    assert "training_samples_total 8.0" in left(job)


def test_a_signal_that_comes_while_something_is_counted_does_not_block(job):
    done = run(
        job,
        f"{START}\n"
        "with monitor._lock, monitor._reading:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    signal.pause()\n",
    )
    assert done.returncode == -signal.SIGTERM
    assert "training_samples_total 6.0" in left(job)


def test_a_forked_child_neither_serves_nor_leaves_anything(job):
    done = run(
        job,
        f"{START}\n"
        "import http.client\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    with monitor.step(samples=100): pass\n"
        "    assert monitor.port is None\n"
        "    sys.exit(7)\n"  # runs what is registered for the end of the process
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "assert os.listdir(os.environ['JOBMETER_FINAL_METRICS']) == []\n"
        "assert len(os.listdir(os.environ['JOBMETER_ENDPOINTS_DIR'])) == 1\n"
        "ask = http.client.HTTPConnection('127.0.0.1', monitor.port, timeout=20)\n"
        "ask.request('GET', '/metrics')\n"
        "assert b'training_samples_total 6.0' in ask.getresponse().read()\n",
    )
    assert done.returncode == 0, done.stderr
    assert "training_samples_total 6.0" in left(job)


def test_a_child_that_lives_on_does_not_hold_the_port(job):
    done = run(
        job,
        f"{START}\n"
        "import socket\n"
        "port = monitor.port\n"
        "reader, writer = os.pipe()\n"
        "if not os.fork():\n"
        "    os.close(writer)\n"
        "    os.read(reader, 1)\n"  # until the parent is gone
        "    os._exit(0)\n"
        "monitor.close()\n"
        "refused = socket.socket().connect_ex(('127.0.0.1', port))\n"
        "print(os.strerror(refused))\n",
    )
    assert done.stdout == "Connection refused\n", done.stderr


def test_a_child_dies_of_sigterm_as_any_other(job):
    done = run(
        job,
        f"{START}\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n",
    )
    assert done.stdout == "-15\n", done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("daemon", [False, True])
def test_ranks_and_workers_that_multiprocessing_starts(job, method, daemon):
    """A rank reports. A daemonic process, as a data loader starts them, does not."""
    done = run(
        job,
        "import multiprocessing\n"
        "from jobmeter_exporters.training import TrainingMonitor\n"
        "def train(rank):\n"
        "    monitor = TrainingMonitor(rank=rank, world_size=2)\n"
        "    with monitor.step(samples=3): pass\n"
        "if __name__ == '__main__':\n"
        f"    start = multiprocessing.get_context({method!r}).Process\n"
        f"    ranks = [start(target=train, args=(n,), daemon={daemon}) for n in range(2)]\n"
        "    for rank in ranks: rank.start()\n"
        "    for rank in ranks: rank.join()\n"
        "    assert [rank.exitcode for rank in ranks] == [0, 0]\n",
    )
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (job[0] / "final").iterdir())
    ranks = ["training-rank0@n1.prom", "training-rank1@n1.prom"]
    assert found == ([] if daemon else ranks)
    for name in found:
        assert 'training_samples_total{rank="' in left(job, name)


def test_ranks_of_a_launcher_have_a_port_each(job):
    """As torchrun starts them: told apart by their environment alone."""
    folder, environment = job
    program = f"{START}\nprint(monitor.port, flush=True); sys.stdin.read()\n"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**environment, "RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    ports = [int(rank.stdout.readline()) for rank in ranks]
    files = sorted((folder / "endpoints").iterdir())
    said = [json.loads(path.read_text()) for path in files]
    for rank in ranks:
        rank.communicate(timeout=DEADLINE_S)
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert [(one["service"], one["port"], one["rank"]) for one in said] == [
        ("training-rank0", ports[0], 0),
        ("training-rank1", ports[1], 1),
    ]
    assert [one["pid"] for one in said] == [rank.pid for rank in ranks]
    assert 'training_samples_total{rank="1"} 6.0' in left(job, "training-rank1@n1.prom")


def test_without_a_job_nothing_is_written(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBMETER")}
    done = subprocess.run(
        [sys.executable, "-c", f"{START}\nassert monitor.port"],
        env={**kept, "PYTHONPATH": str(Path(jobmeter_exporters.__file__).parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_only_prometheus_client_is_imported():
    heavy = {"torch", "numpy", "lightning", "transformers", "jobmeter", "jobmeter_analysis"}
    code = f"import sys, jobmeter_exporters.training; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
