"""A Debian root file system from which images are made without any registry."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from jobmeter.errors import ImageError

_ADVICE = "make one as docs/images.md says"


@dataclass(frozen=True)
class DebianRoot:
    """A root file system that can be copied into an image.

    Args:
        folder: Where it lies.
        release: How it calls itself.
        size_bytes: What its files take.
    """

    folder: Path
    release: str
    size_bytes: int


def debian_root(folder: Path) -> DebianRoot:
    """Return what lies in ``folder``, of which every file can be read by this user.

    Raises:
        ImageError: there is none, it is no Debian, or files belong to somebody else.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder}: the root file system is missing; {_ADVICE}")
    if not (folder / "usr/bin/dpkg").exists():
        raise ImageError(f"{folder}: no Debian root file system: it has no usr/bin/dpkg; {_ADVICE}")
    return DebianRoot(folder, _release(folder), _size_bytes(folder))


def _release(folder: Path) -> str:
    try:
        text = (folder / "etc/os-release").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "Debian"
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
    return name[1] if name else "Debian"


def _size_bytes(folder: Path) -> int:
    size_bytes, me = 0, os.getuid()
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(here, name)  # noqa: PTH118 - a Path for each of them is slow
            found = os.lstat(path)
            if me not in (0, found.st_uid):
                raise ImageError(
                    f"{path}: belongs to uid {found.st_uid}, so it cannot be copied into an image; "
                    "unpack the root file system as yourself, with tar --no-same-owner"
                )
            size_bytes += found.st_blocks * 512
    return size_bytes
