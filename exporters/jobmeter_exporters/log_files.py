"""All log files of one service: found by name, followed through rotations."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.log_file import Identity, LogFile, Place
from jobmeter_exporters.log_lines import Line

MOST_FILES = 64
NAMELESS_S = 10.0
"""A file whose name is gone or another file's is closed after so long without a new line: its
writer goes on with it until it is told to open the new one."""


@dataclass
class _Followed:
    file: LogFile
    path: str
    seen_s: float


class LogFiles:
    """The files of one service that some names and patterns stand for, at any time.

    Files are told apart by what they are and not by their names, so one that is rotated is neither
    lost nor read twice. All of this happens in one thread.

    Args:
        patterns: Paths, or patterns as a shell has them.
        from_end: Whether to leave out what is in the files of the first search.
        clock: Seconds that never go back.
    """

    def __init__(self, patterns: Iterable[str], from_end: bool, clock: Callable[[], float]) -> None:
        self._patterns = tuple(patterns)
        self._at_end = from_end
        self._clock = clock
        self._followed: dict[Identity, _Followed] = {}
        self._places: dict[str, Place] = {}
        self.problems: dict[str, str] = {}
        """What is wrong with a path, as long as it is."""
        self.missing: list[str] = list(self._patterns)
        """Those that stood for nothing in the last search."""

    def __len__(self) -> int:
        return len(self._followed)

    @property
    def unread_bytes(self) -> int:
        """Bytes that are in the files and not read yet."""
        return sum(one.file.unread_bytes for one in self._followed.values())

    def search(self) -> Iterator[Line]:
        """Open what is new, close what is gone, and yield the last, unended lines of that."""
        now = self._clock()
        named: set[Identity] = set()
        problems: dict[str, str] = {}
        missing = []
        for pattern in self._patterns:
            there = False
            for path in self._paths(pattern, problems):
                try:
                    named.add(self._follow(path, now))
                except (FileNotFoundError, NotADirectoryError):
                    continue  # not there yet, or not any more
                except ExporterError as problem:
                    problems[path] = str(problem)
                except OSError as cause:
                    problems[path] = f"cannot read {path}: {cause.strerror}; is it yours to read?"
                there = True
            if not there:
                missing.append(pattern)
        self._at_end = False  # what comes later is read from its beginning
        self.problems, self.missing = problems, missing
        for identity in [one for one in self._followed if one not in named]:
            followed = self._followed[identity]
            if now - followed.seen_s >= NAMELESS_S and not followed.file.unread_bytes:
                yield from followed.file.finish()
                self._close(identity)

    def read(self) -> Iterator[tuple[int, Iterator[Line]]]:
        """Yield, for each file with something new, how many bytes it had and their lines."""
        for identity, followed in list(self._followed.items()):
            try:
                count, lines = followed.file.read()
            except OSError:
                # Such as a handle that the file server does not know any more. It is opened again
                # by its name, and goes on where it was if it is the same.
                self._places[followed.path] = followed.file.place
                self._close(identity)
                continue
            if count:
                followed.seen_s = self._clock()
                yield count, lines

    def close(self) -> Iterator[Line]:
        """Close all files; yield their last lines without a newline."""
        for identity in list(self._followed):
            yield from self._followed[identity].file.finish()
            self._close(identity)

    def _paths(self, pattern: str, problems: dict[str, str]) -> list[str]:
        if os.path.lexists(pattern) or not glob.has_magic(pattern):
            return [pattern]
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - may be absolute
        if len(paths) > MOST_FILES:
            problems[pattern] = (
                f"{pattern} stands for {len(paths)} files; "
                f"only the first {MOST_FILES} are read, give a narrower pattern"
            )
        return paths[:MOST_FILES]

    def _follow(self, path: str, now: float) -> Identity:
        status = os.stat(path)  # noqa: PTH116 - a pattern gives text, once a second
        identity = Identity(status.st_dev, status.st_ino)
        known = self._followed.get(identity)
        if known is not None:
            known.path = path
            return identity
        file = LogFile(path, self._at_end)
        place = self._places.pop(path, None)
        if place is not None:
            file.go_on(place)
        if file.identity in self._followed:  # renamed since
            file.close()
            return file.identity
        self._followed[file.identity] = _Followed(file, path, now)
        return file.identity

    def _close(self, identity: Identity) -> None:
        self._followed.pop(identity).file.close()
