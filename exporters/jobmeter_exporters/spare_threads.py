"""Threads that wait for the next task, as starting one costs more than many a task."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Task = Callable[[], None]


class SpareThreads:
    """Runs every task at once, in a thread of its own while it lasts.

    Args:
        name: Of the threads.
        most_spare: How many threads without a task are kept for the next ones.
    """

    def __init__(self, name: str, most_spare: int) -> None:
        self._name = name
        self._most_spare = most_spare
        self._lock = threading.Lock()
        self._spare = 0
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def run(self, task: Task) -> None:
        """Begin a task and return.

        Raises:
            RuntimeError: There is no thread for it, and none can be started.
        """
        with self._lock:
            spare = self._spare > 0
            self._spare -= spare
        if spare:
            self._tasks.put(task)
            return
        # A daemon: what it waits for must not hold up the end.
        threading.Thread(target=self._work, args=(task,), name=self._name, daemon=True).start()

    def close(self) -> None:
        """End the threads that have no task now, and the others after their task."""
        with self._lock:
            spare, self._spare, self._most_spare = self._spare, 0, 0
        for _ in range(spare):
            self._tasks.put(None)

    def _work(self, first: Task) -> None:
        task: Task | None = first
        del first
        while task is not None:
            task()
            task = None  # what it holds is not kept for the time of waiting
            with self._lock:
                if self._spare >= self._most_spare:
                    return
                self._spare += 1
            task = self._tasks.get()
