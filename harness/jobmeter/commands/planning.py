"""A job planned as it is submitted: what recipes say of KPIs is held against the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jobmeter.errors import SpecError

if TYPE_CHECKING:
    from jobmeter.launch import Prepared
    from jobmeter.services import PlannedService


def prepare(job_file: Path, site: str, runs: Path) -> Prepared:
    """Plan a job; nothing is written.

    Raises:
        SpecError: the job file is wrong, or a recipe of it.
        SiteError: the site profile is wrong, or the site cannot run this job.
        ImageError: an image of the stack is missing, or not what was built.
    """
    from jobmeter import launch

    prepared = launch.prepare(job_file, site, runs)
    _check_kpis(job_file, prepared.plan.services.every)
    return prepared


def _check_kpis(job_file: Path, services: Iterable[PlannedService]) -> None:
    named = [(service.name, group) for service in services for group in service.kpis]
    if not named:
        return
    from jobmeter_analysis.catalogue import load_catalogue

    known = [name for name, group in load_catalogue().items() if group.of_services]
    for service, group in named:
        if group not in known:
            raise SpecError(
                f"{job_file}: services.{service}.recipe: its 'kpis' name {group!r}, which is no "
                f"group of KPIs that a service can have; there is {', '.join(known)}"
            )
