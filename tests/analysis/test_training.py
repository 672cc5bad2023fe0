"""Training: ranks, experts, stalls, model FLOPs, and how several runs scale."""

import itertools
import math
import random

import numpy as np
import pandas as pd
import pytest
from attempts import T0, TRAIN, manifest, write_blocks
from kpi_rows import holds, of, rows
from replay import Page, replayed, samples_from, scraped

from jobmeter.errors import RunFolderError
from jobmeter.window import Window
from jobmeter_analysis.catalogue import Kpi, load_catalogue
from jobmeter_analysis.engine import analyze_attempt, analyze_recording
from jobmeter_analysis.estimate import Estimate, exact, unavailable
from jobmeter_analysis.label_statistics import balance, peak, variation
from jobmeter_analysis.scaling import COLUMNS, scaling
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

EDGES = ("0.1", "0.25", "0.5", "1", "2.5")
STEP = "training_step_duration_seconds"
RANKS = ("0", "1", "2", "3")
LOADS = {"0": (10, 20, 30, 40), "1": (25, 25, 25, 25)}
"""Tokens per step by layer and expert."""


def story(steps=9, ranks=RANKS, seconds=None):
    """Return pages, one per training step; rank 3 is twice as slow as the others."""
    page = Page({}, {})
    for name in ("training_samples_total", "training_tokens_total"):
        page.types[name] = "counter"
    pages = []
    for step in range(steps):
        page = page.copy()
        for rank in ranks:
            labels = {"rank": rank} if rank else {}
            took = (seconds or {}).get(rank, 0.4 if rank == "3" else 0.2)
            page.add("training_samples_total", 8.0, **labels)
            page.add("training_tokens_total", 8.0 * 1024, **labels)
            page.add("training_data_wait_seconds_total", took / 4, **labels)
            page.add("training_forward_seconds_total", took / 4, **labels)
            page.add("training_backward_seconds_total", took / 2, **labels)
            page.observe(STEP, [took], EDGES, **labels)
            page.set("training_loss", 9.0 - step + abs(step - 6), **labels)
            page.set("training_learning_rate", 1e-4, **labels)
            page.set("training_epoch", step // 5, **labels)
        for layer, loads in LOADS.items():
            for expert, load in enumerate(loads):
                page.add("moe_expert_tokens_total", load, layer=layer, expert=str(expert))
            page.set("moe_router_loss", 0.01 * (1 + int(layer)), layer=layer)
        page.add("moe_dropped_tokens_total", 50.0)
        page.add("moe_cache_queries_total", 100.0).add("moe_cache_hits_total", 90.0)
        pages.append(page)
    return pages


def blocks(targets, folder):
    """Write pages of several nodes as Prometheus would have scraped them."""
    samples = {}
    for node, pages in targets.items():
        samples |= samples_from(
            scraped(pages), {"job": "train", "instance": f"{node}:1", "node": node}
        )
    write_blocks(samples, folder)
    return PrometheusFolder(folder)


WHOLE = Window(T0 - 2500, T0 + 42_500)
SECONDS = 45.0


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    folder = blocks({"n1": story()}, tmp_path_factory.mktemp("training") / "tsdb")
    return analyze_recording(folder, WHOLE, "training")


TRUTH = {
    "samples_total": 8 * 8 * 4,
    "samples_per_second": 8 * 8 * 4 / SECONDS,
    "tokens_total": 8 * 8 * 4 * 1024,
    "tokens_per_second": 8 * 8 * 4 * 1024 / SECONDS,
    "steps_total": 8 * 4,
    "steps_per_second": 8 * 4 / SECONDS,
    "step_seconds_total": 8.0,
    "step_seconds_mean": 0.25,
    "data_wait_seconds_total": 2.0,
    "data_wait_ratio": 0.25,
    "forward_seconds_total": 2.0,
    "backward_seconds_total": 4.0,
    "tokens_per_step": 8 * 1024,
    "moe_routed_tokens_total": 8 * 200,
    "moe_expert_balance_ratio_mean": (25 / 40 + 1) / 2,
    "moe_expert_balance_ratio_min": 25 / 40,
    "moe_expert_peak_ratio_mean": (40 / 25 + 1) / 2,
    "moe_expert_peak_ratio_max": 40 / 25,
    "moe_expert_variation_ratio_max": np.std(LOADS["0"]) / 25,
    "moe_experts": 4,
    "moe_dropped_tokens_total": 400,
    "moe_dropped_tokens_ratio": 0.2,
    "moe_cache_hit_ratio": 0.9,
}


@pytest.mark.prometheus
@pytest.mark.parametrize("kpi", TRUTH)
def test_known_truth(analysis, kpi):
    row = of(analysis, kpi)
    assert row["value"] == pytest.approx(TRUTH[kpi])
    assert holds(row, TRUTH[kpi])
    assert row["status"] == "exact"


@pytest.mark.prometheus
def test_gauges_and_quantiles(analysis):
    assert of(analysis, "loss_first")["value"] == 15  # 9 - 0 + 6
    assert of(analysis, "loss_last")["value"] == 3  # 9 - 8 + 2
    assert of(analysis, "loss_best")["value"] == 3
    assert of(analysis, "epoch_last")["value"] == 1
    assert of(analysis, "learning_rate_last")["value"] == 1e-4
    assert of(analysis, "moe_router_loss_last")["value"] == pytest.approx(0.015)
    p50, p95 = of(analysis, "step_seconds_p50"), of(analysis, "step_seconds_p95")
    assert (p50["low"], p50["high"]) == (0.1, 0.25)
    assert p95["low"] <= 0.4 <= p95["high"]
    longest = of(analysis, "step_seconds_max")
    assert (longest["low"], longest["value"], longest["high"]) == (0.25, 0.5, 0.5)


@pytest.mark.prometheus
def test_ranks_are_compared(analysis):
    slow = of(analysis, "rank_step_seconds_mean", "rank", "rank3@n1")
    assert slow["value"] == pytest.approx(0.4)
    score = of(analysis, "rank_step_seconds_mean_score_ratio", "rank", "rank3@n1")
    assert score["value"] == pytest.approx(0.5)
    assert "outlier" in score["reason"]
    assert len(rows(analysis.table, "rank_tokens_per_second", scope="rank")) == len(RANKS)
    assert of(analysis, "rank_data_wait_time_ratio", "rank", "rank0@n1")["value"] == pytest.approx(
        8 * 0.05 / SECONDS
    )


@pytest.mark.prometheus
def test_one_rank_that_does_not_say_so_is_not_compared(tmp_path):
    folder = blocks({"n1": story(ranks=("",))}, tmp_path / "tsdb")
    analysis = analyze_recording(folder, WHOLE, "alone")
    assert not len(analysis.table[analysis.table["scope"] == "rank"])
    assert of(analysis, "steps_total")["value"] == 8


@pytest.mark.prometheus
def test_every_kpi_has_a_row(analysis):
    catalogue = load_catalogue()
    names = {
        kpi for group in ("training", "moe", "training-ranks") for kpi in catalogue[group].kpis
    }
    assert names <= set(analysis.table["kpi"])
    ours = analysis.table[analysis.table["kpi"].isin(names)]
    assert not (ours["status"] == "unavailable").any()


@pytest.mark.prometheus
def test_table_matches_golden(analysis, check_golden):
    text = analysis.table.to_csv(index=False, float_format="%.12g")
    check_golden("training.csv", text)


@pytest.mark.prometheus
def test_experts_of_several_endpoints_are_one_layer(tmp_path):
    """Each node knows half of the experts: the layer is as uneven as all of them are."""
    halves = {"n1": ("0", "1"), "n2": ("2", "3")}
    targets = {}
    for node, experts in halves.items():
        pages = story(ranks=("0",) if node == "n1" else ("1",))
        for page, expert in itertools.product(pages, "0123"):
            if expert not in experts:
                page.drop("moe_expert_tokens_total", expert=expert)
        targets[node] = pages
    analysis = analyze_recording(blocks(targets, tmp_path / "tsdb"), WHOLE, "halves")
    assert of(analysis, "moe_expert_balance_ratio_min")["value"] == pytest.approx(25 / 40)
    one = of(analysis, "moe_expert_balance_ratio_min", "service", "train@n2")
    assert one["value"] == pytest.approx(35 / 40)
    assert of(analysis, "moe_experts")["value"] == 4
    assert of(analysis, "tokens_total")["value"] == 2 * 8 * 8 * 1024


@pytest.mark.prometheus
def test_a_real_prometheus_gives_what_the_training_did(tmp_path):
    pages = story(12)
    replay = replayed({"train": [page.text for page in pages]}, tmp_path, scrapes=12)
    window = replay.window("train", 2, 8)
    analysis = analyze_recording(PrometheusFolder(replay.folder), window, "replay")
    assert holds(of(analysis, "samples_total"), 6 * 8 * 4)
    assert holds(of(analysis, "step_seconds_mean"), 0.25)
    assert holds(of(analysis, "data_wait_ratio"), 0.25)
    assert holds(of(analysis, "moe_expert_balance_ratio_min"), 25 / 40)
    assert holds(of(analysis, "moe_cache_hit_ratio"), 0.9)


@pytest.mark.prometheus
@pytest.mark.parametrize("workload", [{}, {"flops_per_token": 6e9}])
def test_what_the_job_file_does_not_give_has_no_row(build, workload):
    plan = manifest(targets=(TRAIN,), workload=workload)
    assert not measured(build, plan, "mfu_ratio")


@pytest.mark.prometheus
def test_model_flops_utilization(build):
    given = {"flops_per_token": 6e9, "peak_flops_per_second": 1e14, "devices": 4.0}
    plan = manifest(targets=(TRAIN,), workload=given)
    (row,) = measured(build, plan, "mfu_ratio")
    per_second = 60 * 8 * 1024 / 60
    assert row["value"] == pytest.approx(6e9 * per_second / (1e14 * 4))
    assert row["status"] == "exact"
    assert (row["scope"], row["entity"]) == ("job", "job")


def measured(build, plan, kpi):
    """Return the rows of one KPI of an attempt with 60 steps in a minute."""
    builder = build(plan=plan)
    builder.job_start(0)
    builder.phase("main", 10_000, 70_000)
    pages = story(61, ranks=("0",))
    builder.edge("main", "start", "train", pages[0].text, 9_900, 9_910)
    builder.edge("main", "end", "train", pages[-1].text, 70_010, 70_020)
    analysis = analyze_attempt(builder.run, builder.attempt)
    table = analysis.table
    found = table[(table["kpi"] == kpi) & (table["phase"] == "main")]
    return [row for _, row in found.iterrows()]


def load(low, value, high):
    return Estimate(value, low, high, "exact" if low == high else "bounded", 1.0, 2, frozenset())


def test_bounds_of_a_balance_hold_for_any_loads_within_theirs():
    drawn = random.Random(3)
    kpi = Kpi(unit="ratio", help="", statistic="balance", across="mean")
    for _ in range(300):
        spans = [sorted(drawn.choice([0, drawn.random() * 9]) for _ in "abc") for _ in range(4)]
        loads = {str(at): load(*span) for at, span in enumerate(spans)}
        even, uneven = balance([{(): loads}], kpi), peak([{(): loads}], kpi)
        for _ in range(30):
            truth = [drawn.choice([low, high, drawn.uniform(low, high)]) for low, _, high in spans]
            if max(truth) > 0 and even.available:
                share = np.mean(truth) / max(truth)
                assert even.low - 1e-12 <= share <= even.high + 1e-12
                assert uneven.low - 1e-12 <= 1 / share <= uneven.high + 1e-12


def test_loads_that_nobody_has():
    kpi = Kpi(unit="ratio", help="", statistic="variation", across="max")
    assert variation([{("0",): {"0": exact(0.0), "1": exact(0.0)}}], kpi).reasons == {
        "zero_denominator"
    }
    assert not variation([unavailable("metric_absent")], kpi).available


def table_of(value, low=None, high=None, kpi="tokens_per_second", **more):
    number = {"value": value, "low": value if low is None else low}
    number["high"] = value if high is None else high
    known = number["low"] == number["high"]
    row = {"kpi": kpi, "phase": "main", "entity": "job", **number, "coverage": 1.0, "samples": 2}
    return pd.DataFrame([{**row, "status": "exact" if known else "bounded", "reason": "", **more}])


def test_weak_scaling_of_a_rate():
    frame = scaling(
        [(8, table_of(700.0, 690.0, 710.0)), (1, table_of(100.0)), (2, table_of(180.0))],
        "tokens_per_second",
    )
    assert tuple(frame.columns) == COLUMNS
    assert frame["size"].tolist() == [1, 2, 8]
    assert frame["speedup"].tolist() == pytest.approx([1, 1.8, 7])
    assert frame["efficiency_ratio"].tolist() == pytest.approx([1, 0.9, 0.875])
    assert frame["efficiency_ratio_low"].tolist() == pytest.approx([1, 0.9, 0.8625])
    assert frame["status"].tolist() == ["exact", "exact", "bounded"]


def test_strong_scaling_of_a_time():
    runs = [(2, table_of(100.0, kpi="phase_seconds")), (4, table_of(62.5, kpi="phase_seconds"))]
    frame = scaling(runs, "phase_seconds", better="lower")
    assert frame["speedup"].tolist() == pytest.approx([1, 1.6])
    assert frame["efficiency_ratio"].tolist() == pytest.approx([1, 0.8])


def test_of_several_runs_of_one_size_the_middle_one_counts():
    sizes = [(1, 100.0), (1, 90.0), (1, 110.0), (2, 200.0)]
    frame = scaling([(n, table_of(value)) for n, value in sizes], "tokens_per_second")
    assert frame["value"].tolist() == [100, 200]
    assert frame["runs"].tolist() == [3, 1]


def test_a_run_without_the_number_is_refused():
    with pytest.raises(RunFolderError, match="0 rows 'samples_per_second'"):
        scaling([(1, table_of(1.0))], "samples_per_second")
    absent = table_of(math.nan, status="unavailable", reason="metric_absent")
    with pytest.raises(RunFolderError, match="metric_absent"):
        scaling([(1, absent)], "tokens_per_second")
    twice = pd.concat([table_of(1.0), table_of(2.0, phase="warmup")])
    with pytest.raises(RunFolderError, match="phases main, warmup; choose one"):
        scaling([(1, twice)], "tokens_per_second")
    assert len(scaling([(1, twice)], "tokens_per_second", phase="main")) == 1
    with pytest.raises(RunFolderError, match="positive"):
        scaling([(0, table_of(1.0))], "tokens_per_second")
    assert scaling([], "tokens_per_second").empty
