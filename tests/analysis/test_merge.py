"""The table of several attempts: exact where it can be, a lower bound where one is missing."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from attempts import STACK, TRAIN, AttemptBuilder, manifest, run_info, training_text
from kpi_rows import only

import jobmeter
from jobmeter_analysis.catalogue import STATISTIC_KEYS, Kpi, load_catalogue
from jobmeter_analysis.engine import COLUMNS
from jobmeter_analysis.merge import RULES, rule_of

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
JOBMETER = Path(sys.executable).parent / "jobmeter"
PLAN = manifest(phases=("main", "after"), targets=(*STACK[:1], TRAIN))


def attempt(root, name, samples, *, seconds=10, steps=(0, 1, 1, 1, 1), phases=("main",)):
    """An attempt whose phases count ``samples`` each; None is a server that never answered."""
    builder = AttemptBuilder(root, PLAN, name=name)
    builder.job_start(0)
    for index, phase in enumerate(phases):
        start = 10_000 + 100_000 * index
        end = start + 1000 * seconds
        builder.phase(phase, start, end)
        for side, at in (("start", start - 20), ("end", end + 10)):
            builder.edge(phase, side, "node", run_info(), at, at + 5)
            if samples is None:
                builder.edge(phase, side, "train", "", at, at + 5, status="refused")
                continue
            counts = steps if side == "end" else (0, 0, 0, 0, 0)
            loss = 1 / samples
            text = training_text(samples if side == "end" else 0, counts, 0.2 * counts[-1], loss)
            text = text.replace('app_retries{kind="a"} 3', f'app_retries{{kind="a"}} {3 + at}')
            builder.edge(phase, side, "train", text, at, at + 5)
    builder.event(300_000, "job_end", exit_code=0)
    return builder


def kpis(root, name="merged"):
    (run,) = (root / "runs").iterdir()
    return jobmeter.open_run(run).kpis(attempt=name)


def numbers(row):
    return (row["value"], row["low"], row["high"], row["status"])


def test_every_statistic_has_a_rule():
    assert set(RULES) == set(STATISTIC_KEYS)
    for group in load_catalogue().values():
        for kpi in group.kpis.values():
            rule_of(kpi)
    formula = Kpi(unit="joules", help="", statistic="formula", formula="a", combine="sum")
    assert rule_of(formula) == "sum"


def test_what_counts_adds_up_and_what_is_per_second_does_not(tmp_path):
    for name, samples, seconds in (("7_1", 100, 10), ("7_2", 200, 30), ("7_10", 60, 5)):
        attempt(tmp_path / "runs", name, samples, seconds=seconds)
    table = kpis(tmp_path)
    assert numbers(only(table, "samples_total")) == (360, 360, 360, "exact")
    assert numbers(only(table, "phase_seconds", phase="main")) == (45, 45, 45, "exact")
    assert numbers(only(table, "samples_per_second")) == (8, 8, 8, "exact")
    assert numbers(only(table, "steps_total")) == (3, 3, 3, "exact")
    assert numbers(only(table, "step_seconds_mean"))[3] == "exact"
    retries = only(table, "app_retries")
    assert (retries["scope"], retries["entity"]) == ("service", "train")
    assert numbers(retries) == (45_000 + 90, 45_000 + 90, 45_000 + 90, "exact")
    assert set(table["reason"].str.split(";").explode()).isdisjoint(
        {"attempt_missing", "phase_not_begun", "restarts"}
    )


def test_quantiles_are_those_of_one_histogram_never_of_quantiles(tmp_path):
    attempt(tmp_path / "runs", "7_1", 1, steps=(97, 97, 97, 97, 97))
    attempt(tmp_path / "runs", "7_2", 1, steps=(0, 0, 1, 3, 3))
    table = kpis(tmp_path, "*")
    p50, p99 = (
        only(table, f"step_seconds_{q}", attempt="merged", entity="job") for q in ("p50", "p99")
    )
    assert p50["high"] == 0.1
    assert p99["low"] >= 0.1, "the third of a hundred from above is the first of the other's"
    assert only(table, "step_seconds_p50", attempt="7_2", entity="job")["low"] >= 0.25


def test_an_attempt_in_which_nothing_was_observed_is_not_missing(tmp_path):
    attempt(tmp_path / "runs", "7_1", 100, steps=(0, 5, 5, 5, 5))
    attempt(tmp_path / "runs", "7_2", 50, steps=(0, 0, 0, 0, 0))
    table = kpis(tmp_path, "*")
    idle = only(table, "step_seconds_mean", attempt="7_2", entity="job")
    assert "zero_denominator" in idle["reason"]
    mean = only(table, "step_seconds_mean", attempt="merged")
    assert numbers(mean) == (0.2, 0.2, 0.2, "exact")
    assert "attempt_missing" not in mean["reason"]


def test_an_attempt_without_a_number_leaves_a_lower_bound(tmp_path):
    attempt(tmp_path / "runs", "7_1", 100)
    attempt(tmp_path / "runs", "7_2", 200)
    attempt(tmp_path / "runs", "7_3", None)
    table = kpis(tmp_path)
    samples = only(table, "samples_total")
    assert numbers(samples) == (300, 300, math.inf, "bounded")
    assert {"attempt_missing", "target_never_up"} <= set(samples["reason"].split(";"))
    assert numbers(only(table, "phase_seconds", phase="main")) == (30, 30, 30, "exact")
    rate = only(table, "samples_per_second")
    assert (rate["value"], rate["status"]) == (15, "estimated")
    retries = only(table, "app_retries")
    assert (retries["high"], retries["status"]) == (math.inf, "bounded")
    assert "attempt_missing" in retries["reason"]
    mean = only(table, "step_seconds_mean")
    assert (mean["value"], mean["low"], mean["high"]) == (0.2, 0, math.inf)


def test_an_attempt_that_left_nothing_at_all_is_missing_everywhere(tmp_path):
    builder = attempt(tmp_path / "runs", "7_1", 100)
    builder.run.attempt("7_2").attempt.mkdir()
    table = kpis(tmp_path)
    assert table["reason"].str.contains("attempt_missing").all()
    assert numbers(only(table, "samples_total")) == (100, 100, math.inf, "bounded")
    assert numbers(only(table, "phase_seconds", phase="main")) == (10, 10, math.inf, "bounded")


def test_a_phase_that_an_attempt_never_began_has_nothing_in_it(tmp_path):
    attempt(tmp_path / "runs", "7_1", 100, phases=("main", "after"))
    attempt(tmp_path / "runs", "7_2", 200)
    table = kpis(tmp_path)
    after = only(table, "samples_total", phase="after")
    assert numbers(after) == (100, 100, 100, "exact")
    assert after["reason"] == "phase_not_begun"
    assert only(table, "samples_total", phase="main")["reason"] == ""


@pytest.mark.parametrize("marks", [("phase_start",), ()])
def test_an_attempt_whose_end_is_not_known_may_have_begun_the_phase(tmp_path, marks):
    attempt(tmp_path / "runs", "7_1", 100)
    killed = AttemptBuilder(tmp_path / "runs", PLAN, name="7_2")
    killed.job_start(0)
    for mark in marks:
        killed.event(5_000, mark, phase="main")
    samples = only(kpis(tmp_path), "samples_total")
    assert (samples["low"], samples["high"]) == (100, math.inf)
    assert samples["reason"] == "attempt_missing"


def test_tries_of_the_same_work_add_up_and_say_so(tmp_path):
    attempt(tmp_path / "runs", "7", 40)
    builder = attempt(tmp_path / "runs", "7.r1", 100)
    samples = only(kpis(tmp_path), "samples_total")
    assert numbers(samples) == (140, 140, 140, "exact")
    assert samples["reason"] == "restarts"
    last = analyze(builder, "--attempt", "last", "--format", "json")
    (row,) = [row for row in json.loads(last.stdout)["rows"] if row["kpi"] == "samples_total"][:1]
    assert (row["value"], row["reason"]) == (100, "")


def test_what_has_no_sum_is_compared(tmp_path):
    for index, wait in enumerate((10, 30, 20)):
        builder = attempt(tmp_path / "runs", f"7_{index}", 100)
        said = {"job_id": str(100 + index), "source": "sacct", "state": "COMPLETED", "final": True}
        said |= {"eligible_s": 1000, "start_s": 1000 + wait, "nodes": 2, "elapsed_s": 60}
        said |= {"exit_code": index, "max_rss_bytes": 2**30 * (index + 1)}
        builder.attempt.accounting.write_text(json.dumps({"schema_version": 2, **said}))
    table = kpis(tmp_path)
    assert numbers(only(table, "slurm_nodes")) == (2, 2, 2, "exact"), "all agree"
    waits = [
        only(table, f"slurm_queue_wait_seconds_across_attempts_{which}")["value"]
        for which in ("min", "median", "max")
    ]
    assert waits == [10, 20, 30]
    assert only(table, "slurm_elapsed_seconds")["value"] == 180
    assert only(table, "slurm_exit_code")["value"] == 2
    assert only(table, "slurm_max_rss_bytes")["value"] == 3 * 2**30


def twice(recorded, folder):
    """Return every table of a run whose only attempt there is twice."""
    shutil.copytree(recorded, folder)
    shutil.copytree(folder / "attempts" / "local", folder / "attempts" / "7_2")
    (folder / "attempts" / "local").rename(folder / "attempts" / "7_1")
    return jobmeter.open_run(folder).kpis(attempt="*")


AMOUNTS = ("_total", "phase_seconds", "_joules")
"""Ends of the names of what adds up."""


@pytest.mark.parametrize("name", ["serving", "training"])
def test_the_same_recording_twice_has_twice_the_amounts_and_else_the_same(tmp_path, name):
    (recorded,) = (RUNS / name).iterdir()
    table = twice(recorded, tmp_path / "run")
    key = ["kpi", "phase", "entity"]
    once, both = (
        table[(table["attempt"] == attempt) & (table["scope"] == "job")].set_index(key)
        for attempt in ("7_1", "merged")
    )
    assert once.index.is_unique
    assert len(once) > 100
    lost = {kpi for kpi, _, _ in once.index.difference(both.index)}
    assert all("client_minus_server" in kpi for kpi in lost), lost
    for at, row in both.iterrows():
        one = once.loc[at]
        factor = 2 if at[0].endswith(AMOUNTS) else 1
        assert row["status"] == one["status"], at
        assert row["value"] == pytest.approx(factor * one["value"], nan_ok=True), at
        # With twice the observations the interval of an order is narrower.
        if "few_observations" not in one["reason"]:
            assert row["low"] == pytest.approx(factor * one["low"], nan_ok=True), at
            assert row["high"] == pytest.approx(factor * one["high"], nan_ok=True), at
            assert row["reason"] == one["reason"], at


def analyze(builder, *options, code=0):
    done = subprocess.run(
        [JOBMETER, "analyze", builder.run.run, *map(str, options)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_tables_come_one_after_the_other_and_then_the_one_of_all(tmp_path):
    attempt(tmp_path / "runs", "7_1", 100)
    builder = attempt(tmp_path / "runs", "7_2", 200)
    printed = analyze(builder).stdout
    headlines = [line for line in printed.splitlines() if line.startswith(PLAN.run_id)]
    assert ["attempt 7_1" in headlines[0], "attempt 7_2" in headlines[1]] == [True, True]
    assert "all 2 attempts together: 7_1, 7_2" in headlines[2]
    assert "loss_last_across_attempts_median" in printed
    report = builder.run.report
    written = pd.read_csv(report / "kpis.csv")
    assert tuple(written.columns) == COLUMNS
    assert only(written, "samples_total")["value"] == 300
    assert len(pd.read_parquet(report / "kpis.parquet")) == len(written)
    said = json.loads((report / "MANIFEST.json").read_text())
    assert [one["name"] for one in said["attempts"]] == ["7_1", "7_2"]
    assert said["state"] == "incomplete"
    assert all(reason.startswith("attempt 7_") for reason in said["reasons"])
    as_json = json.loads(analyze(builder, "--format", "json").stdout)
    assert len(as_json["rows"]) == len(written), "one document: that of all"


def test_reports_elsewhere_have_a_folder_each(tmp_path):
    attempt(tmp_path / "runs", "7_1", 100)
    builder = attempt(tmp_path / "runs", "7_2", 200)
    analyze(builder, "--out", tmp_path / "out")
    found = {path.parent.name for path in (tmp_path / "out").rglob("kpis.csv")}
    assert found == {"7_1", "7_2", "merged"}
    assert not builder.run.report.exists()
    analyze(builder, "--attempt", "7_2", "--out", tmp_path / "one")
    assert (tmp_path / "one" / "kpis.csv").exists()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--attempt", "7_3"), 2, "--attempt 7_3: there is no such attempt; give last or one of"),
        (("--phase", "nope"), 1, "no phase 'nope' began in any of 2 attempts"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, options, code, said):
    attempt(tmp_path / "runs", "7_1", 100)
    builder = attempt(tmp_path / "runs", "7_2", 200)
    (line,) = analyze(builder, *options, code=code).stderr.splitlines()
    assert said in line


def test_one_phase_of_those_that_began_it(tmp_path):
    attempt(tmp_path / "runs", "7_1", 100, phases=("main", "after"))
    builder = attempt(tmp_path / "runs", "7_2", 200)
    done = analyze(builder, "--phase", "after", "--format", "json")
    assert done.stderr == ""
    table = pd.DataFrame(json.loads(done.stdout)["rows"])
    assert only(table, "samples_total")["reason"] == "phase_not_begun"


def test_names_of_attempts_in_a_notebook(tmp_path):
    attempt(tmp_path / "runs", "7_1", 100)
    builder = attempt(tmp_path / "runs", "7_2", 200)
    run = jobmeter.open_run(builder.run.run)
    table = run.kpis(attempt="*", kpi="samples_total", entity="job")
    assert list(table.columns) == ["attempt", *COLUMNS]
    assert dict(zip(table["attempt"], table["value"], strict=True)) == {
        "7_1": 100,
        "7_2": 200,
        "merged": 300,
    }
    assert "attempt" not in run.kpis().columns
    with pytest.raises(ValueError, match="no attempt '7_3' in this run; did you mean '7_"):
        run.kpis(attempt="7_3")
