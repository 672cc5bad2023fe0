"""Judges of the programs that a job needs on a node."""

from __future__ import annotations

from collections.abc import Sequence

from jobmeter.doctor.facts import dotted, version_in
from jobmeter.doctor.finding import Verdict, broken, degraded, not_applicable, ok, unknown
from jobmeter.doctor.subject import Judge, Subject

OLDEST_BASH = (4, 4)
OPTION_UNKNOWN = ("1", "2", "3", "4")
"""What curl ends with when it does not have a protocol, an option, a form of URL or a feature."""

COMMANDS = (
    *(
        "cat",
        "cmp",
        "cp",
        "date",
        "env",
        "flock",
        "grep",
        "head",
        "mkdir",
        "mkfifo",
        "mktemp",
        "mv",
    ),
    *("renice", "rm", "setsid", "sleep", "sort", "stat", "tail", "timeout"),
)
"""What the rendered scripts call beside curl: coreutils, diffutils, util-linux, grep."""


def bash(subject: Subject) -> Verdict:
    """Judge the version of bash."""
    text = subject.facts.need("bash")["version"]
    found = version_in(text)
    if found is None:
        return unknown(f"its version is unreadable: {text!r}")
    if found < OLDEST_BASH:
        return broken(
            text,
            "the scripts of a job need 4.4",
            "put a newer bash on PATH and name it in 'shebang' of the site profile",
        )
    return ok(text)


def curl(subject: Subject) -> Verdict:
    """Judge whether curl is there and understands how the job calls it."""
    if not subject.facts.need("curl")["path"]:
        return broken(
            "not on PATH",
            "nothing can be asked of exporters: no edge of a phase, no readiness",
            "install it, or add its module to 'prologue' of the site profile",
        )
    version = subject.facts.need("curl_version")["text"].split(" (")[0]
    trial = subject.facts.need("curl_options")
    if trial["status"] in OPTION_UNKNOWN:
        return broken(
            f"{version}: {trial['text']}",
            "it does not understand an option of the job's scripts",
            "put a newer curl on PATH",
        )
    return ok(version)


def commands(subject: Subject) -> Verdict:
    """Judge the small commands of the scripts."""
    subject.facts.need("command")
    missing = [fact["name"] for fact in subject.facts.all("command") if not fact["path"]]
    coreutils = subject.facts.need("coreutils")["text"]
    if missing:
        return broken(
            f"not on PATH: {', '.join(missing)}",
            "the scripts of a job call them",
            "install coreutils, diffutils, util-linux and grep",
        )
    if "GNU coreutils" not in coreutils and "uutils" not in coreutils:
        return broken(
            f"stat --version says {coreutils or 'nothing'}",
            "the scripts of a job need the long options of GNU coreutils",
            "put GNU coreutils first on PATH",
        )
    return ok(coreutils.removeprefix("stat ").strip("()").replace(") ", " "))


def python(subject: Subject) -> Verdict:
    """Judge whether the Python that runs jobmeter can be run here."""
    fact = subject.facts.need("python")
    if fact["status"] == "0":
        return ok(f"{fact['text']} {fact['path']}")
    found = "is not here" if fact["status"] == "missing" else f"cannot be run: {fact['text']}"
    lost = "no table at the end of the job's output"
    if subject.native:
        lost = f"no exporters of ours (job, GPUs, logs), and {lost}"
    return degraded(
        f"{fact['path']} {found}",
        lost,
        "install jobmeter into an environment on a file system that compute nodes see",
    )


def of_stack(program: str, oldest: Sequence[int], without: str) -> Judge:
    """Return the judge of a program of the stack.

    Args:
        program: Its name in the site profile.
        oldest: The oldest version that works.
        without: What is lost without it.
    """

    def judge(subject: Subject) -> Verdict:
        if not subject.native:
            return not_applicable("it comes in an image")
        fact = subject.facts.need("stack_program", name=program)
        names = " or ".join(getattr(subject.site.programs, program))
        if not fact["path"]:
            return broken(
                f"{names} is not on PATH",
                without,
                f"install it in a folder that the nodes see, and name its path under "
                f"programs.{program} of the site profile",
            )
        found = version_in(fact["text"])
        if found is None:
            return unknown(f"{fact['path']} does not tell its version: {fact['text']!r}")
        if found < tuple(oldest):
            return broken(
                f"{dotted(found)} {fact['path']}",
                f"{dotted(tuple(oldest))} or newer is needed",
                "install a newer one from the project's release page",
            )
        return ok(f"{dotted(found)} {fact['path']}")

    return judge


def dcgm_exporter(subject: Subject) -> Verdict:
    """Judge dcgm-exporter, which a job file may ask for."""
    if not subject.native:
        return not_applicable("it comes in an image")
    fact = subject.facts.need("stack_program", name="dcgm_exporter")
    if not fact["path"]:
        return not_applicable("not on PATH; GPUs are read through NVML instead")
    return ok(fact["path"])
