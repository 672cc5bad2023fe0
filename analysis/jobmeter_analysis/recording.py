"""Recorded samples: one interface, and where they come from.

A recording answers one question: the samples of every series that one of some selectors asks for.
Everything else (windows, edges, identity across restarts) happens behind it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from jobmeter.errors import RecordingError

Times = npt.NDArray[np.int64]
"""Milliseconds since the Unix epoch."""
Values = npt.NDArray[np.float64]

STALE_BITS = 0x7FF0000000000002
"""The NaN that Prometheus writes when a series ends (model/value/value.go, StaleNaN)."""


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

    def select(self, selectors: Sequence[Selector]) -> list[Series]:
        """Return every series that a selector matches, in one pass over the data.

        Raises:
            RecordingError: nothing can be read.
        """


@dataclass(frozen=True)
class Recorded:
    """A recording that answers from a list: for tests, and for what is not there."""

    series: tuple[Series, ...] = ()
    problems: tuple[str, ...] = ()

    def select(self, selectors: Sequence[Selector]) -> list[Series]:
        """Return every series that a selector matches."""
        wanted = _Wanted(selectors)
        return [one for one in self.series if wanted(one.name, one.labels)]


class _Wanted:
    """Whether any selector matches, with exact names looked up instead of searched."""

    def __init__(self, selectors: Sequence[Selector]) -> None:
        self._exact: dict[str, list[Selector]] = {}
        self._suffixes = [selector for selector in selectors if selector.suffix]
        for selector in selectors:
            if not selector.suffix:
                self._exact.setdefault(selector.name, []).append(selector)

    def __call__(self, name: str, labels: Mapping[str, str]) -> bool:
        return any(
            selector.matches(name, labels)
            for selector in (*self._exact.get(name, ()), *self._suffixes)
        )

    def name_may_match(self, name: str) -> bool:
        """Whether a series of this name can match at all."""
        return name in self._exact or any(name.endswith(one.name) for one in self._suffixes)


def cleaned(labels: Mapping[str, str], parts: Sequence[tuple[Times, Values]]) -> Series:
    """Join pieces of one series: sorted by time, repeated times dropped, staleness set apart.

    Blocks and the write-ahead log overlap after a compaction, and each may hold a series in
    several pieces (a restart gives it a new reference). The pieces are copied: arrays from pypdu
    are views into memory that it owns.
    """
    times = np.concatenate([part[0] for part in parts])
    values = np.concatenate([part[1] for part in parts])
    if not np.all(times[1:] > times[:-1]):
        times, first = np.unique(times, return_index=True)
        values = values[first]
    stale = values.view(np.uint64) == STALE_BITS
    if not stale.any():
        return Series(labels, times, values, np.empty(0, np.int64))
    return Series(labels, times[~stale], values[~stale], times[stale])


@dataclass
class PrometheusFolder:
    """A Prometheus data folder: blocks, write-ahead log, or both; no server needed.

    What pypdu 0.1.10 does with damaged folders was tried with some 1600 of them: a log that was
    cut anywhere gives what is before the cut, an empty folder gives nothing, everything else is a
    Python exception of some kind and never the end of the process. So a folder that fails as a
    whole is read again piece by piece, and what is lost is named in ``problems``. pypdu does not
    check checksums: single flipped bits inside a chunk are read as they are.

    Args:
        path: The folder that holds the blocks and ``wal``.
    """

    path: Path
    _problems: list[str] = field(default_factory=list)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, in words."""
        return tuple(self._problems)

    def select(self, selectors: Sequence[Selector]) -> list[Series]:
        """Return every series that a selector matches, in one pass over the data.

        Raises:
            RecordingError: the folder is not there, or nothing in it can be read.
        """
        self._problems.clear()
        if not self.path.is_dir():
            raise RecordingError(
                f"{self.path}: no recording here; the job ended before its first checkpoint, "
                "or the folder was not copied"
            )
        wanted = _Wanted(selectors)
        try:
            pieces = _read(wanted, *self._blocks(), *self._log())
        except _UNREADABLE:
            pieces = self._salvage(wanted)
        if not pieces:
            self._problems.append(f"{self.path} {NO_SAMPLE}")
        return [cleaned(dict(labels), parts) for labels, parts in pieces.items()]

    def _blocks(self) -> list[Path]:
        return sorted(path.parent for path in self.path.glob("*/meta.json"))

    def _log(self) -> list[Path]:
        return [wal for wal in (self.path / "wal",) if wal.is_dir()]

    def _salvage(self, wanted: _Wanted) -> _Pieces:
        """Read block by block, then as much of the log as can be read."""
        found: _Pieces = {}
        read = 0
        for block in self._blocks():
            try:
                _merge(found, _read(wanted, block))
                read += 1
            except _UNREADABLE as cause:
                self._problems.append(f"block {block.name} cannot be read: {cause}")
        for wal in self._log():
            part = self._salvage_wal(wal, wanted)
            _merge(found, part)
            read += bool(part)
        if read == 0:
            raise RecordingError(
                f"{self.path}: nothing in this folder can be read ({'; '.join(self._problems)})"
            )
        return found

    def _salvage_wal(self, wal: Path, wanted: _Wanted) -> _Pieces:
        """Read the log, or the longest run of its segments and pages that can be read.

        The cut is found by halving: a log that was cut short inside a page is readable.
        """
        try:
            return _read(wanted, wal)
        except _UNREADABLE as cause:
            self._problems.append(
                f"write-ahead log is cut or damaged, its beginning is used: {cause}"
            )
        segments = sorted(path for path in wal.iterdir() if path.name.isdigit())
        pages = [
            (segment, page)
            for segment in segments
            for page in range(0, segment.stat().st_size, _PAGE_BYTES)
        ]
        good, bad = 0, len(pages) + 1
        best: _Pieces = {}
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                best = _read_pages(wal, pages[:middle], wanted)
                good = middle
            except _UNREADABLE:
                bad = middle
        return best


_PAGE_BYTES = 32 * 1024  # of the write-ahead log; a record never crosses a page without a fragment
_UNREADABLE = (
    RuntimeError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    TypeError,
)
"""What pypdu raises on damaged data: the C++ exceptions it passes on, by their Python names."""

_Pieces = dict[tuple[tuple[str, str], ...], list[tuple[Times, Values]]]


@contextmanager
def _folder_of(*pieces: Path) -> Iterator[Path]:
    """Give a data folder that holds links to ``pieces``: blocks, a ``wal``.

    pypdu reads the log only beside a folder ``chunks_head``, whose content it does not need: all
    of it is in the log too. A copy may lack that folder, or hold a torn one.
    """
    with tempfile.TemporaryDirectory(prefix="jobmeter-") as scratch:
        folder = Path(scratch)
        (folder / "chunks_head").mkdir()
        for piece in pieces:
            (folder / piece.name).symlink_to(piece.resolve())
        yield folder


def _read(wanted: _Wanted, *pieces: Path) -> _Pieces:
    """Read blocks and a log with pypdu; pieces of one series stay apart."""
    import pypdu  # a binary wheel that not every machine has; a recording can come from elsewhere

    found: _Pieces = {}
    with _folder_of(*pieces) as folder:
        data: Any = pypdu.load(str(folder))
        for series in data.filter({"__name__": wanted.name_may_match}):
            labels: dict[str, str] = series.labels
            if not wanted(labels.get("__name__", ""), labels):
                continue
            samples = series.samples.as_array()
            part = (samples["timestamp"].astype(np.int64), samples["value"].astype(np.float64))
            if part[0].size:
                found.setdefault(tuple(sorted(labels.items())), []).append(part)
    return found


def _read_pages(wal: Path, pages: Iterable[tuple[Path, int]], wanted: _Wanted) -> _Pieces:
    """Read a log that ends with the last of ``pages``, one byte short.

    One byte, because pypdu takes a log that ends between two pages of one record for damaged, and
    one that ends inside a page for cut short.
    """
    ends: dict[Path, int] = {}
    for segment, page in pages:
        ends[segment] = page + _PAGE_BYTES
    ends[segment] -= 1
    with tempfile.TemporaryDirectory(prefix="jobmeter-") as scratch:
        copy = Path(scratch) / "wal"
        copy.mkdir()
        for checkpoint in wal.glob("checkpoint.*"):
            (copy / checkpoint.name).symlink_to(checkpoint.resolve())
        for segment, end in ends.items():
            (copy / segment.name).write_bytes(segment.read_bytes()[:end])
        return _read(wanted, copy)


def _merge(into: _Pieces, more: _Pieces) -> None:
    for labels, parts in more.items():
        into.setdefault(labels, []).extend(parts)
