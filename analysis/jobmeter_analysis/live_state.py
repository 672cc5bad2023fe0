"""What an attempt is doing, as far as its folder tells: phases, targets, components, checkpoints.

Works while the job writes the folder, after its end, and on what a killed job left. What cannot be
told is None or ``unknown``, never a good word. All times are by the clock of the first node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jobmeter.edges import EdgeFetch, read_fetches
from jobmeter.errors import RunFolderError
from jobmeter.events import Event, EventLog, read_events
from jobmeter.manifest import RunManifest, read_manifest
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter_analysis.attempt import Attempt, read_attempt
from jobmeter_analysis.recording import NO_SAMPLE, Recording
from jobmeter_analysis.targets import GAP_INTERVALS, Target, TargetName

AttemptWord = Literal["starting", "running", "silent", "ended", "killed"]
"""``silent``: it has not said its end, nothing for a while, and nobody knows whether it runs.
``killed``: Slurm says that it is over, and it never said so itself."""
TargetWord = Literal["up", "down", "gone", "foreign", "unknown"]
"""``gone``: an endpoint of the payload that answered and ended. ``unknown``: not asked yet."""
PhaseWord = Literal["planned", "running", "done", "failed", "interrupted", "unmarked", "skipped"]
"""``unmarked``: it began, and the attempt is over without having marked its end."""

LEAST_PATIENCE_S = 60.0
PATIENCE_CHECKPOINTS = 4
"""So many checkpoints without a word, and nobody knows whether an attempt still runs."""
FORESEEN = "USR1"
"""The signal at which a phase is marked although it goes on."""
NEW_CLOCK_S = 5.0
"""What a running job said so far in the future is due to clocks that disagree."""


@dataclass(frozen=True)
class PhaseNow:
    """One phase.

    Args:
        name: From the job file.
        state: See ``PhaseWord``.
        start_ms: None before it began.
        seconds: How long it took, or has been running; None before it began.
        exit_code: Of its command; None while unknown.
        signal: What ended it early.
    """

    name: str
    state: PhaseWord
    start_ms: int | None = None
    seconds: float | None = None
    exit_code: int | None = None
    signal: str | None = None


@dataclass(frozen=True)
class TargetNow:
    """One metrics endpoint.

    Args:
        service: Its ``service`` label.
        node: Its node.
        kind: ``stack`` or ``payload``.
        state: See ``TargetWord``.
        last_sample_ms: When it last answered, to Prometheus or to the job; None if it never did.
        age_s: How long that was before the moment the state is about.
    """

    service: str
    node: str
    kind: str
    state: TargetWord
    last_sample_ms: int | None
    age_s: float | None

    @property
    def name(self) -> str:
        """As it is printed: ``service@node``."""
        return str(TargetName(self.service, self.node))


@dataclass(frozen=True)
class ComponentNow:
    """A process of the stack that ended or could not be started.

    Args:
        component: ``node_exporter``, ``exporters``, ``prometheus``, ...
        node: Where.
        exits: How often it ended.
        gave_up: Whether it is not started again.
        why: The last exit or the reason for giving up, in words.
    """

    component: str
    node: str
    exits: int
    gave_up: bool
    why: str

    @property
    def name(self) -> str:
        """As it is printed: ``component@node``."""
        return f"{self.component}@{self.node}"


@dataclass(frozen=True)
class CheckpointNow:
    """The copy of the recording in the run directory.

    Args:
        count: How often it was brought up to date.
        last_ms: When last; None before the first.
        age_s: How long that was before the moment the state is about.
        copied_bytes: All that was copied.
        failures: How many have failed since the last that worked.
        why: Of the last failure; None without.
        closed: Whether the recording was closed.
        clean: Whether Prometheus ended in order; None before it was closed.
    """

    count: int
    last_ms: int | None
    age_s: float | None
    copied_bytes: int
    failures: int
    why: str | None
    closed: bool
    clean: bool | None


@dataclass(frozen=True)
class AttemptNow:
    """One attempt.

    Args:
        name: Of its folder.
        state: See ``AttemptWord``.
        at_ms: The moment the state is about: now, or the end of an attempt that is over.
        began_ms: When its script began; None before.
        seconds: How long it ran; None before it began.
        ends_ms: When Slurm will end it; None without a limit that is known.
        nodes: Its nodes as far as they are known.
        interval_s: Between two scrapes.
        checkpoint_interval_s: Between two copies.
        exit_code: Of the script; None before its end, or if it was killed.
        phases: Those of the plan, in order.
        targets: Every endpoint that should be recorded.
        components: What ended by itself.
        checkpoint: The copy of the recording.
        warnings: What is worth a word, in words.
        problems: What of the folder cannot be read, in words.
    """

    name: str
    state: AttemptWord
    at_ms: int
    began_ms: int | None
    seconds: float | None
    ends_ms: int | None
    nodes: tuple[str, ...]
    interval_s: float
    checkpoint_interval_s: float
    exit_code: int | None
    phases: tuple[PhaseNow, ...]
    targets: tuple[TargetNow, ...]
    components: tuple[ComponentNow, ...]
    checkpoint: CheckpointNow
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("ended", "killed")


def attempt_now(
    run: RunPaths,
    attempt: AttemptPaths,
    now_ms: int,
    over: bool | None = None,
    recording: Recording | None = None,
) -> AttemptNow:
    """Return what an attempt is doing.

    Args:
        run: The run it belongs to.
        attempt: Its folder.
        now_ms: The time, milliseconds since the epoch.
        over: Whether its job has ended, by Slurm; None where nobody can say.
        recording: Where the samples are, by default the attempt's data folder.

    A plan that cannot be read is a problem: what the job itself wrote down is there all the same.
    """
    manifest = _plan(run)
    log = read_events(attempt.events)
    known, problems = _known(run, attempt, recording)
    fetches = _last_fetches(attempt)
    facts = [event.time_ms for event in log.events] + [one.after_ms for one in fetches.values()]
    if known is not None:
        facts.append(known.last_fact_ms)
    last_fact = max(facts, default=0)
    state = attempt_word(manifest, log, last_fact, now_ms, over)
    at_ms = last_fact if state in ("ended", "killed") else max(now_ms, last_fact)
    end = next(iter(log.named("job_end")), None)
    began = next((event.time_ms for event in log.named("job_start")), None)
    code = end.fields.get("exit_code") if end else None
    targets = known.targets if known else ()
    return AttemptNow(
        name=attempt.name,
        state=state,
        at_ms=at_ms,
        began_ms=began,
        seconds=None if began is None else (at_ms - began) / 1000,
        ends_ms=_limit_ms(log),
        nodes=known.nodes if known else (),
        interval_s=manifest.interval_s,
        checkpoint_interval_s=manifest.checkpoint_interval_s,
        exit_code=code if isinstance(code, int) else None,
        phases=phases_now(manifest, log, at_ms, over=state in ("ended", "killed")),
        targets=_targets(targets, fetches, at_ms),
        components=_components(log),
        checkpoint=_checkpoint(log, at_ms),
        warnings=tuple(_warnings(known, log, fetches, now_ms, state)),
        problems=_worth_saying(problems, state),
    )


def _plan(run: RunPaths) -> RunManifest:
    try:
        return read_manifest(run.manifest)
    except RunFolderError:  # reading the attempt says so
        name = run.run.name
        return RunManifest(name, name, "", "", 0, 0.0, 0.0, False, (), (), "", None, "")


def _known(
    run: RunPaths, attempt: AttemptPaths, recording: Recording | None
) -> tuple[Attempt | None, tuple[str, ...]]:
    try:
        known = read_attempt(run, attempt, {}, recording, fetched=False)
    except RunFolderError as cause:
        return None, (str(cause),)
    return known, known.problems


def attempt_word(
    manifest: RunManifest, log: EventLog, last_fact_ms: int, now_ms: int, over: bool | None
) -> AttemptWord:
    """Return what an attempt is doing, in one word.

    Args:
        manifest: What was planned.
        log: What it said.
        last_fact_ms: Time of the last thing that is known of it.
        now_ms: The time.
        over: Whether its job has ended, by Slurm; None where nobody can say.
    """
    if log.named("job_end"):
        return "ended"
    if over:
        return "killed"
    patience_s = max(LEAST_PATIENCE_S, PATIENCE_CHECKPOINTS * manifest.checkpoint_interval_s)
    if over is None and now_ms - last_fact_ms > 1000 * patience_s:
        return "silent"
    return "running" if log.named("phase_start") else "starting"


def _limit_ms(log: EventLog) -> int | None:
    """Return when Slurm will end the job, by what it told the script."""
    for event in log.named("job_start"):
        variables = event.fields.get("slurm")
        text = variables.get("SLURM_JOB_END_TIME", "") if isinstance(variables, Mapping) else ""
        if str(text).isdecimal():
            return int(text) * 1000
    return None


def phases_now(
    manifest: RunManifest, log: EventLog, at_ms: int, *, over: bool
) -> tuple[PhaseNow, ...]:
    """Return the phases of the plan, and others that began, as they are.

    Args:
        manifest: What was planned.
        log: What the job said.
        at_ms: Up to when a phase that runs has been running.
        over: Whether the attempt is over.
    """
    started = [str(event.fields.get("phase")) for event in log.named("phase_start")]
    names = dict.fromkeys([*manifest.phases, *started])
    return tuple(_phase(name, log, at_ms, over=over) for name in names)


def _phase(name: str, log: EventLog, at_ms: int, *, over: bool) -> PhaseNow:
    def last(mark: str) -> Event | None:
        found = [event for event in log.named(mark) if str(event.fields.get("phase")) == name]
        return found[-1] if found else None

    start, end = last("phase_start"), last("phase_end")
    if start is None:
        return PhaseNow(name, "skipped" if last("phase_skipped") or over else "planned")
    signal = str(end.fields.get("signal") or "") or None if end else None
    if end is None or (signal == FORESEEN and not over):
        state: PhaseWord = "unmarked" if over else "running"
        return PhaseNow(name, state, start.time_ms, (at_ms - start.time_ms) / 1000, None, signal)
    code = end.fields.get("exit_code")
    code = code if isinstance(code, int) else None
    state = "interrupted" if signal else "failed" if code else "done"
    seconds = (end.time_ms - start.time_ms) / 1000
    return PhaseNow(name, state, start.time_ms, seconds, code, signal)


def _last_fetches(attempt: AttemptPaths) -> dict[TargetName, EdgeFetch]:
    """Return by target the last time that the job itself asked it."""
    latest: dict[TargetName, EdgeFetch] = {}
    folders = attempt.edges.iterdir() if attempt.edges.is_dir() else ()
    fetches = [fetch for folder in folders for fetch in read_fetches(folder)]
    for fetch in sorted(fetches, key=lambda one: (one.after_ms, one.usable)):
        latest[TargetName(fetch.service, fetch.node)] = fetch
    return latest


def _targets(
    targets: Sequence[Target], fetches: Mapping[TargetName, EdgeFetch], at_ms: int
) -> tuple[TargetNow, ...]:
    newest = max(
        (int(t.scrapes.times_ms[-1]) for t in targets if t.scrapes.times_ms.size), default=0
    )
    rows = []
    for target in targets:
        fetch = fetches.get(target.name)
        answered, asked = last_answer_ms(target), last_asked_ms(target)
        if fetch is not None:
            asked = max(asked or 0, fetch.after_ms)
            answered = max(answered or 0, fetch.after_ms) if fetch.usable else answered
        silent = newest - (answered or 0) > GAP_INTERVALS * target.interval_ms
        if target.foreign or (fetch is not None and fetch.status == "foreign"):
            state: TargetWord = "foreign"
        elif asked is None:
            state = "unknown"
        elif answered is not None and answered >= asked and not silent:
            state = "up"
        else:
            state = "gone" if target.kind == "payload" and answered is not None else "down"
        age_s = None if answered is None else (at_ms - answered) / 1000
        name = target.name
        rows.append(TargetNow(name.service, name.node, target.kind, state, answered, age_s))
    return tuple(rows)


def last_answer_ms(target: Target) -> int | None:
    """Return when Prometheus last had an answer of a target."""
    times = target.scrapes.times_ms[target.scrapes.up]
    return int(times[-1]) if times.size else None


def last_asked_ms(target: Target) -> int | None:
    """Return when Prometheus last asked a target."""
    times = target.scrapes.times_ms
    return int(times[-1]) if times.size else None


def _components(log: EventLog) -> tuple[ComponentNow, ...]:
    found: dict[tuple[str, str], ComponentNow] = {}
    for event in log.events:
        if event.name not in ("component_exit", "component_gave_up"):
            continue
        key = str(event.fields.get("component")), event.node
        before = found.get(key, ComponentNow(*key, exits=0, gave_up=False, why=""))
        gave_up = event.name == "component_gave_up"
        why = str(event.fields.get("why")) if gave_up else f"status {event.fields.get('status')}"
        found[key] = ComponentNow(
            *key, before.exits + (not gave_up), before.gave_up or gave_up, why
        )
    return tuple(found.values())


def _checkpoint(log: EventLog, at_ms: int) -> CheckpointNow:
    closed = next(iter(log.named("recording_closed")), None)
    copies = sorted([*log.named("checkpoint"), *([closed] if closed else [])], key=_time)
    last = copies[-1].time_ms if copies else None
    failed = [event for event in log.named("checkpoint_failed") if event.time_ms > (last or 0)]
    sizes = [event.fields.get("copied_bytes") for event in copies]
    return CheckpointNow(
        count=len(copies),
        last_ms=last,
        age_s=None if last is None else (at_ms - last) / 1000,
        copied_bytes=sum(size for size in sizes if isinstance(size, int)),
        failures=len(failed),
        why=str(failed[-1].fields.get("why")) if failed else None,
        closed=closed is not None,
        clean=None if closed is None else closed.fields.get("clean") is True,
    )


def _time(event: Event) -> int:
    return event.time_ms


def _warnings(
    known: Attempt | None,
    log: EventLog,
    fetches: Mapping[TargetName, EdgeFetch],
    now_ms: int,
    state: AttemptWord,
) -> list[str]:
    """Return what is worth a word, oldest first."""
    said: list[str] = []
    for event in log.events:
        words = _warning(event)
        if words:
            said.append(words)
    foreign = {name for name, fetch in fetches.items() if fetch.status == "foreign"}
    if known is not None:
        foreign |= {target.name for target in known.targets if target.foreign}
        said += [f"the clock of {node} is more than a second off" for node in sorted(known.skewed)]
    said += [f"foreign_target: {name} does not belong to this run" for name in sorted(foreign)]
    ahead_s = (max((e.time_ms for e in log.events), default=0) - now_ms) / 1000
    if state in ("starting", "running") and ahead_s > NEW_CLOCK_S:
        said.append(f"the job's clock is {ahead_s:.0f} s ahead of this machine's: ages are off")
    return list(dict.fromkeys(said))


def _warning(event: Event) -> str:
    said = event.fields
    if event.name == "source_degraded":
        what = f"{said.get('instead')} in place of {said.get('service')}@{event.node}"
        return f"source_degraded: {what}, which {said.get('why')}"
    if event.name == "endpoint_refused":
        return f"endpoint {said.get('service')}@{event.node} is not recorded: it {said.get('why')}"
    if event.name == "targets_up" and said.get("missing"):
        return f"not up when the payload began: {said.get('missing')}"
    if event.name == "results_missing":
        return f"result file {said.get('file')} of phase {said.get('phase')}: {said.get('why')}"
    if event.name == "signal":
        return f"the job received {said.get('signal')}"
    return ""


def _worth_saying(problems: Sequence[str], state: AttemptWord) -> tuple[str, ...]:
    """Leave out what is as it should be: a job that began just now has no samples yet."""
    begun = state in ("starting", "running")
    return tuple(one for one in problems if not (begun and one.endswith(NO_SAMPLE)))
