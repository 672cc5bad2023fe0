"""SIF files as small as the format allows, for tests that run no container."""

import struct

CODES = {"x86_64": b"02\0", "aarch64": b"04\0"}


def sif(architecture="x86_64", payload=b"squashfs", version=b"01\0", magic=b"SIF_MAGIC\0"):
    """Return the bytes of a SIF file: header, no descriptors, ``payload`` as its data."""
    header = struct.pack(
        "<32s10s3s3s16sqqqqqqqq",
        b"#!/usr/bin/env run-singularity\n",
        magic,
        version,
        CODES.get(architecture, architecture),
        bytes(16),
        *(0, 0, 48, 48, 128, 0, 128, len(payload)),
    )
    return header + payload
