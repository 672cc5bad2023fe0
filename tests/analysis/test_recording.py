"""Prometheus data folders: real ones, against ``promtool tsdb dump``, and damaged ones."""

import http.server
import shutil
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from attempts import write_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_programs import dumped, programs, running

from jobmeter.errors import RecordingError
from jobmeter_analysis.recording import Recorded, Selector, Series
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

pytestmark = pytest.mark.prometheus

EVERYTHING = [Selector("", suffix=True)]


def read(folder: Path, selectors=EVERYTHING) -> dict:
    """Return what our reader finds: label set to {time: value}, stale markers as NaN."""
    found = {}
    for series in PrometheusFolder(folder).select(selectors):
        assert (np.diff(series.times_ms) > 0).all()
        of_series = dict(zip(series.times_ms.tolist(), series.values.tolist(), strict=True))
        of_series.update(dict.fromkeys(series.stale_ms.tolist(), float("nan")))
        labels = frozenset(series.labels.items())
        assert labels not in found
        found[labels] = of_series
    return found


def same(ours: dict, theirs: dict) -> bool:
    def comparable(found):
        return {
            labels: {t: struct.pack("d", v) if v == v else "nan" for t, v in points.items()}
            for labels, points in found.items()
        }

    return comparable(ours) == comparable(theirs)


class Metrics(http.server.BaseHTTPRequestHandler):
    """A payload: a counter, a series that vanishes, a gauge that is NaN."""

    def do_GET(self):
        self.server.asked += 1
        n = self.server.asked
        lines = [f'work_total{{who="{i}"}} {n * i}' for i in range(50)] + ["odd NaN"]
        lines += ["fleeting 1"] if n % 7 < 3 else []
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(("\n".join(lines) + "\n").encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def wal_folder(tmp_path_factory):
    """The data folder of a real Prometheus that ended after some hundred scrapes."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = {"targets": [f"127.0.0.1:{server.server_port}"], "labels": {"node": "n1"}}
    scrape = {"job_name": "payload", "static_configs": [target]}
    often = {"scrape_interval": "10ms", "scrape_timeout": "10ms"}
    data = tmp_path_factory.mktemp("prometheus") / "data"
    try:
        with running(programs(2), data, config={"global": often, "scrape_configs": [scrape]}):
            deadline = time.monotonic() + 20
            while server.asked < 150 and time.monotonic() < deadline:
                time.sleep(0.02)
    finally:
        server.shutdown()
        server.server_close()
    assert server.asked >= 150, data.with_name("data.log").read_text()
    return data


@pytest.fixture(scope="module")
def block_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks") / "data"
    samples = {
        ("work_total", (("node", f"n{i}"),)): [
            (1_700_000_000_000 + 500 * t, t * i / 3) for t in range(400)
        ]
        for i in range(20)
    }
    write_blocks(samples, folder)
    return folder


def copied(source: Path, target: Path, *more: Path) -> Path:
    for folder in (source, *more):
        shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def test_a_write_ahead_log_is_read_sample_for_sample(wal_folder, tmp_path):
    theirs = dumped(programs(2), wal_folder, tmp_path)
    assert sum(map(len, theirs.values())) > 5000
    assert same(read(wal_folder), theirs)


def test_stale_markers_are_set_apart_and_other_nans_kept(wal_folder):
    by_name = {s.name: s for s in PrometheusFolder(wal_folder).select(EVERYTHING)}
    assert by_name["fleeting"].stale_ms.size > 0
    assert not np.isnan(by_name["fleeting"].values).any()
    assert np.isnan(by_name["odd"].values).all()
    assert by_name["odd"].values.size > 100


def test_the_log_is_read_without_chunks_head(wal_folder, tmp_path):
    folder = copied(wal_folder, tmp_path / "copy")
    shutil.rmtree(folder / "chunks_head")
    assert same(read(folder), read(wal_folder))
    assert not (folder / "chunks_head").exists()


def test_blocks_are_read_sample_for_sample(block_folder, tmp_path):
    theirs = dumped(programs(2), block_folder, tmp_path)
    assert same(read(block_folder), theirs)


def test_blocks_and_log_that_overlap_are_one(wal_folder, tmp_path):
    """Blocks made of the log's own samples, as after a compaction of the head."""
    samples = {
        (dict(labels)["__name__"], tuple(sorted(p for p in labels if p[0] != "__name__"))): [
            (at, value) for at, value in points.items() if value == value
        ]
        for labels, points in dumped(programs(2), wal_folder, tmp_path).items()
    }
    written = tmp_path / "blocks"
    write_blocks({key: points[: len(points) // 2] for key, points in samples.items()}, written)
    both = copied(wal_folder, tmp_path / "both", written)
    assert same(read(both), read(wal_folder))


def test_only_what_is_asked_for_is_kept(block_folder):
    one = PrometheusFolder(block_folder).select([Selector("work_total", labels={"node": "n3"})])
    assert [dict(series.labels)["node"] for series in one] == ["n3"]
    nothing = PrometheusFolder(block_folder)
    assert nothing.select([Selector("other")]) == []
    assert nothing.problems


def test_arrays_outlive_the_reader(block_folder):
    series = PrometheusFolder(block_folder).select(EVERYTHING)
    assert all(one.values.flags.owndata or one.values.base is not None for one in series)
    assert sum(one.values.sum() for one in series) > 0


def make_empty(folder):
    folder.mkdir()


def make_only_wal(folder):
    (folder / "wal").mkdir(parents=True)


def make_zeros(folder):
    make_only_wal(folder)
    (folder / "wal" / "00000000").write_bytes(bytes(100_000))


def make_random(folder):
    make_only_wal(folder)
    (folder / "wal" / "00000000").write_bytes(np.random.default_rng(7).bytes(100_000))


def make_file(folder):
    folder.write_text("no folder")


@pytest.mark.parametrize("make", [make_empty, make_only_wal, make_zeros, make_random, make_file])
def test_nothing_to_read_says_why(make, tmp_path):
    folder = tmp_path / "data"
    make(folder)
    source = PrometheusFolder(folder)
    try:
        found = source.select(EVERYTHING)
    except RecordingError:
        return
    assert found == []
    assert source.problems


def test_a_missing_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(RecordingError, match="no recording here"):
        PrometheusFolder(tmp_path / "gone").select(EVERYTHING)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(cut=st.integers(0, 2_000_000))
def test_a_torn_log_gives_what_is_before_the_tear(wal_folder, tmp_path_factory, cut):
    everything = read(wal_folder)
    data = (wal_folder / "wal" / "00000000").read_bytes()
    torn = tmp_path_factory.mktemp("torn")
    (torn / "wal").mkdir()
    size = min(len(data), 32768 * (1 + cut % 8)) if cut % 3 == 0 else cut % len(data)
    (torn / "wal" / "00000000").write_bytes(data[:size])
    found = read(torn)
    for labels, points in found.items():
        whole = sorted(everything[labels])
        assert sorted(points) == whole[: len(points)]
    if size >= len(data):
        assert same(found, everything)
    elif size > 65536:
        assert found
    shutil.rmtree(torn)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.data())
def test_damage_is_never_another_exception(wal_folder, block_folder, tmp_path_factory, data):
    folder = copied(wal_folder, tmp_path_factory.mktemp("damaged") / "data", block_folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=64))
    content[at : at + len(junk)] = junk
    path.write_bytes(content)
    try:
        PrometheusFolder(folder).select(EVERYTHING)
    except RecordingError:
        pass
    finally:
        shutil.rmtree(folder)


def test_one_bad_block_does_not_cost_the_others(wal_folder, block_folder, tmp_path):
    folder = copied(wal_folder, tmp_path / "data", block_folder)
    next(folder.glob("*/meta.json")).write_text("{")
    source = PrometheusFolder(folder)
    assert len(source.select([Selector("work_total")])) == 50
    assert "cannot be read" in source.problems[0]


def test_a_list_answers_like_a_folder():
    empty = np.empty(0, np.int64)
    series = Series({"__name__": "up", "node": "n1"}, empty, empty.astype(float), empty)
    assert Recorded((series,)).select([Selector("up")]) == [series]
    assert Recorded((series,)).select([Selector("down")]) == []
