"""What can be found out on this machine about a site, without a job; nothing is judged here."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobmeter import slurm
from jobmeter.errors import JobmeterError, ProcessError, SchedulerError
from jobmeter.process import find_program, run
from jobmeter.site import SiteProfile
from jobmeter.site_limits import Partition, Qos
from jobmeter.site_slurm import (
    NODES_COMMAND,
    PARTITIONS_COMMAND,
    QOS_COMMAND,
    partitions_from,
    qos_from,
)
from jobmeter.templating import quoted

SLURM_PROGRAMS = ("sbatch", "srun", "scontrol", "squeue", "sinfo")
PROLOGUE_LIMIT_S = 60.0
_SAID_LIMIT = 200
_MARK = "jobmeter-site-check"


@dataclass(frozen=True)
class Unanswered:
    """What could not be found out, and why."""

    why: str


@dataclass(frozen=True)
class ShellFacts:
    """What a shell finds after the prologue of the site.

    Args:
        failed: The first command of the prologue that failed; None where none did.
        said: What the prologue printed, in one line, the beginning of it.
        programs: Where each program is, by its name in the profile; None where it is not.
    """

    failed: str | None
    said: str
    programs: Mapping[str, str | None]


@dataclass(frozen=True)
class SiteFacts:
    """Everything that was found out.

    Args:
        slurm_programs: Where each is; None where it is not on PATH.
        partitions: What Slurm says, by name.
        qos: What Slurm's accounting says, by name.
        shell: What a shell finds.
        paths: Whether each path of the profile is here; None where a variable in it is not set.
    """

    slurm_programs: Mapping[str, Path | None]
    partitions: Mapping[str, Partition] | Unanswered
    qos: Mapping[str, Qos] | Unanswered
    shell: ShellFacts | Unanswered
    paths: Mapping[str, bool | None]


def gather(site: SiteProfile) -> SiteFacts:
    """Find out what ``judge`` needs; the prologue of the site is run in a shell of its own."""
    batch = site.launcher == "slurm"
    return SiteFacts(
        slurm_programs={name: find_program([name]) for name in SLURM_PROGRAMS if batch},
        partitions=ask_partitions() if batch else {},
        qos=ask_qos() if batch else {},
        shell=_shell(site),
        paths={path: _is_there(path) for path in paths_of(site)},
    )


def needed_programs(site: SiteProfile) -> Mapping[str, Sequence[str]]:
    """Return the names, best first, of what a node needs beside bash, by their names here."""
    runtime = site.runtime
    if runtime.kind == "pyxis":
        return {"srun": ["srun"]}
    if runtime.kind != "native":
        return {runtime.kind: [runtime.program or runtime.kind], "curl": ["curl"]}
    return {
        "prometheus": site.programs.prometheus,
        "node_exporter": site.programs.node_exporter,
        "curl": ["curl"],
    }


def paths_of(site: SiteProfile) -> tuple[str, ...]:
    """Return the folders of images, models and caches and the sources of binds, as they are."""
    images, storage = site.images, site.storage
    folders = [images.folder, images.cache, images.tmp, *storage.models, storage.cache]
    folders += [images.root if images.base == "debian" else None]
    sources = [bind.partition(":")[0] for bind in site.runtime.binds]
    return tuple(dict.fromkeys(path for path in (*folders, *sources) if path))


def would_start(script: str) -> str | None:
    """Return what Slurm says against a batch script, without submitting it; None for nothing."""
    with tempfile.TemporaryDirectory(prefix="jobmeter-") as folder:
        path = Path(folder) / "job.sbatch"
        path.write_text(script, encoding="utf-8")
        try:
            run(slurm.test_command(path), error=SchedulerError)
        except SchedulerError as cause:
            return str(cause)
    return None


def ask_partitions() -> Mapping[str, Partition] | Unanswered:
    """Return what the controller says."""
    try:
        return partitions_from(
            run(PARTITIONS_COMMAND, error=SchedulerError), run(NODES_COMMAND, error=SchedulerError)
        )
    except JobmeterError as cause:
        return Unanswered(str(cause))


def ask_qos() -> Mapping[str, Qos] | Unanswered:
    """Return what the accounting says."""
    try:
        return qos_from(run(QOS_COMMAND, error=SchedulerError))
    except JobmeterError as cause:
        return Unanswered(str(cause))


def _shell(site: SiteProfile) -> ShellFacts | Unanswered:
    needed = needed_programs(site)
    shell = shlex.split(site.shebang[2:])
    try:
        printed = run((*shell, "-c", _script(site, needed)), timeout_s=PROLOGUE_LIMIT_S)
    except ProcessError as cause:
        return Unanswered(str(cause))
    return _shell_facts(printed, tuple(needed))


def _script(site: SiteProfile, needed: Mapping[str, Sequence[str]]) -> str:
    """Return shell text that runs the prologue and then prints a line for each fact."""
    # BASH_COMMAND would name what failed inside the function that module is.
    failed = f"printf '\\n{_MARK} failed %s\\n' \"$PROLOGUE_LINE\""
    lines = ["exec 2>&1", f"trap {quoted(failed)} ERR"]
    for line in site.prologue:
        lines += (f"PROLOGUE_LINE={quoted(line)}", line)
    lines.append(f"trap - ERR; printf '\\n{_MARK} end\\n'")
    for name, candidates in needed.items():
        tries = " || ".join(f"command -v -- {quoted(word)}" for word in candidates)
        lines.append(f"found=$({tries}); printf '{_MARK} program {name} %s\\n' \"$found\"")
    return "\n".join([*lines, "exit 0"])


def _shell_facts(printed: str, names: Sequence[str]) -> ShellFacts | Unanswered:
    """Return the facts of what the shell printed, amid whatever else spoke."""
    before, end, after = printed.partition(f"\n{_MARK} end\n")
    failed = re.search(rf"^{_MARK} failed (.*)$", before, re.MULTILINE)
    lines = [line for line in before.splitlines() if not line.startswith(_MARK)]
    said = " ".join(" ".join(lines).split())[:_SAID_LIMIT]
    if not end:
        return Unanswered(f"the prologue ended the shell{f', saying: {said}' if said else ''}")
    found = dict(re.findall(rf"^{_MARK} program (\S+) (.*)$", after, re.MULTILINE))
    programs = {name: found.get(name) or None for name in names}
    return ShellFacts(failed[1] if failed is not None else None, said, programs)


def _is_there(path: str) -> bool | None:
    expanded = os.path.expandvars(path)
    return None if "$" in expanded else Path(expanded).expanduser().exists()
