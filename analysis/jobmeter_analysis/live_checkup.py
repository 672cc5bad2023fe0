"""From a run or a server to the report on its health."""

from __future__ import annotations

from pathlib import Path

from jobmeter.errors import RecordingError
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter_analysis.attempt import selectors_of
from jobmeter_analysis.live_facts import (
    metric_selectors,
    readings_of_attempt,
    readings_of_server,
)
from jobmeter_analysis.live_health import CHECKS, Report, Result, When, load_checks, report
from jobmeter_analysis.live_server import LiveServer
from jobmeter_analysis.live_state import attempt_now
from jobmeter_analysis.recording import Recorded, Selector
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.vocabulary import load_vocabulary

NOT_STARTED = "the job has not started"


def of_attempt(
    run: RunPaths,
    attempt: AttemptPaths,
    now_ms: int,
    over: bool | None,
    checks_file: Path = CHECKS,
) -> Report:
    """Return the health of an attempt, by its folder and what Slurm says of its end.

    Args:
        run: The run it belongs to.
        attempt: Its folder.
        now_ms: The time.
        over: Whether its job has ended, by Slurm; None where nobody can say.
        checks_file: The checks.
    """
    checks = load_checks(checks_file)
    recording = _read_once(attempt.tsdb, metric_selectors(checks))
    now = attempt_now(run, attempt, now_ms, over, recording)
    readings = readings_of_attempt(now, recording.series, checks)
    when: When = "over" if now.over else "runs"
    subject = f"{run.run.name} attempt {attempt.name}"
    return report(subject, now_ms, "run", when, readings, checks)


def _read_once(tsdb: Path, more: list[Selector]) -> Recorded:
    """Return what the state of an attempt and the checks need, in one pass over the data."""
    folder = PrometheusFolder(tsdb)
    try:
        series = folder.select([*selectors_of({}, load_vocabulary()), *more])
    except RecordingError as cause:
        return Recorded((), (str(cause),))
    return Recorded(tuple(series), folder.problems)


def of_run_before_its_start(run: RunPaths, now_ms: int) -> Report:
    """Return the health of a run of which there is no attempt yet: nothing can be told."""
    check = load_checks()["attempt_known"]
    unknown = Result(
        check="attempt_known",
        health="unknown",
        value=None,
        unit=check.unit,
        entities=(),
        reason=NOT_STARTED,
        required=True,
        help=check.help,
        advice="`jobmeter status` says whether it waits",
    )
    return Report(run.run.name, now_ms, "degraded", (unknown,))


def of_server(server: LiveServer, now_ms: int, checks_file: Path = CHECKS) -> Report:
    """Return the health of a living Prometheus.

    Args:
        server: Which.
        now_ms: The time.
        checks_file: The checks.
    """
    checks = load_checks(checks_file)
    now = server.look()
    recorded = server.last(metric_selectors(checks)) if now.answers else []
    readings = readings_of_server(now, recorded, checks)
    return report(server.name, now_ms, "server", "runs", readings, checks)
