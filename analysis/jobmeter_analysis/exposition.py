"""The text that a metrics endpoint answers with: Prometheus text format 0.0.4 and OpenMetrics 1.0.

``prometheus_client`` can parse it too, at half the speed and not knowing what is wanted. The edges
of one phase on 64 large nodes hold some 200 thousand lines, most of them of metrics that no KPI
needs, so lines are sorted out by their name before anything else of them is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TARGET_LABELS = ("instance", "job", "node", "run_id", "service")
"""Labels that Prometheus attaches to every series; the exposition's own are renamed."""

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LINE = re.compile(
    rf"(?P<name>{_NAME})[ \t]*"
    r"(?:\{(?P<labels>(?:[^\"{}]|\"(?:[^\"\\]|\\.)*\")*)\})?[ \t]*"
    r"(?P<value>[^ \t#]+)"
    r"(?:[ \t]+(?P<time>[-+0-9.eE]+))?"
    r"[ \t]*(?P<exemplar>#.*)?"
)
_LABEL = re.compile(
    r"[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*\"((?:[^\"\\]|\\.)*)\"[ \t]*(?:,|$)"
)
_TYPE = re.compile(rf"#[ \t]+TYPE[ \t]+({_NAME})[ \t]+(\w+)")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", '"': '"', "\\": "\\"}


@dataclass(frozen=True)
class Sample:
    """One sample of an exposition: its metric name, its own labels, its value."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Exposition:
    """What one endpoint said.

    Args:
        samples: In the order of the text.
        types: Family name to type (``counter``, ``gauge``, ``histogram`` ...).
        torn: Whether the text ends in the middle of a line, or holds lines that are none of the
            format: what is not in it may have been lost.
    """

    samples: tuple[Sample, ...]
    types: Mapping[str, str]
    torn: bool

    def is_counter(self, name: str) -> bool:
        """Whether the text declares metric ``name`` a counter, in either format."""
        return "counter" in (self.types.get(name), self.types.get(name.removesuffix("_total")))


def parse_exposition(text: str, wanted: Callable[[str], bool] | None = None) -> Exposition:
    r"""Parse an exposition; only metrics that are ``wanted`` are kept.

    A last line without its newline was cut: its value may have lost digits, so it is dropped.
    The same label set given twice keeps its first value, as Prometheus does.

    >>> parse_exposition('a_total{k="x"} 2\n').samples
    (Sample(name='a_total', labels={'k': 'x'}, value=2.0),)
    """
    lines = text.split("\n")
    torn = bool(lines.pop())
    samples: list[Sample] = []
    types: dict[str, str] = {}
    for line in lines:
        line = line.rstrip("\r")
        if not line:
            continue
        if line[0] == "#":
            kind = _TYPE.match(line)
            if kind:
                types[kind[1]] = kind[2]
            continue
        if wanted is not None and not wanted(_name_of(line)):
            continue
        sample = _sample(line)
        if sample is None:
            torn = True
        else:
            samples.append(sample)
    return Exposition(_first_of_each(samples), types, torn)


def read_exposition(path: Path, wanted: Callable[[str], bool] | None = None) -> Exposition:
    """Read and parse one file.

    Raises:
        OSError: the file is not there.
    """
    return parse_exposition(path.read_bytes().decode("utf-8", "replace"), wanted)


def completed(labels: Mapping[str, str], node: str, service: str) -> dict[str, str]:
    """Return the labels under which Prometheus stores a sample of one target.

    Without ``instance``, ``job`` and ``run_id``, which say nothing about what was measured and
    differ when an exporter comes back on another port.

    >>> completed({"node": "x", "cpu": "0"}, "n1", "node")
    {'exported_node': 'x', 'cpu': '0', 'node': 'n1', 'service': 'node'}
    """
    renamed = {_stored_name(key, labels): value for key, value in labels.items() if value}
    return {**renamed, "node": node, "service": service}


def _stored_name(label: str, labels: Mapping[str, str]) -> str:
    """Prefix until it is free (scrape/scrape.go, resolveConflictingExposedLabels)."""
    if label not in TARGET_LABELS:
        return label
    name = f"exported_{label}"
    while name in labels:
        name = f"exported_{name}"
    return name


def _name_of(line: str) -> str:
    """The metric name at the start of a line."""
    end = len(line)
    for stop in "{ \t":
        at = line.find(stop, 0, end)
        if at >= 0:
            end = at
    return line[:end]


def _sample(line: str) -> Sample | None:
    match = _LINE.fullmatch(line.strip(" \t"))
    if match is None:
        return None
    labels = _labels(match["labels"] or "")
    if labels is None:
        return None
    try:
        return Sample(match["name"], labels, float(match["value"]))  # NaN, +Inf and -Inf included
    except ValueError:
        return None


@lru_cache(maxsize=16_384)
def _labels(text: str) -> Mapping[str, str] | None:
    """Parse labels; None if they are none. Nodes and moments have the same ones again and again."""
    labels: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip(" \t")):
        match = _LABEL.match(text, at)
        if match is None:
            return None
        labels[match[1]] = _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[0]), match[2])
        at = match.end()
    return labels


def _first_of_each(samples: list[Sample]) -> tuple[Sample, ...]:
    kept: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    for sample in samples:
        kept.setdefault((sample.name, frozenset(sample.labels.items())), sample)
    return tuple(kept.values())
