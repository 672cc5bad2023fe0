"""What is to be thought of a site profile on this machine, given what was found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from jobmeter.doctor.finding import Finding, State
from jobmeter.quantities import slurm_memory_mb, slurm_time, slurm_time_s
from jobmeter.site import SiteProfile
from jobmeter.site_facts import ShellFacts, SiteFacts, Unanswered, paths_of
from jobmeter.site_limits import OTHERS, Partition, Qos
from jobmeter.strict import nearest


@dataclass(frozen=True)
class Judgement:
    """One judgement.

    Args:
        check: What was looked at, as ``area.name``.
        state: How good it is.
        value: What was found.
        advice: What to do; empty where all is well.
    """

    check: str
    state: State
    value: str
    advice: str = ""

    def finding(self, host: str) -> Finding:
        """Return it as a finding on one machine."""
        area, _, name = self.check.partition(".")
        return Finding(host, area, name, self.state, self.value, "", self.advice)


def judge(site: SiteProfile, facts: SiteFacts) -> Iterator[Judgement]:
    """Yield what is to be thought of each part of the profile."""
    for name, path in facts.slurm_programs.items():
        if path is None:
            yield Judgement(f"slurm.{name}", "broken", "not on PATH", "go to a login node")
        else:
            yield Judgement(f"slurm.{name}", "ok", str(path))
    if site.launcher == "slurm":
        yield from _partitions(site, facts.partitions)
        yield from _qos(site, facts.qos)
    yield from _shell(site, facts.shell)
    yield from _paths(site, facts.paths)


# --- limits ---


@dataclass(frozen=True)
class _Compared:
    """A limit of a profile beside Slurm's.

    Args:
        name: Of the field.
        size: How large it is, for comparing; None where there is no limit.
        larger_is_fine: Whether Slurm may well allow more: the profile says what a job can have.
    """

    name: str
    size: Callable[[Partition | Qos], float | None]
    larger_is_fine: bool = False


def _number(name: str) -> Callable[[Partition | Qos], float | None]:
    return lambda limits: getattr(limits, name)


def _time_s(limits: Partition | Qos) -> float | None:
    return slurm_time_s(limits.max_time) if limits.max_time is not None else None


def _memory_mb(limits: Partition | Qos) -> float | None:
    memory = getattr(limits, "memory", None)
    return slurm_memory_mb(memory) if memory is not None else None


_OF_PARTITION = (
    _Compared("nodes", _number("nodes")),
    _Compared("min_nodes", _number("min_nodes")),
    _Compared("max_nodes", _number("max_nodes")),
    _Compared("max_time", _time_s),
    _Compared("cpus_per_node", _number("cpus_per_node")),
    _Compared("memory", _memory_mb, larger_is_fine=True),
    _Compared("gpus_per_node", _number("gpus_per_node")),
)
_OF_QOS = (
    _Compared("min_nodes", _number("min_nodes")),
    _Compared("max_nodes", _number("max_nodes")),
    _Compared("max_time", _time_s),
    _Compared("jobs_per_user", _number("jobs_per_user")),
)


_KEYS = {"partition": "partitions", "qos": "qos"}
"""Of the profile, by what messages call one of them."""


def _partitions(
    site: SiteProfile, told: Mapping[str, Partition] | Unanswered
) -> Iterator[Judgement]:
    if isinstance(told, Unanswered):
        yield Judgement("slurm.partitions", "unknown", told.why, "go to a login node")
    else:
        yield from _limits("partition", site.partitions, told, _OF_PARTITION)
        yield from _choice("partition", site.defaults.partition, told)


def _qos(site: SiteProfile, told: Mapping[str, Qos] | Unanswered) -> Iterator[Judgement]:
    named = bool(site.qos or site.defaults.qos)
    if not named:
        return
    if isinstance(told, Unanswered):
        yield Judgement("slurm.qos", "unknown", told.why, "compare the limits by hand")
    else:
        yield from _limits("qos", site.qos, told, _OF_QOS)
        yield from _choice("qos", site.defaults.qos, told)


def _limits(
    kind: str,
    known: Mapping[str, Partition] | Mapping[str, Qos],
    told: Mapping[str, Partition] | Mapping[str, Qos],
    compared: Iterable[_Compared],
) -> Iterator[Judgement]:
    for name, limits in known.items():
        if name == OTHERS:
            continue
        there = told.get(name)
        check = f"{kind}.{name}"
        if there is None:
            advice = f"take it out of the profile ({_KEYS[kind]}: {{{name}: null}}); "
            yield Judgement(check, "degraded", "Slurm has none", advice + nearest(name, list(told)))
            continue
        differences = [words for c in compared if (words := _difference(c, limits, there))]
        if differences:
            advice = "correct it in a profile that inherits from this one"
            yield Judgement(check, "degraded", "; ".join(differences), advice)
        else:
            yield Judgement(check, "ok", "agrees with Slurm")
    missing = [name for name in told if name not in known]
    if known and missing and OTHERS not in known:
        words = f"Slurm has {', '.join(missing)}, which the profile does not"
        advice = f"jobs there are refused; add them, or '\"{OTHERS}\": {{}}', under {_KEYS[kind]}"
        yield Judgement(f"{kind}.{OTHERS}", "degraded", words, advice)


def _difference(compared: _Compared, ours: Partition | Qos, slurms: Partition | Qos) -> str:
    """Return how a limit differs; nothing where it does not, or only one of them has it."""
    mine, theirs = compared.size(ours), compared.size(slurms)
    # Where Slurm has none, the limit may well come from an association or the partition's own QOS.
    if mine is None or theirs is None or mine == theirs:
        return ""
    if compared.larger_is_fine and mine < theirs:
        return ""
    return (
        f"{compared.name} is {_shown(compared.name, ours)} here, "
        f"Slurm says {_shown(compared.name, slurms)}"
    )


def _shown(name: str, limits: Partition | Qos) -> str:
    value = getattr(limits, name)
    return slurm_time(slurm_time_s(value)) if name == "max_time" else str(value)


def _choice(
    kind: str, name: str | None, told: Mapping[str, Partition] | Mapping[str, Qos]
) -> Iterator[Judgement]:
    if name is not None and name not in told:
        words = f"Slurm has no {kind} {name!r}, the default of the profile"
        yield Judgement(f"defaults.{kind}", "broken", words, nearest(name, list(told)))


# --- what a shell finds, and files ---


def _shell(site: SiteProfile, shell: ShellFacts | Unanswered) -> Iterator[Judgement]:
    elsewhere = site.launcher == "slurm"
    if isinstance(shell, Unanswered):
        yield Judgement(
            "shell.prologue", _worse(elsewhere), shell.why, "correct 'prologue' or 'shebang'"
        )
        return
    if site.prologue:
        if shell.failed is None:
            yield Judgement("shell.prologue", "ok", "runs here")
        else:
            words = f"{shell.failed!r} fails here"
            words += f", saying: {shell.said}" if shell.said else ""
            advice = "compute nodes may differ; else correct it" if elsewhere else "correct it"
            yield Judgement("shell.prologue", _worse(elsewhere), words, advice)
    for name, path in shell.programs.items():
        if path is not None:
            yield Judgement(f"shell.{name}", "ok", path)
        else:
            yield Judgement(
                f"shell.{name}", _worse(elsewhere), "not found here", _ask_a_node(elsewhere)
            )


def _worse(elsewhere: bool) -> State:
    """Return what a failure here means: nothing certain where jobs run on other machines."""
    return "unknown" if elsewhere else "broken"


def _ask_a_node(elsewhere: bool) -> str:
    if elsewhere:
        return "a compute node may have it: jobmeter doctor --on-compute asks one"
    return "install it, or name its path in a profile that inherits from this one"


def _paths(site: SiteProfile, paths: Mapping[str, bool | None]) -> Iterator[Judgement]:
    if site.runtime.kind != "native" and site.images.folder is None:
        yield Judgement(
            "images.folder",
            "broken",
            "not set, and the stack runs in containers",
            "name a folder that nodes see, outside $HOME, in a profile that inherits from this one",
        )
    for path in paths_of(site):
        there = paths[path]
        check = f"path.{path}"
        if there:
            yield Judgement(check, "ok", "exists")
        elif there is None:
            yield Judgement(check, "unknown", "a variable in it is not set here", "set it, or look")
        else:
            advice = "make it, or correct the profile; a missing bind ends the container"
            yield Judgement(check, "degraded", "does not exist here", advice)
