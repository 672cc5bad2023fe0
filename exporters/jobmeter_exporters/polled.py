"""What takes long, or may hang, is read again and again in the background; a scrape never waits.

``Command`` starts a program with a time limit, ``Polled`` reads anything at an interval and keeps
the last value with its age. ``seconds`` and ``at_least`` read ``30s`` from a command line.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from jobmeter_exporters.errors import CommandError, ExporterError, TooMuchOutput
from jobmeter_exporters.watched import NoData

Value = TypeVar("Value")

LONGEST_DEATH_S = 1.0
"""How long a killed program may take to be gone: one that waits for a driver may never be."""

_LOOK_S = 0.01
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Return the seconds of a duration: a number and ``ms``, ``s``, ``m`` or ``h``.

    Raises:
        argparse.ArgumentTypeError: It is no such text, or not above 0.

    >>> seconds("1.5m")
    90.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text, re.ASCII)
    value = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 5s, 500ms or 1m")
    return value


def at_least(shortest_s: float) -> Callable[[str], float]:
    """Return a reader of durations that refuses those below ``shortest_s``."""

    def read(text: str) -> float:
        value = seconds(text)
        if value < shortest_s:
            raise argparse.ArgumentTypeError(f"{text!r} is too short; give {shortest_s:g}s or more")
        return value

    return read


@dataclass(frozen=True)
class Done:
    """What a program that ended by itself has left.

    Args:
        status: Its exit status; minus the number of the signal that ended it.
        stdout: What it printed.
        stderr: What it complained about.
    """

    status: int
    stdout: str
    stderr: str

    @property
    def complaint(self) -> str:
        """The last line it printed, complaints first; empty if it printed nothing."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip()[:300] if lines else ""


class Command:
    """Starts programs, one at a time, each in a process group of its own.

    When one takes too long or prints too much, the group is killed. While a killed one is not gone
    no other is started: what hangs in a driver would pile up.

    Args:
        timeout_s: The longest a program may take.
        most_bytes: The most it may print.
    """

    def __init__(self, timeout_s: float, most_bytes: int = 2**20) -> None:
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._undead: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self, command: Sequence[str], env: Mapping[str, str | None] | None = None) -> Done:
        """Run a program to its end.

        Args:
            command: Its name, looked up on PATH, and its arguments.
            env: Added to the environment; None takes a variable out of it.

        Raises:
            TooMuchOutput: It printed more than ``most_bytes``.
            CommandError: It was not found, could not be started, took too long, or an earlier one
                is still not gone.
        """
        name = command[0]
        if self._undead is not None and self._undead.poll() is None:
            raise CommandError(
                f"{name}: process {self._undead.pid} was killed and is not gone, so no other is "
                "started; see whether the driver hangs"
            )
        self._undead = None
        process = self._start(command, env)
        deadline = time.monotonic() + self._timeout_s
        try:
            outputs = self._read(process, deadline)
            too_much = sum(map(len, outputs or ())) > self._most_bytes
            in_time = outputs is not None and (too_much or self._wait(process, deadline))
        finally:
            gone = self._end(process)
        if outputs is None or not in_time:
            fate = "" if gone else ", and is not gone"
            raise CommandError(
                f"{name} took more than {self._timeout_s:g} s and was killed{fate}; "
                "run it by hand to see why"
            )
        if too_much:
            raise TooMuchOutput(f"{name} printed more than {self._most_bytes} bytes")
        stdout, stderr = (output.decode(errors="replace") for output in outputs)
        return Done(process.returncode, stdout, stderr)

    def cancel(self) -> None:
        """Kill what runs, and start nothing from now on; from any thread."""
        with self._lock:
            self._cancelled = True
            if self._running is not None:
                _kill_group(self._running)

    def _start(
        self, command: Sequence[str], env: Mapping[str, str | None] | None
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._cancelled:
                raise CommandError(f"{command[0]} is not started any more: this process ends")
            try:
                self._running = subprocess.Popen(  # noqa: S603 - no shell; fixed programs
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=_environment(env or {}),
                    start_new_session=True,
                )
            except FileNotFoundError as cause:
                raise CommandError(f"{command[0]} is not on PATH; is it installed here?") from cause
            except OSError as cause:
                raise CommandError(
                    f"{command[0]} cannot be started: {cause.strerror}; run it by hand to see why"
                ) from cause
            return self._running

    def _read(
        self, process: subprocess.Popen[bytes], deadline: float
    ) -> tuple[bytearray, bytearray] | None:
        """Return stdout and stderr, a little more than ``most_bytes`` at most; None if too late."""
        assert process.stdout is not None  # noqa: S101 - for the type checker
        assert process.stderr is not None  # noqa: S101
        outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
        with selectors.DefaultSelector() as selector:
            for descriptor in outputs:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                    chunk = os.read(key.fd, 2**16)
                    outputs[key.fd] += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                if sum(map(len, outputs.values())) > self._most_bytes:
                    break
                if selector.get_map() and time.monotonic() >= deadline:
                    return None
        stdout, stderr = outputs.values()
        return stdout, stderr

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait for the end of a program that has closed its output, and leave it a zombie."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, process.pid, flags) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_S)
        return True

    def _end(self, process: subprocess.Popen[bytes]) -> bool:
        """End a program and what it has started; return whether it is gone.

        Its group keeps its number until the program itself is reaped, so nobody else is killed.
        """
        with self._lock:
            self._running = None
            _kill_group(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        try:
            process.wait(LONGEST_DEATH_S)
        except subprocess.TimeoutExpired:
            self._undead = process
            return False
        return True


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    changed = {**os.environ, "LC_ALL": "C", **changes}
    return {name: value for name, value in changed.items() if value is not None}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(PermissionError):  # of a program that became another user
        os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Reading(Generic[Value]):
    """One value and how old it is.

    Args:
        value: What was read.
        age_s: Seconds since the reading of it began.
    """

    value: Value
    age_s: float


class Polled(Generic[Value]):
    """Reads at an interval, in a thread of its own, from ``start`` to ``stop``.

    A reading that takes longer than the interval delays the next: there is one at a time. When one
    fails, the value before it stays until it is too old; when one says that there is nothing
    (``NoData``), no value stays.

    Args:
        name: Of what is read, for messages.
        read: Returns a value; raises ``NoData`` or ``ExporterError``.
        interval_s: Seconds from the begin of a reading to the begin of the next.
        longest_age_s: A value older than this is not given away any more.
        cancel: Makes a ``read`` in progress end soon, if there is a way.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Value],
        interval_s: float,
        longest_age_s: float,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._read = read
        self._interval_s = interval_s
        self._longest_age_s = longest_age_s
        self._cancel = cancel
        self._changed = threading.Condition()
        self._value: tuple[Value, float] | None = None
        self._problem: NoData | ExporterError | None = None
        self._began = math.inf
        self._readings = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self, first_within_s: float = 0.0) -> None:
        """Begin to read; wait for the end of the first reading, for so many seconds at most."""
        self._began = time.monotonic()
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._readings > 0, first_within_s)

    def stop(self, within_s: float = 2.0) -> bool:
        """End the thread, and return whether it has ended.

        One that is held up in a driver is left behind after ``within_s``.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._cancel()
        if self._thread.ident is not None:
            self._thread.join(within_s)
        return not self._thread.is_alive()

    def latest(self) -> tuple[Reading[Value] | None, NoData | ExporterError | None]:
        """Return the value, unless there is none or it is too old, and what is wrong, if anything.

        What is wrong is an exception to raise, a new one each time. Returns at once.
        """
        with self._changed:
            value, problem, now = self._value, self._problem, time.monotonic()
            since = self._began if value is None else value[1]
        fresh = now - since <= self._longest_age_s
        if problem is not None:
            problem = type(problem)(*problem.args)
        elif value is None and fresh:
            problem = NoData(f"{self._name} has not answered yet; ask again in a moment")
        elif not fresh:
            problem = ExporterError(
                f"{self._name} has not answered for more than {self._longest_age_s:g} s; "
                "run it by hand to see why"
            )
        if value is None or not fresh:
            return None, problem
        return Reading(value[0], now - value[1]), problem

    def _loop(self) -> None:
        while True:
            began = time.monotonic()
            self._read_once(began)
            with self._changed:
                due = began + self._interval_s - time.monotonic()
                if self._changed.wait_for(lambda: self._stopping, max(0.0, due)):
                    return

    def _read_once(self, began: float) -> None:
        problem: NoData | ExporterError | None = None
        try:
            value = (self._read(), began)
        except NoData as nothing:
            value, problem = None, nothing
        except ExporterError as failed:
            value, problem = self._value, failed
        except Exception as failed:  # the thread must go on
            value = self._value
            problem = ExporterError(f"{self._name} failed: {failed!r}; please report this")
        with self._changed:
            self._value, self._problem = value, problem
            self._readings += 1
            self._changed.notify_all()
