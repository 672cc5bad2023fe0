"""Files of rules: read, and refused before anything runs if they could fail later.

Their format is described in ``docs/log-rules.md``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.families import Family
from jobmeter_exporters.log_pattern import check_cost
from jobmeter_exporters.log_rule import LEVELS, EventOutput, MetricOutput, Rule, RuleSet
from jobmeter_exporters.log_values import READERS

SHIPPED = Path(__file__).parent / "log_rules"
KINDS: tuple[Literal["counter", "gauge", "histogram"], ...] = ("counter", "gauge", "histogram")
RULE_KEYS = ("match", "fields", "contains", "metrics", "event")
METRIC_KEYS = (*KINDS, "help", "labels", "value", "unit", "buckets", "expires_seconds")
EVENT_KEYS = ("level", "text")
OURS = ("jobmeter_", "process_")
_METRIC_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def shipped_names() -> list[str]:
    """Return the names of the rule files that come with us."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_rules(name: str) -> list[tuple[str, Any]]:
    """Return the entries of a rule file, each with where it stands.

    Args:
        name: One of ``shipped_names``, or a path.

    Raises:
        ExporterError: No such file, no YAML, or no list of rules.
    """
    path = SHIPPED / f"{name}.yaml" if name in shipped_names() else Path(name)
    try:
        import yaml
    except ImportError as cause:
        raise ExporterError("rules are YAML, and pyyaml is not installed; install it") from cause
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError as cause:
        known = ", ".join(shipped_names())
        raise ExporterError(f"no rules {name!r}; give a file, or one of ours: {known}") from cause
    except (OSError, UnicodeDecodeError) as cause:
        raise ExporterError(f"cannot read the rules {name}: {cause}; give a text file") from cause
    except (yaml.YAMLError, RecursionError, ValueError) as cause:  # ValueError: no such date
        mark = getattr(cause, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        problem = getattr(cause, "problem", None) or " ".join(str(cause).split())
        raise ExporterError(
            f"{name} is no YAML{place}: {problem}; mind the quotes of patterns"
        ) from cause
    if not isinstance(data, dict) or list(data) != ["rules"] or not isinstance(data["rules"], list):
        raise ExporterError(f"{name} has to have one key, 'rules', with a list of rules")
    return [(f"{name}: rule {number}", rule) for number, rule in enumerate(data["rules"], 1)]


def rule_set(entries: Iterable[tuple[str, Any]], taken: Collection[str] = ()) -> RuleSet:
    """Return the rules of some files, in one set.

    Args:
        entries: As ``read_rules`` returns them.
        taken: Names of families that others have.

    Raises:
        ExporterError: One of them is not as described.
    """
    builder = _Builder(taken)
    rules = tuple(builder.rule(where, entry) for where, entry in entries)
    return RuleSet(rules, builder.families, builder.bounds)


class _Builder:
    """Checks rules one by one, against each other and against what others have."""

    def __init__(self, taken: Collection[str]) -> None:
        self.families: dict[str, Family] = {}
        self.bounds: dict[str, tuple[float, ...]] = {}
        self._taken = taken

    def rule(self, where: str, entry: object) -> Rule:
        given = _mapping(where, entry, RULE_KEYS)
        if ("match" in given) == ("fields" in given):
            raise ExporterError(f"{where}: give either 'match', a pattern, or 'fields'")
        pattern = _pattern(f"{where}: match", given["match"]) if "match" in given else None
        fields = tuple(
            (tuple(_text(f"{where}: fields", names).split("|")), _pattern(f"{where}: {names}", one))
            for names, one in _mapping(f"{where}: fields", given.get("fields", {})).items()
        )
        patterns = [pattern] if pattern is not None else [one for _, one in fields]
        if not patterns:
            raise ExporterError(f"{where}: 'fields' is empty; name a field and its pattern")
        groups = {group for one in patterns for group in one.groupindex}
        metrics = given.get("metrics", [])
        if not isinstance(metrics, list) or not (metrics or "event" in given):
            raise ExporterError(f"{where}: give 'metrics', a list, or 'event'")
        return Rule(
            where,
            _text(f"{where}: contains", given.get("contains", "")),
            pattern,
            fields,
            tuple(self._metric(where, metric, groups) for metric in metrics),
            _event(f"{where}: event", given["event"], groups) if "event" in given else None,
        )

    def _metric(self, where: str, entry: object, groups: Collection[str]) -> MetricOutput:
        given = _mapping(f"{where}: metrics", entry, METRIC_KEYS)
        kinds = [kind for kind in KINDS if kind in given]
        if len(kinds) != 1:
            raise ExporterError(f"{where}: metrics: give one of {', '.join(KINDS)}, with the name")
        kind = kinds[0]
        name = _text(f"{where}: {kind}", given[kind])
        where = f"{where}: {name}"
        self._check_name(where, name, kind)
        labels = _mapping(f"{where}: labels", given.get("labels", {}))
        for label, group in labels.items():
            _check_label(where, label)
            _check_group(f"{where}: label {label}", group, groups)
        value = given.get("value")
        if value is not None:
            _check_group(f"{where}: value", value, groups)
        elif kind != "counter":
            raise ExporterError(f"{where}: a {kind} has to have 'value', a group with the number")
        self._add_family(where, name, kind, tuple(labels), given)
        return MetricOutput(
            name,
            kind,
            tuple(labels.values()),
            tuple(label == "level" for label in labels),
            value,
            READERS[_choice(f"{where}: unit", given.get("unit", "number"), READERS)],
            _lasts_s(where, kind, given),
        )

    def _check_name(self, where: str, name: str, kind: str) -> None:
        if not _METRIC_NAME.fullmatch(name) or name.startswith(OURS) or name in self._taken:
            raise ExporterError(f"{where} is no name, or one that is taken; choose another one")
        if (kind == "counter") != name.endswith("_total"):
            end = "has to" if kind == "counter" else "must not"
            raise ExporterError(f"{where}: the name of a {kind} {end} end in _total")
        if name.endswith(("_bucket", "_count", "_sum", "_created", "_info")):
            raise ExporterError(f"{where}: that end of a name is for parts of other metrics")

    def _add_family(
        self,
        where: str,
        name: str,
        kind: Literal["counter", "gauge", "histogram"],
        labels: tuple[str, ...],
        given: Mapping[str, Any],
    ) -> None:
        known = self.families.get(name)
        about = given.get("help", known.documentation if known else None)
        if not isinstance(about, str) or not about.strip():
            raise ExporterError(f"{where}: give 'help', a sentence about what it is")
        family = Family(about, ("service", *labels), source=where, kind=kind)
        bounds = _bounds(where, kind, given)
        if known is not None:
            same = (known.documentation, known.labels, known.kind, self.bounds.get(name))
            if same != (family.documentation, family.labels, family.kind, bounds):
                raise ExporterError(
                    f"{where}: differs from {known.source} in type, help, labels or buckets; "
                    "make them alike, or choose another name"
                )
            return
        self.families[name] = family
        if bounds is not None:
            self.bounds[name] = bounds


def _event(where: str, entry: object, groups: Collection[str]) -> EventOutput:
    given = _mapping(where, entry, EVENT_KEYS)
    level = _text(f"{where}: level", given.get("level", "info"))
    text = given.get("text")
    if text is not None:
        _check_group(f"{where}: text", text, groups)
    if level in groups:
        return EventOutput("other", level, text)
    return EventOutput(_choice(f"{where}: level", level, (*LEVELS, *groups)), None, text)


def _pattern(where: str, given: object) -> re.Pattern[str]:
    text = _text(where, given)
    try:
        pattern = re.compile(text)
        check_cost(where, text)
    except (re.error, RecursionError, OverflowError) as cause:
        raise ExporterError(f"{where}: {text!r} is no regular expression: {cause}") from cause
    return pattern


def _bounds(where: str, kind: str, given: Mapping[str, Any]) -> tuple[float, ...] | None:
    buckets = given.get("buckets")
    if kind != "histogram":
        if buckets is not None:
            raise ExporterError(f"{where}: a {kind} has no 'buckets'")
        return None
    if not isinstance(buckets, list) or not buckets or not all(map(_is_number, buckets)):
        raise ExporterError(f"{where}: give 'buckets', a list of upper bounds such as [0.1, 1, 10]")
    bounds = tuple(float(bound) for bound in buckets)
    if list(bounds) != sorted(set(bounds)) or len(bounds) > 100:
        raise ExporterError(f"{where}: 'buckets' have to ascend, and be at most 100")
    return bounds


def _lasts_s(where: str, kind: str, given: Mapping[str, Any]) -> float:
    seconds = given.get("expires_seconds")
    if seconds is None:
        return math.inf
    if kind != "gauge":
        raise ExporterError(f"{where}: a {kind} does not expire; leave 'expires_seconds' out")
    if not _is_number(seconds) or seconds <= 0:
        raise ExporterError(f"{where}: expires_seconds {seconds!r} is no number above 0")
    return float(seconds)


def _mapping(where: str, given: object, keys: Collection[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ExporterError(f"{where}: {given!r} is no mapping of names")
    for key in given:
        if keys is not None and key not in keys:
            raise ExporterError(f"{where}: unknown key {key!r}; {_advice(key, keys)}")
    return given


def _text(where: str, given: object) -> str:
    if not isinstance(given, str):
        raise ExporterError(f"{where}: {given!r} is no text; put it in quotes")
    return given


def _choice(where: str, given: object, known: Collection[str]) -> str:
    text = _text(where, given)
    if text not in known:
        raise ExporterError(f"{where}: no {text!r}; {_advice(text, known)}")
    return text


def _check_label(where: str, label: str) -> None:
    if not _LABEL_NAME.fullmatch(label) or label in ("service", "le", "quantile"):
        raise ExporterError(f"{where}: {label!r} cannot be a label; choose another name")


def _check_group(where: str, group: object, groups: Collection[str]) -> None:
    if not isinstance(group, str) or group not in groups:
        known = ", ".join(sorted(groups)) or "none"
        raise ExporterError(f"{where}: the pattern has no group {group!r}; it has {known}")


def _advice(given: str, known: Collection[str]) -> str:
    close = get_close_matches(given, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"


def _is_number(given: object) -> bool:
    if not isinstance(given, int | float) or isinstance(given, bool):
        return False
    try:
        return math.isfinite(given)
    except OverflowError:  # an integer of hundreds of digits
        return False
