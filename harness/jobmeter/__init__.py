"""jobmeter: the meter that a user attaches to a batch job.

    import jobmeter

    run = jobmeter.open_run("runs/train-cpu-20261122T203221Z-6e7dac")
    run.kpis(phase="train")

What a notebook needs is here; it loads numpy and pandas when it is first used, not when the package
is imported: ``jobmeter --help`` must not wait for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobmeter_analysis.run import Run, open_recording, open_run
    from jobmeter_analysis.scaling import scaling

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "open_recording", "open_run", "scaling"]

_HOMES = {
    "Run": "jobmeter_analysis.run",
    "open_recording": "jobmeter_analysis.run",
    "open_run": "jobmeter_analysis.run",
    "scaling": "jobmeter_analysis.scaling",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
