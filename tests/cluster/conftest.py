from __future__ import annotations

from collections.abc import Iterator

import pytest
import requirements
from testbed import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster of three nodes, shared by all tests of the session."""
    lacking = requirements.missing()
    if lacking:
        pytest.skip(f"no Slurm cluster on this machine: {'; '.join(lacking)}")
    with Cluster.start() as running:
        yield running
