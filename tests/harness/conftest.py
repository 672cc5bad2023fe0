"""A PATH whose Slurm is made of stand-ins."""

import pytest


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that gives a command of Slurm a script; until then none of them works."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    for name in ("sacct", "scontrol", "squeue"):
        put(name, "exit 127")
    return put


@pytest.fixture
def sacct_prints(stand_in, tmp_path):
    """Return a function that makes sacct print a text."""

    def prints(text):
        (tmp_path / "sacct.txt").write_text(text)
        stand_in("sacct", f'cat "{tmp_path}/sacct.txt"')

    return prints
