"""The processes of a job, from the lists of its groups."""

from __future__ import annotations

from typing import NamedTuple

from jobmeter_exporters import kernel_text

MOST_LISTS = 48
"""Lists read in one scrape: at 10 (v2) to 35 µs (v1) each, those of 128 tasks would cost it all."""


class Processes(NamedTuple):
    """What one scrape has found out.

    Args:
        looked_at: The groups whose lists were asked for.
        by_group: Process ids by group, of those that have a list.
        complete: Whether all groups were looked at.
    """

    looked_at: list[str]
    by_group: dict[str, list[int]]
    complete: bool

    @property
    def total(self) -> float | None:
        """How many there are; None if a list is missing, or no group has one."""
        if not self.complete or not self.by_group:
            return None
        return float(sum(map(len, self.by_group.values())))


class ProcessLists:
    """Reads ``cgroup.procs``: of all groups where they are few, else of some in turns."""

    def __init__(self) -> None:
        self._next = 0

    def read(self, groups: list[str]) -> Processes:
        """Return the processes of ``groups``, those of groups below them not included."""
        begin = self._next if len(groups) > MOST_LISTS and self._next < len(groups) else 0
        chosen = groups[begin : begin + MOST_LISTS]
        self._next = begin + len(chosen)
        by_group = {}
        for group in chosen:
            text = kernel_text.read(f"{group}/cgroup.procs")
            if text is not None:
                by_group[group] = [int(word) for word in text.split() if word.isdecimal()]
        return Processes(chosen, by_group, len(chosen) == len(groups))
