"""Numbers that may still be on a device."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

logger = logging.getLogger(__name__)

Number: TypeAlias = Any
"""What ``float`` takes: a number, or a tensor with one element."""

Counts: TypeAlias = Any
"""A sequence of whole numbers, or a tensor of one dimension."""


def held(value: Number) -> Number:
    """Return what is to be kept of a value until it is read.

    Of a tensor neither the graph, which holds the memory of a whole step, nor a copy on this side:
    that would wait for the device. Its number is asked for when somebody wants to know.
    """
    detach: Callable[[], Number] | None = getattr(value, "detach", None)
    return float(value) if detach is None else detach()


def read(value: Number) -> float | None:
    """Return the number, or None where it cannot be had: a device that is gone."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as problem:
        logger.debug("not a number: %r", problem)
        return None


def add(sums: Counts | None, counts: Counts) -> Counts:
    """Return ``sums`` and as many ``counts`` added up; what is on a device is added there."""
    if hasattr(counts, "detach"):
        # A copy, in 64 bits: the caller may use its buffer again, and sums grow.
        now = counts.detach().clone().long()
        return now if sums is None else sums + now
    if sums is None:
        return list(counts)
    return list(map(operator.add, sums, counts))


def read_counts(counts: Counts) -> list[float]:
    """Return them as numbers of this side."""
    values: Iterable[Any] = counts.tolist() if hasattr(counts, "tolist") else counts
    return [float(value) for value in values]
