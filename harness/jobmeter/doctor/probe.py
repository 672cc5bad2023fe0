"""The plan of a probe, its scripts, and running it on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobmeter import __version__
from jobmeter.doctor.facts import Facts, facts_from
from jobmeter.doctor.programs import COMMANDS
from jobmeter.doctor.subject import Place
from jobmeter.process import run
from jobmeter.runtime import RuntimeKind
from jobmeter.site import PortRange, SiteProfile
from jobmeter.templating import ShellText, path_word, quoted, render

ASK_LIMIT_S = 10
DEVICES_LIMIT_S = 20
HERE_LIMIT_S = 300.0
"""More than all limits of single questions together, of which few are ever reached."""

_DEVICES = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "import jobmeter.doctor.devices as d; d.main(sys.argv[1:])"
)
"""Not -m: that would put the folder in which the user happens to stand before all others."""


@dataclass(frozen=True)
class ImageFile:
    """An image that a node must be able to read, and the program in it."""

    name: str
    file: str
    program: str


@dataclass(frozen=True)
class ProbePlan:
    """Every decision the probe's script needs; paths with ``$NAME`` are words of the shell."""

    jobmeter_version: str
    runs: Path
    python: str
    ports: PortRange
    scratch: tuple[str, ...]
    commands: tuple[str, ...]
    programs: tuple[tuple[str, tuple[str, ...]], ...]
    runtime_kind: RuntimeKind
    runtime_program: ShellText
    binds: tuple[ShellText, ...]
    images: tuple[ImageFile, ...]
    image_words: tuple[str, ...]
    folders: tuple[tuple[str, ShellText], ...]
    address_suffix: str
    devices_code: str = _DEVICES
    ask_limit_s: int = ASK_LIMIT_S
    devices_limit_s: int = DEVICES_LIMIT_S


def probe_plan(site: SiteProfile, runs: Path, images: tuple[ImageFile, ...] = ()) -> ProbePlan:
    """Return what is to be asked on machines of ``site``.

    Args:
        site: The profile.
        runs: Folder in which run directories will be made.
        images: The images that the stack needs there.
    """
    kind, store = site.runtime.kind, site.images
    folders = (("images", store.folder), ("cache", store.cache), ("tmp", store.tmp))
    return ProbePlan(
        jobmeter_version=__version__,
        runs=runs.absolute(),
        python=sys.executable,
        ports=site.ports,
        scratch=tuple(site.scratch),
        commands=COMMANDS,
        programs=()
        if kind != "native"
        else tuple((name, tuple(getattr(site.programs, name))) for name in _stack_programs(site)),
        runtime_kind=kind,
        runtime_program=path_word(site.runtime.program or kind),
        binds=tuple(path_word(bind.partition(":")[0]) for bind in site.runtime.binds),
        images=images,
        image_words=_image_words(site),
        folders=tuple((role, path_word(path)) for role, path in folders if path is not None),
        address_suffix=site.address_suffix,
    )


def _image_words(site: SiteProfile) -> tuple[str, ...]:
    """Return the words between the runtime and an image; none where Slurm starts containers."""
    if site.runtime.kind not in ("apptainer", "singularity"):
        return ()
    binds = (f"--bind={_bind_word(bind)}" for bind in site.runtime.binds)
    words = ("exec", "--cleanenv", "--no-home", *site.runtime.options)
    return (*(quoted(word) for word in words), *binds)


def _bind_word(bind: str) -> str:
    source, colon, rest = bind.partition(":")
    return f"{path_word(source)}{quoted(colon + rest) if rest else ''}"


def _stack_programs(site: SiteProfile) -> tuple[str, ...]:
    return tuple(type(site.programs).model_fields)


def render_probe(plan: ProbePlan) -> str:
    """Return the script that gathers the facts of one machine.

    Raises:
        RenderError: the template asks for something the plan does not have.
    """
    return render("sbatch", "probe.sh.j2", {"plan": plan})


def place_here(site: SiteProfile, environment: Mapping[str, str] = os.environ) -> Place:
    """Return what this machine is for: without Slurm, or inside an allocation, for everything."""
    inside = "SLURM_JOB_ID" in environment and "SLURMD_NODENAME" in environment
    return "both" if site.launcher == "bash" or inside else "login"


def probe_here(plan: ProbePlan, place: Place) -> Facts:
    """Return the facts of this machine.

    Raises:
        ProcessError: there is no bash, or it did not come to an end.
    """
    command = ("bash", "-c", render_probe(plan), "probe.sh", place, "-")
    return facts_from(run(command, timeout_s=HERE_LIMIT_S), "this machine")
