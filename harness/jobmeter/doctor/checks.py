"""The table of checks. Adding one is a judge and one entry; docs/doctor.md says what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobmeter.doctor import containers, files, machine, network, profile, programs, slurm
from jobmeter.doctor.facts import Untold
from jobmeter.doctor.finding import Finding, Verdict, unknown
from jobmeter.doctor.subject import Judge, Place, Subject


@dataclass(frozen=True)
class Check:
    """One question.

    Args:
        area: What it is about.
        name: Which, within the area.
        where: Of which machines it is asked; ``both`` means of each.
        judge: From facts to a verdict.
    """

    area: str
    name: str
    where: Place
    judge: Judge


PROBE = Check("site", "probe", "both", profile.probe)
"""Of a machine that told nothing it is the only question."""

CHECKS = (
    PROBE,
    Check("site", "architecture", "both", profile.architecture),
    Check("site", "prologue", "node", profile.prologue),
    Check("slurm", "commands", "login", slurm.commands),
    Check("slurm", "version", "login", slurm.version),
    Check("slurm", "controller", "login", slurm.controller),
    Check("slurm", "accounting", "login", slurm.accounting),
    Check("slurm", "pyslurm", "login", slurm.pyslurm),
    Check("clock", "controller", "login", slurm.clock),
    Check("clock", "files", "both", slurm.file_clock),
    Check("clock", "kept", "both", slurm.discipline),
    Check("runtime", "program", "both", containers.program),
    Check("runtime", "isolation", "both", containers.isolation),
    Check("runtime", "binds", "both", containers.binds),
    Check("images", "files", "both", containers.images),
    Check("images", "start", "both", containers.start),
    Check("images", "folders", "login", containers.image_folders),
    Check("programs", "bash", "node", programs.bash),
    Check("programs", "curl", "node", programs.curl),
    Check("programs", "commands", "node", programs.commands),
    Check("programs", "python", "node", programs.python),
    Check(
        "programs",
        "prometheus",
        "node",
        programs.of_stack("prometheus", (2, 42), "nothing can be recorded"),
    ),
    Check(
        "programs",
        "node_exporter",
        "node",
        programs.of_stack("node_exporter", (1, 5), "nothing of the node is recorded"),
    ),
    Check("programs", "dcgm_exporter", "node", programs.dcgm_exporter),
    Check("files", "runs", "both", files.runs),
    Check("files", "home", "both", files.home),
    Check("files", "umask", "login", files.umask),
    Check("scratch", "folder", "node", files.scratch),
    Check("scratch", "private_tmp", "node", files.private_tmp),
    Check("network", "ports", "node", network.ports),
    Check("network", "listeners", "node", network.listeners),
    Check("network", "names", "node", network.names),
    Check("network", "fabric", "node", network.fabric),
    Check("network", "proxies", "both", network.proxies),
    Check("machine", "cgroup", "node", machine.cgroup),
    Check("machine", "rapl", "node", machine.rapl),
    Check("devices", "nvidia", "node", machine.nvidia),
    Check("devices", "nvml", "node", machine.nvml),
    Check("devices", "profiling", "node", machine.profiling),
    Check("devices", "persistence", "node", machine.persistence),
    Check("devices", "gaudi", "node", machine.gaudi),
    Check("devices", "amd", "node", machine.amd),
)


def findings_of(subject: Subject, checks: Sequence[Check] = CHECKS) -> tuple[Finding, ...]:
    """Return what each check says that is asked of a machine of this place."""
    if not subject.facts.told:
        return (_finding(subject, PROBE),)
    asked = [c for c in checks if "both" in (c.where, subject.place) or c.where == subject.place]
    return tuple(_finding(subject, check) for check in asked)


def _finding(subject: Subject, check: Check) -> Finding:
    verdict = _judged(subject, check)
    return Finding(
        host=subject.facts.host,
        area=check.area,
        name=check.name,
        state=verdict.state,
        value=verdict.value,
        meaning=verdict.meaning,
        advice=verdict.advice,
    )


def _judged(subject: Subject, check: Check) -> Verdict:
    """Return the verdict; a probe that told too little, or nonsense, makes it unknown."""
    try:
        return check.judge(subject)
    except Untold as what:
        ended = "" if subject.facts.complete else ", which did not come to its end"
        return unknown(f"the probe said nothing of {what}{ended}")
    except (KeyError, ValueError) as problem:
        return unknown(f"the probe's words are not understood: {problem}")


def by_check(findings: Sequence[Finding]) -> Mapping[str, tuple[Finding, ...]]:
    """Return the findings of all machines by check, in the order of the table."""
    grouped: dict[str, list[Finding]] = {}
    for check in CHECKS:
        grouped[f"{check.area}.{check.name}"] = []
    for finding in findings:
        grouped.setdefault(finding.check, []).append(finding)
    return {name: tuple(found) for name, found in grouped.items() if found}
