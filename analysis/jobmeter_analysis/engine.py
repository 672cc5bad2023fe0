"""From an attempt folder to the table of KPIs: a pure function of the two folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jobmeter.errors import RunFolderError
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import JOB, Phase, Window
from jobmeter_analysis.attempt import Attempt, read_attempt
from jobmeter_analysis.catalogue import (
    ATTEMPT,
    PAYLOAD,
    Catalogue,
    Group,
    Kpi,
    load_catalogue,
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
    exact,
    quotient,
    reason_text,
    total,
    unavailable,
)
from jobmeter_analysis.recording import Recording
from jobmeter_analysis.statistics import STATISTICS, absence
from jobmeter_analysis.targets import Target
from jobmeter_analysis.validity import validity

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
COUNTERS = "counters"
"""Group of every counter that the payload exposes; its KPIs are called as the counters are."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Analysis:
    """The KPIs of one attempt.

    Args:
        table: One row per KPI, phase and entity, with exactly ``COLUMNS``; numbers are base units.
        manifest: What is to stand in MANIFEST.json beside the artifacts.
    """

    table: pd.DataFrame
    manifest: Mapping[str, Any]


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
    rows: list[Row] = []
    for phase in stretches:
        rows.extend(_Phase(known, catalogue, phase).rows())
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"value": float, "low": float, "high": float, "coverage": float, "samples": int}
    )
    return Analysis(table, validity(known, stretches, table))


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
    """All rows of one phase."""

    def __init__(self, known: Attempt, catalogue: Catalogue, phase: Phase) -> None:
        self._known = known
        self._catalogue = catalogue
        self._phase = phase

    def rows(self) -> Iterator[Row]:
        for group in self._catalogue.values():
            if not self._computed(group):
                continue
            if group.services == (ATTEMPT,):
                yield from self._of_attempt(group)
            elif group.services == (PAYLOAD,):
                yield from self._of_payload(group)
            else:
                yield from self._of_stack(group)
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
            elif not self._known.local:
                yield self._row(name, kpi.unit, "job", JOB, self._accounted(str(kpi.field)))

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

    def _accounted(self, field: str) -> Estimate:
        said = self._known.accounting
        value = getattr(said, field, None)
        if said is None or not said.final or value is None:
            return unavailable(ACCOUNTING_MISSING)
        return exact(float(value), 0, f"{said.source}: {said.state}")

    def _of_stack(self, group: Group) -> Iterator[Row]:
        targets = [
            target
            for target in self._known.targets
            if target.kind == "stack" and target.name.service in group.services
        ]
        for name, kpi in group.kpis.items():
            parts = [(target, *self._parts(target, kpi)) for target in targets]
            for target, above, below in parts:
                entity = target.name.node if group.scope == "node" else str(target.name)
                node = target.name.node
                yield self._row(name, kpi.unit, group.scope, entity, _over(above, below), node)
            for scope in group.totals:
                yield from self._totals(name, kpi, scope, parts)

    def _parts(self, target: Target, kpi: Kpi) -> tuple[Estimate, Estimate | None]:
        """Return the number, and what it is to be divided by, if anything."""
        above = STATISTICS[kpi.statistic](target, kpi, self._phase)
        if kpi.divisor is None:
            return above, None
        divisor = Kpi(unit="1", help="", statistic="last", metric=kpi.divisor)
        below = STATISTICS["last"](target, divisor, self._phase)
        return above, _steady(below)

    def _totals(
        self,
        name: str,
        kpi: Kpi,
        scope: str,
        parts: Sequence[tuple[Target, Estimate, Estimate | None]],
    ) -> Iterator[Row]:
        entities: dict[str, list[tuple[Target, Estimate, Estimate | None]]] = {}
        for part in parts:
            entities.setdefault(part[0].name.node if scope == "node" else JOB, []).append(part)
        for entity, members in entities.items():
            above = total([member[1] for member in members])
            below = [member[2] for member in members if member[2] is not None]
            result = _over(above, total(below) if below else None)
            nodes = [member[0].name.node for member in members]
            yield self._row(name, kpi.unit, scope, entity, result, *nodes)

    def _of_payload(self, group: Group) -> Iterator[Row]:
        targets = [target for target in self._known.targets if target.kind == "payload"]
        if not targets:
            return
        for name, kpi in group.kpis.items():
            numbers = [
                (target, STATISTICS[kpi.statistic](target, kpi, self._phase)) for target in targets
            ]
            services = {
                target.name.service
                for target, _ in numbers
                if any(metric in target.tracks for metric in kpi.metrics)
            }
            if not services:
                entity = str(targets[0].name) if len(targets) == 1 else PAYLOAD
                nodes = [target.name.node for target in targets]
                number = _uninstrumented(targets)
                yield self._row(name, kpi.unit, group.scope, entity, number, *nodes)
            for target, number in numbers:
                if target.name.service in services:
                    entity, node = str(target.name), target.name.node
                    yield self._row(name, kpi.unit, group.scope, entity, number, node)

    def _counters(self) -> Iterator[Row]:
        """Give every counter of the payload, its label sets summed up."""
        for target in self._known.targets:
            if target.kind != "payload":
                continue
            recorded = {name for name in target.tracks if name.endswith("_total")}
            for name in sorted(recorded | target.counters):
                kpi = Kpi(unit=_unit_of(name), help="", statistic="increase", metric=name)
                number = STATISTICS["increase"](target, kpi, self._phase)
                entity, node = str(target.name), target.name.node
                yield self._row(name, kpi.unit, "service", entity, number, node)

    def _row(
        self, kpi: str, unit: str, scope: str, entity: str, number: Estimate, *nodes: str
    ) -> Row:
        if self._known.skewed.intersection(nodes):
            number = number.because(CLOCK_SKEW)
        if nodes and not self._known.recording_usable and _needs_recording(number):
            number = number.because(SOURCE_DEGRADED)
        values = (
            kpi,
            unit,
            self._phase.name,
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


def _over(above: Estimate, below: Estimate | None) -> Estimate:
    return above if below is None else quotient(above, below)


def _steady(divisor: Estimate) -> Estimate:
    """Return a number of CPUs as certain: it does not change while a job runs."""
    if not divisor.available:
        return divisor
    return exact(divisor.value, divisor.samples)


def _uninstrumented(targets: Sequence[Target]) -> Estimate:
    """Return why no endpoint of the payload has a metric."""
    reasons = frozenset[str]().union(*(absence(target).reasons for target in targets))
    if METRIC_ABSENT in reasons:
        return unavailable(*(reasons - {METRIC_ABSENT}), NOT_INSTRUMENTED)
    return unavailable(*reasons)


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
