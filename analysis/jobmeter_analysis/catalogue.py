"""The KPI catalogue: what is computed from which metric is data, in ``kpis/*.yaml``.

Everything is checked when it is loaded: unknown keys, unknown statistics, names given twice, keys
that a statistic needs or cannot use. ``python -m jobmeter_analysis.catalogue`` prints the page for
the documentation.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from jobmeter.errors import CatalogueError
from jobmeter_analysis.estimate import REASONS

FOLDER = Path(__file__).parent / "kpis"

PAYLOAD = "payload"
"""In place of service names: every endpoint that the user's job exposes."""
ATTEMPT = "attempt"
"""In place of service names: the attempt itself, not a metric of a target."""


@dataclass(frozen=True)
class Needs:
    """Which keys a statistic needs, and which others it understands."""

    needed: tuple[str, ...] = ("metric",)
    understood: tuple[str, ...] = ()


_COUNTER = ("minus", "only", "without", "since")
_GAUGE = ("minus", "only", "without", "across")
STATISTIC_KEYS: Mapping[str, Needs] = {
    "increase": Needs(understood=_COUNTER),
    "rate": Needs(understood=(*_COUNTER, "divisor")),
    "busy_share": Needs(("metric", "without"), ("since",)),
    "mean": Needs(understood=(*_GAUGE, "method")),
    "max": Needs(understood=(*_GAUGE, "high_water")),
    "last": Needs(understood=_GAUGE),
    "observations": Needs(understood=("only", "without", "since")),
    "observed_mean": Needs(understood=("only", "without", "since")),
    "observed_quantile": Needs(("metric", "quantile"), ("only", "without", "since")),
    "elapsed": Needs(()),
    "accounting": Needs(("field",)),
}
"""Every statistic by name. ``statistics.STATISTICS`` has those that read metrics."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Kpi(_Strict):
    """One row of the report: which metric, and which number of it.

    Args:
        unit: Base unit, ``1`` for a count.
        help: What it is, for the documentation; the definition where tools disagree.
        statistic: A name of ``STATISTIC_KEYS``.
        metric: Metric name, of a histogram without ``_bucket``.
        minus: Metric that belongs to ``metric`` and is taken off.
        divisor: Gauge by whose last value the result is divided.
        high_water: Gauge in which the kernel keeps the largest value of ``metric``.
        only: Label to the values it may have.
        without: Label to the values it may not have.
        quantile: Between 0 and 1.
        method: How a gauge goes on between samples.
        across: What several label sets of a gauge become.
        since: When a counter was zero; see ``readings.Since``.
        field: Of ``jobmeter.accounting.JobAccounting``.
        brief: Whether the table on a terminal shows it without being asked for everything.
    """

    unit: str
    help: str
    statistic: str
    metric: str | None = None
    minus: str | None = None
    divisor: str | None = None
    high_water: str | None = None
    only: dict[str, tuple[str, ...]] = {}
    without: dict[str, tuple[str, ...]] = {}
    quantile: float | None = None
    method: Literal["trapezoid", "step"] = "trapezoid"
    across: Literal["sum", "mean"] = "sum"
    since: Literal["process", "job", "boot"] = "process"
    field: str | None = None
    brief: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric name that has to be read for this KPI."""
        named = [name for name in (self.minus, self.divisor, self.high_water) if name]
        if self.metric is None:
            return tuple(named)
        if self.statistic.startswith("observ"):
            parts = ("bucket", "sum", "created")
            return (*(f"{self.metric}_{part}" for part in parts), *named)
        return (self.metric, f"{self.metric.removesuffix('_total')}_created", *named)


class Group(_Strict):
    """KPIs that are computed for the same targets.

    Args:
        help: Title in the documentation.
        services: Services whose targets give one row each, or ``payload``, or ``attempt``.
        scope: Of these rows: ``node`` (entity: the node), ``service`` (``service@node``), ``job``.
        totals: Scopes for which the rows are summed up as well.
        job: Whether the rows are computed for the whole attempt as well, beside the phases.
        only_job: Whether they are computed for the whole attempt only.
        kpis: By name, stable once published.
    """

    help: str
    services: tuple[str, ...]
    scope: Literal["job", "node", "service"]
    totals: tuple[Literal["job", "node"], ...] = ()
    job: bool = False
    only_job: bool = False
    kpis: dict[str, Kpi]


Catalogue = Mapping[str, Group]
"""Group name (of its file) to group."""


def load_catalogue(folder: Path = FOLDER) -> Catalogue:
    """Read and check every file of ``folder``, in the order of their names.

    Raises:
        CatalogueError: naming the file, the KPI, the key, and the nearest right one.
    """
    return _load(folder)


@lru_cache(maxsize=8)
def _load(folder: Path) -> Catalogue:
    groups: dict[str, Group] = {}
    seen: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        group = _group_from(path)
        for name, kpi in group.kpis.items():
            if name in seen:
                raise CatalogueError(
                    f"{path.name}: kpi {name!r} is already in {seen[name]}; give it another name"
                )
            seen[name] = path.name
            _check_keys(f"{path.name}: kpi {name!r}", kpi)
        groups[path.stem.partition("-")[2] or path.stem] = group
    if not groups:
        raise CatalogueError(f"{folder}: no KPI catalogue here; install jobmeter again")
    return groups


def _group_from(path: Path) -> Group:
    try:
        data: Any = yaml.load(path.read_text(), Loader=_NoDuplicates)  # noqa: S506  # a SafeLoader
    except (OSError, ValueError, yaml.YAMLError) as cause:
        raise CatalogueError(f"{path.name}: not readable: {cause}") from cause
    try:
        return Group.model_validate(data)
    except ValidationError as cause:
        raise CatalogueError("; ".join(_explained(path.name, cause))) from cause


class _NoDuplicates(yaml.SafeLoader):
    """Refuses a mapping with the same key twice; YAML would keep the last in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is there twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _explained(file: str, cause: ValidationError) -> Iterable[str]:
    for error in cause.errors():
        where = [str(part) for part in error["loc"]]
        in_kpi = where[:1] == ["kpis"] and len(where) > 2
        place = f"{file}: kpi {where[1]!r}" if in_kpi else file
        key = ".".join(where[2:] if in_kpi else where)
        if error["type"] == "extra_forbidden":
            known = list((Kpi if in_kpi else Group).model_fields)
            yield f"{place}: unknown key {key!r}; {_nearest(key, known)}"
        else:
            yield f"{place}: {key}: {error['msg']}"


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    hint = get_close_matches(word, names, n=1)
    return f"did you mean {hint[0]!r}?" if hint else f"one of {', '.join(sorted(names))}"


def _check_keys(where: str, kpi: Kpi) -> None:
    needs = STATISTIC_KEYS.get(kpi.statistic)
    if needs is None:
        raise CatalogueError(
            f"{where}: no statistic {kpi.statistic!r}; {_nearest(kpi.statistic, STATISTIC_KEYS)}"
        )
    given = kpi.model_fields_set - {"unit", "help", "statistic", "brief"}
    for key in needs.needed:
        if key not in given:
            raise CatalogueError(f"{where}: statistic {kpi.statistic!r} needs the key {key!r}")
    for key in sorted(given.difference(needs.needed, needs.understood)):
        raise CatalogueError(f"{where}: statistic {kpi.statistic!r} does not use the key {key!r}")
    if kpi.quantile is not None and not 0 < kpi.quantile < 1:
        raise CatalogueError(f"{where}: quantile {kpi.quantile} is not between 0 and 1")


def as_markdown(catalogue: Catalogue) -> str:
    """Return the page of the documentation that lists every KPI."""
    lines = [
        "# KPIs",
        "",
        "<!-- Written by `python -m jobmeter_analysis.catalogue`; edit the files in",
        "     analysis/jobmeter_analysis/kpis/ instead. -->",
        "",
        "One row of the table per KPI, phase and entity. Units are base units; `1` is a count.",
        "What `low`, `high` and `status` mean stands in the [README](../README.md#how-to-read-it).",
        "A row may have several reasons, separated by `;`. Their words are stable:",
        "",
        "| reason | means |",
        "| --- | --- |",
        *(f"| `{reason}` | {meaning} |" for reason, meaning in REASONS.items()),
        "",
    ]
    for name, group in catalogue.items():
        lines += [f"## {name}", "", group.help.strip(), "", *_extent(group), ""]
        lines += ["| kpi | unit | from | what |", "| --- | --- | --- | --- |"]
        for kpi_name, kpi in group.kpis.items():
            lines.append(f"| `{kpi_name}` | {kpi.unit} | {_origin(kpi)} | {kpi.help.strip()} |")
        lines.append("")
    return "\n".join(lines)


def _extent(group: Group) -> Iterable[str]:
    entity = {"node": "node", "service": "`service@node`", "job": "job"}[group.scope]
    yield f"Scope `{group.scope}`: one row per {entity}."
    for scope in group.totals:
        yield f"Summed up per {scope} as well (scope `{scope}`)."
    if group.only_job:
        yield "For the whole attempt (phase `job`) only."
    elif group.job:
        yield "For every phase and for the whole attempt (phase `job`)."


def _origin(kpi: Kpi) -> str:
    if kpi.statistic == "accounting":
        return f"accounting, `{kpi.field}`"
    if kpi.metric is None:
        return "phase marks"
    text = f"{kpi.statistic.replace('_', ' ')} of `{kpi.metric}`"
    if kpi.quantile is not None:
        text = f"quantile {kpi.quantile} of `{kpi.metric}`"
    for word, metric in (("minus", kpi.minus), ("per", kpi.divisor), ("up to", kpi.high_water)):
        text += f" {word} `{metric}`" if metric else ""
    return text


if __name__ == "__main__":
    sys.stdout.write(as_markdown(load_catalogue()))
