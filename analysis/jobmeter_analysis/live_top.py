"""KPIs of the last minute of an attempt that runs, again and again.

The numbers are those of ``jobmeter analyze``: same catalogue, same arithmetic, a window of the last
minute. They come from the run's own Prometheus where it is on this machine, else from the copy in
the run directory, of which each look reads only what is new.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobmeter.errors import RecordingError, RunFolderError
from jobmeter.events import EventLog, read_events
from jobmeter.manifest import RunManifest, read_manifest
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import Phase, Window
from jobmeter_analysis.attempt import read_attempt
from jobmeter_analysis.engine import WINDOW, kpi_table
from jobmeter_analysis.live_panels import (
    PANELS,
    Panel,
    catalogue_for,
    laid_out,
    load_panels,
)
from jobmeter_analysis.live_server import USERNAME
from jobmeter_analysis.live_state import AttemptWord, PhaseNow, attempt_word, phases_now
from jobmeter_analysis.recording import Recording, Selector, Series
from jobmeter_analysis.sources.growing_log import GrowingLog
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.sources.prometheus_server import PrometheusServer
from jobmeter_analysis.targets import PROMETHEUS

BEFORE_INTERVALS = 3
LEAST_BEFORE_MS = 15_000
SERVER_TIMEOUT_S = 5.0
NO_SAMPLES = "no samples yet: the first come 5 to 10 s after the start, and then with the copy"


@dataclass(frozen=True)
class View:
    """What one look saw.

    Args:
        run_id: Of the run.
        attempt: Of the attempt.
        state: What the attempt is doing.
        phase: The phase that runs, or the last that ran; None before the first.
        window: What the numbers are about; None before there are samples.
        source: Where they came from: ``prometheus`` or ``copy``.
        age_s: How old the newest sample is; None without one, or when the attempt is over.
        panels: The numbers.
        problems: What is in the way, in words.
    """

    run_id: str
    attempt: str
    state: AttemptWord
    phase: PhaseNow | None
    window: Window | None
    source: str
    age_s: float | None
    panels: tuple[Panel, ...]
    problems: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("ended", "killed")


class Top:
    """Looks at one attempt again and again.

    Args:
        run: The run.
        attempt: Its folder.
        window_ms: How long the window is.
        phase: Only while this phase runs or ran; None for all the time.
        panels_file: What to show.
    """

    def __init__(
        self,
        run: RunPaths,
        attempt: AttemptPaths,
        window_ms: int,
        phase: str | None = None,
        panels_file: Path = PANELS,
    ) -> None:
        self._run, self._attempt = run, attempt
        self._manifest = read_manifest(run.manifest)
        self._window_ms, self._phase = window_ms, phase
        self._panels = load_panels(panels_file)
        self._catalogue = catalogue_for(self._panels)
        self._before_ms = max(
            LEAST_BEFORE_MS, round(BEFORE_INTERVALS * 1000 * self._manifest.interval_s)
        )
        self._copy = GrowingLog(attempt.tsdb, window_ms + 2 * self._before_ms)
        self._last: View | None = None
        self._known: tuple[object, ...] = ()

    @property
    def manifest(self) -> RunManifest:
        """What was planned."""
        return self._manifest

    def look(self, now_ms: int, over: bool | None = None) -> View:
        """Return the numbers of the last window.

        Args:
            now_ms: The time.
            over: Whether the job has ended, by Slurm; None where nobody says.

        Raises:
            RunFolderError: the attempt is not there, or it has no such phase.
        """
        if not self._attempt.attempt.is_dir():
            raise RunFolderError(f"{self._attempt.attempt}: is not there any more; was it removed?")
        log = read_events(self._attempt.events)
        grown = self._refresh()
        facts = [event.time_ms for event in log.events]
        last_fact = max([*facts, self._copy.newest_ms or 0], default=0)
        state = attempt_word(self._manifest, log, last_fact, now_ms, over)
        at_ms = last_fact if state in _OVER else max(now_ms, last_fact)
        phases = phases_now(self._manifest, log, at_ms, over=state in _OVER)
        phase = self._chosen(phases)
        url = None if state in _OVER else self._url(log)
        if url is not None:
            server = PrometheusServer(url, SERVER_TIMEOUT_S, trust_env=False)
            try:
                return self._of(server, now_ms, now_ms, log, state, phase, "prometheus")
            except RecordingError:
                pass  # it has ended, or another one has its port; the copy is there
        known = state, (phase.name, phase.state) if phase else None
        if self._last is None or grown or self._known != known:
            self._last, self._known = self._of_copy(now_ms, log, state, phase), known
        newest = self._copy.newest_ms
        aging = newest is not None and state not in _OVER
        age_s = max(0.0, (now_ms - (newest or 0)) / 1000) if aging else None
        return replace(self._last, phase=phase, age_s=age_s)

    def _refresh(self) -> bool:
        try:
            return self._copy.refresh()
        except RecordingError:
            return False

    def _chosen(self, phases: Sequence[PhaseNow]) -> PhaseNow | None:
        began = [phase for phase in phases if phase.start_ms is not None]
        if self._phase is None:
            return began[-1] if began else None
        for phase in phases:
            if phase.name == self._phase:
                return phase
        names = ", ".join(phase.name for phase in phases) or "none yet"
        raise RunFolderError(
            f"no phase {self._phase!r} in attempt {self._attempt.name}; it has {names}"
        )

    def _url(self, log: EventLog) -> str | None:
        """Return where the run's Prometheus listens, if that is on this machine."""
        starts = [
            e for e in log.named("component_start") if e.fields.get("component") == PROMETHEUS
        ]
        if not starts or not _same_host(starts[-1].node):
            return None
        try:
            password = (self._run.secrets / "password").read_text().strip()
        except OSError:
            return None
        return f"http://{USERNAME}:{password}@127.0.0.1:{starts[-1].fields.get('port')}"

    def _of_copy(
        self, now_ms: int, log: EventLog, state: AttemptWord, phase: PhaseNow | None
    ) -> View:
        newest, recording = self._copy.newest_ms, self._copy
        source: Recording = recording
        if newest is None or state in _OVER:  # blocks, or a whole that is read once
            source = PrometheusFolder(self._attempt.tsdb)
            ends = [e.time_ms for name in _ENDS for e in log.named(name)]
            newest = max([*ends, newest or 0]) or None
        return self._of(source, newest, now_ms, log, state, phase, "copy")

    def _of(
        self,
        source: Recording,
        newest_ms: int | None,
        now_ms: int,
        log: EventLog,
        state: AttemptWord,
        phase: PhaseNow | None,
        origin: str,
    ) -> View:
        window = self._window(newest_ms, log, state, phase)
        panels: tuple[Panel, ...] = ()
        problems: tuple[str, ...] = () if window else (NO_SAMPLES,)
        if window is not None:
            recording = _Spanned(source, self._spanned(window))
            known = read_attempt(
                self._run, self._attempt, self._catalogue, recording, fetched=state in _OVER
            )
            if recording.failed is not None and origin == "prometheus":
                raise recording.failed
            stretch = Phase(_named(window, phase, state), window, end_source="given")
            panels = laid_out(kpi_table(known, self._catalogue, [stretch]), self._panels)
            problems = known.problems
        seen = newest_ms if origin == "copy" else (window.end_ms if window else None)
        age_s = None if seen is None or state in _OVER else max(0.0, (now_ms - seen) / 1000)
        return View(
            run_id=self._manifest.run_id,
            attempt=self._attempt.name,
            state=state,
            phase=phase,
            window=window,
            source=origin,
            age_s=age_s,
            panels=panels,
            problems=problems,
        )

    def _window(
        self, newest_ms: int | None, log: EventLog, state: AttemptWord, phase: PhaseNow | None
    ) -> Window | None:
        """Return the last stretch of which every target has a sample behind it."""
        if newest_ms is None:
            return None
        end = newest_ms if state in _OVER else newest_ms - round(self._manifest.interval_s * 1000)
        start = min((event.time_ms for event in log.events), default=0)
        bounded = phase is not None and (self._phase is not None or state in _OVER)
        if bounded and phase is not None and phase.start_ms is not None:
            start = max(start, phase.start_ms)
            if phase.state != "running" and phase.seconds is not None:
                end = min(end, phase.start_ms + round(1000 * phase.seconds))
        elif self._phase is not None:
            return None  # it has not begun
        start = max(start, end - self._window_ms)
        return Window(start, end) if end > start else None

    def _spanned(self, window: Window) -> Window:
        return Window(window.start_ms - self._before_ms, window.end_ms + self._before_ms)


_OVER = ("ended", "killed")
_ENDS = ("checkpoint", "recording_closed", "phase_end")


def _named(window: Window, phase: PhaseNow | None, state: AttemptWord) -> str:
    """Return the name of a phase that is all of the window, whose edges then count."""
    if phase is None or phase.start_ms is None or phase.seconds is None or state not in _OVER:
        return WINDOW
    whole = window.start_ms == phase.start_ms and window.seconds == phase.seconds
    return phase.name if whole else WINDOW


def _same_host(node: str) -> bool:
    return socket.gethostname().split(".")[0] == node.split(".")[0]


class _Spanned:
    """A recording of which only one stretch is read; it remembers when it could not be."""

    def __init__(self, recording: Recording, span: Window) -> None:
        self._recording, self._span = recording, span
        self.failed: RecordingError | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        return self._recording.problems

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        del span
        try:
            return self._recording.select(selectors, self._span)
        except RecordingError as cause:
            self.failed = cause
            raise
