"""From a site's name to a report: facts are gathered, then judged."""

from __future__ import annotations

from pathlib import Path

from jobmeter.doctor.checks import findings_of
from jobmeter.doctor.display import Report
from jobmeter.doctor.facts import Facts
from jobmeter.doctor.images import image_facts
from jobmeter.doctor.job import TIME_LIMIT as TIME_LIMIT
from jobmeter.doctor.job import Say, ask_nodes, plan_job
from jobmeter.doctor.probe import place_here, probe_here, probe_plan
from jobmeter.doctor.stack import stack_plan
from jobmeter.doctor.subject import Subject
from jobmeter.site import read_site
from jobmeter.spec import Resources
from jobmeter.stack_images import container_images


def examine(
    site_name: str,
    runs: Path,
    asked: Resources,
    *,
    job_name: str,
    wait_limit_s: float | None,
    say: Say,
) -> Report:
    """Return what works on this machine, and on compute nodes if they are to be asked.

    Args:
        site_name: Name or file of the site profile.
        runs: Folder in which run directories will be made.
        asked: What a job shall have; the probe job asks for it.
        job_name: Of the probe job's folder.
        wait_limit_s: How long that may wait for nodes; None when nodes shall not be asked.
        say: Tells a person what is waited for.

    Raises:
        SiteError: the site profile is wrong, or the probe job lacks what the site demands.
        SchedulerError: the probe job could not be run.
    """
    site = read_site(site_name, Path.cwd())
    wanted = stack_plan(site_name, site, runs, {}).images_needed
    images, used = image_facts(wanted, site_name, site)
    plan = probe_plan(site_name, site, runs, container_images(used))
    # First of all: what is wrong in the request is said before anything else is done.
    job = plan_job(site_name, site, asked, plan, job_name) if wait_limit_s is not None else None
    place = place_here(site)
    here = probe_here(plan, place).with_facts(images)
    nodes: tuple[Facts, ...] = ()
    if job is not None and wait_limit_s is not None:
        nodes = ask_nodes(job, wait_limit_s, say)
    subjects = [
        Subject(here, site, place, asked.nodes, asked.gpus_per_node, nodes_told=bool(nodes)),
        *(Subject(node, site, "node", asked.nodes, asked.gpus_per_node) for node in nodes),
    ]
    return Report(
        site=site_name,
        description=site.description,
        findings=tuple(finding for subject in subjects for finding in findings_of(subject)),
        facts=(here, *nodes),
        login=place == "login" and not nodes,
    )
