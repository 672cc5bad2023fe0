"""A real vLLM as a service of a job, loaded by its own client: `make test-vllm`.

Three accounts of the same requests are held against each other: the KPI table, the client's own
result, and every single value that the server's histograms observed (vllm/sitecustomize.py).
"""

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from slurm_user import User
from testbed import Cluster

HERE = Path(__file__).parent / "vllm"
ENVIRONMENT = Path(__file__).parents[2] / ".programs" / "vllm"
RATES = (4, 12, 30)
REQUESTS = 120
JOB = """
name: vllm
resources: {nodes: 1, time: "00:30:00"}
monitoring: {interval: 1s}
services:
  llm:
    recipe: vllm
    model: /opt/vllm/model
    served_name: tiny
    max_model_len: 1024
    fine_histograms: FINE
    environment:
      VLLM_CPU_KVCACHE_SPACE: "1"
      HF_HUB_OFFLINE: "1"
      PYTHONPATH: /opt/vllm-test
      OBSERVED: $JOBMETER_ATTEMPT_DIR/observed
phases:
"""
PHASE = """
  - name: NAME
    run: >-
      HF_HUB_OFFLINE=1 vllm bench serve --backend openai --endpoint /v1/completions
      --base-url {{ services.llm.url }} --model tiny --tokenizer /opt/vllm/model
      --dataset-name random --random-input-len 64 --random-output-len 24
      --num-prompts PROMPTS --request-rate RATE --seed SEED --ignore-eos --disable-tqdm
      --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,95,99
      --save-result --result-dir . --result-filename NAME.json
    results: NAME.json
"""
SITE = """
description: a Slurm with a vLLM
launcher: slurm
prologue: ["export PATH=/opt/vllm-test:/opt/vllm/bin:$PATH"]
"""
HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
    "queue": "vllm:request_queue_time_seconds",
}

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def user(installed):
    binds = {**installed(None), ENVIRONMENT: Path("/opt/vllm"), HERE: Path("/opt/vllm-test")}
    # Its memory is more than a node of the cluster has, which only control groups enforce.
    with Cluster.start(nodes=1, binds=binds, cgroups=False) as cluster:
        yield User(cluster)


@pytest.fixture(scope="module", params=["true", "false"], ids=["fine buckets", "own buckets"])
def served(request, user):
    """A run with three rates, and its table."""
    phases = [("warmup", 4, 8), *((f"rate-{rate}", rate, REQUESTS) for rate in RATES)]
    text = JOB.replace("FINE", request.param)
    for seed, (name, rate, prompts) in enumerate(phases):
        words = {"NAME": name, "PROMPTS": prompts, "RATE": rate, "SEED": seed}
        phase = PHASE
        for word, value in words.items():
            phase = phase.replace(word, str(value))
        text += phase
    site = user.write("vllm.yaml", SITE)
    run = user.submit("serve.yaml", text, "--wait", site=site, check=False, timeout_s=1500)
    log = run.attempt / "logs" / "service.llm.log"
    assert run.submitted.returncode == 0, f"{run.output}\n{log.read_text()[-20000:]}"
    return run, run.table(), request.param == "true"


def client_of(run, phase):
    return json.loads((run.attempt / "results" / phase / f"{phase}.json").read_text())


def edge_of(run, phase, side):
    """Samples of vLLM at one edge, by name and labels, read by another parser than ours."""
    (path,) = (run.attempt / "edges" / f"{phase}.{side}").glob("llm@*.prom")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def increase(run, phase, name):
    start, end = (edge_of(run, phase, side) for side in ("start", "end"))
    return sum(value - start.get(key, 0) for key, value in end.items() if key[0] == name)


def observed_in(run, phase):
    """What the server's histograms observed in a phase, sorted, by name."""
    (begin,) = [e["t"] / 1000 for e in run.events("phase_start") if e["phase"] == phase]
    (end,) = [e["t"] / 1000 for e in run.events("phase_end") if e["phase"] == phase]
    values = defaultdict(list)
    for line in (run.attempt / "observed").read_text().splitlines():
        time, name, value = line.split()
        if begin <= float(time) <= end:
            values[name].append(float(value))
    return {name: sorted(of_name) for name, of_name in values.items()}


@pytest.mark.parametrize("rate", RATES)
def test_counts_are_the_clients(rate, served):
    run, table, _ = served
    phase = f"rate-{rate}"
    client = client_of(run, phase)
    assert client["completed"] == REQUESTS
    counts = {
        "requests_total": client["completed"],
        "prompt_tokens_total": client["total_input_tokens"],
        "output_tokens_total": client["total_output_tokens"],
    }
    for kpi, count in counts.items():
        row = table.one(kpi, phase=phase, scope="service")
        assert (row["value"], row["low"], row["high"], row["status"]) == (
            count,
            count,
            count,
            "exact",
        ), kpi


@pytest.mark.parametrize("rate", RATES)
def test_means_are_those_of_the_edges_and_of_what_was_observed(rate, served):
    run, table, _ = served
    phase = f"rate-{rate}"
    seen = observed_in(run, phase)
    for short, name in HISTOGRAMS.items():
        row = table.one(f"{short}_seconds_mean", phase=phase, scope="service")
        total, count = (increase(run, phase, f"{name}_{part}") for part in ("sum", "count"))
        assert count == len(seen[name]) > 0, name
        assert row["value"] == pytest.approx(total / count, rel=1e-12), name
        assert row["status"] == "exact", name
        assert row["value"] == pytest.approx(math.fsum(seen[name]) / count, rel=1e-9), name


@pytest.mark.parametrize("rate", RATES)
def test_the_true_quantile_is_in_the_bracket(rate, served):
    run, table, fine = served
    phase = f"rate-{rate}"
    seen = observed_in(run, phase)
    widths = {}
    for short, name in HISTOGRAMS.items():
        for percent in (50, 95, 99):
            row = table.one(f"{short}_seconds_p{percent}", phase=phase, scope="service")
            values = seen[name]
            truth = values[math.ceil(percent / 100 * len(values)) - 1]
            assert row["low"] <= truth <= row["high"], (short, percent, truth, row)
            widths[short, percent] = row["high"] - row["low"]
    # A decode of this model takes a few milliseconds: vLLM's own first bucket ends at ten.
    assert (widths["itl", 50] < 0.005) == fine


@pytest.mark.parametrize("rate", RATES)
def test_the_server_does_not_see_more_than_the_client(rate, served, capsys):
    run, table, fine = served
    phase = f"rate-{rate}"
    client = client_of(run, phase)
    for short, key in (("ttft", "mean_ttft_ms"), ("e2e", "mean_e2el_ms")):
        server = 1000 * table.one(f"{short}_seconds_mean", phase=phase, scope="service")["value"]
        assert server <= client[key]
        with capsys.disabled():
            buckets = "fine" if fine else "own"
            print(f"\n| {buckets} | {rate} | {short} | {server:.3f} | {client[key]:.3f} | ", end="")
    for short in HISTOGRAMS:
        for percent in (50, 95):
            row = table.one(f"{short}_seconds_p{percent}", phase=phase, scope="service")
            seen = observed_in(run, phase)[HISTOGRAMS[short]]
            truth = seen[math.ceil(percent / 100 * len(seen)) - 1]
            with capsys.disabled():
                numbers = (1000 * x for x in (truth, row["value"], row["low"], row["high"]))
                shown = " | ".join(f"{number:.3f}" for number in numbers)
                print(
                    f"\n| {'fine' if fine else 'own'} | {rate} | {short} p{percent} | {shown} |",
                    end="",
                )


def test_the_key_is_nowhere_and_nothing_is_left(served, user):
    run, _, _ = served
    key = (run.folder / "secrets" / "service.key").read_text().encode()
    files = [p for p in run.folder.rglob("*") if p.is_file() and "secrets" not in p.parts]
    assert len(files) > 20
    assert not [path for path in files if key in path.read_bytes()]
    left = [command for command in user.cluster.pids().values() if "vllm" in command]
    assert left == []
