"""HTTP services as common libraries expose them: nothing counted twice, errors by their status."""

import pytest
from attempts import T0
from kpi_rows import only
from replay import STEP_MS, Page, blocks_from, replayed, scraped

from jobmeter.errors import CatalogueError
from jobmeter.window import Window
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.engine import analyze_recording
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder
from jobmeter_analysis.vocabulary import load_vocabulary

pytestmark = pytest.mark.prometheus


WINDOW = Window(T0 - STEP_MS // 2, T0 + 4 * STEP_MS + STEP_MS // 2)
"""Begins and ends idle, and is 25 s long."""
EDGES = ["0.1", "0.5", "1.0"]


def analysed(folder, page_at):
    """Return the table of a page at steps 0 to 4."""
    pages = [page_at(step) for step in range(5)]
    blocks_from(scraped(pages), folder, {"job": "api", "instance": "n1:8000", "node": "n1"})
    return analyze_recording(PrometheusFolder(folder), WINDOW, "replay").table


def row(table, kpi):
    return only(table, kpi, scope="service")


def value(table, kpi):
    return row(table, kpi)["value"]


def counted(name, label, ok, wrong, failed, **labels):
    """Return pages of a counter: per step 18 answers are fine, 4 say no, 2 fail."""

    def page(step):
        page = Page({}, {name: "counter"})
        for status, amount in ((ok, 18), (wrong, 4), (failed, 2)):
            page.set(name, amount * step, **{label: status}, **labels)
        return page

    return page


@pytest.mark.parametrize(
    ("name", "label", "statuses"),
    [
        ("http_requests_total", "status", ("2xx", "4xx", "5xx")),
        ("http_requests_total", "code", ("200", "404", "503")),
        ("starlette_requests_total", "status_code", ("201", "422", "500")),
        ("flask_http_request_total", "status", ("302", "499", "599")),
        ("axum_http_requests_total", "status", ("200", "400", "502")),
    ],
)
def test_counters_of_common_libraries(tmp_path, name, label, statuses):
    table = analysed(tmp_path / "data", counted(name, label, *statuses, method="GET"))
    assert value(table, "http_requests_total") == 96
    assert value(table, "http_requests_per_second") == pytest.approx(96 / 25)
    assert value(table, "http_client_error_ratio") == pytest.approx(4 / 24)
    assert value(table, "http_error_ratio") == pytest.approx(2 / 24)
    latency = row(table, "http_request_seconds_p95")
    assert (latency["status"], latency["reason"]) == ("unavailable", "metric_absent")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("http_server_request_duration_seconds", "http_response_status_code"),
        ("http_server_requests_seconds", "status"),
        ("http_request_server_duration_seconds", "code"),
        ("http_request_duration_seconds", "status_code"),
    ],
)
def test_requests_are_counted_by_their_latencies_where_there_is_no_counter(tmp_path, name, label):
    def page(step):
        page = Page({}, {})
        page.observe(name, [0.3] * 9 * step, EDGES, **{label: "200"})
        return page.observe(name, [0.7] * step, EDGES, **{label: "500"})

    table = analysed(tmp_path / "data", page)
    assert value(table, "http_requests_total") == 40
    assert value(table, "http_error_ratio") == pytest.approx(0.1)
    assert value(table, "http_client_error_ratio") == 0
    assert value(table, "http_request_seconds_mean") == pytest.approx(0.34)
    median = row(table, "http_request_seconds_p50")
    assert (median["low"], median["high"]) == (0.1, 0.5)


def test_old_names_of_opentelemetry_have_a_number_and_no_latency(tmp_path):
    def page(step):
        name, labels = "http_server_duration_milliseconds", {"http_status_code": "200"}
        return Page({}, {}).observe(name, [300.0] * 5 * step, ["250", "500"], **labels)

    table = analysed(tmp_path / "data", page)
    assert value(table, "http_requests_total") == 20
    assert row(table, "http_request_seconds_mean")["reason"] == "metric_absent"


def test_two_families_of_the_same_requests_are_not_added_up(tmp_path):
    """What prometheus-fastapi-instrumentator exposes: a counter and two histograms."""

    def page(step):
        page = counted("http_requests_total", "status", "2xx", "4xx", "5xx", handler="/v1")(step)
        page.observe("http_request_duration_seconds", [0.4] * 24 * step, EDGES, handler="/v1")
        fine = ["0.1", "0.3", "0.35", "0.45", "1.0"]
        return page.observe("http_request_duration_highr_seconds", [0.4] * 24 * step, fine)

    table = analysed(tmp_path / "data", page)
    assert value(table, "http_requests_total") == 96
    assert value(table, "http_request_seconds_mean") == pytest.approx(0.4)
    median = row(table, "http_request_seconds_p50")
    assert (median["low"], median["high"]) == (0.35, 0.45)


def test_our_own_requests_for_metrics_are_left_out(tmp_path):
    def page(step):
        page = counted("http_requests_total", "status", "200", "404", "500", handler="/v1")(step)
        page.set("http_requests_total", 1000 * step, status="200", handler="/metrics")
        name = "http_request_duration_seconds"
        page.observe(name, [0.05] * 1000 * step, EDGES, path="/metrics/")
        return page.observe(name, [0.4] * 24 * step, EDGES, path="/v1")

    table = analysed(tmp_path / "data", page)
    assert value(table, "http_requests_total") == 96
    assert value(table, "http_error_ratio") == pytest.approx(2 / 24)
    assert value(table, "http_request_seconds_mean") == pytest.approx(0.4)


def test_a_kind_of_status_that_never_came_is_zero_and_a_service_without_requests_has_none(tmp_path):
    def page(step):
        page = Page({}, {"http_requests_total": "counter"})
        return page.set("http_requests_total", 7 * step, status="2xx")

    table = analysed(tmp_path / "busy", page)
    assert value(table, "http_error_ratio") == 0
    idle = analysed(tmp_path / "idle", lambda step: page(1))
    assert value(idle, "http_requests_total") == 0
    assert row(idle, "http_error_ratio")["reason"] == "zero_denominator"


def test_the_first_answer_of_a_kind_counts(tmp_path):
    """A label set appears when something of its kind happens first: it was zero before."""

    def page(step):
        page = Page({}, {"http_requests_total": "counter"})
        page.set("http_requests_total", 10 * step, status="2xx")
        return page.set("http_requests_total", 5, status="5xx") if step >= 2 else page

    table = analysed(tmp_path / "data", page)
    assert value(table, "http_requests_total") == 45
    assert value(table, "http_error_ratio") == pytest.approx(5 / 45)


def test_every_kpi_through_a_real_prometheus(tmp_path):
    """The HTTP part of a real server's answers; vLLM counts with the FastAPI instrumentator."""
    before = Page.fixture("vllm-0.32.0-cpu-before.prom")
    after = Page.fixture("vllm-0.32.0-cpu-after.prom")
    texts = [before.text] * 3 + [after.text] * 30
    played = replayed({"vllm": texts}, tmp_path, scrapes=6)
    window = played.window("vllm", 1, 4)
    table = analyze_recording(PrometheusFolder(played.folder), window, "replay").table
    for kpi, definition in load_catalogue()["http"].kpis.items():
        one = row(table, kpi)
        assert one["unit"] == definition.unit
        assert one["low"] <= one["value"] <= one["high"]
    assert value(table, "http_requests_total") == 301
    assert value(table, "http_error_ratio") == 0
    name = "http_request_duration_highr_seconds"
    mean = after.value(f"{name}_sum") / 301
    assert value(table, "http_request_seconds_mean") == pytest.approx(mean)


def test_our_own_name_is_the_first_spelling_or_none(tmp_path):
    """Else the raw series of a spelling that does not count would pass for ours."""
    metric = "help: x\nmetrics: {a_total: {type: counter, names: [b_total, a_total]}}\n"
    (tmp_path / "x.yaml").write_text(metric)
    with pytest.raises(CatalogueError, match="our own name can be its first spelling only"):
        load_vocabulary(tmp_path)
