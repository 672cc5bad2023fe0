"""A program of its own: what pyslurm says of the queue, as JSON on the last line.

It runs in a process of its own because libslurm ends the process, or waits for a minute, where it
finds no configuration. The line ``imported`` before tells that the controller may have been asked.

The answer has the shape of ``squeue --json`` and ``sinfo --json`` of 22.05. Attributes are read by
name and may be missing: they were renamed between releases.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

IMPORTED = "imported"

_JOB = {
    "job_state": ("state",),
    "state_reason": ("state_reason",),
    "user_id": ("user_id",),
    "array_task_string": ("array_tasks_waiting",),
    "submit_time": ("submit_time",),
    "start_time": ("start_time",),
}
_NODE = {
    "name": ("name",),
    "state": ("state",),
    "partitions": ("partitions",),
    "cpus": ("total_cpus", "cpus"),
    "alloc_cpus": ("allocated_cpus", "alloc_cpus"),
}


def read(pyslurm: Any) -> dict[str, list[dict[str, Any]]]:  # noqa: ANN401 - it has no types
    """Return the jobs and nodes that the controller knows."""
    jobs = pyslurm.Jobs.load().values()
    nodes = pyslurm.Nodes.load().values()
    return {
        "jobs": [_attributes(job, _JOB) for job in jobs],
        "nodes": [_attributes(node, _NODE) for node in nodes],
    }


def _attributes(thing: object, names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    found = {
        key: next(
            (v for v in (getattr(thing, name, None) for name in spelled) if v is not None), None
        )
        for key, spelled in names.items()
    }
    return {
        key: value for key, value in found.items() if isinstance(value, (str, int, float, list))
    }


def main() -> None:
    """Print what pyslurm knows."""
    pyslurm = import_module("pyslurm")
    print(f"\n{IMPORTED}", flush=True)  # noqa: T201 - read by the exporter
    sys.stdout.write(f"\n{json.dumps(read(pyslurm))}\n")


if __name__ == "__main__":
    main()
