"""What a line of a log becomes: rules as values, and how one is applied to a line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jobmeter_exporters.families import Family
from jobmeter_exporters.log_values import Reader

LEVELS = ("debug", "info", "warning", "error", "critical", "other")
_LEVEL_BY_NAME = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "information": "info",
    "notice": "info",
    "warn": "warning",
    "warning": "warning",
    "err": "error",
    "error": "error",
    "crit": "critical",
    "critical": "critical",
    "fatal": "critical",
    "panic": "critical",
}

LONGEST_LABEL = 120
LONGEST_MATCHED = 1024
"""Characters of a line or of a field that a pattern sees: they bound its time (``log_pattern``)."""

Groups = Mapping[str, "str | None"]
"""The named groups of a match; None for one that took no part in it."""


@dataclass(frozen=True)
class MetricOutput:
    """One number that a matching line changes.

    Args:
        name: Name of the family.
        kind: What is done with the number.
        groups: Group for each label, in the order of the labels.
        levels: Whether the label at the same place is a level.
        value: Group with the number; None counts lines.
        read: Text of that group to base units.
        lasts_s: Seconds until a gauge is stale.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    groups: tuple[str, ...]
    levels: tuple[bool, ...]
    value: str | None
    read: Reader
    lasts_s: float

    def labels(self, found: Groups) -> tuple[str, ...]:
        """Return the values of the labels."""
        texts = ((found[group] or "")[:LONGEST_LABEL] for group in self.groups)
        return tuple(
            level(text) if is_level else text
            for text, is_level in zip(texts, self.levels, strict=True)
        )


@dataclass(frozen=True)
class EventOutput:
    """A line that is worth keeping: its level, fixed or from a group, and which part of it."""

    fixed_level: str
    level_group: str | None
    text_group: str | None


@dataclass(frozen=True)
class Rule:
    """Which lines, and what they become.

    Args:
        where: File and number of the rule, for messages.
        contains: What a line must have in it before anything is matched; empty for nothing.
        pattern: For the text of a line; None for a rule about JSON.
        fields: For lines that are JSON objects: names of a field, of which the first that is
            there counts, and the pattern for its value.
        metrics: Numbers that change.
        event: Whether the line is kept.
    """

    where: str
    contains: str
    pattern: re.Pattern[str] | None
    fields: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...]
    metrics: tuple[MetricOutput, ...]
    event: EventOutput | None

    def match(self, line: str, record: Mapping[str, Any] | None) -> Groups | None:
        """Return the groups when the rule is about this line."""
        if self.contains and self.contains not in line:
            return None
        if self.pattern is not None:
            found = self.pattern.search(line, 0, LONGEST_MATCHED)
            return None if found is None else found.groupdict()
        if record is None:
            return None
        groups: dict[str, str | None] = {}
        for names, pattern in self.fields:
            text = _first(record, names)
            found = None if text is None else pattern.search(text, 0, LONGEST_MATCHED)
            if found is None:
                return None
            groups |= found.groupdict()
        return groups


@dataclass(frozen=True)
class RuleSet:
    """Rules, and the families that they fill."""

    rules: tuple[Rule, ...]
    families: Mapping[str, Family]
    bounds: Mapping[str, tuple[float, ...]]

    @property
    def reads_json(self) -> bool:
        """Whether a rule looks into JSON."""
        return any(rule.fields for rule in self.rules)


def level(text: str) -> str:
    """Return one of ``LEVELS``.

    >>> level("WARN")
    'warning'
    """
    return _LEVEL_BY_NAME.get(text.lower(), "other")


def parse_record(line: str) -> Mapping[str, Any] | None:
    """Return the object that a line of JSON holds; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = _field(record, name)
        if value is not None:
            return _utf8(value) if isinstance(value, str) else json.dumps(value)
    return None


def _utf8(text: str) -> str:
    """Return a text that has a form in UTF-8: JSON can spell half a character."""
    return text.encode("utf-8", "replace").decode()


def _field(record: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - as JSON has it
    """Return ``record["a.b"]``, or else ``record["a"]["b"]``."""
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    inner = record.get(head) if dot else None
    return _field(inner, rest) if isinstance(inner, dict) else None
