"""``jobmeter test`` by an unprivileged user on a real Slurm, on a site without containers.

In the image that this user builds: test_contained_test_runs.py.
"""

import pytest
from suite_runs import CHECKOUT, SuiteUser, ended, make_checkout
from testbed import Cluster

pytestmark = pytest.mark.cluster

FEW = "test_slurm_words or passes_here"


@pytest.fixture(scope="module")
def slurm(cluster_settings, tmp_path_factory):
    checkout = make_checkout(tmp_path_factory.mktemp("tree"), whole=False)
    binds = {**cluster_settings["binds"], checkout: CHECKOUT}
    with Cluster.start(**{**cluster_settings, "binds": binds}, nodes=1) as cluster:
        yield cluster


@pytest.fixture
def suite(user):
    return SuiteUser(user, ("--site", "generic-slurm", "--source", str(CHECKOUT)))


def test_all_pass(suite):
    code, told, said = suite.told("pass", "-k", FEW)
    assert code == 0, said
    assert told["complete"]
    assert (told["state"], told["host"]) == ("COMPLETED", "mel0001")
    assert told["tests"]["passed"] == told["tests"]["selected"] > 10
    assert told["tested"]["sha256"]
    assert "has no container runtime: /opt/checkout is tested with /opt/jobmeter/bin" in said
    assert f"job {told['job_id']} submitted" in said
    assert {path.name for path in suite.folder("pass").iterdir()} == {
        *("junit.xml", "output", "plugins", "tests.json", "tests.sbatch")
    }
    suite.nothing_is_left()


def test_a_failure_is_named(suite):
    done = suite.test("fail", "-k", "passes_here or fails_here")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("1 passed, 1 failed, 0 errors, 0 skipped\n")
    assert "failed   tests/harness/test_here.py::test_fails_here: assert (1 + 1) == 3" in (
        done.stdout
    )
    assert "Traceback" not in done.stderr


def test_what_needs_a_cluster_is_left_out_and_counted(suite):
    code, told, _ = suite.told("out", "-k", "test_testbed or passes_here")
    assert code == 0
    (count,) = told["tests"]["left_out"].values()
    assert count > 10
    assert told["tests"]["selected"] == 1


def test_ctrl_c_cancels_the_job_and_says_what_was_over(suite):
    process = suite.start("stopped")
    suite.interrupt()
    printed, said = ended(process)
    assert process.returncode == 130, said
    assert "cancelled" in said
    assert printed.startswith("1 passed, 0 failed")
    assert "Traceback" not in said
    suite.nothing_is_left()


def test_a_job_that_is_killed_leaves_what_was_over(suite):
    process = suite.start("killed")
    suite.user.cluster.run("scancel", "--signal=KILL", "--full", suite.job())
    printed, said = ended(process)
    assert process.returncode == 1, said
    assert printed.startswith("1 passed, 0 failed")
    assert "after 1 of 2 tests" in said


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--partition", "none"), 1, "invalid partition specified: none"),
        (("-k", "a b"), 1, "before a test; it said: ERROR: Wrong expression passed to '-k': a b"),
        (("-k", "no_such_test"), 1, "no test was chosen"),
        (("--runs", "/proc/runs"), 1, "choose another place with --runs"),
    ],
)
def test_what_goes_wrong_is_one_clear_line(suite, options, code, words):
    done = suite.test("wrong", *options)
    assert done.returncode == code, done.stderr
    logs = (suite.user.cluster.home / "wrong").glob("tests-*/output/*")
    assert words in done.stderr, [done.stderr, *(path.read_text() for path in logs)]
    assert "Traceback" not in done.stderr
    assert suite.left()[0] == ""


def test_an_installed_jobmeter_says_that_it_has_no_tests(user):
    done = user.jobmeter("test", "--site", "generic-slurm", check=False)
    assert done.returncode == 2
    assert "give a checkout with --source DIR" in done.stderr
