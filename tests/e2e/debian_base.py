"""The Debian root file system from which an unprivileged user builds images in a test cluster."""

import os
import subprocess
from pathlib import Path

import second_root

ROOT = second_root.PROGRAMS / "debian"
INSIDE = "/home/hpc/debian"
IMAGES = ("prometheus", "node-exporter", "alertmanager", "exporters")
"""What is built from it."""


def missing():
    """One phrase for each thing that keeps images from being built in the second cluster."""
    made_by = "tools/get-debian-base.sh .programs/debian makes it"
    lacking = () if ROOT.exists() else (f"not in .programs: debian ({made_by})",)
    return (*second_root.missing(), *lacking)


def give(cluster, root=ROOT):
    """Put a root file system into the user's home, as if unpacked there from a tarball."""
    target = cluster.home / root.name
    subprocess.run(["cp", "--archive", "--reflink=auto", str(root), str(target)], check=True)
    owner = cluster.home.stat()
    for here, folders, files in os.walk(target):
        for name in (".", *folders, *files):
            os.chown(Path(here, name), owner.st_uid, owner.st_gid, follow_symlinks=False)
