"""How often something may happen."""

from __future__ import annotations

from collections.abc import Callable


class Rate:
    """Says how often something may happen (token bucket).

    Args:
        per_s: In the long run.
        burst: At once.
        clock: Seconds that never go back.
    """

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._then_s = clock()

    def allows(self) -> bool:
        """Return whether it may happen now, which counts as one time."""
        now_s = self._clock()
        self._left = min(self._burst, self._left + (now_s - self._then_s) * self._per_s)
        self._then_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
