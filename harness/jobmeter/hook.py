"""The file that a user's own job script sources."""

from __future__ import annotations

from pathlib import Path

from jobmeter.attach import shell_of
from jobmeter.credentials import new_credentials
from jobmeter.errors import JobmeterError
from jobmeter.launch import Prepared, manifest_of, new_name, prepare_unplanned, write_secrets
from jobmeter.manifest import manifest_text
from jobmeter.paths import HookPaths
from jobmeter.render import render_files
from jobmeter.spec import JobSpec
from jobmeter.templating import render


def prepare_hook(spec: JobSpec, site_name: str, runs: Path) -> tuple[Prepared, HookPaths]:
    """Plan what a hook will do, in any number of jobs; nothing is written.

    Raises:
        SpecError: an option asks for something that there is not.
        SiteError: the site profile is wrong.
        ImageError: an image of the stack is missing, or not what was built.
    """
    name = str(spec.name)
    prepared = prepare_unplanned(spec, site_name, runs, f"{name}-<time>-<random>", "hook")
    return prepared, HookPaths(runs.absolute() / f".hook-{new_name(name)}")


def hook_text(prepared: Prepared, paths: HookPaths) -> str:
    """Return the text of the file, everything that its runs need embedded but the secrets.

    Raises:
        RenderError: a template asks for something the plan does not have.
    """
    plan = prepared.plan
    values = {
        "plan": plan,
        "files": render_files(plan),
        "runs": plan.run_dir.parent,
        "secrets": paths.secrets,
        "shell": shell_of(plan),
        "job_file": prepared.job_file,
        "manifest": manifest_text(manifest_of(prepared)),
    }
    return render("sbatch", "hook.sh.j2", values)


def write_hook_secrets(prepared: Prepared, paths: HookPaths) -> None:
    """Make the password of all runs of one hook file, in a new folder of its own.

    A compute node without our Python cannot hash a password as Prometheus wants it.

    Raises:
        JobmeterError: it cannot be written.
    """
    try:
        paths.folder.parent.mkdir(parents=True, exist_ok=True)
        paths.folder.mkdir(mode=0o700)
        paths.secrets.mkdir(mode=0o700)
        write_secrets(paths.secrets, new_credentials(prepared.plan.username))
    except OSError as cause:
        raise JobmeterError(
            f"{paths.folder} cannot be written: {cause.strerror}; choose another place with --runs"
        ) from cause
