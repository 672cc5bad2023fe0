r"""Patterns that could hold everything up are refused.

Python's regular expressions backtrack, and nothing can interrupt one that does: it holds up the
whole process, scrapes included. A repeat inside of a repeat doubles its time with each character.
A repeat whose end is not clear, such as ``.*``, multiplies it by the length of the line: two of
them take about a second for 1024 characters made for it, three take many minutes. The end is clear
where a character follows that the repeat itself cannot take: ``[^"]*"``, ``\d+ ``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

try:
    from re import _parser  # type: ignore[attr-defined]  # undocumented, and the only parser
except ImportError:  # before Python 3.11
    import sre_parse as _parser

from jobmeter_exporters.errors import ExporterError

SHORT_REPEAT = 16
"""Up to so many times, a repeat in a repeat is still cheap: ``(?:[0-9]{1,3}[.]){4}``."""

MOST_UNCLEAR = 2

END = ("END", None)
SAMPLE = [chr(code) for code in range(0x180)]
"""Characters that two items are compared by: enough to tell classes apart."""

_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdigit,
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_WORD": lambda char: char.isalnum() or char == "_",
}


def check_cost(where: str, pattern: str) -> None:
    r"""Refuse a pattern with a repeat inside of a repeat, or with several unclear ones.

    Raises:
        ExporterError: It is such a pattern.

    >>> check_cost("rule 1", r"(?:\d{1,3}\.){3} id=(?P<id>[a-z]+) .*: (?P<rest>.*)")
    >>> check_cost("rule 1", r"(?:a+)+$")
    Traceback (most recent call last):
        ...
    jobmeter_exporters.errors.ExporterError: rule 1: '(?:a+)+$' repeats a repeat, ...
    """
    tree = _parser.parse(pattern)
    if _repeats_a_repeat(tree, inside=False):
        raise ExporterError(
            f"{where}: {pattern!r} repeats a repeat, which can take for ever; "
            "write the inner or the outer one without '*', '+' or '{...}'"
        )
    unclear = sum(1 for _ in _unclear_repeats(tree, END))
    if unclear > MOST_UNCLEAR:
        raise ExporterError(
            f"{where}: {pattern!r} has {unclear} repeats whose end is not clear, which can take "
            "for ever; let a character follow that they cannot take, such as [^ ]* and a space"
        )


def _is_long_repeat(item: Any) -> bool:  # noqa: ANN401 - untyped tree of the parser
    if str(item[0]) not in ("MAX_REPEAT", "MIN_REPEAT"):
        return False
    least, most, _ = item[1]
    return int(most) > SHORT_REPEAT and least != most


def _repeats_a_repeat(part: Any, inside: bool) -> bool:  # noqa: ANN401 - the same
    if isinstance(part, _parser.SubPattern):
        return any(_repeats_a_repeat(item, inside) for item in part)
    if not isinstance(part, (tuple, list)):
        return False
    if part and _is_long_repeat(part):
        if inside:
            return True
        inside = True
    return any(_repeats_a_repeat(item, inside) for item in part)


def _unclear_repeats(part: Any, follows: Any) -> Iterator[Any]:  # noqa: ANN401 - the same
    """Yield the long repeats of a tree that could end in several places.

    ``follows`` is the item behind the tree: ``END``, or None when it is not known.
    """
    if isinstance(part, _parser.SubPattern):
        items = list(part)
        begins_clearly = True
        for at, item in enumerate(items):
            behind = _first(items[at + 1 :], follows)
            long = _is_long_repeat(item)
            ends_clearly = not long or _ends_clearly(list(item[1][2]), behind)
            # One behind an unclear end is gone through again for each of these ends.
            if long and not (ends_clearly and begins_clearly):
                yield item
            begins_clearly = ends_clearly
            yield from _unclear_repeats(item[1], behind)
    elif isinstance(part, (tuple, list)):
        for item in part:
            yield from _unclear_repeats(item, follows)


def _first(items: Sequence[Any], follows: Any) -> Any:  # noqa: ANN401 - the same
    """Return the item that takes the first character, None when it could be one of several."""
    if not items:
        return follows
    kind, value = str(items[0][0]), items[0][1]
    if kind in ("LITERAL", "NOT_LITERAL", "IN"):
        return items[0]
    if kind == "SUBPATTERN":
        return _first([*value[-1], *items[1:]], follows)
    if kind in ("MAX_REPEAT", "MIN_REPEAT") and value[0] > 0:
        return _first(list(value[2]), None)
    return None


def _ends_clearly(body: Sequence[Any], follows: Any) -> bool:  # noqa: ANN401 - the same
    if follows is None or len(body) != 1:
        return False
    return follows == END or not any(
        _may_take(body[0], char) and _may_take(follows, char) for char in SAMPLE
    )


def _may_take(item: Any, char: str) -> bool:  # noqa: ANN401 - the same
    kind, value = str(item[0]), item[1]
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
        negated = str(value[0][0]) == "NEGATE"
        return any(_may_take(one, char) for one in value[negated:]) != negated
    return True
