"""Requests of Prometheus's remote write 1.0, without a protobuf or snappy library.

The labels are encoded once; every request is the same bytes with other values and another time.
https://prometheus.io/docs/specs/prw/remote_write_spec/ and google/snappy, format_description.txt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

TIME_BYTES = 6
"""Of a varint that holds milliseconds since the epoch, from 2004 to 2109."""


class Requests:
    """Makes a request with one sample for each of some series.

    Args:
        labels: All labels of each series.
    """

    headers: Mapping[str, str] = {
        "Content-Encoding": "snappy",
        "Content-Type": "application/x-protobuf",
        "X-Prometheus-Remote-Write-Version": "0.1.0",
    }

    def __init__(self, labels: Sequence[Mapping[str, str]]) -> None:
        body = bytearray()
        values, times = [], []
        for of_series in labels:
            encoded = b"".join(_label(*pair) for pair in sorted(of_series.items()))
            # Sample: field 1 a double, field 2 a varint.
            sample = b"\x09" + bytes(8) + b"\x10" + bytes(TIME_BYTES)
            series = encoded + _field(2, sample)
            body += _field(1, series)
            times.append(len(body) - TIME_BYTES)
            values.append(len(body) - TIME_BYTES - 1 - 8)
        self.series = len(labels)
        self._body = np.frombuffer(bytes(body), np.uint8).copy()
        self._values = np.array(values)[:, None] + np.arange(8)
        self._times = np.array(times)[:, None] + np.arange(TIME_BYTES)
        # One literal with a length of four bytes: valid snappy that compresses nothing.
        length = len(body)
        self._head = _varint(length) + b"\xfc" + (length - 1).to_bytes(4, "little")

    def body(self, time_ms: int, values: npt.NDArray[np.float64]) -> bytes:
        """Return the request for all series at one time."""
        self._body[self._values] = values.astype("<f8").view(np.uint8).reshape(-1, 8)
        self._body[self._times] = np.frombuffer(_varint(time_ms), np.uint8)
        return self._head + self._body.tobytes()


def _label(name: str, value: str) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
