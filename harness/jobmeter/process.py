"""The one place where jobmeter starts processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from jobmeter.errors import ProcessError


def find_program(names: Sequence[str]) -> Path | None:
    """Return the first of ``names`` that is on PATH."""
    found = (shutil.which(name) for name in names)
    return next((Path(path) for path in found if path is not None), None)


def run(
    command: Sequence[str],
    *,
    timeout_s: float = 30.0,
    environment: Mapping[str, str] | None = None,
    error: type[ProcessError] = ProcessError,
) -> str:
    """Run ``command`` to its end and return what it printed.

    Args:
        command: Program and arguments; no shell is involved.
        timeout_s: After this it is killed.
        environment: Variables to set beside our own.
        error: What to raise.

    Raises:
        ProcessError: of class ``error``: not found, failed, or too slow.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a list of words, no shell
            list(command),
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as cause:
        raise error(f"{command[0]} is not on PATH; is this the right machine?") from cause
    except subprocess.TimeoutExpired as cause:
        raise error(f"{command[0]} gave no answer in {timeout_s:g} s; try again later") from cause
    except subprocess.CalledProcessError as cause:
        said = " ".join((cause.stderr or cause.stdout or "").split()) or "nothing"
        raise error(
            f"{command[0]} failed with exit code {cause.returncode} and said: {said}"
        ) from cause
    return done.stdout


def run_in_foreground(command: Sequence[str]) -> int:
    """Run ``command`` on this terminal and return its exit code.

    A Ctrl-C reaches it directly, being in the same process group, and a SIGTERM is passed on; we
    wait for it to end in order either way. 128 + N means that signal N killed it.
    """
    child = subprocess.Popen(list(command))  # noqa: S603 - a list of words, no shell
    with _waited_for(child):
        child.wait()
    return _exit_code(child)


def start_detached(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, in which it outlives us and our terminal.

    Args:
        command: Program and arguments; no shell is involved.
        log: File to which its output is appended.
        environment: All of its variables.

    Raises:
        ProcessError: it is not on PATH.
    """
    with log.open("ab") as output:
        try:
            return subprocess.Popen(  # noqa: S603 - a list of words, no shell
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )
        except FileNotFoundError as cause:
            raise ProcessError(
                f"{command[0]} is not on PATH; is this the right machine?"
            ) from cause


def run_followed(
    command: Sequence[str],
    line: Callable[[str], None],
    *,
    folder: Path,
    environment: Mapping[str, str],
) -> int:
    """Run ``command`` to its end, hand over each line it prints, and return its exit code.

    A Ctrl-C reaches it directly and a SIGTERM is passed on; we wait until it has tidied up.

    Args:
        command: Program and arguments; no shell is involved.
        line: Is called with each line of its output and errors.
        folder: Where it runs.
        environment: Variables to set beside our own.
    """
    child = subprocess.Popen(  # noqa: S603 - a list of words, no shell
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        env={**os.environ, **environment},
    )
    with _waited_for(child), child:
        for text in child.stdout or ():
            line(text.rstrip())
    return _exit_code(child)


@contextlib.contextmanager
def _waited_for(child: subprocess.Popen[Any]) -> Iterator[None]:
    """Outlive a Ctrl-C, which reaches ``child`` directly, and pass a SIGTERM on to it."""

    def stay(_number: int, _frame: FrameType | None) -> None:
        # A handler, not SIG_IGN: what we ignore, bash could never trap.
        pass

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    before = signal.signal(signal.SIGINT, stay), signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _exit_code(child: subprocess.Popen[Any]) -> int:
    """Return what a shell would say of how ``child`` ended: 128 + N for signal N."""
    return child.returncode if child.returncode >= 0 else 128 - child.returncode
