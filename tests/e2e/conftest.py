"""A three-node Slurm on which an unprivileged user has jobmeter."""

import os

import installation
import pytest
import requirements
from slurm_user import User
from testbed import Cluster


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A virtual environment with the wheel."""
    wheel = installation.build_wheel(tmp_path_factory.mktemp("build"))
    return installation.install(wheel, tmp_path_factory.mktemp("environment") / "jobmeter")


@pytest.fixture(scope="session")
def slurm(installed):
    missing = [*requirements.missing(), *filter(None, [installation.interpreter_problem()])]
    if missing:
        pytest.skip(f"no Slurm cluster on this machine: {'; '.join(missing)}")
    # Without control groups Slurm's TERM reaches every process of a job at once, ours included.
    cgroups = os.environ.get("JOBMETER_CLUSTER_CGROUPS", "1") == "1"
    with Cluster.start(binds=installation.binds(installed), cgroups=cgroups) as cluster:
        yield cluster


@pytest.fixture
def user(slurm):
    slurm.wait_idle()
    yield User(slurm)
    slurm.run("scancel", "--signal=KILL", "--full", "--user=hpc", check=False)
