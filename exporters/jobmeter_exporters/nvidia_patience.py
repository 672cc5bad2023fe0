"""Calls into a driver that may never come back.

A GPU in trouble can hold a call of NVML in the kernel, where nothing can end it. The scrape, and
with it what other exporters have to say, must not wait that long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from jobmeter_exporters.errors import ExporterError

T = TypeVar("T")

LONGEST_S = 3.0
"""How long a scrape waits; a GPU that was asleep takes a second or two to answer."""


class Patience(Generic[T]):
    """Runs one call at a time in a thread of its own, and waits for it only so long."""

    def __init__(self) -> None:
        self._current: _Task[T] | None = None

    @property
    def busy(self) -> bool:
        """Whether a call has not come back."""
        return self._current is not None and not self._current.done.is_set()

    def run(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, or raise what it raises.

        Raises:
            ExporterError: It took too long, or one before it still does.
        """
        if not self.busy:
            self._current = _Task(call)
            threading.Thread(target=self._current.run, name="nvidia", daemon=True).start()
            if self._current.done.wait(LONGEST_S):
                return self._current.result()
        raise ExporterError(
            "the driver does not answer; does nvidia-smi, and what does the kernel's log say?"
        )


class _Task(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: list[T] = []
        self._problem: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as problem:  # raised again where it is waited for
            self._problem = problem
        finally:
            self.done.set()

    def result(self) -> T:
        if self._problem is not None:
            raise self._problem
        return self._result[0]
