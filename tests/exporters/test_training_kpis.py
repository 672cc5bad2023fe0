"""From a training loop to its KPIs: what two ranks leave behind, read by the analysis."""

import sys
from pathlib import Path

import pytest

from jobmeter.manifest import PlannedTarget
from jobmeter_analysis.engine import analyze_attempt
from jobmeter_exporters.training import TrainingMonitor, monitor, timing

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))  # as the tests there have it

import attempts

STEPS = 50


class Clock:
    """Stands in for the clocks, so that the time of a step is known."""

    now = 0.0

    def __call__(self):
        return self.now


def train(rank, folder, monkeypatch):
    """Return what a rank leaves behind that takes 0.1 s for a step, or 0.2 s, and waits 0.02 s."""
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    monkeypatch.setattr(monitor.time, "time", lambda: attempts.T0 / 1000 + 12)
    monkeypatch.setenv("JOBMETER_FINAL_METRICS", str(folder))
    monkeypatch.setenv("SLURMD_NODENAME", "n1")

    def loader():
        for batch in range(STEPS):
            clock.now += 0.02
            yield batch

    with TrainingMonitor(rank=rank, world_size=2, sigterm=False) as one:
        for step in one.batches(loader()):
            with one.step(tokens=4096, samples=8):
                clock.now += 0.08 if rank == 0 else 0.18
                one.record(loss=STEPS - step + rank, learning_rate=1e-4, epoch=3)
            for layer, loads in enumerate(([10, 20, 30, 0], [10, 10, 10, 10])):
                one.record_experts(loads, layer)
            one.record_dropped_tokens(4, layer=0)
            one.record_router_loss(0.25, layer=1)
    return (folder / f"training-rank{rank}@n1.prom").read_text()


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The KPIs of a phase of 60 s, in which both ranks began and ended."""
    ranks = {f"training-rank{rank}": rank for rank in range(2)}
    targets = [PlannedTarget(service, "first_node", "payload") for service in ranks]
    plan = attempts.manifest(targets=(*attempts.STACK, *targets))
    builder = attempts.AttemptBuilder(tmp_path / "runs", plan)
    builder.job_start(0)
    builder.phase("main", 10_000, 70_000)
    builder.event(80_000, "job_end", exit_code=0)
    for service, rank in ranks.items():
        text = train(rank, tmp_path, monkeypatch)
        builder.edge("main", "start", service, "", 9_900, 9_905, status="connection refused")
        builder.edge("main", "end", service, text, 70_010, 70_015, status="left")
    return analyze_attempt(builder.run, builder.attempt).table


def the(table, kpi, scope="job", entity="job"):
    found = table[(table.kpi == kpi) & (table.scope == scope) & (table.entity == entity)]
    assert len(found) == 1, (kpi, table[table.kpi == kpi])
    return found.iloc[0]


TRUTH = {
    "samples_total": 2 * STEPS * 8,
    "tokens_total": 2 * STEPS * 4096,
    "tokens_per_second": 2 * STEPS * 4096 / 60,
    "steps_total": 2 * STEPS,
    "step_seconds_mean": 0.15,
    "data_wait_seconds_total": 2 * STEPS * 0.02,
    "data_wait_ratio": 0.04 / 0.3,
    "loss_last": 1.5,
    "learning_rate_last": 1e-4,
    "epoch_last": 3,
    "moe_routed_tokens_total": 2 * STEPS * 100,
    "moe_expert_balance_ratio_min": 15 / 30,
    "moe_expert_peak_ratio_max": 30 / 15,
    "moe_dropped_tokens_total": 2 * STEPS * 4,
    "moe_router_loss_last": 0.25,
}


def test_kpis_of_a_training(table):
    for kpi, truth in TRUTH.items():
        row = the(table, kpi)
        assert (row["value"], row["status"]) == (pytest.approx(truth), "exact"), kpi
    for rank, seconds in enumerate((0.1, 0.2)):
        row = the(table, "rank_step_seconds_mean", "rank", f"rank{rank}@n1")
        assert (row["value"], row["status"]) == (pytest.approx(seconds), "exact")
