"""Files that people write: YAML read strictly, and a typo gets an answer.

One reader for job files and site profiles, so that both refuse the same things in the same words.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from jobmeter.errors import JobmeterError


class StrictModel(BaseModel):
    """Base of everything that is read from a file: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Model = TypeVar("Model", bound=StrictModel)


if TYPE_CHECKING:
    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # tenfold speed


class _Loader(_Base):
    """YAML 1.1 with its two traps closed.

    ``01:30:00`` stays text instead of becoming the number 5400, and a key given twice is an error
    instead of a lost setting.
    """


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
            )
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(model: type[Model], text: str, where: str, error: type[JobmeterError]) -> Model:
    """Return the value that ``text`` describes.

    Args:
        model: What it must be.
        text: YAML.
        where: How messages call the file.
        error: What to raise.

    Raises:
        JobmeterError: of class ``error``, naming the file, the key and the likely fix.
    """
    return validate(model, parse_mapping(text, where, error), lambda _: where, error)


def parse_mapping(text: str, where: str, error: type[JobmeterError]) -> dict[str, Any]:
    """Return keys and values of ``text``, YAML, whatever they are.

    Raises:
        JobmeterError: of class ``error``: it is not YAML, or something else than a mapping.
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as cause:
        raise error(f"{where}: not readable as YAML: {_one_line(cause)}") from cause
    if not isinstance(data, dict):
        raise error(f"{where}: expected keys and values, found {_kind(data)}; see docs/")
    return {str(key): value for key, value in data.items()}


def validate(
    model: type[Model],
    data: Mapping[str, Any],
    where: Callable[[Sequence[object]], str],
    error: type[JobmeterError],
) -> Model:
    """Return ``data`` as ``model``.

    Args:
        model: What it must be.
        data: Keys and values.
        where: Returns how messages call the file that has the key at a path.
        error: What to raise.

    Raises:
        JobmeterError: of class ``error``, naming the file, the key and the likely fix.
    """
    try:
        return model.model_validate(data)
    except ValidationError as cause:
        path, words = _explain(model, cause.errors())
        raise error(f"{where(path)}: {words}") from cause


def read(model: type[Model], path: Path, error: type[JobmeterError]) -> tuple[Model, str]:
    """Return the value in ``path`` and its text.

    Raises:
        JobmeterError: of class ``error``; also when the file is missing or not text.
    """
    text = read_text(path, error)
    return parse(model, text, str(path), error), text


def read_text(path: Path, error: type[JobmeterError]) -> str:
    """Return the text in ``path``.

    Raises:
        JobmeterError: of class ``error``: it is missing or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as cause:
        raise error(f"{path}: no such file; give the path of a YAML file") from cause
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"{path}: cannot be read: {cause}") from cause


def _one_line(cause: yaml.YAMLError) -> str:
    if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark is not None:
        return f"line {cause.problem_mark.line + 1}: {cause.problem}"
    return " ".join(str(cause).split())


def _kind(value: object) -> str:
    return "an empty file" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _explain(
    model: type[BaseModel], problems: Sequence[ErrorDetails]
) -> tuple[Sequence[object], str]:
    """Return the path and the words of one problem: a typo first, since it explains the others."""
    problem = max(problems, key=lambda p: (p["type"] == "extra_forbidden", len(p["loc"])))
    path = [part for part in problem["loc"] if not _is_union_tag(part)]
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        advice = nearest(str(path[-1]), known)
        return path, f"{_place(path[:-1])}unknown key {path[-1]!r}; {advice}"
    if problem["type"] == "missing":
        return path, f"{_place(path[:-1])}key {path[-1]!r} is missing; add it"
    return path, _place(path) + _in_words(problem)


_WORDS = {
    "bool_type": "{input!r} is neither true nor false; write one of them",
    "dict_type": "{input!r} is not a mapping; write 'key: value' lines below it",
    "float_type": "{input!r} is not a number; write one without quotes",
    "greater_than": "{input!r} is too small; write more than {gt}",
    "greater_than_equal": "{input!r} is too small; write {ge} or more",
    "int_type": "{input!r} is not a whole number; write one without quotes",
    "less_than_equal": "{input!r} is too large; write {le} or less",
    "list_type": "{input!r} is not a list; write '- item' lines below it",
    "literal_error": "{input!r} is not known here; write {expected}",
    "model_type": "{input!r} is not a mapping; write 'key: value' lines below it",
    "string_pattern_mismatch": "{input!r} has the wrong form; it must match {pattern}",
    "string_type": "{input!r} is not text; put it in quotes",
    "too_short": "the list is empty; write {min_length} entry or more",
    "value_error": "{error}",
}


def _in_words(problem: ErrorDetails) -> str:
    """Return what is wrong with a value, and what would be right."""
    words = _WORDS.get(problem["type"])
    if words is None:
        return f"{problem['msg']}, not {problem['input']!r}"
    return words.format(input=problem["input"], **problem.get("ctx", {}))


def _is_union_tag(part: object) -> bool:
    """Whether this step of a location is pydantic's name of a union member, not a key."""
    return (
        isinstance(part, str) and re.fullmatch(r"(str|int|list|literal)(\[.*\])?", part) is not None
    )


def _dotted(path: Sequence[object]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _place(path: Sequence[object]) -> str:
    return f"{_dotted(path)}: " if path else ""


def nearest(given: str, known: Sequence[str]) -> str:
    """Return what to say of an unknown name.

    >>> nearest("gpu_per_node", ["nodes", "gpus_per_node"])
    "did you mean 'gpus_per_node'?"
    >>> nearest("x", ["nodes", "time"])
    'known: nodes, time'
    >>> nearest("x", [])
    'none is known here'
    """
    close = get_close_matches(given, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known here"


def _known_keys(model: type[BaseModel], path: Sequence[object]) -> list[str]:
    """Return the keys that are allowed at ``path`` below ``model``."""
    current: Any = model
    for part in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field is not None else None
        else:  # a key of a mapping or an index of a list: its values' type comes last
            current = typing.get_args(current)[-1]
        current = _model_in(current)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _model_in(annotation: object) -> object:
    """Return the model of an optional field; anything else as it is."""
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    origin = typing.get_origin(annotation)
    if members and origin not in (dict, list, tuple):
        return members[0]
    return annotation
