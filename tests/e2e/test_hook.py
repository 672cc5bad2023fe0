"""``jobmeter hook`` in scripts of users, with and without Slurm."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_user import Run, Table, until

JOBMETER = Path(sys.executable).parent / "jobmeter"
SERVER = Path(__file__).parent / "programs" / "counting_server.py"

pytestmark = pytest.mark.prometheus


@pytest.fixture
def worker():
    """A service of the user on this machine, by its port."""
    with subprocess.Popen(
        [sys.executable, SERVER, "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        yield int(server.stdout.readline())
        server.kill()


@pytest.fixture
def script(local_programs, tmp_path, worker):
    """Start a user's script in a folder where ``monitor.sh`` lies."""
    metrics = f"worker=http://localhost:{worker}/metrics"
    made = subprocess.run(
        [JOBMETER, "hook", "--interval", "1s", "--runs", tmp_path / "runs", "--metrics", metrics],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "which must stay there" in made.stderr
    (tmp_path / "monitor.sh").write_text(made.stdout)
    children = []

    def start(text, *arguments):
        (tmp_path / "user.sh").write_text(text)
        child = subprocess.Popen(
            ["bash", "user.sh", *arguments],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def only_run(tmp_path):
    (run,) = (tmp_path / "runs").glob("hook-*")
    return run


def ended(run):
    def left():
        return subprocess.run(
            ["pgrep", "-f", run.name], capture_output=True, text=True
        ).stdout.split()

    until(lambda: not left(), 60, left)


def table_of(run):
    done = subprocess.run(
        [JOBMETER, "analyze", run, "--format", "json"], capture_output=True, text=True, check=True
    )
    return Table(json.loads(done.stdout))


STRICT = """
set -euo pipefail
trap 'echo "my EXIT: $? of $1"' EXIT
trap 'echo my TERM' TERM
exec 7>seven
IFS=,
umask 027
shopt -s nullglob
set -f -C -E
trap 'echo "my ERR: $BASH_COMMAND"' ERR
mine() {
  set +o; shopt -p; umask; trap -p; printf '%q\\n' "$IFS" "$PWD"; echo /proc/self/fd/*
  jobs -p
}
# Killed before it is a sleep, it would be a shell, with the traps of this one.
slept() { until [[ $(<"/proc/$1/comm") == sleep ]]; do sleep 0.01; done; }
sleep 1000 &
slept "$!"
sleep 1000 &
slept "$!"
mine >before
source monitor.sh
jobmeter_start warmup
[[ $JOBMETER_RUN_DIR == */runs/hook-* && -r $JOBMETER_PASSWORD_FILE ]]
port=$2
add() { curl --silent --fail --request POST "localhost:$port/add/$1"; }
add 100
jobmeter_mark bench
add 137
jobmeter_mark bench
[[ $! == $(jobs -p | tail --lines=1) ]]
kill %1 %2
wait # would wait for the monitoring too, if that were a job of this shell
read -r line
echo "read $line"
jobmeter_stop
jobmeter_stop
sleep 1000 &
slept "$!"
sleep 1000 &
slept "$!"
mine >after
kill %1 %2
exit 7
"""


def test_a_strict_script_keeps_all_that_is_its_own(script, worker, tmp_path):
    child = script(STRICT, "first", str(worker))
    stdout, stderr = child.communicate("a line for the script\n", timeout=120)
    assert child.returncode == 7, stderr
    assert stdout == "read a line for the script\nmy EXIT: 7 of first\n"
    before, after = ((tmp_path / name).read_text() for name in ("before", "after"))
    assert re.sub(r"^\d+$", "pid", after, flags=re.M) == re.sub(r"^\d+$", "pid", before, flags=re.M)
    run = only_run(tmp_path)
    assert stderr.splitlines()[0] == f"jobmeter: run {run}"
    assert f"jobmeter analyze {run}" in stderr.splitlines()[1]
    ended(run)
    assert {path.stat().st_mode & 0o077 for path in run.rglob("*")} == {0}
    table = table_of(run)
    for phase, number in (("warmup", 100), ("bench", 137)):
        row = table.one("work_units_total", phase=phase)
        assert (row["value"], row["low"], row["high"]) == (number, number, number), phase
    assert table.manifest["state"] == "complete"
    assert [phase["name"] for phase in table.manifest["phases"]][:3] == [
        "warmup",
        "bench",
        "bench.2",
    ]
    manifest = json.loads((run / "run.json").read_text())
    assert (manifest["kind"], manifest["run_id"], manifest["nodes"]) == ("hook", run.name, 1)


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        ("false", 1, "my EXIT: 1\n"),
        ("exit 5", 5, "my EXIT: 5\n"),
        (":", 0, "my EXIT: 0\n"),
        ("trap 'echo later' EXIT", 0, "later\n"),
        ("kill -KILL $$", -9, ""),
        ("kill -TERM $$", -15, "my EXIT: 0\n"),
    ],
)
def test_a_script_that_never_stops_it(script, tmp_path, last, code, said):
    """However it ends: exit code and trap are its own, the recording is closed, nothing is left."""
    child = script(
        "set -eu\ntrap 'echo \"my EXIT: $?\"' EXIT\nsource monitor.sh\njobmeter_start\n"
        f"sleep 1000 </dev/null >/dev/null 2>&1 &\n{last}\n"
    )
    try:
        stdout, stderr = child.communicate(timeout=120)
    finally:
        with_it = subprocess.run(["pgrep", "-s", str(child.pid)], capture_output=True, text=True)
        for pid in with_it.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
    assert (child.returncode, stdout) == (code, said), stderr
    run = only_run(tmp_path)
    ended(run)
    events = [
        json.loads(line) for line in (run / "attempts/local/events.jsonl").read_text().splitlines()
    ]
    (closed,) = (event for event in events if event["event"] == "recording_closed")
    assert closed["clean"] is True
    assert table_of(run).one("phase_seconds", phase="run")["value"] > 0


def test_without_its_secrets_the_script_goes_on(script, tmp_path):
    (secrets,) = (tmp_path / "runs").glob(".hook-*/secrets")
    (secrets / "password").unlink()
    child = script(
        "set -eu\nsource monitor.sh\njobmeter_start\njobmeter_mark x\njobmeter_stop\necho done\n"
    )
    stdout, stderr = child.communicate(timeout=60)
    assert (child.returncode, stdout) == (0, "done\n")
    first, second = stderr.splitlines()
    assert first.startswith(
        f"jobmeter: not recorded: {secrets} cannot be read; write the hook anew"
    )
    assert second == "jobmeter: nothing is being recorded, so x is not marked"
    assert not list((tmp_path / "runs").glob("hook-*"))


def test_the_file_alone_says_what_to_do(script, tmp_path):
    done = subprocess.run(["bash", "monitor.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "source this file" in done.stderr


SLURM = """#!/bin/bash
#SBATCH --nodes=2 --time=5 --output=hook.out
set -eu
trap 'echo "my EXIT: $?"; touch my.exit' EXIT
source monitor.sh
jobmeter_start
srun --overlap --nodes=2 --ntasks=2 /opt/programs/burn.py 0.5
jobmeter_mark wait
{last}
"""


@pytest.mark.cluster
@pytest.mark.parametrize("cancelled", [False, True])
def test_on_two_nodes_of_slurm(user, cancelled):
    made = user.jobmeter("hook", "--interval", "1s")
    user.write("monitor.sh", made.stdout)
    user.write("own.sbatch", SLURM.format(last="sleep 600 & wait" if cancelled else "exit 3"))
    job_id = user.cluster.run("sbatch", "--parsable", "own.sbatch").stdout.strip()
    known = set()

    def begun():
        known.update(user.cluster.home.glob(f"runs/hook-*/attempts/{job_id}/events.jsonl"))
        return known

    until(begun, 60, lambda: (user.cluster.home / "hook.out").read_text())
    run = Run(user, known.pop().parents[2], job_id, made)
    if cancelled:
        run.wait_for_event("phase_start", phase="wait")
        user.cluster.run("scancel", job_id)
    run.wait_for_end()

    def left():
        return [line for line in user.cluster.pids().values() if run.folder.name in line]

    until(lambda: not left(), 60, left)
    assert "my EXIT: " in (user.cluster.home / "hook.out").read_text()
    table = run.settled_table()
    assert table.one("slurm_exit_code")["value"] == (143 if cancelled else 3)
    assert table.one("phase_seconds", phase="run")["status"] == "exact"
    for node in ("mel0001", "mel0002"):
        assert table.one("memory_used_bytes_mean", phase="run", entity=node)["value"] > 0
    if not cancelled:
        assert table.manifest["state"] == "complete", table.manifest["reasons"]
        assert run.events("recording_closed")[0]["clean"] is True
    assert table.manifest["nodes"]["planned"] == 2
