"""What happens to a monitor when its process ends or is copied, whoever ends it."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import weakref
from multiprocessing import util
from types import FrameType
from typing import Protocol


class Ending(Protocol):
    """What wants to know about the end."""

    def at_end(self) -> None:
        """Save what is to be saved. Comes once or several times."""

    def in_child(self) -> None:
        """Let go of what belongs to the parent."""


_open: weakref.WeakSet[Ending] = weakref.WeakSet()
_installed: set[str] = set()


def watch(one: Ending, sigterm: bool) -> None:
    """Tell ``one`` when the process ends.

    Args:
        one: Who is told; held weakly.
        sigterm: Whether also before a SIGTERM ends the process. Nothing changes for a program
            that handles the signal itself: its own way out is waited for.
    """
    _open.add(one)
    _install_hooks()
    if sigterm:
        _install_handler()


def unwatch(one: Ending) -> None:
    """Tell ``one`` no more."""
    _open.discard(one)


def is_worker() -> bool:
    """Whether this process is the helper of another: a worker of a data loader is daemonic."""
    return multiprocessing.current_process().daemon


def _install_hooks() -> None:
    if "fork" not in _installed:
        _installed.add("fork")
        os.register_at_fork(after_in_child=_in_child)
        atexit.register(_at_end)
    if multiprocessing.parent_process() is not None and "child" not in _installed:
        # A process of multiprocessing leaves without atexit.
        _installed.add("child")
        util.Finalize(None, _at_end, exitpriority=0)


def _install_handler() -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # no other thread may
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Save, then die of the signal as the process would have."""
    _at_end()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _at_end() -> None:
    for one in list(_open):
        one.at_end()


def _in_child() -> None:
    _installed.discard("child")
    for one in list(_open):
        one.in_child()
    _open.clear()
    if signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
