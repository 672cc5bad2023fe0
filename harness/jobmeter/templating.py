"""The one home of jinja2: our templates, and the placeholders in a job file.

A name that does not exist is an error, never an empty string, and there is one way to quote a value
for the shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import jinja2
import jinja2.meta

from jobmeter.errors import RenderError, SpecError
from jobmeter.strict import nearest


def quoted(value: object) -> str:
    """Return ``value`` as one word of a shell command; shell text stays as it is."""
    return str(value) if isinstance(value, ShellText) else shlex.quote(str(value))


class ShellText(str):
    """Text that the shell shall expand, such as ``${JOBMETER_PORT_X}``."""

    __slots__ = ()


_VARIABLE = re.compile(r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})", re.ASCII)


def path_word(path: str) -> ShellText:
    """Return a path as one word of the shell: nothing in it is special but names of variables.

    >>> print(path_word("$SCRATCH/a b*.json"))
    "${SCRATCH-}"'/a b*.json'
    """
    word, rest = "", 0
    for match in _VARIABLE.finditer(path):
        if match.start() > rest:
            word += quoted(path[rest : match.start()])
        word += f'"${{{match["bare"] or match["braced"]}-}}"'
        rest = match.end()
    return ShellText(word + (quoted(path[rest:]) if path[rest:] else ""))


def template_folder(name: str) -> Path:
    """Return the folder of templates called ``name``.

    In the wheel it is a data package below ``jobmeter.templates``; in a checkout it lies beside
    the code, at the top.
    """
    packaged = Path(__file__).parent / "templates" / name
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[2] / name


def environment(folder: str) -> jinja2.Environment:
    """Return the environment in which the templates of ``folder`` are rendered."""
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _source(folder, name)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="<#",  # bash has {# of its own, in ${#array[@]}
        comment_end_string="#>",
        autoescape=False,  # noqa: S701 - these are shell scripts and YAML, not HTML
    )
    env.filters["sh"] = quoted
    return env


def _source(folder: str, name: str) -> str | None:
    path = template_folder(folder) / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def render(folder: str, name: str, values: Mapping[str, object]) -> str:
    """Return the text of one template.

    Raises:
        RenderError: it does not exist, or asks for something that ``values`` do not have.
    """
    try:
        return environment(folder).get_template(name).render(values)
    except jinja2.TemplateError as cause:
        raise RenderError(
            f"{folder}/{name}: {cause.__class__.__name__}: {cause.message}"
        ) from cause


class Names(Mapping[str, object]):
    """What a placeholder such as ``{{ ports.train }}`` may name.

    Args:
        kind: What these are, for messages: ``port``.
        values: By name.
        where: The key of the job file that is being expanded, for messages.
    """

    def __init__(self, kind: str, values: Mapping[str, object], where: str) -> None:
        self._kind, self._values, self._where = kind, values, where

    def __getitem__(self, name: str) -> object:
        if name not in self._values:
            raise SpecError(
                f"{self._where}: asks for {self._kind} {name!r}, which the job file does not have; "
                f"{nearest(name, list(self._values))}"
            )
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def not_one(self) -> SpecError:
        """What to say where one of these is meant."""
        return SpecError(
            f"{self._where}: a placeholder names all of {', '.join(self._values) or 'nothing'}; "
            "name one, after a dot"
        )


def _one(value: object) -> object:
    if isinstance(value, Names):
        raise value.not_one
    return value


def expand(
    text: str,
    values: Mapping[str, object],
    where: str,
    *,
    for_shell: bool,
    absent: Mapping[str, str] | None = None,
) -> str:
    """Return ``text`` of a job file with its placeholders filled.

    Args:
        text: With placeholders such as ``{{ ports.train }}``.
        values: What they may name.
        where: File and key, for messages.
        for_shell: Whether each value is quoted as a word of a shell command.
        absent: What they could name if the job file had it, each with what to add.

    Raises:
        SpecError: a placeholder is malformed or names something unknown.
    """
    env = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: (quoted if for_shell else str)(_one(value)),
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - a shell command, quoted by finalize
    )
    try:
        named = jinja2.meta.find_undeclared_variables(env.parse(text))
        for name in sorted(named - values.keys() - env.globals.keys()):
            if absent and name in absent:
                raise SpecError(f"{where}: asks for {name!r}, which has no value; {absent[name]}")
            raise SpecError(f"{where}: no placeholder {name!r}; {nearest(name, list(values))}")
        return env.from_string(text).render(values)
    except jinja2.UndefinedError as cause:
        raise SpecError(
            f"{where}: {cause.message}; docs/job-file.md lists the placeholders"
        ) from cause
    except jinja2.TemplateError as cause:
        raise SpecError(
            f"{where}: {cause.message}; write a placeholder as '{{{{ name }}}}'"
        ) from cause
