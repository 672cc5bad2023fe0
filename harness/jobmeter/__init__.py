"""jobmeter: the meter that a user attaches to a batch job."""

from __future__ import annotations

__version__ = "0.1.0"
