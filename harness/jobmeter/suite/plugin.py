"""A pytest plugin that keeps a JUnit file whole while the tests run.

pytest writes its own JUnit file at the end, and a job that is killed has no end. Here each test is
added when it is over, and what closes the document is written again behind it, so that the file
can be read at any time.

A copy of this file goes into the folder of a run, and pytest loads it from there, whichever version
of jobmeter is in the image: it needs nothing but pytest and the standard library.
"""

from __future__ import annotations

import html
import json
import platform
import re
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import IO, Any

import pytest

TEXT_LIMIT = 20_000
"""Characters of what pytest says of one test; its end says why."""

LEFT_OUT = {
    "cluster": "a Slurm cluster of namespaces, which needs root",
    "tests/cluster": "a Slurm cluster of namespaces, which needs root",
    "tests/e2e": "whole jobs, which are started from outside of a job",
}
"""What the tests of a marker or a folder need that a test run does not have."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAIL = b"</testsuite></testsuites>\n"
_ROOM = 64
"""Bytes by which the head may grow: numbers get longer, and an exit code comes."""


@dataclass
class _Case:
    """One test, as far as it has come."""

    outcome: str = "passed"
    words: str = ""
    text: str = ""
    seconds: float = 0.0


@dataclass
class _Totals:
    """What stands at the head of the file."""

    tests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    exit_code: int | None = None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that turns this plugin on."""
    parser.addoption(
        "--jobmeter-junit", metavar="FILE", type=Path, help="JUnit file that is always whole."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to record, where a file is named."""
    path = config.getoption("--jobmeter-junit")
    if path is not None:
        config.pluginmanager.register(Recorder(path), "jobmeter-junit")
        # Slurm's TERM at the time limit: fixtures tidy up, and pytest reports what it has.
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt("the job was told to end")


class Recorder:
    """Writes the file while pytest runs.

    Args:
        path: Of the file, which is replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began_s = time.monotonic()
        self._began_at = datetime.now(tz=timezone.utc).isoformat(timespec="seconds")
        self._left_out: Counter[str] = Counter()
        self._selected: int | None = None
        self._sources: Mapping[str, Any] = {}
        self._totals = _Totals()
        self._cases: dict[str, _Case] = {}
        self._handle: IO[bytes] | None = None
        self._head_bytes = self._end = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leave out what cannot run here, and count it."""
        reasons = [(item, _left_out(item)) for item in items]
        left_out = [item for item, reason in reasons if reason]
        self._left_out.update(reason for _, reason in reasons if reason)
        if left_out:
            items[:] = [item for item, reason in reasons if not reason]
            config.hook.pytest_deselected(items=left_out)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write the head: from here on the file is there."""
        # A file that could not be collected is told as one test.
        self._selected = len(session.items) + len(self._cases)
        self._sources = _sources(session.config.rootpath)
        self._open()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a file whose tests cannot even be collected."""
        if report.failed or report.skipped:
            self._cases[report.nodeid] = _told(_Case(), report, "error")
            self._flush(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record one of the three parts of a test, and write it when it is over."""
        case = self._cases.setdefault(report.nodeid, _Case())
        case.seconds += report.duration
        if hasattr(report, "wasxfail"):
            if report.skipped:
                case.outcome, case.words = "skipped", f"expected to fail: {report.wasxfail}"
            else:
                _told(case, report, "failure")
        elif not report.passed:
            _told(case, report, "failure" if report.when == "call" else "error")
        if report.when == "teardown":
            self._flush(report.nodeid)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write that this is the end."""
        if self._handle is None:
            self._open()
        self._totals.exit_code = int(exitstatus)
        self._write_head()

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        if self._handle is not None:
            self._handle.close()

    def _open(self) -> None:
        self._handle = self._path.open("wb", buffering=0)
        self._head_bytes = len(self._head()) + _ROOM
        self._end = self._head_bytes
        self._handle.write(self._padded_head() + _TAIL)
        for name in [name for name, case in self._cases.items() if case.outcome != "passed"]:
            self._flush(name)

    def _flush(self, name: str) -> None:
        """Write one test that is over; before the file is there it waits."""
        if self._handle is None:
            return
        case = self._cases.pop(name)
        self._totals.tests += 1
        self._totals.outcomes[case.outcome] += 1
        text = _element(name, case)
        self._handle.seek(self._end)
        self._handle.write(text + _TAIL)
        self._end += len(text)
        self._write_head()

    def _write_head(self) -> None:
        if self._handle is not None:
            self._handle.seek(0)
            self._handle.write(self._padded_head())

    def _padded_head(self) -> bytes:
        return self._head().ljust(self._head_bytes - 1) + b"\n"

    def _head(self) -> bytes:
        totals, outcomes = self._totals, self._totals.outcomes
        suite = {
            "name": "jobmeter",
            "hostname": platform.node(),
            "timestamp": self._began_at,
            "tests": totals.tests,
            "failures": outcomes["failure"],
            "errors": outcomes["error"],
            "skipped": outcomes["skipped"],
            "time": f"{time.monotonic() - self._began_s:.1f}",
        }
        properties = [
            ("jobmeter.exit_code", "" if totals.exit_code is None else totals.exit_code),
            ("jobmeter.selected", "" if self._selected is None else self._selected),
            ("jobmeter.python", platform.python_version()),
            *((f"jobmeter.{key}", value) for key, value in self._sources.items()),
            *(("jobmeter.left_out", f"{n} {reason}") for reason, n in self._left_out.items()),
        ]
        inner = "".join(f"<property{_attributes(name=n, value=x)}/>\n" for n, x in properties)
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f"<testsuites><testsuite{_attributes(**suite)}>\n<properties>\n{inner}</properties>"
        ).encode()


def _left_out(item: pytest.Item) -> str | None:
    """Return what a test needs that is not here."""
    folders = [folder for folder in LEFT_OUT if item.nodeid.startswith(f"{folder}/")]
    markers = [mark.name for mark in item.iter_markers() if mark.name in LEFT_OUT]
    return next((LEFT_OUT[name] for name in (*folders, *markers)), None)


def _sources(root: Path) -> Mapping[str, Any]:
    """Return which sources are tested: as is written beside this file, or in the tree itself."""
    for folder in (Path(__file__).parent, root):
        try:
            told = json.loads((folder / "SOURCES.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return {key: value for key, value in told.items() if value is not None}
    return {}


def _told(case: _Case, report: pytest.TestReport | pytest.CollectReport, if_failed: str) -> _Case:
    """Note what pytest says of a part of a test that did not pass; the worst part counts."""
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        case.outcome, case.words = "skipped", str(reason).removeprefix("Skipped: ")
        return case
    crash = getattr(report.longrepr, "reprcrash", None)
    text = report.longreprtext
    case.words = str(getattr(crash, "message", "") or text.strip().rpartition("\n")[2])
    case.text = f"{case.text}{text}\n"
    if case.outcome != "failure":
        case.outcome = if_failed
    return case


def _element(name: str, case: _Case) -> bytes:
    """Return the element of one test; ``classname::name`` is what pytest calls it."""
    file, _, rest = name.partition("::")
    inner = ""
    if case.outcome != "passed":
        text = case.text[-TEXT_LIMIT:]
        message = case.words.strip().split("\n")[0][:1000]
        inner = f"<{case.outcome}{_attributes(message=message)}>{_xml(text)}</{case.outcome}>"
    attributes = _attributes(classname=file, name=rest or file, time=f"{case.seconds:.3f}")
    return f"<testcase{attributes}>{inner}</testcase>\n".encode()


def _attributes(**values: object) -> str:
    return "".join(f' {name}="{_xml(str(value))}"' for name, value in values.items())


def _xml(text: str) -> str:
    return html.escape(_NOT_XML.sub("?", text))
