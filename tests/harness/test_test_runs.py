"""Test runs: the JUnit file that is always whole, what is said of it, and the script.

The real thing, on a cluster: tests/e2e/test_test_runs.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_render import unsafe_substitutions

from jobmeter.errors import ImageRequestError, RunFolderError, SiteError
from jobmeter.manifest import UsedImage
from jobmeter.paths import SuitePaths
from jobmeter.site import read_site
from jobmeter.spec import Resources
from jobmeter.suite import display, plugin
from jobmeter.suite.junit import parse_junit, read_junit
from jobmeter.suite.plan import Asked, check_demands, suite_plan
from jobmeter.suite.run import Ending
from jobmeter.suite.sources import copy_tree, identity, source_tree

ROOT = Path(__file__).parents[2]
JOBMETER = Path(sys.executable).parent / "jobmeter"

TESTS = {
    "tests/test_plain.py": r"""
import pytest

def test_passes(): pass

@pytest.mark.parametrize("text", ["a::b", "<&\"'\x01\u00e9"])
def test_fails(text):
    print("something")
    assert text == "other", f"no: {text}"

@pytest.fixture
def broken():
    raise RuntimeError("no fixture")

def test_error(broken): pass

@pytest.fixture
def broken_later():
    yield
    raise RuntimeError("no end")

def test_error_at_the_end(broken_later): pass

@pytest.mark.skip(reason="no such thing")
def test_skipped(): pass

@pytest.mark.xfail(reason="known")
def test_known(): assert False

@pytest.mark.xfail(reason="gone", strict=True)
def test_mended(): pass
""",
    "tests/test_gone.py": "import no_such_module",
    "tests/e2e/test_whole.py": "def test_job(): raise SystemError",
    "tests/test_marked.py": """
import pytest
@pytest.mark.cluster
def test_marked(): raise SystemError
""",
}

WAITS = """
import os, pytest
from pathlib import Path

def test_first(): pass

@pytest.fixture
def tidied():
    yield
    Path("tidied").touch()

def test_waits(tidied):
    os.mkfifo("fifo")
    Path("waits").touch()
    open("fifo").read()

def test_last(): pass
"""


def start_pytest(folder, tests, *options):
    """Start pytest as a job does, in a tree of its own."""
    (folder / "plugins").mkdir()
    shutil.copy(plugin.__file__, folder / "plugins" / "jobmeter_junit.py")
    for name, text in tests.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = cluster: x\n")
    words = ("-p", "no:cacheprovider", "-p", "jobmeter_junit", "--continue-on-collection-errors")
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *words, "--jobmeter-junit=junit.xml", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "plugins")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The JUnit file of tests of every kind."""
    folder = tmp_path_factory.mktemp("suite")
    said, _ = start_pytest(folder, TESTS).communicate(timeout=120)
    assert (folder / "junit.xml").exists(), said
    return folder / "junit.xml"


def test_every_test_that_ran_is_told_with_its_outcome(finished):
    result = read_junit(finished)
    outcomes = {case.name: (case.outcome, case.words) for case in result.others}
    assert outcomes.pop("tests/test_gone.py::tests/test_gone.py")[0] == "error"
    assert outcomes.pop("tests/test_plain.py::test_fails[a::b]") == (
        "failed",
        "AssertionError: no: a::b",
    )
    (odd,) = [name for name in outcomes if "test_fails[" in name]
    assert outcomes.pop(odd)[1] == "AssertionError: no: <&\"'?\u00e9"
    assert outcomes == {
        "tests/test_plain.py::test_error": ("error", "RuntimeError: no fixture"),
        "tests/test_plain.py::test_error_at_the_end": ("error", "RuntimeError: no end"),
        "tests/test_plain.py::test_skipped": ("skipped", "no such thing"),
        "tests/test_plain.py::test_known": ("skipped", "expected to fail: known"),
        "tests/test_plain.py::test_mended": ("failed", "[XPASS(strict)] gone"),
    }
    assert (result.passed, result.exit_code, result.torn) == (1, 1, False)
    assert result.selected == result.over == 9
    assert result.complete


def test_what_cannot_run_in_a_job_is_left_out_and_counted(finished):
    assert read_junit(finished).left_out == {
        "a Slurm cluster of namespaces, which needs root": 1,
        "whole jobs, which are started from outside of a job": 1,
    }


def test_the_file_is_what_other_readers_of_junit_take(finished):
    (suite,) = ElementTree.parse(finished).getroot()
    cases = suite.findall("testcase")
    assert suite.tag == "testsuite"
    assert int(suite.get("tests")) == len(cases) == 9
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(attribute)) == len(suite.findall(f"testcase/{tag}")), tag
    failure = suite.find("testcase[@name='test_fails[a::b]']/failure")
    assert "something" not in failure.get("message")
    assert "assert 'a::b' == 'other'" in failure.text


@pytest.fixture
def waiting(tmp_path):
    """A pytest in the middle of its second test."""
    process = start_pytest(tmp_path, {"tests/test_waits.py": WAITS})
    while not (tmp_path / "waits").exists():
        assert process.poll() is None, process.communicate()
    yield process
    process.kill()
    process.communicate()


def test_a_killed_run_leaves_a_whole_file_of_what_was_over(waiting, tmp_path):
    waiting.kill()
    waiting.wait()
    ElementTree.parse(tmp_path / "junit.xml")
    result = read_junit(tmp_path / "junit.xml")
    assert (result.passed, result.selected, result.exit_code) == (1, 3, None)
    assert not result.torn
    assert not result.complete


def test_a_run_that_is_told_to_end_tidies_up(waiting, tmp_path):
    waiting.send_signal(signal.SIGTERM)
    said, _ = waiting.communicate(timeout=60)
    assert "the job was told to end" in said
    assert (tmp_path / "tidied").exists()
    result = read_junit(tmp_path / "junit.xml")
    assert (result.passed, result.exit_code, result.complete) == (1, 2, False)


def test_a_torn_file_tells_what_is_before_the_damage(finished):
    content = finished.read_bytes()
    whole = parse_junit(content)
    before = 0
    for end in range(0, len(content) - 1, 97):
        result = parse_junit(content[:end])
        assert result.torn
        assert not result.complete
        assert before <= result.over <= whole.over
        before = result.over
    assert before > 0
    assert parse_junit(content[:-20] + b"\0" * 20).over == whole.over


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"<a>", b"no xml", b"<a b='>"])
def test_what_is_no_junit_file_tells_nothing(content):
    result = parse_junit(content)
    assert (result.over, result.selected, result.exit_code) == (0, None, None)
    assert result.torn or not result.complete


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(RunFolderError, match="no test has begun"):
        read_junit(tmp_path / "junit.xml")


# --- what is said ---


def run_folder(tmp_path, junit=None, said=""):
    paths = SuitePaths(tmp_path)
    paths.job_output.mkdir()
    if said is not None:
        (paths.job_output / "jobmeter-tests-7.out").write_text(said)
    if junit is not None:
        paths.junit.write_bytes(junit)
    return paths


def report_of(paths, state, *, cancelled=False, job_id="7"):
    return display.report_of(paths, "here", None, Ending(state, job_id, cancelled=cancelled))


def test_failures_are_named_and_reasons_counted(finished, tmp_path):
    report = report_of(run_folder(tmp_path, finished.read_bytes()), "FAILED")
    text = "\n".join(display.lines_of(report))
    assert text.startswith("1 passed, 3 failed, 3 errors, 2 skipped\n")
    assert "failed   tests/test_plain.py::test_fails[a::b]: AssertionError: no: a::b\n" in text
    assert "skipped  1: no such thing\n" in text
    assert "left out 1: they need a Slurm cluster of namespaces" in text
    assert f"junit    {tmp_path}/junit.xml" in text
    assert (report.problem, report.exit_code) == (None, 1)
    told = json.loads(display.as_json(report))
    assert told["tests"]["passed"] == 1
    assert told["complete"]
    assert len(told["others"]) == 8


def head(exit_code="", selected="2"):
    return (
        f'<testsuites><testsuite hostname="n1"><properties>'
        f'<property name="jobmeter.exit_code" value="{exit_code}"/>'
        f'<property name="jobmeter.selected" value="{selected}"/></properties>'
    )


ONE = '<testcase classname="a.py" name="b"/>'
END = "</testsuite></testsuites>"


@pytest.mark.parametrize(
    ("junit", "said", "state", "problem", "code"),
    [
        (head("0") + ONE * 2 + END, "", "COMPLETED", None, 0),
        (head() + ONE + END, "x\ny", "TIMEOUT", "after 1 of 2 tests; ask for more with --time", 1),
        (head() + ONE + END, "", "NODE_FAIL", "ended as NODE_FAIL after 1 of 2 tests; see", 1),
        (head("0") + ONE, "", "COMPLETED", "after 1 of 2 tests", 1),
        (head("5", "0") + END, "", "FAILED", "no test was chosen", 1),
        (None, "FATAL: no\n\n", "FAILED", "before a test; it said: FATAL: no; all of it: ", 1),
        (None, None, "CANCELLED", "ended as CANCELLED before a test; it said: nothing", 1),
        (head("4") + END, "usage", "FAILED", "before a test; it said: usage", 1),
        (head("4") + END, "x ERROR: no\n\n== end\n", "FAILED", "it said: ERROR: no; all of", 1),
    ],
)
def test_a_run_that_is_not_whole_says_why(tmp_path, junit, said, state, problem, code):
    paths = run_folder(tmp_path, None if junit is None else junit.encode(), said)
    report = report_of(paths, state)
    assert report.exit_code == code
    if problem is None:
        assert report.problem is None
    else:
        assert problem in report.problem
    told = json.loads(display.as_json(report))
    assert (told["tests"] is None) == (junit is None), "what is not known is not zero"


def test_a_cancelled_run_says_what_there_is(tmp_path):
    report = report_of(run_folder(tmp_path, (head() + ONE + END).encode()), "X", cancelled=True)
    assert report.problem.startswith("job 7 was cancelled after 1 tests; ")
    assert report.exit_code == 130


# --- the sources ---


def test_a_copied_tree_is_the_one_that_it_says(tmp_path):
    copy_tree(ROOT, tmp_path / "copy")
    told = json.loads((tmp_path / "copy" / "SOURCES.json").read_text())
    assert told["version"]
    assert source_tree(tmp_path / "copy") == tmp_path / "copy"
    assert (tmp_path / "copy" / "sbatch" / "tests.sbatch.j2").exists()
    assert not list((tmp_path / "copy").rglob("__pycache__"))
    (tmp_path / "copy" / "SOURCES.json").unlink()
    again = identity(tmp_path / "copy")
    assert (again["version"], again["commit"]) == (told["version"], None)
    assert again["sha256"] == told["sha256"]
    (tmp_path / "copy" / "tests" / "more.py").touch()
    assert identity(tmp_path / "copy")["sha256"] != told["sha256"]


def test_a_folder_without_tests_is_no_source_tree(tmp_path):
    with pytest.raises(ImageRequestError, match="no source tree of jobmeter"):
        source_tree(tmp_path)


# --- the plan ---

IMAGE = UsedImage("tests", "0", "0" * 64, "/images/it's tests.sif", 10, "x86_64")


def scripts():
    """A script for each way in which the tests are started."""
    folder = Path("/home/it's me/runs/tests-1")
    own = Resources(time="00:15:00", account="p200000", partition="cpu", cpus_per_task=4)
    asked = Asked(own, "not slow", "prometheus")
    native = (None, Path("/home/it's me/jobmeter"))
    return {
        name: suite_plan(site, read_site(site), asked, folder, *what).script()
        for name, site, what in (
            ("local", "local", native),
            ("generic-slurm", "generic-slurm", native),
            ("meluxina", "meluxina", (IMAGE, None)),
            ("lumi", "lumi", (IMAGE, None)),
        )
    }


@pytest.fixture(params=["local", "generic-slurm", "meluxina", "lumi"])
def script(request, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/py/bin/python")
    monkeypatch.setattr("jobmeter.suite.plan.__version__", "0")
    return request.param, scripts()[request.param]


def test_the_script_matches_golden(script, check_golden):
    name, text = script
    if name in ("local", "meluxina"):
        # What it shares with the scripts of every job is in their golden files.
        before, _, rest = text.partition("readonly RUN=")
        shared, begin, own = rest.partition("begin_tests() {")
        assert "local_scratch() {" in shared
        check_golden(f"tests-{name}.sbatch", f"{before}...\n{begin}{own}")


def test_the_script_passes_shellcheck(script, tmp_path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not on PATH")
    (tmp_path / "tests.sh").write_text(script[1])
    found = subprocess.run(
        ["shellcheck", "--shell=bash", tmp_path / "tests.sh"], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def test_no_signal_can_break_the_parsing_of_the_script(script):
    assert unsafe_substitutions(script[1]) == []


@pytest.mark.parametrize(
    ("site", "asked", "words"),
    [
        ("meluxina", {}, "--account: site 'meluxina' demands one"),
        (
            "meluxina",
            {"account": "p2", "partition": "cpu", "qos": "tset", "time": "10"},
            "did you mean 'test'",
        ),
        (
            "meluxina",
            {"account": "p2", "partition": "cpu", "qos": "test", "time": "01:00:00"},
            "00:30:00",
        ),
    ],
)
def test_what_the_site_cannot_run_is_refused(site, asked, words):
    with pytest.raises(SiteError, match=words):
        check_demands(site, read_site(site), Resources(**asked))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--time", "soon"), 2, "--time: "),
        (("--site", "loacl"), 2, "did you mean 'local'?"),
        (("--image", "x.sif"), 2, "site 'local' has no container runtime"),
        (("--source", "/nowhere"), 2, "--source /nowhere: no source tree of jobmeter"),
        (("--cpus", "0"), 2, "--cpus"),
        (
            ("--site", "contained.yaml", "--image", "x.sif"),
            1,
            "x.sif: the image is missing",
        ),
        (("--site", "contained.yaml"), 2, "names no images.folder"),
    ],
)
def test_a_wrong_request_gets_one_clear_line_and_leaves_nothing(tmp_path, arguments, code, words):
    (tmp_path / "contained.yaml").write_text(
        "description: x\nlauncher: bash\nruntime: {kind: apptainer}\n"
    )
    done = subprocess.run(
        [JOBMETER, "test", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["contained.yaml"]
