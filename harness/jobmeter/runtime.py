"""The runtime table: what stands before a program so that it runs in its container.

There are four kinds: ``apptainer``, ``singularity``, ``pyxis``, and ``native`` for none.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from jobmeter import strict
from jobmeter.spec import Line

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
