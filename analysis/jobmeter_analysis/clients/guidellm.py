"""GuideLLM's ``benchmarks.json``: distributions by outcome, and the values of each request.

It weighs its inter token latency by tokens. That makes its mean the mean over all gaps, but its
percentiles are neither over gaps nor over requests, so they are not used.
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
    at,
)

TOOL = "GuideLLM"

_TTFT = "from sending a request to its first token, over successful requests"
_E2E = "from sending a request to its end, over successful requests"
_ITL = "time between two tokens, over all tokens but the first of each successful request"
_TPOT = "(last token - first token) / (output tokens - 1) of a request (GuideLLM: ITL)"
_TIME = "time from the first request to the last answer"


def recognises(data: object) -> bool:
    """Whether this is a report of GuideLLM."""
    benchmarks = at(data, "benchmarks")
    return (
        isinstance(benchmarks, list)
        and bool(benchmarks)
        and isinstance(at(benchmarks[0], "metrics", "request_totals"), Mapping)
    )


def parse(data: Mapping[str, object]) -> ClientResults:
    """Return the numbers of a report with one benchmark."""
    found = Collection(TOOL, at(data, "metadata", "guidellm_version"))
    benchmarks = data["benchmarks"]
    if not isinstance(benchmarks, list) or len(benchmarks) != 1:
        found.problems.append(
            f"holds {len(benchmarks) if isinstance(benchmarks, list) else 0} benchmarks, and it is "
            "not known which stretch of the phase each belongs to; run each in a phase of its own"
        )
        return found.results()
    benchmark = benchmarks[0]
    metrics = at(benchmark, "metrics")
    totals = at(metrics, "request_totals")
    found.add("requests_total", at(totals, "successful"), "successful requests")
    found.add("request_errors_total", at(totals, "errored"), "requests that ended in an error")
    for kpi, metric, of in (
        ("prompt_tokens_total", "prompt_token_count", "prompt"),
        ("output_tokens_total", "output_token_count", "output"),
    ):
        found.add(
            kpi,
            at(metrics, metric, "successful", "total_sum"),
            f"{of} tokens of successful requests, as the server said, else GuideLLM's count",
        )
    for kpi, metric, of in (
        ("requests_per_second", "requests_per_second", "successful requests"),
        ("output_tokens_per_second", "output_tokens_per_second", "output tokens of these"),
    ):
        found.add(kpi, at(metrics, metric, "successful", "mean"), f"{of} / {_TIME}")
    found.add(
        "concurrency_mean",
        at(metrics, "request_concurrency", "total", "mean"),
        "requests in flight, averaged over time",
    )
    found.add(
        "goodput_requests_per_second",
        at(metrics, "request_goodput", "successful", "mean"),
        f"requests that met every limit / {_TIME}",
    )
    found.add_latency(TTFT, _statistics(metrics, "time_to_first_token_ms"), _TTFT, 1e-3)
    found.add_latency(E2E, _statistics(metrics, "request_latency"), _E2E)
    mean = at(metrics, "inter_token_latency_ms", "successful", "mean")
    found.add_latency(ITL, {"mean": mean}, _ITL, 1e-3)
    _per_request(found, benchmark, as_number(at(totals, "successful")))
    _remarks(found, benchmark, totals)
    return found.results()


def _statistics(metrics: object, metric: str) -> Mapping[str, object]:
    of = at(metrics, metric, "successful")
    if not at(of, "count"):
        return {}
    percentiles = at(of, "percentiles")
    return {
        **(percentiles if isinstance(percentiles, Mapping) else {}),
        "mean": at(of, "mean"),
    }


def _per_request(found: Collection, benchmark: object, successful: float | None) -> None:
    """Compute the time per output token, unless the file holds a sample of the requests only."""
    requests = at(benchmark, "requests", "successful")
    if not isinstance(requests, list) or len(requests) != successful:
        return
    milliseconds = as_numbers(
        [
            at(request, "inter_token_latency_ms")
            for request in requests
            if at(request, "inter_token_latency_ms") is not None
        ]
    )
    if milliseconds is not None:
        found.compute_latency(TPOT, [value / 1e3 for value in milliseconds], _TPOT)


def _remarks(found: Collection, benchmark: object, totals: object) -> None:
    incomplete = as_number(at(totals, "incomplete"))
    if incomplete:
        found.problems.append(
            f"{incomplete:g} requests had not ended when GuideLLM stopped; "
            "the server counts them, GuideLLM does not"
        )
    if as_number(at(benchmark, "warmup_duration")) or as_number(at(benchmark, "cooldown_duration")):
        found.problems.append("GuideLLM leaves the requests of its warm-up and cool-down out")
