"""A real vLLM as a service of a job, loaded by its own client: `make test-vllm`.

Three accounts of the same requests are held against each other: the KPI table, the client's own
result, and every single value that the server's histograms observed.
"""

import pytest
import vllm_runs
from slurm_user import User
from vllm_runs import HISTOGRAMS, client_of, observed_in, true_quantile

RATES = (4, 12, 30)
REQUESTS = 120
JOB = f"""
name: vllm
resources: {{nodes: 1, time: "00:30:00"}}
monitoring: {{interval: 1s}}
services:
  llm:
    recipe: vllm
    model: {vllm_runs.MODEL}
    served_name: tiny
    max_model_len: 1024
    fine_histograms: FINE
    environment:
      VLLM_CPU_KVCACHE_SPACE: "1"
{vllm_runs.WITNESS}
phases:
"""

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def user(installed):
    with vllm_runs.cluster(installed, nodes=1) as cluster:
        yield User(cluster)


@pytest.fixture(scope="module", params=["true", "false"], ids=["fine buckets", "own buckets"])
def served(request, user):
    """A run with three rates, and its table."""
    rates = [(f"rate-{rate}", rate, REQUESTS) for rate in RATES]
    text = JOB.replace("FINE", request.param) + vllm_runs.phases(("warmup", 4, 8), *rates)
    run = vllm_runs.served(user, "serve.yaml", text)
    return run, run.table(), request.param == "true"


@pytest.mark.parametrize("rate", RATES)
def test_counts_are_the_clients(rate, served):
    run, table, _ = served
    vllm_runs.check_counts(run, table, f"rate-{rate}")
    assert client_of(run, f"rate-{rate}")["completed"] == REQUESTS


@pytest.mark.parametrize("rate", RATES)
def test_means_are_those_of_the_edges_and_of_what_was_observed(rate, served):
    run, table, _ = served
    vllm_runs.check_means(run, table, f"rate-{rate}")


@pytest.mark.parametrize("rate", RATES)
def test_the_true_quantile_is_in_the_bracket(rate, served):
    run, table, fine = served
    rows = vllm_runs.check_quantiles(run, table, f"rate-{rate}")
    # A decode of this model takes a few milliseconds: vLLM's own first bucket ends at ten.
    assert (rows["itl", 50]["high"] - rows["itl", 50]["low"] < 0.005) == fine


@pytest.mark.parametrize("rate", RATES)
def test_the_server_does_not_see_more_than_the_client(rate, served, capsys):
    run, table, fine = served
    phase = f"rate-{rate}"
    client = client_of(run, phase)
    buckets = "fine" if fine else "own"
    for short, key in (("ttft", "mean_ttft_ms"), ("e2e", "mean_e2el_ms")):
        server = 1000 * table.one(f"{short}_seconds_mean", phase=phase, scope="service")["value"]
        assert server <= client[key]
        vllm_runs.say(capsys, buckets, rate, f"{short} mean", server, client[key])
    for short in ("ttft", "itl", "e2e"):
        for percent in (50, 95):
            row = table.one(f"{short}_seconds_p{percent}", phase=phase, scope="service")
            truth = true_quantile(observed_in(run, phase)[HISTOGRAMS[short]], percent)
            ms = [1000 * number for number in (truth, row["value"], row["low"], row["high"])]
            vllm_runs.say(capsys, buckets, rate, f"{short} p{percent}", *ms)


def test_the_key_is_nowhere_and_nothing_is_left(served, user):
    run, _, _ = served
    key = (run.folder / "secrets" / "service.key").read_text().encode()
    files = [p for p in run.folder.rglob("*") if p.is_file() and "secrets" not in p.parts]
    assert len(files) > 20
    assert not [path for path in files if key in path.read_bytes()]
    assert vllm_runs.left(user) == []
