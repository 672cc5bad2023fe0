"""The folder of the images while somebody works in it: one at a time, with space, and tidy."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import hashlib
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from jobmeter.errors import ImageError
from jobmeter.images_lock import share

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def partial_path(folder: Path, name: str) -> Path:
    """Where an image lies until it is whole: a new name each time.

    What a killed jobmeter started may go on for a while, and must not write into a later image.
    """
    return folder / f".partial-{name}-{secrets.token_hex(4)}.sif"


def log_path(folder: Path, name: str) -> Path:
    """What the runtime printed of an image that could not be made."""
    return folder / f"{name}.log"


@contextlib.contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Make ``folder`` if need be, and work in it alone; what a killed one left is removed.

    Args:
        folder: Of the images.
        what: What is done there, for whoever comes second.

    Raises:
        ImageError: somebody else is at work there, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".images.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as cause:
        raise ImageError(f"{folder}: cannot be written: {cause.strerror}; see --folder") from cause
    try:
        _lock(handle, folder)
        since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        holder = f"{what} of {_user()} on {socket.gethostname()}, pid {os.getpid()}, since {since}"
        os.ftruncate(handle, 0)
        os.pwrite(handle, holder.encode(), 0)
        for path in folder.glob(".partial-*"):
            path.unlink()
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        holder = os.pread(handle, 1000, 0).decode("utf-8", "replace") or "another jobmeter"
        raise ImageError(f"{folder}: in use by {holder}; try again when it is done") from cause
    except OSError as cause:
        if cause.errno not in _NO_LOCKS:
            raise
        raise ImageError(
            f"{folder}: its file system has no file locks; give another one with --folder"
        ) from cause


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        return str(os.getuid())


@contextlib.contextmanager
def workspace(tmp: Path, folder: Path) -> Iterator[Path]:
    """Make an empty folder below ``tmp`` for the work on the images of ``folder``.

    It has the same name every time, so that what a killed build left there is removed by the next.

    Raises:
        ImageError: it cannot be made, or somebody else has put something in its place.
    """
    mark = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:8]
    path = tmp / f"jobmeter-images-{os.getuid()}-{mark}"
    try:
        tmp.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ImageError(f"{path}: belongs to somebody else; set images.tmp in the profile")
        _empty(path)
    except OSError as cause:
        raise ImageError(
            f"{path}: cannot be made: {cause.strerror}; set images.tmp in the profile"
        ) from cause
    try:
        yield path
    finally:
        _empty(path)
        shutil.rmtree(path, ignore_errors=True)


def _empty(folder: Path) -> None:
    """Remove everything in ``folder``, also below folders of a system that cannot be written."""
    for here, names, _ in os.walk(folder):
        for name in names:
            path = Path(here, name)
            if not path.is_symlink():
                with contextlib.suppress(OSError):
                    path.chmod(0o700)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def require_space(folder: Path, needed_bytes: int, option: str) -> None:
    """Prove that a file system has room.

    Args:
        folder: On that file system; it may be one that is still to be made.
        needed_bytes: What is needed.
        option: What a user sets to use another one.

    Raises:
        ImageError: there is less.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise ImageError(
            f"{folder}: {in_words(free_bytes)} are free, {in_words(needed_bytes)} are needed; "
            f"make room, or set {option}"
        )


def in_words(size_bytes: float) -> str:
    """Return a size as a person reads it.

    >>> in_words(158_515_200), in_words(2_300_000_000)
    ('159 MB', '2.3 GB')
    """
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


@contextlib.contextmanager
def space_errors(what: str) -> Iterator[None]:
    """Say in one line that a file system is full."""
    try:
        yield
    except OSError as cause:
        if cause.errno in _NO_SPACE:
            no_space(f"{what}: {cause.strerror}", cause)
        raise


def no_space(what: str, cause: Exception | None = None) -> NoReturn:
    """Say that there was no space after all.

    Raises:
        ImageError: always.
    """
    raise ImageError(
        f"{what}; make room, or set images.folder, images.tmp and images.cache in the profile"
    ) from cause


def keep(partial: Path, folder: Path, name: str, sha256: str) -> Path:
    """Put a whole image where it stays, and return that path.

    A name is never used again: a job that runs, on whatever node, keeps the file it opened.
    """
    target = folder / f"{name}-{sha256[:12]}.sif"
    handle = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    share(partial)
    partial.replace(target)
    return target
