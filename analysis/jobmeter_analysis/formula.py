"""KPIs made of other KPIs: ``gpu_energy_joules / output_tokens_total``.

A formula is read once, with Python's own parser, and may hold names, numbers, ``+ - * /``,
parentheses, and functions of names:

* ``present(a, b)``: the sum of those that there are;
* ``first(a, b)``: the first that has a number;
* ``disagreement(a, b)``: by what part of ``a`` the other way to measure it differs.

``kpi@phase`` is the number of that KPI in another phase; it binds like a product, so that in one it
comes first: ``power@idle * seconds``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from jobmeter_analysis.estimate import (
    DISAGREEMENT,
    Estimate,
    exact,
    minus,
    plus,
    quotient,
    times,
    unavailable,
)

_OPERATORS: Mapping[type[ast.operator], Callable[[Estimate, Estimate], Estimate]] = {
    ast.Add: plus,
    ast.Sub: minus,
    ast.Mult: times,
    ast.Div: quotient,
}
LARGEST_DISAGREEMENT = 0.05
"""Two ways to measure one thing that differ by more have a reason to be looked at."""


def _first(numbers: Sequence[Estimate]) -> Estimate:
    there = [number for number in numbers if number.available]
    reasons = frozenset[str]().union(*(number.reasons for number in numbers))
    return there[0] if there else unavailable(*reasons)


def _disagreement(numbers: Sequence[Estimate]) -> Estimate:
    one, other = numbers
    result = quotient(_magnitude(minus(one, other)), one)
    differ = result.available and result.value > LARGEST_DISAGREEMENT
    return result.because(DISAGREEMENT) if differ else result


def _magnitude(number: Estimate) -> Estimate:
    """Return the number without its sign."""
    near, far = sorted([abs(number.low), abs(number.high)])
    if number.low < 0 < number.high:
        near = 0.0
    return replace(number, value=abs(number.value), low=near, high=far)


@dataclass(frozen=True)
class _Function:
    """What can be called.

    Args:
        of: The numbers of its names.
        arguments: How many it takes; any number if None.
        optional: Whether it does without those of its names that there are not.
    """

    of: Callable[[Sequence[Estimate]], Estimate]
    arguments: int | None = None
    optional: bool = True


_FUNCTIONS: Mapping[str, _Function] = {
    "present": _Function(lambda numbers: reduce(plus, numbers)),
    "first": _Function(_first),
    "disagreement": _Function(_disagreement, arguments=2, optional=False),
}


class FormulaError(ValueError):
    """Not a formula."""


@dataclass(frozen=True)
class Formula:
    """Arithmetic of KPIs.

    Args:
        text: As written.
        names: Every KPI or parameter in it.
        needed: Those without which there is no result.
    """

    text: str
    names: frozenset[str]
    needed: frozenset[str]
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> Formula:
        """Return the formula that ``text`` describes.

        Raises:
            FormulaError: saying what is not understood.

        >>> sorted(Formula.parse("present(a, b) / (c + 2)").needed)
        ['c']
        """
        try:
            tree = ast.parse(text, mode="eval").body
        except SyntaxError as cause:
            raise FormulaError(f"{text!r} is not readable: {cause.msg}") from cause
        needed = set(_names(tree, text, optional=False))
        return cls(
            text,
            frozenset(needed.union(_names(tree, text, optional=True))),
            frozenset(needed),
            tree,
        )

    def evaluate(self, numbers: Mapping[str, Estimate]) -> Estimate | None:
        """Return the result; None when a number that it needs is not in ``numbers``."""
        if not self.needed <= numbers.keys():
            return None
        return _value(self._tree, numbers)


def _names(tree: ast.expr, text: str, optional: bool) -> Iterator[str]:
    name = _name(tree)
    if name is not None:
        yield name
    elif isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        yield from _names(tree.left, text, optional)
        yield from _names(tree.right, text, optional)
    elif isinstance(tree, ast.Call):
        function, names = _call(tree, text)
        if optional or not function.optional:
            yield from names
    elif not (isinstance(tree, ast.Constant) and type(tree.value) in (int, float)):
        raise FormulaError(
            f"{text!r}: write names, 'name@phase', numbers, + - * / and functions of names "
            f"({', '.join(_FUNCTIONS)}); in a product 'name@phase' comes first"
        )


def _name(tree: ast.expr) -> str | None:
    """Return ``kpi`` or ``kpi@phase``; None of what is not a name."""
    if isinstance(tree, ast.Name):
        return tree.id
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.MatMult):
        kpi, phase = tree.left, tree.right
        if isinstance(kpi, ast.Name) and isinstance(phase, ast.Name):
            return f"{kpi.id}@{phase.id}"
    return None


def _call(tree: ast.Call, text: str) -> tuple[_Function, list[str]]:
    """Return what is called, and with which names."""
    function = _FUNCTIONS.get(tree.func.id) if isinstance(tree.func, ast.Name) else None
    names = [name for name in map(_name, tree.args) if name is not None]
    if function is None or tree.keywords or not names or len(names) != len(tree.args):
        raise FormulaError(f"{text!r}: only {', '.join(_FUNCTIONS)} can be called, with names")
    if function.arguments not in (None, len(names)):
        raise FormulaError(f"{text!r}: a function takes {function.arguments} names here")
    return function, names


def _value(tree: ast.expr, numbers: Mapping[str, Estimate]) -> Estimate | None:
    name = _name(tree)
    if name is not None:
        return numbers[name]
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int | float):
        return exact(float(tree.value))
    if isinstance(tree, ast.BinOp):
        left, right = _value(tree.left, numbers), _value(tree.right, numbers)
        if left is None or right is None:
            return None
        return _OPERATORS[type(tree.op)](left, right)
    if isinstance(tree, ast.Call):
        function, names = _call(tree, "")
        there = [numbers[name] for name in names if name in numbers]
        return function.of(there) if there else None
    return None
