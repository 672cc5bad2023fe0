"""jobmeter_analysis: from the folder of one attempt to a table of KPIs.

    from jobmeter_analysis import analyze_attempt, write_report

The names below load numpy, pandas and pydantic when they are first used, not when the package is
imported: ``jobmeter --help`` must not wait for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobmeter_analysis.engine import Analysis, analyze_attempt
    from jobmeter_analysis.report import write_report
    from jobmeter_analysis.run import Run, open_recording, open_run

__all__ = [
    "Analysis",
    "Run",
    "analyze_attempt",
    "open_recording",
    "open_run",
    "write_report",
]

_HOMES = {
    "Analysis": "jobmeter_analysis.engine",
    "Run": "jobmeter_analysis.run",
    "analyze_attempt": "jobmeter_analysis.engine",
    "open_recording": "jobmeter_analysis.run",
    "open_run": "jobmeter_analysis.run",
    "write_report": "jobmeter_analysis.report",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
