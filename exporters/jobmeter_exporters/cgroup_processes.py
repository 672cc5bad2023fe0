"""The processes of a job, from the lists of its groups."""

from __future__ import annotations

from typing import NamedTuple

from jobmeter_exporters import kernel_text
from jobmeter_exporters.open_files import Read

MOST_LISTS = 48
"""Lists read in one scrape, at 10 (v2) to 40 µs (v1) each: those of 128 tasks cost too much."""

SEEN_LISTS = 16
"""Of those, when they are more, how many are of groups that have been looked at before."""


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
    """Reads ``cgroup.procs``: of all groups where they are few, else of new ones, and in turns.

    Args:
        read: Reads a file that will be read at the next scrape too.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._seen: dict[str, None] = {}  # those looked at longest ago are first

    def read(self, groups: list[str]) -> Processes:
        """Return the processes of ``groups``, those of groups below them not included."""
        chosen = self._choose(groups)
        by_group = {}
        read = self._read if chosen is groups else kernel_text.read
        for group in chosen:
            text = read(f"{group}/cgroup.procs")
            if text is not None:
                by_group[group] = [int(word) for word in text.split() if word.isdecimal()]
        return Processes(chosen, by_group, len(chosen) == len(groups))

    def _choose(self, groups: list[str]) -> list[str]:
        if len(groups) <= MOST_LISTS:
            self._seen.clear()
            return groups
        there = set(groups)
        new = [group for group in groups if group not in self._seen]
        seen = [group for group in self._seen if group in there]
        chosen = new[: MOST_LISTS - SEEN_LISTS] + seen[:SEEN_LISTS]
        self._seen = dict.fromkeys([*seen[SEEN_LISTS:], *chosen])
        return chosen
