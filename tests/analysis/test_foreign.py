"""Recordings that have no run folder: targets are found, not planned."""

import json
import math

import numpy as np
import pytest
from attempts import T0, write_blocks

from jobmeter.window import Window
from jobmeter_analysis.engine import analyze_recording
from jobmeter_analysis.recording import Recorded, Series


def series(name, points, **labels):
    times = np.array([T0 + at for at, _ in points], np.int64)
    values = np.array([value for _, value in points], float)
    return Series({"__name__": name, **labels}, times, values, np.empty(0, np.int64))


def every_5_s(value_at, start=0, end=120_000):
    return [(at, value_at(at / 1000)) for at in range(start, end + 1, 5_000)]


def analyzed(*recorded, start=12_000, end=99_000):
    window = Window(T0 + start, T0 + end)
    return analyze_recording(Recorded(tuple(recorded)), window, "test")


def rows(analysis, kpi):
    table = analysis.table
    return {row["entity"]: row for row in table[table["kpi"] == kpi].to_dict("records")}


def test_a_counter_is_bounded_by_the_samples_around_the_window():
    one = series("training_samples_total", every_5_s(lambda t: 10 * t), job="t", instance="h:1")
    analysis = analyzed(one)
    row = rows(analysis, "samples_total")["t@h"]
    assert (row["low"], row["high"], row["status"]) == (800, 900, "bounded")
    assert row["value"] == pytest.approx(870)
    assert analysis.manifest["state"] == "complete"
    assert analysis.manifest["run_id"] == "test"


def test_instances_on_one_host_are_never_mixed():
    """Samples at the same times under the same labels but the port: two programs, not one."""
    many = [
        series(
            "training_samples_total",
            every_5_s(lambda t, n=n: n * t),
            job="train",
            instance=f"h:{8000 + n}",
        )
        for n in (1, 2)
    ]
    found = rows(analyzed(*many, start=10_000, end=100_000), "samples_total")
    assert found["train:8001@h"]["value"] == 90
    assert found["train:8002@h"]["value"] == 180


def test_a_label_set_that_appears_on_a_live_target_was_zero_before():
    alive = series("training_loss", every_5_s(lambda t: 1.0), job="t", instance="h:1")
    born = series(
        "training_samples_total", every_5_s(lambda t: 7.0, start=50_000), job="t", instance="h:1"
    )
    row = rows(analyzed(alive, born), "samples_total")["t@h"]
    assert (row["low"], row["value"], row["high"], row["status"]) == (7, 7, 7, "exact")


def test_a_counter_that_is_there_from_the_first_sample_has_no_known_birth():
    born = series(
        "training_samples_total", every_5_s(lambda t: 7.0, start=50_000), job="t", instance="h:1"
    )
    row = rows(analyzed(born), "samples_total")["t@h"]
    assert row["low"] == 0
    assert row["status"] != "exact"
    assert "window_not_bracketed" in row["reason"]


def test_a_window_before_the_first_sample_has_no_number():
    one = series("training_samples_total", every_5_s(lambda t: 10 * t), job="t", instance="h:1")
    row = rows(analyzed(one, start=-60_000, end=-30_000), "samples_total")["t@h"]
    assert math.isnan(row["value"])
    assert row["status"] == "unavailable"
    assert row["reason"]


def test_nothing_at_all_is_said_and_no_zero():
    analysis = analyzed()
    assert set(analysis.table["kpi"]) == {"phase_seconds"}
    assert analysis.manifest["state"] == "failed"


def test_a_clock_that_is_30_s_off_is_named():
    skewed = series(
        "node_time_seconds", every_5_s(lambda t: T0 / 1000 + t + 30), job="node", instance="h:9100"
    )
    memory = [
        series(name, every_5_s(lambda t, v=v: v), job="node", instance="h:9100")
        for name, v in (
            ("node_memory_MemTotal_bytes", 9.0),
            ("node_memory_MemAvailable_bytes", 4.0),
        )
    ]
    row = rows(analyzed(skewed, *memory), "memory_used_bytes_mean")["h"]
    assert (row["value"], row["reason"]) == (5, "clock_skew")


@pytest.mark.prometheus
def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    from jobmeter import cli

    labels = (("instance", "h:1"), ("job", "t"))
    points = [(T0 + at, value) for at, value in every_5_s(lambda t: 10 * t)]
    write_blocks({("training_samples_total", labels): points}, tmp_path / "data")
    window = ["--start", str(T0 / 1000 + 10), "--end", str(T0 / 1000 + 100)]
    arguments = ["analyze", "--source", str(tmp_path / "data"), *window, "--format", "json"]
    monkeypatch.setattr("sys.argv", ["jobmeter", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    answer = json.loads(capsys.readouterr().out)
    (row,) = [
        row for row in answer["rows"] if (row["kpi"], row["scope"]) == ("samples_total", "service")
    ]
    assert (row["low"], row["value"], row["high"], row["status"]) == (900, 900, 900, "exact")
    assert answer["manifest"]["state"] == "complete"
