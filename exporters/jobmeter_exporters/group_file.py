"""One file of a control group and what its text means: the rows of the tables of v1 and v2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from jobmeter_exporters import kernel_text
from jobmeter_exporters.cgroup_path import UNIFIED
from jobmeter_exporters.errors import UnexpectedText
from jobmeter_exporters.families import Readings, merge
from jobmeter_exporters.open_files import Read

Parse = Callable[[str], Readings]
"""Takes the text of a file; raises ``UnexpectedText`` when it is not as documented."""


class GroupFile(NamedTuple):
    """One file of a group, the parser of its text, and the controller whose tree it is in."""

    file: str
    parse: Parse
    controller: str = UNIFIED


def single(family: str, per: float = 1) -> Parse:
    """Return a parser for a file that holds one number, ``per`` of which make a base unit."""
    return lambda text: {family: kernel_text.number(text) / per}


def keyed(*fields: tuple[str, str, float]) -> Parse:
    """Return a parser for a flat keyed file; each field is key, family, units per base unit."""

    def parse(text: str) -> Readings:
        values = kernel_text.keyed_numbers(text)
        return {family: values[key] / per for key, family, per in fields if key in values}

    return parse


def read_files(
    folders: Mapping[str, str],
    files: Iterable[GroupFile],
    into: Readings,
    problems: list[str],
    read: Read = kernel_text.read,
) -> None:
    """Add what ``files`` tell to ``into``; what is absent is left out.

    Args:
        folders: The folder of the group by controller.
        files: What to read.
        into: Gets the readings.
        problems: Gets a line for each file that is not as documented.
        read: Reads a file.
    """
    for file, parse, controller in files:
        folder = folders.get(controller)
        text = None if folder is None else read(f"{folder}/{file}")
        if text is None:
            continue
        try:
            merge(into, parse(text))
        except UnexpectedText as problem:
            problems.append(f"{folder}/{file}: {problem}")
