"""What the documentation promises is there, and what is there is documented."""

import re
from pathlib import Path

import pytest
import yaml

from jobmeter.recipe import Recipe, read_recipe, shipped_recipes
from jobmeter.site import SiteProfile, read_site
from jobmeter.site_files import shipped_sites
from jobmeter.spec import JobSpec, read_spec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
JOB_FILE = (ROOT / "docs" / "job-file.md").read_text()
SERVICES = (ROOT / "docs" / "services.md").read_text()
SITES = (ROOT / "docs" / "sites.md").read_text()


def keys_of(model):
    for name, field in model.model_fields.items():
        yield name
        nested = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for candidate in nested:
            if hasattr(candidate, "model_fields"):
                yield from keys_of(candidate)


@pytest.mark.parametrize("key", sorted(set(keys_of(JobSpec))))
def test_every_key_of_a_job_file_is_documented(key):
    assert re.search(rf"\b{key}:", JOB_FILE), key


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_recipe_is_documented_with_its_parameters(recipe):
    (section,) = re.findall(rf"^### {recipe}\n(.*?)^##", SERVICES, re.S | re.M)
    documented = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.M)))
    assert set(documented) == set(read_recipe(recipe, ROOT, "").parameters)


def test_the_documented_recipe_is_accepted(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", SERVICES, re.S)
    (tmp_path / "job.yaml").write_text(blocks[0])
    read_spec(tmp_path / "job.yaml")
    (tmp_path / "own.yaml").write_text(blocks[1])
    recipe = read_recipe("own.yaml", tmp_path, "")
    assert set(yaml.safe_load(blocks[1])) >= set(Recipe.model_fields) - {"follower", "log_rules"}
    assert recipe.metrics.key


@pytest.mark.parametrize("key", sorted(set(keys_of(SiteProfile))))
def test_every_key_of_a_site_profile_is_documented(key):
    assert re.search(rf"\b{key}:", SITES), key


@pytest.mark.parametrize("name", shipped_sites())
def test_every_shipped_site_is_documented_as_it_is(name):
    site = read_site(name)
    batch = site.launcher == "slurm"
    cells = (
        f"`{name}`",
        site.description + ("; offline" if site.offline else ""),
        site.runtime.kind,
        f"`{site.gpu_option}`" if batch else "",
        ", ".join(site.mandatory),
        f"{site.warning_s} s" if batch else "",
    )
    rows = [line for line in SITES.splitlines() if line.startswith(f"| `{name}` |")]
    assert [re.split(r" *\| *", row)[1:-1] for row in rows] == [list(cells)]


def test_the_documented_files_are_accepted(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", JOB_FILE + (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) >= 3
    for block in blocks:
        path = tmp_path / "job.yaml"
        path.write_text(block)
        read_spec(path)
    (profile,) = re.findall(r"```yaml\n(.*?)```", SITES, re.S)
    path = tmp_path / "site.yaml"
    path.write_text(profile)
    read_site(str(path))
    assert set(yaml.safe_load(profile)) == set(SiteProfile.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_is_in_the_readme():
    import typer.main

    from jobmeter.cli import app

    commands = typer.main.get_command(app).commands
    readme = (ROOT / "README.md").read_text()
    for name in commands:
        assert f"jobmeter {name} " in readme, name


def test_every_variable_of_the_payload_is_documented():
    phases = (ROOT / "sbatch" / "_phases.sh.j2").read_text()
    for name in set(re.findall(r"\b(JOBMETER_[A-Z_]+)=", phases)):
        assert f"`{name}`" in JOB_FILE, name
