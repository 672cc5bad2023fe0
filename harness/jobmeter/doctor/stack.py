"""The stack as jobs of a site start it, for trying whether it can be started."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from jobmeter import __version__
from jobmeter.plan import Context, Plan, make_plan
from jobmeter.runtime import ContainerImage, Start
from jobmeter.site import SiteProfile
from jobmeter.spec import JobSpec


def stack_plan(
    site_name: str, site: SiteProfile, runs: Path, images: Mapping[str, ContainerImage]
) -> Plan:
    """Return the plan of a job with the exporters that every job has.

    It is planned as a hook's, which finds itself in a job: nothing is asked of the batch system, so
    no request is refused.

    Args:
        site_name: As given.
        site: The profile.
        runs: Folder in which run directories will be made.
        images: Those that were found and verified, by name.
    """
    context = Context(
        run_id="doctor",
        run_dir=runs.absolute(),
        job_file="jobmeter doctor",
        job_dir=Path.cwd(),
        python=sys.executable,
        jobmeter_version=__version__,
        images=images,
        kind="hook",
    )
    return make_plan(JobSpec(name="jobmeter-doctor", run="true"), site_name, site, context)


def contained_starts(plan: Plan, images: Mapping[str, ContainerImage]) -> Mapping[str, Start]:
    """Return by component how its container is started, of those whose image is there.

    Slurm starts the containers of pyxis: nothing can be tried outside a job, nor by a script that
    is a step already.
    """
    if plan.runtime not in ("apptainer", "singularity"):
        return {}
    starts = {name: plan.starts[name] for name in plan.components}
    return {
        name: start for name, start in starts.items() if start.image and start.image.name in images
    }
