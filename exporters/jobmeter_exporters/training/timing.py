"""The clock of one training loop: steps, their parts, and what is no part of them."""

from __future__ import annotations

from threading import RLock
from time import perf_counter
from types import TracebackType

from jobmeter_exporters.training.totals import Totals


class Clock:
    """What has passed since the last step ended. One loop, and so one thread, uses it.

    Args:
        totals: Where what is over is added.
        lock: Held while it is added.
    """

    def __init__(self, totals: Totals, lock: RLock) -> None:
        self.totals = totals
        self.lock = lock
        self.began: float | None = None
        self.waited_before = 0.0
        self.paused = 0.0
        self.pauses = 0

    def begin_step(self) -> None:
        """Start the time of a step; one that was begun and not ended is forgotten."""
        self.began = perf_counter()
        self.paused = 0.0

    def end_step(self, tokens: int, samples: int) -> None:
        """Count the step; without a beginning nothing."""
        began, self.began = self.began, None
        if began is None:
            return
        seconds = max(0.0, perf_counter() - began - self.paused) + self.waited_before
        self.waited_before = 0.0
        with self.lock:
            self.totals.steps.observe(seconds)
            self.totals.tokens += tokens
            self.totals.samples += samples

    def waited(self, seconds: float) -> None:
        """Count a wait for data. Inside a step it is in the step's time already."""
        if self.pauses:
            return  # the data of a validation
        if self.began is None:
            self.waited_before += seconds
        with self.lock:
            self.totals.parts["data"] += seconds


class StepTimer:
    """``with`` block of one step; counts it unless an exception leaves the block.

    ``tokens`` and ``samples`` may be set inside, where they are known later.
    """

    __slots__ = ("_clock", "samples", "tokens")

    def __init__(self, clock: Clock, tokens: int, samples: int) -> None:
        self._clock = clock
        self.tokens = tokens
        self.samples = samples

    def __enter__(self) -> StepTimer:
        self._clock.begin_step()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._clock.end_step(self.tokens, self.samples)
        else:
            self._clock.began = None


class PartTimer:
    """``with`` block, or ``begin`` and ``end``, of a part of a step.

    Args:
        name: Key of ``Totals.parts``.
        clock: The loop's.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._began: float | None = None

    def begin(self) -> None:
        """Start."""
        self._began = perf_counter()

    def end(self) -> None:
        """Add what has passed since ``begin``; without one nothing."""
        began, self._began = self._began, None
        if began is None:
            return
        seconds = perf_counter() - began
        if self._name == "data":
            self._clock.waited(seconds)
        else:
            with self._clock.lock:
                self._clock.totals.parts[self._name] += seconds

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.end()
        else:
            self._began = None


class PauseTimer:
    """``with`` block, or ``begin`` and ``end``, of what stops the training for a while.

    Args:
        name: Key of ``Totals.pauses``.
        clock: The loop's.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._began: float | None = None

    def begin(self) -> None:
        """Start."""
        if self._began is None:
            self._clock.pauses += 1
        self._began = perf_counter()

    def end(self) -> None:
        """Count it, and take it out of the step that it interrupts; without ``begin`` nothing."""
        began = self._stop()
        if began is None:
            return
        seconds = perf_counter() - began
        with self._clock.lock:
            self._clock.totals.pauses[self._name].observe(seconds)
        # A checkpoint inside a validation is in the validation's time already.
        if not self._clock.pauses:
            self._clock.paused += seconds

    def _stop(self) -> float | None:
        began, self._began = self._began, None
        if began is not None:
            self._clock.pauses -= 1
        return began

    def __enter__(self) -> None:
        self.begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.end()
        else:
            self._stop()
