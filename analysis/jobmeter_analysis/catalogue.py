"""The KPI catalogue: what is computed from which metric is data, in ``kpis/*.yaml``.

Everything is checked when it is loaded: unknown keys, statistics, units and metrics, names given
twice, keys that a statistic needs or cannot use, a statistic of counters asked of a gauge.
``catalogue_page`` prints it for the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from jobmeter import strict
from jobmeter.errors import CatalogueError
from jobmeter_analysis.formula import Formula, FormulaError
from jobmeter_analysis.vocabulary import MetricType, Vocabulary, load_vocabulary

FOLDER = Path(__file__).parent / "kpis"

ATTEMPT = "attempt"
"""In place of service names: the attempt itself, not a metric of a target."""

Scope = Literal["job", "node", "service", "device", "rank", "step", "task"]
Combine = Literal["sum", "mean", "max", "min"]

UNITS: Mapping[str, str] = {
    "1": "a count or another number without unit",
    "1/s": "so many per second",
    "seconds": "",
    "bytes": "",
    "bytes/s": "",
    "ratio": "0 to 1, or a quotient of two numbers of the same unit",
    "cores": "CPU seconds per second",
    "tokens": "",
    "tokens/s": "",
    "samples/s": "",
    "celsius": "",
    "hertz": "",
    "watts": "",
    "joules": "",
    "joules/token": "",
    "joules/request": "",
    "joules/sample": "",
    "tokens/joule": "the same as tokens per second and watt",
    "flops": "floating-point operations",
    "flops/s": "",
}
"""Every unit that a KPI may have: base units, the report shows others."""


@dataclass(frozen=True)
class Needs:
    """Which keys a statistic needs, which others it understands, and of what type its metric is."""

    of: MetricType | None = None
    needed: tuple[str, ...] = ("metric",)
    understood: tuple[str, ...] = ()


_COUNTER = ("minus", "only", "without", "since")
_LOADS = ("within", "only", "without", "since")
_GAUGE = ("minus", "only", "without", "across", "combine")
_SHARE = ("only", "without", "across", "combine")
_HISTOGRAM = ("only", "without", "since", "zeros")
STATISTIC_KEYS: Mapping[str, Needs] = {
    "increase": Needs("counter", understood=_COUNTER),
    "rate": Needs("counter", understood=(*_COUNTER, "divisor", "combine")),
    "ratio": Needs("counter", ("metric", "per"), ("only", "without", "since", "scale")),
    "share": Needs("counter", ("metric", "only"), ("without", "since")),
    "busy_share": Needs("counter", ("metric", "without"), ("since", "allocated")),
    "distinct": Needs("counter", ("metric", "label"), ("only", "without")),
    "balance": Needs("counter", ("metric", "label", "across"), _LOADS),
    "peak": Needs("counter", ("metric", "label", "across"), _LOADS),
    "variation": Needs("counter", ("metric", "label", "across"), _LOADS),
    "mean": Needs("gauge", understood=(*_GAUGE, "method")),
    "max": Needs("gauge", understood=(*_GAUGE, "high_water")),
    "min": Needs("gauge", understood=_GAUGE),
    "last": Needs("gauge", understood=_GAUGE),
    "first": Needs("gauge", understood=_GAUGE),
    "integral": Needs("gauge", understood=(*_GAUGE, "method")),
    "share_above": Needs("gauge", ("metric", "above"), (*_SHARE, "method")),
    "share_of_bits": Needs("gauge", ("metric", "bits"), _SHARE),
    "observations": Needs("histogram", understood=_HISTOGRAM),
    "observed_sum": Needs("histogram", understood=_HISTOGRAM),
    "observed_rate": Needs("histogram", understood=_HISTOGRAM),
    "observed_mean": Needs("histogram", understood=_HISTOGRAM),
    "observed_quantile": Needs("histogram", ("metric", "quantile"), _HISTOGRAM),
    "observed_max": Needs("histogram", understood=_HISTOGRAM),
    "elapsed": Needs(needed=()),
    "accounting": Needs(needed=("field",), understood=("hint", "attempts")),
    "formula": Needs(needed=("formula",), understood=("combine",)),
}
"""Every statistic by name. ``statistics.STATISTICS`` has those that read metrics."""


class _Model(strict.StrictModel):
    model_config = ConfigDict(strict=False)  # a list of the file is a tuple here


class Zeros(_Model):
    """Observations of zero that mean nothing, to be left out of a histogram.

    Args:
        metric: Histogram in whose lowest buckets they can be counted.
        up_to: Upper edge of these buckets.
    """

    metric: str
    up_to: float


class Kpi(_Model):
    """One row of the report: which metric, and which number of it.

    Args:
        unit: A name of ``UNITS``.
        help: What it is, for the documentation; the definition where tools disagree.
        statistic: A name of ``STATISTIC_KEYS``.
        metric: A name of the vocabulary.
        minus: Metric that belongs to ``metric`` and is taken off.
        per: Counter, or count of a histogram, by whose increase that of ``metric`` is divided.
        divisor: Gauge by whose last value the result is divided.
        high_water: Gauge in which the kernel keeps the largest value of ``metric``.
        zeros: Observations to leave out.
        allocated: Label of ``metric`` that names CPUs: only those that the job was given count.
        label: Label whose values are counted or compared.
        within: Labels whose values are looked at one by one, as layers are when experts are
            compared.
        formula: Arithmetic of other KPIs of the same entity; see ``formula``.
        only: Label to the values it may have; ``5*`` is any that begins so.
        without: Label to the values it may not have.
        quantile: Between 0 and 1.
        above: Threshold of a gauge.
        bits: Bits of a gauge that is a mask.
        scale: What to multiply the ratio with.
        method: How a gauge goes on between samples.
        across: What several label sets of a gauge become, or several values of ``within``.
        combine: What the entities of a total become; by default ``sum`` or, of what cannot be
            added up, ``mean``. The total of a formula is the formula of the totals, unless this
            is given.
        since: When a counter was zero; see ``readings.Since``.
        field: Of ``jobmeter.accounting.JobAccounting``.
        hint: Whether Slurm only samples or estimates it.
        attempts: What the numbers of several attempts become; by default they are not put
            together but compared, unless the statistic says more (see ``merge``).
        spread: Which is better of two entities of the group; with it they are compared.
        straggler: Of a share of the phase whose entities are compared: what one that stands out on
            the worse side does in it, as the others wait for it.
        optional: Whether a target without the metric gets no row at all.
        brief: Whether the table on a terminal shows it without being asked for everything.
    """

    unit: str
    help: str
    statistic: str
    metric: str | None = None
    minus: str | None = None
    per: str | None = None
    divisor: str | None = None
    high_water: str | None = None
    zeros: Zeros | None = None
    allocated: str | None = None
    label: str | None = None
    within: tuple[str, ...] = ()
    formula: str | None = None
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    without: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    quantile: float | None = Field(default=None, gt=0, lt=1)
    above: float | None = None
    bits: int | None = Field(default=None, gt=0)
    scale: float = Field(default=1.0, gt=0)
    method: Literal["trapezoid", "step"] = "trapezoid"
    across: Combine = "sum"
    combine: Combine | None = None
    since: Literal["process", "job", "boot"] = "process"
    field: str | None = None
    hint: bool = False
    attempts: Combine | None = None
    spread: Literal["higher", "lower"] | None = None
    straggler: str | None = None
    optional: bool = False
    brief: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that has to be read for this KPI."""
        zeros = self.zeros.metric if self.zeros else None
        named = (self.metric, self.minus, self.per, self.divisor, self.high_water, zeros)
        return (*(name for name in named if name), *((JOB_CPUS,) if self.allocated else ()))

    @property
    def combined(self) -> Combine:
        """What the entities of a total become."""
        if self.combine is not None:
            return self.combine
        if self.unit not in ("ratio", "celsius", "hertz"):
            return "sum"
        return "max" if self.statistic == "max" else "mean"


JOB_CPUS = "job_cpu_list_info"
"""Names the CPUs of the job on a node."""


class Group(_Model):
    """KPIs that are computed for the same targets.

    Args:
        help: Title in the documentation.
        services: Services of the stack that are expected to have these metrics, or ``attempt``.
        detect: Any target that exposes one of these metrics has these KPIs too.
        fallback: Whether an endpoint of the payload that no group knows is taken for one of this.
        scope: Of the rows: ``job``, ``node`` (entity: the node), ``service`` (``service@node``),
            ``device``, ``rank``, ``step``, ``task``.
        by: Labels that tell the entities of one target apart.
        entity: How such an entity is called, with ``{label}``. What stands in brackets is left out
            where a label in it is empty: ``gpu{gpu}[.{instance}]``.
        totals: Scopes for which the entities are put together as well.
        job: Whether the rows are computed for the whole attempt as well, beside the phases.
        only_job: Whether they are computed for the whole attempt only.
        kpis: By name, stable once published.
    """

    help: str
    services: tuple[str, ...] = ()
    detect: tuple[str, ...] = ()
    fallback: bool = False
    scope: Scope
    by: tuple[str, ...] = ()
    entity: str | None = None
    totals: tuple[Scope, ...] = ()
    job: bool = False
    only_job: bool = False
    kpis: dict[str, Kpi]

    @property
    def of_services(self) -> bool:
        """Whether an endpoint of the payload can have all of these rows, whatever it exposes."""
        return self.scope == "service" and bool(self.detect) and not (self.by or self.services)

    def entity_name(self, labels: Mapping[str, str]) -> str:
        """Return what the entity with these labels is called, without its node."""

        def filled(part: re.Match[str]) -> str:
            missing = any(f"{{{key}}}" in part[1] and not value for key, value in labels.items())
            return "" if missing else part[1]

        return re.sub(r"\[(.*?)\]", filled, self.entity or "").format(**labels)


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
    vocabulary = load_vocabulary()
    groups: dict[str, Group] = {}
    home: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        group, _ = strict.read(Group, path, CatalogueError)
        _check_group(path.name, group, vocabulary)
        for name, kpi in group.kpis.items():
            where = f"{path.name}: kpi {name!r}"
            if name in home:
                raise CatalogueError(f"{where} is already in {home[name]}; give it another name")
            home[name] = path.name
            _check_keys(where, kpi)
            _check_metrics(where, kpi, vocabulary)
        groups[path.stem.partition("-")[2] or path.stem] = group
    if not groups:
        raise CatalogueError(f"{folder}: no KPI catalogue here; install jobmeter again")
    _check_formulas(groups, home)
    return groups


def _check_group(file: str, group: Group, vocabulary: Vocabulary) -> None:
    for metric in group.detect:
        if metric not in vocabulary.metrics:
            hint = strict.nearest(metric, list(vocabulary.metrics))
            raise CatalogueError(f"{file}: detect: metric {metric!r} is not described; {hint}")
    measured = any(kpi.metric for kpi in group.kpis.values())
    if measured and not (group.services or group.detect):
        raise CatalogueError(f"{file}: no target has these KPIs; add 'services' or 'detect'")
    if bool(group.by) != bool(group.entity):
        raise CatalogueError(f"{file}: 'by' and 'entity' belong together; give both")
    try:
        if group.entity:
            group.entity.format(**dict.fromkeys(group.by, ""))
    except (KeyError, IndexError, ValueError) as cause:
        raise CatalogueError(
            f"{file}: entity: {group.entity!r} names a label that is not in 'by': {cause}"
        ) from cause


def _check_keys(where: str, kpi: Kpi) -> None:
    needs = STATISTIC_KEYS.get(kpi.statistic)
    if needs is None:
        hint = strict.nearest(kpi.statistic, list(STATISTIC_KEYS))
        raise CatalogueError(f"{where}: no statistic {kpi.statistic!r}; {hint}")
    if kpi.unit not in UNITS:
        hint = strict.nearest(kpi.unit, list(UNITS))
        raise CatalogueError(f"{where}: no unit {kpi.unit!r}; {hint}")
    always = {"unit", "help", "statistic", "brief", "optional", "spread", "straggler"}
    if kpi.straggler is not None and (kpi.spread is None or kpi.unit != "ratio"):
        raise CatalogueError(f"{where}: 'straggler' is for a share that is compared; add 'spread'")
    given = kpi.model_fields_set - always
    for key in needs.needed:
        if key not in given:
            raise CatalogueError(f"{where}: statistic {kpi.statistic!r} needs the key {key!r}")
    for key in sorted(given.difference(needs.needed, needs.understood)):
        raise CatalogueError(f"{where}: statistic {kpi.statistic!r} does not use the key {key!r}")


def _check_metrics(where: str, kpi: Kpi, vocabulary: Vocabulary) -> None:
    of = STATISTIC_KEYS[kpi.statistic].of
    types: dict[str, tuple[MetricType, ...]] = {}
    if of is not None:
        types |= {name: (of,) for name in (kpi.metric, kpi.minus) if name}
    types |= {name: ("gauge",) for name in (kpi.divisor, kpi.high_water) if name}
    types |= {kpi.per: ("counter", "histogram")} if kpi.per else {}
    types |= {kpi.zeros.metric: ("histogram",)} if kpi.zeros else {}
    for metric, allowed in types.items():
        known = vocabulary.metrics.get(metric)
        if known is None:
            hint = strict.nearest(metric, list(vocabulary.metrics))
            raise CatalogueError(
                f"{where}: metric {metric!r} is not described; {hint} "
                "Or describe it in the folder 'metrics'"
            )
        if known not in allowed:
            raise CatalogueError(
                f"{where}: metric {metric!r} is a {known}, and statistic {kpi.statistic!r} "
                f"takes a {' or '.join(allowed)} here; choose another statistic or metric"
            )


def _check_formulas(groups: Catalogue, home: Mapping[str, str]) -> None:
    for group in groups.values():
        for name, kpi in group.kpis.items():
            if kpi.formula is None:
                continue
            where = f"{home[name]}: kpi {name!r}: formula"
            if kpi.spread:
                raise CatalogueError(f"{where}: only what is measured is compared; drop 'spread'")
            if kpi.combine and not {"node", "job"}.issuperset(group.totals):
                raise CatalogueError(f"{where}: combined by node and for the job; drop 'combine'")
            try:
                formula = Formula.parse(kpi.formula)
            except FormulaError as cause:
                raise CatalogueError(f"{where}: {cause}") from cause
            for operand in sorted(formula.names):
                known, _, phase = operand.partition("@")
                if known not in home and (phase or known not in PARAMETERS):
                    hint = strict.nearest(known, [*home, *PARAMETERS])
                    raise CatalogueError(f"{where}: no KPI {known!r}; {hint}")


PARAMETERS: Mapping[str, str] = {
    "flops_per_token": "floating-point operations that one token needs, forward and backward",
    "peak_flops_per_second": "of one device, dense, in the number format of the training",
    "devices": "how many devices the job uses",
}
"""Numbers that formulas may use and that the job file gives (``workload``)."""


def metrics_of(catalogue: Catalogue) -> frozenset[str]:
    """Return every metric that some KPI reads, or by which a group is known."""
    return frozenset(
        metric
        for group in catalogue.values()
        for metric in (*group.detect, *(m for kpi in group.kpis.values() for m in kpi.metrics))
    )


def phases_named(catalogue: Catalogue) -> frozenset[str]:
    """Return the phases whose numbers formulas use in others, as ``kpi@phase``."""
    formulas = (kpi.formula for group in catalogue.values() for kpi in group.kpis.values())
    names = (name for text in formulas if text for name in Formula.parse(text).names)
    return frozenset(phase for name in names if (phase := name.partition("@")[2]))
