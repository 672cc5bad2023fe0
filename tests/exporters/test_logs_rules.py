"""Rules: what the shipped ones make of real lines, and what is refused."""

import json
from pathlib import Path

import pytest

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.log_lines import shown
from jobmeter_exporters.log_reader import ServiceLogs, Source
from jobmeter_exporters.log_rule import LEVELS, level, parse_record
from jobmeter_exporters.log_rule_file import read_rules, rule_set, shipped_names
from jobmeter_exporters.log_values import READERS
from jobmeter_exporters.logs import FAMILIES
from jobmeter_exporters.series import Series

LOGS = Path(__file__).parents[1] / "fixtures" / "logs"
PAGE = Path(__file__).parents[2] / "docs" / "log-rules.md"


class Read:
    """What rules make of the lines of a file."""

    def __init__(self, rules, path):
        self.clock_s = 0.0
        self.series = Series(
            {**FAMILIES, **rules.families}, rules.bounds, clock=lambda: self.clock_s
        )
        source = Source("svc", (str(path),), rules, from_end=False)
        logs = ServiceLogs(source, self.series, None)
        logs.search()
        while logs.read():
            pass
        logs.close()

    def samples(self, prefix=""):
        return {
            (sample.name, *(text for label, text in sample.labels.items() if label != "service")): (
                sample.value
            )
            for family in self.series.collect()
            for sample in family.samples
            if sample.name.startswith(prefix)
        }


@pytest.fixture
def read_lines(tmp_path):
    def read(rules, *lines):
        path = tmp_path / "log"
        path.write_text("".join(f"{line}\n" for line in lines))
        return Read(rules, path)

    return read


def shipped(name):
    return rule_set(read_rules(name))


def made_of(**entry):
    return rule_set([("own.yaml: rule 1", entry)])


def test_ollama():
    read = Read(shipped("ollama"), LOGS / "ollama.log")
    requests = read.samples("ollama_http_requests_total")
    assert requests == {
        ("ollama_http_requests_total", "POST", "/api/embeddings", "200"): 1,
        ("ollama_http_requests_total", "POST", "/api/chat", "404"): 1,
        ("ollama_http_requests_total", "POST", "/api/chat", "500"): 1,
        ("ollama_http_requests_total", "POST", "/api/chat", "200"): 2,
        ("ollama_http_requests_total", "HEAD", "/", "200"): 1,
        ("ollama_http_requests_total", "POST", "/api/generate", "499"): 1,
    }
    seconds = read.samples("ollama_http_request_duration_seconds_sum")
    key = "ollama_http_request_duration_seconds_sum"
    assert seconds[key, "POST", "/api/chat"] == pytest.approx(
        414.019e-6 + (29 * 60 + 59) + (3600 + 24 * 60 + 39) + 35.684791792
    )
    assert seconds[key, "POST", "/api/embeddings"] == pytest.approx(0.444455595)
    others = read.samples("ollama_")
    assert others["ollama_model_load_duration_seconds_sum",] == 0.25
    assert others["ollama_truncated_prompts_total",] == 1
    assert others["ollama_truncated_prompt_tokens_total",] == 5065
    assert (others["ollama_model_layers",], others["ollama_offloaded_layers",]) == (29, 28)
    gpu = ("GPU-dd1f9e61-27e0-16ad-dd71-766641270fd6", "cuda")
    assert others[("ollama_device_memory_total_bytes", *gpu)] == 22 * 2**30
    assert others[("ollama_device_memory_available_bytes", *gpu)] == pytest.approx(21.7 * 2**30)
    assert read.samples("log_messages_total") == {
        ("log_messages_total", "info"): 5,
        ("log_messages_total", "warning"): 2,
        ("log_messages_total", "error"): 1,
    }
    own = read.samples("jobmeter_log_")
    assert own["jobmeter_log_events_total", "warning"] == 2
    assert own["jobmeter_log_events_total", "error"] == 1
    assert own["jobmeter_log_unmatched_lines_total",] == 2
    assert not [key for key in own if "bad_values" in key[0]]


def test_vllm():
    read = Read(shipped("vllm"), LOGS / "vllm-0.32.0-cpu.log")
    # As its last line of an interval says.
    assert read.samples("vllm_log") == {
        ("vllm_log_prompt_tokens_per_second", "000"): 236.8,
        ("vllm_log_generation_tokens_per_second", "000"): 59.2,
        ("vllm_log_requests_running", "000"): 0,
        ("vllm_log_requests_waiting", "000"): 0,
        ("vllm_log_kv_cache_usage_ratio", "000"): 0,
        ("vllm_log_prefix_cache_hit_ratio", "000"): 0,
    }
    read.clock_s = 26.0  # an idle server writes none
    assert read.samples("vllm_log") == {}
    assert read.samples("vllm_engine")["vllm_engine_init_seconds",] == 15.45
    text = (LOGS / "vllm-0.32.0-cpu.log").read_text()
    levels = read.samples("log_messages_total")
    for name in ("info", "warning", "error"):
        assert levels["log_messages_total", name] == text.count(f") {name.upper()} ")
    assert read.samples("jobmeter_log_events")["jobmeter_log_events_total", "error"] == 8


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (  # before engines were numbered
            "INFO 05-25 06:50:29 [metrics.py:486] Avg prompt throughput: 0.0 tokens/s, Avg "
            "generation throughput: 15.5 tokens/s, Running: 1 reqs, Swapped: 0 reqs, Pending: 2 "
            "reqs, GPU KV cache usage: 0.5%, CPU KV cache usage: 0.1%.",
            {
                ("vllm_log_generation_tokens_per_second", ""): 15.5,
                ("vllm_log_requests_waiting", ""): 2,
                ("vllm_log_kv_cache_usage_ratio", ""): 0.005,
            },
        ),
        (
            "(APIServer pid=1) INFO 06-13 11:03:35 [loggers.py:271] Engine 001: Avg prompt "
            "throughput: 236.8 tokens/s, Avg generation throughput: 51.4 tokens/s, Running: 1 "
            "reqs, Waiting: 0 reqs, Preemptions: 3, GPU KV cache usage: 27.3%, Prefix cache hit "
            "rate: 91.1%, External prefix cache hit rate: 1.2%",
            {
                ("vllm_log_prompt_tokens_per_second", "001"): 236.8,
                ("vllm_log_kv_cache_usage_ratio", "001"): 0.273,
                ("vllm_log_prefix_cache_hit_ratio", "001"): 0.911,
            },
        ),
    ],
)
def test_vllm_of_other_versions(read_lines, line, expected):
    found = read_lines(shipped("vllm"), line).samples("vllm_log")
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert len(found) == 5 + (("vllm_log_prefix_cache_hit_ratio", "001") in found)


def test_vllm_balancedness(read_lines):
    """Lines after the formats in its source, 2025 and 2026: no log of such a run is at hand."""
    read = read_lines(
        shipped("vllm"),
        "INFO 07-01 10:00:00 [eplb_state.py:1] EPLB step: avg_tokens=100.00, max_tokens=400, "
        "balancedness=0.2500",
        "(EngineCore pid=7) INFO 07-01 10:00:01 [eplb_state.py:556] EPLB step: 20 for model a/b: "
        "avg_tokens=300.50, max_tokens=400, balancedness=0.7513, steps until the next "
        "rearrangement: 2980",
    )
    found = read.samples("vllm_eplb")
    assert found["vllm_eplb_mean_tokens_total", ""] == 100
    assert found["vllm_eplb_mean_tokens_total", "a/b"] == 300.5
    assert found["vllm_eplb_max_tokens_total", "a/b"] == 400
    assert found["vllm_eplb_balancedness_ratio_sum", "a/b"] == 0.7513
    assert found["vllm_eplb_balancedness_ratio_bucket", "a/b", "0.8"] == 1
    assert found["vllm_eplb_balancedness_ratio_bucket", "a/b", "0.75"] == 0


def test_json(read_lines):
    read = read_lines(
        shipped("json"),
        '{"timestamp": "2022-11-09T13:42:45Z", "level": "INFO", "fields": {"message": "up"}}',
        '{"level": "warn", "msg": "low"}',
        '{"levelname": "ERROR", "message": "a\\nb"}',
        '{"log.level": "fatal", "message": "no more"}',
        '{"severity": 17}',
        '{"level": null, "severity": "Notice"}',
        "{broken",
        "INFO no JSON",
        "[1]",
        '{"a":' * 5000,
        '{"level": ' + "9" * 5000 + "}",
    )
    assert read.samples("log_messages_total") == {
        ("log_messages_total", "info"): 2,
        ("log_messages_total", "warning"): 1,
        ("log_messages_total", "error"): 1,
        ("log_messages_total", "critical"): 1,
        ("log_messages_total", "other"): 1,
    }
    assert read.samples("jobmeter_log_events") == {
        ("jobmeter_log_events_total", "error"): 1,
        ("jobmeter_log_events_total", "critical"): 1,
    }


def test_levels(read_lines):
    read = read_lines(
        shipped("levels"),
        "2024-04-10T13:54:45.463225Z  INFO actix_web::middleware::logger: 192.168.65.1",
        "INFO:     127.0.0.1:40616 - GET",
        "[2026-01-01 10:00:00] [WARNING] low",
        "ERROR: no",
        "INFORMATION about ERRORS",
        "level=ERROR msg",
    )
    assert read.samples("log_messages_total") == {
        ("log_messages_total", "info"): 2,
        ("log_messages_total", "warning"): 1,
        ("log_messages_total", "error"): 2,
    }


def test_all_that_ships_is_one_set_and_documented():
    entries = [entry for name in shipped_names() for entry in read_rules(name)]
    families = rule_set(entries, FAMILIES).families
    page = PAGE.read_text()
    for name in (*shipped_names(), *families, *READERS, *LEVELS):
        assert f"`{name}`" in page, name
    for family in families.values():
        assert family.documentation.endswith("."), family


def test_the_rules_of_the_page_load():
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    import yaml

    for block in blocks:
        rules = yaml.safe_load(block.partition("```")[0])["rules"]
        assert rule_set([("page", rule) for rule in rules]).rules
    assert blocks


COUNTER = {"counter": "x_total", "help": "X."}
GAUGE = {"gauge": "x", "help": "X.", "value": "n"}
HISTOGRAM = {"histogram": "x", "help": "X.", "value": "n", "buckets": [1, 2]}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ([], r"own.yaml: rule 1: \[\] is no mapping"),
        ({"metrics": [COUNTER]}, "give either 'match'"),
        ({"match": "a", "fields": {"a": "b"}, "metrics": [COUNTER]}, "give either 'match'"),
        ({"fields": {}, "metrics": [COUNTER]}, "'fields' is empty"),
        ({"match": "a"}, "give 'metrics', a list, or 'event'"),
        ({"match": "a", "metrics": {}}, "give 'metrics', a list"),
        ({"match": "a", "metric": [COUNTER]}, "unknown key 'metric'; did you mean 'metrics'"),
        ({"match": 7, "metrics": [COUNTER]}, "7 is no text; put it in quotes"),
        ({"match": "(", "metrics": [COUNTER]}, "is no regular expression: missing"),
        ({"match": "(a+)+", "metrics": [COUNTER]}, "repeats a repeat"),
        ({"match": "(?:(?:a|b*)c)*", "metrics": [COUNTER]}, "repeats a repeat"),
        ({"match": r"(.*) took (.*) ms (.*)x", "metrics": [COUNTER]}, "has 3 repeats whose end"),
        ({"match": r"\w+\d+\w+:", "metrics": [COUNTER]}, "has 3 repeats whose end"),
        ({"match": r"(?:a|.*)b(?P<n>\S+).*?c", "metrics": [COUNTER]}, "has 3 repeats whose end"),
        ({"fields": {"f": "(?:a{0,999}b?)+"}, "metrics": [COUNTER]}, "repeats a repeat"),
        ({"match": "(?:a|ab|b)*c", "metrics": [COUNTER]}, "in too many ways"),
        ({"match": "(?i)(?:a|AB|b)*c", "metrics": [COUNTER]}, "in too many ways"),
        ({"match": "(?:aa?)+$", "metrics": [COUNTER]}, "in too many ways"),
        ({"match": "(?:\\d{1,3})+x", "metrics": [COUNTER]}, "in too many ways"),
        ({"match": "(?:щщ?)*ы", "metrics": [COUNTER]}, "in too many ways"),
        ({"match": "a?" * 20 + "a" * 20, "metrics": [COUNTER]}, "in too many ways"),
        ({"match": "(?:(?:a{0,9}){0,9}){0,9}b", "metrics": [COUNTER]}, "in too many ways"),
        ({"match": "(?:.*?,){11}P", "metrics": [COUNTER]}, "has 11 repeats whose end"),
        ({"match": "a", "metrics": [{"help": "X."}]}, "give one of counter, gauge, histogram"),
        ({"match": "a", "metrics": [COUNTER | {"gauge": "y"}]}, "give one of counter"),
        ({"match": "a", "metrics": [{"summary": "x"}]}, "unknown key 'summary'"),
        ({"match": "a", "metrics": [{"counter": "x_total"}]}, "give 'help'"),
        ({"match": "a", "metrics": [COUNTER | {"counter": "x"}]}, "has to end in _total"),
        ({"match": "a", "metrics": [COUNTER | {"counter": "1_total"}]}, "is no name"),
        ({"match": "a", "metrics": [COUNTER | {"counter": "jobmeter_x_total"}]}, "is taken"),
        (
            {"match": "(?P<n>a)", "metrics": [GAUGE | {"gauge": "x_total"}]},
            "must not end in _total",
        ),
        (
            {"match": "(?P<n>a)", "metrics": [GAUGE | {"gauge": "x_count"}]},
            "parts of other metrics",
        ),
        ({"match": "a", "metrics": [GAUGE]}, "the pattern has no group 'n'; it has none"),
        ({"match": "(?P<n>a)", "metrics": [{"gauge": "x", "help": "X."}]}, "has to have 'value'"),
        ({"match": "(?P<n>a)", "metrics": [GAUGE | {"unit": "second"}]}, "did you mean 'seconds'"),
        ({"match": "(?P<n>a)", "metrics": [GAUGE | {"buckets": [1]}]}, "a gauge has no 'buckets'"),
        ({"match": "(?P<n>a)", "metrics": [GAUGE | {"expires_seconds": 0}]}, "no number above 0"),
        ({"match": "a", "metrics": [COUNTER | {"expires_seconds": 9}]}, "does not expire"),
        ({"match": "(?P<n>a)", "metrics": [HISTOGRAM | {"buckets": [2, 1]}]}, "have to ascend"),
        ({"match": "(?P<n>a)", "metrics": [HISTOGRAM | {"buckets": ["1"]}]}, "give 'buckets'"),
        ({"match": "(?P<n>a)", "metrics": [HISTOGRAM | {"buckets": []}]}, "give 'buckets'"),
        ({"match": "a", "metrics": [COUNTER | {"labels": {"l": "g"}}]}, "label l: the pattern has"),
        (
            {"match": "(?P<g>a)", "metrics": [COUNTER | {"labels": {"le": "g"}}]},
            "cannot be a label",
        ),
        (
            {"match": "(?P<g>a)", "metrics": [COUNTER | {"labels": {"service": "g"}}]},
            "cannot be a label",
        ),
        (
            {"match": "(?P<n>a)", "metrics": [COUNTER | {"labels": {"l": ["n"]}}]},
            r"label l: the pattern has no group \['n'\]",
        ),
        ({"match": "(?P<n>a)", "metrics": [GAUGE | {"value": {"n": 1}}]}, "has no group"),
        (
            {"match": "(?P<n>a)", "metrics": [GAUGE | {"expires_seconds": 10**400}]},
            "no number above 0",
        ),
        ({"match": "a", "event": {"level": "fatale"}}, "no 'fatale'; there is debug, info"),
        ({"match": "a", "event": {"text": "t"}}, "event: text: the pattern has no group 't'"),
        (
            {"match": "(?P<n>a)", "metrics": [GAUGE, HISTOGRAM]},
            "differs from own.yaml: rule 1: x in type, help, labels or buckets",
        ),
    ],
)
def test_a_rule_that_is_none(entry, why):
    with pytest.raises(ExporterError, match=why) as caught:
        rule_set([("own.yaml: rule 1", entry)])
    assert str(caught.value).startswith("own.yaml: rule 1")


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?P<x>.*) took (?P<y>.*) ms",
        r"\| *(?P<a>\S+) \| *(?P<b>[\d.]+) (?P<c>[a-z]+): \"(?P<d>[^\"]*)\" (?P<e>\w+)-(?P<f>.*)",
        r"(?P<a>\w+)=(?P<b>\w+), (?P<c>[^,]+), (?P<d>\d+)\s+(?P<e>[A-Z]+)",
        r"(?:\d{1,3}\.){3}\d{1,3} (?:INFO|INIT|WARN)+: \"(?P<a>(?:\\.|[^\"\\])*)\"",
        r"(?:\w\.?)+ (?:GET|POST|PUT|PATCH|HEAD) (?:[^,]*,){11}P",
    ],
)
def test_a_pattern_whose_repeats_end_clearly_is_taken(pattern):
    assert made_of(match=pattern, metrics=[COUNTER]).rules


def test_a_name_that_an_exporter_has_is_refused():
    with pytest.raises(ExporterError, match="is taken"):
        rule_set([("r", {"match": "a", "metrics": [COUNTER]})], taken={"x_total"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rules: [", "is no YAML in line 1: expected"),
        ("", "one key, 'rules'"),
        ("rules: {}", "one key, 'rules'"),
        ("rule: []", "one key, 'rules'"),
        ("a: &a [*a]", "one key, 'rules'"),
        ("!!python/object/apply:os.getcwd []", "is no YAML"),
        ("\x00", "is no YAML"),
        ("rules: [2024-13-45]", "is no YAML: month must be in 1..12"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, why):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ExporterError, match=why):
        read_rules(str(path))


def test_rules_that_are_not_there(tmp_path):
    with pytest.raises(ExporterError, match=r"no rules 'olama'; give a file, or one of ours: json"):
        read_rules("olama")
    with pytest.raises(ExporterError, match="cannot read the rules"):
        read_rules(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"rules: [\xe9]")
    with pytest.raises(ExporterError, match="cannot read the rules"):
        read_rules(str(tmp_path / "latin"))


def test_values_that_are_no_numbers_are_counted_and_left_out(read_lines):
    rules = made_of(
        match=r"n=(?P<n>\S*)",
        metrics=[
            COUNTER | {"value": "n"},
            HISTOGRAM | {"histogram": "y", "unit": "milliseconds"},
        ],
    )
    read = read_lines(rules, "n=1", "n=x", "n=-2", "n=nan", "n=inf", "n=1e999", "n=", "n=2,000")
    found = read.samples()
    assert found["x_total",] == 2001
    assert found["y_sum",] == pytest.approx((1 - 2 + 2000) / 1000)
    assert found["jobmeter_log_bad_values_total", "x_total"] == 6
    assert found["jobmeter_log_bad_values_total", "y"] == 5


def test_too_many_labels_become_other_and_the_sum_stays(read_lines):
    rules = made_of(
        match=r"(?P<who>\S+) (?P<n>\d+)",
        metrics=[COUNTER | {"labels": {"who": "who"}}, GAUGE | {"labels": {"who": "who"}}],
    )
    read = read_lines(rules, *(f"{number} {number}" for number in range(300)), "0 1")
    totals = read.samples("x_total")
    assert len(totals) == 201
    assert totals["x_total", "other"] == 100
    assert sum(totals.values()) == 301
    assert len([key for key in read.samples("x") if key[0] == "x"]) == 200
    folded = read.samples("jobmeter_log_folded")
    assert set(folded.values()) == {100}


def test_a_long_label_is_cut(read_lines):
    rules = made_of(match="(?P<who>.+)", metrics=[COUNTER | {"labels": {"who": "who"}}])
    ((_, who),) = read_lines(rules, "ü" * 5000).samples("x_total")
    assert who == "ü" * 120


def test_a_counter_without_labels_begins_at_zero(read_lines):
    rules = made_of(match="never", metrics=[COUNTER])
    assert read_lines(rules, "a").samples("x_total") == {("x_total",): 0}


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("number", "1_0", None),
        ("number", " 7", 7),
        ("duration", "1m30.5s", 90.5),
        ("duration", "12μs", 12e-6),
        ("duration", "12 s", None),
        ("duration", "-1s", None),
        ("duration", "", None),
        ("size", "878.0 MiB", 878 * 2**20),
        ("size", "5GB", 5e9),
        ("size", "5 GiBs", None),
        ("percent", "27.3", 0.273),
        ("hours", "2", 7200),
        ("gibibytes", "2", 2**31),
    ],
)
def test_numbers_as_logs_write_them(unit, text, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"is no (number|duration|size)"):
            READERS[unit](text)
    else:
        assert READERS[unit](text) == pytest.approx(expected)


def test_levels_by_other_names():
    assert [level(name) for name in ("Information", "PANIC", "err", "")] == [
        "info",
        "critical",
        "error",
        "other",
    ]


def test_what_a_terminal_would_show():
    assert (
        shown(b"\x1b[1;36m(EngineCore pid=3)\x1b[0;0m INFO \xff\r")
        == "(EngineCore pid=3) INFO \ufffd"
    )
    assert shown(b"Loading:  10%\rLoading: 100%\r") == "Loading: 100%"


def test_only_objects_are_records():
    assert parse_record('{"a": 1}') == {"a": 1}
    for line in ("", "[1]", "{", '{"a": ' + "[" * 100_000, json.dumps("{}")):
        assert parse_record(line) is None
