"""Waiting for what another thread or process does."""

import time

DEADLINE_S = 20.0
PAUSE_S = 0.005


def until(condition):
    """Return what ``condition`` returns as soon as that is true."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(PAUSE_S)  # the processor is for those who are waited for
    return found
