"""What a collector may offer beside its families: pages of its own on the exporters' port."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, runtime_checkable


class BrokenBody(Exception):  # noqa: N818 - reads as what happened
    """The rest of a body cannot be had. Its reader must see a broken answer, never a short one."""


@dataclass(frozen=True)
class Answer:
    """What the server sends for one request, and closes afterwards, however that went.

    Args:
        status: HTTP status code.
        parts: The body as it comes; may raise ``BrokenBody``.
        length: Bytes in the body; None when that is not known before its end.
        headers: All but those about length and connection.
        close: Releases what the body comes from.
    """

    status: int
    parts: Iterable[bytes]
    length: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None

    @classmethod
    def whole(cls, status: int, body: bytes, content_type: str) -> Answer:
        """Return an answer whose body is there."""
        return cls(status, (body,), len(body), {"Content-Type": content_type})

    @classmethod
    def text(cls, status: int, line: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Return an answer of one line, for people."""
        answer = cls.whole(status, f"{line}\n".encode(), "text/plain; charset=utf-8")
        return cls(status, answer.parts, answer.length, {**answer.headers, **(headers or {})})

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@runtime_checkable
class Routes(Protocol):
    """A collector that answers paths by itself, behind the same password as all others."""

    def paths(self) -> Iterable[str]:
        """Return the paths that have an answer now, for the list of what there is."""

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer | None:
        """Return the answer to a GET of ``path``; None when it is not one of ours.

        ``headers`` are the request's, by names in lower case. Called in the thread of the request,
        so several at once.
        """
