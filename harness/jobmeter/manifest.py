"""run.json: what was planned, written once before the job starts and never changed.

What was expected is in it, so that what is missing can be named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobmeter.errors import RunFolderError
from jobmeter.files import write_atomically

SCHEMA_VERSION = 1

Placement = Literal["every_node", "first_node"]
RunKind = Literal["job", "attached", "hook"]
"""How a run was started: submitted, into an allocation that was there, from the user's script."""


@dataclass(frozen=True)
class PlannedTarget:
    """One metrics endpoint that the recording should contain.

    Args:
        service: Its ``service`` label: ``node``, ``cgroup``, ``prometheus``, or the user's name
            for an endpoint of the payload.
        placement: Where it runs.
        kind: ``stack`` for what the job starts beside the payload, which must be up for the whole
            job; ``payload`` for the user's, which come and go.
        third_party: Whether it is part of the stack and yet does not carry ``jobmeter_run_info``,
            by which a stranger in its place would be noticed.
    """

    service: str
    placement: Placement
    kind: Literal["stack", "payload"]
    third_party: bool = False


@dataclass(frozen=True)
class UsedImage:
    """One image in which a part of the stack runs.

    Args:
        name: As the list of images calls it.
        version: Of the program inside; None where nothing says it.
        sha256: Of the file.
        file: Its path.
        size_bytes: Of the file.
        architecture: On which it runs, as ``uname -m`` prints it.
    """

    name: str
    version: str | None
    sha256: str
    file: str
    size_bytes: int
    architecture: str


@dataclass(frozen=True)
class RunManifest:
    """One run, as planned.

    Args:
        run_id: Name, UTC time and random part: the name of the run directory, the ``run_id`` label.
        name: From the job file.
        site: Name of the site profile.
        created: ISO 8601 with zone.
        nodes: How many nodes were asked for.
        interval_s: Time between two scrapes of one target.
        checkpoint_interval_s: Time between two copies of the recording.
        required: Whether the job must end non-zero when the recording is not valid.
        phases: Names of the planned phases, in order.
        targets: Every endpoint that the recording should contain.
        job_file_sha256: Of job.yaml as given.
        git_commit: Of the folder where jobmeter was called, None outside a repository.
        jobmeter_version: Which jobmeter planned this.
        workload: Numbers of the job file that formulas of KPIs use.
        runtime: What the stack runs in: ``native`` or a container runtime.
        images: Those of its images, verified before the job was submitted.
        kind: How it was started. The phases of an attached run and of a hook are not planned.
        service_kpis: By label of a service, the groups of KPIs that its users read.
        groups: By name, how many nodes each group was asked for; empty where all are alike.
    """

    run_id: str
    name: str
    site: str
    created: str
    nodes: int
    interval_s: float
    checkpoint_interval_s: float
    required: bool
    phases: tuple[str, ...]
    targets: tuple[PlannedTarget, ...]
    job_file_sha256: str
    git_commit: str | None
    jobmeter_version: str
    workload: Mapping[str, float] = field(default_factory=dict)
    runtime: str = "native"
    images: tuple[UsedImage, ...] = ()
    kind: RunKind = "job"
    service_kpis: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)


def write_manifest(manifest: RunManifest, path: Path) -> None:
    """Write run.json."""
    write_atomically(manifest_text(manifest), path)


def manifest_text(manifest: RunManifest) -> str:
    """Return the text of run.json."""
    data = {"schema_version": SCHEMA_VERSION, **asdict(manifest)}
    return json.dumps(data, indent=2) + "\n"


def read_manifest(path: Path) -> RunManifest:
    """Read run.json.

    Raises:
        RunFolderError: the file is missing, cut short, or of another schema version.
    """
    try:
        data: Any = json.loads(path.read_text())
    except FileNotFoundError as cause:
        raise RunFolderError(
            f"{path.parent}: no {path.name} here; give a folder that 'jobmeter run' or "
            "'jobmeter submit' printed"
        ) from cause
    except (OSError, ValueError) as cause:
        raise RunFolderError(
            f"{path}: not readable ({cause}); the run was cut short while it was created, "
            "run it again"
        ) from cause
    version = data.get("schema_version") if isinstance(data, Mapping) else None
    if version != SCHEMA_VERSION:
        raise RunFolderError(
            f"{path}: schema version {version!r}, this jobmeter reads {SCHEMA_VERSION}; "
            "analyse the run with the jobmeter that made it"
        )
    try:
        return _manifest_from(data)
    except (KeyError, TypeError, ValueError) as cause:
        raise RunFolderError(f"{path}: a field is missing or wrong: {cause}") from cause


def _manifest_from(data: Mapping[str, Any]) -> RunManifest:
    fields = {key: value for key, value in data.items() if key != "schema_version"}
    fields["phases"] = tuple(str(name) for name in data["phases"])
    fields["targets"] = tuple(PlannedTarget(**target) for target in data["targets"])
    fields["images"] = tuple(UsedImage(**image) for image in data.get("images", ()))
    kpis = data.get("service_kpis", {})
    fields["service_kpis"] = {name: tuple(groups) for name, groups in kpis.items()}
    return RunManifest(**fields)
