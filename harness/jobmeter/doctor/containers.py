"""Judges of the container runtime, and of its images."""

from __future__ import annotations

from pathlib import PurePosixPath

from jobmeter.doctor.facts import Fact, dotted, version_in
from jobmeter.doctor.finding import Verdict, broken, degraded, not_applicable, ok, unknown
from jobmeter.doctor.subject import Subject

NATIVE = "this site runs the stack without containers"
GROUP_SAFE = (1, 4, 5)
"""From here on Apptainer's squashfuse has a process group of its own."""
WITHOUT_SETUID = (1, 1)
"""From here on Apptainer is installed without setuid, and mounts images by squashfuse."""


def program(subject: Subject) -> Verdict:
    """Judge whether the runtime is there, and what its version means."""
    kind = subject.site.runtime.kind
    if subject.native:
        return not_applicable(NATIVE)
    fact = subject.facts.need("runtime")
    name = subject.site.runtime.program or kind
    if not fact["path"]:
        return _without(subject, name)
    if kind == "pyxis":
        return ok("srun has --container-image")
    found = version_in(fact["text"])
    if found is None:
        return unknown(f"{fact['path']} does not tell its version: {fact['text']!r}")
    value = f"{dotted(found)} {fact['path']}"
    if "apptainer" not in fact["text"]:
        return ok(value, "SingularityCE and releases before Apptainer: not tested")
    if found < WITHOUT_SETUID:
        return ok(value, "a release that is installed setuid by default, mounts by the kernel")
    if found < GROUP_SAFE:
        return ok(
            value,
            "a signal to the whole process group (Ctrl-C in an allocation) takes the image away "
            "from the program in it; the job signals single processes",
        )
    return ok(value)


def _without(subject: Subject, name: str) -> Verdict:
    if subject.site.runtime.kind == "pyxis":
        return broken(
            "srun has no option --container-image",
            "the site profile says pyxis, and the plugin is not installed",
            "take another 'runtime' in the site profile",
        )
    if subject.place == "login":
        return subject.elsewhere(f"{name} is not on PATH of this machine")
    return broken(
        f"{name} is not on PATH",
        "no component of the stack can be started",
        "load its module in 'prologue' of the site profile, or name its path under "
        "runtime.program; kind: native does without containers",
    )


def isolation(subject: Subject) -> Verdict:
    """Judge how the runtime gets at an image: setuid, or user namespaces and FUSE."""
    if subject.native or subject.site.runtime.kind == "pyxis":
        return not_applicable(NATIVE if subject.native else "pyxis starts containers by Slurm")
    runtime = subject.facts.need("runtime")
    if runtime["suid"]:
        return ok("installed setuid")
    spaces, fuse = subject.facts.need("user_namespaces"), subject.facts.need("fuse")
    if spaces["status"] == "127" and spaces["most"] != "0":
        return unknown("no 'unshare' to try user namespaces with", "install util-linux")
    if spaces["status"] != "0":
        if subject.place == "login":
            return subject.elsewhere("no user namespaces on this machine")
        return broken(
            f"no user namespaces: {spaces['text']}",
            "a runtime that is not setuid cannot start a container",
            "ask the administrators for user namespaces or a setuid installation",
        )
    if not fuse["usable"]:
        return degraded(
            "user namespaces, but no usable /dev/fuse",
            "images are unpacked into a temporary folder whenever a component starts",
            "ask the administrators for /dev/fuse",
        )
    return ok("user namespaces and FUSE")


def binds(subject: Subject) -> Verdict:
    """Judge whether the paths that containers shall see are there."""
    told = subject.facts.all("bind")
    if not told:
        return not_applicable("the site profile has no binds")
    missing = [fact["source"] for fact in told if not fact["there"]]
    if not missing:
        return ok(", ".join(fact["source"] for fact in told))
    if subject.place == "login":
        return subject.elsewhere(f"{', '.join(missing)} is not on this machine")
    return broken(
        f"missing: {', '.join(missing)}",
        "a container with a bind that is missing does not start",
        "take them out of runtime.binds of the site profile",
    )


def images(subject: Subject) -> Verdict:
    """Judge whether the images are there and are what the lock file says."""
    if subject.native:
        return not_applicable(NATIVE)
    folder = subject.facts.find("images")
    if folder is not None and folder["problem"]:
        advice = _NAME if subject.site.images.folder is None else _BUILD
        return broken(folder["problem"], "no component of the stack has an image", advice)
    told = subject.facts.all("image")
    if not told:
        return _readable(subject)
    amiss = [fact for fact in told if fact["problem"]]
    if amiss:
        others = ", ".join(fact["name"] for fact in amiss[1:])
        return broken(
            amiss[0]["problem"] + (f"; also amiss: {others}" if others else ""),
            "the components in them cannot be started",
            _BUILD,
        )
    return ok(", ".join(_named(fact) for fact in told))


_NAME = (
    "name a folder on project storage as images.folder, in a profile of your own that inherits "
    "from this one (docs/sites.md)"
)
_BUILD = "'jobmeter images build' or 'jobmeter images pull', with the same --site"


def _readable(subject: Subject) -> Verdict:
    if not subject.facts.all("image_file"):
        return not_applicable("this machine was asked for no image")
    unread = [f["file"] for f in subject.facts.all("image_file") if not f["readable"]]
    if unread:
        return broken(
            f"not readable here: {', '.join(unread)}",
            "the components in them cannot be started",
            "put images.folder of the site profile on a file system that compute nodes see",
        )
    return ok(f"{len(subject.facts.all('image_file'))} files can be read here")


def _named(fact: Fact) -> str:
    return f"{fact['name']} {fact['version']}".strip()


def start(subject: Subject) -> Verdict:
    """Judge whether the program in each image can be started as a job starts it."""
    told = subject.facts.all("image_start")
    if not told:
        return not_applicable("no image was tried")
    failed = [fact for fact in told if fact["status"] != "0"]
    if not failed:
        return ok(", ".join(fact["name"] for fact in told))
    names, first = ", ".join(fact["name"] for fact in failed), failed[0]
    said = first["text"][max(0, first["text"].find("FATAL")) :]  # hints and warnings come before
    late = first["status"] in ("124", "137")
    why = "no answer in time" if late else said or f"exit code {first['status']}"
    if subject.place == "login":
        return subject.elsewhere(f"{names}: {why}")
    return broken(
        f"{names}: {why}",
        "these components will not run",
        "see the words above; runtime.options and runtime.binds of the site profile are its own",
    )


def image_folders(subject: Subject) -> Verdict:
    """Judge whether gigabytes of images go into the home."""
    if subject.native:
        return not_applicable(NATIVE)
    home = PurePosixPath(subject.facts.need("folder", role="home")["path"])
    told = {role: subject.facts.find("folder", role=role) for role in ("images", "cache", "tmp")}
    below = [
        f"{role} {fact['path']}"
        for role, fact in told.items()
        if fact is not None and PurePosixPath(fact["path"]).is_relative_to(home)
    ]
    if told["cache"] is None:
        below.append(f"cache (not set, so below {home})")
    if below:
        return degraded(
            f"in the home: {', '.join(below)}",
            "images and their layers take gigabytes of the home's quota",
            "set images.folder, images.cache and images.tmp in the site profile to project storage",
        )
    return ok(", ".join(f"{role} {f['path']}" for role, f in told.items() if f is not None))
