"""The readings that health checks look at, out of what is known of an attempt or a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jobmeter_analysis.live_health import Check, Metric, Reading
from jobmeter_analysis.live_server import ServerNow
from jobmeter_analysis.live_state import AttemptNow, TargetNow
from jobmeter_analysis.recording import Selector, Series
from jobmeter_analysis.targets import GAP_INTERVALS, PROMETHEUS

NEVER_ASKED = "nobody has asked it yet"
NO_COPY = "no copy of the recording has been made yet"
METRIC_ABSENT = "metric_absent: nobody exposes it, or not lately"


def readings_of_attempt(
    now: AttemptNow, recorded: Sequence[Series], checks: Mapping[str, Check]
) -> dict[str, Sequence[Reading]]:
    """Return by name of a check what it looks at in an attempt.

    Args:
        now: The attempt.
        recorded: What ``metric_selectors`` asks for, with its last minutes.
        checks: All checks.
    """
    newest_ms = max((int(one.times_ms[-1]) for one in recorded if one.times_ms.size), default=0)
    since_ms = newest_ms - GAP_INTERVALS * 1000 * now.interval_s
    return {
        name: _OF_ATTEMPT[check.fact](now)
        if check.fact in _OF_ATTEMPT
        else _measured(check.metric, recorded, since_ms)
        if check.metric is not None
        else ()
        for name, check in checks.items()
    }


def readings_of_server(
    now: ServerNow, recorded: Sequence[Series], checks: Mapping[str, Check]
) -> dict[str, Sequence[Reading]]:
    """Return by name of a check what it looks at in a server."""
    return {
        name: _OF_SERVER[check.fact](now)
        if check.fact in _OF_SERVER
        else _measured(check.metric, recorded, 0)
        if check.metric is not None
        else ()
        for name, check in checks.items()
    }


def metric_selectors(checks: Mapping[str, Check]) -> list[Selector]:
    """Return what to read for the checks that look at a metric."""
    metrics = [check.metric for check in checks.values() if check.metric is not None]
    names = [name for one in metrics for name in (*one.names, *([one.per] if one.per else []))]
    return [Selector(name) for name in dict.fromkeys(names)]


def _measured(metric: Metric, recorded: Sequence[Series], since_ms: float) -> Sequence[Reading]:
    last = {
        (one.name, _labels(one)): float(one.values[-1])
        for one in recorded
        if one.times_ms.size and one.times_ms[-1] >= since_ms
    }
    readings = []
    for (name, labels), value in last.items():
        if name not in metric.names or not _asked(metric, dict(labels)):
            continue
        divisor = last.get((metric.per, labels)) if metric.per else 1.0
        if divisor:
            readings.append(Reading(_entity(metric, dict(labels)), value / divisor))
    return readings or [Reading("", None, METRIC_ABSENT)]


def _asked(metric: Metric, labels: Mapping[str, str]) -> bool:
    either = [wanted for wanted in (metric.labels, metric.other_labels) if wanted]
    return not either or any(
        all(labels.get(name) in values for name, values in wanted.items()) for wanted in either
    )


def _labels(series: Series) -> frozenset[tuple[str, str]]:
    return frozenset((key, value) for key, value in series.labels.items() if key != "__name__")


def _entity(metric: Metric, labels: Mapping[str, str]) -> str:
    """Return what a series is called; the instance only where nothing else names its place."""
    names = [name for name in metric.entity if labels.get(name)]
    if "node" in names:
        names = [name for name in names if name != "instance"]
    return "@".join(labels[name] for name in names)


def _stack(now: AttemptNow) -> list[TargetNow]:
    return [target for target in now.targets if target.kind == "stack"]


def _nothing_known(now: AttemptNow) -> Sequence[Reading]:
    if now.began_ms is not None or any(target.age_s is not None for target in now.targets):
        return [Reading("", 1.0)]
    if now.state == "starting":
        return [Reading("", None, "the job has only begun")]
    return [Reading("", 0.0, "; ".join(now.problems))]


def _problems(now: AttemptNow) -> Sequence[Reading]:
    return [Reading("", float(len(now.problems)), "; ".join(now.problems))]


def _down(now: AttemptNow) -> Sequence[Reading]:
    known = {"up": 0.0, "down": 1.0, "foreign": 0.0}
    readings = [
        Reading(one.name, known.get(one.state), "" if one.state in known else NEVER_ASKED)
        for one in _stack(now)
    ]
    return readings or [Reading("", None, "the job has not said which nodes it has")]


def _up_ratio(now: AttemptNow) -> Sequence[Reading]:
    known = [one for one in _stack(now) if one.state != "unknown"]
    if not known:
        return [Reading("", None, NEVER_ASKED)]
    return [Reading("", sum(one.state == "up" for one in known) / len(known))]


def _foreign(now: AttemptNow) -> Sequence[Reading]:
    readings = [
        Reading(one.name, float(one.state == "foreign"))
        for one in now.targets
        if one.state != "unknown"
    ]
    return readings or [Reading("", None, NEVER_ASKED)]


def _sample_age(now: AttemptNow) -> Sequence[Reading]:
    """Return ages at the last copy: what came since is not known, and is another check."""
    copied_ms = now.checkpoint.last_ms
    if copied_ms is None or not now.interval_s:
        return [Reading("", None, NO_COPY)]
    return [
        Reading(one.name, (copied_ms - one.last_sample_ms) / 1000 / now.interval_s)
        for one in now.targets
        if one.last_sample_ms is not None and one.state in ("up", "down")
    ] or [Reading("", None, NEVER_ASKED)]


def _gave_up(now: AttemptNow) -> Sequence[Reading]:
    gone = [Reading(one.name, 1.0, one.why) for one in now.components if one.gave_up]
    return gone or _known_events(now)


def _prometheus_gave_up(now: AttemptNow) -> Sequence[Reading]:
    gone = [one for one in now.components if one.gave_up and one.component == PROMETHEUS]
    return [Reading(one.name, 1.0, one.why) for one in gone] or _known_events(now)


def _known_events(now: AttemptNow) -> Sequence[Reading]:
    """Return that nothing of a kind was said, if anything was said at all."""
    if now.began_ms is None:
        return [Reading("", None, "the job has not said anything, or its events are lost")]
    return [Reading("", 0.0)]


def _checkpoint_age(now: AttemptNow) -> Sequence[Reading]:
    if not now.checkpoint_interval_s or now.began_ms is None:
        return [Reading("", None, NO_COPY)]
    since_ms = now.checkpoint.last_ms or now.began_ms
    return [Reading("", (now.at_ms - since_ms) / 1000 / now.checkpoint_interval_s)]


def _checkpoint_failures(now: AttemptNow) -> Sequence[Reading]:
    if not now.checkpoint.failures:
        return _known_events(now)
    return [Reading("", float(now.checkpoint.failures), now.checkpoint.why or "")]


def _closed(now: AttemptNow) -> Sequence[Reading]:
    if now.checkpoint.clean is None:
        return [Reading("", 0.0, "the recording was never closed")]
    said = "" if now.checkpoint.clean else "Prometheus had to be killed"
    return [Reading("", float(now.checkpoint.clean), said)]


def _unmarked(now: AttemptNow) -> Sequence[Reading]:
    return [Reading(one.name, float(one.state == "unmarked")) for one in now.phases]


def _past_the_limit(now: AttemptNow) -> Sequence[Reading]:
    if now.ends_ms is None:
        return [Reading("", None, "no time limit is known")]
    return [Reading("", max(0.0, (now.at_ms - now.ends_ms) / 1000))]


def _time_left(now: AttemptNow) -> Sequence[Reading]:
    to_come = [phase for phase in now.phases if phase.state == "planned"]
    if not to_come or now.ends_ms is None or now.began_ms is None or now.ends_ms <= now.began_ms:
        return ()
    left = max(0.0, (now.ends_ms - now.at_ms) / (now.ends_ms - now.began_ms))
    return [Reading("", left, f"still to come: {', '.join(phase.name for phase in to_come)}")]


def _sources_degraded(now: AttemptNow) -> Sequence[Reading]:
    said = [one for one in now.warnings if one.startswith("source_degraded")]
    return [Reading("", float(len(said)), "; ".join(said))]


def _growth(now: AttemptNow) -> Sequence[Reading]:
    copy = now.checkpoint
    if copy.last_ms is None or now.began_ms is None or copy.last_ms <= now.began_ms:
        return [Reading("", None, NO_COPY)]
    return [Reading("", copy.copied_bytes * 1000 / (copy.last_ms - now.began_ms))]


def _answers(now: ServerNow) -> Sequence[Reading]:
    return [Reading("", float(now.answers), now.why)]


def _targets_down(now: ServerNow) -> Sequence[Reading]:
    if not now.targets:
        return [Reading("", None, now.why or "the server has no targets")]
    known = {"up": 0.0, "down": 1.0}
    return [
        Reading(
            one.name,
            known.get(one.health),
            one.error or ("" if one.health in known else NEVER_ASKED),
        )
        for one in now.targets
    ]


def _server_up_ratio(now: ServerNow) -> Sequence[Reading]:
    known = [one for one in now.targets if one.health in ("up", "down")]
    if not known:
        return [Reading("", None, now.why or "the server has no targets")]
    return [Reading("", sum(one.health == "up" for one in known) / len(known))]


def _scrape_age(now: ServerNow) -> Sequence[Reading]:
    if not now.targets:
        return [Reading("", None, now.why or "the server has no targets")]
    return [
        Reading(one.name, None, "the server does not say when it asked, or how often")
        if one.age_s is None or not one.interval_s
        else Reading(one.name, one.age_s / one.interval_s)
        for one in now.targets
    ]


_OF_ATTEMPT: Mapping[str | None, Callable[[AttemptNow], Sequence[Reading]]] = {
    "attempt_known": _nothing_known,
    "folder_problems": _problems,
    "target_down": _down,
    "targets_up_ratio": _up_ratio,
    "target_foreign": _foreign,
    "sample_age_intervals": _sample_age,
    "component_gave_up": _gave_up,
    "prometheus_gave_up": _prometheus_gave_up,
    "checkpoint_age_intervals": _checkpoint_age,
    "checkpoint_failures": _checkpoint_failures,
    "recording_closed": _closed,
    "phase_unmarked": _unmarked,
    "seconds_past_the_limit": _past_the_limit,
    "time_left_ratio": _time_left,
    "sources_degraded": _sources_degraded,
    "recording_bytes_per_second": _growth,
}
_OF_SERVER: Mapping[str | None, Callable[[ServerNow], Sequence[Reading]]] = {
    "server_answers": _answers,
    "target_down": _targets_down,
    "targets_up_ratio": _server_up_ratio,
    "sample_age_intervals": _scrape_age,
}
FACTS: frozenset[str] = frozenset(name for name in (*_OF_ATTEMPT, *_OF_SERVER) if name)
"""Every fact that a check can look at."""
