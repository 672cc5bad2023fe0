"""The unprivileged user of a test cluster, what that user submits, and what comes of it."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from installation import INSIDE
from testbed import Cluster


def until(condition, timeout_s, complaint):
    """Poll until ``condition`` returns something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.05)


@dataclass(frozen=True)
class User:
    """The unprivileged user at a terminal of the login host."""

    cluster: Cluster

    def jobmeter(self, *arguments, check=True, timeout_s=120, env=None):
        return self.cluster.run(
            INSIDE / "bin" / "jobmeter", *arguments, check=check, timeout_s=timeout_s, env=env
        )

    def write(self, name, text):
        path = self.cluster.home / name
        path.write_text(text)
        path.chmod(0o644)
        return f"/home/hpc/{name}"

    def outside(self, inside):
        """Where the test sees a path that the user sees below the home."""
        return self.cluster.home / Path(inside).relative_to("/home/hpc")

    def submit(
        self, name, text, *options, site="generic-slurm", check=True, timeout_s=180, env=None
    ):
        """Submit a job file; return its run folder as the test sees it, and what was printed."""
        done = self.jobmeter(
            "submit",
            self.write(name, text),
            "--site",
            site,
            *options,
            check=check,
            timeout_s=timeout_s,
            env=env,
        )
        printed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:2])
        assert printed.keys() >= {"run", "job"}, done.stderr
        return Run(self, self.outside(printed["run"]), printed["job"], done)


UNTIL_TOLD = 'until [[ -e "$HOME/enough.$SLURM_JOB_ID" ]]; do sleep 0.1; done'
"""What a phase runs that shall last until ``Run.enough``, however slow the machine is."""


@dataclass(frozen=True)
class Run:
    """One submitted run."""

    user: User
    folder: Path
    job_id: str
    submitted: subprocess.CompletedProcess

    @property
    def attempt(self):
        return self.folder / "attempts" / self.job_id

    @property
    def inside(self):
        return f"/home/hpc/{self.folder.relative_to(self.user.cluster.home)}"

    @property
    def output(self):
        """What the job itself printed."""
        (file,) = (self.folder / "output").iterdir()
        return file.read_text()

    def events(self, name=None):
        path = self.attempt / "events.jsonl"
        if not path.exists():
            return []
        events = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return [event for event in events if name in (None, event["event"])]

    def wait_for_event(self, name, timeout_s=60, **fields):
        return until(
            lambda: [e for e in self.events(name) if fields.items() <= e.items()],
            timeout_s,
            lambda: f"no {name} {fields} among {self.events()}",
        )[0]

    def enough(self):
        """Let a phase end that lasts ``UNTIL_TOLD``."""
        (self.user.cluster.home / f"enough.{self.job_id}").touch()

    def requeue(self):
        """Requeue the job once and wait until its second start is there; return its name."""
        cluster = self.user.cluster
        again = self.attempt.with_name(f"{self.job_id}.r1")
        cluster.run("scontrol", "requeue", self.job_id)
        self.wait_for_event("job_end")
        # Slurm may hold a requeued job back for two minutes.
        start_now = ("scontrol", "update", f"job={self.job_id}", "StartTime=now")
        until(
            lambda: cluster.run(*start_now, check=False) and again.exists(),
            60,
            lambda: cluster.run("scontrol", "show", "job", self.job_id).stdout,
        )
        return again.name

    def wait_for_end(self, timeout_s=90):
        """Wait until Slurm has nothing of the job left on any node."""
        return until(
            lambda: (
                self.user.cluster.run(
                    "squeue", "--noheader", f"--jobs={self.job_id}", "--format=%T", check=False
                ).stdout.strip()
                == ""
            ),
            timeout_s,
            lambda: f"job {self.job_id} does not end",
        )

    def table(self, check=True):
        """Analyse, and return the rows by (kpi, phase, entity)."""
        done = self.user.jobmeter("analyze", self.inside, "--format", "json", check=check)
        return Table(json.loads(done.stdout))

    def settled_table(self):
        """The same, when Slurm's database has said its last word on the job."""
        tables = []

        def settled():
            tables.append(self.table())
            return is_settled(tables[-1].manifest["slurm"])

        until(settled, 60, lambda: tables[-1].manifest["slurm"])
        return tables[-1]


def is_settled(slurm):
    """Whether Slurm's database has said its last word, by a report's part about the job."""
    if slurm is None or not slurm["final"] or slurm["source"] != "sacct":
        return False
    return all(step["state"] != "RUNNING" for step in slurm["steps"])


class Table:
    """The rows of a report."""

    def __init__(self, report):
        self.rows = report["rows"]
        self.manifest = report["manifest"]

    def find(self, kpi, **wanted):
        return [r for r in self.rows if r["kpi"] == kpi and wanted.items() <= r.items()]

    def one(self, kpi, **wanted):
        """Return the only row; the job's total stands aside unless its scope is asked for."""
        rows = self.find(kpi, **wanted)
        if not {"scope", "entity"} & wanted.keys():
            rows = [r for r in rows if r["scope"] != "job"] or rows
        assert len(rows) == 1, f"{kpi} {wanted}: {rows or sorted({r['kpi'] for r in self.rows})}"
        return rows[0]


def now_ms(user):
    """The time on the cluster's clock, milliseconds since the epoch."""
    return int(user.cluster.run("date", "+%s%3N").stdout)


def kill(user, node, pattern, run_name):
    """Kill one process of a node, found by its command line."""
    found = [
        pid
        for pid, command in user.cluster.pids(node).items()
        if pattern in command and run_name in command
    ]
    assert len(found) == 1, f"{pattern}: {found} among {user.cluster.pids(node)}"
    os.kill(found[0], signal.SIGKILL)
