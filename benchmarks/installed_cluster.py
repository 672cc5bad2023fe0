"""The test cluster with jobmeter installed from its wheel, as the end-to-end tests have it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Run", "Table", "User", "user_of_three_nodes"]

ROOT = Path(__file__).parents[1]
for folder in ("tests/cluster", "tests/e2e"):
    sys.path.append(str(ROOT / folder))

import installation  # noqa: E402 - found by the lines above
from slurm_user import Run, Table, User  # noqa: E402
from tables import progress  # noqa: E402
from testbed import Cluster  # noqa: E402


@contextmanager
def user_of_three_nodes() -> Iterator[User]:
    """Start three nodes, and remove them and everything else at the end."""
    missing = installation.missing()
    if missing:
        raise SystemExit(f"no Slurm cluster on this machine: {'; '.join(missing)}")
    progress("cluster: building the wheel, starting three nodes")
    with tempfile.TemporaryDirectory(prefix="jobmeter-benchmark-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        wheel = installation.build_wheel(folder)
        environment = installation.install(wheel, folder / "environment")
        with Cluster.start(binds=installation.binds(environment)) as cluster:
            yield User(cluster)
