"""What the stand-ins for hl-smi, squeue and sinfo in ``programs`` answer, from files."""

import os
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


class Answers:
    """What the programs do, and what they were asked.

    Args:
        folder: Where they look.
        end: Added to all that is written.
    """

    def __init__(self, folder, end=""):
        self.folder = folder
        self.end = end

    def write(self, name, text=""):
        # At once, as it may be read at any time.
        (self.folder / "new").write_text(text + self.end)
        (self.folder / "new").replace(self.folder / name)

    def remove(self, name):
        (self.folder / name).unlink()

    def starts(self):
        return (self.folder / "starts").read_text().splitlines()


def put_on_path(monkeypatch):
    """Let the programs be found before all others."""
    monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
