"""``jobmeter test`` in a container whose image an unprivileged user builds without any network.

With its compiler and its Python packages it is the largest of our images, which takes minutes:
``make test-second-cluster`` runs this.
"""

import json
from pathlib import Path

import debian_base
import pytest
import second_root
from suite_runs import CHECKOUT, SuiteUser, ended, make_checkout
from testbed import Cluster

pytestmark = pytest.mark.cluster

ROOT = second_root.PROGRAMS / "tests-base"
WHEELS = second_root.PROGRAMS / "tests-base-wheels"
WHEELS_INSIDE = Path("/opt/wheels")

SITE = """
description: with containers
launcher: slurm
runtime: {kind: apptainer}
images: {folder: $HOME/images, tmp: /tmp, base: debian, root: $HOME/tests-base}
"""


@pytest.fixture(scope="module")
def slurm(installed, tmp_path_factory):
    lacking = [path.name for path in (ROOT, WHEELS) if not path.exists()]
    if lacking:
        made_by = "tools/get-tests-base.sh .programs/tests-base .venv/bin/python"
        pytest.skip(f"not in .programs: {' '.join(lacking)} ({made_by} makes it)")
    root = second_root.ROOT
    tree = make_checkout(tmp_path_factory.mktemp("tree"))
    binds = {**installed(root), tree: CHECKOUT, WHEELS: WHEELS_INSIDE}
    with Cluster.start(nodes=1, root=root, binds=binds) as cluster:
        debian_base.give(cluster, ROOT)
        yield cluster


@pytest.fixture
def suite(user):
    return SuiteUser(user, ("--site", user.write("contained.yaml", SITE)))


@pytest.fixture(scope="module")
def image(slurm):
    """A function that returns what the list of images says of it."""
    path = slurm.home / "images" / "images.lock.json"
    return lambda: json.loads(path.read_text())["images"]["tests"]


def test_a_missing_image_is_built_and_the_tests_pass_in_it(suite, image):
    made_of = ("--source", str(CHECKOUT), "--wheelhouse", str(WHEELS_INSIDE))
    code, told, said = suite.told("pass", "-k", "test_slurm_words or passes_here", *made_of)
    assert code == 0, (told, said)
    assert "image 'tests' is built there from base 'debian'" in said
    assert told["complete"]
    assert told["tests"]["passed"] > 10
    assert told["tests"]["skipped"] == 1, "the notebooks, whose packages are not in the image"
    assert told["tests"]["passed"] + 1 == told["tests"]["selected"]
    assert told["host"] == "mel0001"
    assert told["tested"]["version"]
    assert told["image"]["sha256"] == image()["sha256"]
    assert image()["base"] == "debian"
    suite.nothing_is_left()


def test_it_is_taken_the_next_time_and_a_failure_is_named(suite, image):
    before = image()
    done = suite.test("fail", "-k", "passes_here or fails_here")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("1 passed, 1 failed, 0 errors, 1 skipped\n")
    assert "skipped  1: could not import 'nbformat'" in done.stdout
    assert "failed   tests/harness/test_here.py::test_fails_here: assert (1 + 1) == 3" in (
        done.stdout
    )
    assert "is built" not in done.stderr
    assert image() == before


def test_ctrl_c_cancels_the_job(suite):
    process = suite.start("stopped")
    suite.interrupt()
    printed, said = ended(process)
    assert process.returncode == 130, said
    assert printed.startswith("1 passed, 0 failed")
    suite.nothing_is_left()


def test_a_job_that_runs_out_of_time_says_how_far_it_came(suite):
    process = suite.start("late")
    suite.user.cluster.run("scontrol", "update", f"job={suite.job()}", "EndTime=now+1")
    printed, said = ended(process)
    assert process.returncode == 1, said
    assert printed.startswith("1 passed, 0 failed")
    assert "ended as TIMEOUT after 2 of 3 tests; ask for more with --time" in said
    suite.nothing_is_left()


def test_an_image_is_taken_as_it_is(suite, image, user):
    file = user.cluster.home / "images" / image()["file"]
    file.rename(user.cluster.home / "given.sif")
    try:
        code, told, said = suite.told("given", "--image", "given.sif", "-k", "passes_here")
        assert code == 0, said
        assert told["image"]["file"] == "/home/hpc/given.sif"
        done = suite.test("gone")
        assert done.returncode == 1
        assert "the image is missing; build or pull it again" in done.stderr
    finally:
        (user.cluster.home / "given.sif").rename(file)


def test_a_file_that_is_no_image_is_refused(suite, user):
    user.write("no.sif", "no image " * 100)
    done = suite.test("damaged", "--image", "no.sif")
    assert done.returncode == 1
    assert "no.sif: damaged: it does not begin as a SIF file" in done.stderr


def test_tests_of_every_part_run_there(suite):
    words = "test_exposition or test_arithmetic or test_render or test_page or test_copied_tree"
    code, told, said = suite.told("parts", "-k", words)
    assert code == 0, [
        (case["name"], case["words"]) for case in told["others"] if case["outcome"] != "skipped"
    ]
    assert told["tests"]["passed"] > 50, said
