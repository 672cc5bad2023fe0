"""What a machine needs before a cluster can start on it, said precisely."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurmdbd",
    "slurm-wlm-mysql-plugin",
    "munge",
    "mariadb-server-core",
    "mariadb-client-core",
    "iproute2",
    "procps",
)

# A node's limits and accounting need all of these; a machine that lacks one runs without cgroups.
CONTROLLERS = frozenset({"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory"})


def missing(packages: Sequence[str] = PACKAGES) -> tuple[str, ...]:
    """Return one phrase for each thing that is missing; empty where a cluster can start.

    Args:
        packages: What must be installed; a cluster in another root file system needs nothing.
    """
    lacking = []
    absent = missing_packages(packages)
    if absent:
        lacking.append(f"Debian packages not installed: {' '.join(absent)}")
    if os.geteuid() != 0:
        lacking.append("not root")
        return tuple(lacking)
    refusal = namespaces_refused()
    if refusal:
        lacking.append(f"namespaces or mounts not permitted: {refusal}")
    return tuple(lacking)


def missing_packages(packages: Sequence[str] = PACKAGES) -> tuple[str, ...]:
    """Return the names of the packages that are not installed."""
    if not packages:
        return ()
    try:
        listing = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *packages],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=30,
        ).stdout
    except FileNotFoundError:
        return tuple(packages)
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return tuple(name for name in packages if name not in installed)


def slurm_release(root: Path | None = None) -> tuple[int, int]:
    """Return year and month of the Slurm of this machine, or of another root file system."""
    inside = ["chroot", str(root)] if root else []
    said = subprocess.run(
        [*inside, "slurmctld", "-V"], stdout=subprocess.PIPE, text=True, timeout=30, check=True
    ).stdout
    year, month, *_ = said.split()[-1].split(".")
    return int(year), int(month)


def namespaces_refused() -> str:
    """Return why the machine refuses what a node is made of, or an empty string."""
    attempt = subprocess.run(
        [
            *("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork"),
            *("--propagation", "private", "bash", "-euc"),
            "mount -t tmpfs tmpfs /mnt; mount -t proc proc /proc; mount -t sysfs sysfs /sys;"
            " hostname x; ip link add br0 type bridge",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return " ".join(attempt.stderr.split()) if attempt.returncode else ""


def cgroup_mounts(mounts: Path = Path("/proc/self/mounts")) -> tuple[Path, ...]:
    """Return the mount points of the cgroup v1 hierarchies a node needs, or none at all."""
    found = []
    for line in mounts.read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        used = CONTROLLERS.intersection(options.split(","))
        if kind == "cgroup" and used and os.access(mount, os.W_OK):
            found.append((Path(mount), used))
    complete = frozenset().union(*(used for _, used in found)) == CONTROLLERS
    return tuple(mount for mount, _ in found) if complete else ()
