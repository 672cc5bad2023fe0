"""How much is in a batch, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

Tree: TypeAlias = object
"""Tensors in dictionaries, lists and tuples."""


def sample_count(batch: Tree) -> int:
    """Return the first dimension of the first tensor; 0 when there is none.

    >>> sample_count({"name": "x"})
    0
    """
    for _, shape in _shapes(batch):
        if shape:
            return shape[0]
    return 0


def token_count(batch: Tree) -> int:
    """Return how many elements ``input_ids`` has, padding included; 0 without it."""
    for name, shape in _shapes(batch):
        if name == "input_ids" and shape:
            number = 1
            for size in shape:
                number *= size
            return number
    return 0


def _shapes(batch: Tree, name: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    shape = getattr(batch, "shape", None)
    if shape is not None:
        yield name, tuple(map(int, shape))
    elif isinstance(batch, Mapping):
        for key, part in batch.items():
            yield from _shapes(part, str(key))
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _shapes(part, name)
