"""Several attempts put together: the tasks of an array, the tries of a job that was requeued.

What becomes of a KPI follows from its statistic, which the catalogue names (``RULES``):

* ``sum``: amounts add up;
* ``weighted``: what is per second, or a mean over time, is weighted with the length of the phase,
  so that it is a sum over a sum again;
* ``pooled``: quotients, and what is made of histograms, are computed anew from what all attempts
  counted: sums over sums, one histogram of all;
* ``max``, ``min``: the largest, the smallest;
* ``formula``: computed anew from numbers that were put together;
* ``compared``: a state has no sum and no mean that would mean anything. Where all attempts agree
  that is the number, else there are the smallest, the median and the largest.

An attempt without a number leaves open what it had: a sum is then a lower bound. An attempt that
has ended without ever beginning a phase had nothing in it, which is another thing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jobmeter.window import JOB
from jobmeter_analysis.catalogue import (
    STATISTIC_KEYS,
    Catalogue,
    Kpi,
    phases_named,
)
from jobmeter_analysis.engine import PhaseNumbers, Row, row_of
from jobmeter_analysis.estimate import (
    ATTEMPT_MISSING,
    CLOCK_SKEW,
    PARTLY_SEEN,
    PHASE_NOT_BEGUN,
    RESTARTS,
    SOURCE_DEGRADED,
    ZERO_DENOMINATOR,
    Estimate,
    at_least,
    averaged,
    exact,
    largest_of,
    median_of,
    minus,
    smallest_of,
    total,
    unavailable,
    weighted,
)
from jobmeter_analysis.formula import Formula
from jobmeter_analysis.statistics import STATISTICS, Measure

Rule = Literal["sum", "weighted", "pooled", "max", "min", "formula", "compared"]
RULES: Mapping[str, Rule] = {
    "increase": "sum",
    "integral": "sum",
    "observations": "sum",
    "observed_sum": "sum",
    "elapsed": "sum",
    "rate": "weighted",
    "observed_rate": "weighted",
    "mean": "weighted",
    "share_above": "weighted",
    "share_of_bits": "weighted",
    "ratio": "pooled",
    "share": "pooled",
    "busy_share": "pooled",
    "observed_mean": "pooled",
    "observed_quantile": "pooled",
    "max": "max",
    "observed_max": "max",
    "min": "min",
    "formula": "formula",
    "accounting": "compared",
    "first": "compared",
    "last": "compared",
    "distinct": "compared",
    "balance": "compared",
    "peak": "compared",
    "variation": "compared",
}
"""By statistic, unless the KPI itself says more (``attempts``; ``combine`` of a formula)."""

_CHOSEN: Mapping[str, Rule] = {"sum": "sum", "mean": "weighted", "max": "max", "min": "min"}
_OF_THE_ROW = frozenset({CLOCK_SKEW, SOURCE_DEGRADED, PARTLY_SEEN})
"""Reasons that say something of what was read, whatever is made of it afterwards."""


def rule_of(kpi: Kpi) -> Rule:
    """Return how the numbers of several attempts are put together."""
    chosen = kpi.attempts or (kpi.combine if kpi.formula else None)
    return _CHOSEN[chosen] if chosen else RULES[kpi.statistic]


@dataclass(frozen=True)
class Tried:
    """What one attempt has to say of its phases.

    Args:
        task: What it was a try of: the name of the attempt without its restart.
        phases: By name, those that have numbers; ``job`` is the whole attempt.
        begun: Phases that it began; None while it runs, or when its end is not known.
    """

    task: str
    phases: Mapping[str, PhaseNumbers]
    begun: frozenset[str] | None

    def never_began(self, phase: str) -> bool:
        """Whether it surely has no part in ``phase``."""
        return phase != JOB and self.begun is not None and phase not in self.begun


def merged_rows(
    attempts: Sequence[Tried], catalogue: Catalogue, workload: Mapping[str, float]
) -> list[Row]:
    """Return the rows of all attempts together, in the order in which phases and KPIs come.

    Rows are about the job, and those of counters that no KPI knows about the service, its nodes
    added up.

    Args:
        attempts: At least one.
        catalogue: What was computed of each.
        workload: Numbers that the job file gives for formulas.
    """
    names = dict.fromkeys(name for one in attempts for name in one.phases if name != JOB)
    whole = [JOB] if any(JOB in one.phases for one in attempts) else []
    known: dict[str, dict[str, Estimate]] = {}
    rows: dict[str, list[Row]] = {}
    named = phases_named(catalogue)
    for name in sorted([*names, *whole], key=lambda name: name not in named):
        known[name] = {}
        phase = _Phase(name, attempts, known, workload)
        rows[name] = list(phase.rows(catalogue))
    return [row for name in (*names, *whole) for row in rows[name]]


class _Phase:
    """One phase of all attempts.

    Args:
        name: Of the phase.
        attempts: Of the run.
        known: By phase and KPI, the numbers of the job that are there already; grows.
        workload: Numbers that the job file gives.
    """

    def __init__(
        self,
        name: str,
        attempts: Sequence[Tried],
        known: dict[str, dict[str, Estimate]],
        workload: Mapping[str, float],
    ) -> None:
        began = [one for one in attempts if name in one.phases]
        others = [one for one in attempts if name not in one.phases]
        idle = [one for one in others if one.never_began(name)]
        tries = Counter(one.task for one in began)
        self._name = name
        self._phases = [one.phases[name] for one in began]
        self._silent = len(others) - len(idle)
        self._known = known
        self._workload = workload
        self._remarks = (
            *((PHASE_NOT_BEGUN,) if idle else ()),
            *((RESTARTS,) if any(count > 1 for count in tries.values()) else ()),
        )

    def rows(self, catalogue: Catalogue) -> Iterator[Row]:
        """Yield the rows; in a group formulas come last, and find what they are made of."""
        kpis: dict[str, Kpi] = {}
        for group in catalogue.values():
            kpis |= group.kpis
            for name, kpi in sorted(group.kpis.items(), key=lambda item: bool(item[1].formula)):
                yield from self._of_job(name, kpi, group.scope)
        yield from self._of_clients(kpis)
        yield from self._of_counters()

    def _of_job(self, name: str, kpi: Kpi, scope: str) -> Iterator[Row]:
        found = [one.numbers.get((name, JOB), {}).get(JOB) for one in self._phases]
        if not any(found):
            return
        parts = self._parts(
            [
                one or _why(phase, name, scope)
                for one, phase in zip(found, self._phases, strict=True)
            ]
        )
        number = self._put_together(name, kpi, parts)
        if number is None:
            yield from self._compared(name, kpi.unit, JOB, parts)
            return
        self._known[self._name][name] = number
        yield self._row(name, kpi.unit, JOB, JOB, number)

    def _put_together(self, name: str, kpi: Kpi, parts: Sequence[Estimate]) -> Estimate | None:
        """Return the number of all attempts; None where there are only those of each."""
        match rule_of(kpi):
            case "pooled":
                return self._pooled(name, kpi, parts)
            case "formula":
                return self._evaluated(str(kpi.formula))
            case "compared":
                return None
            case "weighted":
                return self._honest(parts, weighted(parts, self._seconds()))
            case rule:
                return self._honest(parts, _SIMPLE[rule](parts))

    def _seconds(self) -> list[float]:
        """Return the lengths of the phase; of an attempt without a number it does not matter."""
        return [*(one.phase.window.seconds for one in self._phases), *[0.0] * self._silent]

    def _pooled(self, name: str, kpi: Kpi, parts: Sequence[Estimate]) -> Estimate | None:
        measures = [one.measures.get(name) for one in self._phases]
        if not any(measures):
            return None
        lacking = _lacking(kpi)
        every = [*measures, *[None] * self._silent]
        number = STATISTICS[kpi.statistic].finish([m for one in every for m in one or lacking], kpi)
        if any(PARTLY_SEEN in part.reasons for part in parts):
            number = at_least(number)
        reasons = frozenset[str]().union(*(part.reasons for part in parts)) & _OF_THE_ROW
        # Where nothing happened there is no quotient, and nothing is missing either.
        lost = [p for p in parts if not p.available and ZERO_DENOMINATOR not in p.reasons]
        missing = (ATTEMPT_MISSING,) if lost and number.available else ()
        return number.because(*reasons, *missing)

    def _evaluated(self, text: str) -> Estimate | None:
        formula = Formula.parse(text)
        numbers = {}
        for name in formula.names:
            kpi, _, phase = name.partition("@")
            if kpi in self._workload:
                numbers[name] = exact(self._workload[kpi])
            number = self._known.get(phase or self._name, {}).get(kpi)
            if number is not None:
                numbers[name] = number
        return formula.evaluate(numbers)

    def _compared(
        self, name: str, unit: str, scope: str, parts: Sequence[Estimate], entity: str = JOB
    ) -> Iterator[Row]:
        values = {part.value for part in parts}
        agreed = all(part.available for part in parts) and len(values) == 1
        if agreed or not any(part.available for part in parts):
            yield self._row(name, unit, scope, entity, averaged(parts))
            return
        for which, of in _SPREAD.items():
            number = self._honest(parts, of(parts))
            yield self._row(f"{name}_across_attempts_{which}", unit, scope, entity, number)

    def _of_clients(self, kpis: Mapping[str, Kpi]) -> Iterator[Row]:
        """Give what clients measured; of their means and quantiles there is nothing to add up."""
        told = dict.fromkeys(told for one in self._phases for told in one.clients)
        for name, unit, entity in told:
            found = [one.numbers.get((name, JOB), {}).get(entity) for one in self._phases]
            parts = self._parts(found)
            rule = rule_of(kpis[name]) if name in kpis else "compared"
            if rule in _SIMPLE:
                number = self._honest(parts, _SIMPLE[rule](parts))
                yield self._row(name, unit, JOB, entity, number)
                server = self._known[self._name].get(name)
                if server is not None and server.available:
                    difference = minus(number, server)
                    yield self._row(f"{name}_client_minus_server", unit, JOB, entity, difference)
            else:
                yield from self._compared(name, unit, JOB, parts, entity)

    def _of_counters(self) -> Iterator[Row]:
        """Give the payload's counters that no KPI knows, by service."""
        units = {name: unit for one in self._phases for name, unit in one.counters.items()}
        for name, unit in units.items():
            by_attempt = [_by_service(one, name) for one in self._phases]
            for service in dict.fromkeys(service for one in by_attempt for service in one):
                parts = self._parts([one.get(service) for one in by_attempt])
                number = self._honest(parts, total(parts))
                yield self._row(name, unit, "service", service, number)

    def _parts(self, found: Sequence[Estimate | None]) -> list[Estimate]:
        """Return one number for each attempt that began the phase, or may have."""
        lacking = unavailable(ATTEMPT_MISSING)
        return [*(one or lacking for one in found), *[lacking] * self._silent]

    def _honest(self, parts: Sequence[Estimate], number: Estimate) -> Estimate:
        missing = number.available and not all(part.available for part in parts)
        return number.because(ATTEMPT_MISSING) if missing else number

    def _row(self, kpi: str, unit: str, scope: str, entity: str, number: Estimate) -> Row:
        return row_of(kpi, unit, self._name, scope, entity, number.because(*self._remarks))


_SIMPLE = {"sum": total, "max": largest_of, "min": smallest_of}
_SPREAD = {"min": smallest_of, "median": median_of, "max": largest_of}


def _lacking(kpi: Kpi) -> Sequence[Measure]:
    """Return the measures of an attempt that has none: it may have had anything."""
    unknown = unavailable(ATTEMPT_MISSING)
    is_pair = STATISTIC_KEYS[kpi.statistic].of == "counter"
    return [(unknown, unknown)] if is_pair else [unknown]


def _why(phase: PhaseNumbers, kpi: str, scope: str) -> Estimate:
    """Return why the job has no number in this attempt, as far as its entities say."""
    entities = phase.numbers.get((kpi, scope), {}).values()
    reasons = frozenset[str]().union(*(number.reasons for number in entities))
    return unavailable(ATTEMPT_MISSING, *reasons)


def _by_service(phase: PhaseNumbers, counter: str) -> dict[str, Estimate]:
    """Return how much a counter moved, by service, on all nodes together."""
    members: dict[str, list[Estimate]] = {}
    for entity, number in phase.numbers.get((counter, "service"), {}).items():
        members.setdefault(entity.partition("@")[0], []).append(number)
    return {service: total(numbers) for service, numbers in members.items()}
