"""The numbers of one client: in base units, each with its definition, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}
"""Statistics of a latency beside its mean."""

TTFT = "ttft_seconds"
ITL = "itl_seconds"
TPOT = "tpot_seconds"
E2E = "e2e_seconds"

COMPUTED = "computed from the file's value of each request"
"""What a definition ends in when the tool's file does not hold the number itself."""


@dataclass(frozen=True)
class Number:
    """One number in base units, and what exactly it is a number of."""

    value: float
    definition: str


@dataclass(frozen=True)
class ClientResults:
    """What one result file holds.

    Args:
        tool: Name of the client; empty when it is not known.
        version: Of the client, None when the file does not say.
        numbers: By KPI.
        problems: What could not be used, or must be known beside the numbers, in words.
    """

    tool: str
    version: str | None
    numbers: Mapping[str, Number]
    problems: tuple[str, ...]


def at(data: object, *path: str) -> Any:  # noqa: ANN401 - JSON
    """Return what lies at a path of keys; None when any of them is not there.

    >>> at({"a": {"b": 1}}, "a", "b"), at({"a": [1]}, "a", "b")
    (1, None)
    """
    for key in path:
        if not isinstance(data, Mapping):
            return None
        data = data.get(key)
    return data


def as_number(value: object) -> float | None:
    """Return a finite number that is not negative; None for anything else.

    >>> as_number(3), as_number(float("nan")), as_number("3"), as_number(True), as_number(10**400)
    (3.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def as_numbers(values: object) -> list[float] | None:
    """Return a list of which every entry is a number; None for anything else."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return None
    numbers = [as_number(value) for value in values]
    return [n for n in numbers if n is not None] if None not in numbers else None


def unit_of(kpi: str) -> str:
    """Return the unit that a KPI's name says.

    >>> [unit_of(kpi) for kpi in ("ttft_seconds_p95", "output_tokens_per_second", "x_total")]
    ['seconds', 'tokens/s', '1']
    """
    if kpi.endswith("_per_second"):
        return "tokens/s" if "tokens" in kpi else "1/s"
    if "_seconds" in kpi:
        return "seconds"
    return "tokens" if "_tokens_" in kpi else "1"


class Collection:
    """The numbers of one file, while it is read."""

    def __init__(self, tool: str, version: object = None) -> None:
        self.tool = tool
        self.version = version if isinstance(version, str) else None
        self.numbers: dict[str, Number] = {}
        self.problems: list[str] = []

    def add(self, kpi: str, value: object, definition: str, scale: float = 1.0) -> None:
        """Take one number; what the file leaves out is left out, what is no number is said."""
        if value is None:
            return
        number = as_number(value)
        if number is None:
            self.problems.append(f"{kpi}: {str(value)[:40]!r} is not a number")
        else:
            self.numbers[kpi] = Number(number * scale, definition)

    def add_latency(
        self, name: str, of: Mapping[str, object], definition: str, scale: float = 1.0
    ) -> None:
        """Take mean and percentiles of a latency, by statistic.

        A mean of exactly zero is how these tools write down that nothing was measured.
        """
        if of.get("mean") == 0:
            return
        for statistic in ("mean", *PERCENTILES):
            self.add(f"{name}_{statistic}", of.get(statistic), definition, scale)

    def compute_latency(self, name: str, seconds: Sequence[float], definition: str) -> None:
        """Compute what is still missing of a latency from the value of each request or gap."""
        if not seconds or not any(seconds):
            return
        values = np.asarray(seconds, dtype=np.float64)
        found = {"mean": float(values.mean())}
        found |= {key: float(np.percentile(values, rank)) for key, rank in PERCENTILES.items()}
        for statistic, value in found.items():
            self.numbers.setdefault(
                f"{name}_{statistic}", Number(value, f"{definition}; {COMPUTED}")
            )

    def results(self) -> ClientResults:
        """Return what was found."""
        return ClientResults(self.tool, self.version, dict(self.numbers), tuple(self.problems))
