"""Site profiles: the shipped ones, and one that a user writes."""

from pathlib import Path

import pytest

from jobmeter.errors import SiteError
from jobmeter.plan import Context, make_plan
from jobmeter.site import read_site, shipped_sites
from jobmeter.spec import JobSpec, Resources

CONTEXT = Context("r-1", Path("/runs/r-1"), "job.yaml", Path("/jobs"), "/usr/bin/python3", "0")


def test_the_shipped_profiles_are_readable():
    assert shipped_sites() == ("generic-slurm", "local", "meluxina")
    for name in shipped_sites():
        assert read_site(name).description


def test_an_unknown_site_gets_the_nearest_name():
    with pytest.raises(SiteError, match="did you mean 'meluxina'"):
        read_site("melluxina")


@pytest.mark.parametrize("missing", ["account", "partition", "time"])
def test_meluxina_demands_what_its_scheduler_demands(missing):
    asked = {"account": "p200000", "partition": "gpu", "time": "01:00:00"}
    del asked[missing]
    spec = JobSpec(name="x", run="true", resources=Resources(**asked))
    with pytest.raises(SiteError, match=rf"job.yaml: resources.{missing}: site 'meluxina' demands"):
        make_plan(spec, "meluxina", read_site("meluxina"), CONTEXT)


def test_a_site_of_other_habits_is_a_file(tmp_path):
    profile = tmp_path / "elsewhere.yaml"
    profile.write_text(
        "description: somewhere else\n"
        "launcher: slurm\n"
        "shebang: '#!/bin/bash -l'\n"
        "prologue: ['module load stack/2026']\n"
        "gpu_option: '--gres=gpu:a100:{count}'\n"
        "options: ['--hint=nomultithread']\n"
        "defaults: {partition: boost}\n"
        "warning_s: 120\n"
        "address_suffix: i\n"
    )
    spec = JobSpec(name="x", run="true", resources=Resources(nodes=2, gpus_per_node=4))
    plan = make_plan(spec, str(profile), read_site(str(profile)), CONTEXT)
    assert "--gres=gpu:a100:4" in plan.sbatch_options
    assert "--hint=nomultithread" in plan.sbatch_options
    assert "--partition=boost" in plan.sbatch_options
    assert "--signal=B:USR1@120" in plan.sbatch_options
    assert plan.prologue == ("module load stack/2026",)
    assert plan.address_suffix == "i"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("launcher: slurm", "key 'description' is missing"),
        ("description: x\nlauncher: pbs", "launcher: 'pbs' is not known here; write 'slurm' or"),
        ("description: x\nlauncher: slurm\ngpu_option: gpus", "gpu_option: 'gpus' must be"),
        ("description: x\nlauncher: slurm\nport: {}", "unknown key 'port'; did you mean 'ports'?"),
        ("description: x\nlauncher: slurm\nports: {first: 80}", "ports.first: 80 is too small"),
        ("description: x\nlauncher: slurm\nscratch: []", "scratch: the list is empty"),
    ],
)
def test_a_wrong_profile_names_file_and_key(text, expected, tmp_path):
    profile = tmp_path / "wrong.yaml"
    profile.write_text(text)
    with pytest.raises(SiteError) as caught:
        read_site(str(profile))
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(profile))
