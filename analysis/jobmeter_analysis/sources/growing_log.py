"""The log of a recording that is still being written: each look reads what is new since the last.

The copy in a run directory only grows, by whole appends that may end inside a record; a torn end is
completed by the next append. What is read once is not read again, and of the samples only the last
minutes are kept, as records, so that a look costs what came since and not what there is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from jobmeter.errors import RecordingError
from jobmeter.window import Window
from jobmeter_analysis.recording import NO_SAMPLE, Selector, Series, Wanted, joined, within
from jobmeter_analysis.sources.write_ahead_log import (
    Damage,
    DamagedError,
    Index,
    Reader,
    describes_series,
    first_sample_ms,
    log_files,
    records_of,
)

TRIES = 3
"""Files may be replaced between two steps of one look; then it begins anew."""


class GrowingLog:
    """The last minutes of a log that grows.

    Args:
        folder: The data folder that holds ``wal``.
        keep_ms: How far before the newest sample samples are kept.
    """

    def __init__(self, folder: Path, keep_ms: int) -> None:
        self._folder = folder
        self._keep_ms = keep_ms
        self._forget()

    def _forget(self) -> None:
        self._problems: list[str] = []
        self._empty: tuple[str, ...] = ()
        self._read_to: dict[Path, int] = {}
        self._last_segment = -1
        self._series: list[bytes] = []
        self._samples: deque[tuple[int, bytes]] = deque()
        self._newest_ms: int | None = None
        self._asked: tuple[Selector, ...] = ()
        self._index: Index | None = None
        self._indexed = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, in words."""
        return (*self._problems, *self._empty)

    @property
    def newest_ms(self) -> int | None:
        """About when the newest sample was taken; None before the first."""
        return self._newest_ms

    def refresh(self) -> bool:
        """Read what is new; return whether there was anything.

        Raises:
            RecordingError: the folder is not there, or is not to be read at all.
        """
        for _ in range(TRIES):
            try:
                return self._read_new()
            except (_ChangedError, FileNotFoundError):
                self._forget()
            except OSError as cause:
                raise RecordingError(
                    f"{cause.filename or self._folder}: cannot be read: {cause.strerror}"
                ) from cause
        if not self._folder.is_dir():
            raise RecordingError(
                f"{self._folder}: no recording here; the job has not copied one yet, "
                "or the run was removed"
            )
        return False  # it is being replaced just now

    def _read_new(self) -> bool:
        problems: list[str] = []
        files = list(log_files(self._folder / "wal", problems))
        self._note(problems)
        grown = False
        for path, last in files:
            checkpoint, number = _names(path)
            if checkpoint is not None and checkpoint <= self._last_segment:
                continue  # made of segments that have been read
            if self._read_file(path, last=last):
                grown = True
            if checkpoint is None:
                self._last_segment = number
        there = {path for path, _ in files}
        self._read_to = {path: end for path, end in self._read_to.items() if path in there}
        return grown

    def _read_file(self, path: Path, *, last: bool) -> bool:
        begin = self._read_to.get(path, 0)
        size = path.stat().st_size
        if size < begin:
            raise _ChangedError
        if size == begin:
            return False
        damage = Damage()
        end = begin
        with path.open("rb") as file:
            for record, after in records_of(file, damage, begin):
                self._keep(record, damage)
                end = after
        if damage.severe:
            if begin:
                raise _ChangedError  # perhaps it was written anew
            end = damage.size
            self._note([f"wal/{path.name} {text}" for text in damage.words(last=last)])
        self._read_to[path] = end
        return end > begin

    def _keep(self, record: bytes, damage: Damage) -> None:
        if describes_series(record):
            self._series.append(record)
            return
        try:
            first_ms = first_sample_ms(record)
        except IndexError:
            damage.add("a record that ends too early")
            return
        if first_ms is None:
            return
        self._samples.append((first_ms, record))
        self._newest_ms = max(first_ms, self._newest_ms or first_ms)
        while self._samples and self._samples[0][0] < self._newest_ms - self._keep_ms:
            self._samples.popleft()

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        """Return what is kept of every series that a selector matches."""
        wanted = Wanted(selectors)
        if self._index is None or self._asked != tuple(selectors):
            self._asked, self._index, self._indexed = tuple(selectors), Index(wanted), 0
        for record in self._series[self._indexed :]:
            self._take(self._index, record)
        self._indexed = len(self._series)
        reader = Reader(wanted, span, self._index)
        for _, record in self._samples:
            self._take(reader, record)
        log = reader.finish()
        series = joined(log.pieces)
        self._note(log.problems)
        if span is not None:
            series = within(series, span)
        self._empty = () if series else (f"{self._folder} {NO_SAMPLE}",)
        return series

    def _take(self, taker: Index | Reader, record: bytes) -> None:
        try:
            taker.take(record)
        except (DamagedError, IndexError, ValueError) as cause:
            self._note([f"wal: {cause}"])

    def _note(self, problems: Sequence[str]) -> None:
        self._problems.extend(one for one in problems if one not in self._problems)


class _ChangedError(Exception):
    """What was read is not there any more."""


def _names(path: Path) -> tuple[int | None, int]:
    """Return the number of the checkpoint that a file is in, if any, and its own."""
    folder = path.parent.name
    inside = int(folder.partition(".")[2]) if folder.startswith("checkpoint.") else None
    return inside, int(path.name)
