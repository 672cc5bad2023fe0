"""A three-node Slurm on which an unprivileged user has jobmeter, and jobmeter on this machine."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import installation
import pytest
from slurm_user import User
from testbed import Cluster

JOBMETER = Path(sys.executable).parent / "jobmeter"


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A virtual environment with the wheel."""
    wheel = installation.build_wheel(tmp_path_factory.mktemp("build"))
    return installation.install(wheel, tmp_path_factory.mktemp("environment") / "jobmeter")


@pytest.fixture(scope="session")
def binds(installed):
    """What the nodes of a cluster show their users; a skip where no cluster can be."""
    missing = installation.missing()
    if missing:
        pytest.skip(f"no Slurm cluster on this machine: {'; '.join(missing)}")
    return installation.binds(installed)


@pytest.fixture(scope="session")
def slurm(binds):
    # Without control groups Slurm's TERM reaches every process of a job at once, ours included.
    cgroups = os.environ.get("JOBMETER_CLUSTER_CGROUPS", "1") == "1"
    with Cluster.start(binds=binds, cgroups=cgroups) as cluster:
        yield cluster


@pytest.fixture
def user(slurm):
    slurm.wait_idle()
    yield User(slurm)
    slurm.run("scancel", "--signal=KILL", "--full", "--user=hpc", check=False)


@pytest.fixture
def local_programs():
    missing = [name for name in ("prometheus", "curl") if shutil.which(name) is None]
    if not (shutil.which("node_exporter") or shutil.which("prometheus-node-exporter")):
        missing.append("node_exporter")
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")


@pytest.fixture
def started(local_programs, tmp_path):
    """Start ``jobmeter run`` on a job file, in ``work``, with its runs in ``runs``."""
    children = []

    def start(text, **environment):
        (tmp_path / "work").mkdir()
        (tmp_path / "job.yaml").write_text(text)
        child = subprocess.Popen(
            [JOBMETER, "run", str(tmp_path / "job.yaml"), "--runs", str(tmp_path / "runs")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path / "work",
            env={**os.environ, **environment},
            start_new_session=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
