"""From attempt folders with a known truth to the table, whole and in every state of damage."""

import json
import math
import shutil

import pandas as pd
import pytest
from attempts import RUN_ID, STACK, T0, TRAIN, manifest, run_info, training_text

from jobmeter.accounting import JobAccounting, write_accounting
from jobmeter.errors import RunFolderError
from jobmeter.manifest import PlannedTarget
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.window import Window
from jobmeter_analysis.catalogue import ATTEMPT, load_catalogue
from jobmeter_analysis.engine import COLUMNS, analyze_attempt
from jobmeter_analysis.recording import Recorded

pytestmark = pytest.mark.prometheus


def row(analysis, kpi, entity=None, phase="main"):
    """Return the one row; the total of one entity is left aside."""
    table = analysis.table
    found = table[(table["kpi"] == kpi) & (table["phase"] == phase)]
    if entity is not None:
        found = found[found["entity"] == entity]
    elif len(found) > 1:
        found = found[found["scope"] != "job"]
    assert len(found) == 1, found
    return found.iloc[0]


def number(one):
    return one["low"], one["value"], one["high"], one["status"]


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the complete attempt, to be damaged."""
    shutil.copytree(trained.run.run, tmp_path / "run")
    run = RunPaths(tmp_path / "run")
    return run, run.attempt(trained.name)


def test_table_matches_golden(trained, check_golden):
    analysis = analyze_attempt(trained.run, trained.attempt)
    assert tuple(analysis.table.columns) == COLUMNS
    text = analysis.table.to_csv(index=False, float_format="%.12g")
    check_golden("trained.csv", text)


def test_known_truth(trained):
    """The numbers that ``attempts.trained`` promises, by hand."""
    analysis = analyze_attempt(trained.run, trained.attempt)
    assert number(row(analysis, "samples_total")) == (600, 600, 600, "exact")
    assert number(row(analysis, "samples_per_second")) == (10, 10, 10, "exact")
    assert number(row(analysis, "steps_total")) == (100, 100, 100, "exact")
    assert row(analysis, "step_seconds_mean")["value"] == 0.2
    assert row(analysis, "step_seconds_mean")["status"] == "exact"
    assert number(row(analysis, "step_seconds_p50")) == (0.1, 0.25, 0.25, "bounded")
    assert number(row(analysis, "step_seconds_p95"))[::2] == (0.25, 0.5)
    assert row(analysis, "step_seconds_p99")["reason"] == "bucket_overflow;few_observations"
    assert row(analysis, "step_seconds_p99")["high"] == math.inf
    assert number(row(analysis, "loss_last")) == (0.5, 0.5, 0.5, "exact")
    assert row(analysis, "tokens_total")["reason"] == "metric_absent"
    assert number(row(analysis, "phase_seconds")) == (60, 60, 60, "exact")
    assert row(analysis, "cpu_utilization_ratio_mean", "n1")["value"] == pytest.approx(0.5)
    cores = row(analysis, "job_cpu_cores_mean", "job")
    assert cores["value"] == pytest.approx(2.8)
    assert cores["low"] <= 2.8 <= cores["high"]
    seconds = row(analysis, "job_cpu_seconds_total", "job")
    assert seconds["low"] <= 2 * 1.4 * 60 <= seconds["high"]
    assert row(analysis, "job_cpu_efficiency_ratio", "job")["value"] == pytest.approx(0.7)
    received = row(analysis, "network_receive_bytes_total", "n1")
    assert received["low"] <= 60_000 <= received["high"]
    assert row(analysis, "memory_used_bytes_mean", "n2")["value"] == 10 * 2**30
    assert analysis.manifest["state"] == "complete"
    assert analysis.manifest["reasons"] == []


def test_same_folder_same_table(trained):
    first = analyze_attempt(trained.run, trained.attempt)
    second = analyze_attempt(trained.run, trained.attempt)
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.manifest == second.manifest


def test_only_some_phases(trained):
    analysis = analyze_attempt(trained.run, trained.attempt, phases=["job"])
    assert set(analysis.table["phase"]) == {"job"}
    with pytest.raises(RunFolderError, match=r"no phase 'mian' in attempt 4242; it has main, job"):
        analyze_attempt(trained.run, trained.attempt, phases=["mian"])


def test_a_window_of_ones_own(trained):
    window = Window(T0 + 20_000, T0 + 50_000)
    analysis = analyze_attempt(trained.run, trained.attempt, window=window)
    assert set(analysis.table["phase"]) == {"window"}
    moved = row(analysis, "samples_total", phase="window")
    assert moved["status"] == "bounded"
    assert moved["low"] <= 300 <= moved["high"]
    assert moved["value"] == pytest.approx(300, abs=1)
    assert row(analysis, "phase_seconds", phase="window")["value"] == 30


def test_the_edges_alone_still_give_what_they_know(damaged):
    run, attempt = damaged
    shutil.rmtree(attempt.tsdb)
    analysis = analyze_attempt(run, attempt)
    assert number(row(analysis, "samples_total")) == (600, 600, 600, "exact")
    assert row(analysis, "samples_total")["reason"] == ""
    assert row(analysis, "samples_total")["samples"] == 2
    assert number(row(analysis, "step_seconds_p50")) == (0.1, 0.25, 0.25, "bounded")
    cores = row(analysis, "job_cpu_cores_mean", "n1")
    assert cores["low"] <= 1.4 <= cores["high"]
    assert "source_degraded" in row(analysis, "memory_used_bytes_mean", "n1")["reason"]
    assert analysis.manifest["state"] == "incomplete"
    assert any("no recording here" in reason for reason in analysis.manifest["reasons"])


def test_the_recording_alone_brackets_the_truth(damaged):
    run, attempt = damaged
    shutil.rmtree(attempt.edges)
    analysis = analyze_attempt(run, attempt)
    moved = row(analysis, "samples_total")
    assert moved["low"] <= 600 <= moved["high"]
    assert (moved["status"], moved["source"]) == ("bounded", "recording")
    assert moved["coverage"] == 1


def lines_of(attempt):
    return attempt.events.read_text().splitlines()


def test_a_killed_job_has_no_end_mark(damaged):
    run, attempt = damaged
    kept = [line for line in lines_of(attempt) if json.loads(line)["t"] < T0 + 20_000]
    attempt.events.write_text("\n".join(kept) + "\n")
    shutil.rmtree(attempt.edge("main", "end"))
    analysis = analyze_attempt(run, attempt)
    elapsed = row(analysis, "phase_seconds")
    assert (elapsed["value"], elapsed["high"]) == (68, math.inf)  # to the last scrape
    assert elapsed["reason"] == "end_unmarked"
    moved = row(analysis, "samples_total")
    assert (moved["low"], moved["value"], moved["high"]) == (600, 600, math.inf)
    assert moved["reason"] == "window_not_bracketed"
    assert analysis.manifest["state"] == "incomplete"
    assert "phase 'main' has no end mark" in analysis.manifest["reasons"]


def test_a_phase_that_a_signal_ended_says_so(damaged):
    run, attempt = damaged
    text = attempt.events.read_text().replace('"signal": null', '"signal": "TERM"')
    attempt.events.write_text(text)
    analysis = analyze_attempt(run, attempt)
    assert row(analysis, "phase_seconds")["reason"] == "phase_interrupted"
    assert analysis.manifest["reasons"] == ["phase 'main' was ended by TERM"]


def test_a_torn_line_of_events_is_passed_over(damaged):
    run, attempt = damaged
    text = attempt.events.read_text().rstrip("\n")
    attempt.events.write_text(text[:-10])
    analysis = analyze_attempt(run, attempt)
    assert number(row(analysis, "samples_total")) == (600, 600, 600, "exact")
    assert analysis.manifest["events"]["unreadable_lines"] == 1
    assert analysis.manifest["state"] == "incomplete"


def test_half_an_edge_never_counts_as_zero(damaged):
    run, attempt = damaged
    path = attempt.edge("main", "start") / "train@n1.prom"
    path.write_text(training_text(10, (0, 5, 5, 5, 5), 1.0, 9.0)[:20])
    analysis = analyze_attempt(run, attempt)
    moved = row(analysis, "samples_total")
    assert moved["low"] <= 600 <= moved["high"]
    assert moved["status"] == "bounded"
    assert "edge main.start/train@n1.prom is cut or damaged" in analysis.manifest["reasons"]


def test_a_missing_edge_file_is_named(damaged):
    run, attempt = damaged
    (attempt.edge("main", "end") / "train@n1.prom").unlink()
    analysis = analyze_attempt(run, attempt)
    moved = row(analysis, "samples_total")
    assert moved["low"] <= 600 <= moved["high"]
    assert any("main.end/train@n1.prom" in reason for reason in analysis.manifest["reasons"])


def test_a_strangers_exporter_gives_no_numbers(damaged):
    run, attempt = damaged
    for side in ("start", "end"):
        path = attempt.edge("main", side) / "cgroup@n2.prom"
        path.write_text(path.read_text().replace(RUN_ID, "someone-else"))
    analysis = analyze_attempt(run, attempt)
    theirs = row(analysis, "job_cpu_seconds_total", "n2")
    assert math.isnan(theirs["value"])
    assert theirs["reason"] == "foreign_target"
    both = row(analysis, "job_cpu_seconds_total", "job")
    assert (both["status"], both["high"]) == ("bounded", math.inf)
    assert both["low"] > 0
    assert "foreign_target: cgroup@n2" in analysis.manifest["reasons"]


def test_another_schema_version_is_refused(damaged):
    run, attempt = damaged
    run.manifest.write_text(
        run.manifest.read_text().replace('"schema_version": 1', '"schema_version": 9')
    )
    with pytest.raises(RunFolderError, match="schema version 9"):
        analyze_attempt(run, attempt)


def test_an_empty_attempt_is_refused(build):
    empty = build()
    with pytest.raises(RunFolderError, match="left no events, edges or recording"):
        analyze_attempt(empty.run, empty.attempt)


def test_without_events_the_rest_is_still_told(damaged):
    run, attempt = damaged
    attempt.events.unlink()
    analysis = analyze_attempt(run, attempt)
    assert analysis.table.empty
    assert analysis.manifest["state"] == "failed"
    assert analysis.manifest["nodes"]["observed"] == ["n1", "n2"]
    assert any("events.jsonl is missing" in reason for reason in analysis.manifest["reasons"])
    given = Window(T0 + 20_000, T0 + 50_000)
    assert not analyze_attempt(run, attempt, window=given).table.empty


def test_clocks_that_differ_are_named(damaged):
    run, attempt = damaged
    text = attempt.events.read_text().replace(f'"node_t": {T0 + 510}', f'"node_t": {T0 + 3000}', 1)
    attempt.events.write_text(text)
    analysis = analyze_attempt(run, attempt)
    assert "clock_skew" in row(analysis, "job_cpus", "n1")["reason"]
    assert "clock_skew" in row(analysis, "job_cpus", "job")["reason"]
    assert row(analysis, "job_cpus", "n2")["reason"] == ""


def accounting(**changes):
    values = {"job_id": "4242", "state": "COMPLETED", "final": True, "source": "sacct"}
    return JobAccounting(**{**values, "exit_code": 0, "elapsed_s": 81.0, **changes})


def test_accounting_is_joined(damaged):
    run, attempt = damaged
    write_accounting(accounting(), attempt.accounting)
    analysis = analyze_attempt(run, attempt)
    elapsed = row(analysis, "slurm_elapsed_seconds", phase="job")
    assert number(elapsed) == (81, 81, 81, "exact")
    assert elapsed["source"] == "sacct: COMPLETED"
    assert row(analysis, "slurm_max_rss_bytes", phase="job")["reason"] == "accounting_missing"
    assert analysis.manifest["slurm"]["state"] == "COMPLETED"


def test_accounting_that_may_still_change_counts_as_missing(damaged):
    run, attempt = damaged
    write_accounting(accounting(state="RUNNING", final=False), attempt.accounting)
    elapsed = row(analyze_attempt(run, attempt), "slurm_elapsed_seconds", phase="job")
    assert (elapsed["status"], elapsed["reason"]) == ("unavailable", "accounting_missing")


def test_a_local_attempt_has_no_slurm_rows(build):
    local = build(name="local")
    local.job_start(0)
    local.phase("main", 1000, 2000)
    analysis = analyze_attempt(local.run, local.attempt)
    assert not analysis.table["kpi"].str.startswith("slurm").any()


def test_a_payload_without_our_metrics_is_told_once_per_kpi(build):
    two = build(plan=manifest(targets=(TRAIN, PlannedTarget("other", "first_node", "payload"))))
    two.job_start(0)
    two.phase("main", 10_000, 70_000)
    for side, at, value in (("start", 9_900, 1), ("end", 70_010, 5)):
        text = f"# TYPE other_things counter\nother_things {value}\n"
        two.edge("main", side, "other", text, at, at + 5)
        two.edge("main", side, "train", "", at, at + 5, status="connection refused")
    analysis = analyze_attempt(two.run, two.attempt)
    steps = row(analysis, "steps_total")
    assert steps["entity"] == "payload"
    assert steps["reason"] == "target_never_up;source_degraded;not_instrumented"
    assert number(row(analysis, "other_things")) == (4, 4, 4, "exact")


def test_the_exposition_that_a_payload_left_is_its_end(build):
    left = build(plan=manifest(targets=(TRAIN,)))
    left.job_start(0)
    left.phase("main", 10_000, 70_000)
    left.edge("main", "start", "train", "", 9_900, 9_905, status="connection refused")
    text = training_text(640, (0, 5, 5, 5, 5), 1.0, 0.25)
    left.edge("main", "end", "train", text, 70_010, 70_015, status="left")
    analysis = analyze_attempt(left.run, left.attempt)
    assert number(row(analysis, "samples_total")) == (640, 640, 640, "exact")
    assert row(analysis, "loss_last")["value"] == 0.25
    assert number(row(analysis, "app_retries")) == (7, 7, 7, "exact")


def announced(build):
    """Two phases; a rank is found in the second, another lived too shortly to be found."""
    two = build(plan=manifest(targets=(), phases=("first", "second")))
    two.job_start(0)
    two.phase("first", 10_000, 70_000)
    two.event(72_000, "endpoint_found", service="training-rank0")
    two.phase("second", 71_000, 130_000)
    two.event(131_000, "job_end", exit_code=0)
    for rank, began in ((0, 75_000), (1, 125_000)):
        text = training_text(640, (0, 5, 5, 5, 5), 1.0, 0.25)
        text += f"process_start_time_seconds {(T0 + began) / 1000}\n"
        two.edge("second", "end", f"training-rank{rank}", text, 130_010, 130_015, status="left")
    return two


@pytest.mark.parametrize("told", [True, False])
def test_a_rank_of_the_next_phase_is_another_process_that_began_at_zero(build, told):
    """The first has said its last words, so nobody is asked at the start of the second phase."""
    two = build(plan=manifest(targets=(), phases=("first", "second")))
    two.job_start(0)
    two.phase("first", 10_000, 70_000)
    two.phase("second", 71_000, 130_000)
    two.event(131_000, "job_end", exit_code=0)
    processes = (("first", 70_000, 12_000, 90), ("second", 130_000, 75_000, 640))
    for phase, end, began, samples in processes:
        text = training_text(samples, (0, 5, 5, 5, 5), 1.0, 0.25)
        text += f"process_start_time_seconds {(T0 + began) / 1000}\n" if told else ""
        two.edge(phase, "end", "training-rank0", text, end + 10, end + 15, status="left")
    found = number(row(analyze_attempt(two.run, two.attempt), "samples_total", phase="second"))
    # A process that does not say when it began may be the one before.
    assert (found == (640, 640, 640, "exact")) == told, found


def test_what_a_later_phase_begins_to_count_is_no_part_of_the_phases_before(build):
    two = build(plan=manifest(targets=(TRAIN,), phases=("first", "second")))
    two.job_start(0)
    two.phase("first", 10_000, 70_000)
    two.phase("second", 71_000, 130_000)
    two.event(131_000, "job_end", exit_code=0)
    kinds = 'things_total{kind="a"} '
    texts = {
        ("first", "start"): f"{kinds}5\n",
        ("first", "end"): f"{kinds}25\n",
        ("second", "start"): f"{kinds}25\n",
        ("second", "end"): f'{kinds}25\nthings_total{{kind="b"}} 60\n',
    }
    moments = {"first": (9_900, 70_010), "second": (70_900, 130_010)}
    for (phase, side), text in texts.items():
        at = moments[phase][side == "end"]
        two.edge(phase, side, "train", f"# TYPE things_total counter\n{text}", at, at + 5)
    analysis = analyze_attempt(two.run, two.attempt)
    for phase, truth in (("first", 20), ("second", 60)):
        found = number(row(analysis, "things_total", phase=phase))
        assert found == (truth, truth, truth, "exact"), phase


def test_a_rank_that_is_announced_later_is_no_part_of_the_phases_before(build):
    two = announced(build)
    analysis = analyze_attempt(two.run, two.attempt)
    of_first = analysis.table[analysis.table["phase"] == "first"]
    assert not of_first["entity"].str.startswith("training").any()
    assert not of_first["kpi"].isin(["samples_total", "steps_total"]).any()
    total = row(analysis, "samples_total", "job", phase="second")
    assert number(total) == (1280, 1280, 1280, "exact")
    assert [list(t["phases"]) for t in analysis.manifest["targets"]] == [["second"]] * 2
    assert not [r for r in analysis.manifest["reasons"] if "training" in r]


def test_a_process_that_is_found_late_may_have_counted_before(build):
    two = announced(build)
    old = T0 + 20_000
    for path in two.attempt.edge("second", "end").glob("*rank0*.prom"):
        path.write_text(path.read_text().replace(f"{(T0 + 75_000) / 1000}", f"{old / 1000}"))
    analysis = analyze_attempt(two.run, two.attempt)
    before = row(analysis, "samples_total", "training-rank0@n1", phase="first")
    assert (before["low"], before["high"]) == (0, 640)
    after = row(analysis, "samples_total", "training-rank0@n1", phase="second")
    assert (after["low"], after["high"]) == (0, 640)


def test_fetches_of_the_boot_are_samples(damaged):
    """Prometheus takes up its targets late; until then the job fetches by itself."""
    run, attempt = damaged
    shutil.rmtree(attempt.tsdb)
    shutil.rmtree(attempt.edge("main", "start"))
    for number_, at in enumerate((6_000, 11_000)):
        folder = attempt.edges / f"boot.{number_}"
        folder.mkdir()
        times = {"before_ms": T0 + at, "after_ms": T0 + at + 10, "status": "ok"}
        fetch = {"node": "n1", "service": "train", "file": "train@n1.prom", **times}
        (folder / "fetches.jsonl").write_text(json.dumps(fetch) + "\n")
        text = training_text(10 + 5 * number_, (0, 5, 5, 5, 5), 1.0, 9.0)
        (folder / "train@n1.prom").write_text(text)
    moved = row(analyze_attempt(run, attempt), "samples_total")
    assert (moved["low"], moved["high"], moved["status"]) == (595, 600, "bounded")


def test_a_gap_in_the_recording_is_named(build):
    gappy = build(plan=manifest(targets=STACK[:1]))
    gappy.job_start(0)
    gappy.phase("main", 10_000, 70_000)
    for at in [*range(8_000, 30_000, 5000), *range(53_000, 75_000, 5000)]:
        gappy.record("node", "up", [(at, 1)])
        gappy.record("node", "jobmeter_run_info", [(at, 1)], labels={"exported_run_id": RUN_ID})
        gappy.record("node", "node_memory_MemTotal_bytes", [(at, 100)])
        gappy.record("node", "node_memory_MemAvailable_bytes", [(at, 40)])
    gappy.write_tsdb()
    analysis = analyze_attempt(gappy.run, gappy.attempt)
    memory = row(analysis, "memory_used_bytes_mean")
    assert memory["value"] == 60
    assert memory["reason"] == "sample_gap"
    assert memory["coverage"] == pytest.approx(35 / 60)
    target = analysis.manifest["targets"][0]["phases"]["main"]
    assert target["largest_gap_seconds"] == 25
    assert target["coverage"] == pytest.approx(35 / 60)
    assert analysis.manifest["state"] == "incomplete"


@pytest.mark.parametrize("ends", [{}, {"never": True}])
def test_absent_is_never_zero(build, ends):
    """Every KPI of the catalogue on a recording that holds nothing."""
    silent = build(plan=manifest(targets=(*STACK, TRAIN)))
    silent.job_start(0)
    silent.phase("main", 10_000, 70_000)
    if ends:
        for side, at in (("start", 9_900), ("end", 70_010)):
            for planned in (*STACK, TRAIN):
                text = run_info() if planned.kind == "stack" else "unknown 1\n"
                silent.edge("main", side, planned.service, text, at, at + 5)
    analysis = analyze_attempt(silent.run, silent.attempt, recording=Recorded())
    seen = analysis.table[analysis.table["kpi"] != "phase_seconds"]
    planned = {target.service for target in (*STACK, TRAIN)} | {ATTEMPT}
    promised = {
        name
        for group in load_catalogue().values()
        if group.fallback or planned.intersection(group.services)
        for name, kpi in group.kpis.items()
        if not kpi.optional and kpi.formula is None
    }
    assert promised - {"phase_seconds"} <= set(seen["kpi"])
    assert seen["value"].isna().all()
    assert (seen["status"] == "unavailable").all()
    assert (seen["reason"] != "").all()
    assert not (analysis.table["value"] == 0).any()


def test_state_of_nothing_at_all(build):
    nothing = build()
    nothing.job_start(0)
    nothing.event(5000, "phase_skipped", phase="main")
    analysis = analyze_attempt(nothing.run, nothing.attempt)
    assert analysis.manifest["state"] == "failed"
    assert "phase 'main' did not begin" in analysis.manifest["reasons"]
    assert analysis.manifest["phases_skipped"] == ["main"]


def test_a_folder_that_is_no_attempt(trained, tmp_path):
    with pytest.raises(RunFolderError):
        analyze_attempt(trained.run, AttemptPaths(tmp_path / "nothing"))
    with pytest.raises(RunFolderError, match=r"no run\.json here"):
        analyze_attempt(RunPaths(tmp_path), trained.attempt)
