"""edges/: the raw expositions fetched at the boundaries of a phase.

Each boundary has a folder with one text file per target that answered and ``fetches.jsonl``, one
line per target that was asked. The times are those of the first node's clock just before and just
after the fetch: what the exposition says was true at some moment between them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FETCHES = "fetches.jsonl"


@dataclass(frozen=True)
class EdgeFetch:
    """One target asked at one boundary.

    Args:
        node: Node of the target, as in its ``node`` label.
        service: The target's ``service`` label.
        before_ms: Milliseconds since the epoch when the fetch began.
        after_ms: The same when it was complete.
        status: ``ok``; ``left`` for the last exposition that a payload left in
            ``$JOBMETER_FINAL_METRICS`` before it ended; anything else is a failure in words.
        path: The exposition, present only for ``ok`` and ``left``.
    """

    node: str
    service: str
    before_ms: int
    after_ms: int
    status: str
    path: Path

    @property
    def left(self) -> bool:
        """Whether it is what a payload left behind."""
        return self.status == "left"

    @property
    def usable(self) -> bool:
        """Whether there is an exposition to read."""
        return self.status in ("ok", "left")


def read_fetches(folder: Path) -> tuple[EdgeFetch, ...]:
    """Return what was asked at one boundary; nothing for a boundary that was never reached.

    Lines that a killed job left torn are passed over: their target counts as not asked.
    """
    index = folder / FETCHES
    if not index.exists():
        return ()
    fetches = []
    for line in index.read_text(errors="replace").splitlines():
        try:
            data = json.loads(line)
            fetches.append(
                EdgeFetch(
                    node=str(data["node"]),
                    service=str(data["service"]),
                    before_ms=int(data["before_ms"]),
                    after_ms=int(data["after_ms"]),
                    status=str(data["status"]),
                    path=folder / Path(str(data["file"])).name,
                )
            )
        except (ValueError, KeyError, TypeError):
            continue
    return tuple(fetches)
