"""The write-ahead log: any log in any form, and logs with damage."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_writer import (
    PAGE,
    LogWriter,
    samples_record,
    samples_v2_record,
    series_record,
    tombstones_record,
)
from prometheus_programs import STALE, dumped, programs

from jobmeter.errors import RecordingError
from jobmeter.window import Window
from jobmeter_analysis.recording import Selector
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

EVERYTHING = [Selector("", suffix=True)]
T0 = 1_700_000_000_000

VALUES = st.one_of(
    st.integers(0, 1 << 64).map(lambda number: struct.pack(">Q", number % (1 << 64))),
    st.floats().map(lambda number: struct.pack(">d", number)),
    st.just(struct.pack(">Q", STALE)),
)


class Log(tuple):
    """Records, what they hold, and whether newer ones are among them; shown in few words."""

    def __repr__(self):
        return f"<{len(self[0])} records of {len(self[1])} series>"


@st.composite
def logs(draw):
    """Return records, and what they hold: bits by time by label set."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    targets, ref, kinds = [], draw(st.integers(1, 1 << 39)), []
    records = []
    for number in range(draw(st.integers(1, 3))):
        size = draw(st.sampled_from([1, 2, 70, 900]))
        refs = [ref + int(step) for step in np.cumsum(rng.choice([1, 1, 1, 90, 9000], size))]
        if draw(st.booleans()):
            refs.reverse()
        ref = max(refs)
        kinds.append(draw(st.sampled_from(["old", "old", "new"])))
        series = {one: {"__name__": f"m{one % 7}", "t": str(number), "r": str(one)} for one in refs}
        records.append(series_record(series))
        targets.append((series, refs))
    odd = draw(st.lists(VALUES, min_size=1, max_size=5))
    expected: dict = {}
    for step in range(draw(st.integers(1, 12))):
        for (series, refs), kind in zip(targets, kinds, strict=True):
            there = [one for one in refs if rng.random() < draw(st.sampled_from([1.0, 1.0, 0.9]))]
            shift = draw(st.sampled_from([0, 0, 0, 1, -70]))
            samples = []
            for place, one in enumerate(there):
                value = odd[place % len(odd)] if place % 11 == 5 else struct.pack(">d", step * one)
                at = T0 + 5000 * step + number + (shift if place % 13 == 7 else 0)
                samples.append((one, at, value))
                points = expected.setdefault(frozenset(series[one].items()), {})
                points[at] = int.from_bytes(value, "big")
            if samples and kind == "old":
                records.append(samples_record(samples))
            elif samples:
                starts = [int(rng.choice([0, T0 - 5, T0 - 9000])) for _ in samples]
                records.append(samples_v2_record(samples, starts))
    return Log((records, expected, "new" in kinds))


def written(folder, records, compression, pages, checkpointed=0):
    if checkpointed:
        checkpoint = LogWriter(folder / "wal" / "checkpoint.00000004", compression, pages)
        for record in records[:checkpointed]:
            checkpoint.log(record)
        checkpoint.close()
    writer = LogWriter(folder / "wal", compression, pages, first=5 if checkpointed else 0)
    for record in records[checkpointed:]:
        writer.log(record)
    writer.close()


def read(source, span=None):
    found = {}
    for series in source.select(EVERYTHING, span):
        points = dict(
            zip(series.times_ms.tolist(), series.values.view(np.uint64).tolist(), strict=True)
        )
        points.update(dict.fromkeys(series.stale_ms.tolist(), STALE))
        found[frozenset(series.labels.items())] = points
    return found


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    log=logs(),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
    pages=st.sampled_from([1, 2, 3, 4096]),
    checkpointed=st.booleans(),
    window=st.tuples(st.integers(-1, 13), st.integers(1, 14)),
)
def test_any_log_is_read_to_the_bit(tmp_path, log, compression, pages, checkpointed, window):
    folder = tmp_path / "data"
    records, expected, _ = log
    written(folder, records, compression, pages, len(records) // 2 if checkpointed else 0)
    source = PrometheusFolder(folder)
    assert read(source) == expected
    assert source.problems == ()
    span = Window(T0 + 5000 * window[0], T0 + 5000 * (window[0] + window[1]))
    inside = {
        key: {at: value for at, value in points.items() if span.start_ms <= at < span.end_ms}
        for key, points in expected.items()
    }
    assert read(source, span) == {key: points for key, points in inside.items() if points}
    shutil.rmtree(folder)


@pytest.mark.prometheus
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(log=logs())
@pytest.mark.parametrize(("compression", "major"), [("none", 2), ("snappy", 2), ("zstd", 3)])
def test_promtool_reads_the_same_from_any_log(tmp_path, compression, major, log):
    version = programs(major)
    records, expected, newer = log
    if newer or any(list(points) != sorted(points) for points in expected.values()):
        return  # neither version at hand knows the new record; the head takes samples in order
    folder = tmp_path / "data"
    written(folder, records, compression, 4096)
    theirs = dumped(version, folder, tmp_path)
    comparable = {
        key: {at: struct.unpack("<d", struct.pack("<Q", v))[0] for at, v in points.items()}
        for key, points in expected.items()
    }
    same = {k: {t: repr(v) for t, v in points.items()} for k, points in comparable.items()}
    assert {k: {t: repr(v) for t, v in points.items()} for k, points in theirs.items()} == same
    shutil.rmtree(folder)


def simple(steps=400, series=200, first=1):
    """Return records of one target, a record a step."""
    described = {ref: {"__name__": "m", "r": str(ref)} for ref in range(first, first + series)}
    return [series_record(described)] + [
        samples_record([(ref, T0 + 5000 * step, float(step * ref)) for ref in described])
        for step in range(steps)
    ]


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_a_cut_at_the_end_is_named_and_costs_one_record(tmp_path):
    written(tmp_path, simple(), "snappy", 4096)
    segment = tmp_path / "wal" / "00000000"
    cut(segment, segment.stat().st_size - 1)
    source = PrometheusFolder(tmp_path)
    (some, *_) = found = source.select(EVERYTHING)
    assert len(found) == 200
    assert some.times_ms.size == 399
    (problem,) = source.problems
    assert "00000000 is cut inside its last record, as after a kill" in problem


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_damage_in_the_middle_costs_a_page_and_is_named(tmp_path, compression):
    written(tmp_path, simple(), compression, 4096)
    segment = tmp_path / "wal" / "00000000"
    data = bytearray(segment.read_bytes())
    data[3 * PAGE + 100] ^= 1
    segment.write_bytes(data)
    source = PrometheusFolder(tmp_path)
    found = source.select(EVERYTHING)
    lost = 400 - found[0].times_ms.size
    assert 1 <= lost < 40
    assert found[0].times_ms[-1] == T0 + 5000 * 399
    (problem,) = source.problems
    assert f"is damaged, the rest of it is used: a wrong checksum at byte {3 * PAGE}" in problem


def test_a_missing_segment_is_named(tmp_path):
    written(tmp_path, simple(), "none", 4)
    (tmp_path / "wal" / "00000003").unlink()
    source = PrometheusFolder(tmp_path)
    assert source.select(EVERYTHING)
    assert source.problems == ("wal: segments 3 to 3 of the log are missing",)


def test_samples_without_a_description_are_counted(tmp_path):
    records = simple(10, 5)
    written(tmp_path, [records[0], *simple(10, 3, first=90)[1:], *records[1:]], "none", 4096)
    source = PrometheusFolder(tmp_path)
    assert len(source.select(EVERYTHING)) == 5
    assert source.problems == ("the log holds 30 samples of series that it does not describe",)


def test_an_unknown_record_is_named_and_histograms_are_passed_over(tmp_path):
    records = simple(5, 2)
    written(tmp_path, [*records, b"\x07rest", b"\x63rest", b"\x02short"], "none", 4096)
    source = PrometheusFolder(tmp_path)
    assert len(source.select(EVERYTHING)) == 2
    assert len(source.problems) == 2
    assert "a record of unknown type 99" in source.problems[0]
    assert "cannot be decoded" in source.problems[1]


def test_deleted_samples_are_left_out(tmp_path):
    records = simple(10, 3)
    deleted = tombstones_record([(2, T0 + 5000, T0 + 15_000), (3, 0, 1 << 62)])
    written(tmp_path, [*records, deleted], "none", 4096)
    found = {one.labels["r"]: one for one in PrometheusFolder(tmp_path).select(EVERYTHING)}
    assert found.keys() == {"1", "2"}
    assert found["1"].times_ms.size == 10
    assert (found["2"].times_ms - T0).tolist() == [0, *range(20_000, 50_000, 5000)]


def test_a_series_with_two_references_is_one(tmp_path):
    again = [
        series_record({77: {"__name__": "m", "r": "1"}}),
        samples_record([(77, T0 + 3000, 5.0), (77, T0 + 99_000, math.inf)]),
        samples_record([(77, T0, 1000.0)]),  # the first one counts
    ]
    written(tmp_path, [*simple(2, 1), *again], "none", 4096)
    (one,) = PrometheusFolder(tmp_path).select(EVERYTHING)
    assert (one.times_ms - T0).tolist() == [0, 3000, 5000, 99_000]
    assert one.values.tolist() == [0.0, 5.0, 1.0, math.inf]


def test_series_that_ended_together_share_their_times(tmp_path):
    stale = struct.pack(">Q", STALE)
    end = samples_record([(ref, T0 + 5_000_000, stale) for ref in range(1, 201)])
    written(tmp_path, [*simple(), end], "snappy", 4096)
    found = PrometheusFolder(tmp_path).select(EVERYTHING)
    assert all(one.stale_ms.tolist() == [T0 + 5_000_000] for one in found)
    assert len({id(one.times_ms) for one in found}) == 1


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_damage_is_an_exception_and_what_is_read_was_written(tmp_path, data):
    folder = tmp_path / "data"
    written(folder, simple(60, 90), data.draw(st.sampled_from(["none", "snappy", "zstd"])), 2)
    files = sorted((folder / "wal").iterdir())
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    before = bytes(content)
    content[at : at + len(junk)] = junk
    if data.draw(st.booleans()):
        del content[at:]
    path.write_bytes(content)
    source = PrometheusFolder(folder)
    try:
        found = source.select(EVERYTHING)
    except RecordingError:
        found = []  # the only segment, and not one record of it is left
        assert source.problems
    for one in found:
        steps = (one.times_ms - T0) // 5000
        assert (one.values == steps * float(one.labels["r"])).all()
    assert source.problems or bytes(content) == before or not any(content[len(before) :])
    shutil.rmtree(folder)


@pytest.mark.prometheus
def test_the_writer_of_these_logs_is_right(tmp_path):
    """A server opens one, and finds nothing to repair."""
    version = programs(2)
    written(tmp_path / "data", simple(), "snappy", 4096)
    theirs = dumped(version, tmp_path / "data", tmp_path)
    assert len(theirs) == 200
    done = subprocess.run(
        [version.command("promtool"), "tsdb", "analyze", str(tmp_path / "data")],
        capture_output=True,
        text=True,
    )
    assert "corruption" not in done.stdout + done.stderr
