r"""Patterns that could hold everything up are refused.

Python's regular expressions backtrack, and nothing can interrupt one that does: it holds up the
whole process, scrapes included. A repeat inside of a repeat doubles its time with each character,
and so does a repeat of what can be matched in several ways, ``(?:a|ab|b)*``, ``(?:aa?)*``. A repeat
whose end is not clear, such as ``.*``, multiplies it by the length of the line: two of them take
about a second for 1024 characters made for it, three take many minutes. The end is clear where a
character follows that the repeat itself cannot take: ``[^"]*"``, ``\d+ ``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias

try:
    from re import _parser  # type: ignore[attr-defined]  # undocumented, and the only parser
except ImportError:  # before Python 3.11
    import sre_parse as _parser

from jobmeter_exporters.errors import ExporterError

SHORT_REPEAT = 16
"""Up to so many times, a repeat in a repeat is still cheap: ``(?:[0-9]{1,3}[.]){4}``."""

MOST_UNCLEAR = 2
MOST_WAYS = 64
"""In how many ways a pattern may match, its long repeats aside: each is gone through."""

Item: TypeAlias = Any
"""Part of a pattern, of the parser's untyped tree: its kind and what that kind has."""

Follows: TypeAlias = "tuple[Item, ...] | None"
"""Items of which one takes the next character; None when that is not known."""

END = ("END", None)
SAMPLE = [chr(code) for code in range(0x180)]
"""Characters that two items are compared by, with those of the pattern: enough to tell classes."""

_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda char: char.isalnum() or char == "_",
}
_CHARACTERS = ("LITERAL", "NOT_LITERAL", "IN", "ANY")
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")
_IGNORES_CASE = re.compile(r"\(\?[a-zA-Z]*i")


def check_cost(where: str, pattern: str) -> None:
    r"""Refuse a pattern with a repeat of what varies, or with several unclear repeats.

    Raises:
        ExporterError: It is such a pattern.

    >>> check_cost("rule 1", r"(?:\d{1,3}\.){3} id=(?P<id>[a-z]+) .*: (?P<rest>.*)")
    >>> check_cost("rule 1", r"(?:a+)+$")
    Traceback (most recent call last):
        ...
    jobmeter_exporters.errors.ExporterError: rule 1: '(?:a+)+$' repeats a repeat, ...
    """
    tree = _parser.parse(pattern)
    cost = _Cost(pattern)
    if _repeats_a_repeat(tree, inside=False):
        raise ExporterError(
            f"{where}: {pattern!r} repeats a repeat, which can take for ever; "
            "write the inner or the outer one without '*', '+' or '{...}'"
        )
    if cost.ways(tree, (END,)) > MOST_WAYS:
        raise ExporterError(
            f"{where}: {pattern!r} can match the same text in too many ways, which can take "
            "for ever; in a repeat, let the first character tell each '?', '{...}' and '|'"
        )
    unclear = sum(cost.unclear_repeats(tree, (END,)))
    if unclear > MOST_UNCLEAR:
        raise ExporterError(
            f"{where}: {pattern!r} has {unclear} repeats whose end is not clear, which can take "
            "for ever; let a character follow that they cannot take, such as [^ ]* and a space"
        )


def _repeats_a_repeat(part: Item, inside: bool) -> bool:
    if isinstance(part, _parser.SubPattern):
        return any(_repeats_a_repeat(item, inside) for item in part)
    if not isinstance(part, (tuple, list)):
        return False
    if part and _is_long_repeat(part):
        if inside:
            return True
        inside = True
    return any(_repeats_a_repeat(item, inside) for item in part)


class _Cost:
    """What a pattern costs, by which of its parts may take the same character.

    Args:
        pattern: Its text.
    """

    def __init__(self, pattern: str) -> None:
        self._sample = {*SAMPLE, *pattern}
        self._ignores_case = bool(_IGNORES_CASE.search(pattern))

    def ways(self, items: Sequence[Item], follows: Follows) -> float:
        """Return in how many ways a sequence may match a text, its long repeats not counted."""
        return math.prod(
            self._ways_of(item, _first(items[at + 1 :], follows)) for at, item in enumerate(items)
        )

    def _ways_of(self, item: Item, behind: Follows) -> float:
        kind, value = _kind(item), item[1]
        if kind in _REPEATS:
            least, most, body = int(value[0]), int(value[1]), value[2]
            inner = self.ways(body, _after_body(item, behind))
            repeated = inner if inner <= 1 else _power(inner, most)
            if _is_long_repeat(item) or least == most or self._ends_clearly(item, behind):
                return repeated
            return repeated * (most - least + 1)
        if kind == "BRANCH":
            return self._ways_of_one_of(value[1], behind)
        return math.prod(self.ways(part, behind) for part in _parts(value))

    def _ways_of_one_of(self, branches: Sequence[Sequence[Item]], behind: Follows) -> float:
        """Return the ways of the branches together with which one may be taken."""
        ways = [self.ways(branch, behind) for branch in branches]
        return max(
            sum(
                its
                for other, its in zip(branches, ways, strict=True)
                if other is one or not self._are_apart(one, other, behind)
            )
            for one in branches
        )

    def unclear_repeats(self, items: Sequence[Item], follows: Follows) -> Iterator[int]:
        """Yield for each long repeat that could end in several places how often it is done."""
        begins_clearly = True
        for at, item in enumerate(items):
            behind = _first(items[at + 1 :], follows)
            long = _is_long_repeat(item)
            ends_clearly = not long or self._ends_clearly(item, behind)
            # One behind an unclear end is gone through again for each of these ends.
            if long and not (ends_clearly and begins_clearly):
                yield 1
            begins_clearly = ends_clearly
            if _kind(item) in _REPEATS:
                inner = self.unclear_repeats(item[1][2], _after_body(item, behind))
                yield from (count * min(int(item[1][1]), SHORT_REPEAT + 1) for count in inner)
            else:
                for part in _parts(item[1]):
                    yield from self.unclear_repeats(part, behind)

    def _ends_clearly(self, repeat: Item, behind: Follows) -> bool:
        """Whether the next character tells if it goes on."""
        if behind == (END,):
            return True
        return self._differ(_first(repeat[1][2], None), behind)

    def _are_apart(self, one: Sequence[Item], other: Sequence[Item], behind: Follows) -> bool:
        """Whether no text begins with both branches."""
        return self._differ(_first(one, behind), _first(other, behind)) or self._split(one, other)

    def _split(self, one: Sequence[Item], other: Sequence[Item]) -> bool:
        """Whether two sequences differ in one of their first characters."""
        for mine, its in zip(one, other, strict=False):
            if _kind(mine) not in _CHARACTERS or _kind(its) not in _CHARACTERS:
                return False
            if self._differ((mine,), (its,)):
                return True
        return False

    def _differ(self, some: Follows, others: Follows) -> bool:
        """Whether no character may be taken by both; False when that is not known."""
        if some is None or others is None:
            return False
        return self._taken_by(some).isdisjoint(self._taken_by(others))

    def _taken_by(self, items: Sequence[Item]) -> set[str]:
        taken = {char for char in self._sample if any(_may_take(item, char) for item in items)}
        if self._ignores_case:
            taken |= {other for char in taken for other in (char.lower(), char.upper())}
        return taken


def _kind(item: Item) -> str:
    return str(item[0])


def _is_long_repeat(item: Item) -> bool:
    if _kind(item) not in _REPEATS:
        return False
    least, most, _ = item[1]
    return int(most) > SHORT_REPEAT and least != most


def _power(ways: float, times: int) -> float:
    """Return a product, infinite when it is too large anyway.

    >>> _power(2.0, 4), _power(2.0, 2**32 - 1)
    (16.0, inf)
    """
    return math.inf if max(ways, times) > MOST_WAYS else ways**times


def _parts(value: Item) -> Iterator[Sequence[Item]]:
    """Yield the sequences in what an item has: of a group one, of a choice several."""
    if isinstance(value, _parser.SubPattern):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)


def _after_body(repeat: Item, behind: Follows) -> Follows:
    """Return what may follow the body of a repeat: itself again, or what is behind all of it."""
    _, most, body = repeat[1]
    if int(most) == 1 or behind is None:
        return behind
    again = _first(body, ())
    return None if again is None else (*again, *behind)


def _first(items: Sequence[Item], follows: Follows) -> Follows:
    """Return what may take the first character of a sequence, or of what follows if it is empty."""
    found, may_be_empty = _beginning(items)
    if found is None or not may_be_empty:
        return found
    return None if follows is None else (*found, *follows)


def _beginning(items: Sequence[Item]) -> tuple[Follows, bool]:
    """Return what may take the first character of a sequence, and whether it may take none."""
    found: tuple[Item, ...] = ()
    for item in items:
        takes, may_be_empty = _beginning_of(item)
        if takes is None:
            return None, True
        found += takes
        if not may_be_empty:
            return found, False
    return found, True


def _beginning_of(item: Item) -> tuple[Follows, bool]:
    kind, value = _kind(item), item[1]
    if kind in _CHARACTERS:
        return (item,), False
    if kind == "SUBPATTERN":
        return _beginning(value[-1])
    if kind in _REPEATS:
        takes, may_be_empty = _beginning(value[2])
        return takes, may_be_empty or value[0] == 0
    if kind == "BRANCH":
        begins = [_beginning(branch) for branch in value[1]]
        every = [takes for takes, _ in begins if takes is not None]
        known = len(every) == len(begins)
        return tuple(chain(*every)) if known else None, any(empty for _, empty in begins)
    return None, True  # what looks around, or back


def _may_take(item: Item, char: str) -> bool:
    kind, value = _kind(item), item[1]
    if kind == "END":
        return False
    if kind == "LITERAL":
        return bool(chr(value) == char)
    if kind == "NOT_LITERAL":
        return bool(chr(value) != char)
    if kind == "RANGE":
        return bool(value[0] <= ord(char) <= value[1])
    if kind == "CATEGORY":
        name = str(value)
        test = _CATEGORIES.get(name.replace("_NOT", ""))
        return test is None or test(char) != ("_NOT" in name)
    if kind == "IN":
        negated = _kind(value[0]) == "NEGATE"
        return any(_may_take(one, char) for one in value[negated:]) != negated
    return True
