"""The stretches of time that KPIs are computed for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from jobmeter.events import Event

JOB = "job"
"""Name of the stretch from the first to the last event of an attempt; no phase may be called so."""


@dataclass(frozen=True)
class Window:
    """Half-open interval ``[start_ms, end_ms)`` in milliseconds since the Unix epoch, UTC.

    Integers, because Prometheus stores times so: a sample is inside or outside, never nearly.

    Raises:
        ValueError: the interval is empty or reversed.
    """

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.end_ms <= self.start_ms:
            raise ValueError(f"window is empty: {self.start_ms} .. {self.end_ms}")

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end_ms - self.start_ms) / 1000

    @property
    def start(self) -> datetime:
        """Start as a time with zone UTC."""
        return datetime.fromtimestamp(self.start_ms / 1000, tz=timezone.utc)

    @property
    def end(self) -> datetime:
        """End as a time with zone UTC."""
        return datetime.fromtimestamp(self.end_ms / 1000, tz=timezone.utc)


@dataclass(frozen=True)
class Phase:
    """One phase of an attempt, as the job script marked it.

    Args:
        name: Name from the job file, or ``job`` for the whole attempt.
        window: From the first to the second mark.
        end_source: ``mark`` when the script wrote the end; ``last_fact`` when it could not, and
            the window ends at the last event or sample there is.
        exit_code: Of the payload; None while unknown.
        interrupted_by: The signal that ended the phase early; None when its command ended by
            itself.
    """

    name: str
    window: Window
    end_source: str = "mark"
    exit_code: int | None = None
    interrupted_by: str | None = None


def phases_from(events: Sequence[Event], last_fact_ms: int) -> tuple[Phase, ...]:
    """Return the phases that were started, in order.

    A phase without an end mark (the job was killed) ends at ``last_fact_ms``, the time of the last
    thing known of this attempt. A phase that would be empty even so is left out.
    """
    starts = [event for event in events if event.name == "phase_start"]
    ends = {str(event.fields.get("phase")): event for event in events if event.name == "phase_end"}
    phases = []
    for mark in starts:
        name = str(mark.fields.get("phase"))
        end = ends.get(name)
        end_ms = last_fact_ms if end is None else end.time_ms
        if end_ms <= mark.time_ms:
            continue
        exit_code = end.fields.get("exit_code") if end is not None else None
        signal = end.fields.get("signal") if end is not None else None
        phases.append(
            Phase(
                name=name,
                window=Window(mark.time_ms, end_ms),
                end_source="last_fact" if end is None else "mark",
                exit_code=exit_code if isinstance(exit_code, int) else None,
                interrupted_by=str(signal) if signal else None,
            )
        )
    return tuple(phases)


def job_window(events: Sequence[Event], last_fact_ms: int) -> Phase | None:
    """Return the stretch from the first event to the end of the job; None without any event."""
    if not events:
        return None
    start_ms = min(event.time_ms for event in events)
    end = next((event for event in reversed(events) if event.name == "job_end"), None)
    end_ms = last_fact_ms if end is None else end.time_ms
    if end_ms <= start_ms:
        return None
    exit_code = end.fields.get("exit_code") if end is not None else None
    return Phase(
        name=JOB,
        window=Window(start_ms, end_ms),
        end_source="last_fact" if end is None else "mark",
        exit_code=exit_code if isinstance(exit_code, int) else None,
    )
