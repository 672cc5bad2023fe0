"""A stranger holds a recording whose answer he knows, and asks the command line for it.

The truth comes from events that are counted here in plain Python; nothing of the analysis is used.
"""

import bisect
import hashlib
import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from attempts import write_blocks
from prometheus_programs import programs, running

T0 = 1_790_000_000
RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
TTFT = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20]
LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60]
FAMILIES = {
    "ttft": ("vllm:time_to_first_token_seconds", TTFT),
    "e2e": ("vllm:e2e_request_latency_seconds", LATENCY),
}


def jobmeter(*arguments):
    """Run the program as a user does."""
    command = [sys.executable, "-m", "jobmeter", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def asked(source, start, end):
    """Return the rows by KPI and entity, and the manifest, of seconds since T0."""
    window = ("--start", T0 + start, "--end", T0 + end)
    return answered("analyze", "--source", source, *window)


def answered(*arguments):
    done = jobmeter(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    for row in answer["rows"]:
        check_form(row)
    rows = {(row["kpi"], row["entity"], row["phase"]): row for row in answer["rows"]}
    assert len(rows) == len(answer["rows"]), "a row is there twice"
    return rows, answer["manifest"]


def check_form(row):
    value, low, high = row["value"], row["low"], row["high"]
    if row["status"] == "unavailable":
        assert value is None, row
        assert row["reason"], row
        return
    assert value is not None, row
    assert low is None or low <= value, row
    assert high is None or value <= high, row
    assert row["status"] != "exact" or low == value == high, row


def check_truth(row, truth):
    """Hold one row against the truth."""
    low, high = row["low"], row["high"]
    slack = 1e-9 * max(1, abs(truth))
    assert row["status"] != "unavailable", (row, truth)
    assert low is None or low <= truth + slack, (row, truth)
    assert high is None or truth - slack <= high, (row, truth)


class Engine:
    """An engine of vLLM: requests that end at random times, until it stops."""

    def __init__(self, instance, seed, start=0.0, stop=400.0, name="0", before=0, **labels):
        self.labels = {"job": "vllm", "instance": instance, **labels}
        self.engine = {**self.labels, "engine": name, "model_name": "m"}
        self.before = before  # what its counters were when it was first read
        dice = random.Random(seed)
        self.requests = []
        at = start
        while (at := at + dice.expovariate(4)) < stop:
            reason = dice.choices(["stop", "length", "abort"], [60, 37, 3])[0]
            tokens = dice.randint(1, 40)
            first = dice.lognormvariate(-2, 1)
            self.requests.append((at, reason, tokens, first, first + tokens * dice.random() / 9))

    def page(self, at):
        """Return what it exposes after ``at`` seconds: a label set appears with its first event."""
        ended = [one for one in self.requests if one[0] <= at]
        yield "vllm:generation_tokens_total", {}, self.before + sum(one[2] for one in ended)
        for reason in dict.fromkeys(one[1] for one in ended):
            count = sum(one[1] == reason for one in ended)
            yield "vllm:request_success_total", {"finished_reason": reason}, count
        for column, (family, edges) in enumerate(FAMILIES.values(), 3):
            values = sorted(one[column] for one in ended)
            for edge in edges:
                yield f"{family}_bucket", {"le": f"{edge}"}, bisect.bisect_right(values, edge)
            yield f"{family}_bucket", {"le": "+Inf"}, len(values)
            yield f"{family}_sum", {}, math.fsum(values)
            yield f"{family}_count", {}, len(values)

    def scraped(self, times):
        """Return the samples of scrapes, for ``write_blocks``."""
        found = {}
        for at in times:
            moment = round((T0 + at) * 1000)
            own = [(name, {**self.engine, **more}, value) for name, more, value in self.page(at)]
            for name, labels, value in [("up", self.labels, 1), *own]:
                points = found.setdefault((name, tuple(sorted(labels.items()))), [])
                points.append((moment, float(value)))
        return found


def truth_of(engines, start, end):
    ended = [one for engine in engines for one in engine.requests if start < one[0] <= end]
    truth = {
        "requests_total": len(ended),
        "requests_per_second": len(ended) / (end - start),
        "output_tokens_total": sum(one[2] for one in ended),
        "output_tokens_per_second": sum(one[2] for one in ended) / (end - start),
    }
    for column, name in enumerate(FAMILIES, 3):
        values = sorted(one[column] for one in ended)
        if not values:
            continue
        truth[f"{name}_seconds_mean"] = math.fsum(values) / len(values)
        for q in (50, 95, 99):
            rank = math.ceil(q / 100 * len(values)) - 1
            truth[f"{name}_seconds_p{q}"] = values[rank]
    if ended:
        aborted = sum(one[1] == "abort" for one in ended) / len(ended)
        truth["request_success_ratio"] = 1 - aborted
        truth["request_finished_abort_ratio"] = aborted
    return truth


def every(step, start, end):
    return [start + step * n for n in range(math.ceil((end - start) / step))]


def failed(engine, times):
    return {("up", tuple(sorted(engine.labels.items()))): [((T0 + at) * 1000, 0.0) for at in times]}


def recorded(folder, *parts):
    together = {}
    for part in parts:
        for key, points in part.items():
            together.setdefault(key, []).extend(points)
    write_blocks(together, folder)
    return folder


def check_all(source, engines, start, end):
    """Hold every number of every replica and of the job against the truth."""
    rows, manifest = asked(source, start, end)
    whole = [engine for of_replica in engines.values() for engine in of_replica]
    for entity, some in {**engines, "job": whole}.items():
        for kpi, truth in truth_of(some, start, end).items():
            check_truth(rows[kpi, entity, "window"], truth)
    return rows, manifest


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """Two replicas, one with two engines; one was there long before the recording."""
    folder = tmp_path_factory.mktemp("steady") / "data"
    one, two = Engine("h1:8000", 1), Engine("h1:8000", 2, name="1")
    old = Engine("h2:8000", 3, before=123_456)
    parts = [one.scraped(every(5, 0, 400)), two.scraped(every(5, 0, 400))]
    recorded(folder, *parts, old.scraped(every(5, 1.7, 400)))
    return folder, {"vllm@h1": [one, two], "vllm@h2": [old]}


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (100, 200),  # on samples of one, between samples of the other
        (102, 203.3),
        (200.5, 201.5),  # shorter than the interval
        (-50, 60),  # begins before the first sample
        (350, 500),  # ends after the last
    ],
)
def test_the_truth_is_between_the_bounds_of_any_window(steady, start, end):
    check_all(*steady, start, end)


@pytest.mark.parametrize(("start", "end"), [(-250, -150), (600, 650)])
def test_a_window_in_which_nothing_was_read_has_reasons_and_no_zeros(steady, start, end):
    rows, manifest = asked(steady[0], start, end)
    of_vllm = [row for row in rows.values() if row["kpi"] != "phase_seconds"]
    assert {row["status"] for row in of_vllm} == {"unavailable"}
    assert "window_not_bracketed" in rows["requests_total", "vllm@h1", "window"]["reason"]
    assert manifest["state"] == "incomplete"


def test_a_window_shorter_than_the_interval_says_nothing_of_the_highest_bucket(steady):
    """The interval of the rank is open, yet nobody saw anything above the last edge."""
    rows, _ = asked(steady[0], 200.5, 201.5)
    assert rows["ttft_seconds_p99", "vllm@h1", "window"]["reason"] == "few_observations"


def test_a_restart_is_seen_and_named(tmp_path):
    first, second = Engine("h:1", 1, stop=198), Engine("h:1", 2, start=212)
    parts = [first.scraped(every(5, 0, 198)), second.scraped(every(5, 213, 400))]
    folder = recorded(tmp_path / "data", *parts, failed(first, [200, 205, 210]))
    rows, _ = check_all(folder, {"vllm@h": [first, second]}, 100, 300)
    row = rows["requests_total", "vllm@h", "window"]
    assert row["status"] == "estimated"
    assert "counter_reset" in row["reason"]


def test_a_gap_and_a_target_that_goes_away(tmp_path):
    gap, gone = Engine("h:1", 3), Engine("i:1", 4, stop=230)
    times = [at for at in every(5, 0, 400) if not 150 < at < 220]
    parts = [gap.scraped(times), gone.scraped(every(5, 0, 200))]
    parts += [failed(gone, every(5, 200, 400)), failed(gap, every(5, 155, 220))]
    folder = recorded(tmp_path / "data", *parts)
    rows, manifest = check_all(folder, {"vllm@h": [gap], "vllm@i": [gone]}, 100, 300)
    assert rows["requests_total", "vllm@h", "window"]["reason"] == "sample_gap"
    assert "target_lost" in rows["requests_total", "vllm@i", "window"]["reason"]
    assert rows["requests_total", "vllm@i", "window"]["high"] is None
    assert len(manifest["reasons"]) == 2


@pytest.mark.parametrize(
    ("instances", "names"),
    [
        (("h:8000", "h:8001"), ("llm:8000@n", "llm:8001@n")),
        (("10.0.0.5:80", "10.0.0.6:80"), ("llm:10.0.0.5:80@n", "llm:10.0.0.6:80@n")),
    ],
)
def test_instances_that_share_service_and_node_are_not_one(tmp_path, instances, names):
    """As Kubernetes labels them. The second is born in the window: nothing restarted."""
    old = Engine(instances[0], 1, before=5000, service="llm", node="n")
    born = Engine(instances[1], 2, start=150, service="llm", node="n")
    parts = [old.scraped(every(5, 0, 400)), born.scraped(every(5, 155, 400))]
    for engine, began in ((old, -500), (born, 149)):
        key = ("process_start_time_seconds", tuple(sorted(engine.labels.items())))
        times = every(5, max(0, began + 6), 400)
        parts.append({key: [((T0 + at) * 1000, float(T0 + began)) for at in times]})
    folder = recorded(tmp_path / "data", *parts)
    rows, _ = check_all(folder, {names[0]: [old], names[1]: [born]}, 52, 302)
    assert "counter_reset" not in rows["requests_total", "job", "window"]["reason"]


def test_edges_of_buckets_are_numbers_not_words(tmp_path):
    """Prometheus 3 writes ``1.0`` where 2 wrote ``1``; the server was upgraded at 200 s."""
    engine = Engine("h:1", 5)
    before = engine.scraped(every(5, 0, 200))
    after = {
        (name, tuple((key, f"{float(v)}" if key == "le" else v) for key, v in labels)): points
        for (name, labels), points in engine.scraped(every(5, 200, 400)).items()
    }
    folder = recorded(tmp_path / "data", before, after)
    for window in ((100, 300), (198, 203)):
        check_all(folder, {"vllm@h": [engine]}, *window)


def test_what_no_kpi_knows_is_said(tmp_path):
    times = [((T0 + at) * 1000, 1.0) for at in every(5, 0, 400)]
    labels = (("instance", "h:1"), ("job", "x"))
    write_blocks({("up", labels): times, ("vllm_requests", labels): times}, tmp_path / "data")
    rows, manifest = asked(tmp_path / "data", 100, 200)
    assert [kpi for kpi, _, _ in rows] == ["phase_seconds"]
    assert manifest["state"] == "incomplete"
    assert manifest["reasons"] == ["no KPI is made of anything in this recording"]


def test_every_source_says_the_same_and_the_original_is_left_alone(steady, tmp_path):
    folder, _ = steady
    before = checksums(folder)
    rows, _ = asked(folder, 102, 303.3)
    parquet = tmp_path / "samples.parquet"
    assert jobmeter("export", "--source", folder, "--to", parquet).returncode == 0
    assert asked(parquet, 102, 303.3)[0] == rows
    assert checksums(folder) == before
    with running(programs(2), shutil.copytree(folder, tmp_path / "live")) as server:
        assert asked(str(server.base_url).rstrip("/"), 102, 303.3)[0] == rows


def checksums(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        ("1790000100000", "1790000200000", "milliseconds"),
        ("1e30", "1e31", "no time"),
        ("nan", "inf", "no time"),
        ("2026-09-21T14:15:00", "2026-09-21T14:16:00", "time zone"),
        ("1790000200", "1790000100", "empty"),
    ],
)
def test_wrong_times_are_refused_in_one_line(tmp_path, start, end, says):
    done = jobmeter("analyze", "--source", tmp_path, "--start", start, "--end", end)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


TRUTH = {
    "serving": {
        ("benchmark", "requests_total"): 300,
        ("benchmark", "output_tokens_total"): 14_400,
        ("benchmark", "itl_observations_total"): 14_100,
        ("warmup", "prompt_tokens_total"): 2_560,
    },
    "training": {
        ("warmup", "steps_total"): 2_000,
        ("train", "samples_total"): 12_000 * 2_048,
        ("again", "steps_total"): 4_000,
    },
}


def _halved(pattern):
    def damage(attempt):
        found = sorted(attempt.glob(pattern))
        assert found
        for path in found:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


DAMAGES = {
    "no edges": lambda attempt: shutil.rmtree(attempt / "edges"),
    "no samples": lambda attempt: shutil.rmtree(attempt / "tsdb"),
    "torn log": _halved("tsdb/wal/0*"),
    "torn edges": _halved("edges/*.end/*.prom"),
    "torn fetches": _halved("edges/*/fetches.jsonl"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", TRUTH)
def test_a_damaged_run_says_so_and_keeps_to_the_truth(tmp_path, kind, damage):
    (original,) = (RUNS / kind).glob("*-*")
    run = shutil.copytree(original, tmp_path / "run")
    DAMAGES[damage](run / "attempts" / "local")
    rows, manifest = answered("analyze", run)
    assert manifest["state"] == "incomplete"
    for (phase, kpi), truth in TRUTH[kind].items():
        row = rows[kpi, "job", phase]
        check_truth(row, truth)
        if damage == "no samples":
            assert (row["value"], row["status"]) == (truth, "exact")
