"""A living Prometheus, over its HTTP API.

Raw samples, by range selectors; nothing is interpolated or extrapolated. Two things are not to be
had over HTTP: where a series was marked as ended (``stale_ms`` is always empty), and the bits of a
NaN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from jobmeter.errors import RecordingError
from jobmeter.window import Window
from jobmeter_analysis.recording import (
    NO_SAMPLE,
    LabelKey,
    Pieces,
    Selector,
    Series,
    Shared,
    Wanted,
    joined,
)

TIMEOUT_S = 120.0
SAMPLES_PER_ANSWER = 250_000
"""Some 6 MB of JSON. Larger answers are not faster, and a server limits them (50 million)."""
_GUESSED_INTERVAL_MS = 1000
"""Between two samples, until the first answer has told."""
_NAMES_PER_QUERY = 200
_TOO_MUCH = re.compile(r"too many samples|exceed|timed out|too large", re.IGNORECASE)


@dataclass(frozen=True)
class _Batch:
    """What one query asks for.

    Args:
        names: Metrics.
        labels: What each series must have.
        series: How many there are.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    series: int


@dataclass
class PrometheusServer:
    """The samples of a Prometheus that answers.

    Args:
        url: Of its start page; may hold a user name and a password for basic authentication.
        timeout_s: For each answer.
        trust_env: Whether proxies and ``.netrc`` of the environment are used.
        samples_per_answer: How many to ask for at once.
    """

    url: str
    timeout_s: float = TIMEOUT_S
    trust_env: bool = True
    samples_per_answer: int = SAMPLES_PER_ANSWER
    _problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            parsed = httpx.URL(self.url)
        except (httpx.InvalidURL, TypeError) as cause:
            raise RecordingError(f"this is no URL of a Prometheus: {cause}") from cause
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise RecordingError("the URL of a Prometheus begins with http:// or https://")
        self._auth = None
        if parsed.username:
            self._auth = (parsed.username, parsed.password)
        self._base = str(parsed.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")
        self._interval_ms: float = _GUESSED_INTERVAL_MS

    @property
    def problems(self) -> tuple[str, ...]:
        """What the server warned of, in words."""
        return tuple(self._problems)

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        """Return every series that a selector matches.

        Raises:
            RecordingError: no span is given, or the server cannot be reached or does not answer
                as a Prometheus does.
        """
        if span is None:
            raise RecordingError(
                f"{self._base}: a living server has no beginning; say which time (--start, --end)"
            )
        self._problems.clear()
        try:
            pieces = self._pieces(selectors, span)
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            raise RecordingError(
                f"{self._base}: answers with success, but not as a Prometheus does ({cause!r}); "
                "give the URL of its start page"
            ) from cause
        if not pieces:
            self._problems.append(f"{self._base} {NO_SAMPLE}")
        return joined(pieces)

    def _pieces(self, selectors: Sequence[Selector], span: Window) -> Pieces:
        wanted = Wanted(selectors)
        pieces: Pieces = {}
        shared = Shared()
        with httpx.Client(
            timeout=self.timeout_s, auth=self._auth, trust_env=self.trust_env
        ) as http:
            for batch in self._batches(http, selectors, wanted, span):
                for key, times, values in self._samples(http, batch, span):
                    pieces.setdefault(key, []).append((shared(times), values))
        return pieces

    def _batches(
        self, http: httpx.Client, selectors: Sequence[Selector], wanted: Wanted, span: Window
    ) -> list[_Batch]:
        """Return queries that together ask for every wanted series, as few as the limits allow."""
        counts: dict[tuple[tuple[str, str], ...], dict[str, int]] = {}
        seconds = {"start": _seconds(span.start_ms), "end": _seconds(span.end_ms)}
        for query, labels in _matchers(selectors):
            form = {"match[]": query, **seconds}
            for series in self._ask(http, "series", form):
                name = series.get("__name__", "")
                if wanted(name, series):
                    of_labels = counts.setdefault(labels, {})
                    of_labels[name] = of_labels.get(name, 0) + 1
        everywhere = counts.get((), {})
        batches = []
        for labels, names in counts.items():
            batch: list[str] = []
            size = 0
            per_series = max(1.0, (span.end_ms - span.start_ms) / self._interval_ms)
            for name, series in sorted(names.items()):
                if labels and name in everywhere:
                    continue  # asked for without these labels anyway
                full = (size + series) * per_series > self.samples_per_answer
                if batch and (full or len(batch) == _NAMES_PER_QUERY):
                    batches.append(_Batch(tuple(batch), labels, size))
                    batch, size = [], 0
                batch.append(name)
                size += series
            if batch:
                batches.append(_Batch(tuple(batch), labels, size))
        return batches

    def _samples(
        self, http: httpx.Client, batch: _Batch, span: Window
    ) -> Iterator[tuple[LabelKey, Any, Any]]:
        """Give the samples of a batch, in as many answers as they need."""
        selector = _selector(_one_of(batch.names), batch.labels)
        start = span.start_ms
        length: float = span.end_ms - span.start_ms
        while start < span.end_ms:
            room = self.samples_per_answer / max(1, batch.series) * self._interval_ms
            part = max(1, min(span.end_ms - start, round(min(length, room))))
            # Up to 2.x a range includes its left end, from 3.0 on not: one more, and cut.
            query = f"{selector}[{part}ms]"
            form = {"query": query, "time": _seconds(start + part - 1)}
            try:
                answer = self._ask(http, "query", form)
            except _TooMuchError as cause:
                if part == 1:
                    raise RecordingError(str(cause)) from cause
                length = part / 2
                continue
            count = 0
            for series in answer["result"]:
                points = series.get("values", ())  # native histograms have none
                times = np.array([round(at * 1000) for at, _ in points], np.int64)
                values = np.array([float(text) for _, text in points])
                inside = (times >= start) & (times < start + part)
                count += times.size
                if inside.any():
                    key = tuple(sorted(series["metric"].items()))
                    yield key, times[inside], values[inside]
            if count:
                self._interval_ms = max(1.0, part * batch.series / count)
            start += part

    def _ask(self, http: httpx.Client, what: str, form: Mapping[str, str]) -> Any:  # noqa: ANN401  # JSON
        try:
            response = http.post(f"{self._base}/api/v1/{what}", data=dict(form))
        except httpx.TimeoutException as cause:
            raise RecordingError(
                f"{self._base}: no answer within {self.timeout_s:g} s; is the server overloaded?"
            ) from cause
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as cause:
            raise RecordingError(
                f"{self._base}: cannot be reached ({cause}); is this the right host and port?"
            ) from cause
        if response.status_code in (401, 403):
            raise RecordingError(
                f"{self._base}: refused with status {response.status_code}; "
                "write user and password into the URL, http://USER:PASSWORD@HOST:PORT"
            )
        try:
            answer = json.loads(response.content)
            status = answer["status"]
        except (ValueError, KeyError, TypeError) as cause:
            raise RecordingError(
                f"{self._base}: does not answer as a Prometheus does (status "
                f"{response.status_code}); give the URL of its start page"
            ) from cause
        if status != "success":
            text = f"{self._base}: {answer.get('error', 'an error without a text')}"
            raise (_TooMuchError if _TOO_MUCH.search(text) else RecordingError)(text)
        for warning in answer.get("warnings", ()):
            if warning not in self._problems:
                self._problems.append(warning)
        return answer["data"]


class _TooMuchError(RecordingError):
    """The server would answer, were it less."""


def _matchers(
    selectors: Sequence[Selector],
) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Give selectors in PromQL with their labels: one for many names, in pieces."""
    names: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for one in selectors:
        labels = tuple(sorted(one.labels.items()))
        if one.suffix:
            pattern = f'=~".*{_quoted(one.name)}"' if one.name else '!=""'
            yield _selector(pattern, labels), labels
        else:
            names.setdefault(labels, []).append(one.name)
    for labels, of_labels in names.items():
        unique = list(dict.fromkeys(of_labels))
        for begin in range(0, len(unique), _NAMES_PER_QUERY):
            yield _selector(_one_of(unique[begin : begin + _NAMES_PER_QUERY]), labels), labels


def _one_of(names: Sequence[str]) -> str:
    return f'=~"{"|".join(map(_quoted, names))}"'


def _selector(name_pattern: str, labels: Sequence[tuple[str, str]]) -> str:
    r"""Return a vector selector.

    >>> _selector(_one_of(["up", "a:b"]), [("job", 'x"y')])
    '{__name__=~"up|a:b",job="x\\"y"}'
    """
    inside = [f"__name__{name_pattern}"]
    for name, value in labels:
        label = name if re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) else json.dumps(name)
        inside.append(f"{label}={json.dumps(value, ensure_ascii=False)}")
    return "{" + ",".join(inside) + "}"


def _quoted(text: str) -> str:
    r"""Return a regular expression for just this text, as it stands in a string of PromQL.

    >>> _quoted("a.b:c")
    'a\\\\.b:c'
    """
    return json.dumps(re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text), ensure_ascii=False)[1:-1]


def _seconds(time_ms: int) -> str:
    return f"{time_ms / 1000:.3f}"
