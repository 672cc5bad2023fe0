"""Files that a reader finds whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(text: str, path: Path) -> None:
    """Replace ``path`` as a whole, mode 0600: a reader never sees half a file."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    Path(handle.name).replace(path)
