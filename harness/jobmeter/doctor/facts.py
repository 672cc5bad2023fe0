"""Facts of one machine, as the probe wrote them: a JSON object a line, all values text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Fact = Mapping[str, str]


class Untold(Exception):  # noqa: N818 - not an error: the judge has nothing to judge
    """The probe said nothing of what a check asks for."""


@dataclass(frozen=True)
class Facts:
    """What the probe told of one machine.

    Args:
        host: Its name.
        told: The facts, in order; several may have the same name.
    """

    host: str
    told: tuple[Fact, ...]

    def all(self, name: str) -> tuple[Fact, ...]:
        """Return every fact called ``name``."""
        return tuple(fact for fact in self.told if fact["fact"] == name)

    def find(self, name: str, /, **fields: str) -> Fact | None:
        """Return the first fact called ``name`` with these fields; None when there is none."""
        return next((f for f in self.all(name) if fields.items() <= f.items()), None)

    def need(self, name: str, /, **fields: str) -> Fact:
        """Return that fact.

        Raises:
            Untold: there is none.
        """
        fact = self.find(name, **fields)
        if fact is None:
            raise Untold(" ".join([name, *fields.values()]).replace("_", " "))
        return fact

    @property
    def complete(self) -> bool:
        """Whether the probe came to its end."""
        return self.find("end") is not None

    def with_facts(self, more: Iterable[Fact]) -> Facts:
        """Return these and ``more`` facts of the same machine."""
        return Facts(self.host, (*self.told, *more))


def facts_from(text: str, host: str) -> Facts:
    r"""Read what a probe wrote; a line cut short is left out.

    Args:
        text: JSON lines.
        host: Name of the machine where the probe did not come to say it.

    >>> facts_from('{"fact": "bash", "version": "5.2"}\n{"fact": "en', "n1").need("bash")["version"]
    '5.2'
    """
    told = []
    for line in text.splitlines():
        try:
            fact = json.loads(line)
        except ValueError:
            continue
        if isinstance(fact, dict) and isinstance(fact.get("fact"), str):
            told.append({key: value for key, value in fact.items() if isinstance(value, str)})
    named = next((fact["name"] for fact in told if fact["fact"] == "host" and "name" in fact), host)
    return Facts(named, tuple(told))


def number(text: str | None) -> int | None:
    """Return a whole number; None where there is none.

    >>> number("12"), number(""), number(None)
    (12, None, None)
    """
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def version_in(text: str) -> tuple[int, ...] | None:
    """Return the first version in ``text``; None where there is none.

    >>> version_in("prometheus, version 2.42.0+ds (branch: debian)"), version_in("slurm 22.05.8")
    ((2, 42, 0), (22, 5, 8))
    """
    match = re.search(r"(?<![\d.])(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in match[1].split(".")) if match is not None else None


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as text.

    >>> dotted((2, 42, 0))
    '2.42.0'
    """
    return ".".join(map(str, version))


def size(size_bytes: int) -> str:
    """Return a size for a person.

    >>> size(3 * 2**30), size(512)
    ('3 GiB', '512 B')
    """
    unit = "B"
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 1024 or unit == "PiB":
            break
        amount /= 1024
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"
