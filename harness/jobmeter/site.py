"""Site profiles: everything that differs between clusters, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from jobmeter import strict
from jobmeter.errors import SiteError
from jobmeter.runtime import Architecture, ImageStore, RuntimeProfile, Vendor
from jobmeter.site_files import MergedProfile, ProfileFile, find, merge_chain
from jobmeter.site_limits import Partition, Qos
from jobmeter.spec import Line, Lines, SbatchOption, TimeLimit


class PortRange(strict.StrictModel):
    """Ports that the stack may take, both ends included; below the ephemeral range of Linux."""

    first: int = Field(default=20000, ge=1024, le=65535)
    last: int = Field(default=31999, ge=1024, le=65535)


class Programs(strict.StrictModel):
    """Names under which the programs may be found on PATH of a compute node, best first."""

    prometheus: list[Line] = Field(default_factory=lambda: ["prometheus"], min_length=1)
    node_exporter: list[Line] = Field(
        default_factory=lambda: ["node_exporter", "prometheus-node-exporter"], min_length=1
    )
    dcgm_exporter: list[Line] = Field(default_factory=lambda: ["dcgm-exporter"], min_length=1)


class Storage(strict.StrictModel):
    """Where large files lie that outlive a job; ``$NAME`` is read on the node.

    Args:
        models: Folders in which services look for models, best first.
        cache: Folder for what services download or compile, outside the home's quota.
    """

    models: Lines = Field(default_factory=list)
    cache: Line | None = None


class Defaults(strict.StrictModel):
    """What the job file need not say on this site."""

    time: TimeLimit | None = None
    account: Line | None = None
    partition: Line | None = None
    qos: Line | None = None


def _checked_gpu_option(text: str) -> str:
    if re.fullmatch(r"--[a-z-]+=[A-Za-z0-9:_]*\{count\}", text) is None:
        raise ValueError(
            f"{text!r} must be an sbatch option with {{count}}, as '--gres=gpu:{{count}}'"
        )
    return text


class SiteProfile(strict.StrictModel):
    """One cluster, or a machine without a batch system.

    Args:
        launcher: ``slurm`` submits the script, ``bash`` runs it here.
        inherits: The profile that this one changes: a name, or the path of a file.
        shebang: First line of the script; a login shell where modules need one.
        prologue: Lines of the user's environment: module commands and the like.
        mandatory: What a request must name here, in the job file or in ``defaults``.
        options: sbatch options of every job.
        gpu_option: How GPUs are asked for; ``{count}`` is their number per node.
        step_options: srun options of the step that runs the exporters, beside our own.
        warning_s: How long before the time limit Slurm warns the script, in seconds.
        address_suffix: Appended to a node's name to get its address on the fast network.
        scratch: Folders that may be local to a node, best first; ``$NAME`` is read there.
        scratch_bytes: Free bytes that the recording needs.
        shared_file_systems: Types (as ``stat -f`` prints them) where Prometheus must not write.
        programs: Names of the programs.
        ports: Ports that the stack may take.
        runtime: How the stack is put into containers.
        images: Where those images lie.
        storage: Where models and caches of services lie.
        vendor: Of the accelerators; ``none`` leaves it to what a node finds.
        offline: Whether compute nodes cannot reach the internet.
        login: The login node from outside, with its port if that is another: for a tunnel.
        architecture: Of the compute nodes.
        partitions: What is known of each; with ``"*"`` there are others.
        qos: What is known of each; with ``"*"`` there are others.
    """

    description: Line
    launcher: Literal["slurm", "bash"]
    inherits: Line | None = None
    shebang: Annotated[Line, Field(pattern=r"^#!/")] = "#!/bin/bash"
    prologue: list[Line] = Field(default_factory=list)
    mandatory: list[Literal["time", "account", "partition", "qos"]] = Field(default_factory=list)
    defaults: Defaults = Field(default_factory=Defaults)
    options: list[SbatchOption] = Field(default_factory=list)
    gpu_option: Annotated[str, AfterValidator(_checked_gpu_option)] = "--gpus-per-node={count}"
    step_options: list[SbatchOption] = Field(default_factory=list)
    warning_s: int = Field(default=30, ge=0, le=3600)
    address_suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]*$")] = ""
    scratch: list[Line] = Field(
        default_factory=lambda: ["$SLURM_TMPDIR", "$TMPDIR", "/tmp", "/dev/shm"],  # noqa: S108
        min_length=1,
    )
    scratch_bytes: int = Field(default=256 * 1024**2, ge=0)
    shared_file_systems: list[Line] = Field(
        default_factory=lambda: ["nfs", "lustre", "gpfs", "beegfs", "ceph", "fhgfs", "panfs", "afs"]
    )
    programs: Programs = Field(default_factory=Programs)
    ports: PortRange = Field(default_factory=PortRange)
    runtime: RuntimeProfile = Field(default_factory=RuntimeProfile)
    images: ImageStore = Field(default_factory=ImageStore)
    storage: Storage = Field(default_factory=Storage)
    vendor: Vendor = "none"
    offline: bool = False
    login: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]+)?$")] | None = None
    architecture: Architecture = "x86_64"
    partitions: dict[str, Partition] = Field(default_factory=dict)
    qos: dict[str, Qos] = Field(default_factory=dict)


@dataclass(frozen=True)
class ResolvedSite:
    """A site profile, and which file said what in it.

    Args:
        name: As it was asked for.
        profile: What holds.
        merged: The values that files gave, and which ones; everything else is a default.
    """

    name: str
    profile: SiteProfile
    merged: MergedProfile


def resolve_site(name: str, job_dir: Path | None = None) -> ResolvedSite:
    """Return the profile called ``name``, or the one in the file ``name`` when it ends in .yaml.

    Args:
        name: What follows ``--site``.
        job_dir: Folder of the job file, beside which profiles may lie.

    Raises:
        SiteError: there is none, or it is wrong.
    """
    return resolve_file(find(name, job_dir))


def resolve_file(file: ProfileFile) -> ResolvedSite:
    """Return the profile in ``file``.

    Raises:
        SiteError: it is wrong.
    """
    merged = merge_chain(file)
    profile = strict.validate(
        SiteProfile, merged.data, lambda path: str(merged.origin(path)), SiteError
    )
    return ResolvedSite(file.name, profile, merged)


def read_site(name: str, job_dir: Path | None = None) -> SiteProfile:
    """Return the profile alone, of what :func:`resolve_site` finds."""
    return resolve_site(name, job_dir).profile
