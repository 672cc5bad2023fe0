"""What the exporter says of the steps and tasks of a real job, from inside it."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from slurm_user import until

pytestmark = pytest.mark.cluster

TASK = """
import os, sys, time
seconds, megabytes = float(sys.argv[1]), int(sys.argv[2])
kept = bytearray(os.urandom(1024)) * 1024 * megabytes
with open("/dev/zero", "rb", buffering=0) as zero:
    for _ in range(10):
        zero.read(1_000_000)
while time.process_time() < seconds:
    pass
mine = f"{os.environ['SLURM_STEP_ID']}.{os.environ['SLURM_PROCID']}"
open(f"steps/{mine}", "w").close()
while not os.path.exists("steps/go"):
    time.sleep(0.05)
"""

JOB = """#!/bin/bash
#SBATCH --nodes=1 --ntasks=4 --mem=1200 --time=00:05:00 --output=steps/output
/opt/jobmeter/bin/jobmeter exporter cgroup --run-id r1 --cgroup-steps tasks \
  --port-file steps/port &
exporter=$!
srun --overlap --ntasks=2 --mem=500 python3 steps/task.py 1.0 40 &
first=$!
until [[ -e steps/0.0 && -e steps/0.1 ]]; do sleep 0.1; done
srun --overlap --ntasks=1 --mem=500 python3 steps/task.py 3.0 160 &
second=$!
until [[ -e steps/1.0 && -s steps/port ]]; do sleep 0.1; done
scrape() { curl --silent "localhost:$(<steps/port)/metrics" >"steps/$1"; }
scrape during.prom
touch steps/go
wait "$first" "$second"
scrape after.prom
kill "$exporter"; wait "$exporter"
touch steps/end
"""


@pytest.fixture(scope="module")
def scrapes(slurm):
    """One with two steps that have done their work and wait, one after they ended."""
    if not slurm.cgroups:
        pytest.skip("this cluster's Slurm has no control groups")
    slurm.wait_idle()
    folder = slurm.home / "steps"
    slurm.run("mkdir", "steps")
    for name, text in (("task.py", TASK), ("job.sbatch", JOB)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    slurm.run("sbatch", "steps/job.sbatch")
    until(
        (folder / "end").exists,
        90,
        lambda: (folder / "output").read_text() + str([*folder.iterdir()]),
    )
    return [numbers((folder / name).read_text()) for name in ("during.prom", "after.prom")]


def numbers(text):
    """Return the values by name and values of labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


MIB = 2**20
SLACK_S = 0.02
"""A process and its group are charged at different moments."""


def test_the_work_of_each_step_and_task_is_its_own(scrapes):
    during, _ = scrapes
    assert during["job_steps",] >= 3  # batch, and extern where Slurm makes it
    cpu = {
        key[1:]: value for key, value in during.items() if key[0] == "job_step_cpu_seconds_total"
    }
    assert 2 - SLACK_S <= cpu["0",] < 3
    assert 3 - SLACK_S <= cpu["1",] < 4
    assert cpu["batch",] > 0
    for step, task, seconds in (("0", "0", 1), ("0", "1", 1), ("1", "0", 3)):
        spent = during["job_task_cpu_seconds_total", step, task]
        assert seconds - SLACK_S <= spent < seconds + 0.7
        assert during["job_task_memory_peak_bytes", step, task] > 0
    assert during["job_cpu_seconds_total",] >= sum(cpu.values()) - 0.1


def test_the_memory_of_each_step_is_its_own(scrapes):
    during, _ = scrapes
    used = {step: during["job_step_memory_used_bytes", step] / MIB for step in ("0", "1")}
    peak = {step: during["job_step_memory_peak_bytes", step] / MIB for step in ("0", "1")}
    assert 80 <= used["0"] <= peak["0"] < 160
    assert 160 <= used["1"] <= peak["1"] < 320
    assert during["job_memory_peak_bytes",] / MIB >= 240


def test_what_ended_steps_have_done_stays_in_the_job(scrapes):
    during, after = scrapes
    assert after["job_steps",] == during["job_steps",] - 2
    assert ("job_step_cpu_seconds_total", "1") not in after
    assert ("job_task_cpu_seconds_total", "0", "1") not in after
    assert after["job_cpu_seconds_total",] >= during["job_cpu_seconds_total",] >= 5 - SLACK_S
    # Each of the three tasks has read ten megabytes, of which no block device knows.
    read = [scrape["job_syscall_read_bytes_total",] for scrape in scrapes]
    assert 30e6 <= read[0] <= read[1]
    assert read[1] < 60e6
    assert during["job_processes_without_io",] == 0
    assert after["job_processes",] < during["job_processes",]
