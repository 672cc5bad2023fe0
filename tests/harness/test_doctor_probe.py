"""The probe's scripts, what they tell of this machine, and how it is shown."""

import json
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobmeter.doctor import display
from jobmeter.doctor.checks import findings_of
from jobmeter.doctor.facts import Facts, facts_from
from jobmeter.doctor.finding import Finding
from jobmeter.doctor.job import plan_job, queued_from
from jobmeter.doctor.probe import place_here, probe_here, probe_plan, render_probe
from jobmeter.doctor.programs import COMMANDS
from jobmeter.doctor.subject import Subject
from jobmeter.errors import SiteError
from jobmeter.runtime import ContainerImage
from jobmeter.site import SiteProfile, read_site
from jobmeter.spec import Resources

ROOT = Path(__file__).parents[2]
JOBMETER = Path(sys.executable).parent / "jobmeter"
KINDS = ("native", "apptainer", "singularity", "pyxis")


def profile(kind="native", **keys):
    return SiteProfile.model_validate(
        {
            "description": "x",
            "launcher": "slurm",
            "prologue": ["module load Apptainer # first", "export A='it''s'"],
            "runtime": {"kind": kind, "binds": ["$PROJECT/a b:/data", "/mnt/tier2"]},
            "images": {"folder": "$PROJECT/images", "cache": "/p/it's"},
            "address_suffix": "i",
            **keys,
        }
    )


def image(file):
    size_bytes = file.stat().st_size if file.exists() else 1
    return ContainerImage("prometheus", "prometheus", str(file), size_bytes, platform.machine())


def planned(kind, runs=Path("/home/it's me/runs"), file=Path("/p/it's here.sif")):
    return probe_plan("x", profile(kind), runs, {"prometheus": image(file)})


def job_for(site, name="generic-slurm", **asked):
    asked = Resources(time="00:01:00", **asked)
    return plan_job(name, site, asked, probe_plan(name, site, Path("/runs")), ".doctor-1")


@pytest.mark.parametrize("kind", KINDS)
def test_the_scripts_pass_shellcheck(kind, tmp_path):
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not on PATH")
    probe = planned(kind)
    asked = Resources(nodes=2, gpus_per_node=1, time="00:01:00")
    job = plan_job("x", profile(kind), asked, probe, ".doctor-1")
    for name, text in {"probe.sh": job.probe, "probe.sbatch": job.script}.items():
        (tmp_path / name).write_text(text)
        found = subprocess.run(
            [shellcheck, "--shell=bash", str(tmp_path / name)], capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("folder", ["runs", "run's", "a b", "$HOME", "new/below"])
def test_this_machine_tells_everything_that_is_judged(folder, tmp_path):
    facts = probe_here(probe_plan("local", read_site("local"), tmp_path / folder), "both")
    assert facts.complete
    assert facts.need("folder", role="runs")["path"] == str(tmp_path / folder)
    found = findings_of(Subject(facts, read_site("local")))
    assert [f for f in found if f.state == "unknown"] == []
    assert list(tmp_path.iterdir()) == [], "the probe leaves nothing"


def test_facts_of_containers_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PROJECT", str(tmp_path))
    (tmp_path / "a b").mkdir()
    facts = probe_here(planned("apptainer", tmp_path), "both")
    assert facts.need("bind", source=f"{tmp_path}/a b")["there"] == "yes"
    assert facts.need("bind", source="/mnt/tier2")["there"] == ""
    assert facts.need("folder", role="images")["path"] == f"{tmp_path}/images"
    assert facts.need("folder", role="cache")["path"] == "/p/it's"
    assert facts.need("image_file", name="prometheus")["readable"] == ""
    assert facts.find("stack_program") is None
    for name in ("runtime", "user_namespaces", "fuse"):
        assert facts.find(name) is not None


@pytest.fixture
def echoing(tmp_path, monkeypatch):
    """A site whose runtime, a stand-in, prints its words and an image that it is given."""
    runtime = tmp_path / "apptainer"
    runtime.write_text('#!/bin/sh\nprintf "<%s>" "$@" "$APPTAINER_BIND" "$APPTAINERENV_HF_HOME"\n')
    runtime.chmod(0o755)
    (tmp_path / "a b").mkdir()
    (tmp_path / "it's here.sif").write_text("an image")
    for name, value in (("PROJECT", str(tmp_path)), ("HF_HOME", "/h"), ("APPTAINER_BIND", "/no")):
        monkeypatch.setenv(name, value)
    return profile(
        "apptainer",
        scratch=[str(tmp_path)],
        architecture=platform.machine(),
        vendor="nvidia",
        runtime={
            "kind": "apptainer",
            "program": str(runtime),
            "binds": ["$PROJECT/a b:/data:ro"],
            "options": ["--no-mount", "cwd"],
            "environment": ["HF_HOME"],
        },
    )


def tried(site, folder, **changes):
    images = {"prometheus": image(folder / "it's here.sif")}
    plan = replace(probe_plan("x", site, folder / "new" / "runs", images), **changes)
    return probe_here(plan, "both").need("image_start", name="prometheus")


def test_an_image_is_tried_as_a_job_would(echoing, tmp_path):
    found = tried(echoing, tmp_path)
    words = re.sub(r"jobmeter\.\w+", "SCRATCH", found["text"].replace(str(tmp_path), "TMP"))
    assert words == (
        "<exec><--cleanenv><--no-home><--no-mount><cwd>"
        "<--env=GOMAXPROCS=2><--env=GOMEMLIMIT=1GiB>"
        "<--bind=TMP/a b:/data:ro><--bind=TMP:TMP:ro><--bind=TMP/SCRATCH:TMP/SCRATCH:rw>"
        "<TMP/it's here.sif><prometheus><--help><></h>"
    )
    assert found["status"] == "0"
    assert not list(tmp_path.glob("jobmeter*")), "the probe leaves nothing"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "a b").rmdir(), "'{}/a b' is to be bound into its container"),
        (
            lambda folder: (folder / "apptainer").write_text("#!/bin/sh\nexec sleep 600\n"),
            "",
        ),
    ],
)
def test_a_container_that_does_not_start_is_told_as_in_a_job(echoing, tmp_path, change, why):
    change(tmp_path)
    found = tried(echoing, tmp_path, ask_limit_s=1)
    assert found["status"] == ("missing" if why else "124")
    assert found["text"].startswith(why.format(tmp_path))


def test_a_proxy_is_told_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    facts = probe_here(probe_plan("local", read_site("local"), tmp_path), "both")
    assert facts.need("proxy", name="http_proxy")["value"] == "http://...@proxy:3128"
    assert "secret" not in json.dumps(facts.told)


def test_the_probe_asks_for_what_is_judged():
    """Every fact that a judge reads is told by the script, by our exporters, or by Python."""
    judges = (ROOT / "harness" / "jobmeter" / "doctor").glob("*.py")
    asked = set()
    for path in judges:
        asked |= set(re.findall(r'facts\.(?:need|find|all)\(\s*"(\w+)"', path.read_text()))
    told = set(re.findall(r"\btell (\w+)", (ROOT / "sbatch" / "probe.sh.j2").read_text()))
    assert asked - told == {"exporter", "image", "images", "prologue"}


def test_the_commands_are_those_of_the_scripts():
    scripts = "".join(
        path.read_text()
        for path in (ROOT / "tests" / "harness" / "golden" / "meluxina-gpu").rglob("*")
        if path.suffix in (".sh", ".sbatch")
    )
    for name in COMMANDS:
        assert re.search(rf"(?<![\w.-]){name}\b", scripts), name


def test_what_is_cut_short_is_read_as_far_as_it_goes():
    text = '{"fact": "host", "name": "n1"}\n\xff\n{"fact": "bash", "version": "5"}\n{"fact": "e'
    facts = facts_from(text, "n0")
    assert (facts.host, len(facts.told), facts.complete) == ("n1", 2, False)


def test_the_request_is_that_of_a_job():
    script = job_for(read_site("generic-slurm"), nodes=2, partition="cpu").script
    assert "#SBATCH --nodes=2" in script
    assert "#SBATCH --time=00:01:00" in script
    assert "#SBATCH --partition=cpu" in script
    assert "--overlap --mem=0 --nodes=2 --ntasks=2" in script


def test_what_a_site_demands_is_asked_for_by_its_option():
    with pytest.raises(SiteError, match="--account: site 'meluxina' demands one; add --account"):
        job_for(read_site("meluxina"), "meluxina", partition="cpu")


def test_a_queue_that_forgot_the_job():
    assert queued_from("") is None
    assert queued_from("PENDING|QOSMaxJobsPerUserLimit\n") == ("PENDING", "QOSMaxJobsPerUserLimit")


@pytest.mark.parametrize(
    ("environment", "site", "place"),
    [
        ({}, "local", "both"),
        ({}, "generic-slurm", "login"),
        ({"SLURM_JOB_ID": "1"}, "generic-slurm", "login"),  # salloc that stays on the login host
        ({"SLURM_JOB_ID": "1", "SLURMD_NODENAME": "n1"}, "generic-slurm", "both"),
    ],
)
def test_what_this_machine_is_for(environment, site, place):
    assert place_here(read_site(site), environment) == place


def report_of(*findings, hosts=("n1", "n2"), login=False):
    facts = tuple(Facts(host, ()) for host in hosts)
    return display.Report("x", "a cluster", tuple(findings), facts, login)


def finding(host, check, state, value="v", meaning="", advice=""):
    area, name = check.split(".")
    return Finding(host, area, name, state, value, meaning, advice)


def test_equal_findings_are_one_line():
    report = report_of(
        finding("n1", "programs.bash", "ok", "5.2"),
        finding("n2", "programs.bash", "ok", "5.2"),
        finding("n1", "programs.curl", "ok", "8.1"),
        finding("n2", "programs.curl", "broken", "not on PATH", "no edges", "install it"),
        finding("n1", "files.runs", "ok", "3 GiB free"),
        finding("n2", "files.runs", "ok", "2 GiB free"),
    )
    assert list(display.plain_lines(report)) == [
        "ok             programs.bash           5.2",
        "ok             programs.curl           n1: 8.1",
        "broken         programs.curl           n2: not on PATH; no edges -> install it",
        "ok             files.runs              3 GiB free (n1; others differ)",
    ]


def test_the_last_lines_say_what_to_do_first():
    report = report_of(
        finding("n1", "programs.bash", "unknown", advice="look"),
        finding("n1", "programs.curl", "degraded", advice="mend"),
        finding("n1", "files.runs", "broken", advice="choose another"),
        hosts=("n1",),
        login=True,
    )
    assert list(display.summary(report)) == [
        "unhealthy: site x (a cluster), n1: 1 broken, 1 degraded, 1 unknown",
        "compute nodes were not asked; --on-compute does, with a job of one minute",
        "first: choose another (files.runs)",
        "then: mend (programs.curl)",
        "then: look (programs.bash)",
    ]


def test_a_terminal_of_80_columns_shows_every_word(tmp_path):
    advice = "set 'address_suffix' of the site profile to what makes a node's name on the fabric"
    report = report_of(
        finding("n1", "programs.node_exporter", "degraded", "v" * 60, "meaning " * 12, advice),
        finding("n2", "programs.node_exporter", "ok"),
    )
    with (tmp_path / "out").open("w") as out:
        display.print_report(report, Console(file=out, width=80, force_terminal=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", (tmp_path / "out").read_text())
    assert max(map(len, text.splitlines())) <= 80
    assert text.split().count("meaning") == 12
    assert advice.split()[-1] in text


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--site", "locl"), 2, "--site locl: no such site profile; did you mean 'local'?"),
        (("--on-compute",), 2, "--on-compute: site 'local' has no batch system; leave it out"),
        (("--site", "none.yaml"), 2, "none.yaml: no such file"),
        (("--nodes", "none"), 2, "--nodes"),
    ],
)
def test_a_wrong_request(options, code, expected, tmp_path):
    done = subprocess.run(
        [JOBMETER, "doctor", *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_a_node_does_not_see_is_named(tmp_path):
    """What the script itself says when it cannot write: the job's output has it."""
    script = tmp_path / "probe.sh"
    script.write_text(render_probe(planned("native", tmp_path)))
    done = subprocess.run(
        ["bash", script, "node", tmp_path / "missing"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "missing" in done.stderr
