"""A report on health in words, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone

from jobmeter_analysis.display import human
from jobmeter_analysis.live_health import FLAG, Report, Result

INDENT = " " * 13
MOST_ENTITIES = 4
SCHEMA_VERSION = 1


def lines(report: Report, width: int | None = None) -> Iterator[str]:
    """Give the report for a person: what is wrong first, with what to do.

    Args:
        report: What to say.
        width: Columns of the terminal; None to fold nothing.
    """
    told: set[str] = set()
    yield f"{report.health}: {report.subject} at {utc(report.time_ms)}"
    longest = max((len(result.check) for result in report.results), default=0)
    for result in report.results:
        words = " · ".join(word for word in (_value(result), _entities(result)) if word)
        yield f"  {result.health:<9}  {result.check:<{longest}}  {words}".rstrip()
        if result.health == "healthy":
            continue
        for text in (text for text in _explained(result) if text not in told):
            told.add(text)
            yield from _folded(text, width)


def _explained(result: Result) -> Iterator[str]:
    if result.reason:
        yield result.reason
    if result.health != "unknown":
        yield f"should be: {result.help}"
        yield result.advice


def _folded(text: str, width: int | None) -> Iterator[str]:
    if width is None:
        yield f"{INDENT}{text}"
        return
    yield from textwrap.wrap(text, max(40, width), initial_indent=INDENT, subsequent_indent=INDENT)


def one_line(report: Report) -> str:
    """Return the report in one line, for a log that is followed."""
    wrong = [one for one in report.results if one.health in ("degraded", "unhealthy")]
    missing = [one for one in report.results if one.health == "unknown" and one.required]
    said = [" ".join(filter(None, (one.check, _value(one), _entities(one)))) for one in wrong]
    said += [f"{one.check} unknown" for one in missing]
    return " ".join(filter(None, (utc(report.time_ms), report.health, "; ".join(said))))


def as_json(report: Report, *, indent: int | None = 2) -> str:
    """Return the report for a program; what cannot be told is null."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "subject": report.subject,
        "time": utc(report.time_ms),
        "time_ms": report.time_ms,
        "health": report.health,
        "exit_code": report.exit_code,
        "checks": [asdict(result) for result in report.results],
    }
    return json.dumps(data, indent=indent)


def utc(time_ms: int) -> str:
    """Return a moment in ISO 8601, whole seconds.

    >>> utc(0)
    '1970-01-01T00:00:00Z'
    """
    moment = datetime.fromtimestamp(time_ms / 1000, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _value(result: Result) -> str:
    if result.value is None or result.unit == FLAG:
        return ""
    return human(result.value, result.unit)


def _entities(result: Result) -> str:
    more = len(result.entities) - MOST_ENTITIES
    named = ", ".join(result.entities[:MOST_ENTITIES])
    return f"{named} and {more} more" if more > 0 else named
