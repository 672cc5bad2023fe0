"""What became of a test run: in lines for a person, in JSON for a machine."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from jobmeter.errors import RunFolderError
from jobmeter.manifest import UsedImage
from jobmeter.paths import SuitePaths
from jobmeter.suite.junit import Result, read_junit
from jobmeter.suite.run import SCHEMA_VERSION, Ending, last_words

NO_TESTS = 5
"""pytest's exit code when nothing was chosen."""

_BEFORE_A_TEST = (3, 4)
"""pytest's exit codes when it has failed itself."""


@dataclass(frozen=True)
class Report:
    """A test run and its end.

    Args:
        run: Its folder.
        site: Name of the site profile.
        image: In which it ran; None without a container.
        ending: How the job ended.
        result: What its JUnit file tells; None where there is none.
        last_words: Of what was printed.
        junit: The JUnit file.
        log: What was printed; None where nothing was.
    """

    run: Path
    site: str
    image: UsedImage | None
    ending: Ending
    result: Result | None
    last_words: str
    junit: Path
    log: Path | None

    @property
    def problem(self) -> str | None:
        """Why the run says less than it should, in one line; None when it is whole."""
        ending, result = self.ending, self.result
        who = f"job {ending.job_id}" if ending.job_id else "the run"
        if ending.cancelled:
            over = f" after {result.over} tests" if result is not None else ""
            return f"{who} was cancelled{over}; {self.run} has what was recorded"
        if result is None or result.exit_code in _BEFORE_A_TEST:
            return f"{who} ended as {ending.state} before a test; it said: {self._said}"
        if result.exit_code == NO_TESTS:
            return "no test was chosen; see -k and -m, and what was left out"
        if result.complete:
            return None
        advice = "ask for more with --time" if ending.state == "TIMEOUT" else f"see {self.log}"
        return (
            f"{who} ended as {ending.state} after {result.over} of {result.selected} tests; "
            f"{advice}; it said: {self.last_words}"
        )

    @property
    def _said(self) -> str:
        return self.last_words if self.log is None else f"{self.last_words}; all of it: {self.log}"

    @property
    def exit_code(self) -> int:
        """0 when every test that was to run has passed or was skipped; 130 after a Ctrl-C."""
        if self.ending.cancelled:
            return 130
        failed = self.result is None or self.result.of("failed", "error")
        return 1 if failed or self.problem is not None else 0


def report_of(paths: SuitePaths, site: str, image: UsedImage | None, ending: Ending) -> Report:
    """Return what the folder of a run has of it."""
    result = None
    with contextlib.suppress(RunFolderError):
        result = read_junit(paths.junit)
    return Report(
        run=paths.run,
        site=site,
        image=image,
        ending=ending,
        result=result,
        last_words=last_words(paths),
        junit=paths.junit,
        log=paths.log(),
    )


def lines_of(report: Report) -> Iterator[str]:
    """Yield the lines for a person."""
    result = report.result
    if result is not None:
        counts = Counter(case.outcome for case in result.others)
        yield (
            f"{result.passed} passed, {counts['failed']} failed, {counts['error']} errors, "
            f"{counts['skipped']} skipped"
        )
        for case in result.of("failed", "error"):
            yield f"{case.outcome:<8} {case.name}: {case.words}"
        reasons = Counter(case.words for case in result.of("skipped"))
        for reason, count in reasons.most_common():
            yield f"skipped  {count}: {reason}"
        for reason, count in result.left_out.items():
            yield f"left out {count}: they need {reason}"
        if result.torn:
            yield "torn     the JUnit file is damaged; what could be read of it is above"
        yield f"tested   {_sources(report, result)}"
    if report.log is not None:
        yield f"log      {report.log}"
    if result is not None:
        yield f"junit    {report.junit}"


def _sources(report: Report, result: Result) -> str:
    told = result.sources
    commit = told.get("commit", "")
    words = [f"jobmeter {told.get('version', 'of unknown version')}"]
    if commit:
        words.append(f"commit {commit[:12]}{'+' if commit.endswith('+') else ''}")
    if told.get("sha256"):
        words.append(f"sources {told['sha256'][:12]}")
    if told.get("python"):
        words.append(f"Python {told['python']}")
    if report.image is not None:
        words.append(f"image {report.image.sha256[:12]}")
    if result.host:
        words.append(f"on {result.host}")
    return ", ".join(words)


def as_json(report: Report) -> str:
    """Return the report for a machine; what is not known is null."""
    result = report.result
    counts = None
    if result is not None:
        outcomes = Counter(case.outcome for case in result.others)
        counts = {
            "passed": result.passed,
            **{name: outcomes[name] for name in ("failed", "error", "skipped")},
            "selected": result.selected,
            "left_out": dict(result.left_out),
        }
    data = {
        "schema_version": SCHEMA_VERSION,
        "run": str(report.run),
        "site": report.site,
        "job_id": report.ending.job_id,
        "state": report.ending.state,
        "complete": report.problem is None,
        "problem": report.problem,
        "tests": counts,
        "others": None if result is None else [asdict(case) for case in result.others],
        "tested": None if result is None else dict(result.sources),
        "host": None if result is None else result.host,
        "image": None if report.image is None else asdict(report.image),
        "junit": str(report.junit) if result is not None else None,
        "log": None if report.log is None else str(report.log),
    }
    return json.dumps(data, indent=2) + "\n"
