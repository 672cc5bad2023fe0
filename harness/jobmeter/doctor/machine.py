"""Judges of what can be measured on a node: control groups, energy, GPUs and Gaudis."""

from __future__ import annotations

import re

from jobmeter.doctor.facts import version_in
from jobmeter.doctor.finding import Verdict, broken, degraded, not_applicable, ok, unknown
from jobmeter.doctor.subject import Subject

PROFILED_BY_ALL = 9
"""From Hopper (compute capability 9.0) on GPM gives activity to everybody."""

NO_NVIDIA = "no NVIDIA GPU on this machine"


def cgroup(subject: Subject) -> Verdict:
    """Judge whether the job has a control group that accounts what it uses."""
    fact = subject.facts.need("cgroup")
    version = "v2" if fact["kind"] == "cgroup2fs" else "v1" if fact["kind"] == "tmpfs" else ""
    if not subject.facts.need("host")["job"]:
        return not_applicable(f"cgroup {version or '?'}, and this is no Slurm job")
    seen = subject.facts.find("exporter", name="cgroup")
    sources = seen["sources"].split() if seen is not None else []
    own = "process_tree" not in sources if sources else _names_a_job(fact["path"])
    if own:
        return ok(f"cgroup {version}: {' '.join(sources) or _shortest(fact['path'])}")
    return degraded(
        f"cgroup {version or '?'}: none of this job's own",
        "CPU time and memory of the job come from its processes: what ends unseen is missing",
        "nothing is to be done as a user; administrators: ProctrackType=proctrack/cgroup and "
        "JobAcctGatherType=jobacct_gather/cgroup",
    )


def _names_a_job(paths: str) -> bool:
    """Whether the text of ``/proc/self/cgroup`` has the group of a job, by its id or SLUID.

    >>> _names_a_job("0::/slurm/uid_1/job_12/step_0"), _names_a_job("0::/user.slice")
    (True, False)
    """
    return re.search(r"/job_\d+|/slurm[^/]*/.*s[0-9A-Z]{13}\b", paths) is not None


def _shortest(paths: str) -> str:
    return min((part for part in paths.split() if "/" in part), key=len, default=paths)


def rapl(subject: Subject) -> Verdict:
    """Judge whether the energy counters of the processors can be read."""
    subject.facts.need("cgroup")  # told at the same time
    told = subject.facts.all("rapl")
    if not told:
        return not_applicable("this machine has no RAPL counters")
    unread = [fact["path"] for fact in told if not fact["readable"]]
    if unread:
        return degraded(
            f"{len(unread)} of {len(told)} counters may not be read",
            "energy of processors and memory is not measured",
            "administrators: allow reading /sys/class/powercap/*/energy_uj",
        )
    return ok(f"{len(told)} counters")


def nvidia(subject: Subject) -> Verdict:
    """Judge the NVIDIA GPUs and their driver."""
    fact = subject.facts.need("nvidia")
    gpus = subject.facts.all("gpu")
    if fact["devices"] == "0":
        wanted = subject.gpus_per_node and subject.site.vendor in ("nvidia", "none")
        others = subject.facts.need("gaudi")["devices"] != "0" or subject.facts.need("amd")["there"]
        if wanted and not others:
            return broken(
                f"no device, though {subject.gpus_per_node} per node were asked for",
                "nothing of GPUs will be recorded",
                "ask for another partition, or see 'gpu_option' of the site profile",
            )
        return not_applicable(NO_NVIDIA)
    failed = subject.facts.find("nvidia_smi")
    if failed is not None:
        return broken(
            f"nvidia-smi failed: {failed['text']}",
            "the driver does not answer",
            "tell the administrators, or exclude this node",
        )
    if not gpus:
        return degraded(
            f"{fact['devices']} devices, and no nvidia-smi",
            "which GPUs they are cannot be told before NVML is asked",
            "put nvidia-smi on PATH",
        )
    kinds = sorted({gpu["name"] for gpu in gpus})
    if len(gpus) < subject.gpus_per_node:
        return broken(
            f"{len(gpus)} x {', '.join(kinds)}, and {subject.gpus_per_node} were asked for",
            "a GPU is missing",
            "tell the administrators, or exclude this node",
        )
    return ok(f"{len(gpus)} x {', '.join(kinds)}, driver {gpus[0]['driver']}")


def nvml(subject: Subject) -> Verdict:
    """Judge whether our exporter can read the GPUs."""
    if subject.facts.need("nvidia")["devices"] == "0":
        return not_applicable(NO_NVIDIA)
    return _by_exporter(subject, "nvidia", "GPUs", "DCGM on this node is the only source of them")


def _by_exporter(subject: Subject, name: str, devices: str, lost: str) -> Verdict:
    fact = subject.facts.find("exporter", name=name)
    if fact is None:
        return unknown(
            "our exporter could not be tried without Python", "see programs.python above"
        )
    if fact["problem"]:
        return degraded(fact["problem"], lost, "see the words above; 'jobmeter exporter' tries it")
    via = f" by {fact['sources']}" if fact["sources"] else ""
    return ok(f"{fact['devices']} {devices}, {fact['families']} families of metrics{via}")


def profiling(subject: Subject) -> Verdict:
    """Judge whether activity of the GPUs' parts may be read by a user."""
    if subject.facts.need("nvidia")["devices"] == "0":
        return not_applicable(NO_NVIDIA)
    capability = subject.facts.find("gpu_capability")
    if capability is not None and _least(capability["text"]) >= PROFILED_BY_ALL:
        return ok("through GPM, for everybody")
    fact = subject.facts.find("nvidia_profiling")
    if fact is None:
        return unknown("/proc/driver/nvidia/params does not tell RmProfilingAdminOnly")
    if fact["admin_only"] != "0":
        return degraded(
            f"RmProfilingAdminOnly: {fact['admin_only']}",
            "no DCGM_FI_PROF_*: how busy tensor cores and memory are is not recorded",
            "administrators: NVreg_RestrictProfilingToAdminUsers=0",
        )
    return ok("RmProfilingAdminOnly: 0")


def _least(text: str) -> int:
    """Return the smallest of the major numbers in a list of compute capabilities; 0 for none.

    >>> _least("9.0 8.0"), _least("N/A")
    (8, 0)
    """
    found = (version_in(word) for word in text.split())
    return min((version[0] for version in found if version is not None), default=0)


def persistence(subject: Subject) -> Verdict:
    """Judge persistence mode, without which an idle GPU forgets its counters."""
    if subject.facts.need("nvidia")["devices"] == "0":
        return not_applicable(NO_NVIDIA)
    gpus = subject.facts.all("gpu")
    if not gpus:
        return unknown("nvidia-smi does not tell")
    off = [gpu["index"] for gpu in gpus if gpu["persistence"] != "Enabled"]
    if off:
        return degraded(
            f"off on GPU {', '.join(off)}",
            "a GPU that nobody uses forgets its energy counter, and its first use takes seconds",
            "administrators: run nvidia-persistenced",
        )
    return ok("on")


def gaudi(subject: Subject) -> Verdict:
    """Judge the Gaudi devices."""
    fact = subject.facts.need("gaudi")
    if fact["devices"] == "0" and not fact["module"]:
        if subject.site.vendor == "gaudi" and subject.gpus_per_node:
            return broken(
                f"no device, though {subject.gpus_per_node} per node were asked for",
                "nothing of Gaudis will be recorded",
                "see 'gpu_option' of the site profile",
            )
        return not_applicable("no Gaudi on this machine")
    return _by_exporter(subject, "hl-smi", "Gaudis", "nothing of Gaudis will be recorded")


def amd(subject: Subject) -> Verdict:
    """Tell that GPUs of AMD are not measured."""
    if not subject.facts.need("amd")["there"]:
        return not_applicable("no AMD GPU on this machine")
    return degraded(
        "/dev/kfd is there",
        "there is no exporter for GPUs of AMD yet",
        "nothing is to be done: all else is recorded",
    )
