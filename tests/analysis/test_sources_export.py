"""``jobmeter export``, and what is said of a source that is none."""

from __future__ import annotations

import http.server
import shutil
import sys
import threading
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from attempts import RUN_ID, T0
from log_writer import LogWriter, samples_record, series_record
from typer.testing import CliRunner

from jobmeter.cli import app
from jobmeter.errors import JobmeterError, RecordingError
from jobmeter.window import Window
from jobmeter_analysis.recording import Selector
from jobmeter_analysis.sources import open_source, prometheus_folder
from jobmeter_analysis.sources.parquet import Origin, ParquetFile, write_parquet
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.sources.prometheus_server import PrometheusServer

EVERYTHING = [Selector("", suffix=True)]


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder of 1000 scrapes of three series, a second apart."""
    writer = LogWriter(tmp_path / "tsdb" / "wal")
    writer.log(series_record({ref: {"__name__": f"m{ref}", "node": "n1"} for ref in (1, 2, 3)}))
    for step in range(1000):
        writer.log(samples_record([(ref, T0 + 1000 * step, step * ref) for ref in (1, 2, 3)]))
    writer.close()
    return tmp_path / "tsdb"


@pytest.mark.prometheus
def test_a_run_is_exported_and_read_again(trained, tmp_path):
    file = tmp_path / "samples.parquet"
    done = export(trained.run.run, "--to", file)
    assert done.exit_code == 0
    assert done.output.endswith(f"series in {file}\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    source = ParquetFile(file)
    assert source.origin.run_id == RUN_ID
    assert source.origin.attempt == trained.attempt.name
    assert source.origin.window is None
    there = PrometheusFolder(trained.attempt.tsdb).select(EVERYTHING)
    here = source.select(EVERYTHING)
    key = lambda one: sorted(one.labels.items())  # noqa: E731
    for theirs, ours in zip(sorted(there, key=key), sorted(here, key=key), strict=True):
        assert ours.labels == theirs.labels
        assert ours.times_ms.tolist() == theirs.times_ms.tolist()
        assert ours.values.tobytes() == theirs.values.tobytes()


@pytest.mark.prometheus
def test_a_phase_is_exported(trained, tmp_path):
    file = tmp_path / "samples.parquet"
    assert export(trained.attempt.attempt, "--to", file, "--phase", "main").exit_code == 0
    assert ParquetFile(file).origin.window == Window(T0 + 10_000, T0 + 70_000)
    with pytest.raises(JobmeterError, match="phases of this attempt: main"):
        export(trained.attempt.attempt, "--to", tmp_path / "other", "--phase", "man")


@pytest.mark.prometheus
def test_several_attempts_need_a_choice(trained, tmp_path):
    run = shutil.copytree(trained.run.run, tmp_path / RUN_ID)
    shutil.copytree(run / "attempts" / "4242", run / "attempts" / "4242.r1")
    with pytest.raises(JobmeterError, match=r"2 attempts and a file holds one.*4242\.r1"):
        export(run, "--to", tmp_path / "samples.parquet")
    done = export(run / "attempts" / "4242.r1", "--to", tmp_path / "samples.parquet")
    assert done.exit_code == 0


def test_a_window_of_a_source_is_exported_with_what_brackets_it(data, tmp_path):
    file = tmp_path / "samples.parquet"
    start, end = T0 / 1000 + 400, T0 / 1000 + 500
    assert export("--source", data, "--start", start, "--end", end, "--to", file).exit_code == 0
    (one,) = ParquetFile(file).select([Selector("m2")])
    assert one.times_ms[0] == T0 + 100_000
    assert one.times_ms[-1] == T0 + 799_000
    assert ParquetFile(file).origin.window == Window(T0 + 400_000, T0 + 500_000)


def test_a_file_that_is_there_is_kept_without_force(data, tmp_path):
    file = tmp_path / "samples.parquet"
    file.write_text("precious")
    with pytest.raises(JobmeterError, match="is there already; give --force"):
        export("--source", data, "--to", file)
    assert file.read_text() == "precious"
    assert export("--source", data, "--to", file, "--force").exit_code == 0
    assert len(ParquetFile(file).select(EVERYTHING)) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "one of them"),
        (["run", "--source", "x"], "one of them"),
        (["--source", "x", "--phase", "p"], "has no phases"),
        (["run", "--phase", "p", "--start", "1", "--end", "2"], "exclude each other"),
        (["--source", "x"], "no such folder or file"),
        (["--source", "ftp://x"], "no source"),
        (["--source", "http://127.0.0.1:9"], "--start"),
    ],
)
def test_wrong_usage_gets_an_answer(arguments, expected, tmp_path):
    with pytest.raises(JobmeterError, match=expected):
        export(*arguments, "--to", tmp_path / "samples.parquet")


def test_a_stranger_can_read_the_file(data, tmp_path):
    """As ``docs/recordings.md`` shows it."""
    file = tmp_path / "samples.parquet"
    export("--source", data, "--to", file)
    table = pd.read_parquet(file, filters=[("metric", "==", "m2")])
    table["node"] = [dict(labels)["node"] for labels in table["labels"]]
    tidy = table[["metric", "node", "times", "values"]].explode(["times", "values"])
    assert len(tidy) == 1000
    assert tidy["times"].iloc[1] == pd.Timestamp(T0 + 1000, unit="ms")  # UTC
    assert tidy["values"].iloc[999] == 1998


def test_row_groups_without_a_wanted_series_are_skipped(data, tmp_path, monkeypatch):
    file = tmp_path / "samples.parquet"
    series = PrometheusFolder(data).select(EVERYTHING)
    monkeypatch.setattr("jobmeter_analysis.sources.parquet._SAMPLES_PER_GROUP", 1000)
    write_parquet(series, file, Origin("test"))
    assert pq.ParquetFile(file).num_row_groups == 3
    read = []
    whole = pq.ParquetFile.read_row_group

    def noted(self, number, columns):
        read.append((number, tuple(columns)))
        return whole(self, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    (one,) = ParquetFile(file).select([Selector("m2")])
    assert one.values.tolist() == [2.0 * step for step in range(1000)]
    assert [number for number, columns in read if "values" in columns] == [1]
    assert ParquetFile(file).select(EVERYTHING, Window(1, 2)) == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"text"])
def test_a_file_that_is_no_export_says_so(content, tmp_path):
    file = tmp_path / "samples.parquet"
    file.write_bytes(content)
    with pytest.raises(RecordingError, match="no readable Parquet file"):
        open_source(str(file))


def test_a_strange_parquet_file_says_so(tmp_path):
    file = tmp_path / "samples.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(file)
    with pytest.raises(RecordingError, match="without samples in it"):
        open_source(str(file))


def test_a_damaged_parquet_file_is_an_error_of_ours(data, tmp_path):
    file = tmp_path / "samples.parquet"
    export("--source", data, "--to", file)
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes(4000) + whole[4100:])
    with pytest.raises(RecordingError):
        ParquetFile(file).select(EVERYTHING)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="no readable Parquet file"):
        ParquetFile(file)


def test_a_run_is_no_source(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RecordingError, match="jobmeter analyze"):
        open_source(str(tmp_path))


def test_an_empty_folder_is_no_source(tmp_path):
    with pytest.raises(RecordingError, match="neither a folder 'wal' nor blocks"):
        open_source(str(tmp_path))


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers everything alike."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, b"Unauthorized", "refused with status 401; write user and password"),
        (200, b"<html>hello</html>", "does not answer as a Prometheus does"),
        (404, b"not found", "does not answer as a Prometheus does"),
        (200, b"[1]", "does not answer as a Prometheus does"),
        (200, b'{"status": "success"}', "not as a Prometheus does"),
        (200, b'{"status": "success", "data": [7]}', "not as a Prometheus does"),
        (422, b'{"status":"error","errorType":"x","error":"went wrong"}', "went wrong"),
    ],
)
def test_a_server_that_is_none_says_so(status, body, expected):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.answer = status, body
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(RecordingError, match=expected):
            PrometheusServer(url, trust_env=False).select(EVERYTHING, Window(0, 1000))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("url", ["http://", "http://a:b:c", "http:///path"])
def test_a_url_that_is_none_says_so(url):
    with pytest.raises(RecordingError, match="URL"):
        open_source(url)


def test_blocks_without_anything_that_reads_them_say_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdu", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RecordingError, match=r"pypdu, which has no wheel.*or the program"):
        prometheus_folder._best_reader()
