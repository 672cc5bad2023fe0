import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from jobmeter_analysis.exposition import completed, parse_exposition

texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1)


def as_dict(samples):
    return {(s.name, frozenset(s.labels.items())): s.value for s in samples}


@given(st.dictionaries(texts, st.floats(0, 1e300), max_size=4))
def test_what_the_client_library_writes_is_what_it_parses(values):
    registry = CollectorRegistry()
    counter = Counter("work", 'Work "done" \\ {here}.', ["who"], registry=registry)
    for who, value in values.items():
        counter.labels(who).inc(value)
    Histogram("wait_seconds", "Waiting.", registry=registry).observe(0.2)
    text = generate_latest(registry).decode()
    parsed = parse_exposition(text)
    theirs = [s for f in text_string_to_metric_families(text) for s in f.samples]
    assert as_dict(parsed.samples) == as_dict(theirs)
    assert not parsed.torn
    assert parsed.is_counter("work_total")
    assert not parsed.is_counter("wait_seconds_count")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("a NaN", math.nan),
        ("a +Inf", math.inf),
        ("a -Inf", -math.inf),
        ("a 1e3", 1000.0),
        ("a 12 1700000000000", 12.0),
        ("a{} 12", 12.0),
        ('a { b = "c" , } 12 1700000000.5', 12.0),
        ('a{b="}, {# \\" \\\\ \\n"} 12', 12.0),
        ('a_bucket{le="1"} 12 # {trace_id="x"} 0.5 1700000000', 12.0),
    ],
)
def test_values_times_and_exemplars(line, value):
    parsed = parse_exposition(f"{line}\n# EOF\n")
    assert parsed.samples[0].value == pytest.approx(value, nan_ok=True)
    assert not parsed.torn


@pytest.mark.parametrize(
    "text", ["a 1\nb 12", "a 1\nb{x= 2\n", "a 1\n<html>\n", 'a 1\nb{x="1} 2\n']
)
def test_a_text_that_was_cut_says_so_and_loses_only_that_line(text):
    parsed = parse_exposition(text)
    assert parsed.torn
    assert [sample.name for sample in parsed.samples] == ["a"]


def test_only_what_is_wanted_is_looked_at():
    parsed = parse_exposition("a 1\nab 2\nb{ broken\n", wanted=lambda name: name == "a")
    assert [sample.name for sample in parsed.samples] == ["a"]
    assert not parsed.torn


def test_labels_that_collide_are_renamed_as_prometheus_does():
    labels = {"node": "x", "exported_node": "y", "run_id": "z", "cpu": "0", "empty": ""}
    assert completed(labels, "n1", "node") == {
        "exported_exported_node": "x",
        "exported_node": "y",
        "exported_run_id": "z",
        "cpu": "0",
        "node": "n1",
        "service": "node",
    }
