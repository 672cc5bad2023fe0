"""Runs as an analyst opens them: of recordings that are committed, and of built ones."""

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from attempts import RUN_ID, T0, AttemptBuilder

import jobmeter
from jobmeter.errors import JobmeterError, RecordingError, RunFolderError
from jobmeter.paths import RunPaths
from jobmeter_analysis import samples
from jobmeter_analysis.engine import COLUMNS, analyze_attempt
from jobmeter_analysis.run import Run
from jobmeter_analysis.samples import Query

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "fixtures" / "runs"
PAGE = ROOT / "docs" / "analysis.md"
TIME = "datetime64[ms, UTC]"


def only(folder: Path) -> Path:
    (one,) = (path for path in folder.iterdir() if path.is_dir())
    return one


TRAINING = only(RUNS / "training")
SERVING = only(RUNS / "serving")


@pytest.fixture(scope="module")
def training() -> Run:
    return jobmeter.open_run(TRAINING)


@pytest.fixture(scope="module")
def serving() -> Run:
    return jobmeter.open_run(str(SERVING))


# --- opening


@pytest.mark.parametrize("inside", [".", "job.yaml", "attempts", "attempts/local/tsdb/wal"])
def test_any_path_inside_a_run_opens_it(inside):
    run = jobmeter.open_run(TRAINING / inside)
    assert (run.path, run.attempt, run.attempts) == (TRAINING, "local", ("local",))


def test_a_relative_path_is_enough(monkeypatch):
    monkeypatch.chdir(TRAINING / "attempts" / "local")
    assert jobmeter.open_run(".").path == TRAINING
    assert jobmeter.open_run("../..").path == TRAINING


def several_attempts(root: Path) -> AttemptBuilder:
    """A run that was requeued: its folder was copied, so times of files say nothing."""
    for name, at in (("4242.r1", 5_000), ("4242", 0), ("4242.r2", 9_000)):
        builder = AttemptBuilder(root / name.replace(".", "-"), name=name)
        builder.job_start(at)
        builder.phase("main", at + 1_000, at + 2_000)
    for name in ("4242", "4242-r1"):
        shutil.copytree(root / name / RUN_ID / "attempts", builder.run.attempts, dirs_exist_ok=True)
    return builder


def test_the_attempt_that_began_last_is_the_one_unless_another_is_named(tmp_path):
    folder = several_attempts(tmp_path).run.run
    run = jobmeter.open_run(folder)
    assert run.attempts == ("4242", "4242.r1", "4242.r2")
    assert run.attempt == "4242.r2"
    assert jobmeter.open_run(folder, attempt="4242").attempt == "4242"
    assert jobmeter.open_run(folder / "attempts" / "4242.r1").attempt == "4242.r1"
    assert jobmeter.open_run(folder, attempt="4242").events()["time"].iloc[0] == pd.Timestamp(
        T0, unit="ms", tz="UTC"
    )
    with pytest.raises(RunFolderError, match=r"no attempt '4242\.r3'; did you mean '4242\.r"):
        jobmeter.open_run(folder, attempt="4242.r3")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere", "there is no such file or folder"),
        (RUNS / "training", "a folder of runs; open one, such as train-cpu"),
        (RUNS, "no run; give a folder that 'jobmeter run'"),
    ],
)
def test_what_is_no_run_says_what_to_do(path, said):
    with pytest.raises(RunFolderError, match=said):
        jobmeter.open_run(path)


def test_a_job_that_has_not_begun_is_no_riddle(tmp_path):
    shutil.copy(TRAINING / "run.json", tmp_path)
    with pytest.raises(RunFolderError, match="the job has not begun"):
        jobmeter.open_run(tmp_path)


def test_the_command_line_does_not_load_the_analysis():
    code = "import sys, jobmeter, jobmeter.cli; print('pandas' in sys.modules, dir(jobmeter))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded, _, names = done.stdout.partition(" ")
    assert loaded == "False"
    assert "'open_run'" in names


def test_a_name_that_jobmeter_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'open_ran'"):
        jobmeter.open_ran  # noqa: B018


def test_a_run_shows_itself_without_being_analysed(training, tmp_path):
    run = jobmeter.open_run(TRAINING)
    assert repr(run) == f"open_run({str(TRAINING)!r})"
    shown = run._repr_html_()
    assert "phases warmup, train, again" in shown
    assert "2026-11-22 20:32:21 UTC" in shown
    assert "exit code 0" in shown
    assert "_analysis" not in vars(run)
    assert "attempt='4242.r2'" in repr(jobmeter.open_run(several_attempts(tmp_path).run.run))


# --- KPIs


def test_kpis_without_filters_are_the_whole_table(training):
    paths = RunPaths(TRAINING)
    table = analyze_attempt(paths, paths.attempt("local")).table
    pd.testing.assert_frame_equal(training.kpis(), table)
    assert tuple(training.kpis().columns) == COLUMNS


def test_what_is_certain_of_the_training_run(training):
    steps = training.kpis(kpi="steps_total", entity="training@n1").set_index("phase")
    assert steps["value"].to_dict() == {"warmup": 2_000, "train": 12_000, "again": 4_000}
    assert set(steps["status"]) == {"exact"}
    counted = training.kpis(kpi="samples_total", entity="training@n1", phase="again")
    assert counted["value"].tolist() == [2_048 * 4_000]


def test_what_is_certain_of_the_serving_run(serving):
    rows = serving.kpis(phase="benchmark", entity="job", kpi=["requests_total", "*_tokens_total"])
    values = rows.set_index("kpi")["value"]
    assert values["requests_total"] == 300
    assert values["prompt_tokens_total"] == 38_400
    assert values["output_tokens_total"] == 14_400


def test_filters_are_names_lists_and_patterns_that_all_must_fit(training):
    rows = training.kpis(phase=["train", "again"], kpi="step_seconds_p*", status="bounded")
    assert set(rows["phase"]) == {"train", "again"}
    assert set(rows["kpi"]) == {"step_seconds_p50", "step_seconds_p95", "step_seconds_p99"}
    assert rows.index.tolist() == list(range(len(rows)))
    assert set(training.kpis(scope="node")["scope"]) == {"node"}
    assert set(training.kpis(entity="training@n1")["entity"]) == {"training@n1"}
    assert training.kpis(scope="rank").empty
    assert training.kpis(kpi=[]).empty


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"phase": "tarin"}, "no phase 'tarin' in this run; did you mean 'train'?"),
        ({"scope": "nodes"}, "no scope 'nodes' in this run; did you mean 'node'?"),
        ({"status": "ok"}, "no status 'ok' in this run; there are bounded, estimated, exact"),
        ({"kpi": "step_second_p95"}, "did you mean 'step_seconds_p95'?"),
        ({"kpi": ["steps_total", "nothing_*"]}, "no kpi 'nothing_*'"),
        ({"entity": "training"}, "did you mean 'training@n1'?"),
    ],
)
def test_a_name_that_is_not_known_is_an_error_with_the_nearest(training, filters, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        training.kpis(**filters)


def test_frames_are_copies(training):
    changed = training.kpis()
    changed["value"] = 0.0
    assert set(training.kpis(kpi="steps_total", phase="train")["value"]) == {12_000}


# --- samples


def test_a_counter_of_the_payload_is_told_by_its_edges(serving):
    by_ours = serving.series("vllm_generation_tokens_total", phase="benchmark")
    as_exposed = serving.series("vllm:generation_tokens_total", phase="benchmark")
    pd.testing.assert_frame_equal(by_ours.drop(columns="metric"), as_exposed.drop(columns="metric"))
    assert set(as_exposed["metric"]) == {"vllm:generation_tokens_total"}
    assert list(by_ours.columns) == [
        *("time", "metric", "value", "node", "service", "source"),
        *("engine", "model_name"),
    ]
    assert str(by_ours["time"].dtype) == TIME
    assert by_ours["time"].is_monotonic_increasing
    edges = by_ours[by_ours["source"] == "edge"]["value"]
    assert edges.iloc[-1] - edges.iloc[0] == 14_400
    phase = serving.phases().set_index("phase").loc["benchmark"]
    recorded = by_ours[by_ours["source"] == "recording"]["time"]
    assert ((recorded >= phase["start"]) & (recorded < phase["end"])).all()
    assert len(recorded) in range(31, 35)


def test_without_a_phase_all_samples_are_there(serving):
    whole = serving.series("vllm_generation_tokens_total")
    part = serving.series("vllm_generation_tokens_total", phase="benchmark")
    assert len(whole) > len(part)
    assert whole["value"].max() == 960 + 14_400


def test_a_histogram_is_its_parts(training):
    frame = training.series("training_step_duration_seconds", phase="train")
    name = "training_step_duration_seconds"
    assert set(frame["metric"]) == {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    assert frame["le"].dtype == np.float64
    assert frame["le"].notna().equals(frame["metric"] == f"{name}_bucket")
    buckets = training.series(f"{name}_bucket", phase="train")
    assert np.isinf(buckets["le"].max())
    last = buckets[buckets["source"] == "edge"].groupby("le")["value"].last()
    assert last.is_monotonic_increasing
    assert last.iloc[-1] == 12_000
    (exact,) = training.series(f'{name}_bucket{{le="inf"}}', phase="train")["le"].unique()
    assert np.isinf(exact)


def test_labels_choose_and_colliding_ones_get_another_name(training):
    idle = training.series('node_cpu_seconds_total{mode="idle", cpu="0"}')
    assert set(idle["mode"]) == {"idle"}
    assert set(idle["cpu"]) == {"0"}
    assert training.series('node_cpu_seconds_total{node="n2"}').empty
    assert training.series('node_cpu_seconds_total{nothing=""}').shape[0] > len(idle)
    origin = training.series("job_source_info")
    assert set(origin["source"]) == {"edge", "recording"}
    assert "exported_source" in origin


def test_what_prometheus_says_of_the_targets_is_there(training):
    up = training.series('up{service="training"}')
    assert set(up["value"]) == {0.0, 1.0}
    assert (up["value"] == 0).sum() == training.coverage()["scrapes_failed"].max()


def test_a_known_metric_that_was_not_recorded_is_empty(training):
    for name in ("vllm_requests_running", "vllm_ttft_seconds_bucket"):
        frame = training.series(name)
        assert frame.empty
        assert str(frame["time"].dtype) == TIME


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("training_los", "no metric 'training_los' in train-cpu"),
        ("training_los", "did you mean 'training_loss'?"),
        ("rate(training_samples_total[5m])", "this is not PromQL"),
        ('node_cpu_seconds_total{mode=~"i.*"}', "'=~' is not supported, only '='; ask for all of"),
        ('node_cpu_seconds_total{mode!="idle"}', "filter the column 'mode'"),
        ("node_cpu_seconds_total{mode=idle}", "'mode=idle' is not understood"),
        ("", "is no selector"),
    ],
)
def test_a_selector_that_cannot_be_answered_says_why(training, selector, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        training.series(selector)


def test_a_phase_that_is_not_there(training):
    with pytest.raises(ValueError, match=r"no phase 'trian'.*did you mean 'train'"):
        training.series("up", phase="trian")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a:b_total", {}),
        (" a {} ", {}),
        ('a{x="1",}', {"x": "1"}),
        (r'a{x="say \"}\"", y = "b,c"}', {"x": 'say "}"', "y": "b,c"}),
    ],
)
def test_selectors_are_read_as_prometheus_writes_them(text, labels):
    assert Query.parse(text).labels == labels


def test_what_can_be_asked_for(serving):
    metrics = serving.metrics()
    assert list(metrics.columns) == ["metric", "service", "type"]
    types = metrics.set_index("metric")["type"]
    assert types["vllm:generation_tokens_total"] == "counter"
    assert types["vllm:time_to_first_token_seconds"] == "histogram"
    for metric in ("vllm:time_to_first_token_seconds", "vllm:num_requests_running"):
        assert not serving.series(metric).empty


# --- the rest


def test_phases(training):
    phases = training.phases()
    assert phases["phase"].tolist() == ["warmup", "train", "again", "job"]
    assert [str(phases[side].dtype) for side in ("start", "end")] == [TIME, TIME]
    assert phases["seconds"].tolist() == pytest.approx(
        (phases["end"] - phases["start"]).dt.total_seconds().tolist()
    )
    rows = training.kpis(kpi="phase_seconds").set_index("phase")["value"]
    assert phases.set_index("phase")["seconds"].to_dict() == pytest.approx(rows.to_dict())
    assert phases["exit_code"].tolist() == [0, 0, 0, 0]
    assert set(phases["end_source"]) == {"mark"}
    assert set(phases["interrupted_by"]) == {""}


def test_coverage(training):
    coverage = training.coverage()
    assert len(coverage) == 3 * 4
    assert coverage["phase"].unique().tolist() == ["warmup", "train", "again"]
    assert coverage["up"].all()
    assert coverage["coverage"].between(0.99, 1).all()
    assert (coverage["largest_gap_seconds"] < 2).all()
    stack = coverage[coverage["kind"] == "stack"]
    assert set(stack["edges"]) == {"start+end"}
    payload = coverage[coverage["kind"] == "payload"]
    assert set(payload["edges"]) == {"end"}  # each phase is a process of its own


def test_events(training):
    events = training.events()
    assert str(events["time"].dtype) == TIME
    assert events["time"].is_monotonic_increasing
    assert events["event"].iloc[[0, -1]].tolist() == ["job_start", "job_end"]
    ends = events[events["event"] == "phase_end"]
    assert ends["phase"].tolist() == ["warmup", "train", "again"]
    assert ends["exit_code"].tolist() == [0, 0, 0]
    starts = events[events["event"] == "component_start"]
    assert str(events["node_t"].dtype) == TIME
    assert ((starts["node_t"] - starts["time"]).abs() < pd.Timedelta("1s")).all()
    assert events.loc[events["event"] == "job_end", "phase"].isna().all()
    fields = events.drop(columns=["time", "node", "event"])
    assert "object" not in map(str, fields.dtypes)


def test_the_manifest_is_that_of_the_analysis(training):
    assert training.manifest["state"] == "complete"
    assert training.manifest["run_id"] == TRAINING.name


def test_without_slurm_nothing_is_said(training):
    said = training.slurm()
    assert said.empty
    assert list(said.columns) == ["value", "source"]


def test_what_slurm_said_with_who_said_it(tmp_path):
    builder = AttemptBuilder(tmp_path)
    builder.job_start()
    data = {
        "schema_version": 1,
        "job_id": "4242",
        "state": "COMPLETED",
        "final": True,
        "source": "sacct",
        "start_s": T0 // 1000,
        "elapsed_s": 80,
    }
    builder.attempt.accounting.write_text(json.dumps(data))
    said = jobmeter.open_run(builder.run.run).slurm()
    assert said.index.name == "field"
    assert said.loc["state", "value"] == "COMPLETED"
    assert said.loc["start_s", "value"] == pd.Timestamp(T0, unit="ms", tz="UTC")
    assert said.loc["elapsed_s", "value"] == 80
    assert said.loc["max_rss_bytes", "value"] is None
    assert set(said["source"]) == {"sacct"}


def test_an_attempt_of_which_nothing_is_known_but_that_it_began(tmp_path):
    builder = AttemptBuilder(tmp_path)
    builder.job_start()
    run = jobmeter.open_run(builder.run.run)
    assert len(run.events()) == 1
    assert run.manifest["state"] == "failed"
    assert run.phases().empty
    assert run.coverage().empty
    assert str(run.phases()["start"].dtype) == TIME
    with pytest.warns(UserWarning, match="no recording here"):
        assert run.series("vllm_requests_running").empty


def test_an_attempt_that_left_nothing_is_an_error_at_the_first_question(tmp_path):
    builder = AttemptBuilder(tmp_path)
    run = jobmeter.open_run(builder.run.run)
    assert run.events().empty
    with pytest.raises(RunFolderError, match="left no events, edges or recording"):
        run.kpis()


# --- recordings without a run folder


def test_a_recording_without_a_run_folder():
    run = jobmeter.open_run(TRAINING)
    train = run.phases().set_index("phase").loc["train"]
    foreign = jobmeter.open_recording(tsdb(TRAINING), train["start"], train["end"])
    assert foreign.path == str(tsdb(TRAINING))
    (row,) = foreign.kpis(kpi="samples_total", entity="training@n1").to_dict("records")
    assert row["phase"] == "window"
    assert row["low"] <= 2_048 * 12_000
    assert foreign.phases()["phase"].tolist() == ["window"]
    assert foreign.coverage()["edges"].eq("").all()
    assert foreign.events().empty
    assert foreign.slurm().empty
    assert foreign.metrics().empty
    recorded = run.series("training_samples_total", phase="train")
    recorded = recorded[recorded["source"] == "recording"].reset_index(drop=True)
    pd.testing.assert_frame_equal(foreign.series("training_samples_total"), recorded)
    assert "open_run" not in repr(foreign)
    with pytest.raises(ValueError, match=r"no metric 'training_sample_total'.*did you mean"):
        foreign.series("training_sample_total")


def tsdb(run: Path) -> Path:
    return run / "attempts" / "local" / "tsdb"


def test_times_are_read_in_every_form_that_has_a_zone():
    start, end = 1_795_379_560, 1_795_379_570
    forms = [
        (start, end),
        (float(start), float(end)),
        (datetime.fromtimestamp(start, timezone.utc), pd.Timestamp(end, unit="s", tz="UTC")),
        ("2026-11-22T20:32:40Z", "2026-11-22T21:32:50+01:00"),
    ]
    for form in forms:
        phase = jobmeter.open_recording(tsdb(TRAINING), *form).phases().iloc[0]
        assert phase["start"] == pd.Timestamp(start, unit="s", tz="UTC")
        assert phase["seconds"] == 10
    with pytest.raises(ValueError, match="has no time zone"):
        jobmeter.open_recording(tsdb(TRAINING), "2026-11-22T20:32:40", end)
    with pytest.raises(ValueError, match="window is empty"):
        jobmeter.open_recording(tsdb(TRAINING), end, start)
    with pytest.raises(RecordingError, match="no such folder or file"):
        jobmeter.open_recording("nowhere", start, end)
    assert issubclass(RecordingError, JobmeterError)


def test_a_run_needs_no_right_to_write(training, tmp_path):
    copied = shutil.copytree(TRAINING, tmp_path / "run")
    before = sorted(copied.rglob("*"))
    for path in before:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        run = jobmeter.open_run(os.fspath(copied))
        assert len(run.kpis()) == len(training.kpis())
        assert sorted(copied.rglob("*")) == before
    finally:
        for path in before:
            path.chmod(0o700 if path.is_dir() else 0o600)


# --- the page


def test_the_worked_example_of_the_page_is_true(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = "".join(re.findall(r"```pycon\n(.*?)```", PAGE.read_text(), re.S))
    example = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(example.examples) > 10
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", ["kpis", "series", "metrics", "phases", "coverage", "events"])
def test_columns_are_documented(training, name):
    frame = training.series("up") if name == "series" else getattr(training, name)()
    (line,) = re.findall(rf"^\| `run\.{name}\(.*$", PAGE.read_text(), re.M)
    documented = re.findall(r"`(\w+)`", line.partition("|")[2].split("|", 2)[2])
    known = {"kpis": [], "series": samples.COLUMNS, "events": ["time", "node", "event"]}
    for column in known.get(name, frame.columns):
        assert column in documented, column
        assert f"``{column}``" in getattr(Run, name).__doc__, column


def test_every_column_of_the_table_is_documented():
    for column in COLUMNS:
        assert f"`{column}`" in PAGE.read_text()
        assert f"``{column}``" in Run.kpis.__doc__
