"""What the command line decides, as one value that every exporter is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Every decision the exporters of one node need, already taken.

    Args:
        run_id: The run that these exporters belong to, as in ``run.json``.
        host: Name or address to listen on; empty for every interface.
        port: TCP port, 0 for any free one.
        username: Name for HTTP basic auth.
        password_file: File whose first line is the password; None allows loopback only.
        port_file: File that gets the bound port; None writes none.
        required: Whether to end when an exporter has nothing to report, instead of saying so.
        job_pid: Process id of the job script, for nodes without a Slurm job group.
        exclude_pids: Roots of process subtrees that belong to the monitoring.
        proc: Mount point of procfs; tests pass a small copy.
        cgroup_root: Stands for ``/sys/fs/cgroup`` of the mount table; tests pass a small copy.
        block_devices: Folder with one link per block device, named ``major:minor``.
        options: What the exporters' own options were given, by name: ``nvidia_sample_interval``.
    """

    run_id: str
    host: str = "127.0.0.1"
    port: int = 0
    username: str = "jobmeter"
    password_file: Path | None = None
    port_file: Path | None = None
    required: bool = False
    job_pid: int | None = None
    exclude_pids: tuple[int, ...] = ()
    proc: Path = Path("/proc")
    cgroup_root: Path = Path("/sys/fs/cgroup")
    block_devices: Path = Path("/sys/dev/block")
    options: Mapping[str, Any] = field(default_factory=dict)
