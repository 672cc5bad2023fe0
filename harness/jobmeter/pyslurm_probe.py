"""A program of its own: what pyslurm says of some jobs, as JSON on the last line.

It is run in a process of its own because libslurm ends the process, or waits for a minute, where
it finds no configuration. pyslurm is an optional extra, imported nowhere else.

Attributes are read by name and may be missing: they were renamed between releases.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

JOB_ATTRIBUTES = (
    "id",
    "array_id",
    "array_task_id",
    "state",
    "state_reason",
    "exit_code",
    "exit_code_signal",
    "derived_exit_code",
    "derived_exit_code_signal",
    "submit_time",
    "eligible_time",
    "start_time",
    "end_time",
    "elapsed_time",
    "time_limit",
    "num_nodes",
    "nodelist",
    "failed_node",
    "requeue_count",
    "cpus",
    "partition",
    "qos",
    "account",
)
STEP_ATTRIBUTES = ("state", "exit_code", "exit_code_signal", "elapsed_time", "ntasks")
STEP_STATISTICS = (
    "max_resident_memory",
    "max_resident_memory_node",
    "max_resident_memory_task",
)


def _read(thing: object, names: Sequence[str]) -> dict[str, str | int | float | None]:
    values = {name: getattr(thing, name, None) for name in names}
    return {name: v for name, v in values.items() if isinstance(v, (str, int, float))}


def read_jobs(pyslurm: Any, ids: Sequence[int]) -> list[dict[str, Any]]:  # noqa: ANN401 - no types
    """Return the attributes of jobs and their steps from the accounting database."""
    jobs = pyslurm.db.Jobs.load(pyslurm.db.JobFilter(ids=list(ids)))
    return [
        {
            **_read(job, JOB_ATTRIBUTES),
            "steps": [
                {
                    "name": str(name),
                    **_read(step, STEP_ATTRIBUTES),
                    **_read(getattr(step, "stats", None), STEP_STATISTICS),
                }
                for name, step in getattr(job, "steps", {}).items()
            ],
        }
        for job in jobs.values()
    ]


def main() -> None:
    """Print what pyslurm knows of the jobs in ``sys.argv``."""
    pyslurm = import_module("pyslurm")
    jobs = read_jobs(pyslurm, [int(word) for word in sys.argv[1:]])
    sys.stdout.write(f"\n{json.dumps(jobs)}\n")


if __name__ == "__main__":
    main()
