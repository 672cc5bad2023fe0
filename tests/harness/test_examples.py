"""The job files of examples/, planned and rendered for a site that they suit."""

import shutil
import subprocess
from pathlib import Path

import pytest

from jobmeter.plan import Context, make_plan
from jobmeter.render import render_files
from jobmeter.site import read_site
from jobmeter.spec import read_spec

EXAMPLES = Path(__file__).parents[2] / "examples"
MELUXINA = {"account": "p200000", "partition": "gpu", "qos": "default"}


def sites_of(spec):
    """Return the shipped sites for which a job file is meant, each with what it demands."""
    here = [("local", {})] if spec.resources.nodes == 1 else []
    return [*here, ("generic-slurm", {}), ("meluxina", MELUXINA)]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_is_rendered_for_a_site(path, tmp_path):
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not on PATH")
    spec, text = read_spec(path)
    assert f"examples/{path.name}" in text, "says how it is started"
    plans = {}
    for name, demanded in sites_of(spec):
        asked = spec.model_copy(update={"resources": spec.resources.model_copy(update=demanded)})
        context = Context(
            "run-1", tmp_path / "run", path.name, path.parent, "/usr/bin/python3", "0"
        )
        plans[name] = make_plan(asked, name, read_site(name), context)
        script = render_files(plans[name])["job.sbatch"]
        for phase in spec.phases:
            assert f"run_phase {phase.name} " in script
    # What phases run is but text to the script.
    texts = [script, *(phase.command for phase in plans[name].phases)]
    for number, bash in enumerate(texts):
        (tmp_path / f"{number}.sh").write_text(bash)
    checked = subprocess.run(
        [shellcheck, "--shell=bash", "--severity=warning", *sorted(tmp_path.glob("*.sh"))],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
