"""Every source of every kind of recording gives what was recorded, and what promtool reads."""

from __future__ import annotations

import math
import random
import shutil
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from attempts import write_blocks
from prometheus_programs import (
    STALE,
    Programs,
    Samples,
    bits,
    dumped,
    programs,
    running,
    send,
)

from jobmeter.errors import RecordingError
from jobmeter.window import Window
from jobmeter_analysis.recording import Recording, Selector
from jobmeter_analysis.sources import open_source
from jobmeter_analysis.sources.parquet import Origin, ParquetFile, write_parquet
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.sources.prometheus_server import PrometheusServer

pytestmark = pytest.mark.prometheus

EVERYTHING = [Selector("", suffix=True)]
T0 = 1_700_000_040_000
STEP = 5000
NAN = bits(math.nan)


@dataclass(frozen=True)
class Case:
    """One recording, and what is in it."""

    version: Programs
    folder: Path
    sent: Samples


def labels(name: str, **more: str) -> frozenset:
    return frozenset({"__name__": name, **more}.items())


def scrapes(first: int, last: int) -> Samples:
    """Return a target with series of every kind, from one step to another."""
    rng = random.Random(f"{first} {last}")
    found: Samples = {}

    def add(key: frozenset, step: int, value: int) -> None:
        found.setdefault(key, {})[T0 + step * STEP] = value

    for step in range(first, last):
        for cpu in range(40):
            add(labels("cpu_total", node="n1", cpu=str(cpu)), step, bits(step * cpu / 3))
        add(labels("odd", kind="nan"), step, NAN)
        add(labels("odd", kind="inf"), step, bits(math.inf if step % 2 else -math.inf))
        add(labels("odd", kind="zero"), step, bits(-0.0))
        add(labels("odd", kind="tiny"), step, bits(rng.random() * 5e-324 + 1e-310))
        add(labels("odd", kind="any", text='a "q" \\ é'), step, bits(rng.gauss(0, 1e300)))
        if step % 9 < 4:  # comes and goes
            add(labels("fleeting", node="n1"), step, bits(step))
        elif step % 9 == 4:
            add(labels("fleeting", node="n1"), step, STALE)
        if not 60 < step < 220:  # away for so long that it gets a new reference
            add(labels("returning", node="n1"), step, bits(step))
    return found


def merged(*parts: Samples) -> Samples:
    found: Samples = {}
    for part in parts:
        for key, points in part.items():
            found.setdefault(key, {}).update(points)
    return found


def feed(http: httpx.Client, samples: Samples) -> None:
    """Send samples in order of time, a scrape a request."""
    by_time: dict[int, Samples] = {}
    for key, points in samples.items():
        for at, value in points.items():
            by_time.setdefault(at, {})[key] = {at: value}
    for at in sorted(by_time):
        send(http, by_time[at])


def log_case(version: Programs, folder: Path) -> Samples:
    """A log alone; the server is restarted in the middle of it."""
    compression = ["--storage.tsdb.wal-compression-type=zstd"] if version.major == 3 else []
    with running(version, folder, *compression) as http:
        feed(http, scrapes(0, 80))
        again = {key: p for key, p in scrapes(79, 80).items() if ("node", "n1") in key}
        send(http, again)
    with running(version, folder, "--no-storage.tsdb.wal-compression") as http:
        feed(http, scrapes(80, 120))
    return merged(scrapes(0, 80), scrapes(80, 120))


def compacted_case(version: Programs, folder: Path) -> Samples:
    """Blocks of a head that was compacted several times, a checkpoint, and what came after."""
    options = [f"--storage.tsdb.{end}-block-duration=2m" for end in ("min", "max")]
    with running(version, folder, *options) as http:
        for samples in portions(scrapes(0, 300), 50):
            before = segments(folder)
            feed(http, samples)
            # A compaction begins a new segment; with the third one comes a checkpoint.
            deadline = time.monotonic() + 20
            while segments(folder) == before and time.monotonic() < deadline:
                time.sleep(0.02)
        feed(http, scrapes(300, 310))
    assert len(list(folder.glob("*/meta.json"))) >= 5
    assert list(folder.glob("wal/checkpoint.*"))
    return merged(scrapes(0, 300), scrapes(300, 310))


def portions(samples: Samples, steps: int) -> Iterator[Samples]:
    """Cut samples into stretches of time."""
    for begin in range(T0, max(max(points) for points in samples.values()) + 1, steps * STEP):
        yield inside(samples, Window(begin, begin + steps * STEP))


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("wal/0*"))


def late_case(version: Programs, folder: Path) -> Samples:
    """A log, and a second one of samples that came out of order."""
    config = {"storage": {"tsdb": {"out_of_order_time_window": "10m"}}}
    key = labels("late", node="n1")
    late = {T0 + 10 * STEP + 1000 * number: bits(number) for number in range(50)}
    with running(version, folder, config=config) as http:
        feed(http, scrapes(0, 30))
        for at, value in random.Random(1).sample(list(late.items()), len(late)):
            send(http, {key: {at: value}})
    assert list(folder.glob("wbl/0*"))
    return merged(scrapes(0, 30), {key: late})


def blocks_case(version: Programs, folder: Path) -> Samples:
    """Blocks alone, of several hours."""
    whole = {
        key: {T0 + (at - T0) * 10: value for at, value in points.items()}
        for key, points in scrapes(0, 200).items()
        if not (dict(key)["__name__"] == "odd" and dict(key)["kind"] in ("nan", "any"))
    }
    whole = {
        key: {at: value for at, value in points.items() if value != STALE}
        for key, points in whole.items()
    }
    write_blocks(
        {
            (
                dict(key)["__name__"],
                tuple(sorted(pair for pair in key if pair[0] != "__name__")),
            ): [(at, struct.unpack("<d", struct.pack("<Q", v))[0]) for at, v in points.items()]
            for key, points in whole.items()
        },
        folder,
    )
    return whole


CASES = {
    "log": log_case,
    "compacted": compacted_case,
    "late": late_case,
    "blocks": blocks_case,
}


@pytest.fixture(
    scope="module",
    params=["log-2", "compacted-2", "late-2", "blocks-2", "log-3", "compacted-3", "late-3"],
)
def case(request, tmp_path_factory) -> Case:
    kind, major = request.param.split("-")
    version = programs(int(major))
    folder = tmp_path_factory.mktemp(request.param) / "data"
    return Case(version, folder, CASES[kind](version, folder))


def read(recording: Recording, span: Window | None = None, selectors=EVERYTHING) -> Samples:
    """Return everything that a source gives; marks as what Prometheus stores for them."""
    found: Samples = {}
    for series in recording.select(selectors, span):
        assert (np.diff(series.times_ms) > 0).all()
        assert series.times_ms.dtype == np.int64
        assert series.values.dtype == np.float64
        points = dict(
            zip(series.times_ms.tolist(), series.values.view(np.uint64).tolist(), strict=True)
        )
        assert STALE not in points.values()
        points.update(dict.fromkeys(series.stale_ms.tolist(), STALE))
        key = frozenset(series.labels.items())
        assert key not in found
        found[key] = points
    return found


def without_marks(samples: Samples) -> Samples:
    kept = {
        key: {at: NAN if is_nan(value) else value for at, value in points.items() if value != STALE}
        for key, points in samples.items()
    }
    return {key: points for key, points in kept.items() if points}


def is_nan(value: int) -> bool:
    return value & ~(1 << 63) > 0x7FF << 52


def inside(samples: Samples, span: Window) -> Samples:
    cut = {
        key: {at: v for at, v in points.items() if span.start_ms <= at < span.end_ms}
        for key, points in samples.items()
    }
    return {key: points for key, points in cut.items() if points}


def whole(case: Case) -> Window:
    times = [at for points in case.sent.values() for at in points]
    return Window(min(times), max(times) + 1)


def some(case: Case) -> Window:
    """Return a window whose ends are samples: the first belongs to it, the last does not."""
    everything = whole(case)
    third = (everything.end_ms - everything.start_ms) // 3 // STEP * STEP
    return Window(T0 + third, T0 + 2 * third)


@pytest.fixture
def marks_in_blocks(case):
    """That a series ended is lost where a block is read without pypdu."""
    marked = any(STALE in points.values() for points in case.sent.values())
    if marked and list(case.folder.glob("*/meta.json")):
        the_reader("pypdu")


def the_reader(name: str) -> str:
    """Return what reads blocks, or skip and say what is missing."""
    if name == "pypdu":
        pytest.importorskip(name, reason="no pypdu: it has no wheel for this Python")
    return name


def test_promtool_agrees_with_what_was_sent(case, tmp_path):
    theirs = dumped(case.version, case.folder, tmp_path)
    comparable = {
        key: {at: NAN if value != value else bits(value) for at, value in points.items()}
        for key, points in theirs.items()
    }
    expected = {
        key: {at: NAN if is_nan(value) else value for at, value in points.items()}
        for key, points in case.sent.items()
    }
    assert comparable == expected


def test_a_folder_gives_what_was_sent(case):
    source = PrometheusFolder(case.folder, the_reader("pypdu"))
    assert read(source) == case.sent
    assert source.problems == ()
    assert read(source, some(case)) == inside(case.sent, some(case))


def test_a_folder_without_pypdu_gives_the_same_but_marks_in_blocks(case, monkeypatch):
    if case.version.folder is not None:
        monkeypatch.setenv("PATH", f"{case.version.folder}:/usr/bin:/bin")
    before = sorted((path, path.stat().st_mtime_ns) for path in case.folder.rglob("*"))
    source = PrometheusFolder(case.folder, "prometheus")
    assert without_marks(read(source)) == without_marks(case.sent)
    assert source.problems == ()
    found = without_marks(read(source, some(case)))
    assert found == without_marks(inside(case.sent, some(case)))
    assert sorted((path, path.stat().st_mtime_ns) for path in case.folder.rglob("*")) == before


@pytest.fixture(scope="module")
def server(case, tmp_path_factory):
    copy = shutil.copytree(case.folder, tmp_path_factory.mktemp("served") / "data")
    with running(case.version, copy, "--query.max-samples=2000") as http:
        yield str(http.base_url)


@pytest.mark.parametrize("at_once", [500, 250_000])
def test_a_server_gives_the_same_but_marks(case, server, at_once):
    source = PrometheusServer(server, samples_per_answer=at_once)
    assert without_marks(read(source, whole(case))) == without_marks(case.sent)
    assert source.problems == ()
    assert read(source, some(case)) == without_marks(inside(case.sent, some(case)))


@pytest.mark.usefixtures("marks_in_blocks")
def test_a_parquet_file_gives_what_was_sent(case, tmp_path):
    series = PrometheusFolder(case.folder).select(EVERYTHING)
    path = tmp_path / "samples.parquet"
    write_parquet(series, path, Origin("test", whole(case)))
    source = ParquetFile(path)
    assert read(source) == case.sent
    assert source.problems == ()
    assert source.origin.window == whole(case)
    assert read(source, some(case)) == inside(case.sent, some(case))


SELECTIONS = [
    [Selector("cpu_total")],
    [Selector("cpu_total", labels={"cpu": "7"}), Selector("fleeting")],
    [Selector("_total", suffix=True, labels={"node": "n1"}), Selector("odd", {"kind": "inf"})],
    [Selector("cpu_total"), Selector("cpu_total", labels={"cpu": "7"})],
    [Selector("ing", suffix=True), Selector("odd", labels={"text": 'a "q" \\ é'})],
    [Selector("cpu")],
]


@pytest.mark.usefixtures("marks_in_blocks")
@pytest.mark.parametrize("selectors", SELECTIONS, ids=lambda s: s[0].name)
def test_every_source_selects_alike(case, server, tmp_path, selectors):
    folder = PrometheusFolder(case.folder)
    path = tmp_path / "samples.parquet"
    write_parquet(folder.select(EVERYTHING), path, Origin("test"))
    expected = {
        key: points
        for key, points in case.sent.items()
        if any(one.matches(dict(key)["__name__"], dict(key)) for one in selectors)
    }
    assert read(folder, selectors=selectors) == expected
    assert read(ParquetFile(path), selectors=selectors) == expected
    found = read(PrometheusServer(server), whole(case), selectors)
    assert found == without_marks(expected)


def test_series_of_one_scrape_share_their_times(case, tmp_path):
    series = PrometheusFolder(case.folder).select([Selector("cpu_total")])
    assert len({id(one.times_ms) for one in series}) == 1
    write_parquet(series, tmp_path / "samples.parquet", Origin("test"))
    series = ParquetFile(tmp_path / "samples.parquet").select([Selector("cpu_total")])
    assert len({id(one.times_ms) for one in series}) == 1


def test_a_source_is_found_by_its_text(case, server, tmp_path):
    assert isinstance(open_source(server), PrometheusServer)
    assert isinstance(open_source(str(case.folder)), PrometheusFolder)
    assert open_source(str(case.folder.parent)).path == case.folder
    path = tmp_path / "samples.parquet"
    write_parquet([], path, Origin("test"))
    assert isinstance(open_source(str(path)), ParquetFile)


def test_a_server_needs_a_span_and_is_named_without_its_password(server):
    with pytest.raises(RecordingError, match="--start"):
        PrometheusServer(server).select(EVERYTHING)
    closed = PrometheusServer("http://me:secret@127.0.0.1:9")
    with pytest.raises(RecordingError, match="cannot be reached") as caught:
        closed.select(EVERYTHING, Window(0, 1))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("reader", ["pypdu", "prometheus"])
def test_a_bad_block_does_not_cost_the_log(reader, tmp_path):
    """Of a Prometheus that refuses to start, all blocks."""
    version = programs(2)
    folder = tmp_path / "data"
    sent = compacted_case(version, folder)
    block = sorted(folder.glob("*/meta.json"))[0].parent
    (block / "index").write_bytes(b"no index")
    source = PrometheusFolder(folder, the_reader(reader))
    found = read(source)
    assert any("cannot be read" in problem for problem in source.problems)
    assert found.keys() == sent.keys()
    assert all(max(found[key]) == max(points) for key, points in sent.items())
