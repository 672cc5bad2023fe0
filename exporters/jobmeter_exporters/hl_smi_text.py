"""What ``hl-smi -Q FIELDS -f csv,noheader,nounits`` prints, in any of its versions.

Some print a header although none was asked for, with the units in it, some leave the units in
the cells, some know fewer fields. A column is never guessed: without a header each row must have
exactly the columns that were asked for, and each cell must be what its column holds.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jobmeter_exporters.errors import CommandError
from jobmeter_exporters.families import Labels

_BYTES = {"b": 1.0, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_HERTZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}


class Field(NamedTuple):
    """One field of hl-smi.

    Args:
        family: The metric that it becomes; empty for one that names the device.
        labels: Labels of this number beside those of the device.
        scales: Units that it may have, in lower case, and what makes each a base unit.
        unit: That of a bare number.
    """

    family: str = ""
    labels: Labels = ()
    scales: Mapping[str, float] = {}
    unit: str = ""


FIELDS = {
    "index": Field(),
    "uuid": Field(),
    "name": Field(),
    "utilization.aip": Field("hpu_utilization_percent", (), {"%": 1.0}, "%"),
    "memory.used": Field("hpu_memory_used_bytes", (), _BYTES, "mib"),
    "memory.total": Field("hpu_memory_total_bytes", (), _BYTES, "mib"),
    "temperature.aip": Field("hpu_temperature_celsius", (), {"c": 1.0}, "c"),
    "power.draw": Field("hpu_power_watts", (), {"w": 1.0, "mw": 1e-3}, "w"),
    "bus_id": Field(),
    "module_id": Field(),
    "clocks.current.soc": Field("hpu_clock_hertz", (), _HERTZ, "mhz"),
    "clocks.max.soc": Field("hpu_clock_max_hertz", (), _HERTZ, "mhz"),
    "ecc.errors.corrected.volatile.total": Field("hpu_ecc_errors_total", ("corrected",), {"": 1.0}),
    "ecc.errors.uncorrected.volatile.total": Field(
        "hpu_ecc_errors_total", ("uncorrected",), {"": 1.0}
    ),
}
"""By hl-smi's name, in the order in which they are asked for."""

_LEFT_OUT_FIRST = (
    ("ecc.errors.corrected.volatile.total", "ecc.errors.uncorrected.volatile.total"),
    ("clocks.current.soc", "clocks.max.soc"),
    ("bus_id", "module_id"),
)
"""What an old hl-smi may not know, the newest first."""

_NOTHING = frozenset(("", "-", "n/a", "na", "nan", "none", "unknown", "not supported", "err!"))
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)\s*(\D\S*)?", re.ASCII)
_BUS_ID = re.compile(r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII | re.I)
_INTEGER = re.compile(r"\d{1,9}", re.ASCII)
_SHAPES = {"index": _INTEGER, "module_id": _INTEGER, "bus_id": _BUS_ID}
_HEADING = re.compile(r"([\w.\-]+)\s*(?:\[(.*)\])?", re.ASCII)


@dataclass(frozen=True)
class Hpu:
    """One device as it was read.

    Args:
        index: Its place among the devices of the node, from 0.
        uuid: Its own, from the factory; like all that follows empty where it is not known.
        bus_id: PCI address.
        module_id: Its place on the board, by which a job is given devices.
        name: Such as ``HL-325L``.
        values: Base units by family and the labels that the family has beside the device's.
    """

    index: str
    uuid: str = ""
    bus_id: str = ""
    module_id: str = ""
    name: str = ""
    values: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    @property
    def labels(self) -> Labels:
        """The values of the labels that every family has."""
        return (self.index, self.uuid, self.bus_id, self.module_id, self.name)


def command(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the command that asks for ``fields``."""
    return ("hl-smi", "-Q", ",".join(fields), "-f", "csv,noheader,nounits")


def fewer(fields: Sequence[str], complaint: str) -> tuple[str, ...]:
    """Return what to ask for after ``fields`` were refused; empty if there is nothing to leave out.

    That is without the one that the complaint names, or else without what old versions do not know.
    """
    words = {word.strip(".") for word in re.findall(r"[\w.\-]+", complaint)}
    named = [name for name in fields if name in words and re.search(r"[._]", name)]
    if len(named) == 1:  # several may be a list of those that it does know
        return tuple(name for name in fields if name not in named)
    for group in _LEFT_OUT_FIRST:
        if set(group) & set(fields):
            return tuple(name for name in fields if name not in group)
    return ()


def parse(text: str, asked: Sequence[str]) -> list[Hpu]:
    r"""Return the devices in the output of ``command(asked)``.

    One whose index is not told is left out. Without a column of that name the rows are counted:
    hl-smi prints them in the order of the index.

    Raises:
        CommandError: A row has other columns than were asked for, a cell is not what its column
            holds, or there are words and no row.

    >>> parse("0, 36 C\n", ["index", "temperature.aip"])[0].values
    {('hpu_temperature_celsius', ()): 36.0}
    """
    columns: Sequence[str] = asked
    units: Mapping[str, str] = {}
    rows: list[dict[str, str]] = []
    noise = ""
    for cells in _rows(text):
        headings = _headings(cells)
        if headings is not None:
            columns, units = tuple(headings), headings
        elif len(cells) == 1 and len(columns) > 1:
            noise = cells[0]
        elif len(cells) != len(columns):
            raise CommandError(
                f"hl-smi printed {len(cells)} columns for {len(columns)} fields: "
                f"{', '.join(cells)[:200]!r}; run {' '.join(command(asked))}"
            )
        else:
            rows.append({"index": str(len(rows)), **dict(zip(columns, cells, strict=True))})
    if noise and not rows:
        raise CommandError(f"hl-smi lists no device and says {noise[:200]!r}; run hl-smi by hand")
    devices = (_device(row, units) for row in rows)
    return [device for device in devices if device.index]


def _rows(text: str) -> Iterator[list[str]]:
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield cells


def _headings(cells: Sequence[str]) -> dict[str, str] | None:
    """Return the columns of a header and the unit of each, None if it is no header."""
    matches = [_HEADING.fullmatch(cell) for cell in cells]
    headings = {match[1]: (match[2] or "").lower() for match in matches if match is not None}
    return headings if len(headings) == len(cells) and headings.keys() & FIELDS.keys() else None


def _device(row: Mapping[str, str], units: Mapping[str, str]) -> Hpu:
    names: dict[str, str] = {}
    values: dict[tuple[str, Labels], float] = {}
    for name, cell in row.items():
        known = FIELDS.get(name)
        if known is None:  # of a header: nobody asked for it
            continue
        if not known.family:
            names[name] = _name(name, cell)
            continue
        number = _number(name, known, cell, units.get(name, ""))
        if number is not None:
            values[known.family, known.labels] = number
    return Hpu(**names, values=values)


def _name(name: str, cell: str) -> str:
    if _is_nothing(cell):
        return ""
    if name in _SHAPES and _SHAPES[name].fullmatch(cell) is None:
        raise _unreadable(name, cell)
    return cell


def _number(name: str, known: Field, cell: str, heading_unit: str) -> float | None:
    if _is_nothing(cell):
        return None
    match = _NUMBER.fullmatch(cell)
    # A unit beside the number is nearer to it than the one of the header.
    unit = ((match[2] or heading_unit or known.unit) if match else "").lower()
    if match is None or unit not in known.scales:
        raise _unreadable(name, cell)
    return float(match[1]) * known.scales[unit]


def _is_nothing(cell: str) -> bool:
    bare = cell.lower().strip("[]").strip()
    return bare in _NOTHING or (cell.startswith("[") and cell.endswith("]"))


def _unreadable(name: str, cell: str) -> CommandError:
    return CommandError(
        f"hl-smi printed {cell[:100]!r} for {name}, which is none; please report this"
    )
