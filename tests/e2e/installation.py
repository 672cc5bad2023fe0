"""jobmeter as a user has it: the wheel, built by way of the sdist, in an environment that the
unprivileged user of a test cluster can run."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import requirements

ROOT = Path(__file__).parents[2]
INSIDE = Path("/opt/jobmeter")
DEPENDENCIES = Path("/opt/jobmeter-dependencies")
PROGRAMS = Path("/opt/programs")


def build_wheel(folder):
    """Build the sdist and, from it, the wheel; return the wheel."""
    source = folder / "jobmeter"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.split(b"\0")
    for name in filter(None, map(bytes.decode, tracked)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    out = folder / "dist"
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def install(wheel, folder):
    """Make a virtual environment in ``folder`` that is whole when it is seen as ``INSIDE``."""
    base = Path(sys.executable).resolve()
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    subprocess.run(
        [folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    script = folder / "bin" / "jobmeter"
    script.write_text(script.read_text().replace(str(folder), str(INSIDE)))
    return folder


def binds(environment):
    """What a cluster must show its users: the environment, its dependencies, our payloads."""
    return {
        environment: INSIDE,
        Path(sysconfig.get_path("purelib")): DEPENDENCIES,
        Path(__file__).parent / "programs": PROGRAMS,
    }


def missing():
    """One phrase for each thing that keeps a cluster's users from running this jobmeter here."""
    base = Path(sys.executable).resolve()
    hidden = [f"other users cannot run {base}, which is below /root"]
    return (*requirements.missing(), *(hidden if base.is_relative_to("/root") else ()))
