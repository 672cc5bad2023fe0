"""accounting.json: what Slurm says of one attempt.

Slurm forgets, and the analysis may run on another machine, so what it said is kept beside the
recording. ``jobmeter.slurm_accounting`` asks, this module owns the value and its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from jobmeter.files import write_atomically

SCHEMA_VERSION = 2

SOURCES = ("attempt", "scontrol", "sacct", "pyslurm")
"""Who may have said it, in the order of how much they can know."""

_FROM_DATABASE = ("sacct", "pyslurm")

_OF_THE_WHOLE = frozenset({"job_id", "state", "final", "source", "filled"})

_FIXED_AT_START = frozenset(
    {
        "submit_s",
        "eligible_s",
        "start_s",
        "queue_wait_s",
        "submit_to_start_s",
        "restarts",
        "nodes",
        "cpus",
        "gpus",
        "memory_bytes",
        "billing",
    }
)

_OF_BATCH = frozenset({"exit_code", "signal"})
"""Said of the step in which the batch script ran."""

_OF_STEPS = frozenset(
    {
        "derived_exit_code",
        "user_cpu_s",
        "system_cpu_s",
        "total_cpu_s",
        "max_rss_bytes",
        "consumed_energy_joules",
    }
)
"""Put together from all steps: too little while the end of one is not known."""

_DERIVED_FROM = {
    "queue_wait_s": ("start_s", "eligible_s"),
    "submit_to_start_s": ("start_s", "submit_s"),
    "time_limit_used_ratio": ("elapsed_s", "time_limit_s"),
    "cpu_efficiency_ratio": ("total_cpu_s", "elapsed_s", "cpus"),
    "memory_bytes": ("alloc_tres",),
    "gpus": ("alloc_tres",),
    "billing": ("alloc_tres",),
}


@dataclass(frozen=True)
class StepAccounting:
    """One step of a job.

    Args:
        name: ``batch``, ``extern``, ``interactive`` or the step's number.
        state: Slurm's word without its decorations.
        exit_code: As in ``JobAccounting``.
        elapsed_s: Seconds between start and end, less those suspended.
        tasks: How many.
        total_cpu_s: CPU seconds, user and system, of all its tasks.
        max_rss_bytes: Largest resident set of any of its tasks, as sampled.
        max_rss_node: Where that task ran.
        max_rss_task: Which task that was.
    """

    name: str
    state: str
    exit_code: int | None = None
    elapsed_s: float | None = None
    tasks: int | None = None
    total_cpu_s: float | None = None
    max_rss_bytes: int | None = None
    max_rss_node: str | None = None
    max_rss_task: int | None = None


@dataclass(frozen=True)
class ComponentAccounting:
    """One component of a heterogeneous job; what nobody said is None.

    Args:
        job_id: As Slurm prints it, ``12+1``.
        state: Slurm's word without its decorations.
        partition: Name.
        nodes: How many it had.
        node_list: Their names in Slurm's notation.
        cpus: How many it had.
        total_cpu_s: CPU seconds (user and system) of all its steps.
        max_rss_bytes: Largest resident set of any task of any step, as sampled by Slurm.
    """

    job_id: str
    state: str
    partition: str | None = None
    nodes: int | None = None
    node_list: str | None = None
    cpus: int | None = None
    total_cpu_s: float | None = None
    max_rss_bytes: int | None = None


@dataclass(frozen=True)
class JobAccounting:
    """One start of a Slurm job at its last known state; what nobody said is None.

    Of a heterogeneous job it is of all components together: script and times of the first one, the
    rest added up, and names of all.

    Args:
        job_id: As Slurm prints it.
        state: Slurm's word without its decorations (``CANCELLED by 1000`` is ``CANCELLED``).
        final: Whether the state can no longer change.
        source: Who said so: ``pyslurm``, ``sacct``, ``scontrol``, or ``attempt`` for the job
            script's own record.
        exit_code: Of the batch script, 128 + N where signal N ended it. Slurm's mark for a job
            that ran out of memory is 253.
        signal: What ended the batch script; None where it ended by itself.
        derived_exit_code: Highest exit code of the steps that srun started.
        submit_s: Seconds since the epoch. A requeue is a new submission.
        eligible_s: Seconds since the epoch: from here on only the queue held the job back, no
            dependency, begin time or hold.
        start_s: Start, seconds since the epoch.
        end_s: End, seconds since the epoch.
        elapsed_s: Seconds between start and end, less those suspended.
        suspended_s: Seconds suspended.
        time_limit_s: Seconds it might have run; None without a limit of its own.
        restarts: How often the job had been started before.
        nodes: How many it had.
        node_list: Their names in Slurm's notation.
        failed_node: Whose failure ended it.
        cpus: How many it had; hardware threads where the site counts those.
        alloc_tres: All that it had, by Slurm's names (``gres/gpu``), memory in bytes.
        reason: Slurm's word for why it waited or ended.
        partition: Name.
        qos: Name.
        account: Name.
        user_cpu_s: CPU seconds in user mode of all steps.
        system_cpu_s: CPU seconds in the kernel of all steps.
        total_cpu_s: CPU seconds (user and system) of all steps.
        max_rss_bytes: Largest resident set of any task of any step, as sampled by Slurm.
        consumed_energy_joules: A hint from the site's plugin: of whole nodes, however shared, and
            of steps that ran side by side each for itself. None where nothing was measured.
        steps: In Slurm's order; those of components after the first are called ``+1.0``.
        components: Of a heterogeneous job, else empty.
        filled: Who said what ``source`` did not say, by field.
    """

    job_id: str
    state: str
    final: bool
    source: str
    exit_code: int | None = None
    signal: int | None = None
    derived_exit_code: int | None = None
    submit_s: int | None = None
    eligible_s: int | None = None
    start_s: int | None = None
    end_s: int | None = None
    elapsed_s: float | None = None
    suspended_s: float | None = None
    time_limit_s: float | None = None
    restarts: int | None = None
    nodes: int | None = None
    node_list: str | None = None
    failed_node: str | None = None
    cpus: int | None = None
    alloc_tres: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    user_cpu_s: float | None = None
    system_cpu_s: float | None = None
    total_cpu_s: float | None = None
    max_rss_bytes: int | None = None
    consumed_energy_joules: int | None = None
    steps: tuple[StepAccounting, ...] = ()
    components: tuple[ComponentAccounting, ...] = ()
    filled: Mapping[str, str] = field(default_factory=dict)

    @property
    def queue_wait_s(self) -> float | None:
        """Seconds in which only the queue held the job back."""
        return _between(self.eligible_s, self.start_s)

    @property
    def submit_to_start_s(self) -> float | None:
        """Seconds between submission and start, whatever the job waited for."""
        return _between(self.submit_s, self.start_s)

    @property
    def time_limit_used_ratio(self) -> float | None:
        """Elapsed time over the time limit; above 1 where Slurm was late to end the job."""
        return _ratio(self.elapsed_s, self.time_limit_s)

    @property
    def cpu_efficiency_ratio(self) -> float | None:
        """CPU time over the time that all allocated CPUs had."""
        if self.elapsed_s is None or self.cpus is None:
            return None
        return _ratio(self.total_cpu_s, self.elapsed_s * self.cpus)

    @property
    def memory_bytes(self) -> int | None:
        """Memory that was allocated, on all nodes together."""
        return self.alloc_tres.get("mem")

    @property
    def gpus(self) -> int | None:
        """GPUs that were allocated; None where the site does not account for them."""
        kinds = [n for name, n in self.alloc_tres.items() if name.startswith("gres/gpu:")]
        return self.alloc_tres.get("gres/gpu", sum(kinds) or None)

    @property
    def billing(self) -> int | None:
        """Billing units by the partition's weights; a site charges these per unit of time."""
        return self.alloc_tres.get("billing")

    @property
    def settled(self) -> bool:
        """Whether it is no use to ask again: the database has said its last word.

        Without a time of submission it is an answer that an earlier version has kept, and short.
        """
        known = self.final and self.source in _FROM_DATABASE and self.submit_s is not None
        return known and not self.lagging

    @property
    def lagging(self) -> frozenset[str]:
        """The steps of a job that has ended whose own end the database has not heard of yet."""
        return frozenset(step.name for step in self.steps if self.final and step.state == "RUNNING")

    def is_final(self, name: str) -> bool:
        """Whether one field can no longer change.

        Some cannot once the job has started; those of steps may after the job's end.
        """
        if not self.final:
            return name in _FIXED_AT_START and self.start_s is not None
        lagging = self.lagging
        said_here = set(_DERIVED_FROM.get(name, (name,))) - self.filled.keys()
        return not (
            (lagging and said_here & _OF_STEPS) or ("batch" in lagging and said_here & _OF_BATCH)
        )

    def source_of(self, name: str) -> str:
        """Return who said one field, all of them where it is derived from several."""
        parts = _DERIVED_FROM.get(name, (name,))
        said = {self.filled.get(part, self.source) for part in parts}
        return "+".join(sorted(said, key=SOURCES.index, reverse=True))

    def _says(self, name: str) -> bool:
        return getattr(self, name) not in (None, (), {})

    def filled_from(self, other: JobAccounting | None, *names: str) -> JobAccounting:
        """Return this with what it lacks taken from ``other``, which is named for each field.

        Args:
            other: Another answer on the same start of the same job.
            names: Only these fields.
        """
        if other is None:
            return self
        lacking = [name for name in names if not self._says(name) and other._says(name)]
        sources = dict.fromkeys(lacking, other.source)
        return replace(
            self,
            **{name: getattr(other, name) for name in lacking},
            filled={**self.filled, **sources},
        )


FILLABLE = tuple(each.name for each in fields(JobAccounting) if each.name not in _OF_THE_WHOLE)
"""The fields that one source may say for another."""


def _between(before_s: int | None, after_s: int | None) -> float | None:
    """Return the seconds between; None where the order says that one of them was rewritten.

    Slurm gives a start that was requeued the eligible time of the next one.
    """
    if before_s is None or after_s is None or after_s < before_s:
        return None
    return float(after_s - before_s)


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def preferred(known: JobAccounting | None, new: JobAccounting | None) -> JobAccounting | None:
    """Return the answer that says more, the newer one where they are alike."""
    if known is None or new is None:
        return new or known

    def rank(said: JobAccounting) -> tuple[bool, int]:
        return said.source != "attempt" and said.final, SOURCES.index(said.source)

    return known if rank(known) > rank(new) else new


def write_accounting(accounting: JobAccounting, path: Path) -> None:
    """Write accounting.json."""
    data = {"schema_version": SCHEMA_VERSION, **asdict(accounting)}
    write_atomically(json.dumps(data, indent=2) + "\n", path)


def read_accounting(path: Path) -> JobAccounting | None:
    """Read accounting.json, of this version or an earlier one; None when there is none.

    Accounting is joined, never required: a damaged file counts as absent and is asked for again.
    """
    try:
        data = json.loads(path.read_text())
        version = data.pop("schema_version")
        if version not in (1, SCHEMA_VERSION):
            return None
        steps = tuple(StepAccounting(**step) for step in data.pop("steps", ()))
        components = tuple(ComponentAccounting(**one) for one in data.pop("components", ()))
        said = JobAccounting(**data, steps=steps, components=components)
        return said if said.source in SOURCES else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
