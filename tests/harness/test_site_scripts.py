"""What each shipped site changes in the rendered scripts, line by line, and that bash accepts it.

A golden file holds what differs from the same job on ``generic-slurm``, so that it changes only
with its site.
"""

import difflib
import re
import shutil
import subprocess

import pytest
import site_jobs

from jobmeter.site_files import shipped_sites

SITES = [site for site in site_jobs.RESOURCES if site != "generic-slurm"]


def test_every_shipped_slurm_site_has_a_job():
    assert {*site_jobs.RESOURCES, "local"} == set(shipped_sites())


def differences(site):
    """Return the lines of every file that are not as on ``generic-slurm``, in their order."""
    asked = site_jobs.asked_of(site)
    ours, usual = site_jobs.files_of(site, asked), site_jobs.files_of("generic-slurm", asked)
    text = ""
    for name in sorted({*ours, *usual}):
        lines = difflib.unified_diff(
            _lines(usual.get(name, "")), _lines(ours.get(name, "")), n=0, lineterm=""
        )
        changed = [line for line in list(lines)[2:] if not line.startswith("@@")]
        text += "\n".join([f"=== {name}", *changed, ""]) if changed else ""
    return text


def _lines(text):
    """Return the lines of a script, each option of a command on a line of its own."""
    return re.sub(r"(?<!SBATCH) --", "\n  --", text).splitlines()


@pytest.mark.parametrize("site", SITES)
def test_what_a_site_changes_matches_golden(site, check_golden):
    check_golden(f"site-{site}.diff", differences(site))


@pytest.mark.parametrize("site", site_jobs.RESOURCES)
def test_the_scripts_of_every_site_pass_shellcheck(site, tmp_path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not on PATH")
    scripts = []
    for name, text in site_jobs.files_of(site, site_jobs.asked_of(site)).items():
        if name.endswith((".sbatch", ".sh")):
            scripts.append(tmp_path / name.replace("/", "-"))
            scripts[-1].write_text(text)
    found = subprocess.run(
        ["shellcheck", "--shell=bash", *map(str, scripts)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout
