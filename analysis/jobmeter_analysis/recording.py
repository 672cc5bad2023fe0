"""Recorded samples: one interface, and where they come from.

A recording answers one question: the samples of every series that one of some selectors asks for.
Everything else (windows, edges, identity across restarts) happens behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from jobmeter.window import Window

Times = npt.NDArray[np.int64]
"""Milliseconds since the Unix epoch."""
Values = npt.NDArray[np.float64]

STALE_BITS = 0x7FF0000000000002
"""The NaN that Prometheus writes when a series ends (model/value/value.go, StaleNaN)."""


NO_TIMES: Times = np.empty(0, np.int64)

NO_SAMPLE = "holds no sample of any series asked for"
"""What is said of a folder that can be read and has nothing in it."""


@dataclass(frozen=True)
class Selector:
    """Which series to read.

    Args:
        name: Metric name; with ``suffix`` set, only its end.
        suffix: Whether ``name`` is the end of a metric name.
        labels: Labels that must have exactly these values.
    """

    name: str
    suffix: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the series ``name`` with ``labels`` is asked for."""
        if not (name.endswith(self.name) if self.suffix else name == self.name):
            return False
        return all(labels.get(key) == value for key, value in self.labels.items())


@dataclass(frozen=True)
class Series:
    """The samples of one label set.

    Args:
        labels: All labels, ``__name__`` among them.
        times_ms: Shape (n,), strictly increasing.
        values: Shape (n,), float64; NaN only where the exporter said NaN.
        stale_ms: Times at which Prometheus marked the series as ended.
    """

    labels: Mapping[str, str]
    times_ms: Times
    values: Values
    stale_ms: Times

    @property
    def name(self) -> str:
        """The metric name."""
        return self.labels.get("__name__", "")


class Recording(Protocol):
    """A source of recorded samples."""

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, in words; empty when all could."""

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        """Return every series that a selector matches, in one pass over the data.

        Args:
            selectors: Which series.
            span: Which samples are needed; others may be left out. ``widened`` makes one of a
                window. None reads everything.

        Raises:
            RecordingError: nothing can be read.
        """


MARGIN_MS = 300_000
"""Read on both sides of a window: what brackets it, and what was not there before it."""


def widened(window: Window, interval_ms: float = 0) -> Window:
    """Return what to read for a window: five minutes or three intervals more on both sides.

    >>> widened(Window(1_000_000, 1_060_000), interval_ms=5_000)
    Window(start_ms=700000, end_ms=1360000)
    """
    margin = max(MARGIN_MS, round(3 * interval_ms))
    return Window(window.start_ms - margin, window.end_ms + margin)


@dataclass(frozen=True)
class Recorded:
    """A recording that answers from a list: for tests, and for what is not there."""

    series: tuple[Series, ...] = ()
    problems: tuple[str, ...] = ()

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        """Return every series that a selector matches, and of it what lies in the span."""
        wanted = Wanted(selectors)
        found = [one for one in self.series if wanted(one.name, one.labels)]
        return found if span is None else within(found, span)


def within(series: Iterable[Series], span: Window) -> list[Series]:
    """Return the part of each series in a span; series without one are left out.

    Series that shared their times before share them after.
    """
    cut: dict[int, tuple[slice, Times]] = {}
    kept = []
    for one in series:
        if id(one.times_ms) not in cut:
            part = _inside(one.times_ms, span)
            cut[id(one.times_ms)] = part, one.times_ms[part]
        part, times = cut[id(one.times_ms)]
        stale = one.stale_ms[_inside(one.stale_ms, span)]
        if times.size or stale.size:
            kept.append(Series(one.labels, times, one.values[part], stale))
    return kept


def _inside(times: Times, span: Window) -> slice:
    first, last = np.searchsorted(times, (span.start_ms, span.end_ms))
    return slice(int(first), int(last))


class Wanted:
    """Whether any selector matches; what a name can match is found out once."""

    def __init__(self, selectors: Sequence[Selector]) -> None:
        self._exact: dict[str, list[Selector]] = {}
        self._suffixes = [selector for selector in selectors if selector.suffix]
        self._of_name: dict[str, tuple[Mapping[str, str], ...]] = {}
        for selector in selectors:
            if not selector.suffix:
                self._exact.setdefault(selector.name, []).append(selector)

    def __call__(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the series ``name`` with ``labels`` is asked for."""
        for asked in self._labels_for(name):
            if not asked or all(labels.get(key) == value for key, value in asked.items()):
                return True
        return False

    def name_may_match(self, name: str) -> bool:
        """Whether a series of this name can match at all."""
        return bool(self._labels_for(name))

    def _labels_for(self, name: str) -> tuple[Mapping[str, str], ...]:
        """Return the labels that each selector asks for to which ``name`` is right."""
        if name not in self._of_name:
            ends = (one for one in self._suffixes if name.endswith(one.name))
            self._of_name[name] = tuple(one.labels for one in (*self._exact.get(name, ()), *ends))
        return self._of_name[name]


LabelKey = tuple[tuple[str, str], ...]
"""A label set as a key: pairs of name and value, sorted."""
Pieces = dict[LabelKey, list[tuple[Times, Values]]]
"""Samples as they were found, staleness markers among them: a series may come in several pieces."""


def joined(pieces: Pieces) -> list[Series]:
    """Make series of pieces: sorted by time, repeated times dropped, staleness set apart.

    Blocks and the write-ahead log overlap after a compaction, and each may hold a series in
    several pieces. Of samples with the same time the first piece's is used. Series whose pieces
    have the same times (the same objects: a scrape) share one array of times. Empties ``pieces``.
    """
    joiner = _Joiner()
    series = []
    for key in list(pieces):
        series.append(joiner.join(dict(key), pieces.pop(key)))
    return series


class _Joiner:
    """Remembers how pieces of the same times were joined."""

    def __init__(self) -> None:
        self._orders: dict[tuple[int, ...], tuple[Times, npt.NDArray[np.intp] | None]] = {}
        self._without_stale: dict[tuple[int, bytes], tuple[Times, Times]] = {}
        self._alive: list[Times] = []
        """Keeps the arrays by whose identity the others are found."""

    def join(self, labels: Mapping[str, str], parts: Sequence[tuple[Times, Values]]) -> Series:
        """Return one series."""
        key = tuple(id(part[0]) for part in parts)
        if key not in self._orders:
            self._orders[key] = _order([part[0] for part in parts])
            self._alive.extend(part[0] for part in parts)
        times, order = self._orders[key]
        values = parts[0][1] if len(parts) == 1 else np.concatenate([part[1] for part in parts])
        if order is not None:
            values = values[order]
        if not values.size or not np.isnan(values.max()):
            return Series(labels, times, values, NO_TIMES)
        stale = values.view(np.uint64) == STALE_BITS
        if not stale.any():
            return Series(labels, times, values, NO_TIMES)
        pattern = id(times), stale.tobytes()
        if pattern not in self._without_stale:
            self._without_stale[pattern] = times[~stale], times[stale]
        kept, ended = self._without_stale[pattern]
        return Series(labels, kept, values[~stale], ended)


def _order(times: Sequence[Times]) -> tuple[Times, npt.NDArray[np.intp] | None]:
    """Return the joined times, and which of the joined samples they are; None for all as is."""
    together = times[0] if len(times) == 1 else np.concatenate(times)
    if np.all(together[1:] > together[:-1]):
        return together, None
    return np.unique(together, return_index=True)


class Shared:
    """Gives equal arrays of times as one object, so that scrapes can be told by identity."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], list[Times]] = {}

    def __call__(self, times: Times) -> Times:
        """Return the first array that was equal to ``times``."""
        if not times.size:
            return NO_TIMES
        alike = self._known.setdefault((times.size, int(times[0]), int(times[-1])), [])
        for known in alike:
            if known is times or np.array_equal(known, times):
                return known
        alike.append(times)
        return times
