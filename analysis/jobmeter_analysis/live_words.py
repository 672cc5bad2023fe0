"""An attempt's state in words: lines for a terminal of 80 columns, the same through a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobmeter_analysis.display import human
from jobmeter_analysis.live_state import AttemptNow, PhaseNow, TargetNow

MOST_TARGETS = 16
"""More targets than these are summed up by service; those that are not up are always named."""
LABEL = 11
"""Columns of the word that says what a line is about."""


def duration(seconds: float) -> str:
    """Return a stretch of time for a person.

    >>> duration(4.25), duration(192), duration(7500), duration(270000)
    ('4.2 s', '3 min 12 s', '2 h 05 min', '3 d 3 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def line(label: str, *words: str) -> str:
    """Return one line: what it is about, and the words that there are.

    >>> line("slurm", "RUNNING", "", "5.0 s left")
    'slurm      RUNNING · 5.0 s left'
    """
    return f"{label:<{LABEL}}{' · '.join(word for word in words if word)}".rstrip()


def attempt_lines(now: AttemptNow) -> Iterator[str]:
    """Give everything that is known of an attempt, without what Slurm says."""
    yield from _phase_lines(now.phases)
    yield from _target_lines(now)
    for component in now.components:
        word = "gave up" if component.gave_up else "was started again"
        times = f"ended {component.exits} times" if component.exits > 1 else ""
        times = times if not component.gave_up else ""
        yield line("component", component.name, word, times, component.why)
    yield _checkpoint_line(now)
    for warning in now.warnings:
        yield line("warning", warning)
    for problem in now.problems:
        yield line("problem", problem)


_WORDS = {
    "starting": "starting: no phase has begun",
    "running": "running",
    "silent": "silent: nothing was heard of it for a while, and nobody says whether it runs",
    "ended": "ended",
    "killed": "over without a last word: it was killed",
}


def attempt_line(now: AttemptNow) -> str:
    """Return what an attempt is doing, in one line."""
    lasted = f"for {duration(now.seconds)}" if now.seconds is not None and not now.over else ""
    after = f"after {duration(now.seconds)}" if now.seconds is not None and now.over else ""
    code = f"exit code {now.exit_code}" if now.exit_code is not None else ""
    return line("attempt", now.name, _WORDS[now.state], lasted or after, code)


def _phase_lines(phases: Sequence[PhaseNow]) -> Iterator[str]:
    width = max((len(phase.name) for phase in phases), default=0)
    for label, phase in zip(_once("phases"), phases, strict=False):
        lasted = duration(phase.seconds) if phase.seconds is not None else ""
        code = f"exit code {phase.exit_code}" if phase.exit_code else ""
        signal = f"by {phase.signal}" if phase.signal else ""
        if phase.state == "running" and phase.signal:
            signal = f"{phase.signal} came: its time is nearly over"
        yield line(label, f"{phase.name:<{width}}  {phase.state:<11}", lasted, code, signal)


def _once(word: str) -> Iterator[str]:
    yield word
    while True:
        yield ""


def _target_lines(now: AttemptNow) -> Iterator[str]:
    targets = now.targets
    up = sum(target.state == "up" for target in targets)
    if not targets:
        yield line("targets", "unknown: the job has not said which nodes it has")
        return
    until = " at its end" if now.over else ""
    yield line("targets", f"{up} of {len(targets)} up{until}")
    if len(targets) <= MOST_TARGETS:
        width = max(len(target.name) for target in targets)
        for target in targets:
            sample = _last_sample(target, over=now.over)
            yield line("", f"{target.name:<{width}}  {target.state:<7}  {sample}")
        return
    for service in dict.fromkeys(target.service for target in targets):
        of_service = [target for target in targets if target.service == service]
        well = [target for target in of_service if target.state == "up"]
        oldest = max(well, key=lambda target: target.age_s or 0.0, default=None)
        age = f"oldest {_last_sample(oldest, over=now.over)}" if oldest else ""
        yield line("", f"{service:<16}  {len(well)} of {len(of_service)} up", age)
    for target in targets:
        if target.state != "up":
            yield line("", f"{target.name}  {target.state}", _last_sample(target, over=now.over))


def _last_sample(target: TargetNow, *, over: bool) -> str:
    if target.age_s is None:
        return "no sample"
    when = "before the end" if over else "ago"
    return f"last sample {duration(max(0.0, target.age_s))} {when}"


def _checkpoint_line(now: AttemptNow) -> str:
    copy = now.checkpoint
    size = human(float(copy.copied_bytes), "bytes")
    failed = f"{copy.failures} failed since: {copy.why}" if copy.failures else ""
    if copy.last_ms is None or copy.age_s is None:
        return line("checkpoint", "none yet" if not now.over else "none", failed)
    if copy.closed:
        how = "in order" if copy.clean else "although Prometheus had to be killed"
        return line(
            "checkpoint", f"recording closed {how}", f"{size} in {copy.count} copies", failed
        )
    age = f"{duration(max(0.0, copy.age_s))} {'before the end' if now.over else 'ago'}"
    return line("checkpoint", age, f"{size} in {copy.count} copies", failed)
