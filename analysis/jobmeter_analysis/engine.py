"""From an attempt folder to the table of KPIs: a pure function of the two folders."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from jobmeter.errors import RunFolderError
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import JOB, Phase, Window
from jobmeter_analysis.attempt import Attempt, read_attempt
from jobmeter_analysis.catalogue import (
    ATTEMPT,
    Catalogue,
    Group,
    Kpi,
    load_catalogue,
    phases_named,
)
from jobmeter_analysis.entities import (
    Entity,
    cpus_of_job,
    entities_of,
    grouped,
    unknown_to,
    with_rows,
)
from jobmeter_analysis.estimate import (
    ACCOUNTING_MISSING,
    CLOCK_SKEW,
    END_UNMARKED,
    METRIC_ABSENT,
    NOT_INSTRUMENTED,
    PHASE_INTERRUPTED,
    SOURCE_DEGRADED,
    WINDOW_NOT_BRACKETED,
    Estimate,
    at_least,
    exact,
    minus,
    reason_text,
    unavailable,
)
from jobmeter_analysis.expected import expected
from jobmeter_analysis.foreign import read_foreign
from jobmeter_analysis.formula import Formula
from jobmeter_analysis.gauge_statistics import COMBINED
from jobmeter_analysis.recording import Recording
from jobmeter_analysis.spread import spread
from jobmeter_analysis.statistics import STATISTICS, Measure
from jobmeter_analysis.subjects import Scene, Subject
from jobmeter_analysis.validity import validity
from jobmeter_analysis.vocabulary import load_vocabulary

COLUMNS = (
    "kpi",
    "unit",
    "phase",
    "scope",
    "entity",
    "value",
    "low",
    "high",
    "status",
    "coverage",
    "samples",
    "source",
    "reason",
)
WINDOW = "window"
"""Name of the phase of an ad-hoc window."""
PAYLOAD = "payload"
"""Entity of a row about all endpoints of the payload."""

Row = dict[str, Any]
Numbers = dict[tuple[str, str], dict[str, Estimate]]
"""KPI and scope to the numbers of its entities."""


@contextmanager
def _uncollected() -> Iterator[None]:
    """Suspend the collector of cycles, which costs a quarter of the time of a large analysis.

    It looks through millions of labels and samples' owners again and again, and there is no cycle.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class PhaseNumbers:
    """What is behind the rows of one phase: what it takes to put several attempts together.

    Args:
        phase: Of the attempt.
        numbers: By KPI and scope, the numbers of its entities.
        measures: By KPI, what its row of the whole job was made of.
        counters: Counters of the payload of which there is no KPI, with their units.
        clients: Of each number that a client measured itself: KPI, unit and entity.
    """

    phase: Phase
    numbers: Numbers
    measures: Mapping[str, Sequence[Measure]]
    counters: Mapping[str, str]
    clients: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Analysis:
    """The KPIs of one attempt.

    Args:
        table: One row per KPI, phase and entity, with exactly ``COLUMNS``; numbers are base units.
        manifest: What is to stand in MANIFEST.json beside the artifacts.
        phases: What is behind the table, by phase.
    """

    table: pd.DataFrame
    manifest: Mapping[str, Any]
    phases: tuple[PhaseNumbers, ...] = ()


@_uncollected()
def analyze_attempt(
    run: RunPaths,
    attempt: AttemptPaths,
    *,
    phases: Sequence[str] | None = None,
    window: Window | None = None,
    recording: Recording | None = None,
) -> Analysis:
    """Compute every KPI of one attempt.

    Args:
        run: The run it belongs to.
        attempt: Its folder.
        phases: Only these phases (``job`` is the whole attempt); all by default.
        window: Instead of phases, this stretch, as one phase called ``window``.
        recording: Where the samples are, by default the attempt's own data folder.

    Raises:
        RunFolderError: the run or attempt cannot be read at all, or a phase is not known.
    """
    catalogue = load_catalogue()
    known = read_attempt(run, attempt, catalogue, recording)
    stretches = _stretches(known, phases, window)
    rows, numbers = _computed(known, catalogue, stretches)
    table = table_of(rows)
    return Analysis(table, validity(known, stretches, table), numbers)


@_uncollected()
def analyze_recording(recording: Recording, window: Window, origin: str) -> Analysis:
    """Compute every KPI that a recording without a run folder has.

    Args:
        recording: Where the samples are.
        window: The stretch of time, one phase called ``window``.
        origin: What to call the recording in the manifest.

    Raises:
        RecordingError: nothing can be read.
    """
    catalogue = load_catalogue()
    known = read_foreign(recording, window, WINDOW, catalogue, origin)
    table = kpi_table(known, catalogue, known.phases)
    return Analysis(table, validity(known, known.phases, table))


def kpi_table(known: Attempt, catalogue: Catalogue, phases: Sequence[Phase]) -> pd.DataFrame:
    """Return the rows of ``catalogue`` for some phases of what was read of an attempt."""
    rows, _ = _computed(known, catalogue, phases)
    return table_of(rows)


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Return ``rows`` as a frame with exactly ``COLUMNS``, also when there are none."""
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"value": float, "low": float, "high": float, "coverage": float, "samples": int}
    )
    return table


def row_of(kpi: str, unit: str, phase: str, scope: str, entity: str, number: Estimate) -> Row:
    """Return one row of the table."""
    values = (
        kpi,
        unit,
        phase,
        scope,
        entity,
        number.value,
        number.low,
        number.high,
        number.status,
        number.coverage,
        number.samples,
        "+".join(sorted(number.sources)),
        reason_text(number.reasons),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _computed(
    known: Attempt, catalogue: Catalogue, phases: Sequence[Phase]
) -> tuple[list[Row], tuple[PhaseNumbers, ...]]:
    named = phases_named(catalogue)
    referred = [phase for phase in known.phases if phase.name in named]
    rows: dict[Phase, list[Row]] = {}
    behind: dict[Phase, PhaseNumbers] = {}
    elsewhere: dict[str, Numbers] = {}
    for phase in dict.fromkeys((*referred, *phases)):
        one = _Phase(known, catalogue, phase, elsewhere)
        rows[phase] = list(one.rows())
        behind[phase] = one.behind
        if phase in referred:
            elsewhere[phase.name] = one.behind.numbers
    return [row for phase in phases for row in rows[phase]], tuple(behind[one] for one in phases)


def _stretches(
    known: Attempt, names: Sequence[str] | None, window: Window | None
) -> tuple[Phase, ...]:
    if window is not None:
        return (Phase(WINDOW, window, end_source="given"),)
    every = (*known.phases, *((known.whole,) if known.whole else ()))
    if names is None:
        return every
    by_name = {phase.name: phase for phase in every}
    for name in names:
        if name not in by_name:
            raise RunFolderError(
                f"no phase {name!r} in attempt {known.name}; "
                f"it has {', '.join(by_name) or 'none that began'}"
            )
    return tuple(by_name[name] for name in dict.fromkeys(names))


class _Phase:
    """All rows of one phase.

    Args:
        known: The attempt.
        catalogue: What to compute.
        phase: Of which.
        elsewhere: By name of a phase, the numbers of those that formulas name.
    """

    def __init__(
        self,
        known: Attempt,
        catalogue: Catalogue,
        phase: Phase,
        elsewhere: Mapping[str, Numbers],
    ) -> None:
        self._known = known
        self._catalogue = catalogue
        self._phase = phase
        self._scene = Scene(phase)
        self._targets = [target for target in known.targets if expected(target, phase)]
        self._cpus = cpus_of_job(known.targets)
        self._unknown = unknown_to(catalogue, self._targets)
        self._elsewhere = elsewhere
        self._numbers: Numbers = {}
        self._measures: dict[str, Sequence[Measure]] = {}
        self._counted: dict[str, str] = {}
        self._told: list[tuple[str, str, str]] = []

    @property
    def behind(self) -> PhaseNumbers:
        """What is behind the rows; complete when they have been yielded."""
        return PhaseNumbers(
            self._phase, self._numbers, self._measures, self._counted, tuple(self._told)
        )

    def rows(self) -> Iterator[Row]:
        """Yield the rows, group by group; formulas find what was computed before them."""
        for name, group in self._catalogue.items():
            if not self._computed(group):
                continue
            if group.services == (ATTEMPT,):
                yield from self._of_attempt(group)
            else:
                yield from self._of_targets(name, group)
            yield from self._of_formulas(group)
        yield from self._of_clients()
        if self._phase.name != JOB or not self._known.phases:
            yield from self._counters()

    def _computed(self, group: Group) -> bool:
        """Whether this group has rows in this phase.

        An attempt in which no phase began has nothing but the whole of it to be computed for.
        """
        if self._phase.name == JOB:
            return group.job or group.only_job or not self._known.phases
        return not group.only_job

    def _of_attempt(self, group: Group) -> Iterator[Row]:
        for name, kpi in group.kpis.items():
            if kpi.statistic == "elapsed":
                yield self._row(name, kpi.unit, "job", JOB, self._elapsed())
            elif kpi.statistic == "accounting" and not self._known.local:
                yield self._row(name, kpi.unit, "job", JOB, self._accounted(kpi))

    def _elapsed(self) -> Estimate:
        seconds = self._phase.window.seconds
        if self._phase.end_source == "given":
            return exact(seconds, 0, "given")
        if self._phase.end_source == "last_fact":
            reasons = frozenset({END_UNMARKED})
            sources = frozenset({"marks"})
            return Estimate(seconds, seconds, float("inf"), "bounded", 1.0, 1, sources, reasons)
        interrupted = (PHASE_INTERRUPTED,) if self._phase.interrupted_by else ()
        return exact(seconds, 2, "marks", *interrupted)

    def _accounted(self, kpi: Kpi) -> Estimate:
        said, field = self._known.accounting, str(kpi.field)
        value = getattr(said, field, None)
        if said is None or value is None or not said.is_final(field):
            return unavailable(ACCOUNTING_MISSING)
        number = exact(float(value), 0, f"{said.source_of(field)}: {said.state}")
        nan = float("nan")
        return replace(number, status="estimated", low=nan, high=nan) if kpi.hint else number

    def _of_targets(self, group_name: str, group: Group) -> Iterator[Row]:
        entities = list(entities_of(group_name, group, self._targets, self._unknown, self._cpus))
        for name, kpi in group.kpis.items():
            if kpi.metric is None or not entities:
                continue
            there = with_rows(entities, group_name, kpi)
            if group.fallback and not any(one.instrumented for one in entities):
                yield self._uninstrumented(group, name, kpi, entities)
                continue
            yield from self._measured(group, name, kpi, there)

    def _measured(
        self, group: Group, name: str, kpi: Kpi, entities: Sequence[Entity]
    ) -> Iterator[Row]:
        statistic = STATISTICS[kpi.statistic]
        measures = [
            [statistic.measure(subject, kpi, self._scene) for subject in entity.subjects]
            for entity in entities
        ]
        found = []
        for entity, measured in zip(entities, measures, strict=True):
            number = _honest(statistic.finish(measured, kpi), kpi, entity)
            found.append((entity, number))
            yield self._row(name, kpi.unit, group.scope, entity.name, number, *entity.nodes)
        for scope in group.totals:
            for total, members in grouped(entities, scope, str(kpi.metric)).items():
                parts = [m for i in members for m in measures[i]]
                if scope == JOB:
                    self._measures[name] = parts
                number = statistic.finish(parts, kpi)
                number = _honest(number, kpi, *(entities[i] for i in members))
                nodes = [node for i in members for node in entities[i].nodes]
                yield self._row(name, kpi.unit, scope, total, number, *nodes)
        if kpi.spread and len(found) > 1:
            for line in spread(name, kpi, group.scope, [(e.name, n) for e, n in found]):
                nodes = [n for e, _ in found for n in e.nodes if line.entity in (e.name, JOB)]
                yield self._row(line.kpi, line.unit, line.scope, line.entity, line.number, *nodes)

    def _uninstrumented(self, group: Group, name: str, kpi: Kpi, entities: Sequence[Entity]) -> Row:
        """Return the row that says that no endpoint of the payload has this."""
        subjects = [subject for entity in entities for subject in entity.subjects]
        reasons = frozenset[str]().union(*(subject.absence().reasons for subject in subjects))
        if METRIC_ABSENT in reasons:
            reasons = (reasons - {METRIC_ABSENT}) | {NOT_INSTRUMENTED}
        entity = entities[0].name if len(entities) == 1 else PAYLOAD
        nodes = [node for one in entities for node in one.nodes]
        return self._row(name, kpi.unit, group.scope, entity, unavailable(*reasons), *nodes)

    def _of_formulas(self, group: Group) -> Iterator[Row]:
        for name, kpi in group.kpis.items():
            if kpi.formula is None:
                continue
            formula = Formula.parse(kpi.formula)
            for scope in (group.scope, *group.totals):
                if kpi.combine is None or scope == group.scope:
                    numbers = self._evaluated(formula, scope)
                else:
                    numbers = self._put_together(name, kpi.combine, group.scope, scope)
                for entity, number in numbers.items():
                    yield self._row(name, kpi.unit, scope, entity, number)

    def _evaluated(self, formula: Formula, scope: str) -> dict[str, Estimate]:
        """Return what ``formula`` gives for each entity of ``scope`` that has any of its KPIs."""
        named = [self._numbers.get((name, scope), {}) for name in sorted(formula.names)]
        found = {}
        for entity in dict.fromkeys(entity for numbers in named for entity in numbers):
            number = formula.evaluate(self._operands(formula.names, scope, entity))
            if number is not None:
                found[entity] = number
        return found

    def _operands(self, names: frozenset[str], scope: str, entity: str) -> dict[str, Estimate]:
        """Return the numbers of one entity; of a KPI that has none for its scope, the job's."""
        numbers = {}
        for name in names:
            kpi, _, phase = name.partition("@")
            if kpi in self._known.manifest.workload:
                numbers[name] = exact(self._known.manifest.workload[kpi])
            known = self._elsewhere.get(phase, {}) if phase else self._numbers
            found = known[kpi, scope].get(entity) if (kpi, scope) in known else None
            if (kpi, scope) not in known:
                found = known.get((kpi, "job"), {}).get(JOB)
            if found is not None:
                numbers[name] = found
        return numbers

    def _put_together(self, name: str, combine: str, scope: str, total: str) -> dict[str, Estimate]:
        """Return by node, or for the job, what the numbers of the entities of ``scope`` become."""
        members: dict[str, list[Estimate]] = {}
        for entity, number in self._numbers.get((name, scope), {}).items():
            of = entity.partition("@")[2] if total == "node" else JOB
            members.setdefault(of, []).append(number)
        return {of: COMBINED[combine](numbers) for of, numbers in members.items()}

    def _of_clients(self) -> Iterator[Row]:
        """Give what the clients of the phase measured, and how far the servers' numbers are."""
        for said in self._known.clients.get(self._phase.name, ()):
            number = exact(said.value, 0, f"client: {said.tool}")
            yield self._row(said.kpi, said.unit, "job", said.entity, number)
            self._told.append((said.kpi, said.unit, said.entity))
            server = self._numbers.get((said.kpi, "job"), {}).get(JOB)
            if server is not None and server.available:
                name = f"{said.kpi}_client_minus_server"
                yield self._row(name, said.unit, "job", said.entity, minus(number, server))

    def _counters(self) -> Iterator[Row]:
        """Give every counter of the payload that no group knows, its label sets summed up."""
        for target in self._targets:
            if target.kind != "payload":
                continue
            described = load_vocabulary().metrics
            recorded = {n for n in target.tracks if n.endswith("_total") and n not in described}
            for name in sorted(recorded | target.counters):
                kpi = Kpi(unit=_unit_of(name), help="", statistic="increase", metric=name)
                subject = Subject(target)
                measured = [STATISTICS["increase"].measure(subject, kpi, self._scene)]
                number = STATISTICS["increase"].finish(measured, kpi)
                entity, node = str(target.name), target.name.node
                self._counted[name] = kpi.unit
                yield self._row(name, kpi.unit, "service", entity, number, node)

    def _row(
        self, kpi: str, unit: str, scope: str, entity: str, number: Estimate, *nodes: str
    ) -> Row:
        if self._known.skewed.intersection(nodes):
            number = number.because(CLOCK_SKEW)
        if nodes and not self._known.recording_usable and _needs_recording(number):
            number = number.because(SOURCE_DEGRADED)
        self._numbers.setdefault((kpi, scope), {}).setdefault(entity, number)
        return row_of(kpi, unit, self._phase.name, scope, entity, number)


def _honest(number: Estimate, kpi: Kpi, *entities: Entity) -> Estimate:
    """Return ``number`` without an upper bound where its metric is known in part only."""
    subjects = (subject for entity in entities for subject in entity.subjects)
    return at_least(number) if any(s.partly_seen(str(kpi.metric)) for s in subjects) else number


def _needs_recording(number: Estimate) -> bool:
    return number.status in ("estimated", "unavailable") or WINDOW_NOT_BRACKETED in number.reasons


def _unit_of(counter: str) -> str:
    """Return the base unit that the name of a counter ends in.

    >>> _unit_of("process_cpu_seconds_total"), _unit_of("requests_total")
    ('seconds', '1')
    """
    stem = counter.removesuffix("_total")
    for unit in ("seconds", "bytes", "joules", "tokens"):
        if stem.endswith(f"_{unit}"):
            return "1" if unit == "tokens" else unit
    return "1"
