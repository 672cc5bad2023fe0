"""Numbers as Markdown."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; every column but the first is aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def spread(values: Sequence[float], digits: int = 2) -> list[str]:
    """Return minimum, median and maximum as cells."""
    chosen = (min(values), statistics.median(values), max(values))
    return [f"{value:,.{digits}f}" for value in chosen]


def progress(text: str) -> None:
    """Say what is going on, beside the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
