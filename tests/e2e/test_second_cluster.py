"""The same tests on the second cluster: a newer Slurm, Prometheus, node_exporter and Python.

A choice for every day; ``make test-second-cluster`` runs all of them there.
"""

import pytest
import second_root
from test_slurm_accounting import test_a_finished_job_has_a_number_for_every_question
from test_slurm_faults import lost_seconds, test_scancel
from test_slurm_jobs import (
    test_a_known_count_is_counted_exactly_in_phases_shorter_than_the_interval,
    test_three_nodes_two_phases,
)
from testbed import Cluster

__all__ = [
    "lost_seconds",
    "test_a_finished_job_has_a_number_for_every_question",
    "test_a_known_count_is_counted_exactly_in_phases_shorter_than_the_interval",
    "test_scancel",
    "test_three_nodes_two_phases",
]

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def slurm(installed):
    root = second_root.ROOT
    with Cluster.start(root=root, binds=installed(root)) as cluster:
        yield cluster
