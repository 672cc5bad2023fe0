"""The one monitor of a process that callbacks use, however many trainings follow each other."""

from __future__ import annotations

import os

from jobmeter_exporters.training.monitor import TrainingMonitor
from jobmeter_exporters.training.rank import Rank

_shared: dict[int, TrainingMonitor] = {}


def shared_monitor(rank: Rank, sigterm: bool) -> TrainingMonitor:
    """Return the monitor of this process, made at the first call and open until the end.

    Args:
        rank: Whose it is.
        sigterm: Whether it may handle SIGTERM.
    """
    process = os.getpid()  # that of a parent does nothing here
    if process not in _shared:
        _shared.clear()
        _shared[process] = TrainingMonitor(
            rank=rank.number, world_size=rank.world_size, sigterm=sigterm
        )
    return _shared[process]
