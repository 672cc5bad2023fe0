"""The header of a SIF file: what it is built for, and how long it must be.

The format is that of https://github.com/apptainer/sif (``pkg/sif/sif.go``, version 01): a fixed
header of 128 bytes, little-endian, of which two codes and two numbers matter here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from jobmeter.errors import ImageError

# launch line, magic, version, architecture, id, created, modified, free and all descriptors,
# descriptors' offset and length, data's offset and length
_HEADER = struct.Struct("<32s10s3s3s16sqqqqqqqq")
_MAGIC = b"SIF_MAGIC\0"

# Codes of the Go architectures, by the names that `uname -m` prints.
_ARCHITECTURES = {
    "01": "i386",
    "02": "x86_64",
    "03": "arm",
    "04": "aarch64",
    "05": "ppc64",
    "06": "ppc64le",
    "07": "mips",
    "08": "mipsel",
    "09": "mips64",
    "10": "mips64el",
    "11": "s390x",
}


@dataclass(frozen=True)
class SifHeader:
    """What the header of an image says.

    Args:
        architecture: As ``uname -m`` prints it; ``unknown`` for a code that is not known here.
        end_bytes: Where its data ends: a shorter file is cut off.
    """

    architecture: str
    end_bytes: int


def parse_header(start: bytes) -> SifHeader:
    """Return what the first bytes of a SIF file say.

    Raises:
        ValueError: they are not those of a SIF file.
    """
    if len(start) < _HEADER.size:
        raise ValueError(f"has {len(start)} bytes, less than a header")
    _, magic, version, architecture, *numbers = _HEADER.unpack(start[: _HEADER.size])
    if magic != _MAGIC:
        raise ValueError("does not begin as a SIF file")
    if version != b"01\0":
        raise ValueError(f"is a SIF file of version {_text(version)}, not 01")
    offset, length = numbers[-2:]
    if offset < _HEADER.size or length < 0:
        raise ValueError(f"has its data at {offset} with length {length}")
    return SifHeader(_ARCHITECTURES.get(_text(architecture), "unknown"), offset + length)


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii", "replace")


def read_header(path: Path) -> SifHeader:
    """Return the header of the SIF file ``path``, which is long enough to hold its data.

    Raises:
        ImageError: it is missing, no SIF file, or cut off.
    """
    try:
        with path.open("rb") as handle:
            header = parse_header(handle.read(_HEADER.size))
            size = handle.seek(0, 2)
    except FileNotFoundError as cause:
        raise ImageError(f"{path}: the image is missing; build or pull it again") from cause
    except OSError as cause:
        raise ImageError(f"{path}: cannot be read: {cause.strerror or cause}") from cause
    except ValueError as cause:
        raise ImageError(f"{path}: damaged: it {cause}; build or pull it again") from cause
    if size < header.end_bytes:
        raise ImageError(
            f"{path}: damaged: it is cut off at {size} of {header.end_bytes} bytes; "
            "build or pull it again"
        )
    return header
