"""Qdrant: dense and sparse buckets, prefixes, collections, against known requests."""

import random

import numpy as np
import pytest
from attempts import T0
from kpi_rows import holds, of
from replay import Page, blocks_from, replayed, scraped

from jobmeter.window import Window
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.engine import analyze_recording
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

pytestmark = pytest.mark.prometheus

DENSE = ("0.001", "0.005", "0.01", "0.02", "0.05", "0.1", "0.5", "1", "5", "10", "50")
SPARSE = ("0.000001", "0.000005", "0.00001", "0.00005", "0.0001", "0.0005", "0.001", "0.005")
SPARSE += ("0.01", "0.05", "0.1", "0.5", "1", "5", "10", "50")
SEARCH = {"method": "POST", "endpoint": "/collections/{name}/points/query", "status": "200"}
UPLOAD = {"method": "PUT", "endpoint": "/collections/{name}/points", "status": "200"}
GRPC = {"endpoint": "/qdrant.Points/Query"}
REST = "rest_responses"
LATER = {
    "collection_update_queue_length": 3.0,
    "collection_update_queue_deferred_points": 10.0,
    "collection_indexed_only_excluded_points": 7.0,
    "collection_shard_transfer_incoming": 1.0,
}
"""Gauges of 1.17 and 1.18, each for two collections."""


def asked(page, seconds, labels, edges, protocol="rest", **more):
    """Let ``page`` count requests that took ``seconds``."""
    page.add(f"{protocol}_responses_total", len(seconds), **labels, **more)
    name = f"{protocol}_responses_duration_seconds"
    return page.observe(name, seconds, edges, sparse=edges is SPARSE, **labels, **more)


def story(fixture, edges, steps=10, **more):
    """Return pages, and what took how long in each step: searches, uploads, gRPC.

    Every step has more searches; the first that takes 0.2 s comes in step 4, so that buckets
    appear with it where empty ones are left out.
    """
    drawn = random.Random(7)
    page = Page.fixture(fixture)
    pages, durations = [page], []
    for step in range(1, steps):
        page = page.copy()
        searches = [round(drawn.lognormvariate(-5.5, 0.8), 6) for _ in range(20 + step)]
        searches += [0.2] * (step >= 4)
        uploads = [round(drawn.uniform(0.02, 0.3), 6) for _ in range(3)]
        calls = [round(drawn.uniform(0.001, 0.004), 6) for _ in range(5)]
        asked(page, searches, SEARCH, edges, **more)
        asked(page, uploads, UPLOAD, edges, **more)
        asked(page, calls, GRPC, edges, "grpc", **more)
        page.add("rest_responses_total", 2, **{**SEARCH, "status": "400"}, **more)
        page.set("collection_running_optimizations", float(4 <= step < 7), id="midlib")
        page.set("collection_points", 1000.0 + step, id="midlib")
        page.set("collection_points", 10.0, id="democollection")
        page.set("memory_resident_bytes", 1e6 * step)
        for name, value in LATER.items():
            page.set(name, value, id="midlib").set(name, 2 * value, id="democollection")
        pages.append(page)
        durations.append((searches, uploads, calls))
    return pages, durations


FIXTURES = {"qdrant-1.16.0.prom": DENSE, "qdrant-2024-08.prom": SPARSE}


# There was no prefix before 1.16.
@pytest.mark.parametrize(
    ("fixture", "prefix"),
    [
        ("qdrant-2024-08.prom", ""),
        ("qdrant-1.16.0.prom", ""),
        ("qdrant-1.16.0.prom", "qdrant_"),
    ],
)
def test_a_real_prometheus_gives_what_was_asked(fixture, prefix, tmp_path):
    pages, durations = story(fixture, FIXTURES[fixture])
    texts = [(page.prefixed(prefix) if prefix else page).text for page in pages]
    replay = replayed({"vectors": texts}, tmp_path, scrapes=len(texts))
    window = replay.window("vectors", 2, 7)
    analysis = analyze_recording(PrometheusFolder(replay.folder), window, "replay")
    searches, uploads, calls = (
        [one for step in durations[2:7] for one in step[part]] for part in range(3)
    )
    count = len(searches) + len(uploads) + 2 * 5
    assert holds(of(analysis, "qdrant_rest_requests_total"), count)
    assert holds(of(analysis, "qdrant_grpc_requests_total"), len(calls))
    assert holds(of(analysis, "qdrant_requests_total"), count + len(calls))
    assert holds(of(analysis, "qdrant_requests_per_second"), (count + len(calls)) / window.seconds)
    assert holds(of(analysis, "qdrant_rest_error_ratio"), 10 / count)
    assert holds(of(analysis, "qdrant_rest_request_seconds_mean"), np.mean(searches + uploads))
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        row = of(analysis, f"qdrant_rest_request_seconds_{name}")
        assert holds(row, np.quantile(searches + uploads, share, method="inverted_cdf")), name
        assert row["high"] <= 0.5
    entity = "POST /collections/{name}/points/query@n1"
    endpoint = of(analysis, "qdrant_endpoint_requests_total", "service", entity)
    assert holds(endpoint, len(searches) + 10)
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        row = of(analysis, f"qdrant_endpoint_seconds_{name}", "service", entity)
        assert holds(row, np.quantile(searches, share, method="inverted_cdf")), name
        assert row["status"] == "bounded"
    call = of(analysis, "qdrant_grpc_endpoint_seconds_mean", "service", "/qdrant.Points/Query@n1")
    assert holds(call, np.mean(calls))
    assert of(analysis, "qdrant_points_last")["value"] == 1000 + 7 + 10
    assert holds(of(analysis, "qdrant_running_optimizations_max"), 1)


def blocks(pages, folder):
    """Write pages as Prometheus would have scraped them."""
    labels = {"job": "vectors", "instance": "n1:6333", "node": "n1"}
    return blocks_from(scraped(pages), folder, labels)


@pytest.mark.parametrize("fixture", FIXTURES)
def test_table_matches_golden(fixture, tmp_path, check_golden):
    pages, _ = story(fixture, FIXTURES[fixture])
    folder = PrometheusFolder(blocks(pages, tmp_path / "tsdb"))
    analysis = analyze_recording(folder, Window(T0 + 2500, T0 + 42_500), "golden")
    table = analysis.table[analysis.table["kpi"].str.startswith("qdrant_")]
    absent = table[table["status"] == "unavailable"]
    unknown = set(absent.loc[absent["reason"] != "zero_denominator", "kpi"])
    assert unknown == {"qdrant_grpc_error_ratio"}  # the other rows: endpoints that nobody asked
    text = table.to_csv(index=False, float_format="%.12g")
    check_golden(fixture.replace(".prom", ".csv"), text)


def test_every_kpi_has_a_row(tmp_path):
    pages, _ = story("qdrant-1.16.0.prom", DENSE)
    folder = PrometheusFolder(blocks(pages, tmp_path / "tsdb"))
    analysis = analyze_recording(folder, Window(T0 + 2500, T0 + 42_500), "all")
    groups = (group for name, group in load_catalogue().items() if "qdrant" in name)
    assert {kpi for group in groups for kpi in group.kpis} <= set(analysis.table["kpi"])


def test_sums_of_collections_have_extremes_of_their_own(tmp_path):
    """One optimizes while the other does not: never two at once."""
    pages = [Page.fixture("qdrant-1.16.0.prom") for _ in range(11)]
    for at, page in enumerate(pages):
        page.set("collection_running_optimizations", float(at % 2 == 0), id="midlib")
        page.set("collection_running_optimizations", float(at % 2), id="democollection")
    folder = PrometheusFolder(blocks(pages, tmp_path / "tsdb"))
    analysis = analyze_recording(folder, Window(T0, T0 + 50_000), "extremes")
    assert of(analysis, "qdrant_running_optimizations_max")["value"] == 1
    assert of(analysis, "qdrant_running_optimizations_mean")["value"] == pytest.approx(1)
    assert of(analysis, "qdrant_optimizing_time_ratio")["value"] == pytest.approx(1)


def test_collections_are_not_counted_twice(tmp_path):
    """With ``per_collection`` the series of the whole server are replaced by those of each."""
    page = Page.fixture("qdrant-1.16.0.prom")
    for name in {name for name, _ in page.values if name.startswith("rest_responses")}:
        page.drop(name)
    pages = []
    for at in range(9):
        page = page.copy()
        for collection in ("a", "b"):
            asked(page, [0.002] * (at > 0), SEARCH, DENSE, collection=collection)
        pages.append(page)
    folder = PrometheusFolder(blocks(pages, tmp_path / "tsdb"))
    analysis = analyze_recording(folder, Window(T0 - 2500, T0 + 42_500), "collections")
    total = of(analysis, "qdrant_rest_requests_total")
    assert (total["low"], total["value"], total["high"]) == (16, 16, 16)
    entity = "POST /collections/{name}/points/query a@n1"
    assert of(analysis, "qdrant_endpoint_requests_total", "service", entity)["value"] == 8


def test_failed_calls_are_not_known_before_they_have_a_status(tmp_path):
    """Until 1.16 nothing told them apart: that is no zero. Since then there is a status."""
    pages, _ = story("qdrant-1.16.0.prom", DENSE)
    later = [page.copy() for page in pages]
    for at, page in enumerate(later):
        total = page.value("grpc_responses_total") if page.keys("grpc_responses_total") else 0.0
        page.drop("grpc_responses_total")
        page.add("grpc_responses_total", total, **GRPC, status="0")
        page.add("grpc_responses_total", at, **GRPC, status="5")
    window = Window(T0 - 2500, T0 + 47_500)
    found = []
    for name, said in (("old", pages), ("new", later)):
        folder = PrometheusFolder(blocks(said, tmp_path / name))
        found.append(of(analyze_recording(folder, window, name), "qdrant_grpc_error_ratio"))
    assert found[0]["reason"] == "metric_absent"
    assert found[1]["value"] == pytest.approx(9 / (9 + 5 * 9))


def test_durations_of_the_last_operations_are_never_read(tmp_path):
    """The gauges of average, smallest and largest durations do not belong to any window."""
    pages = [Page.fixture("qdrant-1.16.0.prom") for _ in range(3)]
    folder = PrometheusFolder(blocks(pages, tmp_path / "tsdb"))
    analysis = analyze_recording(folder, Window(T0 - 2500, T0 + 12_500), "idle")
    mean = of(analysis, "qdrant_rest_request_seconds_mean")
    assert np.isnan(mean["value"])
    assert mean["reason"] == "zero_denominator"
