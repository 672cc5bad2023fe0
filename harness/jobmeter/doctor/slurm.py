"""Judges of Slurm: commands, controller, accounting, pyslurm, clocks."""

from __future__ import annotations

import re

from jobmeter.doctor.facts import dotted, number, version_in
from jobmeter.doctor.finding import Verdict, broken, degraded, not_applicable, ok, unknown
from jobmeter.doctor.subject import Subject
from jobmeter.slurm_query import SKEW_S

OLDEST_SLURM = (22, 5)
"""The oldest that jobmeter is tested with."""

NEEDED = frozenset({"sbatch", "srun", "scontrol", "squeue"})
"""Without these no job is submitted, run or followed; the others are for what is said of it."""

NOTICEABLE_MS = 1000
"""Clocks that differ by more are told of: samples and marks of several machines are compared."""

TICK_MS = 20
"""How far a file's time may lie before the moment it was written: the kernel's clock ticks."""

NO_SLURM = "this site has no batch system"


UNCONFIGURED = "configuration source"
"""What Slurm's commands say where no slurm.conf and no configless controller is found."""


def last_word(text: str) -> str:
    """Return what a command of Slurm said last, without its name.

    >>> last_word("sacct: error: fetch_config: failed sacct: fatal: no configuration source")
    'no configuration source'
    """
    return re.split(r"\b\w+: (?:error|fatal): ", text)[-1].strip()


def commands(subject: Subject) -> Verdict:
    """Judge whether Slurm's commands are on PATH."""
    if not subject.slurm:
        return not_applicable(NO_SLURM)
    subject.facts.need("slurm_command")
    told = subject.facts.all("slurm_command")
    missing = [fact["name"] for fact in told if not fact["path"]]
    if NEEDED.intersection(missing):
        return broken(
            f"not on PATH: {', '.join(missing)}",
            "no job can be submitted, run or followed from here",
            "log in to a node from which jobs are submitted, or take --site local",
        )
    if missing:
        return degraded(
            f"not on PATH: {', '.join(missing)}",
            "what Slurm says of a job comes from fewer sources",
            f"put {missing[0]} on PATH",
        )
    return ok(", ".join(fact["name"] for fact in told))


def version(subject: Subject) -> Verdict:
    """Judge the version of Slurm."""
    if not subject.slurm:
        return not_applicable(NO_SLURM)
    text = subject.facts.need("slurm_version")["text"]
    found = version_in(text)
    if found is None:
        return unknown(f"scontrol --version said {last_word(text)!r}", "see that scontrol works")
    if found < OLDEST_SLURM:
        return degraded(
            text, "older than 22.05, the oldest that is tested", "try a short job with two nodes"
        )
    return ok(text)


def controller(subject: Subject) -> Verdict:
    """Judge whether slurmctld answers."""
    if not subject.slurm:
        return not_applicable(NO_SLURM)
    text = subject.facts.need("slurm_ping")["text"]
    if " is UP" in text:
        return ok(text)
    if UNCONFIGURED in text:
        return broken(
            last_word(text),
            "this machine belongs to no Slurm cluster",
            "log in to a machine of the cluster, or set SLURM_CONF",
        )
    return broken(
        last_word(text) or "no answer",
        "the controller does not answer: no job can be submitted",
        "try again later; 'scontrol ping' tells when it is back",
    )


def accounting(subject: Subject) -> Verdict:
    """Judge whether the accounting database answers for the user's own jobs."""
    if not subject.slurm:
        return not_applicable(NO_SLURM)
    fact = subject.facts.need("slurm_sacct")
    text = last_word(fact["text"])
    if fact["status"] == "0":
        return ok("sacct answers")
    if UNCONFIGURED in text:
        return unknown(f"sacct failed: {text}")
    meaning = (
        "queue wait, restarts and memory as Slurm counts them are known for some minutes after a "
        "job's end only"
    )
    if "storage is disabled" in text:
        return degraded(
            "this cluster has no accounting database",
            meaning,
            "nothing is to be done; analyse a run soon after its end",
        )
    if fact["status"] in ("124", "137"):
        text = "no answer in time"
    return degraded(
        f"sacct failed: {text or 'it said nothing'}",
        f"slurmdbd does not answer; {meaning}",
        "try again later; 'jobmeter analyze' asks again",
    )


def pyslurm(subject: Subject) -> Verdict:
    """Judge pyslurm, which is never needed."""
    if not subject.slurm:
        return not_applicable(NO_SLURM)
    fact = subject.facts.need("pyslurm")
    text = fact["text"]
    if text == "absent":
        return not_applicable("not installed; sacct is asked")
    found = version_in(text) if fact["status"] == "0" else None
    advice = "uninstall it, or install the release that has Slurm's major and minor number"
    if found is None:
        return degraded(
            f"cannot be imported: {text or 'the process ended'}", "sacct is asked instead", advice
        )
    slurm = version_in(subject.facts.need("slurm_version")["text"])
    if slurm is None:
        return unknown(f"{dotted(found)}, and Slurm's version is not known")
    if found[:2] != slurm[:2]:
        return degraded(
            f"{dotted(found)} for Slurm {dotted(slurm)}", "sacct is asked instead", advice
        )
    return ok(dotted(found))


def clock(subject: Subject) -> Verdict:
    """Judge this machine's clock by that of the controller, which tells whole seconds."""
    if not subject.slurm:
        return not_applicable(NO_SLURM)
    fact = subject.facts.need("slurm_clock")
    match = re.search(r"(\d{9,})\s*$", fact["text"])
    if match is None:
        return unknown("the controller does not tell its time")
    controller_ms = int(match[1]) * 1000
    early = controller_ms - int(fact["after_ms"])
    late = controller_ms + 1000 - int(fact["before_ms"])
    return _judged(early, late, "the controller")


def file_clock(subject: Subject) -> Verdict:
    """Judge this machine's clock by the one that stamps files in the folder of the runs."""
    fact = subject.facts.need("file_clock")
    kind = subject.facts.need("folder", role="runs")["kind"]
    if kind not in subject.site.shared_file_systems:
        return not_applicable(f"the runs lie on a file system of this machine ({kind})")
    file_ms = number(fact["file_ms"])
    if file_ms is None:
        return unknown(f"the time of a new file in {fact['path']} is unreadable")
    early = file_ms - int(fact["after_ms"])
    late = file_ms + TICK_MS - int(fact["before_ms"])
    return _judged(early, late, f"the file server of {fact['path']}")


def _judged(early_ms: int, late_ms: int, whose: str) -> Verdict:
    """Return what it means that another clock is ahead by something in ``[early, late]``."""
    least_ms = max(early_ms, -late_ms, 0)
    ahead = "ahead" if early_ms > 0 else "behind"
    if least_ms <= NOTICEABLE_MS:
        return ok(f"{whose} has the same time" if least_ms == 0 else f"{least_ms} ms from {whose}")
    value = f"{whose} is {least_ms / 1000:.1f} s {ahead} at least"
    if least_ms > SKEW_S * 1000:
        return broken(
            value,
            "Slurm's messages are refused when clocks differ by five minutes",
            "tell the administrators that this machine's clock is wrong",
        )
    return degraded(
        value,
        "times of a job from several machines do not fit together",
        "tell the administrators that this machine's clock is wrong",
    )


def discipline(subject: Subject) -> Verdict:
    """Judge whether something keeps this machine's clock right."""
    told = subject.facts.all("clock_discipline")
    for fact in told:
        text = fact["text"]
        if fact["program"] == "chronyc" and "Leap status" in text:
            if "Not synchronised" in text:
                return degraded(
                    "chrony runs and is not synchronised",
                    "times of a job from several machines may not fit together",
                    "tell the administrators",
                )
            return ok("chrony keeps it")
        if text.strip().endswith("=yes"):
            return ok("synchronised, as timedatectl says")
    if told and any(fact["text"].strip().endswith("=no") for fact in told):
        # timedatectl says so, too, where the host of a virtual machine keeps the clock.
        return not_applicable("nothing on this machine keeps its clock")
    return not_applicable("no chrony and no timedatectl that would say")
