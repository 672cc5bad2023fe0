"""Which targets a phase may expect: not those that are gone already, nor those still to come.

A target that nobody planned (a rank that announced itself, an exporter that took another's place)
is no part of the phases before it came: it was not lost in them, and what it counted in them is no
zero.
"""

from __future__ import annotations

from jobmeter.window import Phase, Window
from jobmeter_analysis.readings import CLOCK_TICK_MS, first_process_start_ms
from jobmeter_analysis.targets import Target


def expected(target: Target, phase: Phase) -> bool:
    """Whether ``phase`` should have numbers of ``target``."""
    return not (_over(target, phase.window) or _to_come(target, phase))


def _over(target: Target, window: Window) -> bool:
    """Whether it had left its last exposition before ``window``, and never came back."""
    left = max((one.after_ms for one in target.boundaries if one.left), default=None)
    if left is None or left > window.start_ms:
        return False
    return not (target.answered_ms > left).any()


def _to_come(target: Target, phase: Phase) -> bool:
    """Whether it was found after ``phase``, and nothing says that it was there before.

    What lives too shortly to be found leaves its last exposition right after the phase, as the end
    of it. One that is found late may have counted in ``phase`` if its process is surely as old.
    """
    end_ms = phase.window.end_ms
    if target.found_ms is None or target.found_ms < end_ms:
        return False
    if any(one.usable and one.phase == phase.name for one in target.boundaries):
        return False
    if (target.answered_ms < end_ms).any():
        return False
    began_ms = first_process_start_ms(target)
    return began_ms is None or began_ms + CLOCK_TICK_MS + target.clock.error_ms >= end_ms
