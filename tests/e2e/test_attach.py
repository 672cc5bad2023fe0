"""Recording in an allocation that is there already, through a real terminal and a real salloc."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest
from installation import INSIDE
from slurm_user import Run, until

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

JOBMETER = f"{INSIDE}/bin/jobmeter"
PROMPT = "ready> "
SHELL = ("bash", "--norc", "--noprofile", "--noediting")
SERVER = "/opt/programs/counting_server.py 19877"


class Terminal:
    """A person's terminal on the login host."""

    def __init__(self, cluster):
        self.fd, theirs = pty.openpty()
        command = cluster.entering(env={"PS1": PROMPT, "TERM": "dumb"})
        self.child = subprocess.Popen(
            [*command, "setsid", "--ctty", "--wait", *SHELL, "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.said = ""
        self._await_prompt()

    def type(self, line, timeout_s=120):
        """Type a line; return what was printed until the next prompt, and the exit code."""
        before = len(self.said)
        os.write(self.fd, f'{line}; echo "code:$?"\n'.encode())
        self._await_prompt(before, r"^code:(\d+)\r?\n", timeout_s)
        text = self.said[before:].replace("\r", "")
        (code,) = re.findall(r"^code:(\d+)$", text, re.M)
        return text, int(code)

    def enter(self, line):
        """Type a line that begins another shell; return what was printed until its prompt."""
        before = len(self.said)
        os.write(self.fd, f"{line}\n".encode())
        self._await_prompt(before, r"\n")
        return self.said[before:].replace("\r", "")

    def _await_prompt(self, before=0, then="", timeout_s=60):
        deadline = time.monotonic() + timeout_s
        pattern = re.compile(f"{then}(.*\n)*{PROMPT}$", re.M)
        while not pattern.search(self.said, before):
            assert time.monotonic() < deadline, self.said
            if select.select([self.fd], [], [], 1)[0]:
                self.said += os.read(self.fd, 65536).decode(errors="replace")

    def close(self):
        os.close(self.fd)
        self.child.kill()
        self.child.wait()


@pytest.fixture
def terminal(user):
    terminals = []

    def open_one():
        terminals.append(Terminal(user.cluster))
        return terminals[-1]

    yield open_one
    for one in terminals:
        one.close()


def run_of(user, text, job_id, done=None):
    """The run that ``jobmeter attach`` printed."""
    (folder,) = re.findall(r"^run (\S+)$", text, re.M)
    return Run(user, user.outside(folder), job_id, done)


def everything_ended(run):
    """No process of the run is left on any node, nor on the login host."""

    def left():
        return [line for line in run.user.cluster.pids().values() if run.folder.name in line]

    until(lambda: not left(), 60, left)


def nothing_on_nodes(user):
    for node in user.cluster.nodes:
        left = user.cluster.run("ls", "/tmp", node=node).stdout.split()
        assert not [name for name in left if name.startswith("jobmeter")], (node, left)


@pytest.fixture
def allocation(user):
    """A job of two nodes that does nothing; its number."""
    user.write("idle.sh", "#!/bin/bash\nsleep 600 & wait\n")
    jobs = []

    def submit(*options):
        done = user.cluster.run(
            "sbatch",
            "--parsable",
            "--nodes=2",
            "--time=10",
            "--output=/dev/null",
            *options,
            "idle.sh",
        )
        job_id = done.stdout.strip()
        jobs.append(job_id)
        until(
            lambda: "RUNNING" in state_of(user, job_id) or "--hold" in options,
            60,
            lambda: state_of(user, job_id),
        )
        return job_id

    yield submit
    for job_id in jobs:
        user.cluster.run("scancel", "--signal=KILL", "--full", job_id, check=False)
        user.cluster.run("scancel", job_id, check=False)


def state_of(user, job_id):
    return user.cluster.run(
        "squeue", "--noheader", f"--jobs={job_id}", "--states=all", "--format=%T"
    ).stdout


def count(run, node, port, number):
    """Let the payload do some units of work."""
    run.user.cluster.run(
        "curl",
        "--silent",
        "--fail",
        "--request",
        "POST",
        f"http://127.0.0.1:{port}/add/{number}",
        node=node,
    )


def test_a_person_in_salloc(user, terminal):
    """Attach, two phases with a counted payload, detach; the shell and the job go on."""
    person = terminal()
    text = person.enter(f"salloc --nodes=2 --time=10 {' '.join(SHELL)}")
    (job_id,) = re.findall(r"Granted job allocation (\d+)", text) or pytest.fail(text)
    text, code = person.type(
        f"{JOBMETER} attach --interval 1s --metrics worker=http://localhost:19877/metrics"
    )
    assert code == 0, text
    run = run_of(user, text, job_id)
    assert "5 of 5 targets up, phase run" in text
    assert re.search(r"^prometheus mel0001:\d+, on loopback there", text, re.M)
    assert re.search(r"^tunnel ssh -N -L 9090:127.0.0.1:\d+ -J hpc@LOGIN hpc@mel0001$", text, re.M)

    person.enter(f"srun --overlap --nodes=1 --ntasks=1 {SERVER} </dev/null >server.log 2>&1 &")
    until(
        lambda: (
            user.cluster.run(
                "curl", "--silent", "http://127.0.0.1:19877/metrics", node="mel0001", check=False
            ).stdout
        ),
        60,
        lambda: (user.cluster.home / "server.log").read_text(),
    )
    for phase, number in (("warmup", 100), ("bench", 137)):
        text, code = person.type(f"{JOBMETER} mark {phase}")
        assert code == 0, text
        assert f"phase {phase} began; 6 of 6 targets answered" in text
        count(run, "mel0001", 19877, number)
    text, code = person.type(f"{JOBMETER} mark bench")
    assert "phase bench.2 (bench was used before) began" in text
    text, code = person.type(f"{JOBMETER} detach")
    assert code == 0, text
    assert "phase bench.2" in text
    assert "work_units_total" in text
    everything_ended(run)
    nothing_on_nodes(user)
    assert "RUNNING" in state_of(user, job_id)

    table = run.table()
    for phase, number in {"warmup": 100, "bench": 137, "bench.2": 0}.items():
        row = table.one("work_units_total", phase=phase)
        assert (row["value"], row["low"], row["high"]) == (number, number, number), phase
        assert row["status"] == "exact"
    assert table.manifest["reasons"] == []
    assert table.manifest["state"] == "complete"
    assert json.loads((run.folder / "run.json").read_text())["kind"] == "attached"
    assert run.events("recording_closed")[0]["clean"] is True

    text, code = person.type(f"{JOBMETER} mark late")
    assert code == 1
    assert "no attached run is going on here" in text
    text, code = person.type(f"{JOBMETER} mark late {run.inside}")
    assert code == 1
    assert "this recording has ended" in text
    person.enter("kill %1; wait; exit")
    run.wait_for_end()


def attach(user, job_id, *options):
    done = user.jobmeter("attach", job_id, "--interval", "1s", *options, check=False)
    assert done.returncode == 0, done.stderr
    return run_of(user, done.stdout, job_id, done)


def test_from_the_login_node_and_the_job_ends_first(user, allocation):
    """Nobody detaches: the recording can be read, and nothing is left."""
    job_id = allocation()
    run = attach(user, job_id, "--phase", "first")
    done = user.jobmeter("mark", "second")
    assert "phase second began; 5 of 5 targets answered" in done.stdout
    user.cluster.run("scancel", job_id)
    run.wait_for_end()
    everything_ended(run)
    nothing_on_nodes(user)
    table = run.table()
    assert table.one("phase_seconds", phase="first")["status"] == "exact"
    assert "phase_interrupted" in table.one("phase_seconds", phase="second")["reason"]
    assert "phase 'second' was ended by TERM" in table.manifest["reasons"]
    assert "did not begin" not in str(table.manifest["reasons"])
    assert table.one("memory_used_bytes_mean", phase="first", entity="mel0002")["value"] > 0
    assert table.one("slurm_elapsed_seconds")["source"].endswith("CANCELLED")
    for command in (("mark", "third", run.inside), ("detach", run.inside)):
        done = user.jobmeter(*command, check=False)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "ended" in done.stderr


def killed(user, *words):
    found = [pid for pid, line in user.cluster.pids().items() if all(w in line for w in words)]
    assert found, user.cluster.pids()
    # All at once: what is left of srun would end its step.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def test_it_survives_the_machine_that_it_was_attached_from(user, allocation):
    job_id = allocation()
    run = attach(user, job_id)
    killed(user, "srun", f"--jobid={job_id}")
    assert "phase later began; 5 of 5 targets answered" in user.jobmeter("mark", "later").stdout
    user.jobmeter("detach", "--no-analysis")
    everything_ended(run)
    assert run.table().manifest["state"] == "complete"


def test_it_warns_itself_before_the_time_limit(user, allocation):
    """The numbers are written down while there is time, and the phase goes on."""
    site = user.write(
        "early.yaml", "description: warns early\ninherits: generic-slurm\nwarning_s: 590\n"
    )
    run = attach(user, allocation(), "--site", site)
    run.wait_for_event("phase_end", phase="run", signal="USR1")
    assert "phase run.2 (run was used before) began" in user.jobmeter("mark", "run").stdout
    first, second = run.events("phase_end")
    assert (first["signal"], second["signal"]) == ("USR1", None)
    user.jobmeter("detach", "--no-analysis")
    assert run.table().manifest["state"] == "complete"


def test_a_monitoring_that_is_killed_says_so(user, allocation):
    """The job goes on; what was recorded until then is there."""
    job_id = allocation()
    run = attach(user, job_id)
    run.wait_for_event("checkpoint")
    killed(user, "control.sh", run.folder.name)
    everything_ended(run)
    assert "RUNNING" in state_of(user, job_id)
    done = user.jobmeter("mark", "late", run.inside, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "its monitoring has ended without a last word" in done.stderr
    table = run.table()
    assert "end_unmarked" in table.one("phase_seconds", phase="run")["reason"]
    assert table.one("memory_used_bytes_mean", phase="run", entity="mel0001")["value"] > 0


def test_two_at_once_have_a_folder_each(user, allocation):
    job_id = allocation()
    first, second = attach(user, job_id), attach(user, job_id, "--name", "other")
    assert f"job {job_id} is being recorded already, in {first.inside}" in second.submitted.stderr
    done = user.jobmeter("mark", "x", check=False)
    assert done.returncode == 1
    assert f"several attached runs are going on; name one of {first.inside}" in done.stderr
    for run in (first, second):
        done = user.jobmeter("detach", run.inside, "--no-analysis")
        assert done.stdout == f"run {run.inside}\n"
        everything_ended(run)
    nothing_on_nodes(user)  # nor what the run before them left, which was killed


def test_what_cannot_be_attached_to_is_one_line(user, allocation):
    before = set(user.cluster.home.glob("runs/*"))
    pending = allocation("--hold")
    ended = allocation()
    user.cluster.run("scancel", ended)
    until(lambda: "CANCELLED" in state_of(user, ended), 60, lambda: state_of(user, ended))
    job = "#!/bin/bash\nsleep 600"
    foreign = user.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", user="other", stdin=job
    ).stdout.strip()
    try:
        until(lambda: "RUNNING" in state_of(user, foreign), 60, lambda: state_of(user, foreign))
        for job_id, words, code in (
            (None, "no allocation to attach to", 1),
            (pending, f"job {pending} is PENDING (JobHeldUser) and has no nodes", 1),
            (ended, f"job {ended} has ended (CANCELLED)", 1),
            (foreign, f"job {foreign} belongs to other, and you are hpc", 1),
            ("987654", "job 987654 does not exist", 1),
            ("soon", "'soon' is no job id", 2),
        ):
            done = user.jobmeter("attach", *([job_id] if job_id else []), check=False)
            assert (done.returncode, done.stdout) == (code, ""), done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert words in done.stderr
    finally:
        user.cluster.run("scancel", foreign, user="other")
    assert set(user.cluster.home.glob("runs/*")) == before
