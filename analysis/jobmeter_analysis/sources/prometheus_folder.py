"""A Prometheus data folder: blocks, write-ahead log, or both; no server needed."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jobmeter.errors import RecordingError
from jobmeter.window import Window
from jobmeter_analysis.recording import (
    NO_SAMPLE,
    LabelKey,
    Pieces,
    Selector,
    Series,
    Shared,
    Wanted,
    joined,
    within,
)
from jobmeter_analysis.sources import throwaway_prometheus
from jobmeter_analysis.sources.prometheus_server import PrometheusServer
from jobmeter_analysis.sources.write_ahead_log import read_log

BlockReader = Literal["pypdu", "prometheus"]

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
_EMPTY_TOMBSTONES = 9
"""Bytes of a file of tombstones that has none: magic number, version, checksum."""


@dataclass(frozen=True)
class _Block:
    path: Path
    span: Window


@dataclass
class PrometheusFolder:
    """A Prometheus data folder.

    The log is read here (``write_ahead_log``), blocks with pypdu or, where that has no wheel, with
    a Prometheus of a moment. What is damaged costs itself alone, and is named in ``problems``.
    pypdu does not check checksums: single flipped bits inside a chunk of a block are read as they
    are. Checksums of the log are checked.

    Args:
        path: The folder that holds the blocks and ``wal``.
        block_reader: What reads the blocks; None for pypdu where it can be imported, else a
            ``prometheus`` on PATH, which does not tell where series were marked as ended.
    """

    path: Path
    block_reader: BlockReader | None = None
    _problems: list[str] = field(default_factory=list)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, in words."""
        return tuple(self._problems)

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        """Return every series that a selector matches, in one pass over the data.

        Blocks that lie outside of the span are not opened.

        Raises:
            RecordingError: the folder is not there, or nothing in it can be read.
        """
        self._problems.clear()
        if not self.path.is_dir():
            raise RecordingError(
                f"{self.path}: no recording here; the job ended before its first checkpoint, "
                "or the folder was not copied"
            )
        wanted = Wanted(selectors)
        pieces: Pieces = {}
        blocks, readable = self._read_blocks(pieces, selectors, wanted, span)
        try:
            log = read_log(self.path, wanted, span)
        except OSError as cause:
            raise RecordingError(
                f"{cause.filename or self.path}: cannot be read: {cause.strerror}"
            ) from cause
        for key, parts in log.pieces.items():
            pieces.setdefault(key, []).extend(parts)
        self._problems.extend(log.problems)
        if not readable and (log.useless or (blocks and not log.pieces)):
            raise RecordingError(
                f"{self.path}: nothing in this folder can be read ({'; '.join(self._problems)})"
            )
        series = joined(pieces)
        if span is not None:
            series = within(series, span)
        if not series:
            self._problems.append(f"{self.path} {NO_SAMPLE}")
        return series

    def _read_blocks(
        self, pieces: Pieces, selectors: Sequence[Selector], wanted: Wanted, span: Window | None
    ) -> tuple[int, int]:
        """Read all blocks; return how many there are, and how many could be read."""
        blocks = self._blocks(span)
        if not blocks:
            return 0, 0
        if (self.block_reader or _best_reader()) == "pypdu":
            shared = Shared()
            read = 0
            for block in blocks:
                try:
                    found = _by_pypdu(block.path, wanted, span, shared)
                except _UNREADABLE as cause:
                    self._problems.append(f"block {block.path.name} cannot be read: {cause}")
                else:
                    read += 1
                    for key, parts in found.items():
                        pieces.setdefault(key, []).extend(parts)
            return len(blocks), read
        whole = Window(
            min(block.span.start_ms for block in blocks), max(b.span.end_ms for b in blocks)
        )
        try:
            with throwaway_prometheus.serving([block.path for block in blocks]) as url:
                server = PrometheusServer(url, trust_env=False)
                series = server.select(selectors, span or whole)
        except RecordingError as cause:
            self._problems.append(f"blocks cannot be read: {cause}")
            return len(blocks), 0
        for one in series:
            key = tuple(sorted(one.labels.items()))
            pieces.setdefault(key, []).append((one.times_ms, one.values))
        self._problems.extend(
            problem for problem in server.problems if not problem.endswith(NO_SAMPLE)
        )
        return len(blocks), len(blocks)

    def _blocks(self, span: Window | None) -> list[_Block]:
        """Return the blocks that reach into the span, in order of time."""
        blocks = []
        for meta in sorted(self.path.glob("*/meta.json")):
            try:
                described = json.loads(meta.read_bytes())
                begin, end = int(described["minTime"]), int(described["maxTime"])
                block = _Block(meta.parent, Window(begin, max(end, begin + 1)))
            except (OSError, ValueError, KeyError, TypeError) as cause:
                self._problems.append(f"block {meta.parent.name} cannot be read: {cause}")
                continue
            if span is None or (begin < span.end_ms and block.span.end_ms > span.start_ms):
                blocks.append(block)
                self._note_tombstones(block.path)
        return sorted(blocks, key=lambda block: block.span.start_ms)

    def _note_tombstones(self, block: Path) -> None:
        deleted = block / "tombstones"
        if (
            (self.block_reader or _best_reader()) == "pypdu"
            and deleted.is_file()
            and deleted.stat().st_size > _EMPTY_TOMBSTONES
        ):
            self._problems.append(
                f"block {block.name} has samples that were deleted, which are read all the same"
            )


def _best_reader() -> BlockReader:
    """Return what can read blocks here.

    Raises:
        RecordingError: nothing can.
    """
    try:
        import pypdu  # noqa: F401  # a binary wheel that not every machine has
    except ImportError as cause:
        if throwaway_prometheus.available():
            return "prometheus"
        raise RecordingError(
            f"blocks of a recording need pypdu, which has no wheel for Python "
            f"{platform.python_version()} on {platform.machine()}, or the program "
            f"'{throwaway_prometheus.PROGRAM}' on PATH; put one on PATH, or "
            "'jobmeter export' the recording on another machine"
        ) from cause
    return "pypdu"


@contextmanager
def _folder_of(block: Path) -> Iterator[Path]:
    """Give a data folder that holds a link to one block."""
    with tempfile.TemporaryDirectory(prefix="jobmeter-") as scratch:
        folder = Path(scratch)
        (folder / block.name).symlink_to(block.resolve())
        yield folder


def _by_pypdu(block: Path, wanted: Wanted, span: Window | None, shared: Shared) -> Pieces:
    """Read one block. What is returned is copied: pypdu's arrays are views into its own memory."""
    import pypdu

    found: Pieces = {}
    with _folder_of(block) as folder:
        data: Any = pypdu.load(str(folder))
        for series in data.filter({"__name__": wanted.name_may_match}):
            labels: dict[str, str] = series.labels
            if not wanted(labels.get("__name__", ""), labels):
                continue
            samples = series.samples.as_array()
            times = samples["timestamp"].astype(np.int64)
            part = slice(None)
            if span is not None:
                first, last = np.searchsorted(times, (span.start_ms, span.end_ms))
                part = slice(int(first), int(last))
            if not times[part].size:
                continue
            key: LabelKey = tuple(sorted(labels.items()))
            values = samples["value"][part].astype(np.float64)
            found.setdefault(key, []).append((shared(times[part]), values))
    return found
