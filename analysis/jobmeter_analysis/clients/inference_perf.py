"""inference-perf's ``summary_lifecycle_metrics.json`` and ``per_request_lifecycle_metrics.json``.

The file of a stage looks like the summary. All times are in seconds.

Tokens that come in one chunk have the same time, so their gaps are zeros; how many came is told by
the client's tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from jobmeter_analysis.clients.numbers import (
    E2E,
    ITL,
    TPOT,
    TTFT,
    ClientResults,
    Collection,
    as_number,
    as_numbers,
    at,
)

TOOL = "inference-perf"

_LATENCIES = {
    TTFT: (
        "time_to_first_token",
        "from sending a request to its first token that is not empty, over successful requests",
    ),
    ITL: (
        "inter_token_latency",
        "time between two tokens by the client's tokenizer, zero within a chunk, over all gaps",
    ),
    TPOT: (
        "time_per_output_token",
        "(last token - first token) / (output tokens - 1) of a request, by the client's tokenizer "
        "unless told otherwise",
    ),
    E2E: ("request_latency", "from sending a request to its end, over successful requests"),
}
_TIME = "time from the first request to the last answer"
_SUCCESSFUL = "successful requests"
_FAILED = "requests that failed"
_REPORTED = "of successful requests, as the server reported them, else by the client's tokenizer"


def recognises(data: object) -> bool:
    """Whether this is a summary of inference-perf."""
    return isinstance(at(data, "successes", "latency"), Mapping) and "load_summary" in (
        data if isinstance(data, Mapping) else ()
    )


def parse(data: Mapping[str, object]) -> ClientResults:
    """Return the numbers of one summary."""
    found = Collection(TOOL)
    good = at(data, "successes")
    found.add("requests_total", at(good, "count"), _SUCCESSFUL)
    found.add("request_errors_total", at(data, "failures", "count"), _FAILED)
    found.add("prompt_tokens_total", at(good, "prompt_tokens", "total"), _REPORTED)
    output = at(good, "output_tokens", "total")
    found.add("output_tokens_total", output, _REPORTED)
    rates = at(good, "throughput")
    found.add("requests_per_second", at(rates, "requests_per_sec"), f"{_SUCCESSFUL} / {_TIME}")
    rate = at(rates, "output_tokens_per_sec")
    found.add(
        "output_tokens_per_second",
        rate,
        f"output tokens by the client's tokenizer unless told otherwise / {_TIME}",
    )
    found.add(
        "goodput_requests_per_second",
        at(good, "goodput_metrics", "request_goodput"),
        f"requests that met every limit / {_TIME}",
    )
    for name, (metric, definition) in _LATENCIES.items():
        of = at(good, "latency", metric)
        if isinstance(of, Mapping):
            found.add_latency(name, {**of, "p50": of.get("p50", of.get("median"))}, definition)
    _remark(found, output, rate, at(data, "benchmark_time_seconds"))
    return found.results()


def _remark(found: Collection, output: object, rate: object, seconds: object) -> None:
    reported, per_second, time = as_number(output), as_number(rate), as_number(seconds)
    if reported is None or per_second is None or time is None:
        return
    own = round(per_second * time)
    if own != round(reported):
        found.problems.append(
            f"output_tokens_total: the client's tokenizer counts {own}, the server {reported:g}; "
            "its rates and times per token are by its own count"
        )


def recognises_requests(data: object) -> bool:
    """Whether this is inference-perf's list of requests."""
    return (
        isinstance(data, list)
        and bool(data)
        and all(
            isinstance(entry, Mapping)
            and {"start_time", "end_time", "info", "error"} <= entry.keys()
            for entry in data
        )
    )


def parse_requests(data: Sequence[Mapping[str, object]]) -> ClientResults:
    """Return the numbers that the requests give."""
    found = Collection(TOOL)
    good = [entry for entry in data if entry["error"] is None]
    found.add("requests_total", len(good), _SUCCESSFUL)
    found.add("request_errors_total", len(data) - len(good), _FAILED)
    starts = as_numbers([entry["start_time"] for entry in data])
    ends = as_numbers([entry["end_time"] for entry in data])
    if starts is None or ends is None:
        found.problems.append("a request without a time: nothing but counts can be used")
        return found.results()
    seconds = max(ends) - min(starts)
    if seconds > 0:
        found.add("requests_per_second", len(good) / seconds, f"{_SUCCESSFUL} / {_TIME}")
    prompts = as_numbers(
        [_tokens(e, "prompt_tokens", ("request_metrics", "text", "input_tokens")) for e in good]
    )
    outputs = as_numbers(
        [_tokens(e, "completion_tokens", ("response_metrics", "output_tokens")) for e in good]
    )
    if prompts:
        found.add("prompt_tokens_total", sum(prompts), _REPORTED)
    if outputs:
        found.add("output_tokens_total", sum(outputs), _REPORTED)
    _latencies(found, good)
    return found.results()


def _tokens(entry: Mapping[str, object], reported: str, own: tuple[str, ...]) -> object:
    server = at(entry, "info", "response_metrics", "server_usage", reported)
    return at(entry, "info", *own) if server is None else server


def _latencies(found: Collection, good: Sequence[Mapping[str, object]]) -> None:
    whole, first, per_token, gaps = [], [], [], []
    for entry in good:
        start, end = as_number(entry["start_time"]), as_number(entry["end_time"])
        times = as_numbers(at(entry, "info", "response_metrics", "output_token_times")) or []
        own = as_number(at(entry, "info", "response_metrics", "output_tokens"))
        if start is None or end is None:
            continue
        whole.append(end - start)
        if len(times) > 1:
            first.append(times[0] - start)
            gaps += [after - before for before, after in pairwise(times)]
            if own is not None and own > 1:
                per_token.append((times[-1] - times[0]) / (own - 1))
    for name, values in ((E2E, whole), (TTFT, first), (ITL, gaps), (TPOT, per_token)):
        found.compute_latency(name, values, _LATENCIES[name][1])
