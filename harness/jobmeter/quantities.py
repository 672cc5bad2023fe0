"""Durations, times and large numbers as people write them.

``5s`` and ``250ms`` are ours; ``1-00:00:00`` and ``90`` (minutes) are Slurm's; ``8B`` and ``989T``
are those of model cards and data sheets.
"""

from __future__ import annotations

import math
import re
from datetime import datetime

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def duration_s(text: str) -> float:
    """Return seconds from a number with a unit.

    Raises:
        ValueError: no number, no unit, or not above zero.

    >>> duration_s("250ms")
    0.25
    >>> duration_s("2m")
    120.0
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text)
    if match is None or match[2] not in _UNITS_S:
        raise ValueError(
            f"{text!r} is not a duration; write a number with ms, s, m or h, as in '5s'"
        )
    seconds = float(match[1]) * _UNITS_S[match[2]]
    if seconds <= 0:
        raise ValueError(f"{text!r} must be longer than nothing")
    return seconds


_SLURM_TIMES = (
    r"(?P<minutes>\d+)",
    r"(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
)


def slurm_time_s(text: str) -> int:
    """Return seconds from a time limit as sbatch reads it.

    https://slurm.schedmd.com/sbatch.html#OPT_time

    Raises:
        ValueError: none of sbatch's six forms, or zero (which Slurm reads as "no limit").

    >>> slurm_time_s("01:30:00"), slurm_time_s("90"), slurm_time_s("1-12")
    (5400, 5400, 129600)
    """
    for form in _SLURM_TIMES:
        match = re.fullmatch(form, text.strip())
        if match is not None:
            part = {name: int(value) for name, value in match.groupdict().items()}
            seconds = (
                part.get("days", 0) * 86400
                + part.get("hours", 0) * 3600
                + part.get("minutes", 0) * 60
                + part.get("seconds", 0)
            )
            if seconds == 0:
                raise ValueError(f"{text!r} is no time at all; write at least 00:01:00")
            return seconds
    raise ValueError(f"{text!r} is not a time limit; write hours:minutes:seconds, as in '01:30:00'")


_BINARY_MB = {"k": 1 / 1024, "m": 1, "": 1, "g": 1024, "t": 1024**2, "p": 1024**3}


def slurm_memory_mb(text: str) -> int:
    """Return megabytes of 2^20 bytes, rounded up, from a size as sbatch reads it.

    https://slurm.schedmd.com/sbatch.html#OPT_mem

    Raises:
        ValueError: no whole number, another letter, or zero (by which Slurm means all of a node).

    >>> slurm_memory_mb("4000"), slurm_memory_mb("480G"), slurm_memory_mb("1GB")
    (4000, 491520, 1024)
    """
    match = re.fullmatch(r"(\d+)([kmgtp]?)(?:i?b)?", text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise ValueError(
            f"{text!r} is not an amount of memory; write a number with M, G or T, as in '480G'"
        )
    return math.ceil(int(match[1]) * _BINARY_MB[match[2]])


def slurm_memory(megabytes: int) -> str:
    """Return a size as sbatch reads it, in the largest unit that it is whole in.

    >>> slurm_memory(491520), slurm_memory(4000)
    ('480G', '4000M')
    """
    for unit in ("T", "G"):
        if megabytes and megabytes % _BINARY_MB[unit.lower()] == 0:
            return f"{megabytes // int(_BINARY_MB[unit.lower()])}{unit}"
    return f"{megabytes}M"


def slurm_time(seconds: int) -> str:
    """Return a time limit in sbatch's longest form.

    >>> slurm_time(5400), slurm_time(6 * 86400)
    ('01:30:00', '6-00:00:00')
    """
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def time_ms(text: str) -> int:
    """Return milliseconds since the epoch from seconds since then, or from ISO 8601.

    Raises:
        ValueError: neither, without a zone, or none of this age, such as milliseconds.

    >>> time_ms("1769860800.5"), time_ms("2026-01-31T13:00:00+01:00"), time_ms("1970-01-01T00:00Z")
    (1769860800500, 1769860800000, 0)
    """
    try:
        seconds = float(text)
    except ValueError:
        return _calendar_ms(text)
    if not 0 <= seconds < 1e11:
        raise ValueError(f"{text!r} is no time in seconds since 1970; milliseconds?")
    return round(seconds * 1000)


def _calendar_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as cause:
        raise ValueError(
            f"{text!r} is no time; write epoch seconds, or 2026-01-31T12:00:00+01:00"
        ) from cause
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; append +00:00 or Z")
    return round(moment.timestamp() * 1000)


_MULTIPLES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


def large_number(text: str | float) -> float:
    """Return a number above zero that may end in k, M, G or B (billion), T, P, E.

    Raises:
        ValueError: no number, another letter, or not above zero.

    >>> large_number("7B"), large_number("989.5T"), large_number(3)
    (7000000000.0, 989500000000000.0, 3.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([kMGBTPE]?)\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise ValueError(
            f"{text!r} is not a number above zero; write one that may end in k, M, B, T or P, "
            "as in '7B'"
        )
    return float(match[1]) * _MULTIPLES[match[2]]
