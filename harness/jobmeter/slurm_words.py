"""The words in which Slurm's commands print states, times, sizes and exit codes."""

from __future__ import annotations

import re
from datetime import datetime, timezone

FINAL_STATES = frozenset(
    # https://slurm.schedmd.com/sacct.html#SECTION_JOB-STATE-CODES
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)

_UNSET = (0xFFFFFFFE, 0xFFFFFFFFFFFFFFFE)  # Slurm's NO_VAL and NO_VAL64, where they leak out


def state_from(word: str) -> str:
    """Return Slurm's state without its decorations; a word that we do not know stays as it is.

    >>> state_from("CANCELLED by 1000"), state_from("CANCELLED+"), state_from("")
    ('CANCELLED', 'CANCELLED', 'UNKNOWN')
    """
    return word.split()[0].rstrip("+") if word.strip() else "UNKNOWN"


def name_from(text: str) -> str | None:
    """Return a name; None for Slurm's many words for none.

    >>> name_from("gpu"), name_from("None assigned"), name_from("(null)"), name_from("")
    ('gpu', None, None, None)
    """
    return text if text not in ("", "None", "None assigned", "Unknown", "(null)", "N/A") else None


def count_from(text: str) -> int | None:
    """Return a count; None when there is none.

    >>> count_from("16"), count_from("1-4"), count_from("4294967294"), count_from("")
    (16, None, None, None)
    """
    return int(text) if text.isdecimal() and int(text) not in _UNSET else None


def epoch_from(text: str) -> int | None:
    """Return seconds since the epoch from what Slurm prints under SLURM_TIME_FORMAT=%s and TZ=UTC.

    >>> epoch_from("1795377499"), epoch_from("2026-11-22T19:58:19"), epoch_from("Unknown")
    (1795377499, 1795377499, None)
    """
    if text.isdecimal():
        return int(text) or None
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())
    except ValueError:
        return None


def seconds_from(text: str) -> float | None:
    """Return seconds from ``[days-[hours:]]minutes:seconds[.fraction]``; None when unreadable.

    >>> seconds_from("00:01.250"), seconds_from("1-02:03:04"), seconds_from("UNLIMITED")
    (1.25, 93784.0, None)
    """
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)", text)
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4])


def measured_seconds_from(text: str) -> float | None:
    """Return seconds of CPU time; None for a plain zero, as Slurm prints it where nobody counted.

    >>> measured_seconds_from("00:00.002"), measured_seconds_from("00:00:00")
    (0.002, None)
    """
    return seconds_from(text) or None


def bytes_from(text: str) -> int | None:
    """Return bytes from a size as Slurm prints it; None when there is none.

    >>> bytes_from("12504K"), bytes_from("1.50G"), bytes_from("0"), bytes_from("16?")
    (12804096, 1610612736, 0, None)
    """
    if text.isdecimal():  # 64 bits do not survive the way through a float
        return count_from(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTPE]?)[nc]?", text)
    if match is None:
        return None
    return int(float(match[1]) * 1024 ** " KMGTPE".index(match[2] or " "))


def tres_from(text: str) -> dict[str, int]:
    """Return trackable resources by name, sizes in bytes; what is unreadable is left out.

    >>> tres_from("cpu=32,gres/gpu:a100=4,mem=1.50G,energy=18446744073709551614")
    {'cpu': 32, 'gres/gpu:a100': 4, 'mem': 1610612736}
    """
    pairs = (entry.partition("=") for entry in text.split(","))
    amounts = ((name, bytes_from(amount)) for name, _, amount in pairs)
    return {name: amount for name, amount in amounts if name and amount is not None}


def exit_from(text: str, state: str) -> tuple[int | None, int | None]:
    """Return exit code and signal of ``code:signal``; the code is 128 + signal where one ended it.

    Slurm prints ``0:0`` also where it does not know: it is believed of what has COMPLETED.

    >>> exit_from("7:0", "FAILED"), exit_from("0:9", "FAILED"), exit_from("0:0", "TIMEOUT")
    ((7, None), (137, 9), (None, None))
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None, None
    code, signal = int(match[1]), int(match[2])
    if signal:
        return 128 + signal, signal
    return (code if code or state == "COMPLETED" else None), None


def said_last_word(state: str, end_s: int | None, qos: str) -> bool:
    """Whether the database has said its last word on one start.

    For seconds after a job's end it may know a part of it only, with a state that is wrong; it
    then calls the QOS Unknown. A start that was requeued stays REQUEUED, the next one is another.
    """
    return state in FINAL_STATES | {"REQUEUED"} and end_s is not None and qos != "Unknown"
