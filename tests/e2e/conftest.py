"""jobmeter as a user of a cluster has it: the wheel, built by way of the sdist, in an environment
that the unprivileged user can run, on a real Slurm."""

import json
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import requirements
from testbed import Cluster

ROOT = Path(__file__).parents[2]
INSIDE = Path("/opt/jobmeter")
DEPENDENCIES = Path("/opt/jobmeter-dependencies")
PROGRAMS = Path("/opt/programs")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel that a user would install; building it from the sdist proves the sdist whole."""
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "jobmeter"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.split(b"\0")
    for name in filter(None, map(bytes.decode, tracked)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel, made to be seen as /opt/jobmeter."""
    base = Path(sys.executable).resolve()
    folder = tmp_path_factory.mktemp("venv") / "jobmeter"
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    subprocess.run(
        [folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    script = folder / "bin" / "jobmeter"
    script.write_text(script.read_text().replace(str(folder), str(INSIDE)))
    return folder


@pytest.fixture(scope="session")
def slurm(installed):
    """A three-node Slurm where the unprivileged user has jobmeter."""
    missing = requirements.missing()
    if missing:
        pytest.skip(f"no Slurm cluster on this machine: {'; '.join(missing)}")
    if Path(sys.executable).resolve().is_relative_to("/root"):
        pytest.skip(f"other users cannot run {Path(sys.executable).resolve()}, which is below /root")
    binds = {
        installed: INSIDE,
        Path(sysconfig.get_path("purelib")): DEPENDENCIES,
        Path(__file__).parent / "programs": PROGRAMS,
    }
    with Cluster.start(binds=binds) as cluster:
        yield cluster


@dataclass(frozen=True)
class User:
    """The unprivileged user at a terminal of the login host."""

    cluster: Cluster

    def jobmeter(self, *arguments, check=True, timeout_s=120):
        return self.cluster.run(
            INSIDE / "bin" / "jobmeter", *arguments, check=check, timeout_s=timeout_s
        )

    def write(self, name, text):
        path = self.cluster.home / name
        path.write_text(text)
        path.chmod(0o644)
        return f"/home/hpc/{name}"

    def outside(self, inside):
        """Where the test sees a path that the user sees below the home."""
        return self.cluster.home / Path(inside).relative_to("/home/hpc")

    def submit(self, name, text, *options, check=True, timeout_s=180):
        """Submit a job file; return its run folder as the test sees it, and what was printed."""
        done = self.jobmeter(
            "submit",
            self.write(name, text),
            "--site",
            "generic-slurm",
            *options,
            check=check,
            timeout_s=timeout_s,
        )
        printed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:2])
        return Run(self, self.outside(printed["run"]), printed["job"], done)


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

    def wait_for_end(self, timeout_s=90):
        """Wait until Slurm has nothing of the job left on any node."""
        return until(
            lambda: self.user.cluster.run(
                "squeue", "--noheader", f"--jobs={self.job_id}", "--format=%T", check=False
            ).stdout.strip()
            == "",
            timeout_s,
            lambda: f"job {self.job_id} does not end",
        )

    def table(self, check=True):
        """Analyse, and return the rows by (kpi, phase, entity)."""
        done = self.user.jobmeter("analyze", self.inside, "--format", "json", check=check)
        return Table(json.loads(done.stdout))


class Table:
    """The rows of a report."""

    def __init__(self, report):
        self.rows = report["rows"]
        self.manifest = report["manifest"]

    def find(self, kpi, **wanted):
        return [r for r in self.rows if r["kpi"] == kpi and wanted.items() <= r.items()]

    def one(self, kpi, **wanted):
        rows = self.find(kpi, **wanted)
        assert len(rows) == 1, f"{kpi} {wanted}: {rows or sorted({r['kpi'] for r in self.rows})}"
        return rows[0]


@pytest.fixture
def user(slurm):
    slurm.wait_idle()
    return User(slurm)


def until(condition, timeout_s, complaint):
    """Poll until ``condition`` returns something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.05)
