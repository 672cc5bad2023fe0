"""Result files of load generators: recorded ones, and what the server counted meanwhile."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmeter.paths import AttemptPaths
from jobmeter_analysis.clients import client_rows, read_client_results

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLIENTS = FIXTURES / "clients"
FILES = sorted(CLIENTS.glob("*/*.json"))

# Read from the files by eye; times there are in ms for the first three tools, in s for the last.
EXPECTED = {
    "vllm-bench/summary.json": {
        "requests_total": 300,
        "request_errors_total": 0,
        "prompt_tokens_total": 38400,
        "output_tokens_total": 14400,
        "requests_per_second": 14.964473241385335,
        "output_tokens_per_second": 718.2947155864961,
        "goodput_requests_per_second": 14.066604846902214,
        "concurrency_max": 24,
        "ttft_seconds_mean": 14.269338356625668e-3,
        "ttft_seconds_p50": 7.247960500535555e-3,
        "ttft_seconds_p95": 60.72864340076195e-3,
        "ttft_seconds_p99": 126.56489458942816e-3,
        "itl_seconds_mean": 0.8806189337403099e-3,
        "itl_seconds_p95": 1.4472540001406742e-3,
        "tpot_seconds_mean": 0.8803691127661993e-3,
        "tpot_seconds_p99": 1.7907115976947565e-3,
        "e2e_seconds_mean": 55.64668665663703e-3,
        "e2e_seconds_p95": 88.93582179962323e-3,
    },
    "vllm-bench/detailed.json": {
        "requests_total": 40,
        "output_tokens_total": 320,
        "ttft_seconds_mean": 7.820043950050603e-3,
        "ttft_seconds_p50": 7.18372899973474e-3,  # its median
        "tpot_seconds_p99": 1.8999767170784511e-3,
    },
    "aiperf/profile_export_aiperf.json": {
        "requests_total": 60,
        "request_errors_total": 0,
        "prompt_tokens_total": 3840,
        "output_tokens_total": 960,
        "requests_per_second": 10.301145843665775,
        "output_tokens_per_second": 164.8183334986524,
        "goodput_requests_per_second": 10.301145843665775,
        "ttft_seconds_mean": 11.779068049999999e-3,
        "ttft_seconds_p95": 23.044994749999992e-3,
        "tpot_seconds_mean": 0.8910155933333334e-3,
        "tpot_seconds_p50": 0.9059929333333333e-3,  # its "inter_token_latency"
        "itl_seconds_p50": 0.813719e-3,  # its "inter_chunk_latency"
        "e2e_seconds_p99": 56.66886201999999e-3,
    },
    "aiperf/broken-words.json": {
        "requests_total": 56,
        "request_errors_total": 4,
        "output_tokens_total": 896,
        "goodput_requests_per_second": 7.908286330354176,
    },
    "guidellm/benchmarks.json": {
        "requests_total": 60,
        "request_errors_total": 0,
        "prompt_tokens_total": 3840,
        "output_tokens_total": 960,
        "requests_per_second": 10.131922042193638,
        "output_tokens_per_second": 162.11075267509818,
        "concurrency_mean": 0.24196608975047018,
        "ttft_seconds_mean": 10.153361161549888e-3,
        "ttft_seconds_p95": 22.795677185058594e-3,
        "itl_seconds_mean": 0.8790524800618491e-3,
        "e2e_seconds_p50": 0.022539377212524414,
        "e2e_seconds_p99": 0.04864025115966797,
    },
    "inference-perf/summary_lifecycle_metrics.json": {
        "requests_total": 60,
        "request_errors_total": 0,
        "prompt_tokens_total": 3840,
        "output_tokens_total": 960,
        "requests_per_second": 10.03943082332623,
        "output_tokens_per_second": 160.63089317321968,
        "goodput_requests_per_second": 10.03943082332623,
        "ttft_seconds_p50": 0.006640709999373939,
        "ttft_seconds_p95": 0.01015114794863618,
        "itl_seconds_mean": 0.0009310974144419662,
        "tpot_seconds_p99": 0.0014393804806750266,
        "e2e_seconds_mean": 0.021802956400066856,
    },
    "inference-perf/broken-words.json": {"requests_total": 53, "output_tokens_total": 848},
}
TOOLS = {
    "vllm-bench": ("vllm bench serve", None),
    "aiperf": ("AIPerf", "0.13.0"),
    "guidellm": ("GuideLLM", "0.8.1"),
    "inference-perf": ("inference-perf", None),
}


def values(file):
    return {kpi: number.value for kpi, number in read_client_results(file).numbers.items()}


def written(tmp_path, data):
    path = tmp_path / "result.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def loaded(name):
    return json.loads((CLIENTS / name).read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_the_numbers_are_those_of_the_file_in_base_units(name):
    found = read_client_results(CLIENTS / name)
    assert (found.tool, found.version) == TOOLS[name.split("/")[0]]
    numbers = values(CLIENTS / name)
    for kpi, value in EXPECTED[name].items():
        assert numbers[kpi] == pytest.approx(value, rel=1e-12), kpi
    assert all(number.definition for number in found.numbers.values())
    assert bool(found.problems) == (name.endswith("broken-words.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_numbers_agree_with_each_other(file):
    numbers = values(file)
    for latency in ("ttft", "itl", "tpot", "e2e"):
        ordered = [numbers.get(f"{latency}_seconds_{p}", math.nan) for p in ("p50", "p95", "p99")]
        known = [value for value in ordered if not math.isnan(value)]
        assert known == sorted(known)
    assert numbers["ttft_seconds_mean"] < numbers["e2e_seconds_mean"] < 1
    assert numbers["tpot_seconds_mean"] < 0.01


def test_what_the_file_does_not_hold_is_not_invented(tmp_path):
    numbers = values(CLIENTS / "guidellm/benchmarks.json")
    assert "itl_seconds_p95" not in numbers  # weighted by tokens: neither over gaps nor requests
    assert "goodput_requests_per_second" not in numbers
    assert "goodput_requests_per_second" not in values(CLIENTS / "vllm-bench/detailed.json")
    summary = loaded("vllm-bench/summary.json")
    assert "ttfts" not in summary
    for key in ("p95_ttft_ms", "p95_e2el_ms"):
        del summary[key]
    numbers = values(written(tmp_path, summary))
    assert "ttft_seconds_p95" not in numbers
    assert "ttft_seconds_p99" in numbers
    assert numbers["e2e_seconds_p95"] == pytest.approx(88.93582179962323e-3)  # has "latencies"


def test_percentiles_from_the_requests_are_those_that_the_tool_would_give(tmp_path):
    data = loaded("vllm-bench/detailed.json")
    bare = {k: v for k, v in data.items() if not re.search(r"_(ttft|itl|tpot)_ms$", k)}
    found = read_client_results(written(tmp_path, bare))
    for name in ("ttft", "itl", "tpot"):
        for statistic, key in {"mean": "mean", "p50": "median", "p99": "p99"}.items():
            number = found.numbers[f"{name}_seconds_{statistic}"]
            assert number.value == pytest.approx(data[f"{key}_{name}_ms"] / 1e3, rel=1e-9)
            assert number.definition.endswith("computed from the file's value of each request")


def test_requests_with_a_failure_among_them_are_not_averaged(tmp_path):
    data = loaded("vllm-bench/detailed.json")
    bare = {k: v for k, v in data.items() if not k.endswith("_ms")}
    bare |= {"completed": 39, "failed": 1}
    numbers = values(written(tmp_path, bare))
    assert numbers["request_errors_total"] == 1
    assert not any("_seconds_" in kpi for kpi in numbers)


def test_the_summary_and_the_requests_of_inference_perf_agree():
    summary = values(CLIENTS / "inference-perf/summary_lifecycle_metrics.json")
    requests = values(CLIENTS / "inference-perf/per_request_lifecycle_metrics.json")
    for kpi, value in requests.items():
        assert value == pytest.approx(summary[kpi], rel=1e-9), kpi
    assert summary.keys() - requests.keys() == {
        "output_tokens_per_second",
        "goodput_requests_per_second",
    }


@pytest.mark.parametrize("tool", ["aiperf", "inference-perf"])
def test_a_client_that_counts_other_tokens_than_the_server_is_said(tool):
    (problem,) = read_client_results(CLIENTS / tool / "broken-words.json").problems
    assert "tokenizer counts" in problem
    assert "by its own count" in problem


def test_a_run_that_measured_nothing_has_no_latencies(tmp_path):
    data = loaded("vllm-bench/summary.json")
    data |= {key: 0 for key in data if key.endswith("_ms")}
    data |= {"completed": 0, "failed": 300, "total_output_tokens": 0, "latencies": []}
    numbers = values(written(tmp_path, data))
    assert numbers["requests_total"] == 0
    assert numbers["request_errors_total"] == 300
    assert not any("_seconds_" in kpi for kpi in numbers)


def test_a_file_of_an_older_vllm(tmp_path):
    data = loaded("vllm-bench/summary.json") | {"completed": 298}
    data["request_goodput:"] = data.pop("request_goodput")  # with a colon, once
    for key in ("failed", "latencies", "queue_times", "max_concurrent_requests"):
        del data[key]
    numbers = values(written(tmp_path, data))
    assert numbers["request_errors_total"] == 2
    assert numbers["goodput_requests_per_second"] == 14.066604846902214
    assert "concurrency_max" not in numbers


def test_several_benchmarks_in_one_report_are_refused(tmp_path):
    data = loaded("guidellm/benchmarks.json")
    data["benchmarks"] *= 3
    found = read_client_results(written(tmp_path, data))
    assert found.numbers == {}
    assert "holds 3 benchmarks" in found.problems[0]


def test_remarks_that_belong_beside_the_numbers(tmp_path):
    data = loaded("guidellm/benchmarks.json")
    data["benchmarks"][0]["metrics"]["request_totals"]["incomplete"] = 2
    data["benchmarks"][0]["warmup_duration"] = 1.5
    incomplete, warmup = read_client_results(written(tmp_path, data)).problems
    assert incomplete.startswith("2 requests had not ended")
    assert "warm-up" in warmup
    data = loaded("aiperf/profile_export_aiperf.json") | {"was_cancelled": True}
    (cancelled,) = read_client_results(written(tmp_path, data)).problems
    assert "cancelled" in cancelled


def test_an_unknown_unit_gives_no_number(tmp_path):
    data = loaded("aiperf/profile_export_aiperf.json")
    data["time_to_first_token"]["unit"] = "fortnights"
    found = read_client_results(written(tmp_path, data))
    assert not any(kpi.startswith("ttft") for kpi in found.numbers)
    assert found.problems == ("ttft_seconds: the unit 'fortnights' is not known",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\x00\x01", "not JSON"),
        ('{"completed": 1}\n{"completed": 2}', "not JSON"),
        ("[]", "not a result of a known client"),
        ('"text"', "not a result of a known client"),
        ("3", "not a result of a known client"),
        ('{"loss": 0.1}', "not a result of a known client (vllm bench serve, AIPerf,"),
        ('{"benchmarks": []}', "not a result of a known client"),
    ],
)
def test_what_is_no_result_is_said(text, said, tmp_path):
    found = read_client_results(written(tmp_path, text))
    assert found.numbers == {}
    assert said in found.problems[0]


def test_a_file_that_is_no_text_or_is_not_there_is_said(tmp_path):
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    assert "not JSON" in read_client_results(tmp_path / "b.json").problems[0]
    assert "cannot be read" in read_client_results(tmp_path / "none.json").problems[0]
    assert "cannot be read" in read_client_results(tmp_path).problems[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_file_that_is_cut_short_gives_no_numbers(file, tmp_path):
    text = file.read_text().rstrip()
    for share in (0.1, 0.5, 0.9, 0.999):
        found = read_client_results(written(tmp_path, text[: int(len(text) * share)]))
        assert found.numbers == {}
        assert "cut short" in found.problems[0]


def places(data, path=()):
    """Every path in a JSON value down to a depth at which there is something to break."""
    yield path
    children = data.items() if isinstance(data, dict) else ()
    children = enumerate(data[:2]) if isinstance(data, list) else children
    for key, value in children:
        if len(path) < 7:
            yield from places(value, (*path, key))


def broken(data, path, value):
    if not path:
        return value
    copy = list(data) if isinstance(data, list) else dict(data)
    copy[path[0]] = broken(data[path[0]], path[1:], value)
    return copy


WRONG = st.sampled_from(
    [None, True, -1, 10**400, float("nan"), float("inf"), "x", [], {}, [None], {"a": 1}, [[1]]]
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_whatever_is_wrong_in_a_file_gives_words_and_no_wrong_number(file, tmp_path):
    data = json.loads(file.read_text())
    everywhere = list(places(data))

    @settings(max_examples=150, deadline=None)
    @given(path=st.sampled_from(everywhere), value=WRONG)
    def check(path, value):
        found = read_client_results(written(tmp_path, broken(data, path, value)))
        assert found.numbers or found.problems
        for kpi, number in found.numbers.items():
            assert math.isfinite(number.value), kpi
            assert number.value >= 0, kpi

    check()


# The truth: what the server counted between two expositions.


def counted(exposition, name, *labels):
    """Sum of all series of a metric whose line holds the given text."""
    lines = exposition.read_text().splitlines()
    mine = [line for line in lines if re.match(rf"{name}(\{{|\s)", line)]
    assert mine, name
    return sum(
        float(line.rpartition(" ")[2]) for line in mine if all(label in line for label in labels)
    )


def moved(before, after, name, *labels):
    return counted(after, name, *labels) - counted(before, name, *labels)


SERVING = next((FIXTURES / "runs" / "serving").glob("*/attempts/local"))


def edges(phase):
    return tuple(
        SERVING / "edges" / f"{phase}.{side}" / "vllm@n1.prom" for side in ("start", "end")
    )


RECORDED = {
    "expositions": (
        *(
            FIXTURES / "expositions" / f"vllm-0.32.0-cpu-{when}.prom"
            for when in ("before", "after")
        ),
        CLIENTS / "vllm-bench" / "summary.json",
    ),
    **{
        phase: (*edges(phase), SERVING / "results" / phase / f"{phase}.json")
        for phase in ("warmup", "benchmark")
    },
}


@pytest.mark.parametrize("recorded", RECORDED)
def test_the_server_counted_exactly_what_the_client_did(recorded):
    before, after, result = RECORDED[recorded]
    client = values(result)
    requests, output = client["requests_total"], client["output_tokens_total"]
    assert moved(before, after, "vllm:prompt_tokens_total") == client["prompt_tokens_total"]
    assert moved(before, after, "vllm:generation_tokens_total") == output
    assert moved(before, after, "vllm:request_success_total") == requests
    assert (
        moved(before, after, "vllm:request_success_total", 'finished_reason="length"') == requests
    )
    assert moved(before, after, "vllm:time_to_first_token_seconds_count") == requests
    assert moved(before, after, "vllm:e2e_request_latency_seconds_count") == requests
    # One gap after each token but the first of its request.
    assert moved(before, after, "vllm:inter_token_latency_seconds_count") == output - requests


@pytest.mark.parametrize("recorded", RECORDED)
def test_the_client_waits_a_little_longer_than_the_server(recorded):
    before, after, result = RECORDED[recorded]
    client = values(result)
    for latency, metric in {
        "ttft": "vllm:time_to_first_token_seconds",
        "e2e": "vllm:e2e_request_latency_seconds",
    }.items():
        total, count = (moved(before, after, f"{metric}_{part}") for part in ("sum", "count"))
        # A busy client's own event loop is part of what it measures: 2 to 21 ms on two cores.
        assert 0 < client[f"{latency}_seconds_mean"] - total / count < 0.03


def test_rows_of_the_recorded_run():
    rows, problems = client_rows(AttemptPaths(SERVING), "benchmark")
    assert problems == []
    by_kpi = {row.kpi: row for row in rows}
    assert len(by_kpi) == len(rows)
    requests = by_kpi["requests_total"]
    assert (requests.value, requests.unit, requests.tool) == (300, "1", "vllm bench serve")
    assert (requests.file, requests.entity) == ("results/benchmark/benchmark.json", "client")
    assert by_kpi["output_tokens_total"].unit == "tokens"
    assert by_kpi["requests_per_second"].unit == "1/s"
    assert by_kpi["output_tokens_per_second"].unit == "tokens/s"
    assert by_kpi["goodput_requests_per_second"].unit == "1/s"
    assert by_kpi["ttft_seconds_p95"].unit == "seconds"
    assert client_rows(AttemptPaths(SERVING), "start") == ([], [])


def test_rows_of_several_files_and_of_missing_ones(tmp_path):
    attempt = AttemptPaths(tmp_path / "1")
    folder = attempt.phase_results("load")
    folder.mkdir(parents=True)
    shutil.copy(CLIENTS / "aiperf" / "broken-words.json", folder / "aiperf.json")
    shutil.copy(CLIENTS / "guidellm" / "benchmarks.json", folder / "guide.json")
    (folder / "of-the-users.json").write_text('{"loss": 0.1}')
    (folder / "of-the-users.csv").write_text("loss\n0.1\n")
    (folder / "cut-short.json").write_text('{"completed": 1')
    (folder / ".part.json").write_text("{")
    attempt.events.write_text(
        '{"t": 5, "node": "n", "event": "results_missing", "phase": "load", "file": "out/x.json", '
        '"why": "no such file"}\n'
        '{"t": 6, "node": "n", "event": "results_missing", "phase": "other", "file": "y.json", '
        '"why": "no such file"}\n'
    )
    rows, problems = client_rows(attempt, "load")
    assert {(row.entity, row.tool) for row in rows} == {
        ("client aiperf.json", "AIPerf 0.13.0"),
        ("client guide.json", "GuideLLM 0.8.1"),
    }
    missing, tokens, cut_short = problems
    assert missing == "phase load names the result file out/x.json: no such file"
    assert tokens.startswith("results/load/aiperf.json: output_tokens_total: AIPerf's tokenizer")
    assert cut_short.startswith("results/load/cut-short.json: not JSON, or cut short")
