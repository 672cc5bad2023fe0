"""What NVML's return codes mean for a scrape.

A value that a GPU does not have is no error and is not asked for again for a while: a question may
cost milliseconds in the driver. Codes: ``nvmlReturn_t`` of nvml.h.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Nvml: TypeAlias = Any
"""The module pynvml, which has no types."""

Handle: TypeAlias = Any
"""A value of ctypes that NVML gave or takes: a GPU, an instance, samples."""

ASK_AGAIN_S = 300.0
"""How long a refusal is believed: a mode may be switched on while we run."""

NOT_HERE = {
    2: "INVALID_ARGUMENT",  # a field that this driver does not know
    3: "NOT_SUPPORTED",
    4: "NO_PERMISSION",
    13: "FUNCTION_NOT_FOUND",  # the library is older than the call
    25: "ARGUMENT_VERSION_MISMATCH",
    26: "DEPRECATED",
}
NOT_NOW = {
    0: "SUCCESS",  # pynvml raises it for a list of length zero
    6: "NOT_FOUND",
    21: "NO_DATA",
    27: "NOT_READY",
}
LOST = {
    1: "UNINITIALIZED",
    9: "DRIVER_NOT_LOADED",
    15: "GPU_IS_LOST",
    16: "RESET_REQUIRED",
    28: "GPU_NOT_FOUND",
}
NOT_SUPPORTED = 3


class GpuLost(Exception):  # noqa: N818 - reads as what happened
    """The GPU does not answer any more; the message is NVML's word for it."""


class Answers:
    """Asks one GPU, and remembers what it refused.

    Args:
        nvml: The module pynvml.
        clock: Seconds from any moment; tests pass their own.

    Attributes:
        problems: What went wrong since the list was last emptied, for the log.
    """

    def __init__(self, nvml: Nvml, clock: Callable[[], float] = time.monotonic) -> None:
        self._error: type[Exception] = nvml.NVMLError
        self._clock = clock
        self._refused: dict[str, float] = {}
        self.problems: list[str] = []

    def wants(self, what: str) -> bool:
        """Return whether a question is worth asking."""
        refused_at = self._refused.get(what)
        return refused_at is None or self._clock() >= refused_at + ASK_AGAIN_S

    def ask(self, what: str, call: Callable[..., T], *arguments: object) -> T | None:
        """Return what ``call`` returns; None when it was refused, now or a short while ago.

        Raises:
            GpuLost: The GPU fell off the bus, or has to be reset.
        """
        if not self.wants(what):
            return None
        try:
            return call(*arguments)
        except self._error as problem:
            self.heard(what, int(getattr(problem, "value", 999)), str(problem))
            return None

    def heard(self, what: str, code: int, words: str = "") -> None:
        """Take note of a return code other than success.

        Raises:
            GpuLost: As for ``ask``.
        """
        if code in LOST:
            raise GpuLost(LOST[code])
        if code in NOT_HERE:
            self._refused[what] = self._clock()
        elif code not in NOT_NOW:
            self.problems.append(f"{what}: {words or 'NVML error'} ({code})")
