"""What the tests of a real vLLM share: where it is, what loads it, and the accounts that are held
against each other: the client's own result, the raw edges, and every value that was observed."""

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from testbed import Cluster

HERE = Path(__file__).parent / "vllm"
ENVIRONMENT = Path(__file__).parents[2] / ".programs" / "vllm"
INSIDE = Path("/opt/vllm")
MODEL = INSIDE / "model"
SITE = """
description: a Slurm with a vLLM
launcher: slurm
prologue: ["export PATH=/opt/vllm-test:/opt/vllm/bin:$HOME/programs:$PATH"]
"""
WITNESS = """
      HF_HUB_OFFLINE: "1"
      PYTHONPATH: /opt/vllm-test
      OBSERVED: $JOBMETER_ATTEMPT_DIR/observed
"""
"""Of a service whose histograms write down what they observe (vllm/sitecustomize.py)."""
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
HISTOGRAMS = {
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
    "queue": "vllm:request_queue_time_seconds",
}


def cluster(installed, nodes):
    """Return a cluster whose users have vLLM and the witness; may skip."""
    if not ENVIRONMENT.exists():
        pytest.skip(f"no {ENVIRONMENT}: tools/get-vllm.sh {ENVIRONMENT} python3")
    binds = {**installed(None), ENVIRONMENT: INSIDE, HERE: Path("/opt/vllm-test")}
    # Its memory is more than a node of the cluster has, which only control groups enforce.
    return Cluster.start(nodes=nodes, binds=binds, cgroups=False)


def phases(*wanted):
    """Return phases of a job file that load the service ``llm``, of (name, rate, prompts)."""
    text = ""
    for seed, (name, rate, prompts) in enumerate(wanted):
        words = {"NAME": name, "PROMPTS": prompts, "RATE": rate, "SEED": seed}
        phase = PHASE
        for word, value in words.items():
            phase = phase.replace(word, str(value))
        text += phase
    return text


def served(user, name, text, environment=None):
    """Run a job whose service is called ``llm`` to its end, and return the run."""
    site = user.write("vllm.yaml", SITE)
    options = {"site": site, "check": False, "timeout_s": 1500, "env": environment}
    run = user.submit(name, text, "--wait", **options)
    logs = sorted((run.attempt / "logs").glob("service.llm*.log"))
    said = "\n".join(f"{log.name}: {log.read_text()[-20000:]}" for log in logs)
    assert run.submitted.returncode == 0, f"{run.output}\n{said}"
    return run


def left(user):
    """Return what is left of any vLLM on any node; its processes call themselves VLLM::."""
    return [command for command in user.cluster.pids().values() if "vllm" in command.lower()]


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


def increase(run, phase, name, **labels):
    """Return by how much all series of a name that have these labels grew in a phase, together."""
    start, end = (edge_of(run, phase, side) for side in ("start", "end"))
    return sum(
        value - start.get(key, 0)
        for key, value in end.items()
        if key[0] == name and labels.items() <= dict(key[1]).items()
    )


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


def true_quantile(values, percent):
    """Return the order statistic of sorted values."""
    return values[math.ceil(percent / 100 * len(values)) - 1]


def check_counts(run, table, phase):
    """Requests and tokens are what the client counted, to the last one."""
    client = client_of(run, phase)
    assert client["completed"] == client["num_prompts"]
    counts = {
        "requests_total": client["completed"],
        "prompt_tokens_total": client["total_input_tokens"],
        "output_tokens_total": client["total_output_tokens"],
    }
    for kpi, count in counts.items():
        row = table.one(kpi, phase=phase, scope="service")
        said = (row["value"], row["low"], row["high"], row["status"])
        assert said == (count, count, count, "exact"), kpi


def check_means(run, table, phase):
    """Means are those of the edges, and of all that was observed."""
    seen = observed_in(run, phase)
    for short, name in HISTOGRAMS.items():
        row = table.one(f"{short}_seconds_mean", phase=phase, scope="service")
        total, count = (increase(run, phase, f"{name}_{part}") for part in ("sum", "count"))
        assert count == len(seen[name]) > 0, name
        assert row["value"] == pytest.approx(total / count, rel=1e-12), name
        assert row["status"] == "exact", name
        assert row["value"] == pytest.approx(math.fsum(seen[name]) / count, rel=1e-9), name


def check_quantiles(run, table, phase):
    """The true quantile of all that was observed lies in the bracket; return the rows."""
    seen = observed_in(run, phase)
    rows = {}
    for short, name in HISTOGRAMS.items():
        for percent in (50, 95, 99):
            row = table.one(f"{short}_seconds_p{percent}", phase=phase, scope="service")
            truth = true_quantile(seen[name], percent)
            assert row["low"] <= truth <= row["high"], (short, percent, truth, row)
            rows[short, percent] = row
    return rows


def say(capsys, *cells):
    """Print a row for the tables of docs/accuracy.md."""
    shown = [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells]
    with capsys.disabled():
        print(f"\n| {' | '.join(shown)} |", end="")
