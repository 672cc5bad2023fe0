"""From a job file to a run directory, and from there to a running job."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from jobmeter import __version__, slurm
from jobmeter.allocation import Allocation
from jobmeter.credentials import Credentials, new_credentials
from jobmeter.errors import JobmeterError, ProcessError, SchedulerError, SiteError
from jobmeter.manifest import RunKind, RunManifest, UsedImage, write_manifest
from jobmeter.paths import RunPaths
from jobmeter.plan import Context, Plan, make_plan
from jobmeter.process import find_program, run, run_in_foreground
from jobmeter.render import render_files, render_web_config
from jobmeter.services import in_the_home
from jobmeter.site import SiteProfile, read_site
from jobmeter.site_refusal import overriding, remarks
from jobmeter.spec import JobSpec, read_spec
from jobmeter.stack_images import container_images, verified_images
from jobmeter.submission import write_submission


@dataclass(frozen=True)
class Prepared:
    """A job that is planned and not yet written anywhere.

    Args:
        plan: Every decision.
        site: The profile.
        job_file: Its text.
        remarks: What the person who submits it should know.
        images: Those that its stack runs in.
    """

    plan: Plan
    site: SiteProfile
    job_file: str
    remarks: tuple[str, ...] = ()
    images: tuple[UsedImage, ...] = ()


def prepare(job_file: Path, site_name: str, runs: Path, *, with_images: bool = True) -> Prepared:
    """Plan a job; nothing is written.

    Args:
        job_file: The job file.
        site_name: Of the profile.
        runs: Folder in which the run directory will be made.
        with_images: Whether the images of the stack are looked for and verified. A plan without
            them is for looking at: it takes them to be where the profile says.

    Raises:
        SpecError: the job file is wrong.
        SiteError: the site profile is wrong, or the site cannot run this job.
        ImageError: an image of the stack is missing, or not what was built.
    """
    spec, text = read_spec(job_file)
    site = read_site(site_name, job_file.absolute().parent)
    context = _context(new_name(str(spec.name)), runs, job_file)
    return _prepared(spec, text, site_name, site, context, with_images=with_images)


def prepare_unplanned(
    spec: JobSpec,
    site_name: str,
    runs: Path,
    run_id: str,
    kind: RunKind,
    allocation: Allocation | None = None,
) -> Prepared:
    """Plan a run whose payload is not ours to start; nothing is written.

    Args:
        spec: What to record; its command is not run.
        site_name: Of the profile.
        runs: Folder in which the run directory will be made.
        run_id: Its name there.
        kind: How it is started.
        allocation: Where, of an attached run.

    Raises:
        SpecError: it asks for something that there is not.
        SiteError: the site profile is wrong.
        ImageError: an image of the stack is missing, or not what was built.
    """
    site = read_site(site_name, Path.cwd())
    context = replace(_context(run_id, runs, Path("options")), kind=kind, allocation=allocation)
    asked = spec.model_dump(exclude_unset=True, exclude={"run"})
    text = json.dumps(asked, indent=2) + "\n"  # JSON is YAML
    prepared = _prepared(spec, text, site_name, site, context, with_images=True)
    return replace(prepared, remarks=())


def new_name(name: str) -> str:
    """Return the name of a new run directory."""
    created = datetime.now(tz=timezone.utc)
    return f"{name}-{created:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _context(run_id: str, runs: Path, job_file: Path) -> Context:
    return Context(
        run_id=run_id,
        run_dir=runs.absolute() / run_id,
        job_file=str(job_file),
        job_dir=job_file.absolute().parent,
        python=sys.executable,
        jobmeter_version=__version__,
    )


def _prepared(
    spec: JobSpec,
    text: str,
    site_name: str,
    site: SiteProfile,
    context: Context,
    *,
    with_images: bool,
) -> Prepared:
    plan = make_plan(spec, site_name, site, context)
    wanted = plan.images_needed if with_images else ()
    images = verified_images(wanted, site_name, site)
    if images:
        plan = make_plan(spec, site_name, site, _with_images(context, images))
    return Prepared(plan, site, text, _remarks(spec, plan, site), images)


def _with_images(context: Context, images: tuple[UsedImage, ...]) -> Context:
    versions = {image.name: image.version for image in images}
    return replace(
        context,
        images=container_images(images),
        prometheus_version=versions["prometheus"],
    )


def _remarks(spec: JobSpec, plan: Plan, site: SiteProfile) -> tuple[str, ...]:
    if site.launcher != "slurm":
        return ()
    return (
        *remarks(spec.resources, plan.site, site),
        *overriding(os.environ),
        *in_the_home(plan.services, plan.site),
    )


def create_run(prepared: Prepared) -> RunPaths:
    """Write the run directory: exclusively, readable by its owner alone.

    Raises:
        JobmeterError: it cannot be written.
    """
    plan = prepared.plan
    files = render_files(plan)
    paths = RunPaths(plan.run_dir)
    try:
        paths.run.parent.mkdir(parents=True, exist_ok=True)
        paths.run.mkdir(mode=0o700)
        for folder in (paths.secrets, paths.job_output):
            folder.mkdir(mode=0o700)
        for name, text in files.items():
            _write(paths.run / name, text)
        write_secrets(paths.secrets, new_credentials(plan.username))
        if plan.services.every:
            _write_service_key(paths.secrets, secrets.token_urlsafe(32))
        _write(paths.spec, prepared.job_file)
        write_manifest(manifest_of(prepared), paths.manifest)
    except OSError as cause:
        raise JobmeterError(
            f"the run directory {paths.run} cannot be written: {cause.strerror}; "
            "choose another place with --runs"
        ) from cause
    return paths


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def write_secrets(folder: Path, credentials: Credentials) -> None:
    """Write the password of a run and what is derived from it.

    Raises:
        OSError: it cannot be written.
    """
    _write(folder / "password", credentials.password)
    _write(folder / "curl.conf", credentials.curl_config)
    _write(folder / "web.yml", render_web_config(credentials.username, credentials.bcrypt_hash))


def _write_service_key(folder: Path, key: str) -> None:
    """Write the key of the run's services: as it is, and as a configuration of curl."""
    _write(folder / "service.key", key)
    _write(folder / "service.curl", f'header = "Authorization: Bearer {key}"\n')


def manifest_of(prepared: Prepared) -> RunManifest:
    """Return what run.json says of a run."""
    plan = prepared.plan
    return RunManifest(
        run_id=plan.run_id,
        name=plan.name,
        site=plan.site,
        created=datetime.now(tz=timezone.utc).isoformat(timespec="seconds"),
        nodes=plan.nodes,
        interval_s=plan.interval_s,
        checkpoint_interval_s=plan.checkpoint_interval_s,
        required=plan.required,
        phases=tuple(phase.name for phase in plan.phases),
        targets=plan.targets,
        job_file_sha256=hashlib.sha256(prepared.job_file.encode()).hexdigest(),
        git_commit=_git_commit(),
        jobmeter_version=__version__,
        workload=plan.workload,
        runtime=plan.runtime,
        images=prepared.images,
        kind=plan.kind,
        service_kpis={one.label: one.kpis for one in plan.services.every if one.kpis},
        groups={group.name: len(group.nodes) for group in plan.groups},
    )


def _git_commit() -> str | None:
    """Return the commit of the working folder; None outside a repository or without git."""
    try:
        return run(("git", "rev-parse", "HEAD"), timeout_s=5).strip() or None
    except ProcessError:
        return None


def check_programs(site_name: str, site: SiteProfile) -> None:
    """Say now, not in the job's log, that this machine lacks a program.

    Raises:
        SiteError: naming the program and how to get it.
    """
    programs = site.programs  # that of DCGM is done without where it is not
    needed = {"programs.prometheus": programs.prometheus}
    needed["programs.node_exporter"] = programs.node_exporter
    advice = "'apt-get install prometheus prometheus-node-exporter'"
    if site.runtime.kind != "native":
        needed = {"runtime.program": [site.runtime.program_name]}
        advice = f"'apt-get install {site.runtime.kind}'"
    for key, names in needed.items():
        if find_program(names) is None:
            raise SiteError(
                f"{' or '.join(names)} is not on PATH; install it (Debian: {advice}), or name its "
                f"path under {key} in a copy of the site profile {site_name!r}"
            )
    if find_program(["curl"]) is None:
        raise SiteError("curl is not on PATH; install it (Debian: 'apt-get install curl')")


def run_locally(paths: RunPaths) -> int:
    """Run the script here, in the foreground, and return its exit code."""
    return run_in_foreground(("bash", str(paths.script)))


def submit(paths: RunPaths) -> str:
    """Submit the script and return the job id.

    Raises:
        SchedulerError: sbatch is missing or refused.
    """
    try:
        job_id = slurm.submit(paths.script)
    except SchedulerError as cause:
        raise SchedulerError(f"{cause}; the script is {paths.script}") from cause
    with contextlib.suppress(OSError):  # the job is submitted; its number must reach the user
        write_submission(job_id, paths.submission)
    return job_id
