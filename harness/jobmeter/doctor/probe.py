"""The plan of a probe, its scripts, and running it on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobmeter.doctor.facts import Facts, facts_from
from jobmeter.doctor.programs import COMMANDS
from jobmeter.doctor.stack import contained_starts, stack_plan
from jobmeter.doctor.subject import Place
from jobmeter.plan import Plan
from jobmeter.process import run
from jobmeter.runtime import ContainerImage, Start
from jobmeter.site import SiteProfile
from jobmeter.templating import ShellText, path_word, render

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
class ProbePlan:
    """Every decision of the probe's script; paths with ``$NAME`` are words of the shell.

    Args:
        stack: What a job of the site runs.
        runs: Folder in which run directories will be made.
        commands: What the scripts of a job call.
        programs: What the stack is without containers, by its key in the profile.
        runtime_program: Of the containers.
        binds: Sources of the profile's binds.
        images: Files that a node must be able to read, by the name of the image.
        starts: How the containers of the stack are started, by component.
        folders: Where images and what they are made of lie, by role.
        devices_code: What asks our own exporters.
        ask_limit_s: For one question.
        devices_limit_s: For that one.
    """

    stack: Plan
    runs: Path
    commands: tuple[str, ...]
    programs: tuple[tuple[str, tuple[str, ...]], ...]
    runtime_program: ShellText
    binds: tuple[ShellText, ...]
    images: Mapping[str, str]
    starts: Mapping[str, Start]
    folders: tuple[tuple[str, ShellText], ...]
    devices_code: str = _DEVICES
    ask_limit_s: int = ASK_LIMIT_S
    devices_limit_s: int = DEVICES_LIMIT_S


NO_IMAGES: Mapping[str, ContainerImage] = {}


def probe_plan(
    site_name: str,
    site: SiteProfile,
    runs: Path,
    images: Mapping[str, ContainerImage] = NO_IMAGES,
) -> ProbePlan:
    """Return what is to be asked on machines of ``site``.

    Args:
        site_name: As given.
        site: The profile.
        runs: Folder in which run directories will be made.
        images: Those of the stack that are there and whole, by name.
    """
    stack = stack_plan(site_name, site, runs, images)
    store = site.images
    folders = (("images", store.folder), ("cache", store.cache), ("tmp", store.tmp))
    return ProbePlan(
        stack=stack,
        runs=runs.absolute(),
        commands=COMMANDS,
        programs=()
        if stack.contained
        else tuple((name, tuple(getattr(site.programs, name))) for name in _stack_programs(site)),
        runtime_program=path_word(site.runtime.program_name),
        binds=tuple(path_word(bind.partition(":")[0]) for bind in site.runtime.binds),
        images={name: image.file for name, image in images.items()},
        starts=contained_starts(stack, images),
        folders=tuple((role, path_word(path)) for role, path in folders if path is not None),
    )


def _stack_programs(site: SiteProfile) -> tuple[str, ...]:
    return tuple(type(site.programs).model_fields)


def render_probe(plan: ProbePlan) -> str:
    """Return the script that gathers the facts of one machine.

    Raises:
        RenderError: the template asks for something the plan does not have.
    """
    return render("sbatch", "probe.sh.j2", {"probe": plan, "plan": plan.stack})


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
