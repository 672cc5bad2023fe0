"""Site profiles: the shipped ones, one that a user writes, and one that changes another."""

from pathlib import Path

import pytest

from jobmeter.errors import SiteError
from jobmeter.plan import Context, make_plan
from jobmeter.site import read_site, resolve_site
from jobmeter.site_files import shipped_sites
from jobmeter.spec import JobSpec, Resources

CONTEXT = Context("r-1", Path("/runs/r-1"), "job.yaml", Path("/jobs"), "/usr/bin/python3", "0")
NAMED = ("juwels", "leonardo", "lumi", "marenostrum5", "meluxina")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a profile below ``tmp_path``, the user's folder too."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def put(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return put


def test_the_shipped_profiles_are_readable():
    assert shipped_sites() == tuple(sorted((*NAMED, "generic-slurm", "local")))
    for name in shipped_sites():
        assert read_site(name).description


@pytest.mark.parametrize("name", NAMED)
def test_a_named_site_demands_an_account_and_uses_containers(name):
    site = read_site(name)
    assert "account" in site.mandatory
    assert site.runtime.kind in ("apptainer", "singularity")


def test_generic_sites_start_programs_without_a_container():
    assert read_site("generic-slurm").runtime.kind == read_site("local").runtime.kind == "native"


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


def test_a_site_of_other_habits_is_a_file(write):
    profile = write(
        "elsewhere.yaml",
        "description: somewhere else\n"
        "launcher: slurm\n"
        "shebang: '#!/bin/bash -l'\n"
        "prologue: ['module load stack/2026']\n"
        "gpu_option: '--gres=gpu:a100:{count}'\n"
        "options: ['--hint=nomultithread']\n"
        "defaults: {partition: boost}\n"
        "warning_s: 120\n"
        "address_suffix: i\n",
    )
    spec = JobSpec(name="x", run="true", resources=Resources(nodes=2, gpus_per_node=4))
    plan = make_plan(spec, profile, read_site(profile), CONTEXT)
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
        (
            "description: x\nlauncher: slurm\npartitions: {gpu: {gpu_per_node: 4}}",
            "partitions.gpu: unknown key 'gpu_per_node'; did you mean 'gpus_per_node'?",
        ),
        (
            "description: x\nlauncher: slurm\npartitions: {gpu: {memory: 480 GiBi}}",
            "partitions.gpu.memory: '480 GiBi' is not an amount of memory; write a number with M,",
        ),
        (
            "description: x\nlauncher: slurm\nqos: {test: {max_nodes_share: 5%}}",
            "qos.test.max_nodes_share: '5%' is not a number",
        ),
        (
            "description: x\nlauncher: slurm\nqos: {test: {max_nodes_share: 5}}",
            "qos.test.max_nodes_share: 5 is too large; write 1.0 or less",
        ),
        (
            "description: x\nlauncher: slurm\nqos: {test: {max_time: half an hour}}",
            "qos.test.max_time: 'half an hour' is not a time limit",
        ),
    ],
)
def test_a_wrong_profile_names_file_and_key(text, expected, write):
    profile = write("wrong.yaml", text)
    with pytest.raises(SiteError) as caught:
        read_site(profile)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(profile)


# --- where a name leads ---


def test_a_name_is_looked_for_beside_the_job_then_in_the_users_folder_then_among_the_shipped(
    write, tmp_path
):
    text = "description: {}\nlauncher: slurm\n"
    assert read_site("lumi", tmp_path).description == "LUMI, CSC, Finland"
    write("config/jobmeter/sites/lumi.yaml", text.format("the user's"))
    assert read_site("lumi", tmp_path).description == "the user's"
    write("sites/lumi.yaml", text.format("the job's"))
    assert read_site("lumi", tmp_path).description == "the job's"
    assert read_site("lumi").description == "the user's"


def test_a_job_file_that_is_called_like_a_site_is_not_that_site(write, tmp_path):
    write("meluxina.yaml", "run: true")
    assert read_site("meluxina", tmp_path).launcher == "slurm"


def test_the_users_folder_is_that_of_the_configuration(write, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(".config/jobmeter/sites/mine.yaml", "description: mine\nlauncher: bash\n")
    assert read_site("mine").description == "mine"


# --- inheritance ---


def test_mappings_are_merged_and_everything_else_is_replaced(write):
    child = write(
        "mine.yaml",
        "inherits: meluxina\n"
        "prologue: [module load mine]\n"
        "defaults: {account: p200999}\n"
        "qos: {test: {max_nodes_share: 0.1}}\n",
    )
    site, parent = read_site(child), read_site("meluxina")
    assert site.prologue == ["module load mine"]
    assert (site.defaults.account, site.defaults.qos) == ("p200999", "default")
    assert site.qos["test"].max_nodes_share == 0.1
    assert site.qos["test"].max_time == parent.qos["test"].max_time
    assert site.partitions == parent.partitions
    assert site.description == parent.description


def test_null_takes_away_what_was_inherited(write):
    child = write(
        "mine.yaml",
        "inherits: meluxina\nprologue: null\nqos: {test: null, long: {max_time: null}}\n",
    )
    site = read_site(child)
    assert site.prologue == []
    assert "test" not in site.qos
    assert site.qos["long"].max_time is None
    assert site.qos["long"].jobs_per_user == 1


def test_a_profile_may_change_the_shipped_one_of_its_own_name(write):
    write("config/jobmeter/sites/meluxina.yaml", "inherits: meluxina\ndefaults: {account: mine}\n")
    resolved = resolve_site("meluxina")
    assert resolved.profile.defaults.account == "mine"
    assert [file.kind for file in resolved.merged.files] == ["user", "shipped"]


def test_a_profile_may_inherit_from_a_file_beside_it(write):
    write("a/base.yaml", "description: base\nlauncher: slurm\nwarning_s: 99\n")
    by_name = write("a/by-name.yaml", "inherits: base\n")
    by_path = write("b/by-path.yaml", "inherits: ../a/base.yaml\n")
    assert read_site(by_name).warning_s == read_site(by_path).warning_s == 99


@pytest.mark.parametrize(
    ("first", "second"), [("two", "one"), ("one.yaml", "one"), ("./two.yaml", "./one.yaml")]
)
def test_a_circle_is_refused(first, second, write):
    one = write("one.yaml", f"inherits: {first}\n")
    write("two.yaml", f"inherits: {second}\n")
    with pytest.raises(SiteError, match=r"inherits: goes round in a circle: .*one.yaml -> .*one"):
        read_site(one)


def test_a_profile_that_inherits_from_nothing_says_what_there_is(write):
    child = write("mine.yaml", "inherits: meluxinna\n")
    with pytest.raises(SiteError) as caught:
        read_site(child)
    assert str(caught.value) == (
        f"{child}: inherits: 'meluxinna': no such site profile; did you mean 'meluxina'?"
    )


def test_an_error_names_the_file_that_said_it(write):
    base = write("base.yaml", "description: x\nlauncher: slurm\nqos: {test: {max_tme: '1'}}\n")
    child = write("mine.yaml", "inherits: base\nports: {first: 80}\n")
    with pytest.raises(SiteError, match=r"qos.test: unknown key 'max_tme'") as caught:
        read_site(child)
    assert str(caught.value).startswith(base)
    write("base.yaml", "description: x\nlauncher: slurm\n")
    with pytest.raises(SiteError, match=r"ports.first: 80 is too small") as caught:
        read_site(child)
    assert str(caught.value).startswith(child)


def test_it_is_known_which_file_said_what(write):
    child = write("mine.yaml", "inherits: meluxina\nqos: {test: {max_nodes_share: 0.1}}\n")
    merged = resolve_site(child).merged
    assert str(merged.origin(("qos", "test", "max_nodes_share"))) == child
    assert str(merged.origin(("qos", "test", "max_time"))) == "meluxina.yaml (shipped)"
    assert ("warning_s",) in merged.origins
    assert ("ports", "first") not in merged.origins
