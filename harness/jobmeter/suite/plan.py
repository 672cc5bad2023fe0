"""The plan of a test run: what is asked of the site, and what runs in which container there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jobmeter import __version__
from jobmeter.errors import SiteError
from jobmeter.manifest import UsedImage
from jobmeter.paths import SuitePaths
from jobmeter.plan import Context, Plan, make_plan
from jobmeter.runtime import ContainerImage, Mount, Start, container_start
from jobmeter.site import SiteProfile
from jobmeter.spec import JobSpec, Resources
from jobmeter.suite.sources import identity
from jobmeter.templating import ShellText, quoted, render

PROGRAM = "jobmeter-tests"
"""What starts pytest in the sources of the image."""

TIME_LIMIT = "00:15:00"
"""Of the job, unless somebody asks for another one."""

STOP_LIMIT_S = 20
"""For pytest to end in order when the job is told to; Slurm waits 30 s by default."""

PYTHON_FOLDERS = ("harness", "exporters", "analysis")


@dataclass(frozen=True)
class Asked:
    """What the person asks for.

    Args:
        resources: Of the batch system.
        keyword: pytest's ``-k``.
        marker: pytest's ``-m``.
    """

    resources: Resources
    keyword: str | None = None
    marker: str | None = None


@dataclass(frozen=True)
class SuitePlan:
    """A test run that is planned and not yet written anywhere.

    Args:
        paths: Its folder.
        plan: Of the job: what a job file with one command would give.
        image: In which it runs; None on the node itself.
        source: The source tree that is tested there; None where it is that of the image.
        arguments: Words after the command that starts the container, or pytest.
    """

    paths: SuitePaths
    plan: Plan
    image: UsedImage | None
    source: Path | None
    arguments: tuple[str, ...]

    @property
    def stop_limit_s(self) -> int:
        """How long pytest may take to end when it is told to."""
        return STOP_LIMIT_S

    def script(self) -> str:
        """Return the text of the job script.

        Raises:
            RenderError: the template asks for something that there is not.
        """
        return render("sbatch", "tests.sbatch.j2", {"plan": self.plan, "suite": self})

    def sources(self) -> Mapping[str, str | None]:
        """Return which sources are tested; empty where the image says it."""
        return {} if self.source is None else identity(self.source)


def suite_plan(
    site_name: str,
    site: SiteProfile,
    asked: Asked,
    run_dir: Path,
    image: UsedImage | None,
    source: Path | None,
) -> SuitePlan:
    """Plan a test run; nothing is written.

    Args:
        site_name: As given.
        site: The profile.
        asked: What is asked for.
        run_dir: Where the run will lie, absolute.
        image: That of the tests; None where they run on the node itself.
        source: The source tree whose tests these are then.

    Raises:
        SiteError: the site demands something that was not given, or cannot run this.
    """
    paths = SuitePaths(run_dir)
    plan = _job_plan(site_name, site, asked.resources, run_dir)
    start = _native(source) if image is None else _contained(site, image)
    return SuitePlan(
        paths=paths,
        plan=replace(plan, starts={"tests": start}),
        image=image,
        source=source if image is None else None,
        arguments=(
            *(() if image is None else (*_settings(None), PROGRAM)),
            *_pytest_words(asked),
        ),
    )


def check_demands(site_name: str, site: SiteProfile, asked: Resources) -> None:
    """Refuse a request that lacks what the site demands, or asks for what it has not.

    Raises:
        SiteError: naming the option.
    """
    if site.launcher != "slurm":
        return
    for key in site.mandatory:
        if not (getattr(asked, key) or getattr(site.defaults, key)):
            raise SiteError(f"--{key}: site {site_name!r} demands one; add --{key}")
    _job_plan(site_name, site, asked, Path.cwd())


def _job_plan(site_name: str, site: SiteProfile, asked: Resources, run_dir: Path) -> Plan:
    context = Context(
        run_id=run_dir.name,
        run_dir=run_dir,
        job_file="jobmeter test",
        job_dir=Path.cwd(),
        python=sys.executable,
        jobmeter_version=__version__,
    )
    spec = JobSpec(name="jobmeter-tests", resources=asked, run="true")
    return make_plan(spec, site_name, site, context)


def _contained(site: SiteProfile, image: UsedImage) -> Start:
    """Return how the container is started: its program sets variables for the real one."""
    file = ContainerImage("tests", "env", image.file, image.size_bytes, image.architecture)
    mounts = (Mount('"$RUN"', writable=True), Mount('"$WORK"', writable=True))
    return container_start(site.runtime, file, component="tests", variables={}, mounts=mounts)


def _native(source: Path | None) -> Start:
    missing = f"{sys.executable}, which runs jobmeter, is not on this node"
    before = ("env", *_settings(source))
    return Start((sys.executable,), before, ("-m", "pytest"), missing)


def _settings(source: Path | None) -> tuple[str, ...]:
    """Return the variables of pytest: what it writes lies in the run or on the node."""
    modules = ['"$RUN"/plugins']
    if source is not None:
        modules += [quoted(source / name) for name in PYTHON_FOLDERS]
    return (
        ShellText(f"PYTHONPATH={':'.join(modules)}"),
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONUNBUFFERED=1",  # a job that is killed leaves its last line, too
        ShellText('HOME="$WORK"'),
        ShellText('TMPDIR="$WORK"'),
        ShellText('HYPOTHESIS_STORAGE_DIRECTORY="$WORK"/hypothesis'),
    )


def _pytest_words(asked: Asked) -> tuple[str, ...]:
    chosen = (("-k", asked.keyword), ("-m", asked.marker))
    return (
        *("-p", "no:cacheprovider", "-p", "jobmeter_junit"),
        ShellText('--jobmeter-junit="$RUN"/junit.xml'),
        *("--verbose", "--color=no", "--continue-on-collection-errors"),
        *(word for option, value in chosen if value for word in (option, value)),
    )
