"""jobmeter as a user has it: the wheel, built by way of the sdist, in an environment that the
unprivileged user of a test cluster can run."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import requirements
import second_root

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


def install(wheel, folder, root=None):
    """Make a virtual environment in ``folder`` that is whole when it is seen as ``INSIDE``.

    Its Python is that of the machine, or of another root file system.
    """
    folder.mkdir()
    if root is None:
        _make_environment(folder, wheel)
        script = folder / "bin" / "jobmeter"
        script.write_text(script.read_text().replace(str(folder), str(INSIDE)))
    else:
        within = [ROOT / "tools" / "in-root.sh", root, f"{folder}:{INSIDE}", f"{wheel.parent}:/mnt"]
        _make_environment(INSIDE, Path("/mnt") / wheel.name, (*within, "--"), "python3")
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    return folder


def _make_environment(folder, wheel, within=(), python=None):
    """Run the commands, each after ``within``."""
    install = [folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    for command in ([python or _python(), "-m", "venv", folder], install):
        subprocess.run([*within, *command], check=True)


def binds(environment, root=None):
    """What a cluster must show its users: the environment, its dependencies, our payloads."""
    dependencies = second_root.PYTHON_PACKAGES if root else Path(sysconfig.get_path("purelib"))
    return {
        environment: INSIDE,
        dependencies: DEPENDENCIES,
        Path(__file__).parent / "programs": PROGRAMS,
    }


def missing(root=None):
    """One phrase for each thing that keeps a cluster's users from running this jobmeter here."""
    if root is not None:
        return (*requirements.missing(packages=()), *second_root.missing())
    hidden = [f"other users cannot run {_python()}, which is below /root"]
    return (*requirements.missing(), *(hidden if _python().is_relative_to("/root") else ()))


def _python():
    return Path(sys.executable).resolve()
