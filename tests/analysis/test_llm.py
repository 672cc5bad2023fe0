"""vLLM: real servers against their clients, every name of nine versions, Ray, several engines."""

import csv
import io
import json
import math
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from attempts import T0, write_blocks
from kpi_rows import only
from replay import STEP_MS, Page, blocks_from, replayed, samples_from, scraped

from jobmeter.paths import RunPaths
from jobmeter.window import Window
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.engine import analyze_attempt, analyze_recording
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.vocabulary import load_vocabulary

pytestmark = pytest.mark.prometheus

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = FIXTURES / "vllm" / "vllm_metric_names_by_version.tsv"
STEPS = 6
MOVING = Window(T0, T0 + STEPS * STEP_MS)
WINDOW = Window(T0 - STEP_MS // 2, T0 + STEPS * STEP_MS + STEP_MS // 2)
"""Begins and ends idle: between two scrapes that say the same."""


UNUSED = {
    "lasts a moment of the past only; the counter or histogram beside it covers the window": (
        "avg_*_throughput_toks_per_s",
        "*_prefix_cache_hit_rate",
        "spec_decode_draft_acceptance_rate",
        "spec_decode_efficiency",
    ),
    "V0 only, and V1 has nothing of the kind": (
        "cpu_cache_usage_perc",
        "model_*_time_milliseconds",
        "num_requests_swapped",
        "spec_decode_num_emitted_tokens_total",
        "time_in_queue_requests",
        "tokens_total",
    ),
    "part of a number that is used already, never to be added to it": (
        "num_requests_kv_fetch_by_stage",
        "num_requests_waiting_by_reason",
        "prompt_tokens_cached",
        "prompt_tokens_cached_by_source",
        "prompt_tokens_recomputed",
        "request_inference_time_seconds",
        "request_num_preemptions",
        "request_prefill_kv_computed_tokens",
        "spec_decode_num_accepted_tokens_per_pos",
    ),
    "what was asked for, not what happened": (
        "request_max_num_generation_tokens",
        "request_params_max_tokens",
        "request_params_n",
    ),
    "configuration, or a state and not a quantity": (
        "cache_config_info",
        "engine_sleep_state",
        "lora_requests_info",
    ),
    "wrong with several API servers": ("iteration_tokens_total",),
    "of one way to keep or move the KV cache, whose hits are in the prefix caches": (
        "hf3fs_*",
        "hisparse_*",
        "kv_block_*",
        "kv_offload_*",
        "mooncake_*",
        "nixl_*",
        "simple_kv_offload_*",
        "umbp_*",
    ),
    "of features that no KPI is about": (
        "diffusion*",
        "rl_weight_update_*",
        "sleep_mode_*",
        "tool_call_parser_invocations_total",
        "watermark_requests",
        "websocket_*",
    ),
    "no metric but the beginning of names": ("spec_decode",),
}
"""Patterns of names that no KPI uses, and why; counters of them are rows under their own name."""
NO_KPI = {
    "vllm_estimated_flops_total",
    "vllm_estimated_read_bytes_total",
    "vllm_estimated_write_bytes_total",
}
"""Described so that they are no rows at all: they stay 0 without an option."""


def versions():
    """Return by version the names in its source and their types."""
    with NAMES.open() as file:
        table = list(csv.DictReader((x for x in file if x[0] != "#"), delimiter="\t"))
    columns = [column for column in table[0] if column not in ("name", "type")]
    return {
        version: {
            line["name"].removeprefix("vllm:"): line["type"] for line in table if line[version]
        }
        for version in columns
    }


VERSIONS = versions()
EVERY_NAME = {name: kind for of_version in VERSIONS.values() for name, kind in of_version.items()}


def exposed(name, kind):
    """Return the name of a metric in an exposition: clients add ``_total`` to a counter."""
    return name if kind != "counter" or name.endswith("_total") else f"{name}_total"


def meaning(name):
    """Return our name of what vLLM exposes as ``name``, if it has one."""
    for end in ("", "_bucket"):
        for found in load_vocabulary().meanings({f"vllm:{name}{end}": [{}]}).values():
            return found.metric
    return None


def used():
    """Return every metric that some KPI reads."""
    return {
        metric for g in load_catalogue().values() for k in g.kpis.values() for metric in k.metrics
    }


def reasons(name):
    return [why for why, patterns in UNUSED.items() if any(fnmatchcase(name, p) for p in patterns)]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_is_known_or_left_out_for_a_reason(version):
    for name, kind in VERSIONS[version].items():
        metric = meaning(exposed(name, kind))
        assert len(reasons(name)) == (metric is None), name
        assert metric is None or metric in used() | NO_KPI, name


def test_no_reason_is_about_nothing():
    for patterns in UNUSED.values():
        for pattern in patterns:
            assert any(fnmatchcase(name, pattern) for name in EVERY_NAME), pattern


def test_no_spelling_is_of_no_version():
    spelled = {exposed(name, kind) for name, kind in EVERY_NAME.items()}
    for metric in load_vocabulary().families["vllm"].metrics.values():
        assert spelled.issuperset(metric.names)


LABELS = {
    "request_success_total": [
        {"finished_reason": reason} for reason in ("stop", "length", "abort", "error")
    ],
    "prompt_tokens_by_source_total": [
        {"source": source}
        for source in ("local_compute", "local_cache_hit", "external_kv_transfer")
    ],
}


def page_of(version, step):
    """Return an exposition with everything that a version knows, after some steps."""
    page = Page({}, {})
    for name, kind in VERSIONS[version].items():
        called = f"vllm:{exposed(name, kind)}"
        if kind == "histogram":
            page.observe(called, [0.5] * 4 * step + [1.5] * 6 * step, ["1.0", "2.0"])
        elif kind in ("counter", "gauge"):
            page.types[called] = kind
            for labels in LABELS.get(exposed(name, kind), [{}]):
                page.set(called, 20.0 * step if kind == "counter" else 0.5, **labels)
    return page


def test_kpis_of_each_version(tmp_path, check_golden):
    """The KPIs that there are in each version, or why not; empty where there is no row at all."""
    samples = {}
    for version in VERSIONS:
        texts = scraped([page_of(version, at) for at in range(STEPS + 1)])
        labels = {"job": version, "instance": f"{version}:8000", "node": "n1"}
        samples |= samples_from(texts, labels)
    write_blocks(samples, tmp_path / "data")
    table = analyze_recording(PrometheusFolder(tmp_path / "data"), WINDOW, "replay").table
    catalogue = load_catalogue()
    kpis = [kpi for group in ("llm", "llm-checks") for kpi in catalogue[group].kpis]
    rows = [["kpi", *VERSIONS]]
    for kpi in kpis:
        rows.append([kpi, *(_availability(table, kpi, version) for version in VERSIONS)])
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    check_golden("vllm-versions.csv", written.getvalue())


def _availability(table, kpi, version):
    found = table[(table["kpi"] == kpi) & (table["entity"] == f"{version}@n1")]
    assert len(found) <= 1
    if found.empty:
        return ""
    row = found.iloc[0]
    return row["reason"] if row["status"] == "unavailable" else "yes"


BEFORE = Page.fixture("vllm-0.32.0-cpu-before.prom")
AFTER = Page.fixture("vllm-0.32.0-cpu-after.prom")


def between(share):
    """Return what the real server may have said when a share of the load was done."""
    page = AFTER.copy()
    for key, value in AFTER.values.items():
        if page.moves(key[0]):
            grown = (value - BEFORE.values.get(key, 0.0)) * share
            page.values[key] = BEFORE.values.get(key, 0.0) + (
                grown if key[0].endswith("_sum") else math.floor(grown)
            )
    page.set("vllm:num_requests_running", 3 if 0 < share < 1 else 0)
    page.set("vllm:num_requests_waiting", 2 if share == 0.5 else 0)
    page.set("vllm:kv_cache_usage_perc", 0.25 if 0 < share < 1 else 0)
    return page


PAGES = [between(step / STEPS) for step in range(STEPS + 1)]


def analysed(folder, pages, window=WINDOW):
    """Return the table of pages that were scraped every five seconds."""
    blocks_from(scraped(pages), folder, {"job": "vllm", "instance": "n1:8000", "node": "n1"})
    return analyze_recording(PrometheusFolder(folder), window, "replay").table


def row(table, kpi, entity="vllm@n1"):
    return only(table, kpi, entity=entity)


def value(table, kpi, entity="vllm@n1"):
    return row(table, kpi, entity)["value"]


def test_table_matches_golden(tmp_path, check_golden):
    table = analysed(tmp_path / "data", PAGES)
    of_vllm = table[table["kpi"].isin([*load_catalogue()["llm"].kpis, *checks()])]
    check_golden("vllm.csv", of_vllm.to_csv(index=False, float_format="%.12g"))


def checks():
    return load_catalogue()["llm-checks"].kpis


TRUTH = {
    "requests_total": 300,
    "prompt_tokens_total": 38400,
    "output_tokens_total": 14400,
    "total_tokens_total": 52800,
    "ttft_observations_total": 300,
    "e2e_observations_total": 300,
    "itl_observations_total": 300 * 47,
    "request_count_difference": 0,
    "itl_count_difference": 0,
    "itl_count_disagreement_ratio": 0,
    "preemptions_total": 0,
    "request_success_ratio": 1,
    "request_finished_length_ratio": 1,
    "request_finished_abort_ratio": 0,
    "prompt_tokens_per_request_mean": 128,
    "output_tokens_per_request_mean": 48,
}
"""What the client says that it sent and got."""


def test_the_client_agrees():
    said = json.loads((FIXTURES / "clients" / "vllm-bench" / "summary.json").read_text())
    assert said["completed"] == TRUTH["requests_total"]
    assert said["total_input_tokens"] == TRUTH["prompt_tokens_total"]
    assert said["total_output_tokens"] == TRUTH["output_tokens_total"]


def test_every_family_through_a_real_prometheus(tmp_path):
    pages = [*[PAGES[0]] * 3, *PAGES, *[PAGES[-1]] * 30]
    played = replayed({"vllm": [page.text for page in pages]}, tmp_path, scrapes=len(PAGES) + 6)
    window = played.window("vllm", 1, len(PAGES) + 4)
    table = analyze_recording(PrometheusFolder(played.folder), window, "replay").table
    groups = load_catalogue()
    for group in ("llm", "llm-checks", "http"):
        for kpi, definition in groups[group].kpis.items():
            absent = kpi.startswith("spec_decode") or kpi == "requests_corrupted_total"
            if absent:
                assert kpi not in set(table["kpi"])
                continue
            one = row(table, kpi)
            assert one["unit"] == definition.unit
            if one["status"] == "unavailable":
                assert one["reason"] == "zero_denominator"
                assert kpi in ("mm_cache_hit_ratio", "external_prefix_cache_hit_ratio")
            elif definition.unit == "ratio" and kpi != "littles_law_ratio":
                assert 0 <= one["value"] <= 1
                assert one["status"] == "estimated" or one["low"] <= one["value"] <= one["high"]
    for kpi, truth in TRUTH.items():
        one = row(table, kpi)
        assert one["low"] <= truth <= one["high"]
        assert one["value"] == pytest.approx(truth)
    for kpi, name in MEANS.items():
        assert value(table, kpi) == pytest.approx(mean_of(AFTER, name))
        for quantile in ("p50", "p95", "p99"):
            one = row(table, kpi.replace("mean", quantile))
            assert one["low"] <= one["value"] <= one["high"]
    assert value(table, "requests_running_max") == 3
    assert value(table, "kv_cache_ratio_max") == 0.25
    seconds = window.seconds
    assert value(table, "requests_per_second") == pytest.approx(300 / seconds)
    assert value(table, "output_tokens_per_second") == pytest.approx(14400 / seconds)


MEANS = {
    "ttft_seconds_mean": "time_to_first_token_seconds",
    "itl_seconds_mean": "inter_token_latency_seconds",
    "tpot_seconds_mean": "request_time_per_output_token_seconds",
    "e2e_seconds_mean": "e2e_request_latency_seconds",
    "queue_seconds_mean": "request_queue_time_seconds",
    "prefill_seconds_mean": "request_prefill_time_seconds",
    "decode_seconds_mean": "request_decode_time_seconds",
}


def mean_of(page, name):
    return page.value(f"vllm:{name}_sum") / page.value(f"vllm:{name}_count")


@pytest.fixture(scope="module")
def served():
    """The table of a whole run with vLLM, and what its client said of the same phase."""
    run = RunPaths(next((FIXTURES / "runs" / "serving").iterdir()))
    attempt = run.attempt("local")
    table = analyze_attempt(run, attempt, phases=["benchmark"]).table
    result = attempt.attempt / "results" / "benchmark" / "benchmark.json"
    return table, json.loads(result.read_text())


def test_a_real_run_agrees_with_its_client(served):
    table, said = served
    counted = {
        "requests_total": said["completed"],
        "prompt_tokens_total": said["total_input_tokens"],
        "output_tokens_total": said["total_output_tokens"],
        "request_count_difference": 0,
        "itl_count_difference": 0,
        "request_success_ratio": 1,
    }
    for kpi, truth in counted.items():
        one = row(table, kpi)
        assert (one["low"], one["value"], one["high"]) == (truth, truth, truth), kpi
        assert one["status"] == "exact"
    # The client's clock begins with the first request, the phase with its start.
    assert value(table, "requests_per_second") < said["request_throughput"]
    # The server does not see the network and the client's own queue.
    for kpi, theirs in (("ttft", "ttft"), ("e2e", "e2el")):
        one = row(table, f"{kpi}_seconds_mean")
        assert 0 < one["value"] < said[f"mean_{theirs}_ms"] / 1000
        assert one["status"] == "exact"
    assert value(table, "tpot_seconds_mean") == pytest.approx(value(table, "itl_seconds_mean"))


def test_several_engines_and_replicas_are_summed_before_anything_else(tmp_path):
    def engines(page, busy):
        """Add a second engine, which has the queue and the slow requests."""
        page = page.copy()
        for name, labels in list(page.values):
            own = dict(labels)
            if "engine" in own and not name.endswith("_created"):
                page.values[name, tuple(sorted({**own, "engine": "1"}.items()))] = 0.0
        page.set("vllm:kv_cache_usage_perc", 0.75 if busy else 0, engine="1")
        page.set("vllm:num_requests_waiting", 4 if busy else 0, engine="1")
        page.set("vllm:num_requests_waiting", 0, engine="0")
        labels = {"engine": "1", "model_name": "tiny"}
        edges = [dict(key[1])["le"] for key in page.keys(BUCKET, engine="0")][:-1]
        return page.observe(E2E, [100.0] * (300 if busy else 0), edges, **labels)

    pages = [engines(page, at >= 1) for at, page in enumerate(PAGES)]
    labels = {"job": "vllm", "instance": "n1:8000", "node": "n1"}
    samples = samples_from(scraped(pages), labels)
    samples |= samples_from(scraped(PAGES), {**labels, "instance": "n2:8000", "node": "n2"})
    write_blocks(samples, tmp_path / "data")
    table = analyze_recording(PrometheusFolder(tmp_path / "data"), WINDOW, "replay").table
    assert value(table, "e2e_observations_total") == 600
    assert value(table, "e2e_observations_total", "job") == 900
    total = AFTER.value(f"{E2E}_sum")
    assert value(table, "e2e_seconds_mean") == pytest.approx((total + 30_000) / 600)
    assert value(table, "e2e_seconds_mean", "job") == pytest.approx((2 * total + 30_000) / 900)
    # 300 of 600 and of 900 are slow: the median of the job is fast, its 95th percentile is not.
    assert row(table, "e2e_seconds_p50", "job")["high"] <= 0.3
    slow = row(table, "e2e_seconds_p95", "job")
    assert slow["low"] <= 100 <= slow["high"]
    assert value(table, "requests_total", "job") == 600
    assert value(table, "kv_cache_ratio_max") == 0.75
    assert value(table, "kv_cache_ratio_max", "job") == 0.75
    # One engine waits for 27.5 of 35 seconds, the other one never.
    assert value(table, "waiting_share_ratio") == pytest.approx(27.5 / 70)
    assert value(table, "requests_waiting_mean") == pytest.approx(4 * 27.5 / 35)


E2E = "vllm:e2e_request_latency_seconds"
BUCKET = f"{E2E}_bucket"


def test_requests_of_one_token_are_no_part_of_the_time_per_output_token(tmp_path):
    """Fifty requests of one token: the server counts their zeros, we do not."""

    def with_short(page, requests):
        page = page.copy()
        labels = {"engine": "0", "model_name": "tiny"}
        for name, values in (("request_generation_tokens", 1.0), (TPOT, 0.0)):
            edges = [dict(key[1])["le"] for key in page.keys(f"vllm:{name}_bucket")][:-1]
            page.observe(f"vllm:{name}", [values] * requests, edges, **labels)
        return page

    pages = [with_short(page, 10 * at) for at, page in enumerate(PAGES)]
    assert mean_of(pages[-1], TPOT) == pytest.approx(mean_of(AFTER, TPOT) * 300 / 360)
    table = analysed(tmp_path / "data", pages)
    mean = row(table, "tpot_seconds_mean")
    assert mean["value"] == pytest.approx(mean_of(AFTER, TPOT))
    assert mean["low"] <= mean_of(AFTER, TPOT) <= mean["high"]


TPOT = "request_time_per_output_token_seconds"


def test_time_per_output_token_was_another_name_of_inter_token_latency(tmp_path):
    """Before 0.11 there is no true TPOT, and the old name is not taken for one."""
    old = "vllm:time_per_output_token_seconds"

    def aged(page):
        page = page.copy()
        for part in ("_bucket", "_sum", "_count"):
            for key in page.keys(f"vllm:inter_token_latency_seconds{part}"):
                page.values[f"{old}{part}", key[1]] = page.values.pop(key)
            page.drop(f"vllm:{TPOT}{part}")
        page.drop(f"vllm:{TPOT}_created").drop("vllm:inter_token_latency_seconds_created")
        page.types[old] = "histogram"
        return page

    table = analysed(tmp_path / "old", [aged(page) for page in PAGES])
    mean = mean_of(AFTER, "inter_token_latency_seconds")
    assert value(table, "itl_seconds_mean") == pytest.approx(mean)
    tpot = row(table, "tpot_seconds_mean")
    assert (tpot["status"], tpot["reason"]) == ("unavailable", "metric_absent")

    both = [page.copy() for page in PAGES]
    for page in both:
        page.values |= {key: n for key, n in aged(page).values.items() if key[0].startswith(old)}
        page.types[old] = "histogram"
    table = analysed(tmp_path / "both", both)
    assert value(table, "itl_observations_total") == 14100


def test_renamed_metrics_are_absent_and_never_zero(tmp_path):
    renamed = [page.prefixed("my_") for page in PAGES]
    for page, kept in zip(renamed, PAGES, strict=True):
        key = kept.keys("vllm:num_requests_running")[0]
        page.values[key] = kept.values[key]
    table = analysed(tmp_path / "data", renamed)
    for kpi in ("requests_total", "output_tokens_total", "ttft_seconds_p95", "kv_cache_ratio_mean"):
        one = row(table, kpi)
        assert (one["status"], one["reason"]) == ("unavailable", "metric_absent")
        assert math.isnan(one["value"])


RAY = {
    "Component": "core_worker",
    "NodeAddress": "10.0.0.1",
    "ReplicaId": "a1",
    "SessionName": "session_1",
    "Version": "2.49.0",
    "WorkerId": "w1",
}


def under_ray(page, prefix):
    """Return what Ray makes of a page: no births, a counter only once it moved, and as a gauge."""
    ray = Page({}, {})
    for (name, labels), amount in page.values.items():
        if not name.startswith("vllm:") or name.endswith("_created"):
            continue
        kind = page.types.get(page.family(name))
        called = prefix + name.removeprefix("vllm:")
        spelled = tuple(sorted({**dict(labels), **RAY}.items()))
        if kind == "counter":
            if amount:
                ray.values[called, spelled] = amount
                ray.types[called] = "counter"
                ray.values[called.removesuffix("_total"), spelled] = amount
            continue
        ray.values[called, spelled] = amount
        ray.types[prefix + page.family(name).removeprefix("vllm:")] = kind
    return ray


@pytest.mark.parametrize("prefix", ["ray_vllm:", "ray_vllm_"])
def test_under_ray_serve_the_same_is_found(tmp_path, prefix):
    plain = analysed(tmp_path / "plain", PAGES)
    ray = analysed(tmp_path / "ray", [under_ray(page, prefix) for page in PAGES])
    compared = 0
    for kpi in (*load_catalogue()["llm"].kpis, *checks()):
        ours = plain[(plain["kpi"] == kpi) & (plain["entity"] == "vllm@n1")]
        theirs = ray[(ray["kpi"] == kpi) & (ray["entity"] == "vllm@n1")]
        if kpi in NEVER_MOVED:
            assert set(theirs["reason"]) <= {"metric_absent", "zero_denominator"}
            continue
        assert list(ours["status"]) == list(theirs["status"]), kpi
        assert np.allclose(ours["value"], theirs["value"], rtol=1e-9, equal_nan=True), kpi
        compared += len(theirs)
    assert compared > 50


NEVER_MOVED = {
    "external_prefix_cache_hit_ratio",
    "mm_cache_hit_ratio",
    "preemptions_per_request",
    "preemptions_total",
    "prefix_cache_hit_ratio",
    "requests_rejected_total",
}
"""Ray does not tell a counter that never moved from one that is not there."""


def test_speculative_decoding(tmp_path):
    labels = {"engine": "0", "model_name": "tiny"}

    def drafting(page, at):
        page = page.copy()
        for what, amount in (("drafts", 100), ("draft_tokens", 300), ("accepted_tokens", 180)):
            page.types[f"vllm:spec_decode_num_{what}_total"] = "counter"
            page.set(f"vllm:spec_decode_num_{what}_total", amount * at, **labels)
        return page

    table = analysed(tmp_path / "data", [drafting(page, at) for at, page in enumerate(PAGES)])
    assert value(table, "spec_decode_acceptance_ratio") == pytest.approx(0.6)
    assert value(table, "spec_decode_accepted_length_mean") == pytest.approx(2.8)


def test_several_tokens_in_one_output_are_told(tmp_path):
    """Every output after the first has two tokens: latencies are those of outputs."""
    pages = [page.copy() for page in PAGES]
    for page in pages:
        later = page.value("vllm:inter_token_latency_seconds_count")
        page.set("vllm:generation_tokens_total", 2 * later + page.value(f"{E2E}_count"))
    table = analysed(tmp_path / "data", pages)
    assert value(table, "itl_count_difference") == -14100
    told = row(table, "itl_count_disagreement_ratio")
    assert (told["value"], told["reason"]) == (0.5, "disagreement")
    assert row(table, "request_count_disagreement_ratio")["reason"] == ""


def test_reasons_of_the_end_of_requests(tmp_path):
    name = "vllm:request_success_total"
    pages = [page.copy() for page in PAGES]
    for at, page in enumerate(pages):
        for reason, amount in (("stop", 40), ("abort", 5), ("error", 4), ("repetition", 1)):
            page.set(name, amount * at, finished_reason=reason)
        page.set(name, 50 * at, finished_reason="length")
    table = analysed(tmp_path / "data", pages)
    assert value(table, "requests_total") == 600
    assert value(table, "request_success_ratio") == pytest.approx(0.91)
    shares = {"stop": 0.4, "length": 0.5, "abort": 0.05, "error": 0.04}
    for reason, share in shares.items():
        assert value(table, f"request_finished_{reason}_ratio") == pytest.approx(share)


def test_little_s_law_in_a_steady_window(tmp_path):
    """Ten requests per second that stay 0.4 s are four at any time: three run, one waits."""
    pages = []
    for at in range(STEPS + 1):
        page = BEFORE.copy()
        page.set("vllm:num_requests_running", 3).set("vllm:num_requests_waiting", 1)
        page.set("vllm:request_success_total", 50 * at, finished_reason="length")
        edges = [dict(key[1])["le"] for key in page.keys(BUCKET)][:-1]
        page.observe(E2E, [0.4] * 50 * at, edges, engine="0", model_name="tiny")
        pages.append(page)
    table = analysed(tmp_path / "data", pages, MOVING)
    assert value(table, "littles_law_ratio") == pytest.approx(1.0, rel=1e-3)
    assert value(table, "waiting_share_ratio") == 1
