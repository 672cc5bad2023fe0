"""What a check says of one machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "degraded", "broken", "unknown", "not_applicable"]
"""``unknown``: it could not be told, which is never taken for ok. ``not_applicable``: there is
nothing of the kind here, and nothing is lost by it."""

Health = Literal["healthy", "degraded", "unhealthy"]

EXIT_CODES: dict[Health, int] = {"healthy": 0, "unhealthy": 1, "degraded": 2}


@dataclass(frozen=True)
class Verdict:
    """One judgement.

    Args:
        state: How good it is.
        value: What was found.
        meaning: What follows from it for a job; empty where nothing does.
        advice: What to do first; never empty where something is broken.
    """

    state: State
    value: str
    meaning: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Finding:
    """What one check says of one machine."""

    host: str
    area: str
    name: str
    state: State
    value: str
    meaning: str
    advice: str

    @property
    def check(self) -> str:
        """The name under which the documentation has it."""
        return f"{self.area}.{self.name}"


def ok(value: str, meaning: str = "") -> Verdict:
    """Return that it works."""
    return Verdict("ok", value, meaning)


def degraded(value: str, meaning: str, advice: str) -> Verdict:
    """Return that a job runs and something is lost."""
    return Verdict("degraded", value, meaning, advice)


def broken(value: str, meaning: str, advice: str) -> Verdict:
    """Return that a job or its recording fails."""
    return Verdict("broken", value, meaning, advice)


def unknown(why: str, advice: str = "") -> Verdict:
    """Return that it could not be told."""
    return Verdict("unknown", why, "", advice)


def not_applicable(why: str) -> Verdict:
    """Return that there is nothing of the kind here."""
    return Verdict("not_applicable", why)


def health_of(findings: Iterable[Finding]) -> Health:
    """Return the health of it all; what could not be told is no better than degraded."""
    states = {finding.state for finding in findings}
    if "broken" in states or not states:
        return "unhealthy"
    return "degraded" if states & {"degraded", "unknown"} else "healthy"
