"""Where site profiles lie, and how one inherits from another; what they mean is not known here.

``--site NAME`` is the first of: a path that ends in ``.yaml``; ``sites/NAME.yaml`` beside the job
file; ``NAME.yaml`` in the user's own folder; the profile of that name that comes with jobmeter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmeter import strict
from jobmeter.errors import SiteError

INHERITS = "inherits"
_SUFFIXES = (".yaml", ".yml")
_SHIPPED = Path(__file__).parent / "sites"

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class ProfileFile:
    """A file that a site name may mean.

    Args:
        name: The site's name.
        path: Of the file.
        kind: Whose it is: given by its path, of the job, of the user, or shipped.
    """

    name: str
    path: Path
    kind: str

    def __str__(self) -> str:
        """The file as people know it: those that come with jobmeter by their name."""
        return f"{self.path.name} ({self.kind})" if self.kind == "shipped" else str(self.path)


@dataclass(frozen=True)
class MergedProfile:
    """The keys and values of a profile and of all that it inherits from.

    Args:
        data: As it would stand in one file.
        origins: Which file each value is from, by its path of keys. A list is one value.
        files: Those that were read, the one that was asked for first.
    """

    data: Mapping[str, Any]
    origins: Mapping[KeyPath, ProfileFile]
    files: tuple[ProfileFile, ...]

    def origin(self, path: Sequence[object]) -> ProfileFile:
        """Return the file that is to blame for what is at ``path``: the nearest one known."""
        keys = tuple(str(part) for part in path)
        for length in range(len(keys), 0, -1):
            for known, file in self.origins.items():
                if known[:length] == keys[:length]:
                    return file
        return self.files[0]


def shipped_sites() -> tuple[str, ...]:
    """Return the names of the profiles that come with jobmeter."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def user_folder() -> Path | None:
    """Return the folder of the user's own profiles; None for a user without a home."""
    config = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        config = config if config.is_absolute() else Path.home() / ".config"
    except RuntimeError:
        return None
    return config / "jobmeter" / "sites"


def known_files(job_dir: Path | None) -> tuple[ProfileFile, ...]:
    """Return every profile that has a name, nearest first; a name may occur more than once."""
    return tuple(
        ProfileFile(path.stem, path, kind)
        for folder, kind in _folders(job_dir)
        for path in sorted(folder.glob("*.yaml"))
    )


def find(name: str, job_dir: Path | None) -> ProfileFile:
    """Return the file that ``--site name`` means.

    Args:
        name: Of a site, or the path of a file.
        job_dir: Folder of the job file; None where there is none.

    Raises:
        SiteError: there is none.
    """
    if name.endswith(_SUFFIXES):
        return ProfileFile(name, Path(name), "given")
    return _named(name, known_files(job_dir), f"--site {name}")


def merge_chain(file: ProfileFile) -> MergedProfile:
    """Return a profile with all that it inherits.

    Raises:
        SiteError: a file is missing or not YAML, or one inherits from itself in the end.
    """
    return _chain(file, ())


def _folders(job_dir: Path | None) -> Iterable[tuple[Path, str]]:
    if job_dir is not None:
        yield job_dir / "sites", "job"
    own = user_folder()
    if own is not None:
        yield own, "user"
    yield _SHIPPED, "shipped"


def _named(name: str, files: Sequence[ProfileFile], what: str) -> ProfileFile:
    for file in files:
        if file.name == name:
            return file
    names = sorted({file.name for file in files})
    raise SiteError(f"{what}: no such site profile; {strict.nearest(name, names)}")


def _chain(file: ProfileFile, heirs: tuple[ProfileFile, ...]) -> MergedProfile:
    data = strict.parse_mapping(strict.read_text(file.path, SiteError), str(file), SiteError)
    parent = data.get(INHERITS)
    own = MergedProfile({}, {}, (file,))
    if isinstance(parent, str):
        ancestor = _parent(parent, file)
        line = (*heirs, file)
        if ancestor.path.resolve() in [heir.path.resolve() for heir in line]:
            names = " -> ".join(str(member) for member in (*line, ancestor))
            raise SiteError(f"{file}: {INHERITS}: goes round in a circle: {names}; break it")
        inherited = _chain(ancestor, line)
        own = MergedProfile(inherited.data, inherited.origins, (file, *inherited.files))
    origins = dict(own.origins)
    merged = _merge(own.data, data, (), file, origins)
    return MergedProfile(merged, origins, own.files)


def _parent(name: str, heir: ProfileFile) -> ProfileFile:
    """Return whom ``inherits: name`` means in the file ``heir``.

    A name is looked for beside that file, then in the user's folder, then among the shipped ones,
    and never means the file itself: a user's ``meluxina`` may inherit from the shipped one.
    """
    if name.endswith(_SUFFIXES):
        return ProfileFile(name, heir.path.parent / name, "given")
    beside = heir.path.parent / f"{name}.yaml"
    files = [ProfileFile(name, beside, heir.kind)] if beside.is_file() else []
    files += known_files(None)
    others = [file for file in files if file.path.resolve() != heir.path.resolve()]
    return _named(name, others, f"{heir}: {INHERITS}: {name!r}")


def _merge(
    base: Mapping[str, Any],
    over: Mapping[str, Any],
    path: KeyPath,
    file: ProfileFile,
    origins: dict[KeyPath, ProfileFile],
) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid upon it, and note in ``origins`` what came from ``file``.

    Mappings are merged key by key, everything else is replaced as a whole, and null takes away
    what was inherited.
    """
    merged = dict(base)
    for key, value in over.items():
        place = (*path, str(key))
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = _merge(below, value, place, file, origins)
            continue
        for known in [known for known in origins if known[: len(place)] == place]:
            del origins[known]
        if value is None and key in base:
            del merged[key]
        elif isinstance(value, Mapping) and value:
            merged[key] = _merge({}, value, place, file, origins)
        else:
            merged[key] = value
            origins[place] = file
    return merged
