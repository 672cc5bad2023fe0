"""A real vLLM of several engines, or shared by two nodes, with one address: `make test-vllm`."""

import re

import pytest
import vllm_runs
from slurm_user import User
from vllm_runs import increase

import jobmeter

REQUESTS = 60
JOB = f"""
name: parallel
resources: {{nodes: 2, time: "00:30:00"}}
monitoring: {{interval: 1s}}
services:
  llm:
    recipe: vllm
    model: {vllm_runs.MODEL}
    served_name: tiny
    max_model_len: 1024
    SHAPE
    environment:
      VLLM_CPU_OMP_THREADS_BIND: nobind
      VLLM_CPU_KVCACHE_SPACE: "1"
{vllm_runs.WITNESS}
phases:
{vllm_runs.phases(("warmup", 4, 8), ("load", 8, REQUESTS))}
"""
# Nothing is compiled, as several processes start on few cores. A later stage of a pipeline needs
# the warm-up, which vLLM 0.32 leaves out on a CPU with --enforce-eager: its first request ends it.
ENGINES = "args: [--enforce-eager]\n    data_parallel_size: 2"
TRACED = """args: ['--compilation-config={"mode": "DYNAMO_TRACE_ONCE", "backend": "eager"}']"""
STAGES = f"{TRACED}\n    pipeline_parallel_size: 2"
SHAPES = {
    "two engines on a node": (ENGINES, 1, {"0", "1"}),
    "an engine on each node": (f"{ENGINES}\n    nodes: 2", 2, {"0", "1"}),
    "a stage on each node": (f"{STAGES}\n    nodes: 2", 2, {"0"}),
}

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def user(installed):
    with vllm_runs.cluster(installed, nodes=2) as cluster:
        yield User(cluster)


@pytest.fixture(scope="module", params=SHAPES)
def served(request, user):
    """A run, its table, on how many nodes its server was, and the names of its engines."""
    shape, nodes, engines = SHAPES[request.param]
    run = vllm_runs.served(user, "parallel.yaml", JOB.replace("SHAPE", shape))
    return run, run.table(), nodes, engines


def test_all_engines_together_are_what_the_client_counted(served, request, capsys):
    run, table, _, engines = served
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    vllm_runs.check_counts(run, table, "load")
    for name in ("vllm:request_success_total", "vllm:generation_tokens_total"):
        of_each = [increase(run, "load", name, engine=engine) for engine in sorted(engines)]
        assert min(of_each) > 0, "an engine had nothing to do"
        assert sum(of_each) == increase(run, "load", name)
        shape = request.node.callspec.params["served"]
        vllm_runs.say(capsys, shape, name, " + ".join(f"{count:g}" for count in of_each))


def test_latencies_are_those_of_all_engines(served, request, capsys):
    run, table, _, _ = served
    vllm_runs.check_means(run, table, "load")
    vllm_runs.check_quantiles(run, table, "load")
    client = vllm_runs.client_of(run, "load")
    shape = request.node.callspec.params["served"]
    for short, key in (("ttft", "mean_ttft_ms"), ("e2e", "mean_e2el_ms")):
        server = 1000 * table.one(f"{short}_seconds_mean", phase="load", scope="service")["value"]
        assert server <= client[key]
        vllm_runs.say(capsys, shape, f"{short} mean", server, client[key])


def test_the_fullest_cache_of_any_engine_is_found(served):
    run, table, _, engines = served
    samples = jobmeter.open_run(run.folder).series("vllm:kv_cache_usage_perc", phase="load")
    largest = samples.groupby("engine")["value"].max()
    assert set(largest.index) == engines
    row = table.one("kv_cache_ratio_max", phase="load", scope="service")
    assert row["value"] == largest.max() > 0
    mean = table.one("kv_cache_ratio_mean", phase="load", scope="service")["value"]
    assert 0 < mean <= largest.mean()


def test_every_node_has_its_part_and_keeps_nothing(served, user):
    run, _, nodes, _ = served
    logs = sorted(path.name for path in (run.attempt / "logs").glob("service.llm*.log"))
    further = [f"service.llm.{rank}.log" for rank in range(1, nodes)]
    assert [name for name in logs if name != "service.llm.start.log"] == [
        *further,
        "service.llm.log",
    ]
    for name in further:
        assert re.search(r"headless", (run.attempt / "logs" / name).read_text())
    assert vllm_runs.left(user) == []
