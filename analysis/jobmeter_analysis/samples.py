"""Raw samples as one tidy frame: what was recorded, and what was fetched at boundaries.

A metric can be asked for by the name under which it is exposed, and comes as it was exposed; or by
the name that the KPIs use, and comes in base units under the labels that the KPIs use, whatever the
spelling out there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobmeter.window import Phase
from jobmeter_analysis.recording import Selector, Series, Times, Values
from jobmeter_analysis.targets import Edge, Target, TargetBuilder, TargetName
from jobmeter_analysis.vocabulary import Vocabulary

COLUMNS = ("time", "metric", "value", "node", "service", "source")
"""Of every frame of samples; the other labels follow, each a column."""
RECORDING = "recording"
EDGE = "edge"

ABOUT_SCRAPES = ("up", "scrape_duration_seconds")
"""What Prometheus says of a target, not the target of itself."""
_PARTS = ("_bucket", "_sum", "_count")
_AS_EXPOSED = Vocabulary({})
_QUERY = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\}\s*)?", re.DOTALL)
_MATCHER = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"\s*(,|$)')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class Query:
    """Which samples: a metric, and labels that must have exactly these values."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Query:
        r"""Return what ``text`` asks for: a name, or ``name{label="value", other="value"}``.

        Raises:
            ValueError: saying what is not understood, and what to do instead.

        >>> Query.parse('node_cpu_seconds_total{mode="idle", cpu="0"}').labels
        {'mode': 'idle', 'cpu': '0'}
        """
        whole = _QUERY.fullmatch(text)
        if whole is None:
            raise ValueError(
                f'{text!r} is no selector; write name or name{{label="value"}}, and compute with '
                "the frame: this is not PromQL"
            )
        return cls(whole[1], dict(_matchers(whole[2] or "", text)))

    @property
    def names(self) -> tuple[str, ...]:
        """The name, and the series that there are when it is that of a histogram."""
        return (self.name, *(self.name + part for part in _PARTS))

    def asks_for(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with ``labels`` is asked for; a label that is not there is empty."""
        return all(labels.get(label, "") == value for label, value in self.labels.items())


def _matchers(inside: str, text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(inside.rstrip()):
        found = _MATCHER.match(inside, at)
        if found is None:
            raise ValueError(
                f"{text!r}: {inside[at:].strip()!r} is not understood; "
                'write label="value", several with commas between'
            )
        label, operator, value, _ = found.groups()
        if operator != "=":
            raise ValueError(
                f"{text!r}: {operator!r} is not supported, only '='; ask for all of "
                f"{text.partition('{')[0].strip()!r} and filter the column {label!r} of the frame"
            )
        yield label, _ESCAPE.sub(r"\1", value)
        at = found.end()


def selectors_of(query: Query, vocabulary: Vocabulary) -> list[Selector]:
    """Return what to read for ``query``."""
    known = metrics_of(query, vocabulary)
    return [
        *(Selector(name) for name in query.names),
        *(vocabulary.selectors(known) if known else ()),
    ]


def metrics_of(query: Query, vocabulary: Vocabulary) -> frozenset[str]:
    """Return the metrics of the vocabulary that ``query`` means, or a part of."""
    parts = {query.name, *(query.name.removesuffix(part) for part in _PARTS)}
    return frozenset(parts.intersection(vocabulary.metrics))


def known_names(
    vocabulary: Vocabulary, edges: Mapping[TargetName, Sequence[Edge]]
) -> frozenset[str]:
    """Return names that can be asked for: those of the vocabulary and all that edges hold."""
    exposed = {
        sample.name
        for of_target in edges.values()
        for edge in of_target
        if edge.exposition
        for sample in edge.exposition.samples
    }
    return frozenset(exposed.union(vocabulary.metrics))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is not known.

    >>> nearest("tarin", ["train", "warmup"]), nearest("x", ["train", "warmup"])
    ("did you mean 'train'?", 'there are train, warmup')
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"there are {shown}" if names else "there are none"


@dataclass(frozen=True)
class _Piece:
    """Samples of one label set from one source."""

    metric: str
    labels: Mapping[str, str]
    target: TargetName
    source: str
    times_ms: Times
    values: Values


def frame(
    query: Query,
    recorded: Sequence[Series],
    edges: Mapping[TargetName, Sequence[Edge]],
    vocabulary: Vocabulary,
    phase: Phase | None,
) -> pd.DataFrame:
    """Return the samples that ``query`` asks for, in order of series and time.

    Args:
        query: What.
        recorded: Series with the labels ``node`` and ``service``.
        edges: Fetches at boundaries.
        vocabulary: How metrics are called.
        phase: Only its samples and its own edges; all by default.
    """
    if query.name in ABOUT_SCRAPES:
        return _tidy(list(_of_scrapes(query, recorded)))
    for words in (vocabulary, _AS_EXPOSED):
        targets = list(_targets(recorded, edges, words))
        names = [n for n in query.names if any(n in one.tracks for one in targets)]
        if names:
            # The name itself where it is one, else the parts of a histogram.
            names = names[:1] if names[0] == query.name else names
            return _tidy([piece for n in names for piece in _pieces(query, n, targets, phase)])
    return _tidy([])


def _targets(
    recorded: Sequence[Series],
    edges: Mapping[TargetName, Sequence[Edge]],
    vocabulary: Vocabulary,
) -> Iterator[Target]:
    builders: dict[TargetName, TargetBuilder] = {}
    of_series = [
        TargetName(s.labels.get("service", ""), s.labels.get("node", "")) for s in recorded
    ]
    for name in sorted({*of_series, *edges}):
        builders[name] = TargetBuilder(name, "payload", None, "", vocabulary)
        builders[name].add_edges(edges.get(name, ()))
    for name, one in zip(of_series, recorded, strict=True):
        builders[name].add_series(one)
    yield from (builder.build() for builder in builders.values())


def _pieces(
    query: Query, name: str, targets: Sequence[Target], phase: Phase | None
) -> Iterator[_Piece]:
    for target in targets:
        whose = {"node": target.name.node, "service": target.name.service}
        for track in target.tracks.get(name, ()):
            labels = dict(track.labels)
            if not query.asks_for({**labels, **whose}):
                continue
            inside = slice(None)
            if phase is not None:
                ends = [phase.window.start_ms, phase.window.end_ms]
                first, last = np.searchsorted(track.times_ms, ends)
                inside = slice(int(first), int(last))
            times, values = track.times_ms[inside], track.values[inside]
            yield _Piece(name, labels, target.name, RECORDING, times, values)
            fetched = [(m, v) for i, v in track.edges.items() if (m := _moment(target, i, phase))]
            times = np.array([moment for moment, _ in fetched], np.int64)
            values = np.array([value for _, value in fetched], np.float64)
            yield _Piece(name, labels, target.name, EDGE, times, values)


def _of_scrapes(query: Query, recorded: Sequence[Series]) -> Iterator[_Piece]:
    """Yield what Prometheus says of its own attempts to read the targets."""
    for one in recorded:
        if one.name == query.name and query.asks_for(one.labels):
            yield _Piece(one.name, {}, _target_of(one), RECORDING, one.times_ms, one.values)


def _target_of(series: Series) -> TargetName:
    return TargetName(series.labels.get("service", ""), series.labels.get("node", ""))


def _moment(target: Target, index: int, phase: Phase | None) -> int | None:
    """Return the middle of a fetch; None when it belongs to another phase."""
    one = target.boundaries[index]
    middle = (one.before_ms + one.after_ms) // 2
    if phase is None or one.phase == phase.name:
        return middle
    return middle if phase.window.start_ms <= middle < phase.window.end_ms else None


def _tidy(pieces: Sequence[_Piece]) -> pd.DataFrame:
    pieces = [piece for piece in pieces if piece.times_ms.size]
    sizes = np.array([piece.times_ms.size for piece in pieces], np.intp)
    times = np.concatenate([np.empty(0, np.int64), *(piece.times_ms for piece in pieces)])

    def repeated(texts: Sequence[str]) -> npt.NDArray[np.object_]:
        return np.repeat(np.array(texts, object), sizes)

    columns: dict[str, object] = {
        "time": utc(times),
        "metric": repeated([piece.metric for piece in pieces]),
        "value": np.concatenate([np.empty(0), *(piece.values for piece in pieces)]),
        "node": repeated([piece.target.node for piece in pieces]),
        "service": repeated([piece.target.service for piece in pieces]),
        "source": repeated([piece.source for piece in pieces]),
    }
    for label in sorted({label for piece in pieces for label in piece.labels}):
        texts = [piece.labels.get(label, "") for piece in pieces]
        column = f"exported_{label}" if label in COLUMNS else label
        edges = [text for text, piece in zip(texts, pieces, strict=True) if _is_edge(label, piece)]
        if edges and len(edges) == sum(map(bool, texts)):
            columns[column] = np.repeat([float(text or "nan") for text in texts], sizes)
        else:
            columns[column] = repeated(texts)
    series = np.repeat(_ranks(pieces), sizes)
    order = np.lexsort((times, series))
    types = {name: "str" for name, column in columns.items() if _holds_texts(column)}
    tidy: pd.DataFrame = pd.DataFrame(columns).iloc[order].astype(types).reset_index(drop=True)
    return tidy


def _holds_texts(column: object) -> bool:
    return isinstance(column, np.ndarray) and column.dtype.kind == "O"


def _is_edge(label: str, piece: _Piece) -> bool:
    """Whether a label is the upper edge of a bucket, a number."""
    return label == "le" and label in piece.labels and piece.metric.endswith("_bucket")


def _ranks(pieces: Sequence[_Piece]) -> npt.NDArray[np.intp]:
    """Return by piece the number of its series: what is recorded and its edges are one."""
    known: dict[object, int] = {}
    keys = [(piece.metric, piece.target, frozenset(piece.labels.items())) for piece in pieces]
    return np.array([known.setdefault(key, len(known)) for key in keys], np.intp)


def utc(times_ms: Sequence[int] | Times) -> pd.Series:
    """Return milliseconds since the epoch as times with zone UTC, to the millisecond."""
    moments = np.asarray(times_ms, np.int64).astype("datetime64[ms]")
    times: pd.Series = pd.Series(moments).dt.tz_localize("UTC")
    return times
