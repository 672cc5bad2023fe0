"""Whether a site can run what a job asks for, as far as its profile knows; nothing is asked here.

A limit that is not known refuses nothing: Slurm has the last word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from jobmeter.errors import SiteError
from jobmeter.groups import groups_of
from jobmeter.quantities import slurm_memory, slurm_memory_mb, slurm_time, slurm_time_s
from jobmeter.site import SiteProfile
from jobmeter.site_limits import OTHERS, Partition, Qos
from jobmeter.site_request import Request, request_of
from jobmeter.spec import Resources
from jobmeter.strict import nearest

MOST_ALTERNATIVES = 3

Limits = TypeVar("Limits", Partition, Qos)


@dataclass(frozen=True)
class Problem:
    """Why a request cannot be satisfied.

    Args:
        place: Key of the job file, or what else said it.
        words: Value and limit.
        advice: What to ask for instead.
        whose: ``partition`` or ``qos`` where another one may do.
        limits: Of which another one must have one, lest it is only ignorance that accepts.
    """

    place: str
    words: str
    advice: str
    whose: str | None = None
    limits: tuple[str, ...] = ()

    def has_limit(self, other: Partition | Qos) -> bool:
        """Whether it is known of another partition or QOS what it allows."""
        return not self.limits or any(
            getattr(other, name, None) is not None for name in self.limits
        )


@dataclass(frozen=True)
class _Choice:
    """One partition and one QOS of those that would do; None is not named or not known."""

    partition_name: str | None
    partition: Partition
    qos_name: str | None
    qos: Qos


def check_request(asked: Resources, site_name: str, site: SiteProfile, job_file: str) -> None:
    """Refuse what ``site`` cannot run.

    Raises:
        SiteError: naming the key, the value, the limit and what to ask for instead.
    """
    for group in groups_of(asked):
        request = request_of(group, site)
        problem = _undemanded(request, site_name, site) or find_problem(request, site_name, site)
        if problem is not None:
            raise SiteError(f"{job_file}: {problem.place}: {problem.words}; {problem.advice}")


def remarks(asked: Resources, site_name: str, site: SiteProfile) -> tuple[str, ...]:
    """Return what a person should know who submits this: options that were not understood."""
    options = [option for group in groups_of(asked) for option in request_of(group, site).unclear]
    return tuple(
        f"{option} is not checked against the limits of site {site_name!r}"
        for option in dict.fromkeys(options)
        if site.partitions or site.qos
    )


def overriding(environment: Iterable[str]) -> tuple[str, ...]:
    """Return what a person should know of variables by which sbatch overrides the script."""
    return tuple(
        f"{name} is set, and sbatch puts it above the job file; unset it if that is not meant"
        for name in sorted(environment)
        if name.startswith("SBATCH_")
    )


def _undemanded(request: Request, site_name: str, site: SiteProfile) -> Problem | None:
    """Return what is missing of that which the site demands."""
    names_of = {"partition": "partitions", "time": "time_s"}
    for key in site.mandatory:
        name = names_of.get(key, key)
        if not getattr(request, name) and name not in request.doubtful:
            known = {"partition": list(site.partitions), "qos": list(site.qos)}.get(key, [])
            names = [name for name in known if name != OTHERS]
            advice = f"add it, one of {', '.join(names)}" if names else "add it"
            return Problem(f"resources.{key}", f"site {site_name!r} demands one", advice)
    return None


def find_problem(request: Request, site_name: str, site: SiteProfile) -> Problem | None:
    """Return why the site cannot satisfy ``request``; None when it can, as far as it is known.

    Of several partitions one must do; a name that does not exist is refused at once.
    """
    problem = _unknown(request.partitions, site.partitions, "partition", request, site_name)
    problem = problem or _unknown(request.qos, site.qos, "qos", request, site_name)
    if problem is not None:
        return problem
    problems = []
    for choice in _choices(request, site):
        problem = _problem(request, choice)
        if problem is None:
            return None
        problems.append(replace(problem, advice=_advice(problem, request, choice, site)))
    return problems[0]


def _unknown(
    names: Sequence[str],
    known: Mapping[str, Partition] | Mapping[str, Qos],
    kind: str,
    request: Request,
    site_name: str,
) -> Problem | None:
    if not known or OTHERS in known:
        return None
    word = "QOS" if kind == "qos" else kind
    for name in names:
        if name not in known:
            place = request.place("partitions" if kind == "partition" else kind)
            advice = nearest(name, list(known))
            return Problem(place, f"site {site_name!r} has no {word} {name!r}", advice)
    return None


def _choices(request: Request, site: SiteProfile) -> tuple[_Choice, ...]:
    return tuple(
        _Choice(
            partition,
            _limits(site.partitions, partition, Partition()),
            qos,
            _limits(site.qos, qos, Qos()),
        )
        for partition in (request.partitions or (None,))
        for qos in (request.qos or (None,))
    )


def _limits(known: Mapping[str, Limits], name: str | None, nothing: Limits) -> Limits:
    """Return the limits of one name: its own, else those of all others, else none."""
    return known.get(name or OTHERS) or known.get(OTHERS) or nothing


def _problem(request: Request, choice: _Choice) -> Problem | None:
    return (
        _reservation_problem(request, choice)
        or _gpu_problem(request, choice)
        or _cpu_problem(request, choice)
        or _memory_problem(request, choice)
        or _node_problem(request, choice)
        or _time_problem(request, choice)
    )


def _reservation_problem(request: Request, choice: _Choice) -> Problem | None:
    wanted = choice.qos.reservations
    if not wanted or request.reservation is not None:
        return None
    return Problem(
        request.place("reservation"),
        f"{_qos(choice)} demands one",
        f"add one of {', '.join(wanted)}",
        "qos",
    )


def _gpu_problem(request: Request, choice: _Choice) -> Problem | None:
    limit, asked = choice.partition.gpus_per_node, request.gpus_per_node
    if limit is None or asked is None or asked <= limit:
        return None
    place = request.place("gpus_per_node")
    if limit == 0:
        words = f"{asked} GPUs a node asked for, but {_partition(choice)} has none"
        return Problem(place, words, "ask for 0", "partition", ("gpus_per_node",))
    words = f"{asked} GPUs a node asked for, but {_partition(choice)} has {limit}"
    advice = f"ask for {limit} or fewer, on more nodes"
    return Problem(place, words, advice, "partition", ("gpus_per_node",))


def _cpu_problem(request: Request, choice: _Choice) -> Problem | None:
    limit = choice.partition.cpus_per_node
    tasks, each = request.tasks_per_node or 1, request.cpus_per_task or 1
    if limit is None or tasks * each <= limit:
        return None
    name = "cpus_per_task" if request.cpus_per_task else "tasks_per_node"
    words = f"{tasks} x {each} CPUs a node asked for, but {_partition(choice)} has {limit}"
    advice = "ask for fewer, on more nodes"
    return Problem(request.place(name), words, advice, "partition", ("cpus_per_node",))


def _memory_problem(request: Request, choice: _Choice) -> Problem | None:
    limit, asked = choice.partition.memory, request.memory_mb
    if limit is None or asked is None or asked <= slurm_memory_mb(limit):
        return None
    words = f"{slurm_memory(asked)} a node asked for, but {_partition(choice)} has {limit}"
    place = request.place("memory_mb")
    return Problem(place, words, f"ask for {limit} or less", "partition", ("memory",))


def _node_problem(request: Request, choice: _Choice) -> Problem | None:
    if request.nodes is None:
        return None
    place = request.place("nodes")
    in_partition = _least(choice.partition.nodes, choice.partition.max_nodes)
    for limit, of, whose in (
        (in_partition, _partition(choice), "partition"),
        (choice.qos.max_nodes_of(choice.partition), _qos(choice), "qos"),
    ):
        if limit is not None and request.nodes > limit:
            words = f"{request.nodes} nodes asked for, but {of} allows {limit}"
            known = ("max_nodes", "max_nodes_share", "nodes")
            return Problem(place, words, f"ask for {limit} or fewer", whose, known)
    for least, of, whose in (
        (choice.partition.min_nodes, _partition(choice), "partition"),
        (choice.qos.min_nodes, _qos(choice), "qos"),
    ):
        if least is not None and request.nodes < least:
            words = f"{request.nodes} nodes asked for, but {of} begins at {least}"
            return Problem(place, words, f"ask for {least} or more", whose)
    return None


def _time_problem(request: Request, choice: _Choice) -> Problem | None:
    if request.time_s is None:
        return None
    for limit, of, whose in (
        (choice.partition.max_time, _partition(choice), "partition"),
        (choice.qos.max_time, _qos(choice), "qos"),
    ):
        if limit is not None and request.time_s > slurm_time_s(limit):
            longest = slurm_time(slurm_time_s(limit))
            words = f"{slurm_time(request.time_s)} asked for, but {of} allows {longest}"
            advice = f"ask for {longest} or less"
            return Problem(request.place("time_s"), words, advice, whose, ("max_time",))
    return None


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _partition(choice: _Choice) -> str:
    return f"partition {choice.partition_name!r}" if choice.partition_name else "every partition"


def _qos(choice: _Choice) -> str:
    return f"QOS {choice.qos_name!r}" if choice.qos_name else "every QOS"


def _advice(problem: Problem, request: Request, choice: _Choice, site: SiteProfile) -> str:
    """Return the advice with the partitions or QOS that would take this request as it is."""
    others = [
        f"{other} ({limits.note})" if limits.note else other
        for other, limits, instead in _instead(problem, choice, site)
        if problem.has_limit(limits) and _problem(request, instead) is None
    ]
    if not others:
        return problem.advice
    return f"{problem.advice}, or take {' or '.join(others[:MOST_ALTERNATIVES])}"


def _instead(
    problem: Problem, choice: _Choice, site: SiteProfile
) -> Iterator[tuple[str, Partition | Qos, _Choice]]:
    """Yield what messages call it, its limits, and the choice with it, of all that may do."""
    if problem.whose == "partition":
        for name, partition in site.partitions.items():
            instead = replace(choice, partition_name=name, partition=partition)
            if name != OTHERS:
                yield _partition(instead), partition, instead
    if problem.whose == "qos":
        for name, qos in site.qos.items():
            instead = replace(choice, qos_name=name, qos=qos)
            if name != OTHERS:
                yield _qos(instead), qos, instead
