"""The same tests on the second cluster: a newer Slurm, Prometheus, node_exporter and Python.

A choice for every day; ``make test-second-cluster`` runs all of them there. And what only a Python
without pypdu can show.
"""

import json

import pytest
import second_root
from test_slurm_accounting import test_a_finished_job_has_a_number_for_every_question
from test_slurm_faults import lost_seconds, test_scancel
from test_slurm_jobs import test_three_nodes_two_phases
from testbed import Cluster

__all__ = [
    "lost_seconds",
    "test_a_finished_job_has_a_number_for_every_question",
    "test_scancel",
    "test_three_nodes_two_phases",
]

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def slurm(installed):
    root = second_root.chosen() or second_root.ROOT
    with Cluster.start(root=root, binds=installed(root)) as cluster:
        yield cluster


def test_blocks_are_read_where_pypdu_has_no_wheel(user):
    absent = user.cluster.run("/opt/jobmeter/bin/python", "-c", "import pypdu", check=False)
    assert "ModuleNotFoundError" in absent.stderr
    began_s, step_s, tokens = 1_700_000_000, 10, 5
    series = 'vllm:generation_tokens_total{job="vllm",instance="n1:8000"}'
    samples = [f"{series} {i * tokens} {began_s + i * step_s}" for i in range(61)]
    text = "\n".join(("# TYPE vllm:generation_tokens counter", *samples, "# EOF\n"))
    openmetrics = user.write("samples.txt", text)
    user.cluster.run("promtool", "tsdb", "create-blocks-from", "openmetrics", openmetrics, "blocks")
    window = ("--start", "2023-11-14T22:14:20Z", "--end", "2023-11-14T22:19:20Z")
    done = user.jobmeter("analyze", "--source", "blocks", *window, "--format", "json")
    rows = [r for r in json.loads(done.stdout)["rows"] if r["kpi"] == "output_tokens_total"]
    assert {(r["value"], r["low"], r["high"], r["status"]) for r in rows} == {
        (30 * tokens, 30 * tokens, 30 * tokens, "exact")
    }
