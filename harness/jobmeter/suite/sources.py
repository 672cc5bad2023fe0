"""The source tree of jobmeter: its tests are no part of an installation."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from jobmeter.errors import ImageRequestError, ProcessError
from jobmeter.process import run

FOLDERS = (
    *("analysis", "benchmarks", "containers", "docs", "examples", "exporters", "harness"),
    *("prometheus_templates", "sbatch", "tests", "tools"),
)
"""What of a source tree is copied, beside the files at its top that have no dot in front."""

IDENTITY = "SOURCES.json"
"""Says in a copy which tree it is a copy of; no part of it."""

_UNWANTED = re.compile(rf"\..*|__pycache__|.*\.(pyc|egg-info)|{IDENTITY}")


def source_tree(given: Path | None) -> Path:
    """Return the source tree ``given``, or by default the one from which jobmeter runs.

    Raises:
        ImageRequestError: there is none.
    """
    folder = (given or Path(__file__).parents[3]).absolute()
    if (folder / "pyproject.toml").is_file() and (folder / "tests" / "conftest.py").is_file():
        return folder
    if given is not None:
        raise ImageRequestError(
            f"--source {given}: no source tree of jobmeter: it has no tests/conftest.py; give a "
            "checkout"
        )
    raise ImageRequestError(
        "the tests of jobmeter are not here, as they are no part of an installation; give a "
        "checkout with --source DIR"
    )


def files_of(tree: Path) -> Iterator[Path]:
    """Yield each file of a source tree, sorted; not what tools leave there."""
    yield from sorted(p for p in tree.iterdir() if p.is_file() and not _unwanted(p.name))
    for name in FOLDERS:
        for path in sorted((tree / name).rglob("*")):
            if path.is_file() and not any(map(_unwanted, path.relative_to(tree).parts)):
                yield path


def _unwanted(name: str) -> bool:
    return _UNWANTED.fullmatch(name) is not None


def copy_tree(tree: Path, target: Path) -> None:
    """Copy a source tree into the new folder ``target``, with a file that says which it is."""
    for path in files_of(tree):
        copy = target / path.relative_to(tree)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (target / IDENTITY).write_text(json.dumps(identity(tree), indent=2) + "\n", "utf-8")


def identity(tree: Path) -> Mapping[str, str | None]:
    """Return what a source tree is: its version, its commit where it has one, and its content."""
    digest = hashlib.sha256()
    for path in files_of(tree):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(tree)}\0{len(content)}\0".encode() + content)
    return {"version": _version(tree), "commit": _commit(tree), "sha256": digest.hexdigest()}


def _version(tree: Path) -> str | None:
    try:
        text = (tree / "harness" / "jobmeter" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return match[1] if match else None


def _commit(tree: Path) -> str | None:
    """Return the commit, with a plus sign where files were changed since; None without git."""
    if not (tree / ".git").exists():
        return None
    git = ("git", "-C", str(tree))
    try:
        commit = run((*git, "rev-parse", "HEAD"), timeout_s=20).strip()
        changed = run((*git, "status", "--porcelain"), timeout_s=20).strip()
    except ProcessError:
        return None
    return f"{commit}+" if changed else commit
