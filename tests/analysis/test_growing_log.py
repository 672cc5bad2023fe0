"""A log that is read again and again while it grows says the same as one that is read once."""

import shutil

import pytest
from log_writer import LogWriter, samples_record, series_record

from jobmeter.errors import RecordingError
from jobmeter_analysis.recording import Selector
from jobmeter_analysis.sources.growing_log import GrowingLog
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

EVERYTHING = [Selector("", suffix=True)]
T0 = 1_700_000_000_000
ALL_MS = 10_000_000


def a_log(folder, steps=200, series=40, **writing):
    """Write a log whose second half has more series than its first; return its files."""
    writer = LogWriter(folder / "wal", **writing)
    for half in (0, 1):
        refs = range(1, series * (half + 1) + 1)
        writer.log(series_record({ref: {"__name__": f"m{ref}", "half": str(half)} for ref in refs}))
        for step in range(steps // 2):
            at = T0 + 5000 * (step + half * steps // 2)
            writer.log(samples_record([(ref, at, float(ref * step)) for ref in refs]))
    writer.close()
    return sorted((folder / "wal").iterdir())


def said(recording):
    return {
        tuple(sorted(one.labels.items())): (one.times_ms.tolist(), one.values.tolist())
        for one in recording.select(EVERYTHING)
    }


def once(folder):
    return said(PrometheusFolder(folder))


@pytest.mark.parametrize("compression", ["none", "snappy"])
@pytest.mark.parametrize("step", [977, 32 * 1024, 100_000])
def test_a_log_that_grows_by_pieces_is_read_as_a_whole(tmp_path, compression, step):
    (whole,) = a_log(tmp_path / "whole", compression=compression)
    data = whole.read_bytes()
    copy = tmp_path / "copy" / "wal" / "00000000"
    copy.parent.mkdir(parents=True)
    copy.touch()
    log = GrowingLog(tmp_path / "copy", ALL_MS)
    for end in range(step, len(data) + step, step):
        with copy.open("ab") as file:
            file.write(data[end - step : end])
        log.refresh()
        seen = said(log)
    assert seen == once(tmp_path / "whole")
    assert not log.problems
    assert not log.refresh()


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    (path,) = a_log(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    log = GrowingLog(tmp_path, ALL_MS)
    assert log.refresh()
    path.write_bytes(data)
    begins = []
    from jobmeter_analysis.sources import growing_log

    def noted(file, damage, begin):
        begins.append(begin)
        return growing_log_records(file, damage, begin)

    growing_log_records = growing_log.records_of
    monkeypatch.setattr(growing_log, "records_of", noted)
    assert log.refresh()
    assert len(begins) == 1
    assert begins[0] > len(data) / 2


def test_old_samples_are_let_go(tmp_path):
    a_log(tmp_path)
    log = GrowingLog(tmp_path, keep_ms=60_000)
    log.refresh()
    times = {time for points, _ in said(log).values() for time in points}
    assert log.newest_ms == max(times) == T0 + 5000 * 199
    assert min(times) == log.newest_ms - 60_000


def test_several_segments_and_a_checkpoint_that_replaces_them(tmp_path):
    files = a_log(tmp_path, steps=600, compression="none", pages=2)
    assert len(files) > 3
    log = GrowingLog(tmp_path, ALL_MS)
    log.refresh()
    before = said(log)
    # What Prometheus makes of old segments holds less of their samples.
    LogWriter(tmp_path / "wal" / f"checkpoint.{1:08d}").close()
    for path in files[:2]:
        path.unlink()
    assert not log.refresh()
    assert said(log) == before == said(log)
    anew = GrowingLog(tmp_path, ALL_MS)
    anew.refresh()
    assert said(anew) != before


def test_a_log_that_is_written_anew_is_read_anew(tmp_path):
    (path,) = a_log(tmp_path)
    log = GrowingLog(tmp_path, ALL_MS)
    log.refresh()
    shutil.rmtree(tmp_path / "wal")
    a_log(tmp_path, steps=40, series=7)
    assert log.refresh()
    assert said(log) == once(tmp_path)
    # Longer than before, and with other records at the same places.
    a_log(tmp_path, steps=400, series=9)
    assert path.stat().st_size > 0
    assert log.refresh()
    assert said(log) == once(tmp_path)


def test_damage_is_named_and_the_rest_used(tmp_path):
    (path,) = a_log(tmp_path, compression="none")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    log = GrowingLog(tmp_path, ALL_MS)
    assert log.refresh()
    assert said(log) == once(tmp_path)
    assert "wrong checksum" in log.problems[0]


def test_a_folder_that_is_not_there_or_vanishes(tmp_path):
    log = GrowingLog(tmp_path / "run", ALL_MS)
    with pytest.raises(RecordingError, match="no recording here"):
        log.refresh()
    (tmp_path / "run").mkdir()
    assert not log.refresh()
    a_log(tmp_path / "run")
    assert log.refresh()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RecordingError, match="no recording here"):
        log.refresh()
