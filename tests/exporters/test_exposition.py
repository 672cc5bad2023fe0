"""Our text of a page is the library's, byte for byte."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
    SummaryMetricFamily,
    Timestamp,
    UntypedMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from jobmeter_exporters.exposition import encoder

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
ACCEPTS = (
    "",
    "*/*",
    "text/plain",
    PROMETHEUS_2,
    PROMETHEUS_3,
    *(
        f"{kind};version=1.0.0;escaping={escaping}"
        for kind in ("text/plain", "application/openmetrics-text")
        for escaping in ("underscores", "dots", "values", "allow-utf-8")
    ),
)


class Families(Collector):
    def __init__(self, *families):
        self.families = families

    def collect(self):
        return self.families


def assert_same(*families):
    for accept in ACCEPTS:
        library, content_type = choose_encoder(accept)
        encode, ours = encoder(accept)
        assert ours == content_type
        assert encode(Families(*families)) == library(Families(*families))


TEXTS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12)
NUMBERS = st.one_of(
    st.floats(), st.integers(-(2**70), 2**70), st.sampled_from([1e6, 999999.5, -1e6, -0.0, 1e15])
)
NAMES = st.sampled_from(
    ["job_threads", "a:b", "node_used_total", "x_created", "x_info", "x_bucket"]
)


@given(
    st.sampled_from([CounterMetricFamily, GaugeMetricFamily, UntypedMetricFamily]),
    NAMES,
    TEXTS,
    st.dictionaries(st.tuples(TEXTS, TEXTS), NUMBERS, max_size=4),
)
def test_families_with_labels(family, name, documentation, values):
    metric = family(name, documentation, labels=["zone", "device"])
    for labels, value in values.items():
        metric.add_metric(list(labels), value)
    assert_same(metric)


@given(st.lists(NUMBERS, max_size=4), NUMBERS, TEXTS)
def test_histograms(counts, total, label):
    histogram = HistogramMetricFamily("took_seconds", 'Said "so".', labels=["step"])
    bounds = ["0.1", "1.0", "2.5", "10.0"][: len(counts)]
    buckets = [*zip(bounds, counts, strict=True), ("+Inf", 9)]
    histogram.add_metric([label], buckets, total)
    assert_same(histogram)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, 1e6, 1e21, 123456789.125])
def test_numbers_in_the_notation_of_go(value):
    assert_same(GaugeMetricFamily("a", "b", value=value))


def special():
    gauge = GaugeMetricFamily("a", "b", labels=["c"])
    gauge.add_metric(["d"], 1, timestamp=Timestamp(5, 7_000_000))
    yield gauge
    yield GaugeMetricFamily("a", "b", value=1, unit="bytes")
    counter = CounterMetricFamily("a", "b", labels=["c"])
    counter.add_metric(["d"], 1, created=12.5)
    yield counter
    counter = CounterMetricFamily("a", "b")
    counter.add_metric([], 1, exemplar=Exemplar({"trace": "x"}, 1.0))
    yield counter
    summary = SummaryMetricFamily("a", "b")
    summary.add_metric([], 3, 4.5)
    yield summary
    states = StateSetMetricFamily("a", "b", labels=["c"])
    states.add_metric(["d"], {"on": True, "off": False})
    yield states
    yield InfoMetricFamily("a", "b", {"version": "1.2"})
    odd = Metric("dots.in.it", "b", "gauge")
    odd.add_sample("dots.in.it", {"la.bel": "x"}, 1.0)
    yield odd
    odd = GaugeMetricFamily("a", "b", labels=["la.bel"])
    odd.add_metric(["x"], 1.0)
    yield odd
    odd = Metric("a", "b", "gauge")
    odd.add_sample("a", {"__c": "x"}, 1.0)
    yield odd


@pytest.mark.parametrize("family", list(special()), ids=lambda family: f"{family.type}")
def test_what_is_not_plain(family):
    assert_same(GaugeMetricFamily("before", "p", value=1), family)


def test_half_a_character_costs_no_page():
    family = GaugeMetricFamily("a", "b", labels=["c"])
    family.add_metric(["\ud800"], 1.0)
    encode, _ = encoder("")
    assert b'a{c="?"} 1.0' in encode(Families(family))


def test_a_version_that_is_no_version_gets_the_plain_format():
    encode, content_type = encoder("text/plain;version=x.y")
    assert content_type.startswith("text/plain; version=0.0.4")
    families = Families(GaugeMetricFamily("a", "b", value=1))
    assert encode(families) == generate_latest(families)
