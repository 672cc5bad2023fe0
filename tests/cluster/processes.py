"""Processes by PID namespace, as the machine outside sees them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

PROC = Path("/proc")


def in_namespaces(names: Collection[str]) -> dict[int, str]:
    """Return pid and command line of all processes in PID namespaces such as ``pid:[4026532]``.

    Zombies are left out: for a test that has killed a process, it is gone.
    """
    found = {}
    for pid in _pids():
        try:
            if str((PROC / str(pid) / "ns" / "pid").readlink()) in names:
                command = (PROC / str(pid) / "cmdline").read_bytes()
                if command:
                    found[pid] = command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended while we looked
    return found


def first_of_namespace(name: str) -> int | None:
    """Return the pid, outside, of the process that is pid 1 inside."""
    for pid in in_namespaces({name}):
        try:
            status = (PROC / str(pid) / "status").read_text()
        except OSError:
            continue
        inside = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        if inside.split()[-1] == "1":
            return pid
    return None


def _pids() -> Iterator[int]:
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            yield int(entry.name)
