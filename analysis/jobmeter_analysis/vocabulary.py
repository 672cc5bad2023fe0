"""What metrics are called: one name here for every spelling out there.

The catalogue speaks of ``gpu_power_watts``; exporters expose the same thing under names, labels
and units of their own, which change from version to version. ``metrics/*.yaml`` says which, and of
what type each metric is, so that a spelling is added without touching code. When a target exposes
several spellings of one metric, the first in the list counts: they are never added up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from jobmeter import strict
from jobmeter.errors import CatalogueError
from jobmeter_analysis.recording import Selector

FOLDER = Path(__file__).parent / "metrics"

MetricType = Literal["counter", "gauge", "histogram"]
_PARTS: Mapping[str, tuple[str, ...]] = {
    "counter": (),
    "gauge": (),
    "histogram": ("_bucket", "_sum", "_count"),
}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class _Model(strict.StrictModel):
    model_config = ConfigDict(strict=False)  # a list of the file is a tuple here


class Spelling(_Model):
    """One name under which a metric is exposed.

    Args:
        name: As exposed, without any of the family's prefixes.
        scale: What to multiply with to have base units.
    """

    name: str
    scale: float = 1.0


class Marker(_Model):
    """A metric with certain labels, by which something is known of the target that exposes it."""

    metric: str
    labels: dict[str, str]


class Metric(_Model):
    """One metric of ours.

    Args:
        type: Of the series, whatever the exposition declares.
        names: How it is exposed, the best first; by default as it is called here.
        help: What somebody who adds a KPI should know of it.
        at_least: Whether there may be more than what is exposed, everywhere or where the marker is.
    """

    type: MetricType
    names: tuple[Spelling | str, ...] = ()
    help: str = ""
    at_least: bool | Marker = False


class Family(_Model):
    """Metrics that come from the same programs.

    Args:
        help: Which.
        prefixes: Any of these may stand before each name.
        prefix_before: Instead of them: what stands before this metric of a target, whose operator
            may have chosen a prefix, stands before all of them.
        labels: Label of ours to its spellings.
        identity: Labels that tell two series of one metric apart; all of them by default. Series
            that differ in others only are one, recorded twice.
        blank_from: Values of this size or more mean that there is none.
        metrics: By our name.
    """

    help: str
    prefixes: tuple[str, ...] = ("",)
    prefix_before: Marker | None = None
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    identity: tuple[str, ...] | None = None
    blank_from: float | None = None
    metrics: dict[str, Metric]


@dataclass(frozen=True)
class Word:
    """What one exposed series name means.

    Args:
        series: Our name, with the part of a histogram.
        metric: Our name.
        family: Whose.
        rank: Its place among the spellings, the best first.
        scale: To base units.
    """

    series: str
    metric: str
    family: str
    rank: int
    scale: float


@dataclass(frozen=True)
class Vocabulary:
    """All families."""

    families: Mapping[str, Family]
    _words: Mapping[str, tuple[Word, ...]] = field(init=False, repr=False)
    _prefixed: Mapping[str, Mapping[str, Word]] = field(init=False, repr=False)
    _types: Mapping[str, MetricType] = field(init=False, repr=False)
    _at_least: Mapping[str, bool | Marker] = field(init=False, repr=False)
    _spelled_labels: Mapping[str, Mapping[str, str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        words: dict[str, tuple[Word, ...]] = {}
        prefixed: dict[str, dict[str, Word]] = {}
        for name, family in self.families.items():
            for prefix in ("",) if family.prefix_before else family.prefixes:
                for exposed, word in _words_of(name, family):
                    words[prefix + exposed] = (*words.get(prefix + exposed, ()), word)
                    if family.prefix_before:
                        prefixed.setdefault(name, {})[exposed] = word
        spelled = {
            name: {theirs: ours for ours, all_of in family.labels.items() for theirs in all_of}
            for name, family in self.families.items()
        }
        types = {
            metric: known.type
            for family in self.families.values()
            for metric, known in family.metrics.items()
        }
        at_least = {
            metric: known.at_least
            for family in self.families.values()
            for metric, known in family.metrics.items()
            if known.at_least
        }
        object.__setattr__(self, "_words", words)
        object.__setattr__(self, "_prefixed", prefixed)
        object.__setattr__(self, "_types", types)
        object.__setattr__(self, "_at_least", at_least)
        object.__setattr__(self, "_spelled_labels", spelled)

    @property
    def metrics(self) -> Mapping[str, MetricType]:
        """Every metric of ours and its type."""
        return self._types

    def at_least(self, metric: str) -> bool | Marker:
        """Return whether there may be more than ``metric`` says, or where."""
        return self._at_least.get(metric, False)

    def selectors(self, metrics: Iterable[str]) -> Iterator[Selector]:
        """Yield what to read for ``metrics``, births of counters included."""
        wanted = set(metrics)
        for exposed, words in self._words.items():
            if any(word.metric in wanted for word in words):
                yield Selector(exposed)
        for words_of_family in self._prefixed.values():
            for exposed, word in words_of_family.items():
                if word.metric in wanted:
                    yield Selector(exposed, suffix=True)
        for family in self.families.values():
            if family.prefix_before and wanted.intersection(family.metrics):
                yield Selector(family.prefix_before.metric, suffix=True)

    def meanings(self, label_sets: Mapping[str, Iterable[Mapping[str, str]]]) -> dict[str, Word]:
        """Return by exposed name what the series of one target mean; others are left out.

        Args:
            label_sets: Of each exposed name of the target.
        """
        candidates = [(name, word) for name in label_sets for word in self._words.get(name, ())]
        for family_name, known in self._prefixed.items():
            marker = self.families[family_name].prefix_before
            prefix = _prefix(marker, label_sets) if marker else ""
            if prefix:
                candidates += [
                    (name, known[name.removeprefix(prefix)])
                    for name in label_sets
                    if name.startswith(prefix) and name.removeprefix(prefix) in known
                ]
        best: dict[str, int] = {}
        for _, word in candidates:
            if not word.series.endswith("_created"):
                best[word.metric] = min(word.rank, best.get(word.metric, word.rank))
        # A counter may be spelled as the count of a histogram, which needs its buckets only.
        candidates.sort(key=lambda pair: not pair[1].series.endswith("_count"))
        return {name: word for name, word in candidates if best.get(word.metric) == word.rank}

    def labels(self, family: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of a series under our names, those that identify it only."""
        spelled = self._spelled_labels[family]
        ours = {spelled.get(key, key): value for key, value in labels.items()}
        identity = self.families[family].identity
        if identity is None:
            return ours
        return {key: value for key, value in ours.items() if key in identity or key == "le"}


def _words_of(family_name: str, family: Family) -> Iterator[tuple[str, Word]]:
    """Yield every series name of a family without prefix, and what it means."""
    for metric, known in family.metrics.items():
        for rank, one in enumerate(known.names or (metric,)):
            spelling = Spelling(name=one) if isinstance(one, str) else one
            for part in _PARTS[known.type] or ("",):
                word = Word(metric + part, metric, family_name, rank, spelling.scale)
                yield spelling.name + part, word
            if known.type != "gauge":
                born = f"{metric.removesuffix('_total')}_created"
                word = Word(born, metric, family_name, rank, 1.0)
                yield f"{spelling.name.removesuffix('_total')}_created", word


def _prefix(marker: Marker, label_sets: Mapping[str, Iterable[Mapping[str, str]]]) -> str:
    for name, sets in label_sets.items():
        if name.endswith(marker.metric) and any(
            marker.labels.items() <= labels.items() for labels in sets
        ):
            return name.removesuffix(marker.metric)
    return ""


@lru_cache(maxsize=8)
def load_vocabulary(folder: Path = FOLDER) -> Vocabulary:
    """Read and check every file of ``folder``.

    Raises:
        CatalogueError: naming the file, the metric, the key, and the likely fix.
    """
    families: dict[str, Family] = {}
    home: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        family, _ = strict.read(Family, path, CatalogueError)
        for name, metric in family.metrics.items():
            where = f"{path.name}: metric {name!r}"
            if name in home:
                raise CatalogueError(f"{where} is already in {home[name]}; keep one of them")
            home[name] = path.name
            _check(where, name, metric)
        families[path.stem] = family
    if not families:
        raise CatalogueError(f"{folder}: no metrics are described here; install jobmeter again")
    return Vocabulary(families)


def _check(where: str, name: str, metric: Metric) -> None:
    if metric.type == "counter" and not name.endswith("_total"):
        raise CatalogueError(f"{where}: a counter of ours ends in '_total'; call it {name}_total")
    for rank, one in enumerate(metric.names or (name,)):
        spelling = Spelling(name=one) if isinstance(one, str) else one
        if rank and spelling.name == name:
            raise CatalogueError(
                f"{where}: our own name can be its first spelling only; call the metric otherwise"
            )
        if _NAME.fullmatch(spelling.name) is None:
            raise CatalogueError(
                f"{where}: {spelling.name!r} is no metric name; use letters, digits, '_' and ':'"
            )
        if spelling.scale <= 0:
            raise CatalogueError(f"{where}: scale {spelling.scale} is not positive; correct it")
        if spelling.scale != 1 and metric.type == "histogram":
            raise CatalogueError(
                f"{where}: the edges of a histogram cannot be scaled; drop 'scale'"
            )
