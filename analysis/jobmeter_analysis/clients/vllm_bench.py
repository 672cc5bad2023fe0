"""``vllm bench serve --save-result``, with or without ``--save-detailed``.

The latencies are in milliseconds, each under a key of its own such as ``p95_ttft_ms``, and only the
percentiles that ``--percentile-metrics`` and ``--metric-percentiles`` asked for.
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
    as_numbers,
)

TOOL = "vllm bench serve"

_LATENCIES = {
    TTFT: ("ttft", "from sending a request to its first chunk, over completed requests"),
    ITL: ("itl", "time between two chunks of a request, over all gaps of all requests"),
    TPOT: (
        "tpot",
        "(latency - TTFT) / (output tokens - 1) of a request, over those with two or more",
    ),
    E2E: ("e2el", "from sending a request to its last chunk, over completed requests"),
}


def recognises(data: object) -> bool:
    """Whether this is a result of ``vllm bench serve``."""
    return (
        isinstance(data, Mapping)
        and {"completed", "duration", "request_throughput", "total_input_tokens"} <= data.keys()
        and "total_output_tokens_retokenized" not in data  # SGLang's, otherwise alike
    )


def parse(data: Mapping[str, object]) -> ClientResults:
    """Return the numbers of one result."""
    found = Collection(TOOL)
    found.add("requests_total", data.get("completed"), "requests completed without an error")
    failed = data.get("failed")
    prompts, completed = as_number(data.get("num_prompts")), as_number(data.get("completed"))
    if failed is None and prompts is not None and completed is not None:
        failed = prompts - completed  # older versions do not say it themselves
    found.add("request_errors_total", failed, "requests that failed")
    found.add(
        "prompt_tokens_total", data.get("total_input_tokens"), "prompt tokens of completed requests"
    )
    found.add(
        "output_tokens_total",
        data.get("total_output_tokens"),
        "output tokens of completed requests, as the server reported them, "
        "else by the client's tokenizer",
    )
    if as_number(data.get("duration")):
        found.add(
            "requests_per_second",
            data.get("request_throughput"),
            "completed requests / time from the first request to the last answer",
        )
        found.add(
            "output_tokens_per_second",
            data.get("output_throughput"),
            "output tokens / time from the first request to the last answer",
        )
        found.add(
            "goodput_requests_per_second",
            data.get("request_goodput", data.get("request_goodput:")),  # as vLLM once spelled it
            "requests that met every limit of --goodput / time; "
            "the TPOT of a request with one token counts as 0",
        )
    found.add(
        "concurrency_max",
        data.get("max_concurrent_requests"),
        "most requests in flight within one second",
    )
    for name, (word, definition) in _LATENCIES.items():
        of = {
            "mean": data.get(f"mean_{word}_ms"),
            "p50": data.get(f"p50_{word}_ms", data.get(f"median_{word}_ms")),
            "p95": data.get(f"p95_{word}_ms"),
            "p99": data.get(f"p99_{word}_ms"),
        }
        found.add_latency(name, of, definition, 1e-3)
    if completed and failed == 0:
        _compute(found, data, int(completed))
    return found.results()


def _compute(found: Collection, data: Mapping[str, object], completed: int) -> None:
    """Fill up from the values of each request, when none failed: failed ones hold zeros."""
    e2e, ttft = as_numbers(data.get("latencies")), as_numbers(data.get("ttfts"))
    lengths, gaps = as_numbers(data.get("output_lens")), data.get("itls")
    if e2e is not None and len(e2e) == completed:
        found.compute_latency(E2E, e2e, _LATENCIES[E2E][1])
    if ttft is None or len(ttft) != completed or not any(ttft):
        return
    found.compute_latency(TTFT, ttft, _LATENCIES[TTFT][1])
    if isinstance(gaps, list) and len(gaps) == completed:
        pooled = [as_numbers(of_request) for of_request in gaps]
        if None not in pooled:
            found.compute_latency(
                ITL, [gap for of in pooled if of is not None for gap in of], _LATENCIES[ITL][1]
            )
    if e2e is None or lengths is None or not len(e2e) == len(lengths) == completed:
        return
    per_token = [
        (whole - first) / (length - 1)
        for whole, first, length in zip(e2e, ttft, lengths, strict=True)
        if length > 1
    ]
    found.compute_latency(TPOT, per_token, _LATENCIES[TPOT][1])
