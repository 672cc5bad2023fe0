"""The scenarios of examples/ with a real vLLM, against what their clients say: `make test-vllm`."""

import json
from pathlib import Path

import pytest
import vllm_runs
from installation import PROGRAMS
from slurm_user import User

EXAMPLES = Path(__file__).parents[2] / "examples"
RATES = (2, 4, 8, 16)
# What a user of a GPU does not say: how much memory is the cache, and that there is no network.
ENVIRONMENT = {
    "MODEL": str(vllm_runs.MODEL),
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def user(installed):
    with vllm_runs.cluster(installed, nodes=1) as cluster:
        user = User(cluster)
        cluster.run("mkdir", "programs")
        # Of Qdrant there is a stand-in alone.
        cluster.run("ln", "--symbolic", PROGRAMS / "qdrant.py", "programs/qdrant")
        yield user


def run_of(user, name, **instead):
    """Run an example beside its clients, as its first lines say, with some words replaced."""
    for path in EXAMPLES.glob("*.py"):
        user.write(path.name, path.read_text())
    text = (EXAMPLES / name).read_text()
    for old, new in {", gpus_per_node: 1": "", **instead}.items():  # the cluster has no GPUs
        assert old in text
        text = text.replace(old, new)
    return vllm_runs.served(user, name, text, ENVIRONMENT)


def test_a_sweep_of_request_rates(user):
    smaller = {"rate * 30": "rate * 4", "--random-output-len 128": "--random-output-len 32"}
    run = run_of(user, "serve-vllm-sweep.yaml", **smaller)
    table = run.table()
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    for rate in RATES:
        vllm_runs.check_counts(run, table, f"rate-{rate}")
        assert vllm_runs.client_of(run, f"rate-{rate}")["completed"] == 4 * rate
        of_client = table.one("ttft_seconds_mean", phase=f"rate-{rate}", entity="client")
        of_server = table.one("ttft_seconds_mean", phase=f"rate-{rate}", scope="service")
        assert of_server["value"] <= of_client["value"]


def test_answers_from_found_texts(user):
    run = run_of(user, "rag.yaml", **{'ask.json"': 'ask.json --questions 20"'})
    table = run.table()
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    (path,) = (run.attempt / "results" / "ask").iterdir()
    client = json.loads(path.read_text())
    assert client["questions"] == 20
    counts = {
        "qdrant_rest_requests_total": client["questions"],
        "requests_total": client["questions"],
        "output_tokens_total": client["completion_tokens"],
    }
    for kpi, count in counts.items():
        row = table.one(kpi, phase="ask", scope="service")
        assert (row["value"], row["status"]) == (count, "exact"), kpi
    assert table.one("qdrant_vectors_last", phase="ask", scope="service")["value"] == 200
    insert = json.loads((run.attempt / "results" / "insert" / "insert.json").read_text())
    assert insert == {"texts": 200}
    assert vllm_runs.left(user) == []
