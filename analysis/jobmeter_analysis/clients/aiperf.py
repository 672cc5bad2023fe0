"""AIPerf's ``profile_export_aiperf.json``: one object per metric, with its unit and statistics.

Its "inter token latency" is the mean gap of each request, which the other tools and this project
call time per output token; its "inter chunk latency" is the time between two chunks.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobmeter_analysis.clients.numbers import (
    E2E,
    ITL,
    TPOT,
    TTFT,
    ClientResults,
    Collection,
    as_number,
    at,
)

TOOL = "AIPerf"

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}

_LATENCIES = {
    TTFT: (
        "time_to_first_token",
        "from sending a request to its first chunk with content, over completed requests",
    ),
    ITL: (
        "inter_chunk_latency",
        "time between two chunks with content (AIPerf: inter chunk latency), over all gaps",
    ),
    TPOT: (
        "inter_token_latency",
        "(latency - TTFT) / (output tokens - 1) of a request (AIPerf: inter token latency)",
    ),
    E2E: (
        "request_latency",
        "from sending a request to its last chunk with content, over completed requests",
    ),
}


def recognises(data: object) -> bool:
    """Whether this is AIPerf's summary."""
    return "input_config" in (data if isinstance(data, Mapping) else ()) and all(
        isinstance(at(data, metric, "unit"), str)
        for metric in ("request_latency", "request_throughput")
    )


def parse(data: Mapping[str, object]) -> ClientResults:
    """Return the numbers of one summary."""
    found = Collection(TOOL, data.get("aiperf_version"))
    requests, completed = (
        at(data, "request_count", "avg"),
        at(data, "completed_request_count", "avg"),
    )
    found.add("requests_total", requests, "requests completed without an error")
    failed = at(data, "error_request_count", "avg")
    if failed is None and as_number(requests) is not None and as_number(completed) is not None:
        failed = completed - requests
    found.add("request_errors_total", failed, "requests without a valid answer")
    _tokens(found, data)
    found.add(
        "requests_per_second",
        at(data, "request_throughput", "avg"),
        "completed requests / time from the first request to the last answer",
    )
    found.add(
        "output_tokens_per_second",
        at(data, "output_token_throughput", "avg"),
        f"output tokens by {_counted_by(data)} / time from the first request to the last answer",
    )
    found.add(
        "goodput_requests_per_second",
        at(data, "goodput", "avg"),
        "requests that met every limit of --goodput / time of the benchmark",
    )
    found.add(
        "concurrency_mean",
        at(data, "effective_concurrency", "avg"),
        "requests in flight, averaged over time",
    )
    for name, (metric, definition) in _LATENCIES.items():
        _latency(found, name, data.get(metric), definition)
    if data.get("was_cancelled") is True:
        found.problems.append("AIPerf was cancelled: its numbers are those of a part")
    return found.results()


def _latency(found: Collection, name: str, metric: object, definition: str) -> None:
    if not isinstance(metric, Mapping):
        return
    scale = _SECONDS.get(str(metric.get("unit")))
    if scale is None:
        found.problems.append(f"{name}: the unit {str(metric.get('unit'))[:20]!r} is not known")
        return
    found.add_latency(name, {**metric, "mean": metric.get("avg")}, definition, scale)


def _counted_by(data: Mapping[str, object]) -> str:
    server = at(data, "input_config", "endpoint", "use_server_token_count")
    return "the server's count" if server is True else "AIPerf's tokenizer"


def _tokens(found: Collection, data: Mapping[str, object]) -> None:
    """Totals as the server told the client where it did; AIPerf's own count otherwise."""
    for kpi, reported, own in (
        ("prompt_tokens_total", "total_usage_prompt_tokens", "total_isl"),
        ("output_tokens_total", "total_usage_completion_tokens", "total_osl"),
    ):
        server, client = at(data, reported, "avg"), at(data, own, "avg")
        if as_number(server) is None:
            found.add(kpi, client, f"of completed requests, by {_counted_by(data)}")
            continue
        found.add(kpi, server, "of completed requests, as the server reported them")
        if as_number(client) is not None and client != server:
            found.problems.append(
                f"{kpi}: AIPerf's tokenizer counts {client:g}, the server {server:g}; "
                "its rates and times per token are by its own count"
            )
