"""Reads the write-ahead log of a Prometheus: what is not in a block yet, often a whole job.

The format is that of Prometheus 2.11 to 3.x (``tsdb/docs/format/wal.md`` and ``tsdb/record`` of the
Prometheus sources): segments of pages of 32 KiB, records in fragments with a CRC-32C each, plain or
compressed with snappy or zstd. Native histograms, exemplars and metadata are passed over.

What makes it fast is that the scrapes of one target are written alike: the same series in the
same order, so that two records of it differ in their time and their values alone. Where the values
lie is found out once; records are compared with that layout, and the values of many records are
copied as columns. A record that fits no layout is decoded by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobmeter.window import Window
from jobmeter_analysis.recording import LabelKey, Pieces, Shared, Times, Values, Wanted

PAGE_BYTES = 32 * 1024
_CHUNK_BYTES = 32 * PAGE_BYTES
HEADER_BYTES = 7
_PAGE_END, _FULL, _FIRST, _MIDDLE, _LAST = range(5)
_SNAPPY, _ZSTD, _RESERVED = 0x08, 0x10, 0xE0
_SERIES, _SAMPLES, _TOMBSTONES, _SAMPLES_V2 = 1, 2, 3, 11
_HISTOGRAMS = frozenset((7, 8, 9, 10, 12, 13))
_PASSED_OVER = frozenset((4, 5, 6)) | _HISTOGRAMS  # exemplars, markers of chunks, metadata
_UNWANTED, _UNKNOWN = -1, -2
_V1_BODY = 17  # type, first reference, first time

_BINNED_BYTES = 512 * 2**20
"""Of records that wait: so many come together only when hardly any is like another."""
_BIN_BYTES = 8 * 2**20
_BIN_ROWS = range(16, 129)
"""Least and most records of a bin: more make longer columns, and cost memory."""
_CACHED_BYTES = 256 * 1024
_LEAST_ALIKE = 3
"""Fewer records of one layout are decoded one by one."""
_MOST_LAYOUTS = 64
"""Of one length and first series; what fits none of so many is decoded one by one."""
_APPEND_REACH_MS = 3_600_000
"""How far a sample can lie from the first one of its record: half of a block of two hours."""

_Bytes = npt.NDArray[np.uint8]
_Ints = npt.NDArray[np.int64]


class DamagedError(Exception):
    """A record that is not what the format says."""


@dataclass
class Log:
    """What a log holds of the series asked for.

    Args:
        pieces: Samples by label set, staleness markers among them; several pieces of one series
            where it was written in several ways.
        problems: What could not be read, in words.
        useless: Whether it is damaged and holds no record at all.
    """

    pieces: Pieces = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    useless: bool = False


def read_log(folder: Path, wanted: Wanted, span: Window | None = None) -> Log:
    """Read the logs of a data folder.

    Args:
        folder: The data folder; its ``wal``, and its ``wbl`` with samples that came late.
        wanted: Which series.
        span: Samples outside may be left out; None reads all.
    """
    reader = Reader(wanted, span)
    for name in ("wal", "wbl"):
        log = folder / name
        if log.is_dir():
            for path, last in log_files(log, reader.problems):
                reader.read(path, log.parent, last=last)
    return reader.finish()


def log_files(log: Path, problems: list[str]) -> Iterator[tuple[Path, bool]]:
    """Give the files of a log in order, and whether a file is the one being written.

    Only the last checkpoint counts, and segments up to its number are in it.
    """
    checkpoints = sorted(
        (int(path.suffix[1:]), path)
        for path in log.glob("checkpoint.*")
        if path.suffix[1:].isdigit()
    )
    segments = _segments(log)
    before = -1
    if checkpoints:
        before, checkpoint = checkpoints[-1]
        yield from ((path, False) for _, path in _segments(checkpoint))
        segments = [one for one in segments if one[0] > before]
    for number, path in segments:
        if number != before + 1 and (before >= 0 or log.name == "wal"):
            problems.append(
                f"{log.name}: segments {before + 1} to {number - 1} of the log are missing"
            )
        before = number
        yield path, path == segments[-1][1]


def _segments(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdigit())


class Index:
    """Which series the references of a log mean, as far as they are asked for.

    Args:
        wanted: Which series are.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.series: dict[int, int] = {}
        """Number of the wanted series by reference, or ``_UNWANTED``."""
        self.numbers: dict[LabelKey, int] = {}

    def take(self, record: bytes) -> None:
        """Read a record of series.

        Raises:
            DamagedError: it ends too early.
        """
        at, end = 1, len(record)
        series = self.series
        while at < end:
            ref = int.from_bytes(record[at : at + 8], "big")
            count, at = _varint(record, at + 8)
            texts = []
            for _ in range(2 * count):
                length = record[at]
                at += 1
                if length > 0x7F:
                    length, at = _varint(record, at - 1)
                texts.append(record[at : at + length])
                at += length
            if at > end:
                raise DamagedError("a record of series that ends too early")
            if ref not in series:
                series[ref] = self._number(texts)

    def _number(self, texts: list[bytes]) -> int:
        """Return the number of a label set that is asked for."""
        of_name = texts.index(b"__name__") + 1 if b"__name__" in texts else 0
        name = texts[of_name].decode(errors="replace") if of_name else ""
        if not self._wanted.name_may_match(name):
            return _UNWANTED
        words = [text.decode(errors="replace") for text in texts]
        labels = dict(zip(words[::2], words[1::2], strict=True))
        if not self._wanted(name, labels):
            return _UNWANTED
        return self.numbers.setdefault(tuple(sorted(labels.items())), len(self.numbers))


class Reader:
    """Takes records in, gives series out.

    Args:
        wanted: Which series.
        span: Samples outside may be left out; None for all.
        index: What is known of the series already.
    """

    def __init__(self, wanted: Wanted, span: Window | None, index: Index | None = None) -> None:
        self._span = span
        self._index = index or Index(wanted)
        self._series, self._numbers = self._index.series, self._index.numbers
        self._bins: dict[tuple[bytes, int], _Bin] = {}
        self._binned = 0
        self._layouts: dict[tuple[bytes, int], list[_Layout]] = {}
        self._loose = _Loose()
        self._tombstones: dict[int, list[tuple[int, int]]] = {}
        self._strangers = 0
        self._records = 0
        self._damaged = False
        self.problems: list[str] = []

    def read(self, path: Path, root: Path, *, last: bool) -> None:
        """Read one segment; ``last`` is the one that Prometheus was writing."""
        name = path.relative_to(root)
        damage = Damage()
        try:
            with path.open("rb") as file:
                self._take(file, damage)
        except OSError as cause:
            self.problems.append(f"{name} cannot be read: {cause.strerror}")
        self.problems.extend(f"{name} {text}" for text in damage.words(last=last))
        self._damaged |= damage.severe

    def _take(self, file: BinaryIO, damage: Damage) -> None:
        for record, _ in records_of(file, damage):
            try:
                self.take(record)
            except (DamagedError, IndexError, ValueError) as cause:
                damage.add(str(cause))

    def take(self, record: bytes) -> None:
        """Take one record.

        Raises:
            DamagedError: it is not what the format says; so may IndexError and ValueError.
        """
        kind = record[0] if record else 0
        self._records += 1
        if kind == _SAMPLES:
            self._take_samples(record, record[:9])
        elif kind == _SERIES:
            self._index.take(record)
        elif kind == _SAMPLES_V2:
            self._take_samples(record, record[: 1 + _varint_length(record, 1)])
        elif kind == _TOMBSTONES:
            self._take_tombstones(record)
        elif kind not in _PASSED_OVER:
            raise DamagedError(f"a record of unknown type {kind}")

    def _take_samples(self, record: bytes, start: bytes) -> None:
        if self._span is not None and not _may_reach(record, self._span):
            return
        length = len(record)
        key = (start, length)
        found = self._bins.get(key)
        if found is None:
            found = self._bins[key] = _Bin(length)
        if found.add(record):
            self._binned += length
            if self._binned > _BINNED_BYTES:
                self._lay_out()
        else:
            self._sort_in(key, found.matrix())
            found.empty()
            found.add(record)

    def _take_tombstones(self, record: bytes) -> None:
        at = 1
        while at < len(record):
            ref = int.from_bytes(record[at : at + 8], "big")
            first, at = _signed_varint(record, at + 8)
            last, at = _signed_varint(record, at)
            number = self._series.get(ref, _UNKNOWN)
            if number >= 0:
                self._tombstones.setdefault(number, []).append((first, last))

    def _lay_out(self) -> None:
        """Copy what is wanted of the records that wait."""
        bins, self._bins, self._binned = self._bins, {}, 0
        for key, waiting in bins.items():
            self._sort_in(key, waiting.matrix())

    def _sort_in(self, key: tuple[bytes, int], matrix: _Bytes) -> None:
        layouts = self._layouts.setdefault(key, [])
        for layout in layouts:
            matrix = self._fill(layout, matrix)
            if not len(matrix):
                return
        while len(matrix):
            try:
                refs, deltas, offsets = _decoded(matrix[0])
            except DamagedError as cause:
                self.problems.append(f"a record of samples cannot be decoded: {cause}")
                matrix = matrix[1:]
                continue
            numbers = np.array([self._series.get(ref, _UNKNOWN) for ref in refs.tolist()], np.int64)
            if len(matrix) >= _LEAST_ALIKE and len(layouts) < _MOST_LAYOUTS:
                layout = _Layout(matrix[0], deltas, offsets, numbers)
                if np.count_nonzero(layout.fits(matrix)) >= _LEAST_ALIKE:
                    layouts.append(layout)
                    matrix = self._fill(layout, matrix)
                    continue
            self._strangers += int(np.count_nonzero(numbers == _UNKNOWN))
            kept = numbers >= 0
            self._loose.add(numbers[kept], deltas[kept], offsets[kept], matrix[0])
            matrix = matrix[1:]

    def _fill(self, layout: _Layout, matrix: _Bytes) -> _Bytes:
        """Give the rows that fit to the layout, and return the rest."""
        alike = layout.fits(matrix)
        if alike.all():
            layout.add(matrix, self._span)
            self._strangers += len(matrix) * layout.strangers
            return matrix[:0]
        if alike.any():
            layout.add(matrix[alike], self._span)
            self._strangers += int(np.count_nonzero(alike)) * layout.strangers
        return matrix[~alike]

    def finish(self) -> Log:
        """Return everything that was read."""
        self._lay_out()
        parts: list[list[tuple[Times, Values]]] = [[] for _ in self._numbers]
        for of_key in self._layouts.values():
            while of_key:
                of_key.pop(0).hand_out(parts)
        self._loose.hand_out(parts, self._span)
        for number, intervals in self._tombstones.items():
            parts[number] = without(parts[number], intervals)
        log = Log(problems=self.problems, useless=self._damaged and not self._records)
        log.pieces = {
            key: of_key for key, of_key in zip(self._numbers, parts, strict=True) if of_key
        }
        if self._strangers:
            log.problems.append(
                f"the log holds {self._strangers} samples of series that it does not describe"
            )
        return log


class _Bin:
    """Records of one length that wait: the first ones as they are, then in one block of memory.

    The block is used again and again. New memory for each record costs more than decoding it.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._first: list[bytes] = []
        self._block = bytearray()
        self._used = 0

    def add(self, record: bytes) -> bool:
        """Take a record; False when there is no room, and it was not taken."""
        used = self._used
        end = used + self._length
        if end <= len(self._block):
            self._block[used:end] = record
            self._used = end
            return True
        if self._block:
            return False
        self._first.append(record)
        if len(self._first) > _LEAST_ALIKE:
            rows = min(_BIN_ROWS[-1], max(_BIN_ROWS[0], _BIN_BYTES // self._length))
            self._block = bytearray(rows * self._length)
            first, self._first = self._first, []
            for one in first:
                self.add(one)
        return True

    def matrix(self) -> _Bytes:
        """Return the records as rows: a view, good until the next call of another method."""
        if self._first:
            whole = np.frombuffer(b"".join(self._first), np.uint8)
        else:
            whole = np.frombuffer(self._block, np.uint8)[: self._used]
        return whole.reshape(-1, self._length)

    def empty(self) -> None:
        """Make room for other records."""
        self._used = 0
        self._first.clear()


class _Layout:
    """What records of one kind have in common, and the columns copied out of them."""

    def __init__(
        self,
        pattern: _Bytes,
        deltas: _Ints,
        offsets: _Ints,
        numbers: _Ints,
    ) -> None:
        self._pattern = pattern.copy()
        self._mask = np.full(len(pattern), 0xFF, np.uint8)
        for byte in range(8):
            self._mask[offsets + byte] = 0
        self._time = _time_bytes(pattern)
        # The length of a time that is a varint stays: its continuation bits belong to the layout.
        self._mask[self._time] = 0 if pattern[0] == _SAMPLES else 0x80
        self._pattern &= self._mask
        self.strangers = int(np.count_nonzero(numbers == _UNKNOWN))
        """Samples in each record whose series is not known."""
        kept = numbers >= 0
        self._numbers: list[int] = numbers[kept].tolist()
        self._deltas: list[int] = deltas[kept].tolist()
        self._runs = _runs(offsets[kept])
        self._times: list[Times] = []
        self._values: list[Values] = []

    def fits(self, matrix: _Bytes) -> npt.NDArray[np.bool_]:
        """Return which rows are of this layout."""
        rows, length = matrix.shape
        alike = np.empty(rows, np.bool_)
        step = max(1, _CACHED_BYTES // length)
        scratch = np.empty((step, length), np.uint8)
        for begin in range(0, rows, step):
            part = matrix[begin : begin + step]
            masked = scratch[: len(part)]
            np.bitwise_and(part, self._mask, out=masked)
            np.bitwise_xor(masked, self._pattern, out=masked)
            if masked.max():
                alike[begin : begin + step] = masked.max(axis=1) == 0
            else:
                alike[begin : begin + step] = True
        return alike

    def add(self, matrix: _Bytes, span: Window | None) -> None:
        """Take the wanted columns of rows that fit."""
        if self._numbers:
            times, values = self._columns(matrix, span)
            self._times.append(times)
            self._values.append(values)

    def _columns(self, matrix: _Bytes, span: Window | None) -> tuple[Times, Values]:
        """Return the times of the rows, and the wanted values: one row for each series."""
        times = _times(matrix[:, self._time])
        if span is not None:
            near = times + min(self._deltas) < span.end_ms
            near &= times + max(self._deltas) >= span.start_ms
            matrix, times = matrix[near], times[near]
        rows, length = matrix.shape
        values = np.empty((len(self._numbers), rows), np.uint64)
        if not values.size:
            return times, values.view(np.float64)
        matrix = np.ascontiguousarray(matrix)
        column = 0
        for first, stride, count in self._runs:
            values[column : column + count] = np.ndarray(
                (count, rows), ">u8", matrix.data, first, (stride, length)
            )
            column += count
        return times, values.view(np.float64)

    def hand_out(self, parts: list[list[tuple[Times, Values]]]) -> None:
        """Give each series its samples; series of the same times share one array of them."""
        if not self._times:
            return
        base = np.concatenate(self._times)
        if not base.size:
            return
        shifted = {delta: base + delta if delta else base for delta in set(self._deltas)}
        # Series by series: small arrays fit into memory that other layouts have given back.
        for number, delta, *rows in zip(self._numbers, self._deltas, *self._values, strict=True):
            parts[number].append((shifted[delta], np.concatenate(rows)))


class _Loose:
    """Samples of records that are like no other."""

    def __init__(self) -> None:
        self._numbers: list[_Ints] = []
        self._times: list[Times] = []
        self._values: list[Values] = []

    def add(self, numbers: _Ints, deltas: _Ints, offsets: _Ints, record: _Bytes) -> None:
        """Take samples of a record: whose, how long after the first, and where in it."""
        base = int(_times(record[None, _time_bytes(record)])[0])
        self._numbers.append(numbers)
        self._times.append(deltas + base)
        self._values.append(_big_endian(record[np.add.outer(offsets, np.arange(8))]))

    def hand_out(self, parts: list[list[tuple[Times, Values]]], span: Window | None) -> None:
        """Give each series its samples."""
        if not self._numbers:
            return
        numbers = np.concatenate(self._numbers)
        times = np.concatenate(self._times)
        values = np.concatenate(self._values)
        if span is not None:
            near = (times >= span.start_ms) & (times < span.end_ms)
            numbers, times, values = numbers[near], times[near], values[near]
        order = np.argsort(numbers, kind="stable")
        times, values = times[order], values[order]
        ends = np.cumsum(np.bincount(numbers, minlength=len(parts))).tolist()
        shared = Shared()
        begin = 0
        for of_series, end in zip(parts, ends, strict=True):
            if end > begin:
                of_series.append((shared(times[begin:end]), values[begin:end]))
            begin = end


def _big_endian(rows: _Bytes) -> Values:
    """Return the float64 whose eight bytes are the rows, bit by bit."""
    bits = np.ascontiguousarray(rows).view(">u8").reshape(-1).astype(np.uint64)
    return bits.view(np.float64)


def without(
    parts: Iterable[tuple[Times, Values]], intervals: Iterable[tuple[int, int]]
) -> list[tuple[Times, Values]]:
    """Leave out samples that were deleted: ``intervals`` are closed, in milliseconds."""
    kept = []
    for times, values in parts:
        keep = np.ones(times.size, np.bool_)
        for first, last in intervals:
            keep &= (times < first) | (times > last)
        if keep.all():
            kept.append((times, values))
        elif keep.any():
            kept.append((times[keep], values[keep]))
    return kept


def describes_series(record: bytes) -> bool:
    """Whether a record says which series a reference means."""
    return record[:1] == bytes((_SERIES,))


def first_sample_ms(record: bytes) -> int | None:
    """Return the time of the first sample of a record; None where it is no record of samples.

    Raises:
        IndexError: the record ends too early.
    """
    if len(record) <= _V1_BODY or record[0] not in (_SAMPLES, _SAMPLES_V2):
        return None
    if record[0] == _SAMPLES:
        return int.from_bytes(record[9:17], "big", signed=True)
    return _signed_varint(record, 1 + _varint_length(record, 1))[0]


def _may_reach(record: bytes, span: Window) -> bool:
    """Whether a record of samples may hold one inside the span."""
    first = first_sample_ms(record)
    if first is None:
        return True
    return span.start_ms - _APPEND_REACH_MS <= first <= span.end_ms + _APPEND_REACH_MS


def _runs(offsets: _Ints) -> list[tuple[int, int, int]]:
    """Return first offset, distance and number of values that lie at equal distances.

    >>> _runs(np.array([17, 27, 37, 48, 59, 90]))
    [(17, 10, 3), (48, 11, 2), (90, 8, 1)]
    """
    runs: list[tuple[int, int, int]] = []
    places = offsets.tolist()
    at = 0
    while at < len(places):
        end = at + 1
        stride = places[end] - places[at] if end < len(places) else 8
        while end < len(places) and places[end] - places[end - 1] == stride:
            end += 1
        if end - at == 1:
            stride = 8
        runs.append((places[at], stride, end - at))
        at = end
    return runs


def _time_bytes(record: _Bytes) -> slice:
    """Return where the time of a record's first sample lies."""
    if record[0] == _SAMPLES:
        return slice(9, 17)
    raw = record[:21].tobytes()
    start = 1 + _varint_length(raw, 1)
    return slice(start, start + _varint_length(raw, start))


def _times(columns: _Bytes) -> Times:
    """Return the times whose bytes are the rows of ``columns``: eight bytes, or a varint."""
    if columns.shape[1] == 8:
        return np.ascontiguousarray(columns).view(">i8").reshape(-1).astype(np.int64)
    number = np.zeros(len(columns), np.uint64)
    for byte in range(columns.shape[1]):
        number |= (columns[:, byte] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * byte)
    return _unfolded(number)


def _unfolded(number: npt.NDArray[np.uint64]) -> _Ints:
    """Undo the folding of signed numbers into unsigned ones: 0, 1, 2, 3 are 0, -1, 1, -2."""
    half = (number >> np.uint64(1)).astype(np.int64)
    signed: _Ints = half ^ -(number & np.uint64(1)).astype(np.int64)
    return signed


def _decoded(record: _Bytes) -> tuple[_Ints, _Ints, _Ints]:
    """Return reference, time after the first and place of the value of each sample of a record.

    Where a sample begins is known only when the one before has been read, but where it would end
    is found for all bytes at once, so that what is left is following a chain.

    Raises:
        DamagedError: it is no record of samples.
    """
    length = len(record)
    places = np.arange(length + 1)
    ends = np.full(length + 24, length + 8, np.int64)
    """Place after the varint that begins at a byte; beyond the record where there is none."""
    last = np.flatnonzero(record < 0x80)
    ends[:length] = np.append(last + 1, length + 8)[np.searchsorted(last, places[:length])]
    newer = record[0] == _SAMPLES_V2
    after = ends[np.minimum(ends, length)]  # two varints: reference and time
    if newer:
        marks = np.append(record, np.zeros(32, np.uint8))[np.minimum(after, length)]
        after = np.where(marks < 2, after + 1, ends[np.minimum(after + 1, length)])
    chain = (np.minimum(after, length + 8) + 8)[: length + 1].tolist()
    begin = 1 if newer else _V1_BODY
    starts = []
    at = begin
    if newer and length > 1:  # reference, time and start time, all three as they are
        starts.append(at)
        third = int(ends[min(int(ends[min(int(ends[at]), length)]), length)])
        at = third + 8
    while at < length:
        starts.append(at)
        at = chain[at]
    if at != length and length > 1:
        raise DamagedError("samples that end too early")
    first = np.array(starts, np.int64)
    refs, second = _varints(record, first, ends)
    deltas, third_at = _varints(record, second, ends)
    if not newer:
        base = int.from_bytes(record[1:9].tobytes(), "big")
        if base >= 1 << 63:
            raise DamagedError("a reference out of range")
        return refs + base, deltas, third_at
    offsets = np.append(first[1:], length) - 8
    if deltas.size:
        deltas[0] = 0
    return np.cumsum(refs), deltas, offsets


def _varints(record: _Bytes, starts: _Ints, ends: _Ints) -> tuple[_Ints, _Ints]:
    """Return the signed varints that begin at ``starts``, and the places after them."""
    after = ends[starts]
    lengths = after - starts
    longest = int(lengths.max()) if lengths.size else 0
    if longest > 10:
        raise DamagedError("a number that is too long")
    number = np.zeros(len(starts), np.uint64)
    for byte in range(longest):
        here = lengths > byte
        bits = (record[starts[here] + byte] & np.uint8(0x7F)).astype(np.uint64)
        number[here] |= bits << np.uint64(7 * byte)
    return _unfolded(number), after


def _varint_length(data: bytes, at: int) -> int:
    end = at
    while data[end] > 0x7F:
        end += 1
    return end + 1 - at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned varint at a place, and the place after it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _signed_varint(data: bytes, at: int) -> tuple[int, int]:
    number, at = _varint(data, at)
    return (number >> 1) ^ -(number & 1), at


class Damage:
    """What is wrong with one segment."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._torn_at: int | None = None
        self.size = 0
        """Of the segment as far as it was read."""

    def add(self, text: str, at: int | None = None) -> None:
        """Note something wrong, and at which byte."""
        self._found.append(text if at is None else f"{text} at byte {at}")

    @property
    def severe(self) -> bool:
        """Whether there is more than a cut."""
        return bool(self._found)

    def torn(self, at: int) -> None:
        """Note that the file ends inside of the record at ``at``."""
        self._torn_at = at if self._torn_at is None else min(at, self._torn_at)

    def words(self, *, last: bool) -> list[str]:
        """Return it in words; of many damages the first two."""
        words = []
        if self._found:
            more = f" and {len(self._found) - 2} more" if len(self._found) > 2 else ""
            words.append(f"is damaged, the rest of it is used: {'; '.join(self._found[:2])}{more}")
        if self._torn_at is not None:
            lost = self.size - self._torn_at
            why = ", as after a kill" if last else ", although the log goes on after it"
            words.append(f"is cut inside its last record{why}: {lost} bytes are not used")
        return words


def records_of(file: BinaryIO, damage: Damage, begin: int = 0) -> Iterator[tuple[bytes, int]]:
    """Give the records of a segment and where each ends; after damage, go on with the next page.

    A checksum covers each fragment, so that what is given is what Prometheus wrote.

    Args:
        file: The segment.
        damage: Takes what is wrong with it.
        begin: Where to begin: at the end of a record.
    """
    began = begin
    parts: list[bytes] = []
    for flags, fragment, place in _fragments(file, damage, begin):
        kind = flags & 7
        begins = kind in (_FULL, _FIRST)
        if begins:
            if parts:
                damage.add("a record without its end", began)
                parts.clear()
            began = place
        elif not parts:  # the record's beginning was lost, which has been said
            continue
        parts.append(fragment)
        if kind in (_FULL, _LAST):
            whole = fragment if kind == _FULL else b"".join(parts)
            parts.clear()
            try:
                record = _decompressed(flags, whole)
            except (DamagedError, OSError, ValueError, IndexError) as cause:
                damage.add(f"a record that cannot be decompressed ({cause})", began)
            else:
                yield record, place + HEADER_BYTES + len(fragment)
    if parts:
        damage.torn(began)


def _fragments(file: BinaryIO, damage: Damage, begin: int) -> Iterator[tuple[int, bytes, int]]:
    """Give type byte, content and place of the fragments of a segment that are whole."""
    checksum = google_crc32c.value
    skipped = begin % PAGE_BYTES
    place = begin - skipped
    file.seek(place)
    while data := file.read(_CHUNK_BYTES):
        size = len(data)
        damage.size = place + size
        at, skipped = skipped, 0
        while at < size:
            page_end = at - at % PAGE_BYTES + PAGE_BYTES
            flags = data[at]
            if flags & 7 == _PAGE_END:
                if data.count(0, at, page_end) != min(page_end, size) - at:
                    damage.add("bytes where none belong", place + at)
                at = page_end
                continue
            content = at + HEADER_BYTES
            end = content + (data[at + 1] << 8) + data[at + 2] if content <= size else content
            if size < end <= page_end:
                damage.torn(place + at)
                return
            fragment = data[content:end]
            if (
                end > page_end
                or flags & 7 > _LAST
                or flags & _RESERVED
                or checksum(fragment) != int.from_bytes(data[at + 3 : content], "big")
            ):
                damage.add("a wrong checksum", place + at)
                at = page_end
                continue
            yield flags, fragment, place + at
            at = end
        if size < _CHUNK_BYTES:
            return
        place += size


_SNAPPY_CODEC: Any = pa.Codec("snappy")
_MOST_BYTES = 1 << 31
"""Of one record; a length beyond it comes from damage."""


def _decompressed(flags: int, record: bytes) -> bytes:
    if flags & _SNAPPY:
        length, _ = _varint(record, 0)
        if length > _MOST_BYTES:
            raise DamagedError("too long")
        return _SNAPPY_CODEC.decompress(record, length, asbytes=True)  # type: ignore[no-any-return]
    if flags & _ZSTD:
        with pa.CompressedInputStream(pa.BufferReader(record), "zstd") as stream:
            return stream.read()  # type: ignore[no-any-return]
    return record
