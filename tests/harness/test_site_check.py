"""What is thought of a profile, given what was found out: every state, without a cluster."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobmeter import strict
from jobmeter.doctor.finding import health_of
from jobmeter.errors import SiteError
from jobmeter.runtime import ImageStore, RuntimeProfile
from jobmeter.site import SiteProfile, resolve_site
from jobmeter.site_check import judge
from jobmeter.site_facts import ShellFacts, SiteFacts, Unanswered, gather
from jobmeter.site_files import shipped_sites
from jobmeter.site_limits import Partition, Qos
from jobmeter.site_show import yaml_lines
from jobmeter.site_slurm import partitions_from, qos_from

JOBMETER = Path(sys.executable).parent / "jobmeter"
GPU = Partition(nodes=3, max_time="48:00:00", cpus_per_node=8, memory="4000M", gpus_per_node=4)
TEST = Qos(max_time="00:30:00", jobs_per_user=1)
SITE = SiteProfile(
    description="x",
    launcher="slurm",
    prologue=["module load x"],
    partitions={"gpu": GPU},
    qos={"test": TEST},
    runtime=RuntimeProfile(kind="apptainer", binds=["/tier:/data:ro"]),
    images=ImageStore(folder="$PROJECT/images"),
)
FACTS = SiteFacts(
    slurm_programs={"sbatch": Path("/usr/bin/sbatch")},
    partitions={"gpu": GPU},
    qos={"test": TEST},
    shell=ShellFacts(None, "", {"apptainer": "/usr/bin/apptainer"}),
    paths={"/tier": True, "$PROJECT/images": True},
)


def found(site=SITE, **facts):
    return {f.check: f for f in judge(site, replace(FACTS, **facts))}


def test_all_is_well():
    findings = found().values()
    assert {f.state for f in findings} == {"ok"}
    assert health_of(findings) == "healthy"


@pytest.mark.parametrize(
    ("facts", "check", "state", "words"),
    [
        ({"slurm_programs": {"sbatch": None}}, "slurm.sbatch", "broken", "not on PATH"),
        ({"partitions": Unanswered("no answer")}, "slurm.partitions", "unknown", "no answer"),
        ({"qos": Unanswered("no slurmdbd")}, "slurm.qos", "unknown", "no slurmdbd"),
        ({"partitions": {"gpus": GPU}}, "partition.gpu", "degraded", "Slurm has none"),
        ({"partitions": {"gpu": GPU, "cpu": GPU}}, "partition.*", "degraded", "Slurm has cpu"),
        ({"qos": {"test": TEST, "x": Qos()}}, "qos.*", "degraded", "Slurm has x"),
        ({"shell": Unanswered("it ended")}, "shell.prologue", "unknown", "it ended"),
        (
            {"shell": ShellFacts("module load x", "no such module", {"apptainer": None})},
            "shell.prologue",
            "unknown",
            "'module load x' fails here, saying: no such module",
        ),
        (
            {"shell": ShellFacts(None, "", {"apptainer": None})},
            "shell.apptainer",
            "unknown",
            "not found here",
        ),
        ({"paths": {"/tier": False, "$PROJECT/images": True}}, "path./tier", "degraded", "not ex"),
        (
            {"paths": {"/tier": True, "$PROJECT/images": None}},
            "path.$PROJECT/images",
            "unknown",
            "a variable in it is not set",
        ),
    ],
)
def test_what_is_wrong_is_found_and_said(facts, check, state, words):
    finding = found(**facts)[check]
    assert finding.state == state
    assert words in finding.value
    assert finding.advice
    assert health_of([finding]) == ("unhealthy" if state == "broken" else "degraded")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": 4}, "nodes is 3 here, Slurm says 4"),
        ({"max_time": "24:00:00"}, "max_time is 2-00:00:00 here, Slurm says 1-00:00:00"),
        ({"memory": "3900M"}, "memory is 4000M here, Slurm says 3900M"),
        ({"gpus_per_node": 0, "cpus_per_node": 4}, "cpus_per_node is 8 here, Slurm says 4; gpus"),
        ({"memory": "512G"}, ""),  # a job cannot have all of a node
        ({"max_time": None}, ""),  # what Slurm limits elsewhere
        ({"max_time": "2-00:00:00", "max_nodes": 2}, ""),  # the same; not in the profile
    ],
)
def test_limits_are_compared_with_slurms(change, words):
    finding = found(partitions={"gpu": GPU.model_copy(update=change)})["partition.gpu"]
    assert finding.state == ("degraded" if words else "ok")
    assert words in finding.value


def test_a_program_that_is_missing_is_certain_where_jobs_run_on_this_machine():
    site = SITE.model_copy(update={"launcher": "bash", "prologue": []})
    finding = found(site, shell=ShellFacts(None, "", {"apptainer": None}))["shell.apptainer"]
    assert (finding.state, "install it" in finding.advice) == ("broken", True)


def test_containers_without_a_folder_of_images_are_broken():
    site = SITE.model_copy(update={"images": ImageStore()})
    assert found(site)["images.folder"].state == "broken"


def test_a_default_that_slurm_does_not_have_is_broken():
    site = SITE.model_copy(update={"defaults": SITE.defaults.model_copy(update={"qos": "tset"})})
    finding = found(site)["defaults.qos"]
    assert (finding.state, finding.advice) == ("broken", "did you mean 'test'?")


# --- finding out ---


@pytest.mark.parametrize(
    ("prologue", "failed", "said"),
    [
        (["export X=1", "true"], None, ""),
        (["echo hello; false", "true"], "echo hello; false", "hello"),
        (["module() { false; }", "module load x"], "module load x", ""),
        (["if false; then", "echo x", "fi"], None, ""),
        (["printf 'no newline' >&2", "no-such-module load"], "no-such-module load", "no newline"),
    ],
)
def test_the_prologue_is_run_and_its_first_failure_kept(prologue, failed, said):
    site = SiteProfile(description="x", launcher="bash", prologue=prologue)
    shell = gather(site).shell
    assert shell.failed == failed
    assert shell.said.startswith(said)


def test_a_prologue_that_ends_the_shell_is_said_to():
    site = SiteProfile(description="x", launcher="bash", prologue=["echo bye", "exit 0"])
    assert gather(site).shell == Unanswered("the prologue ended the shell, saying: bye")


def test_programs_are_looked_for_where_the_prologue_leaves_path(tmp_path):
    program = tmp_path / "prometheus"
    program.write_text("")
    program.chmod(0o755)
    site = SiteProfile(description="x", launcher="bash", prologue=[f"PATH='{tmp_path}'"])
    shell = gather(site).shell
    assert shell.programs == {"prometheus": str(program), "node_exporter": None, "curl": None}


def test_paths_are_looked_at_with_their_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.delenv("NOWHERE", raising=False)
    site = SITE.model_copy(
        update={
            "launcher": "bash",
            "runtime": RuntimeProfile(kind="apptainer", binds=["$HERE", "$HERE/none:/x:ro"]),
            "images": ImageStore(folder="$NOWHERE/images"),
        }
    )
    assert gather(site).paths == {"$HERE": True, "$HERE/none": False, "$NOWHERE/images": None}


def test_what_slurm_prints_is_read():
    partitions = partitions_from(
        "PartitionName=a MaxNodes=2 MaxTime=UNLIMITED MinNodes=0 TotalNodes=5 QoS=N/A\n"
        "PartitionName=b MaxNodes=UNLIMITED MaxTime=04:00:00 MinNodes=65 TotalNodes=0\n",
        "a|3|128+|480000+|gpu:a100:4(S:0-1),gpu:h100:2,tmp:9\na|2|64|900000|(null)\n"
        "b|0|0|0|(null)\n",
    )
    assert partitions["a"] == Partition(
        nodes=5, max_nodes=2, cpus_per_node=128, memory="900000M", gpus_per_node=6
    )
    assert partitions["b"] == Partition(min_nodes=65, max_time="04:00:00")
    assert qos_from("normal||||\nq|1-00:00:00|cpu=9|10|node=65\n") == {
        "normal": Qos(),
        "q": Qos(max_time="1-00:00:00", jobs_per_user=10, min_nodes=65),
    }


# --- the commands ---


@pytest.mark.parametrize("name", shipped_sites())
def test_what_is_shown_is_the_same_profile(name, tmp_path):
    shown = "\n".join(yaml_lines(resolve_site(name)))
    profile = strict.parse(SiteProfile, shown, "shown", SiteError)
    assert profile == resolve_site(name).profile


def jobmeter(*arguments, cwd):
    return subprocess.run(
        [JOBMETER, "site", *arguments], capture_output=True, text=True, cwd=cwd, timeout=60
    )


def test_a_profile_is_shown_with_where_each_value_is_from(tmp_path):
    (tmp_path / "sites").mkdir()
    mine = tmp_path / "sites" / "mine.yaml"
    mine.write_text("inherits: meluxina\nqos: {test: {max_nodes_share: 0.1}}\n")
    shown = jobmeter("show", "mine", cwd=tmp_path).stdout
    assert re.search(rf"^    max_nodes_share: 0.1 +# {mine}$", shown, re.MULTILINE)
    assert re.search(r"^    max_time: 00:30:00 +# meluxina.yaml \(shipped\)$", shown, re.MULTILINE)
    told = json.loads(jobmeter("show", "mine", "--json", cwd=tmp_path).stdout)
    assert told["origins"]["qos.test.max_nodes_share"] == str(mine)
    assert told["profile"]["qos"]["test"]["max_time"] == "00:30:00"
    assert told["files"] == [str(mine), "meluxina.yaml (shipped)"]


def test_the_list_shows_whose_each_is_and_what_is_unusable(tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "broken.yaml").write_text("launcher: pbs\n")
    lines = jobmeter("list", cwd=tmp_path).stdout.splitlines()
    assert lines[0].split()[:3] == ["broken", "job", "unusable:"]
    assert "meluxina       shipped  MeluXina, LuxProvide, Luxembourg" in lines
    rows = json.loads(jobmeter("list", "--json", cwd=tmp_path).stdout)
    assert {row["name"] for row in rows} == {"broken", *shipped_sites()}


def test_a_job_is_checked_against_the_limits(tmp_path):
    (tmp_path / "job.yaml").write_text("resources: {nodes: 2}\nrun: hostname\n")
    done = jobmeter("check", "local", "--on", "job.yaml", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["health"]) == (1, "unhealthy")
    (job,) = [row for row in told["findings"] if (row["area"], row["name"]) == ("job", "limits")]
    assert "2 nodes on site 'local', which is one machine" in job["value"]
    assert not (tmp_path / "runs").exists()


def test_a_draft_needs_slurm(stand_in, tmp_path):
    done = jobmeter("draft", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("jobmeter: scontrol failed with exit code 127")
    assert line.endswith("; run this on a login node")


def test_a_draft_says_when_the_accounting_does_not_answer(stand_in, tmp_path):
    stand_in("scontrol", "echo PartitionName=cpu MaxTime=01:00:00 TotalNodes=3")
    stand_in("sinfo", "echo 'cpu|3|8|4096|(null)'")
    stand_in("sacctmgr", "echo no slurmdbd >&2; exit 1")
    lines = jobmeter("draft", cwd=tmp_path).stdout.splitlines()
    cpu = "  cpu: {nodes: 3, max_time: '01:00:00', cpus_per_node: 8, memory: 4G, gpus_per_node: 0}"
    assert cpu in lines
    assert lines[-1].startswith("# qos: Slurm's accounting does not answer: sacctmgr failed")
    assert lines[-1].endswith("said: no slurmdbd")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "nope"), "--site nope: no such site profile; known: "),
        (("check", "nope.yaml"), "nope.yaml: no such file"),
    ],
)
def test_a_wrong_name_is_one_line(arguments, words, tmp_path):
    done = jobmeter(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"jobmeter: {words}")
