"""Energy by counter and by integral, per unit of work, and with the idle power taken off."""

import math

import pytest
from attempts import RUN_ID, STACK, T0, TRAIN, manifest, training_text, write_blocks
from devices import (
    GPUS,
    SECONDS,
    SLOW,
    WINDOW,
    analyzed,
    everything,
    merged,
    recorded,
    rows,
    samples,
)
from kpi_rows import holds
from replay import Page

from jobmeter.errors import CatalogueError
from jobmeter.manifest import PlannedTarget
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.engine import analyze_attempt
from jobmeter_analysis.estimate import Estimate, exact, unavailable
from jobmeter_analysis.formula import Formula, FormulaError

COUNTER = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
JOULES = 600 * sum(SLOW.values()) * SECONDS
"""Of one node of ``devices.everything``."""


def without_counter(at):
    return everything(at).drop(COUNTER)


@pytest.mark.prometheus
def test_counter_and_integral_agree(tmp_path):
    analysis = analyzed(recorded(everything, tmp_path / "data"))
    for kpi in ("gpu_energy_counter_joules", "gpu_energy_integral_joules", "gpu_energy_joules"):
        found = rows(analysis, kpi)
        assert found["job"]["value"] == pytest.approx(JOULES)
        assert found["n1"]["value"] == pytest.approx(JOULES)
        assert found["gpu3@n1"]["value"] == pytest.approx(JOULES / 7)
    assert rows(analysis, "gpu_energy_joules")["job"]["status"] == "bounded"
    apart = rows(analysis, "gpu_energy_disagreement_ratio")
    assert set(apart) == {*(f"gpu{gpu}@n1" for gpu in GPUS), "n1", "job"}
    assert all(line["value"] == pytest.approx(0, abs=1e-9) for line in apart.values())
    assert all(line["reason"] == "" for line in apart.values())


@pytest.mark.prometheus
def test_counter_and_integral_disagree(tmp_path):
    def wrong(at):
        return everything(at).set("DCGM_FI_DEV_POWER_USAGE", 480.0, gpu="1")

    analysis = analyzed(recorded(wrong, tmp_path / "data"))
    apart = rows(analysis, "gpu_energy_disagreement_ratio")
    assert apart["gpu1@n1"]["value"] == pytest.approx(0.2)
    assert apart["gpu1@n1"]["reason"] == "disagreement"
    assert apart["gpu0@n1"]["reason"] == ""
    assert apart["job"]["value"] == pytest.approx(0.2)
    assert apart["job"]["reason"] == "disagreement"
    assert rows(analysis, "gpu_energy_joules")["gpu1@n1"]["value"] == pytest.approx(600 * SECONDS)


@pytest.mark.prometheus
def test_a_node_without_the_counter_is_in_the_sum(tmp_path):
    write_blocks(
        merged(samples(everything, "n1"), samples(without_counter, "n2")), tmp_path / "data"
    )
    analysis = analyzed(tmp_path / "data")
    counted = rows(analysis, "gpu_energy_counter_joules")
    assert counted["job"]["value"] == pytest.approx(JOULES)  # of the node that has it
    energy = rows(analysis, "gpu_energy_joules")
    assert energy["n2"]["value"] == pytest.approx(JOULES)
    assert energy["n2"]["status"] == "estimated"
    assert energy["job"]["value"] == pytest.approx(2 * JOULES)
    assert rows(analysis, "energy_joules")["job"]["value"] == pytest.approx(2 * JOULES)
    assert rows(analysis, "device_power_watts_mean")["job"]["value"] == pytest.approx(4200)


@pytest.mark.prometheus
def test_energy_of_a_device_that_says_nothing_is_unavailable(tmp_path):
    def mute(at):
        page = without_counter(at)
        return page.drop("DCGM_FI_DEV_POWER_USAGE", gpu="2")

    analysis = analyzed(recorded(mute, tmp_path / "data"))
    energy = rows(analysis, "gpu_energy_joules")
    assert energy["gpu2@n1"]["status"] == "unavailable"
    assert energy["job"]["value"] == pytest.approx(JOULES * 5 / 7)
    assert energy["job"]["high"] == math.inf
    assert "metric_absent" in energy["job"]["reason"]


# Attempts: per unit of work, and idle.

GPU = PlannedTarget("nvidia", "every_node", "stack")
IDLE_W, BUSY_W = 100.0, 500.0


def gpu_text(at_s):
    """One GPU that idles until second 45 and works then."""
    millijoules = 1e9 + 1e3 * (IDLE_W * min(at_s, 45) + BUSY_W * max(at_s - 45, 0))
    page = Page({}, {})
    own = {"gpu": "0", "UUID": "GPU-0"}
    page.set("DCGM_FI_DEV_POWER_USAGE", IDLE_W if at_s < 45 else BUSY_W, **own)
    page.set(COUNTER, millijoules, **own)
    return page.text


def record_gpu(job, first, last):
    """Record the GPU every second, by an exporter of this run."""
    for at in range(first, last, 1000):
        for (metric, own), value in Page.of(gpu_text(at / 1000)).values.items():
            job.record("nvidia", metric, [(at, value)], labels=dict(own))
        job.record("nvidia", "up", [(at, 1.0)])
        job.record("nvidia", "jobmeter_run_info", [(at, 1.0)], labels={"exported_run_id": RUN_ID})


def vllm_text(requests, prompt, output):
    own = 'model_name="m",engine="0"'
    return (
        f'vllm:request_success_total{{{own},finished_reason="stop"}} {requests}\n'
        f"vllm:prompt_tokens_total{{{own}}} {prompt}\n"
        f"vllm:generation_tokens_total{{{own}}} {output}\n"
        f"vllm:num_requests_running{{{own}}} 1\n"
    )


@pytest.fixture
def served(build):
    """A job with a phase ``idle`` from 10 to 40 s and a phase ``main`` from 50 to 70 s."""
    serve = PlannedTarget("serve", "first_node", "payload")
    plan = manifest(targets=(*STACK, GPU, TRAIN, serve), phases=("idle", "main"))
    job = build(plan=plan)
    job.job_start(0)
    job.phase("idle", 10_000, 40_000)
    job.phase("main", 50_000, 70_000)
    job.event(80_000, "job_end", exit_code=0)
    record_gpu(job, 0, 80_000)
    for side, at, served, trained in (
        ("start", 49_990, (1, 100, 10), (10, (0, 5, 5, 5, 5), 1.0, 9.0)),
        ("end", 70_010, (11, 2100, 510), (610, (0, 55, 100, 100, 105), 21.0, 0.5)),
    ):
        job.edge("main", side, "serve", vllm_text(*served), at, at + 5)
        job.edge("main", side, "train", training_text(*trained), at, at + 5)
    job.write_tsdb()
    return job


ENERGY = 20 * BUSY_W
LESS_IDLE = ENERGY - 20 * IDLE_W


@pytest.mark.prometheus
def test_energy_per_unit_of_work(served):
    analysis = analyze_attempt(served.run, served.attempt)
    truths = {
        "energy_joules": ENERGY,
        "energy_joules_per_output_token": ENERGY / 500,
        "energy_joules_per_token": ENERGY / 2500,
        "energy_joules_per_request": ENERGY / 10,
        "energy_joules_per_sample": ENERGY / 600,
        "tokens_per_joule": 500 / ENERGY,
        "device_power_watts_mean": BUSY_W,
        "energy_idle_subtracted_joules": LESS_IDLE,
        "energy_idle_subtracted_joules_per_output_token": LESS_IDLE / 500,
        "energy_idle_subtracted_joules_per_request": LESS_IDLE / 10,
        "energy_idle_subtracted_joules_per_sample": LESS_IDLE / 600,
    }
    for kpi, truth in truths.items():
        one = rows(analysis, kpi, "job", "main")["job"]
        assert one["value"] == pytest.approx(truth, rel=1e-3), kpi
        assert holds(one, truth), kpi


@pytest.mark.prometheus
def test_tokens_per_joule_are_tokens_per_second_and_watt(served):
    analysis = analyze_attempt(served.run, served.attempt, phases=["main"])
    per_second = rows(analysis, "output_tokens_per_second", "job")["job"]["value"]
    watts = rows(analysis, "device_power_watts_mean")["job"]["value"]
    per_joule = rows(analysis, "tokens_per_joule")["job"]["value"]
    assert per_joule == pytest.approx(per_second / watts, rel=1e-3)


@pytest.mark.prometheus
def test_idle_power_is_known_when_only_another_phase_is_asked_for(served):
    every = analyze_attempt(served.run, served.attempt).table
    alone = analyze_attempt(served.run, served.attempt, phases=["main"]).table
    assert set(alone["phase"]) == {"main"}
    assert alone.equals(every[every["phase"] == "main"].reset_index(drop=True))


@pytest.mark.prometheus
def test_the_idle_phase_is_not_subtracted_from_itself(served):
    table = analyze_attempt(served.run, served.attempt).table
    subtracted = table[table["kpi"].str.startswith("energy_idle_subtracted")]
    assert set(subtracted["phase"]) == {"main", "job"}
    idle = table[(table["phase"] == "idle") & (table["kpi"] == "energy_joules")]
    assert idle["value"].iloc[0] == pytest.approx(30 * IDLE_W, rel=1e-3)


@pytest.mark.prometheus
def test_without_an_idle_phase_there_is_no_such_line(build):
    job = build(plan=manifest(targets=(*STACK, GPU)))
    job.job_start(0)
    job.phase("main", 50_000, 70_000)
    record_gpu(job, 40_000, 80_000)
    job.write_tsdb()
    table = analyze_attempt(job.run, job.attempt).table
    assert rows(analyze_attempt(job.run, job.attempt), "energy_joules", phase="main")
    assert not table["kpi"].str.contains("idle_subtracted").any()
    assert not table["kpi"].str.contains("per_output_token").any()


def test_help_says_whose_word_it_is():
    for group in ("gpu", "hpu", "energy"):
        for name, kpi in load_catalogue()[group].kpis.items():
            if name.endswith(("energy_joules", "energy_counter_joules")) or "_per_" in name:
                said = kpi.help.lower()
                told = "device-reported" in said and "not mlperf power" in said
                relative = said.startswith("the same") or "bytes per second" in said
                assert told or relative, name


# What formulas can say of two ways to measure one thing.


def interval(low, value, high):
    return Estimate(value, low, high, "bounded")


def evaluated(text, **numbers):
    return Formula.parse(text).evaluate(numbers)


def test_first_takes_the_first_that_has_a_number():
    none = unavailable("metric_absent")
    assert evaluated("first(a, b)", a=exact(1.0), b=exact(2.0)).value == 1
    assert evaluated("first(a, b)", a=none, b=exact(2.0)).value == 2
    assert evaluated("first(a, b)", b=exact(2.0)).value == 2
    assert evaluated("first(a, b)", a=none).reasons == {"metric_absent"}
    assert evaluated("first(a, b)", c=exact(2.0)) is None


@pytest.mark.parametrize(
    ("one", "other", "low", "value", "high"),
    [
        (exact(100.0), exact(100.0), 0, 0, 0),
        (exact(100.0), exact(110.0), 0.1, 0.1, 0.1),
        (exact(100.0), exact(90.0), 0.1, 0.1, 0.1),
        (exact(100.0), interval(80, 98, 110), 0, 0.02, 0.2),
        (exact(100.0), interval(110, 120, 140), 0.1, 0.2, 0.4),
        (exact(100.0), interval(60, 80, 90), 0.1, 0.2, 0.4),
        (exact(100.0), interval(math.nan, 80, math.nan), math.nan, 0.2, math.nan),
    ],
)
def test_disagreement(one, other, low, value, high):
    apart = evaluated("disagreement(a, b)", a=one, b=other)
    assert (apart.low, apart.value, apart.high) == pytest.approx((low, value, high), nan_ok=True)
    assert apart.reasons == ({"disagreement"} if value > 0.05 else set())


def test_disagreement_needs_both():
    assert evaluated("disagreement(a, b)", b=exact(1.0)) is None
    none = evaluated("disagreement(a, b)", a=exact(1.0), b=unavailable("sample_gap"))
    assert (none.status, none.reasons) == ("unavailable", {"sample_gap"})
    zero = evaluated("disagreement(a, b)", a=exact(0.0), b=exact(1.0))
    assert zero.reasons == {"zero_denominator"}


def test_numbers_of_other_phases():
    formula = Formula.parse("a - b@idle * c")
    assert formula.names == formula.needed == {"a", "b@idle", "c"}
    numbers = {"a": exact(10.0), "b@idle": exact(2.0), "c": exact(3.0)}
    assert formula.evaluate(numbers).value == 4
    assert formula.evaluate({"a": exact(10.0), "c": exact(3.0)}) is None


@pytest.mark.parametrize(
    "text", ["c * b@idle", "a@1", "first(a + b)", "second(a)", "disagreement(a)", "first()"]
)
def test_what_formulas_cannot_say(text):
    with pytest.raises(FormulaError):
        Formula.parse(text)


GROUP = """
help: A group.
services: [node]
scope: service
totals: [job]
kpis:
  load_mean:
    unit: "1"
    help: Load.
    statistic: mean
    metric: node_load1
  load_twice:
    unit: "1"
    help: Twice that.
    statistic: formula
    formula: load_mean + load_mean
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GROUP + "    spread: higher\n", "only what is measured is compared"),
        (GROUP.replace("[job]", "[service]") + "    combine: sum\n", "drop 'combine'"),
        (GROUP.replace("+ load_mean", "+ load@idle"), "no KPI 'load'; did you mean"),
        (GROUP + "    method: step\n", "does not use the key 'method'"),
    ],
)
def test_what_the_catalogue_refuses(tmp_path, text, told):
    (tmp_path / "10-extra.yaml").write_text(text)
    with pytest.raises(CatalogueError, match=told):
        load_catalogue(tmp_path)


def test_the_window_of_devices_begins_at_the_origin():
    assert WINDOW.start_ms == T0
