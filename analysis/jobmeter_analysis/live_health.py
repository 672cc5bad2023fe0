"""Whether a recording is well: readings compared with the thresholds of ``health_checks.yaml``.

What cannot be told is ``unknown`` with a reason. Where a check is required, not knowing makes the
whole degraded: nothing is healthy by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from jobmeter import strict
from jobmeter.errors import CatalogueError

CHECKS = Path(__file__).parent / "health_checks.yaml"

Kind = Literal["run", "server"]
When = Literal["runs", "over"]
Health = Literal["healthy", "unknown", "degraded", "unhealthy"]
HEALTHS: tuple[Health, ...] = ("healthy", "unknown", "degraded", "unhealthy")
"""From the best to the worst."""
EXIT_CODES: Mapping[Health, int] = {"healthy": 0, "unknown": 2, "degraded": 2, "unhealthy": 1}


FLAG = "flag"
"""Unit of what is so (1) or not (0)."""


class _Model(strict.StrictModel):
    model_config = ConfigDict(strict=False)  # a list of the file is a tuple here


class Thresholds(_Model):
    """From where on a reading is no longer well; None for never."""

    degraded: float | None = None
    unhealthy: float | None = None


class Metric(_Model):
    """The last recorded value of a metric.

    Args:
        names: Its spellings; all of them are looked at.
        labels: Which values its series may have of these labels.
        other_labels: The same instead, for recordings that are not ours.
        per: Metric of the same labels that it is divided by.
        entity: Labels by which a series is called, those that it has.
    """

    names: tuple[str, ...]
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    other_labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    per: str | None = None
    entity: tuple[str, ...]


class Check(_Model):
    """One check; ``health_checks.yaml`` explains the keys."""

    fact: str | None = None
    metric: Metric | None = None
    unit: str = FLAG
    of: tuple[Kind, ...] = ("run", "server")
    when: tuple[When, ...] = ("runs", "over")
    required: tuple[Kind, ...] = ()
    above: Thresholds = Thresholds()
    below: Thresholds = Thresholds()
    help: str
    advice: str


class _Checks(_Model):
    checks: dict[str, Check]


@lru_cache(maxsize=4)
def load_checks(path: Path = CHECKS) -> Mapping[str, Check]:
    """Read and check the checks.

    Raises:
        CatalogueError: naming the file, the check and the likely fix.
    """
    from jobmeter_analysis.live_facts import FACTS

    checks = strict.read(_Checks, path, CatalogueError)[0].checks
    for name, check in checks.items():
        where = f"{path.name}: check {name!r}"
        if (check.fact is None) == (check.metric is None):
            raise CatalogueError(f"{where}: it looks at one fact or one metric; give one of them")
        if check.fact is not None and check.fact not in FACTS:
            hint = strict.nearest(check.fact, sorted(FACTS))
            raise CatalogueError(f"{where}: no fact {check.fact!r}; {hint}")
        if check.above == check.below:
            raise CatalogueError(f"{where}: nothing is ever wrong; give 'above' or 'below'")
    return checks


@dataclass(frozen=True)
class Reading:
    """One number that a check looks at.

    Args:
        entity: Of what: a target, a component; empty for the whole.
        value: None where it cannot be told.
        reason: Why not, or what is worth saying of it.
    """

    entity: str
    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """What one check found.

    Args:
        check: Its name.
        health: The worst of its readings.
        value: Of the worst reading; None where it cannot be told.
        unit: Of the value.
        entities: Those that are as bad as the worst, when that is not well.
        reason: Why it cannot be told, or what is worth saying.
        required: Whether not knowing it counts.
        help: What it means.
        advice: What to do.
    """

    check: str
    health: Health
    value: float | None
    unit: str
    entities: tuple[str, ...]
    reason: str
    required: bool
    help: str
    advice: str


@dataclass(frozen=True)
class Report:
    """What all checks found.

    Args:
        subject: Of what: a run and its attempt, a server.
        time_ms: When.
        health: The whole.
        results: The worst first.
    """

    subject: str
    time_ms: int
    health: Health
    results: tuple[Result, ...]

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 unhealthy, 2 degraded or not known."""
        return EXIT_CODES[self.health]


def report(
    subject: str,
    time_ms: int,
    kind: Kind,
    when: When,
    readings: Mapping[str, Sequence[Reading]],
    checks: Mapping[str, Check],
) -> Report:
    """Compare readings with the thresholds.

    Args:
        subject: Of what.
        time_ms: When.
        kind: A run or a server.
        when: Whether it runs or is over.
        readings: By name of a check; a check without any has nothing to look at and is left out.
        checks: All of them.
    """
    results = [
        _result(name, check, kind, readings[name])
        for name, check in checks.items()
        if kind in check.of and when in check.when and readings.get(name)
    ]
    results.sort(key=lambda one: -_weight(one))
    worst = max((_weight(one) for one in results), default=HEALTHS.index("unknown"))
    overall = HEALTHS[worst]
    return Report(subject, time_ms, "degraded" if overall == "unknown" else overall, tuple(results))


def _weight(result: Result) -> int:
    """Return how bad a result is for the whole: what need not be known is as good as well."""
    if result.health == "unknown":
        return HEALTHS.index("unknown" if result.required else "healthy")
    return HEALTHS.index(result.health)


def _result(name: str, check: Check, kind: Kind, readings: Sequence[Reading]) -> Result:
    rated = [(_rated(check, reading.value), reading) for reading in readings]
    worst = max((health for health, _ in rated), key=HEALTHS.index)
    those = [reading for health, reading in rated if health == worst]
    first = those[0]
    return Result(
        check=name,
        health=worst,
        value=first.value,
        unit=check.unit,
        entities=() if worst == "healthy" else tuple(one.entity for one in those if one.entity),
        reason=first.reason,
        required=kind in check.required,
        help=check.help,
        advice=check.advice,
    )


def _rated(check: Check, value: float | None) -> Health:
    if value is None or value != value:
        return "unknown"
    words: tuple[Health, Health] = ("unhealthy", "degraded")
    for word in words:
        above, below = getattr(check.above, word), getattr(check.below, word)
        if (above is not None and value > above) or (below is not None and value < below):
            return word
    return "healthy"
