"""submitted.json: the number that Slurm gave to a run, before there is anything else of it."""

from __future__ import annotations

import json
from pathlib import Path

from jobmeter.files import write_atomically

SCHEMA_VERSION = 1


def write_submission(job_id: str, path: Path) -> None:
    """Write submitted.json."""
    data = {"schema_version": SCHEMA_VERSION, "job_id": job_id}
    write_atomically(json.dumps(data) + "\n", path)


def read_submission(path: Path) -> str | None:
    """Return the job id; None when nobody wrote it, or it cannot be read."""
    try:
        data = json.loads(path.read_text())
        return str(data["job_id"]) if data["schema_version"] == SCHEMA_VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
