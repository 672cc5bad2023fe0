"""Patterns that could hold everything up are refused.

Python's regular expressions backtrack, and nothing can interrupt one that does: it holds up the
whole process, scrapes included. The worst are repeats inside of repeats, whose time doubles with
each character; the length of a line bounds the rest.
"""

from __future__ import annotations

from typing import Any

try:
    from re import _parser  # type: ignore[attr-defined]  # undocumented, and the only parser
except ImportError:  # before Python 3.11
    import sre_parse as _parser

from jobmeter_exporters.errors import ExporterError

SHORT_REPEAT = 16
"""Up to so many times, a repeat in a repeat is still cheap: ``(?:[0-9]{1,3}[.]){4}``."""


def check_cost(where: str, pattern: str) -> None:
    r"""Refuse a pattern with a repeat inside of a repeat.

    Raises:
        ExporterError: It has one.

    >>> check_cost("rule 1", r"(?:\d{1,3}\.){3} [a-z]+ (?P<rest>.*)")
    >>> check_cost("rule 1", r"(?:a+)+$")
    Traceback (most recent call last):
        ...
    jobmeter_exporters.errors.ExporterError: rule 1: '(?:a+)+$' repeats a repeat, ...
    """
    if _repeats_a_repeat(_parser.parse(pattern), inside=False):
        raise ExporterError(
            f"{where}: {pattern!r} repeats a repeat, which can take for ever; "
            "write the inner or the outer one without '*', '+' or '{...}'"
        )


def _repeats_a_repeat(part: Any, inside: bool) -> bool:  # noqa: ANN401 - untyped tree of the parser
    if isinstance(part, _parser.SubPattern):
        return any(_repeats_a_repeat(item, inside) for item in part)
    if not isinstance(part, (tuple, list)):
        return False
    if part and str(part[0]) in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, _ = part[1]
        long = int(most) > SHORT_REPEAT and least != most
        if long and inside:
            return True
        inside = inside or long
    return any(_repeats_a_repeat(item, inside) for item in part)
