"""A run in a notebook: its KPIs, raw samples, events and coverage as tidy frames.

    import jobmeter

    run = jobmeter.open_run("runs/train-cpu-20261122T203221Z-6e7dac")
    run.kpis(phase="train", kpi="step_seconds_*")
    run.series("training_samples_total", phase="train")

Needs neither Slurm nor a Prometheus. All times are timezone-aware (UTC), all numbers base units:
seconds, bytes, ratios between 0 and 1, watts, joules, tokens.
"""

from __future__ import annotations

import html
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_args

import pandas as pd

from jobmeter.accounting import JobAccounting, read_accounting
from jobmeter.errors import RecordingError, RunFolderError
from jobmeter.events import EventLog, read_events
from jobmeter.manifest import read_manifest
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import Phase, Window
from jobmeter_analysis import samples
from jobmeter_analysis.catalogue import Scope, load_catalogue
from jobmeter_analysis.engine import Analysis, analyze_attempt, analyze_recording
from jobmeter_analysis.estimate import STATUSES
from jobmeter_analysis.foreign import named_targets as with_node_and_service
from jobmeter_analysis.merged_run import MERGED, analyze_all
from jobmeter_analysis.recording import (
    NO_SAMPLE,
    Recording,
    Selector,
    Series,
    Wanted,
)
from jobmeter_analysis.sources import open_source, without_password
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.targets import Edge, TargetName, read_edges
from jobmeter_analysis.vocabulary import load_vocabulary

Filter = str | Iterable[str] | None
"""One name, several, or all; a name may hold ``*`` and ``?`` as in a shell."""
Time = str | float | datetime
"""A time with a zone, as such or in ISO 8601, or seconds since the epoch."""

_INSTANTS = {"submit_s", "eligible_s", "start_s", "end_s"}
_ABOUT_ACCOUNTING = {"source", "filled"}


class _Material(Protocol):
    """What a run is made of."""

    def analyze(self) -> Analysis: ...

    def analyze_all(self) -> Mapping[str, Analysis]: ...

    def recorded(self, selectors: Sequence[Selector], span: Window | None) -> list[Series]: ...

    def edges(self, wanted: Callable[[str], bool]) -> Mapping[TargetName, Sequence[Edge]]: ...

    def log(self) -> EventLog: ...

    def accounting(self) -> JobAccounting | None: ...


@dataclass(frozen=True)
class _Attempt:
    """The folder of one attempt."""

    run: RunPaths
    paths: AttemptPaths

    def analyze(self) -> Analysis:
        return analyze_attempt(self.run, self.paths)

    def analyze_all(self) -> Mapping[str, Analysis]:
        return analyze_all(self.run)

    def recorded(self, selectors: Sequence[Selector], span: Window | None) -> list[Series]:
        try:
            return _read(PrometheusFolder(self.paths.tsdb), selectors, span)
        except RecordingError as cause:
            _warn(str(cause))
            return []

    def edges(self, wanted: Callable[[str], bool]) -> Mapping[TargetName, Sequence[Edge]]:
        edges, problems = read_edges(self.paths, wanted)
        for problem in problems:
            _warn(problem)
        return edges

    def log(self) -> EventLog:
        return read_events(self.paths.events)

    def accounting(self) -> JobAccounting | None:
        return read_accounting(self.paths.accounting)


@dataclass(frozen=True)
class _Foreign:
    """A recording without a run folder, and the window that counts."""

    recording: Recording
    window: Window
    origin: str

    def analyze(self) -> Analysis:
        return analyze_recording(self.recording, self.window, self.origin)

    def analyze_all(self) -> Mapping[str, Analysis]:
        raise ValueError("a recording without a run folder has no attempts; leave 'attempt' out")

    def recorded(self, selectors: Sequence[Selector], span: Window | None) -> list[Series]:
        return with_node_and_service(_read(self.recording, selectors, span or self.window))

    def edges(self, wanted: Callable[[str], bool]) -> Mapping[TargetName, Sequence[Edge]]:
        del wanted
        return {}

    def log(self) -> EventLog:
        return EventLog((), 0)

    def accounting(self) -> JobAccounting | None:
        return None


def _read(recording: Recording, selectors: Sequence[Selector], span: Window | None) -> list[Series]:
    series = recording.select(selectors, span)
    for problem in recording.problems:
        if not problem.endswith(NO_SAMPLE):
            _warn(problem)
    return series


def _warn(problem: str) -> None:
    warnings.warn(problem, UserWarning, stacklevel=5)


class Run:
    """One attempt of a run, or a recording without a run folder; made by ``open_run``.

    Nothing is read before it is asked for. KPIs, phases, coverage and the manifest come from one
    analysis of the recording, which is done at the first question and then kept; what an earlier
    ``jobmeter analyze`` wrote into ``report/`` is not used. Open the run again to read a recording
    that has grown. Frames are copies: change them as you like. Columns of type str are those of the
    installed pandas: ``object`` before pandas 3.

    Attributes:
        path: The run folder; of a recording without one, its source in words.
        attempt: Name of the attempt that the frames are about.
        attempts: Names of all attempts of the run, in the order in which they began.
    """

    def __init__(
        self, path: Path | str, attempt: str, attempts: tuple[str, ...], material: _Material
    ) -> None:
        self.path = path
        self.attempt = attempt
        self.attempts = attempts
        self._material = material

    def __repr__(self) -> str:
        if not self.attempts:
            return f"open_recording({str(self.path)!r}, ...)"
        which = f", attempt={self.attempt!r}" if len(self.attempts) > 1 else ""
        return f"open_run({str(self.path)!r}{which})"

    def _repr_html_(self) -> str:
        log = self._material.log()
        began = [str(event.fields.get("phase")) for event in log.named("phase_start")]
        ended = next((event for event in log.named("job_end")), None)
        parts = [f"<b>{html.escape(Path(self.path).name)}</b>"]
        if self.attempt:
            of = f" (of {len(self.attempts)})" if len(self.attempts) > 1 else ""
            parts.append(f"attempt {html.escape(self.attempt)}{of}")
        if log.events:
            parts.append(f"{utc_text(log.events[0].time_ms)}")
            parts.append(f"phases {html.escape(', '.join(began)) or 'none'}")
            parts.append(f"exit code {ended.fields.get('exit_code')}" if ended else "never ended")
        return " · ".join(parts)

    @cached_property
    def _analysis(self) -> Analysis:
        return self._material.analyze()

    @cached_property
    def _of_every_attempt(self) -> pd.DataFrame:
        """The tables of all attempts and of all together, with the attempt as first column."""
        tables = []
        for name, analysis in self._material.analyze_all().items():
            table = analysis.table.copy()
            table.insert(0, "attempt", pd.Series(name, table.index, dtype="str"))
            tables.append(table)
        every: pd.DataFrame = pd.concat(tables, ignore_index=True)
        return every

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What MANIFEST.json says, computed now: ``state``, ``reasons``, ``targets``, ``phases``.

        ``state`` is ``complete``, ``incomplete`` or ``failed``, ``reasons`` says in words why it is
        not complete. Further keys: ``nodes``, ``versions``, ``monitoring`` (what it cost),
        ``events``, ``recording``, ``checkpoint``, ``slurm``. Times are ISO 8601 with zone or
        milliseconds since the epoch where the key ends in ``_ms``.

        Raises:
            RunFolderError: the attempt left nothing that can be read.
        """
        return self._analysis.manifest

    def kpis(
        self,
        phase: Filter = None,
        scope: Filter = None,
        status: Filter = None,
        kpi: Filter = None,
        entity: Filter = None,
        attempt: Filter = None,
    ) -> pd.DataFrame:
        """Return the KPI table: one row per KPI, phase and entity.

        Each argument is one name or several, which may hold ``*`` and ``?``
        (``kpi="ttft_seconds_*"``). Rows must fit all arguments; without any, all rows.

        Args:
            phase: Names of phases; ``job`` is the whole attempt.
            scope: ``job``, ``node``, ``device``, ``service``, ``rank``.
            status: ``exact``, ``bounded``, ``estimated``, ``unavailable``.
            kpi: Names of KPIs (docs/kpis.md).
            entity: Names of nodes, ``service@node``, devices; ``job`` for the job itself.
            attempt: Names of attempts, or ``merged`` for all of them put together; the frame then
                has a first column ``attempt``. Without it, the rows are those of ``Run.attempt``.
                Every attempt is analysed when this is first asked.

        Returns:
            A frame with these columns:

            * ``kpi``, ``unit`` (str): name and base unit, ``1`` for a count
            * ``phase``, ``scope``, ``entity`` (str): what the row is about
            * ``value`` (float64): in ``unit``; NaN when the status is ``unavailable``
            * ``low``, ``high`` (float64): the interval; infinite where open, NaN where none can be
              justified
            * ``status`` (str): ``exact`` (low = value = high), ``bounded`` (the truth lies between
              low and high for certain), ``estimated`` (a statistical interval), ``unavailable``
            * ``coverage`` (float64): share of the phase that was seen, 0 to 1
            * ``samples`` (int64): how many samples were used
            * ``source`` (str): ``edges``, ``recording``, ``marks``, ..., joined by ``+``
            * ``reason`` (str): reason codes joined by ``;``, empty when there is nothing to say

        Raises:
            ValueError: a name that is not known; the message has the nearest one.
            RunFolderError: the attempt left nothing that can be read.
        """
        table = self._analysis.table if attempt is None else self._of_every_attempt
        computed = {name for group in load_catalogue().values() for name in group.kpis}
        known: dict[str, tuple[Filter, Iterable[str]]] = {
            "phase": (phase, table["phase"]),
            "scope": (scope, get_args(Scope)),
            "status": (status, STATUSES),
            "kpi": (kpi, computed.union(table["kpi"])),
            "entity": (entity, table["entity"]),
            "attempt": (attempt, (*self.attempts, MERGED)),
        }
        for column, (wanted, names) in known.items():
            if wanted is not None:
                table = table[table[column].isin(_chosen(column, wanted, set(names)))]
        rows: pd.DataFrame = table.reset_index(drop=True)
        return rows

    def series(self, selector: str, phase: str | None = None) -> pd.DataFrame:
        """Return raw samples of one metric: one row per sample.

        The name is either one under which a metric is exposed (``vllm:num_requests_running``), and
        samples come as they were exposed; or one that the KPIs use (``vllm_requests_running``;
        docs/kpis.md, Spellings), and samples come in base units, under the KPIs' names of labels,
        from whatever program exposes them. The name of a histogram gives its ``_bucket``, ``_sum``
        and ``_count``.

        Samples of the recording and those that the job fetched itself at the boundaries of phases
        (edges) are both there. The time of an edge is the middle of its fetch.

        Args:
            selector: A name, or ``name{label="value", other="value"}``. ``node`` and ``service``
                are labels too. Only ``=``; for the rest filter the frame.
            phase: Only samples with start <= time < end of this phase, and the phase's own edges,
                which lie some milliseconds outside; all samples by default. Of a recording without
                run folder, all samples of its window.

        Returns:
            A frame in the order of series and time, with these columns:

            * ``time`` (datetime64[ms, UTC]): of the scrape's begin
            * ``metric`` (str): name of the series
            * ``value`` (float64)
            * ``node``, ``service`` (str): of the target
            * ``source`` (str): ``recording`` or ``edge``
            * one column per further label (str; empty where a series lacks it). ``le`` of buckets
              is float64, NaN elsewhere. A label with the name of a column above is called
              ``exported_<label>``. ``instance``, ``job`` and ``run_id`` are left out.

            Empty when the metric is known and was not recorded. Marks of the end of a series are no
            samples.

        Raises:
            ValueError: the selector cannot be read, or nothing is called so; the message has the
                nearest name.
            RecordingError: nothing of a recording without run folder can be read.

        Warns:
            UserWarning: part of the recording could not be read, and which.
        """
        query = samples.Query.parse(selector)
        vocabulary = load_vocabulary()
        selectors = samples.selectors_of(query, vocabulary)
        stretch = None if phase is None else self._phase(phase)
        recorded = self._material.recorded(selectors, stretch.window if stretch else None)
        edges = self._material.edges(Wanted(selectors).name_may_match)
        found = samples.frame(query, recorded, edges, vocabulary, stretch)
        if found.empty and not (recorded or samples.metrics_of(query, vocabulary)):
            known = samples.known_names(vocabulary, self._material.edges(lambda name: True))
            if not known.intersection(query.names):
                said = samples.nearest(query.name, known)
                raise ValueError(f"no metric {query.name!r} in {Path(self.path).name}; {said}")
        return found

    def metrics(self) -> pd.DataFrame:
        """Return what can be asked of ``series``, by what the targets answered at boundaries.

        Returns:
            A frame with one row per metric and service, with these columns:

            * ``metric`` (str): name as exposed; of a histogram without its parts
            * ``service`` (str): who exposes it
            * ``type`` (str): ``counter``, ``gauge``, ``histogram``, ... as declared

            Empty for a recording without run folder.
        """
        found: dict[tuple[str, str], str] = {}
        for name, edges in sorted(self._material.edges(lambda name: True).items()):
            for edge in edges:
                for metric, kind in edge.exposition.types.items() if edge.exposition else ():
                    found.setdefault((name.service, metric), kind)
        rows = [(metric, service, kind) for (service, metric), kind in sorted(found.items())]
        frame: pd.DataFrame = pd.DataFrame(rows, columns=["metric", "service", "type"], dtype="str")
        return frame

    def phases(self) -> pd.DataFrame:
        """Return the phases that began, in order, and at the end ``job``, the whole attempt.

        Returns:
            A frame with these columns:

            * ``phase`` (str)
            * ``start``, ``end`` (datetime64[ms, UTC]): the phase is start <= time < end
            * ``seconds`` (float64)
            * ``end_source`` (str): ``mark`` when the job wrote the end, ``last_fact`` when it could
              not and the phase ends at the last thing that is known, ``given`` for a window
            * ``exit_code`` (Int64): <NA> while unknown
            * ``interrupted_by`` (str): the signal that ended it early, empty without
        """
        phases = self.manifest["phases"]
        start, end = ([one[side] for one in phases] for side in ("start_ms", "end_ms"))
        frame: pd.DataFrame = pd.DataFrame(
            {
                "phase": pd.Series([one["name"] for one in phases], dtype="str"),
                "start": samples.utc(start),
                "end": samples.utc(end),
                "seconds": [(b - a) / 1000 for a, b in zip(start, end, strict=True)],
                "end_source": pd.Series([one["end_source"] for one in phases], dtype="str"),
                "exit_code": pd.Series([one["exit_code"] for one in phases], dtype="Int64"),
                "interrupted_by": pd.Series(
                    [one["interrupted_by"] or "" for one in phases], dtype="str"
                ),
            }
        ).astype({"seconds": float})
        return frame

    def coverage(self) -> pd.DataFrame:
        """Return how much was seen of each target: one row per target and phase.

        Returns:
            A frame with these columns:

            * ``phase``, ``service``, ``node`` (str)
            * ``kind`` (str): ``stack`` for the monitoring's own, ``payload`` for the user's,
              ``recorded`` in a recording without run folder
            * ``up`` (bool): whether it answered at all in this attempt
            * ``coverage`` (float64): share of the phase between answers that are at most 2.5 scrape
              intervals apart, 0 to 1
            * ``largest_gap_seconds`` (float64): longest time without an answer
            * ``edges`` (str): at which ends of the phase it was fetched: ``start+end``, ``start``,
              ``end`` or empty
            * ``scrapes``, ``scrapes_failed`` (int64): in the whole attempt
            * ``foreign`` (bool): whether something that is not of this run answered in its place
        """
        rows = [
            {
                "phase": phase,
                "service": target["service"],
                "node": target["node"],
                "kind": target["kind"],
                "up": target["ever_up"],
                "coverage": seen["coverage"],
                "largest_gap_seconds": seen["largest_gap_seconds"],
                "edges": "+".join(sorted(set(seen["edges"]), reverse=True)),
                "scrapes": target["scrapes"],
                "scrapes_failed": target["scrapes_failed"],
                "foreign": target["foreign"],
            }
            for target in self.manifest["targets"]
            for phase, seen in target["phases"].items()
        ]
        types = {
            **dict.fromkeys(("phase", "service", "node", "kind"), "str"),
            "up": "bool",
            **dict.fromkeys(("coverage", "largest_gap_seconds"), "float64"),
            "edges": "str",
            **dict.fromkeys(("scrapes", "scrapes_failed"), "int64"),
            "foreign": "bool",
        }
        order = {one["name"]: place for place, one in enumerate(self.manifest["phases"])}
        rows.sort(key=lambda row: order.get(row["phase"], len(order)))
        frame: pd.DataFrame = pd.DataFrame(rows, columns=list(types)).astype(types)
        return frame

    def events(self) -> pd.DataFrame:
        """Return what the job wrote down: one row per event, in order of time.

        Returns:
            A frame with these columns:

            * ``time`` (datetime64[ms, UTC]): by the clock of the first node
            * ``node`` (str): where it happened
            * ``event`` (str): ``job_start``, ``phase_start``, ``checkpoint``, ``signal``, ...
              (docs/run-directory.md has all of them with their fields)
            * one column per field that any event of the run has, such as ``phase``, ``component``,
              ``exit_code``, in pandas' nullable types: <NA> where an event lacks it. ``node_t``
              is a time (datetime64[ms, UTC]) by the node's own clock.

            Empty for a recording without run folder.
        """
        log = self._material.log().events
        frame: pd.DataFrame = pd.DataFrame(
            {
                "time": samples.utc([event.time_ms for event in log]),
                "node": pd.Series([event.node for event in log], dtype="str"),
                "event": pd.Series([event.name for event in log], dtype="str"),
            }
        )
        names = dict.fromkeys(name for event in log for name in event.fields)
        for name in names:
            values = pd.Series([event.fields.get(name) for event in log], dtype="object")
            if name == "node_t":
                frame[name] = pd.to_datetime(values.astype("Int64"), unit="ms", utc=True)
                frame[name] = frame[name].astype("datetime64[ms, UTC]")
            else:
                # What nobody has said yet (a signal that never came) has no type of its own.
                empty = values.isna().all()
                frame[name] = values.astype("string") if empty else values.convert_dtypes()
        return frame

    def slurm(self) -> pd.DataFrame:
        """Return what Slurm said of this attempt when it was last asked: one row per fact.

        Slurm is not asked here; ``jobmeter analyze`` does, and keeps the answer.

        Returns:
            A frame indexed by ``field`` (``state``, ``elapsed_s``, ``max_rss_bytes``, ...; those
            of ``jobmeter.accounting.JobAccounting``), so that
            ``run.slurm().loc["state", "value"]`` is the state, with these columns:

            * ``value`` (object): times (``submit_s``, ``start_s``, ...) are ``pandas.Timestamp`` in
              UTC, ``steps`` a list of one mapping per step; None where nobody said it. Units are in
              the names.
            * ``source`` (str): who said it: ``sacct``, ``pyslurm``, ``scontrol``, or ``attempt``
              for the job's own record

            Empty when Slurm has not said anything, as for a run without Slurm.
        """
        said = self._material.accounting()
        facts = asdict(said) if said else {}
        names = [name for name in facts if name not in _ABOUT_ACCOUNTING]
        values = [_instant(name, facts[name]) for name in names]
        sources = [said.source_of(name) if said else "" for name in names]
        frame: pd.DataFrame = pd.DataFrame(
            {
                "value": pd.Series(values, dtype="object"),
                "source": pd.Series(sources, dtype="str"),
            }
        ).set_axis(pd.Index(names, name="field", dtype="str"))
        return frame

    def _phase(self, name: str) -> Phase:
        known = {one["name"]: one for one in self.manifest["phases"]}
        if name not in known:
            raise ValueError(f"no phase {name!r} in this attempt; {samples.nearest(name, known)}")
        return Phase(name, Window(known[name]["start_ms"], known[name]["end_ms"]))


def open_run(path: str | os.PathLike[str], attempt: str | None = None) -> Run:
    """Open a run for the questions of a notebook.

    Args:
        path: A run folder, the folder of one of its attempts, or any file or folder inside, such as
            its report.
        attempt: Name of an attempt (``Run.attempts`` has them). By default the one that ``path``
            lies in, else the one that began last: after a requeue the one that went furthest, of an
            array the last task.

    Raises:
        RunFolderError: there is no run, the job has not begun, or it has no such attempt; the
            message says what to give instead.
    """
    given = Path(path)
    run, inside = _run_of(Path(os.path.abspath(given)), given)  # noqa: PTH100  # links stay
    read_manifest(run.manifest)
    attempts = sorted(run.all_attempts(), key=_began)
    by_name = {one.name: one for one in attempts}
    if not attempts:
        raise RunFolderError(
            f"{run.run}: the job has not begun, so there is nothing to open yet; "
            f"what it printed is in {run.job_output}"
        )
    name = attempt or inside or attempts[-1].name
    if name not in by_name:
        raise RunFolderError(f"{run.run}: no attempt {name!r}; {samples.nearest(name, by_name)}")
    return Run(run.run, name, tuple(by_name), _Attempt(run, by_name[name]))


def open_recording(source: str | os.PathLike[str], start: Time, end: Time) -> Run:
    """Open a recording that has no run folder, as one phase called ``window``.

    Nothing was fetched at the ends of the window, so its numbers are bounds from the samples around
    them. Events and what Slurm said are empty.

    Args:
        source: A Prometheus data folder, the URL of a Prometheus, or a file that
            ``jobmeter export`` wrote.
        start: Begin of the window: a time with a zone (``datetime``, ``pandas.Timestamp``, or
            ISO 8601 as in ``2026-01-31T12:00:00+01:00``), or seconds since the epoch.
        end: Its end.

    Raises:
        RecordingError: the source is none of these.
        ValueError: a time cannot be read or has no zone, or the window is empty.
    """
    text = str(source)
    origin = without_password(text)
    window = Window(_milliseconds(start), _milliseconds(end))
    return Run(origin, "", (), _Foreign(open_source(text), window, origin))


def _run_of(path: Path, given: Path) -> tuple[RunPaths, str | None]:
    """Return the run that ``path`` lies in, and the attempt if it lies in one."""
    if not path.exists():
        raise RunFolderError(f"{given}: there is no such file or folder")
    for folder in (path, *path.parents):
        run = RunPaths(folder)
        if run.manifest.is_file():
            below = path.relative_to(folder).parts
            inside = below[1] if len(below) > 1 and folder / below[0] == run.attempts else None
            return run, inside
    runs = sorted(one.name for one in path.glob("*/") if RunPaths(one).manifest.is_file())
    if runs:
        names = ", ".join(runs[-3:])
        raise RunFolderError(f"{given}: not a run but a folder of runs; open one, such as {names}")
    raise RunFolderError(
        f"{given}: no run; give a folder that 'jobmeter run' or 'jobmeter submit' printed, or use "
        "open_recording for Prometheus data without a run"
    )


def _began(attempt: AttemptPaths) -> tuple[int, str]:
    """Return when an attempt began; one that wrote nothing down began before all others."""
    return min((e.time_ms for e in read_events(attempt.events).events), default=0), attempt.name


def _chosen(what: str, wanted: str | Iterable[str], known: set[str]) -> set[str]:
    """Return the names of ``known`` that are meant by ``wanted``."""
    chosen: set[str] = set()
    for name in [wanted] if isinstance(wanted, str) else wanted:
        found = {one for one in known if one == name or fnmatchcase(one, name)}
        if not found:
            raise ValueError(f"no {what} {name!r} in this run; {samples.nearest(name, known)}")
        chosen |= found
    return chosen


def _instant(name: str, value: Any) -> Any:  # noqa: ANN401  # whatever Slurm said
    return pd.Timestamp(value, unit="s", tz="UTC") if name in _INSTANTS and value else value


def _milliseconds(time: Time) -> int:
    if isinstance(time, int | float):
        return round(time * 1000)
    moment = pd.Timestamp(time)
    if moment.tzinfo is None:
        raise ValueError(f"{time} has no time zone; write 2026-01-31T12:00:00+00:00")
    milliseconds: int = round(moment.timestamp() * 1000)
    return milliseconds


def utc_text(time_ms: int) -> str:
    """Return a moment for a person.

    >>> utc_text(0)
    '1970-01-01 00:00:00 UTC'
    """
    return f"{pd.Timestamp(time_ms, unit='ms', tz='UTC'):%Y-%m-%d %H:%M:%S} UTC"
