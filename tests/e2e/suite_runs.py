"""A checkout whose tests are few, and the user who runs them by ``jobmeter test``."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slurm_user import User, until

from jobmeter.errors import RunFolderError
from jobmeter.suite.junit import read_junit
from jobmeter.suite.sources import copy_tree

CHECKOUT = Path("/opt/checkout")

MORE_TESTS = """
import threading
from pathlib import Path

def test_passes_here(tmp_path):
    (tmp_path / "written").touch()

def test_fails_here():
    assert 1 + 1 == 3

def test_waits_here():
    threading.Event().wait()
"""


def make_checkout(folder, *, whole=True):
    """Copy this checkout, with tests that fail and that wait; seen inside it is ``CHECKOUT``.

    Only a few of its tests are in it when it is not ``whole``: collecting takes long.
    """
    tree = folder / "checkout"
    copy_tree(Path(__file__).parents[2], tree)
    if not whole:
        for name in ("analysis", "exporters", "harness", "tests/analysis", "tests/exporters"):
            shutil.rmtree(tree / name)
        for path in (tree / "tests").rglob("test_*.py"):
            if path.name not in ("test_slurm_words.py", "test_testbed.py"):
                path.unlink()
    (tree / "tests" / "harness" / "test_here.py").write_text(MORE_TESTS)
    return tree


@dataclass(frozen=True)
class SuiteUser:
    """Somebody at a terminal of the login host.

    Args:
        user: Who.
        options: Of every run: the site, and what it needs.
    """

    user: User
    options: tuple[str, ...]

    def test(self, name, *words, check=False, timeout_s=300):
        """Run ``jobmeter test`` to its end, in the folder ``name``."""
        return self.user.jobmeter(
            "test", *self.options, "--runs", name, *words, check=check, timeout_s=timeout_s
        )

    def told(self, name, *words):
        """Return exit code and report of a run, and what was said on the way."""
        done = self.test(name, "--json", *words)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    def folder(self, name):
        """Return the folder of the only run in ``name``; None before there is one."""
        return next((self.user.cluster.home / name).glob("tests-*"), None)

    def passed(self, name):
        """Return how many tests have passed, by the file that the job writes."""
        try:
            return read_junit(self.folder(name) / "junit.xml").passed if self.folder(name) else 0
        except RunFolderError:
            return 0

    def start(self, name):
        """Start a run of two tests, and return when its first one is over and the second waits."""
        words = ("test", *self.options, "--runs", name, "-k", "waits_here or passes_here")
        process = self.user.cluster.popen("/opt/jobmeter/bin/jobmeter", *words)
        until(
            lambda: self.passed(name) == 1 or process.poll() is not None,
            180,
            lambda: f"no test is over in {name}",
        )
        assert process.poll() is None, process.communicate()
        return process

    def job(self):
        """Return the number of the job that runs."""
        printed = self.user.cluster.run(
            "squeue", "--noheader", "--user=hpc", "--name=jobmeter-tests", "--format=%i"
        )
        return printed.stdout.strip()

    def interrupt(self):
        """Press Ctrl-C where ``jobmeter test`` runs."""
        for pid, words in self.user.cluster.pids().items():
            if "bin/jobmeter test" in words:
                os.kill(pid, signal.SIGINT)

    def left(self):
        """Return what is left of the runs in the queue and in the temporary folders of the node."""
        run = self.user.cluster.run
        queue = run("squeue", "--noheader", "--user=hpc").stdout
        files = run("find", "/tmp", "-maxdepth", "1", "-user", "hpc", node="mel0001").stdout
        return queue, files

    def nothing_is_left(self):
        until(lambda: self.left() == ("", ""), 60, lambda: f"left: {self.left()}")


def ended(process):
    """Return what a process said, when it has ended."""
    try:
        return process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
