"""KPIs made of other KPIs: ``gpu_energy_joules / output_tokens_total``.

A formula is read once, with Python's own parser, and may hold names, numbers, ``+ - * /``,
parentheses, and ``present(a, b)``, the sum of those that there are.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from jobmeter_analysis.estimate import Estimate, exact, minus, plus, quotient, times

_OPERATORS: Mapping[type[ast.operator], Callable[[Estimate, Estimate], Estimate]] = {
    ast.Add: plus,
    ast.Sub: minus,
    ast.Mult: times,
    ast.Div: quotient,
}
PRESENT = "present"


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
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        yield from _names(tree.left, text, optional)
        yield from _names(tree.right, text, optional)
    elif isinstance(tree, ast.Name):
        yield tree.id
    elif isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.keywords:
        if tree.func.id != PRESENT or not all(isinstance(arg, ast.Name) for arg in tree.args):
            raise FormulaError(f"{text!r}: only '{PRESENT}(a, b)' can be called, with names")
        if optional:
            yield from (arg.id for arg in tree.args if isinstance(arg, ast.Name))
    elif not (isinstance(tree, ast.Constant) and type(tree.value) in (int, float)):
        raise FormulaError(f"{text!r}: write names, numbers, + - * / and '{PRESENT}(a, b)'")


def _value(tree: ast.expr, numbers: Mapping[str, Estimate]) -> Estimate | None:
    if isinstance(tree, ast.Name):
        return numbers[tree.id]
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int | float):
        return exact(float(tree.value))
    if isinstance(tree, ast.BinOp):
        left, right = _value(tree.left, numbers), _value(tree.right, numbers)
        if left is None or right is None:
            return None
        return _OPERATORS[type(tree.op)](left, right)
    if isinstance(tree, ast.Call):
        there = [numbers[a.id] for a in tree.args if isinstance(a, ast.Name) and a.id in numbers]
        result = there[0] if there else None
        for one in there[1:]:
            result = plus(result, one) if result is not None else one
        return result
    return None
