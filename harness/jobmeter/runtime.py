"""The runtime table: what stands before a program so that it runs in its container.

There are four kinds: ``apptainer``, ``singularity``, ``pyxis``, and ``native`` for none. All words
are decided here; the templates only lay them out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from jobmeter import strict
from jobmeter.spec import Line
from jobmeter.templating import ShellText, path_word, quoted

RuntimeKind = Literal["native", "apptainer", "singularity", "pyxis"]
Vendor = Literal["nvidia", "amd", "gaudi", "none"]
Architecture = Literal["x86_64", "aarch64"]

_BIND = re.compile(r"[/$][^:,]*(:/[^:,]*(:(ro|rw))?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def _checked_bind(text: str) -> str:
    if "\n" in text or _BIND.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is not a bind; write 'source', 'source:target' or 'source:target:ro' with "
            "absolute paths, of which the source may begin with '$NAME'"
        )
    return text


def _checked_variable(text: str) -> str:
    if _VARIABLE.fullmatch(text) is None:
        raise ValueError(
            f"{text!r} is not the name of a variable; write names alone, their values are taken "
            "from the environment of the job"
        )
    return text


Bind = Annotated[str, AfterValidator(_checked_bind)]
VariableName = Annotated[str, AfterValidator(_checked_variable)]


class RuntimeProfile(strict.StrictModel):
    """How the stack is put into containers on a site.

    Args:
        kind: Which runtime; ``native`` takes the programs from PATH of the node.
        program: Its name on PATH of a compute node, or its path there; the kind's name by default.
        options: Words after ``exec``, or after ``srun`` for pyxis.
        binds: Paths of the node that the containers see beside ours: ``source[:target[:ro|rw]]``.
        environment: Variables of the job that pass into the containers beside ours.
    """

    kind: RuntimeKind = "native"
    program: Line | None = None
    options: list[Line] = Field(default_factory=list)
    binds: list[Bind] = Field(default_factory=list)
    environment: list[VariableName] = Field(default_factory=list)

    @property
    def program_name(self) -> str:
        """What is looked for on a node."""
        return self.program or _TABLE[self.kind].program


class ImageStore(strict.StrictModel):
    """Where the images of a site lie, and from what they are built.

    Args:
        folder: Of the SIF files; ``$NAME`` is read where it is used.
        cache: Of layers that were pulled, outside the home's quota.
        tmp: Where images are unpacked while they are built.
        base: What they are built from: a vendor's registry, or a Debian root file system.
        root: Folder of that Debian root file system.
    """

    folder: Line | None = None
    cache: Line | None = None
    tmp: Line | None = None
    base: Literal["registry", "debian"] = "registry"
    root: Line | None = None


@dataclass(frozen=True)
class ContainerImage:
    """An image as a script finds it on a node.

    Args:
        name: As the list of images calls it.
        program: What is started inside.
        file: Its path; ``$NAME`` is read on the node.
        size_bytes: That it must have; None where nobody has looked at it.
        architecture: Of the nodes on which it runs, as ``uname -m`` prints it.
    """

    name: str
    program: str
    file: str
    size_bytes: int | None
    architecture: str


@dataclass(frozen=True)
class Mount:
    """A path of the node that a container sees.

    Args:
        source: A word of the shell.
        target: The same; the source by default.
        writable: Whether the container may write there.
    """

    source: str
    target: str | None = None
    writable: bool = False

    @property
    def text(self) -> str:
        """``source:target:mode`` as one word of the shell."""
        target = self.source if self.target is None else self.target
        return ShellText(f"{self.source}:{target}:{'rw' if self.writable else 'ro'}")


@dataclass(frozen=True)
class Start:
    """How a script starts one component: ``before``, the program, ``after``, its own arguments.

    Args:
        programs: Names that are looked for on PATH of the node, best first: the component's own,
            or the runtime's.
        before: Words before the program.
        after: Words after it.
        missing: What is said when none of the programs is there.
        image: The image that must be there; None without a container.
        sources: Words for the paths that must be there: to a runtime a bind without one is fatal.
    """

    programs: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    missing: str
    image: ContainerImage | None = None
    sources: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The whole, without the component's own arguments."""
        return (*self.before, ShellText('"$PROGRAM"'), *self.after)

    @property
    def own_programs(self) -> tuple[str, ...]:
        """What the component itself may be called, whatever starts it."""
        return (self.image.program,) if self.image else self.programs

    @property
    def image_word(self) -> str:
        """The path of the image as a word of the shell; empty without one."""
        return path_word(self.image.file) if self.image else ""


PASSED_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HABANA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "SLURM_JOB_GPUS",
    "SLURM_STEP_GPUS",
    "TZ",
)
"""What of the job's environment the stack itself reads; nothing else passes into its containers."""


@dataclass(frozen=True)
class _Row:
    """One row of the table.

    Args:
        program: Its name.
        before: Words before it.
        command: Words after it, before the profile's own.
        mount: How ``source:target:mode`` is given.
        variable: How ``NAME=value`` is given; empty where all of them are one word.
        image: Stands before the path of the image.
        passed_prefix: What a variable of the script is called so that it passes into a container.
        devices: What shows a container the devices of a vendor.
    """

    program: str
    before: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    mount: str = ""
    variable: str = ""
    image: str = ""
    passed_prefix: str = ""
    devices: Mapping[Vendor, tuple[str, ...]] = field(default_factory=dict)


def _sif_runtime(program: str) -> _Row:
    """Return the row of Apptainer or of its sister.

    No instances: they fail under load and outlive jobs. No process id namespace: our exporters
    look at the job's processes, and a signal to one process must be enough.
    """
    return _Row(
        program,
        # Before Apptainer 1.4.5 the process that serves the image is in the program's group, and a
        # Ctrl-C would take the file system away under the program.
        before=("setsid",),
        # Without the home, nobody's ~/.local gets into our exporters.
        command=("exec", "--cleanenv", "--no-home"),
        mount="--bind=",
        variable="--env=",
        passed_prefix=f"{program.upper()}ENV_",
        # Devices of Gaudi are in /dev, which is the node's: --intel-hpu is for a smaller /dev, and
        # unknown before Apptainer 1.5.
        devices={"nvidia": ("--nv",), "amd": ("--rocm",)},
    )


_TABLE: Mapping[RuntimeKind, _Row] = {
    "native": _Row(""),
    "apptainer": _sif_runtime("apptainer"),
    "singularity": _sif_runtime("singularity"),
    # A container is a step of its own, so a whole srun stands before the program.
    "pyxis": _Row(
        "srun",
        command=(
            *("--overlap", "--mem=0", "--nodes=1", "--ntasks=1", "--cpus-per-task=1"),
            ShellText('--nodelist="$NODE"'),
            *("--no-container-mount-home", "--no-container-entrypoint", "--container-readonly"),
        ),
        mount="--container-mounts=",
        image="--container-image=",
    ),
}


def passed_prefix(kind: RuntimeKind) -> str:
    """Return how a variable's name begins that passes into the containers; empty for no prefix."""
    return _TABLE[kind].passed_prefix


def device_words(kind: RuntimeKind, vendor: Vendor) -> tuple[str, ...]:
    """Return the words that show a container the devices of ``vendor``."""
    return _TABLE[kind].devices.get(vendor, ())


def whole_node_words(kind: RuntimeKind) -> tuple[str, ...]:
    """Return the words by which a container has all processors of the job on its node."""
    if kind != "pyxis":
        return ()
    return (ShellText('--cpus-per-task="${SLURM_CPUS_ON_NODE:-1}"'), "--cpu-bind=none")


def mount_word(kind: RuntimeKind, mount: Mount) -> str:
    """Return the word that shows a container a path of the node."""
    return ShellText(_TABLE[kind].mount + mount.text)


def native_start(programs: Sequence[str], variables: Mapping[str, str], missing: str) -> Start:
    """Return how a program of the node itself is started."""
    before = ("env", *_settings(variables)) if variables else ()
    return Start(tuple(programs), before, (), missing)


def container_start(
    profile: RuntimeProfile,
    image: ContainerImage,
    *,
    component: str,
    variables: Mapping[str, str],
    mounts: Sequence[Mount],
    late_words: Sequence[str] = (),
    passed: Sequence[str] = (),
) -> Start:
    """Return how the program of an image is started.

    Args:
        profile: The runtime; not ``native``.
        image: The image.
        component: Its name in the scripts.
        variables: What the program finds in its environment.
        mounts: Paths of the node that it sees, beside those of the profile.
        late_words: Words of the shell that the script fills in.
        passed: Variables of the script that pass beside those of every container, by name.
    """
    row = _TABLE[profile.kind]
    theirs = tuple(_mount_of(bind) for bind in profile.binds)
    # The folder of a run may lie in one of theirs, which would hide it if it came later.
    return Start(
        programs=(profile.program_name,),
        before=row.before,
        after=(
            *row.command,
            *profile.options,
            *_environment_words(profile, component, variables, passed),
            *(mount_word(profile.kind, mount) for mount in theirs),
            *late_words,
            *(mount_word(profile.kind, mount) for mount in mounts),
            ShellText(row.image + path_word(image.file)),
            image.program,
        ),
        missing=f"{profile.program_name} is not on PATH of this node; load its module in the "
        "prologue of the site profile, or name its path under runtime.program",
        image=image,
        sources=tuple(mount.source for mount in (*theirs, *mounts)),
    )


def _mount_of(bind: str) -> Mount:
    source, target, mode = (*bind.split(":"), "", "")[:3]
    return Mount(path_word(source), quoted(target) if target else None, writable=mode != "ro")


def _settings(variables: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in variables.items())


def _environment_words(
    profile: RuntimeProfile,
    component: str,
    variables: Mapping[str, str],
    passed: Sequence[str],
) -> tuple[str, ...]:
    """Return the words for a container's environment.

    In that of a step, what passes is listed by name, and there is a mark to find the process by.
    """
    row = _TABLE[profile.kind]
    if row.variable:
        return tuple(f"{row.variable}{setting}" for setting in _settings(variables))
    names = (*_settings(variables), *PASSED_VARIABLES, *profile.environment, *passed)
    return (ShellText(f'"--export={",".join(names)},JOBMETER_COMPONENT=$RUN_ID/{component}"'),)
