"""A three-node Slurm on which an unprivileged user has jobmeter, and jobmeter on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import debian_base
import installation
import pytest
import second_root
from slurm_user import User
from testbed import Cluster

# All tests run on the second cluster then. Runs of the tests themselves are native on one cluster,
# and in a container, whose image takes minutes, on the other.
collect_ignore = (
    ["test_second_cluster.py", "test_test_runs.py"]
    if second_root.chosen()
    else ["test_contained_test_runs.py"]
)
if os.environ.get("JOBMETER_VLLM") != "1":
    # Its environment takes minutes to make, and 3.5 GB: `make test-vllm`.
    collect_ignore += [path.name for path in Path(__file__).parent.glob("test_vllm*.py")]
    collect_ignore += ["vllm"]
collect_ignore += ["programs"]  # of payloads: no tests, nor to be imported

JOBMETER = Path(sys.executable).parent / "jobmeter"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    return installation.build_wheel(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="session")
def installed(request, tmp_path_factory):
    """Make what a cluster shows its users, for the machine's root or another one; may skip."""
    made = {}

    def make(root=None):
        missing = installation.missing(root)
        if missing:
            pytest.skip(f"no such Slurm cluster on this machine: {'; '.join(missing)}")
        if root not in made:
            folder = tmp_path_factory.mktemp("environment") / "jobmeter"
            wheel = request.getfixturevalue("wheel")
            made[root] = installation.binds(installation.install(wheel, folder, root), root)
        return made[root]

    return make


@pytest.fixture(scope="session")
def cluster_settings(installed):
    """What every cluster is started with."""
    root = second_root.chosen()
    return {"root": root, "binds": installed(root)}


@pytest.fixture(scope="session")
def slurm(cluster_settings):
    # Without control groups Slurm's TERM reaches every process of a job at once, ours included.
    cgroups = os.environ.get("JOBMETER_CLUSTER_CGROUPS", "1") == "1"
    with Cluster.start(**cluster_settings, cgroups=cgroups) as cluster:
        yield cluster


@pytest.fixture
def user(slurm):
    slurm.wait_idle()
    yield User(slurm)
    slurm.run("scancel", "--signal=KILL", "--full", "--user=hpc", check=False)


@pytest.fixture(scope="session")
def apptainer_cluster(installed):
    """The second cluster, in the home of whose user a Debian is from which images can be built."""
    missing = debian_base.missing()
    if missing:
        pytest.skip(f"no images can be built on this machine: {'; '.join(missing)}")
    root = second_root.ROOT
    with Cluster.start(root=root, binds=installed(root)) as cluster:
        debian_base.give(cluster)
        yield cluster


@pytest.fixture(scope="session")
def built_images(apptainer_cluster):
    """What ``jobmeter images build`` said of every image of the stack, by name; they stay there."""
    done = apptainer_cluster.run(
        *(installation.INSIDE / "bin" / "jobmeter", "images", "build", *debian_base.IMAGES),
        *("--folder", "images", "--base", "debian", "--root", debian_base.INSIDE, "--json"),
        timeout_s=1800,
    )
    return {image["name"]: image for image in json.loads(done.stdout)["images"]}


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

    def start(text, *options, **environment):
        (tmp_path / "work").mkdir()
        (tmp_path / "job.yaml").write_text(text)
        child = subprocess.Popen(
            [JOBMETER, "run", tmp_path / "job.yaml", "--runs", tmp_path / "runs", *options],
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
