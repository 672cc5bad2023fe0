"""The JUnit file of a test run: what passed, what did not, and whether that is all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from jobmeter.errors import RunFolderError

_OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}


@dataclass(frozen=True)
class Case:
    """One test that did not pass.

    Args:
        name: As pytest calls it.
        outcome: ``failed``, ``error`` or ``skipped``.
        words: The first line of why.
    """

    name: str
    outcome: str
    words: str


@dataclass(frozen=True)
class Result:
    """What a JUnit file tells; None is what it does not tell.

    Args:
        passed: How many tests did.
        others: Those that did not.
        exit_code: pytest's; None when it has not come to its end.
        selected: How many tests were to run.
        left_out: How many were not, by what they need.
        sources: Which sources were tested: ``version``, ``commit``, and the like.
        host: The node.
        torn: Whether the file breaks off or is damaged.
    """

    passed: int
    others: tuple[Case, ...]
    exit_code: int | None
    selected: int | None
    left_out: Mapping[str, int]
    sources: Mapping[str, str]
    host: str | None
    torn: bool

    @property
    def over(self) -> int:
        """How many tests are over."""
        return self.passed + len(self.others)

    @property
    def complete(self) -> bool:
        """Whether every test that was to run is in it."""
        return not self.torn and self.exit_code in (0, 1) and self.over >= (self.selected or 0)

    def of(self, *outcomes: str) -> tuple[Case, ...]:
        """Return the tests with one of these outcomes."""
        return tuple(case for case in self.others if case.outcome in outcomes)


def read_junit(path: Path) -> Result:
    """Return what the JUnit file ``path`` tells, up to where it is damaged.

    Raises:
        RunFolderError: it is missing, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as cause:
        raise RunFolderError(f"{path}: there is none, so no test has begun") from cause
    except OSError as cause:
        raise RunFolderError(f"{path}: cannot be read: {cause.strerror}") from cause
    return parse_junit(content)


def parse_junit(content: bytes) -> Result:
    """Return what a JUnit document tells, up to where it is damaged."""
    elements, torn = _elements(content)
    suite = next((one for one in elements if one.tag == "testsuite"), None)
    properties = [
        (one.get("name", "").removeprefix("jobmeter."), one.get("value", ""))
        for one in elements
        if one.tag == "property" and one.get("name", "").startswith("jobmeter.")
    ]
    told = {name: value for name, value in properties if name != "left_out" and value}
    cases = [_case(one) for one in elements if one.tag == "testcase"]
    others = tuple(case for case in cases if case is not None)
    return Result(
        passed=len(cases) - len(others),
        others=others,
        exit_code=_count(told.pop("exit_code", "")),
        selected=_count(told.pop("selected", "")),
        left_out=_left_out([value for name, value in properties if name == "left_out"]),
        sources=told,
        host=suite.get("hostname") if suite is not None else None,
        torn=torn,
    )


def _elements(content: bytes) -> tuple[list[Element], bool]:
    """Return the suite, and each element in it that is whole; and whether something is missing."""
    # It was written by our own plugin, into a folder that nobody else may write.
    parser: XMLPullParser[Any] = XMLPullParser(("start", "end"))
    torn = False
    try:
        parser.feed(content)
        parser.close()
    except ParseError:
        torn = True
    found: list[Element] = []
    try:
        for told in parser.read_events():
            element = told[-1]
            starts = told[0] == "start"
            if isinstance(element, Element) and starts == (element.tag == "testsuite"):
                found.append(element)
    except ParseError:
        torn = True
    return found, torn


def _case(element: Element) -> Case | None:
    """Return a test that did not pass; None of one that did."""
    for child in element:
        if child.tag in _OUTCOMES:
            name = f"{element.get('classname', '')}::{element.get('name', '')}"
            return Case(name, _OUTCOMES[child.tag], child.get("message", ""))
    return None


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _left_out(values: list[str]) -> Mapping[str, int]:
    matches = (re.fullmatch(r"(\d+) (.+)", value) for value in values)
    return {match[2]: int(match[1]) for match in matches if match is not None}
