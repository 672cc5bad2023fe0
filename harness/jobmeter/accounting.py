"""accounting.json: what Slurm says of one attempt.

Slurm forgets, and the analysis may run on another machine, so what it said is kept beside the
recording. ``jobmeter.slurm`` asks, this module owns the file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from jobmeter.manifest import write_atomically

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class JobAccounting:
    """One Slurm job at its last known state.

    Args:
        job_id: As Slurm prints it.
        state: Slurm's word without its decorations (``CANCELLED by 1000`` is ``CANCELLED``).
        final: Whether the state can still change.
        source: Which command said so.
        exit_code: Of the batch script; None while unknown.
        elapsed_s: Seconds between start and end; None while unknown.
        start_s: Start, seconds since the epoch.
        end_s: End, seconds since the epoch.
        max_rss_bytes: Largest resident set of any task of any step, None when no step reported one.
        total_cpu_s: CPU seconds (user and system) of all steps.
    """

    job_id: str
    state: str
    final: bool
    source: str
    exit_code: int | None = None
    elapsed_s: float | None = None
    start_s: int | None = None
    end_s: int | None = None
    max_rss_bytes: int | None = None
    total_cpu_s: float | None = None


def write_accounting(accounting: JobAccounting, path: Path) -> None:
    """Write accounting.json."""
    data = {"schema_version": SCHEMA_VERSION, **asdict(accounting)}
    write_atomically(json.dumps(data, indent=2) + "\n", path)


def read_accounting(path: Path) -> JobAccounting | None:
    """Read accounting.json; None when there is none that this version understands.

    Accounting is joined, never required: a damaged file counts as absent and is asked for again.
    """
    try:
        data = json.loads(path.read_text())
        if data.pop("schema_version") != SCHEMA_VERSION:
            return None
        return JobAccounting(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
