from __future__ import annotations

from collections.abc import Iterator

import pytest
import requirements
import second_root
from testbed import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster of three nodes, shared by all tests of the session."""
    root = second_root.chosen()
    lacking = (
        (*requirements.missing(packages=()), *second_root.missing())
        if root
        else requirements.missing()
    )
    if lacking:
        pytest.skip(f"no Slurm cluster on this machine: {'; '.join(lacking)}")
    with Cluster.start(root=root) as running:
        yield running
