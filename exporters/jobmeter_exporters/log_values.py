"""Numbers as logs write them, in base units."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_SECONDS: Mapping[str, float] = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1,
    "m": 60,
    "h": 3600,
}
_BYTES: Mapping[str, float] = {
    "B": 1,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", 1)},
    "KB": 1000,
}
_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ns|us|µs|μs|ms|s|m|h))+")
_DURATION_PART = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)")
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)")

Reader = Callable[[str], float]
"""Text to number; raises ValueError."""


def parse_number(text: str) -> float:
    """Return a plain number, which may have commas between thousands.

    >>> parse_number("2,097,152")
    2097152.0
    """
    if "_" in text:  # which float() takes for Python
        raise ValueError(f"{text!r} is no number")
    return float(text.replace(",", ""))


def parse_duration(text: str) -> float:
    """Return the seconds of a duration as Go writes it.

    >>> parse_duration("1h24m39s"), parse_duration("1.5ms"), parse_duration("0s")
    (5079.0, 0.0015, 0.0)
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration")
    parts = _DURATION_PART.findall(text)
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def parse_size(text: str) -> float:
    """Return the bytes of a size with its unit.

    >>> parse_size("1.5 KiB"), parse_size("0 B")
    (1536.0, 0.0)
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{text!r} is no size")
    return float(match[1]) * _BYTES[match[2]]


def _scaled(factor: float) -> Reader:
    return lambda text: parse_number(text) * factor


READERS: Mapping[str, Reader] = {
    "number": parse_number,
    "duration": parse_duration,
    "size": parse_size,
    "nanoseconds": _scaled(1e-9),
    "microseconds": _scaled(1e-6),
    "milliseconds": _scaled(1e-3),
    "seconds": parse_number,
    "minutes": _scaled(60),
    "hours": _scaled(3600),
    "percent": _scaled(1e-2),
    "kilobytes": _scaled(1e3),
    "megabytes": _scaled(1e6),
    "gigabytes": _scaled(1e9),
    "kibibytes": _scaled(2**10),
    "mebibytes": _scaled(2**20),
    "gibibytes": _scaled(2**30),
}
"""What a rule may say that a value is written in, and how it becomes seconds, bytes or a ratio."""
