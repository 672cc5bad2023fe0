"""Writes a write-ahead log as Prometheus does: segments, pages, fragments, checksums.

Format: ``tsdb/docs/format/wal.md`` and ``tsdb/record`` of the Prometheus sources.
"""

from __future__ import annotations

import struct
from pathlib import Path

import google_crc32c
import pyarrow as pa

PAGE = 32 * 1024
FLAGS = {"none": 0, "snappy": 0x08, "zstd": 0x10}


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def signed(number: int) -> bytes:
    return varint((number << 1) ^ (number >> 63))


def series_record(series: dict[int, dict[str, str]]) -> bytes:
    out = bytearray(b"\x01")
    for ref, labels in series.items():
        out += struct.pack(">Q", ref) + varint(len(labels))
        for text in (text for pair in sorted(labels.items()) for text in pair):
            out += varint(len(text.encode())) + text.encode()
    return bytes(out)


def samples_record(samples: list[tuple[int, int, float]]) -> bytes:
    """Samples are reference, milliseconds, value; a value may be given as its eight bytes."""
    ref, first, _ = samples[0]
    out = bytearray(b"\x02" + struct.pack(">Qq", ref, first))
    for one, at, value in samples:
        out += signed(one - ref) + signed(at - first) + value_bytes(value)
    return bytes(out)


def samples_v2_record(samples: list[tuple[int, int, float]], starts: list[int]) -> bytes:
    """The same with start times, as Prometheus 3 writes it when asked for them."""
    before, first, value = samples[0]
    out = bytearray(b"\x0b" + signed(before) + signed(first) + signed(starts[0]))
    out += value_bytes(value)
    for number, (ref, at, value) in enumerate(samples[1:], 1):
        out += signed(ref - before) + signed(at - first)
        if starts[number] == 0:
            out += b"\x00"
        elif starts[number] == starts[number - 1]:
            out += b"\x01"
        else:
            out += b"\x02" + signed(starts[number] - starts[0])
        out += value_bytes(value)
        before = ref
    return bytes(out)


def tombstones_record(stones: list[tuple[int, int, int]]) -> bytes:
    return b"\x03" + b"".join(
        struct.pack(">Q", ref) + signed(first) + signed(last) for ref, first, last in stones
    )


def value_bytes(value: float | bytes) -> bytes:
    return value if isinstance(value, bytes) else struct.pack(">d", value)


class LogWriter:
    """Writes records into segments of a folder.

    Args:
        folder: The ``wal``, or a checkpoint in it.
        compression: ``none``, ``snappy`` or ``zstd``.
        pages: Of a segment; Prometheus has 4096.
    """

    def __init__(self, folder: Path, compression: str = "snappy", pages: int = 4096, first=0):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._compression = compression
        self._codec = pa.Codec(compression) if compression != "none" else None
        self._pages = pages
        self._number = first
        self._segment = bytearray()

    def log(self, record: bytes) -> None:
        content, flags = record, 0
        if self._codec is not None:
            smaller = self._codec.compress(record, asbytes=True)
            if len(smaller) < len(record):
                content, flags = smaller, FLAGS[self._compression]
        left = PAGE - len(self._segment) % PAGE
        if left < 7:
            self._segment += bytes(left)
        used = len(self._segment)
        pages_left = self._pages - used // PAGE - 1
        if used and len(content) > PAGE - used % PAGE - 7 + (PAGE - 7) * pages_left:
            self.cut()
        begun = False
        while True:
            room = PAGE - len(self._segment) % PAGE - 7
            part, content = content[:room], content[room:]
            kind = (3 if content else 4) if begun else (2 if content else 1)
            head = struct.pack(">BHI", kind | flags, len(part), google_crc32c.value(bytes(part)))
            self._segment += head + part
            begun = True
            if not content:
                return

    def cut(self) -> None:
        """End the segment and begin the next one."""
        if len(self._segment) % PAGE:
            self._segment += bytes(PAGE - len(self._segment) % PAGE)
        self.close()
        self._number += 1
        self._segment = bytearray()

    def close(self) -> None:
        (self._folder / f"{self._number:08d}").write_bytes(self._segment)
