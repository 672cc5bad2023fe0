"""On control groups of the running kernel, version 2, laid out as Slurm does."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from told_script import DEADLINE_S
from waiting import until

from jobmeter_exporters.cgroup_path import UNIFIED, parse_mounts

MEGABYTE = 10**6


def writable_tree():
    for mount in parse_mounts(Path("/proc/self/mountinfo").read_text()):
        if UNIFIED in mount.controllers and not mount.root and os.access(mount.point, os.W_OK):
            return Path(mount.point)
    return None


@pytest.fixture
def job():
    """The folder of a job's group."""
    tree = writable_tree()
    if tree is None:
        pytest.skip("no cgroup v2 tree that this user may write to")
    top = tree / f"jobmeter-test-{os.getpid()}"
    yield top / "slurmstepd.scope" / "job_1"
    for folder in sorted(top.rglob("*/"), reverse=True):
        if folder.is_dir():
            until(lambda folder=folder: not (folder / "cgroup.procs").read_text())
            folder.rmdir()
    top.rmdir()


@pytest.fixture
def exporter(job, tmp_path):
    """Scrapes an exporter that runs in step 1 of the job."""
    group = made(job, "1")
    port_file = tmp_path / "port"
    words = (sys.executable, "-m", "jobmeter_exporters", "cgroup", "--run-id", "r1")
    command = (*words, "--cgroup-steps", "tasks", "--port-file", str(port_file))
    join = f'echo $$ >{group}/cgroup.procs; exec "$@"'
    with subprocess.Popen(["sh", "-c", join, "sh", *command], stderr=subprocess.PIPE) as process:
        until(lambda: port_file.exists() or process.poll() is not None)
        url = f"http://127.0.0.1:{int(port_file.read_text())}/metrics/cgroup"

        def scrape():
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                text = answer.read().decode()
            return {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }

        yield scrape
        process.terminate()
        _, said = process.communicate(timeout=DEADLINE_S)
    assert said == b""


def made(job, step):
    group = job / f"step_{step}" / "user" / "task_0"
    group.mkdir(parents=True)
    return group


@pytest.fixture
def task(job, script):
    """The one process of step 0; it has ended before its group is removed."""
    (made(job, "0") / "cgroup.procs").write_text(f"{script.pid}\n")
    yield script
    (job.parents[1] / "cgroup.procs").write_text(f"{script.pid}\n")


def test_a_task_that_works_is_seen_working(exporter, task):
    before = exporter()
    assert before["job_source_info", "cgroup_v2"] == 1
    assert before["job_steps",] == 2
    assert before["job_processes",] == 2
    task.do(f"burn(0.3); take({MEGABYTE}); os.waitpid(fork('burn(0.1); take({MEGABYTE})'), 0)")
    after = exporter()
    spent = {key: value - before[key] for key, value in after.items()}
    for used in (
        ("job_step_cpu_seconds_total", "0"),
        ("job_task_cpu_seconds_total", "0", "0"),
        ("job_cpu_seconds_total",),
    ):
        assert 0.38 <= spent[used] < 1, used
    assert spent["job_monitoring_cpu_seconds_total",] < 0.2
    assert 2 * MEGABYTE <= spent["job_syscall_read_bytes_total",] < 2.5 * MEGABYTE
    assert after["job_processes_without_io",] == 0
    assert after["jobmeter_collector_success", "cgroup"] == 1


def test_what_ended_steps_have_done_stays(exporter, job, task):
    task.do(f"take({MEGABYTE})")
    before = exporter()
    (job.parents[1] / "cgroup.procs").write_text(f"{task.pid}\n")
    for folder in ("step_0/user/task_0", "step_0/user", "step_0"):
        (job / folder).rmdir()
    after = exporter()
    assert ("job_step_cpu_seconds_total", "0") not in after
    assert after["job_cpu_seconds_total",] >= before["job_cpu_seconds_total",]
    assert after["job_syscall_read_bytes_total",] >= before["job_syscall_read_bytes_total",]
    assert after["job_steps",] == 1
    assert after["jobmeter_collector_success", "cgroup"] == 1
