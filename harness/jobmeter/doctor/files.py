"""Judges of folders: the runs, the home, the scratch of a node."""

from __future__ import annotations

from jobmeter.doctor.facts import Fact, number, size
from jobmeter.doctor.finding import Verdict, broken, degraded, not_applicable, ok, unknown
from jobmeter.doctor.subject import Subject

MEMORY = frozenset({"tmpfs", "ramfs"})
OTHERS_MAY_WRITE = 0o022
STICKY = 0o1000
HOME_BYTES = 64 * 2**20


def runs(subject: Subject) -> Verdict:
    """Judge whether run directories can be made, and who else may change them."""
    fact = subject.facts.need("folder", role="runs")
    where = fact["path"] if fact["there"] else f"{fact['path']} (below {fact['nearest']})"
    free, files = number(fact["free_bytes"]), number(fact["free_files"])
    if fact.get("blocked"):
        return broken(
            f"{fact['path']}: {fact['blocked']} is a file",
            "no run directory can be made",
            "choose another folder with --runs",
        )
    if not fact["writable"]:
        return broken(
            f"{where} may not be written",
            "no run directory can be made",
            "choose another folder with --runs",
        )
    if free is None:
        return unknown(f"{where}: its file system does not tell what is free")
    value = f"{where}: {fact['kind']}, {size(free)} free"
    if free < subject.site.scratch_bytes or files == 0:
        lacking = "no more files can be made" if files == 0 else "little space"
        return broken(
            value,
            f"{lacking}: a recording needs {size(subject.site.scratch_bytes)}",
            "make room, or choose another folder with --runs",
        )
    mode = int(fact["mode"] or "0", 8)
    if mode & OTHERS_MAY_WRITE and not mode & STICKY:
        return degraded(
            f"{value}, mode {fact['mode']}",
            "others may rename or remove run directories, though not read them",
            f"chmod go-w {fact['nearest']}",
        )
    return ok(value)


def home(subject: Subject) -> Verdict:
    """Judge what is left of the home's quota, as far as a cheap question tells."""
    fact = subject.facts.need("folder", role="home")
    free, quota = number(fact["free_bytes"]), subject.facts.find("quota")
    if quota is not None and quota["text"] and quota["status"] in ("0", "1"):
        return degraded(
            f"over a limit: {quota['text']}",
            "what the payload writes there may fail",
            "make room in the home",
        )
    if free is None:
        return unknown(f"{fact['path']}: its file system does not tell what is free")
    value = f"{fact['path']}: {fact['kind']}, {size(free)} free"
    if free < HOME_BYTES:
        return degraded(value, "what the payload writes there may fail", "make room in the home")
    return ok(value if quota is not None else f"{value}; no quota program to ask")


def umask(subject: Subject) -> Verdict:
    """Judge what the user's own files look like to others; ours are private in any case."""
    text = subject.facts.need("host")["umask"]
    if not int(text or "777", 8) & 0o002:
        return degraded(
            text,
            "everybody may change the files that the payload writes",
            "umask 022, or 077, in your shell's profile",
        )
    return ok(text)


def scratch(subject: Subject) -> Verdict:
    """Judge where the recording lies while the job runs: the first folder that will do."""
    subject.facts.need("scratch")
    told = subject.facts.all("scratch")
    chosen = next((fact for fact in told if _objection(fact, subject) is None), None)
    if chosen is None:
        return broken(
            "; ".join(f"{_called(fact)}: {_objection(fact, subject)}" for fact in told),
            "no folder of this node is fit for the recording",
            "add a folder on a local disk to 'scratch' of the site profile",
        )
    free = int(chosen["free_bytes"])
    value = f"{_called(chosen)}: {chosen['kind']}, {size(free)} free"
    if chosen["kind"] in MEMORY:
        return ok(value, "memory: what the recording takes counts as the job's")
    return ok(value)


def _called(fact: Fact) -> str:
    candidate, path = fact["candidate"], fact["path"]
    return candidate if path in ("", candidate) else f"{candidate} = {path}"


def _objection(fact: Fact, subject: Subject) -> str | None:
    """Return why the recording will not lie there; None where it may. As the job decides it."""
    free = number(fact["free_bytes"])
    if not fact["path"]:
        return "not set"
    if not fact["there"]:
        return "missing"
    if not fact["writable"]:
        return "may not be written"
    if fact["kind"] in subject.site.shared_file_systems:
        return f"{fact['kind']} is no file system of the node alone"
    if free is None:
        return "does not tell what is free"
    if free < subject.site.scratch_bytes:
        return f"{size(free)} free of {size(subject.site.scratch_bytes)} needed"
    return None


def private_tmp(subject: Subject) -> Verdict:
    """Judge whether /tmp is of the job alone."""
    subject.facts.need("scratch")  # told at the same time
    mounts = subject.facts.all("tmp_mount")  # the last one is what is seen
    if not mounts or mounts[-1]["root"] == "/":
        return not_applicable("shared by all on this machine; our folders in it are private")
    return ok(f"a folder of its own: {mounts[-1]['root']}", "of this job alone, gone at its end")
