"""The root file system of the second cluster, and which of the two clusters the tests use."""

from __future__ import annotations

import os
from pathlib import Path

PROGRAMS = Path(__file__).parents[2] / ".programs"
ROOT = PROGRAMS / "sid"
PYTHON_PACKAGES = PROGRAMS / "sid-packages"
"""What jobmeter depends on, for the Python of that root."""


def missing() -> tuple[str, ...]:
    """Return one phrase for each thing that is missing; empty where it is whole."""
    lacking = [str(path.name) for path in (ROOT, PYTHON_PACKAGES) if not path.exists()]
    made_by = "tools/get-second-root.sh .programs/sid makes it"
    return (f"not in .programs: {' '.join(lacking)} ({made_by})",) if lacking else ()


def chosen() -> Path | None:
    """Return the root of the cluster that JOBMETER_CLUSTER names; None is the machine's own.

    Raises:
        ValueError: It names another one.
    """
    name = os.environ.get("JOBMETER_CLUSTER") or "machine"
    roots = {"machine": None, "sid": ROOT}
    if name not in roots:
        raise ValueError(f"JOBMETER_CLUSTER is {name!r}; it may be {' or '.join(roots)}")
    return roots[name]
