"""Running the tests: the folder of a run is written, and the job is submitted and followed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from jobmeter import slurm
from jobmeter.errors import JobmeterError, ProcessError, RunFolderError, SchedulerError
from jobmeter.paths import SuitePaths
from jobmeter.process import run, run_followed
from jobmeter.slurm_now import JobNow, queue_command, queue_from
from jobmeter.slurm_words import FINAL_STATES
from jobmeter.suite.junit import read_junit
from jobmeter.suite.plan import SuitePlan

SCHEMA_VERSION = 1
REMIND_S = 30.0
SILENCE_LIMIT_S = 300.0
CANCEL_LIMIT_S = 5.0
"""For the tests to end in order after a Ctrl-C, while a person waits."""

SEEN_LIMIT_S = 30.0
"""What a node wrote may be seen later here, on a network file system."""

_COMPLAINT = re.compile(r"\b(FATAL|ERROR|jobmeter|slurmstepd): .*")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Args:
        state: Slurm's word for it; ``COMPLETED`` or ``FAILED`` of a run without Slurm.
        job_id: None without Slurm.
        cancelled: Whether the person at the terminal ended it.
    """

    state: str
    job_id: str | None
    cancelled: bool = False


def write(suite: SuitePlan) -> None:
    """Write the folder of a run: exclusively, readable by its owner alone.

    Raises:
        JobmeterError: it cannot be written.
    """
    paths, script, sources = suite.paths, suite.script(), suite.sources()
    try:
        paths.run.parent.mkdir(parents=True, exist_ok=True)
        for folder in (paths.run, paths.plugins, paths.job_output):
            folder.mkdir(mode=0o700)
        paths.script.write_text(script, encoding="utf-8")
        paths.plugin.write_text(_plugin(), encoding="utf-8")
        if sources:
            paths.sources.write_text(json.dumps(sources), encoding="utf-8")
        paths.manifest.write_text(json.dumps(_manifest(suite), indent=2) + "\n", encoding="utf-8")
    except OSError as cause:
        raise JobmeterError(
            f"the run directory {paths.run} cannot be written: {cause.strerror}; "
            "choose another place with --runs"
        ) from cause


def _plugin() -> str:
    """Return the text of the plugin, which needs pytest and is not imported here."""
    return Path(__file__).with_name("plugin.py").read_text(encoding="utf-8")


def _manifest(suite: SuitePlan) -> Mapping[str, object]:
    plan = suite.plan
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": plan.run_id,
        "site": plan.site,
        "created": datetime.now(tz=timezone.utc).isoformat(timespec="seconds"),
        "jobmeter_version": plan.jobmeter_version,
        "image": None if suite.image is None else asdict(suite.image),
        "source": None if suite.source is None else str(suite.source),
        "sbatch_options": plan.sbatch_options,
        "pytest": suite.arguments,
    }


def pytest_is_here() -> bool:
    """Whether the Python that runs jobmeter has pytest."""
    return importlib.util.find_spec("pytest") is not None


def run_here(suite: SuitePlan, say: Say) -> Ending:
    """Run the tests on this machine, to the end."""
    paths = suite.paths
    teller = _Teller(paths, "tests", say)
    began_s = time.monotonic()
    with (paths.job_output / "local.out").open("w", encoding="utf-8") as log:

        def line(text: str) -> None:
            log.write(f"{text}\n")
            log.flush()
            if time.monotonic() - began_s > 1.0:
                teller.tell("RUNNING")

        try:
            code = run_followed(
                ("bash", str(paths.script)), line, folder=Path.cwd(), environment={}
            )
        except FileNotFoundError as cause:
            raise ProcessError("bash is not on PATH, and it runs the tests; install it") from cause
    # pytest ends with 2 when somebody interrupts it, bash with more when it is told so itself.
    return Ending("COMPLETED" if code == 0 else "FAILED", None, cancelled=code in (2, 130, 143))


def run_on_slurm(suite: SuitePlan, say: Say) -> Ending:
    """Submit the job and follow it to its end; at a Ctrl-C it is cancelled.

    Raises:
        SchedulerError: Slurm refused the job, or says nothing of it any more.
    """
    paths = suite.paths
    try:
        job_id = slurm.submit(paths.script)
    except SchedulerError as cause:
        raise SchedulerError(f"{cause}; the script is {paths.script}") from cause
    say(f"job {job_id} submitted; its folder is {paths.run}")
    try:
        state = _await_end(job_id, _Teller(paths, f"job {job_id}", say))
    except KeyboardInterrupt:
        state = _cancel(job_id, say)
        _await_files(paths, CANCEL_LIMIT_S if paths.junit.exists() else 0.0)
        return Ending(state, job_id, cancelled=True)
    except BaseException:
        _cancel(job_id, say)
        raise
    _await_files(paths, SEEN_LIMIT_S if state in ("COMPLETED", "FAILED") else 1.0)
    return Ending(state, job_id)


class _Teller:
    """Says what a run is doing: each change at once, and how far it is now and then.

    Args:
        paths: Of the run.
        who: What is said first.
        say: Tells a person.
    """

    def __init__(self, paths: SuitePaths, who: str, say: Say) -> None:
        self._paths, self._who, self._say = paths, who, say
        self._state = ""
        self._said_at = 0.0

    def tell(self, state: str, reason: str | None = None) -> None:
        """Say the state, when it is new or has not been said for a while."""
        words = f"{state} ({reason})" if reason and state == "PENDING" else state
        now = time.monotonic()
        if words == self._state and now - self._said_at < REMIND_S:
            return
        progress = _progress(self._paths) if state == "RUNNING" else ""
        self._say(f"{self._who} {words}{progress}")
        self._state, self._said_at = words, now


def _progress(paths: SuitePaths) -> str:
    """Return how many tests are over, and the last line of the log."""
    try:
        result = read_junit(paths.junit)
    except RunFolderError:
        return ""
    failed = len(result.of("failed", "error"))
    words = f": {result.over} of {result.selected if result.selected is not None else '?'} tests"
    return f"{words}, {failed} failed; {last_line(paths)}" if result.over else words


def last_line(paths: SuitePaths) -> str:
    """Return the last line of what pytest has printed."""
    lines = _lines(paths)
    return lines[-1][:200] if lines else "nothing"


def last_words(paths: SuitePaths) -> str:
    """Return the last complaint of pytest, or of who should have started it; else the last line."""
    complaints = [match[0] for line in _lines(paths) if (match := _COMPLAINT.search(line))]
    return complaints[-1][:400] if complaints else last_line(paths)


def _lines(paths: SuitePaths) -> list[str]:
    """Return the lines at the end of the log that are not empty."""
    path = paths.log()
    if path is None:
        return []
    text = path.read_bytes()[-4000:].decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _await_end(job_id: str, teller: _Teller) -> str:
    """Return the final state.

    Raises:
        SchedulerError: Slurm has said nothing for ``SILENCE_LIMIT_S``.
    """
    pause_s = 0.25
    heard_at = time.monotonic()
    while True:
        said = _job_now(job_id)
        if said is not None:
            heard_at = time.monotonic()
            teller.tell(said.state, said.reason)
            if said.state in FINAL_STATES:
                return said.state
        elif time.monotonic() - heard_at > SILENCE_LIMIT_S:
            raise SchedulerError(
                f"Slurm says nothing of job {job_id} for {SILENCE_LIMIT_S:g} s; see 'squeue'"
            )
        time.sleep(pause_s)
        pause_s = min(5.0, pause_s * 1.3)


def _job_now(job_id: str) -> JobNow | None:
    """Return what Slurm says; None when it does not answer just now."""
    jobs: tuple[JobNow, ...] = ()
    with contextlib.suppress(SchedulerError):
        jobs = queue_from(run(queue_command(job_id), error=SchedulerError))
    if jobs:
        return jobs[0]
    state = slurm.job_state(job_id)
    return None if state is None else JobNow(job_id, state, state in FINAL_STATES, "sacct")


def _cancel(job_id: str, say: Say) -> str:
    """Cancel the job, and return the state that it then has."""
    try:
        run(("scancel", job_id), error=SchedulerError)
        say(f"job {job_id} cancelled")
    except SchedulerError as problem:
        say(f"job {job_id} may still be in the queue: {problem}")
        return "UNKNOWN"
    return "CANCELLED"


def _await_files(paths: SuitePaths, limit_s: float) -> None:
    """Wait until the end of the run can be seen here."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with contextlib.suppress(RunFolderError):
            if read_junit(paths.junit).exit_code is not None:
                return
        if "jobmeter: the tests cannot run" in last_line(paths):
            return
        # Listing a folder makes a client of a network file system look again.
        os.listdir(paths.run)  # noqa: PTH208
        time.sleep(0.2)
