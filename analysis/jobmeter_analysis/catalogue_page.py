"""The page of the documentation that lists every KPI.

``python -m jobmeter_analysis.catalogue_page`` prints it; a test keeps ``docs/kpis.md`` in step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from jobmeter_analysis.catalogue import Catalogue, Group, Kpi, load_catalogue, metrics_of
from jobmeter_analysis.estimate import REASONS
from jobmeter_analysis.vocabulary import Vocabulary, load_vocabulary

_COMPARED = (
    "A KPI `x` that is compared between devices has more rows, where two or more of them have a",
    "number: `x_across_devices_min`, `x_across_devices_mean`, `x_across_devices_max` and",
    "`x_across_devices_variation_ratio` (standard deviation over mean) for the job; and for each",
    "device `x_score_ratio`, its number over the best one (the reverse where less is better), 1",
    "for as good as the best. So it is of `nodes`, `services` and `ranks`. Reason `outlier` names",
    "those that are further from the median than 3.5 scaled median absolute deviations and than a",
    "tenth of it, among three or more.",
    "",
    "`kpi@phase` in a formula is the number of that phase; without such a phase there is no row.",
)


_CLIENTS = (
    "## clients",
    "",
    "A phase may name the result file of its load generator (`results:` in the job file). What is",
    "in it stands in the table under the name of the server's number of the same definition, scope",
    "`job`, entity `client`, source `client: <tool>`; where the server's number is there too,",
    "`x_client_minus_server` is the difference. Of the clients alone come",
    "`goodput_requests_per_second` (requests that met all of the client's objectives),",
    "`request_errors_total` and `concurrency_mean` or `concurrency_max`. The tools' words differ:",
    "`tpot_seconds` is (latency - time to first token) / (tokens - 1) by request, which AIPerf and",
    "GuideLLM call inter token latency; `itl_seconds` are the gaps between chunks, which AIPerf",
    "calls inter chunk latency. A client's clock includes the network and its own event loop, and",
    "its rates are over its own time, not that of the phase. `MANIFEST.json` has each definition.",
)


def as_markdown(catalogue: Catalogue) -> str:
    """Return the page of the documentation that lists every KPI."""
    lines = [
        "# KPIs",
        "",
        "<!-- Written by `python -m jobmeter_analysis.catalogue_page`; edit the files in",
        "     analysis/jobmeter_analysis/kpis/ and metrics/ instead. -->",
        "",
        "One row of the table per KPI, phase and entity. Units are base units; `1` is a count.",
        "What `low`, `high` and `status` mean stands in the [README](../README.md#how-to-read-it),",
        "how they are computed in [analysis.md](analysis.md).",
        "A row may have several reasons, separated by `;`. Their words are stable:",
        "",
        "| reason | means |",
        "| --- | --- |",
        *(f"| `{reason}` | {meaning} |" for reason, meaning in REASONS.items()),
        "",
        *_COMPARED,
        "",
    ]
    for name, group in catalogue.items():
        lines += [f"## {name}", "", group.help.strip(), "", *_extent(group), ""]
        lines += ["| kpi | unit | from | what |", "| --- | --- | --- | --- |"]
        for kpi_name, kpi in group.kpis.items():
            lines.append(f"| `{kpi_name}` | {kpi.unit} | {_origin(kpi)} | {_what(kpi)} |")
        lines.append("")
    lines += [*_CLIENTS, ""]
    lines += ["## Spellings", "", *_spellings(load_vocabulary(), metrics_of(catalogue))]
    return "\n".join(lines)


def _extent(group: Group) -> Iterator[str]:
    entity = {"node": "node", "service": "`service@node`"}.get(group.scope, group.scope)
    if group.entity:
        entity = f"`{group.entity}@node`"
    yield f"Scope `{group.scope}`: one row per {entity}."
    for scope in group.totals:
        yield f"Put together per {scope} as well (scope `{scope}`)."
    if group.only_job:
        yield "For the whole attempt (phase `job`) only."
    elif group.job:
        yield "For every phase and for the whole attempt (phase `job`)."


def _what(kpi: Kpi) -> str:
    compared = " Compared between entities." if kpi.spread else ""
    return f"{kpi.help.strip()}{compared}".replace("|", "\\|")


def _origin(kpi: Kpi) -> str:
    if kpi.statistic == "accounting":
        return f"accounting, `{kpi.field}`"
    if kpi.formula is not None:
        return f"`{kpi.formula}`"
    if kpi.metric is None:
        return "phase marks"
    text = f"{kpi.statistic.replace('_', ' ')} of `{kpi.metric}`"
    if kpi.quantile is not None:
        text = f"quantile {kpi.quantile} of `{kpi.metric}`"
    parts = {"minus": kpi.minus, "per": kpi.per or kpi.divisor, "up to": kpi.high_water}
    text += "".join(f" {word} `{metric}`" for word, metric in parts.items() if metric)
    for label, values in kpi.only.items():
        text += f", `{label}` {', '.join(values)}"
    for label, values in kpi.without.items():
        text += f", `{label}` not {', '.join(values)}"
    return text


def _spellings(vocabulary: Vocabulary, used: Iterable[str]) -> Iterator[str]:
    """Yield how the metrics are exposed that are called otherwise here."""
    yield "Names of metrics above are ours. This is how they are exposed, the first that is there"
    yield "counts; a factor leads to base units."
    yield ""
    for family in vocabulary.families.values():
        named = {m: known for m, known in family.metrics.items() if known.names and m in used}
        if not named:
            continue
        yield f"{family.help.strip()}"
        if family.prefixes != ("",):
            yield f"Each with one of these before it: {', '.join(_spelled(family.prefixes))}."
        yield ""
        yield from ("| metric | exposed as |", "| --- | --- |")
        for metric, known in named.items():
            yield f"| `{metric}` | {', '.join(_spelled(known.names))} |"
        yield ""


def _spelled(names: Iterable[object]) -> Iterator[str]:
    for one in names:
        name, scale = getattr(one, "name", one), getattr(one, "scale", 1.0)
        yield f"`{name}`" if scale == 1 else f"`{name}` x {scale:g}"


if __name__ == "__main__":
    sys.stdout.write(as_markdown(load_catalogue()))
