"""Images of the stack, built by an unprivileged user with the real Apptainer from Debian alone.

The cluster has no network at all, so that nothing can come from a registry or a mirror.
"""

import json

import pytest
from installation import INSIDE

pytestmark = pytest.mark.cluster

BUILT = {
    "prometheus": "prometheus, version 3",
    "node-exporter": "node_exporter, version 1",
    "alertmanager": "alertmanager, version 0",
    "exporters": "usage: jobmeter exporter",
}

SERVE = """
set -eu
work=$(mktemp -d)
apptainer exec "$1" jobmeter-exporters cgroup --run-id me --job-pid $$ \\
  --port-file "$work/port" 2>"$work/log" &
pid=$!
until [ -s "$work/port" ]; do kill -0 $pid || { cat "$work/log" >&2; exit 1; }; sleep 0.05; done
curl --silent --show-error --fail "http://127.0.0.1:$(cat "$work/port")/metrics"
kill -TERM $pid
wait $pid
"""


@pytest.fixture
def cluster(apptainer_cluster):
    return apptainer_cluster


@pytest.fixture
def images(built_images):
    return built_images


def jobmeter(cluster, verb, *arguments, check=True):
    return cluster.run(
        *(INSIDE / "bin" / "jobmeter", "images", verb, *arguments, "--folder", "images"),
        check=check,
        timeout_s=1800,
    )


def test_every_image_of_the_stack_is_built(images):
    assert set(images) == set(BUILT)
    assert images["prometheus"]["version"].startswith("3.")
    for image in images.values():
        assert (image["base"], image["origin"]) == ("debian", "Debian GNU/Linux forky/sid")


@pytest.mark.parametrize("name", BUILT)
def test_its_program_runs_on_a_node(cluster, images, name):
    option = "--help" if name == "exporters" else "--version"
    image = images[name]
    done = cluster.run("srun", "-N1", "apptainer", "exec", image["file"], image["program"], option)
    assert done.stdout.startswith(BUILT[name])


def test_our_exporters_serve_from_their_image(cluster, images):
    done = cluster.run("srun", "-N1", "bash", "-c", SERVE, "_", images["exporters"]["file"])
    assert 'jobmeter_run_info{run_id="me"' in done.stdout
    assert 'jobmeter_collector_success{collector="cgroup"} 1' in done.stdout


def test_the_images_pass_and_say_what_apptainer_says_of_them(cluster, images):
    done = jobmeter(cluster, "verify")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == sorted(BUILT)
    header = cluster.run("apptainer", "sif", "header", images["prometheus"]["file"]).stdout
    assert "amd64" in header or "arm64" in header
    labels = json.loads(
        cluster.run("apptainer", "inspect", "--json", images["prometheus"]["file"]).stdout
    )
    told = labels["data"]["attributes"]["labels"]
    assert told["jobmeter.version"] == images["prometheus"]["version"]


def test_nothing_is_left_but_images_and_their_list(cluster, images):
    found = {path.name for path in (cluster.home / "images").iterdir()}
    files = {image["file"].rsplit("/", 1)[1] for image in images.values()}
    assert found == {*files, "images.lock.json", ".images.lock", ".cache"}
    assert not (cluster.home / ".apptainer" / "cache").exists()
    left = cluster.run("find", "/tmp", "-maxdepth", "1", "-user", "hpc").stdout
    assert left == ""


def damage(file):
    """Turn one bit in the middle."""
    with file.open("r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        before = handle.read(1)
        handle.seek(-1, 1)
        handle.write(bytes([before[0] ^ 1]))


def test_a_damaged_image_is_found(cluster, images):
    file = cluster.home / "images" / images["node-exporter"]["file"].rsplit("/", 1)[1]
    damage(file)
    done = jobmeter(cluster, "verify", "node-exporter", check=False)
    damage(file)  # a second time is back again
    assert done.returncode == 1
    assert "damaged or replaced; build or pull node-exporter again" in done.stderr


def test_without_a_registry_a_pull_says_so_and_leaves_nothing(cluster, images):
    done = jobmeter(cluster, "pull", "qdrant", check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "without internet make it elsewhere and copy the folder" in line
    assert not list((cluster.home / "images").glob("*qdrant*.sif"))
