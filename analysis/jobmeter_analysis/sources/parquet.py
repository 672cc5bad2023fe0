"""Samples in a Parquet file: a recording to keep, to give away, to read with other programs.

One row is one series. The columns, as any reader of Parquet sees them:

* ``metric``: its name, a string; rows are sorted by it
* ``labels``: its other labels, a map from string to string
* ``times``: list of UTC times in milliseconds, strictly increasing
* ``values``: list of float64 of the same length, in the metric's own unit
* ``ended``: list of UTC times at which Prometheus marked the series as ended
* ``first``, ``last``: first and last of all these times

The metadata of the file hold, under ``jobmeter.samples``, a JSON object: ``version`` of this
format, ``start_ms`` and ``end_ms`` of the window, ``run_id``, ``attempt``, ``origin``, ``created``,
and ``problems``, what could not be read of the origin.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobmeter.errors import RecordingError
from jobmeter.window import Window
from jobmeter_analysis.recording import (
    NO_SAMPLE,
    Selector,
    Series,
    Shared,
    Times,
    Values,
    Wanted,
    within,
)

FORMAT_KEY = "jobmeter.samples"
FORMAT_VERSION = 1
_SAMPLES_PER_GROUP = 1_000_000
"""Of a row group: what a reader decodes at once, and what it can skip."""
_TIME = pa.timestamp("ms", tz="UTC")
_SCHEMA = pa.schema(
    [
        pa.field("metric", pa.string(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("times", pa.list_(_TIME), nullable=False),
        pa.field("values", pa.list_(pa.float64()), nullable=False),
        pa.field("ended", pa.list_(_TIME), nullable=False),
        pa.field("first", _TIME, nullable=False),
        pa.field("last", _TIME, nullable=False),
    ]
)
_ENCODINGS = {
    "times.list.element": "DELTA_BINARY_PACKED",
    "ended.list.element": "DELTA_BINARY_PACKED",
    # Not a dictionary: it would take all NaN for one.
    "values.list.element": "BYTE_STREAM_SPLIT",
}


@dataclass(frozen=True)
class Origin:
    """Where exported samples come from.

    Args:
        source: The recording, in words that mean something on another machine too.
        window: What was asked for; None for everything.
        run_id: Of the run, empty without one.
        attempt: Of the run, empty without one.
        problems: What could not be read.
    """

    source: str
    window: Window | None = None
    run_id: str = ""
    attempt: str = ""
    problems: tuple[str, ...] = ()


def write_parquet(
    series: Iterable[Series], path: Path, origin: Origin, *, replace: bool = False
) -> None:
    """Write samples as a file that only its owner can read; it appears complete or not at all.

    Args:
        series: In any order; those without a sample and a mark are left out.
        path: The file.
        origin: Said in the file.
        replace: Whether a file that is there already is replaced.

    Raises:
        RecordingError: the file is there already.
    """
    if path.exists() and not replace:
        raise RecordingError(f"{path}: is there already; give --force to replace it")
    schema = _SCHEMA.with_metadata({FORMAT_KEY: json.dumps(_described(origin))})
    ordered = sorted(
        (one for one in series if one.times_ms.size or one.stale_ms.size),
        key=lambda one: (one.name, sorted(one.labels.items())),
    )
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            with pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                use_dictionary=["metric", "labels.key_value.key", "labels.key_value.value"],
                column_encoding=_ENCODINGS,
            ) as writer:
                for group in _groups(ordered):
                    table = _table(group, schema)
                    writer.write_table(table, row_group_size=table.num_rows)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(name).replace(path)
        else:
            os.link(name, path)  # fails when somebody else was faster
    except FileExistsError as cause:
        raise RecordingError(f"{path}: is there already; give --force to replace it") from cause
    finally:
        Path(name).unlink(missing_ok=True)


def _described(origin: Origin) -> dict[str, object]:
    window = origin.window
    return {
        "version": FORMAT_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "origin": origin.source,
        "run_id": origin.run_id,
        "attempt": origin.attempt,
        "start_ms": window.start_ms if window else None,
        "end_ms": window.end_ms if window else None,
        "problems": list(origin.problems),
    }


def _groups(ordered: Sequence[Series]) -> Iterator[Sequence[Series]]:
    begin = samples = 0
    for number, one in enumerate(ordered):
        if samples and samples + one.times_ms.size > _SAMPLES_PER_GROUP:
            yield ordered[begin:number]
            begin, samples = number, 0
        samples += one.times_ms.size
    if begin < len(ordered):
        yield ordered[begin:]


def _table(group: Sequence[Series], schema: pa.Schema) -> pa.Table:
    ends = [
        np.concatenate((one.times_ms[:1], one.stale_ms[:1], one.times_ms[-1:], one.stale_ms[-1:]))
        for one in group
    ]
    labels = [sorted(pair for pair in one.labels.items() if pair[0] != "__name__") for one in group]
    columns = [
        pa.array([one.name for one in group], pa.string()),
        pa.array(labels, schema.field("labels").type),
        _lists([one.times_ms for one in group], _TIME),
        _lists([one.values for one in group], pa.float64()),
        _lists([one.stale_ms for one in group], _TIME),
        pa.array([int(one.min()) for one in ends], pa.int64()).cast(_TIME),
        pa.array([int(one.max()) for one in ends], pa.int64()).cast(_TIME),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _lists(parts: Sequence[Times] | Sequence[Values], kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    content = pa.array(np.concatenate(parts))
    if pa.types.is_timestamp(kind):
        content = content.view(kind)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), content)


@dataclass
class ParquetFile:
    """A file that ``write_parquet`` made.

    Args:
        path: The file.
    """

    path: Path
    _problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read what the file says of itself.

        Raises:
            RecordingError: it is no such file.
        """
        try:
            with pq.ParquetFile(self.path) as file:
                schema = file.schema_arrow
        except (OSError, ValueError, pa.ArrowException) as cause:
            reason = getattr(cause, "strerror", None) or str(cause).split("\n")[0]
            raise RecordingError(f"{self.path}: no readable Parquet file ({reason})") from cause
        try:
            self._said = dict(json.loads((schema.metadata or {})[FORMAT_KEY.encode()]))
            version = int(self._said["version"])
        except (KeyError, ValueError, TypeError) as cause:
            raise RecordingError(
                f"{self.path}: a Parquet file without samples in it; "
                "give one that 'jobmeter export' wrote"
            ) from cause
        if version > FORMAT_VERSION or not schema.remove_metadata().equals(_SCHEMA):
            raise RecordingError(
                f"{self.path}: written in version {version} of the format, this jobmeter reads "
                f"{FORMAT_VERSION}; use a newer jobmeter"
            )

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read, of the file or of what it was made of."""
        origin = self._said.get("problems")
        return (*map(str, origin if isinstance(origin, list) else ()), *self._problems)

    @property
    def origin(self) -> Origin:
        """Where the samples come from."""
        said: Mapping[str, Any] = self._said
        window = None
        if isinstance(said.get("start_ms"), int) and isinstance(said.get("end_ms"), int):
            window = Window(said["start_ms"], said["end_ms"])
        source, run_id, attempt = (
            str(said.get(key, "")) for key in ("origin", "run_id", "attempt")
        )
        return Origin(source, window, run_id, attempt, self.problems)

    def select(self, selectors: Sequence[Selector], span: Window | None = None) -> list[Series]:
        """Return every series that a selector matches; row groups without any are not read.

        Raises:
            RecordingError: the file cannot be read.
        """
        self._problems.clear()
        wanted = Wanted(selectors)
        shared = Shared()
        found: list[Series] = []
        try:
            with pq.ParquetFile(self.path) as file:
                for number in range(file.num_row_groups):
                    if _may_hold(file.metadata.row_group(number), span):
                        found.extend(_read_group(file, number, wanted, shared))
        except (OSError, ValueError, pa.ArrowException) as cause:
            reason = str(cause).split("\n")[0]
            raise RecordingError(f"{self.path}: cannot be read: {reason}") from cause
        if span is not None:
            found = within(found, span)
        if not found:
            self._problems.append(f"{self.path} {NO_SAMPLE}")
        return found


def _may_hold(group: Any, span: Window | None) -> bool:  # noqa: ANN401  # pyarrow has no types
    """Whether the times of a row group reach into the span."""
    if span is None:
        return True
    ends = {}
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema in ("first", "last") and column.is_stats_set:
            ends[column.path_in_schema] = column.statistics
    if len(ends) < 2 or not all(one.has_min_max for one in ends.values()):
        return True
    return bool(ends["first"].min < span.end and ends["last"].max >= span.start)


def _read_group(file: Any, number: int, wanted: Wanted, shared: Shared) -> Iterator[Series]:  # noqa: ANN401
    names = file.read_row_group(number, columns=["metric"]).column("metric").to_pylist()
    if not any(map(wanted.name_may_match, set(names))):
        return
    labels = file.read_row_group(number, columns=["labels"]).column("labels").to_pylist()
    rows = [
        row
        for row, (name, own) in enumerate(zip(names, labels, strict=True))
        if wanted.name_may_match(name) and wanted(name, dict(own))
    ]
    if not rows:
        return
    table = file.read_row_group(number, columns=["times", "values", "ended"]).combine_chunks()
    times = _unpacked(table.column("times"), np.int64)
    values = _unpacked(table.column("values"), np.float64)
    ended = _unpacked(table.column("ended"), np.int64)
    for row in rows:
        yield Series(
            {"__name__": names[row], **dict(labels[row])},
            shared(times(row)),
            values(row).copy(),  # the group's memory is given back
            ended(row).copy(),
        )


def _unpacked(column: Any, kind: type) -> Any:  # noqa: ANN401
    """Return a function that gives the list of one row as an array."""
    array = column.chunk(0) if column.num_chunks else column
    offsets = array.offsets.to_numpy()
    flat = array.values
    if pa.types.is_timestamp(flat.type):
        flat = flat.view(pa.int64())
    content = flat.to_numpy(zero_copy_only=False).astype(kind, copy=False)
    return lambda row: content[offsets[row] : offsets[row + 1]]
