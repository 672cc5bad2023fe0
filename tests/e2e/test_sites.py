"""Site profiles and a real Slurm: what the shipped ones ask for is accepted, and one that nobody
has seen before works from its file alone."""

import json

import pytest
import requirements
import site_jobs
import slurm_conf
from testbed import Cluster

from jobmeter.errors import SiteError
from jobmeter.quantities import slurm_memory_mb
from jobmeter.site import read_site
from jobmeter.site_limits import OTHERS

pytestmark = pytest.mark.cluster

SITES = {site: read_site(site) for site in site_jobs.RESOURCES}
NODES = 70
"""Of each kind: more than the smallest job of any QOS."""


def partitions_of(site):
    return {name: p for name, p in SITES[site].partitions.items() if name != OTHERS}


def qos_of(site):
    return {name: q for name, q in SITES[site].qos.items() if name != OTHERS}


def lines_of(site):
    """Yield what ``slurm.conf`` needs for the partitions of a profile.

    Their nodes are those of a cloud: Slurm takes them for machines that are switched off, and plans
    with the CPUs, memory and GPUs they are said to have.
    """
    for name, limits in SITES[site].partitions.items():
        nodes = f"{site}-{'any' if name == OTHERS else name.replace('_', '-')}[1-{NODES}]"
        cpus = limits.cpus_per_node or 256
        memory_mb = slurm_memory_mb(limits.memory) if limits.memory else 1_000_000
        gpus = f"Gres=gpu:{limits.gpus_per_node}" if limits.gpus_per_node else ""
        yield (
            f"NodeName={nodes} CPUs",
            f"{cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1"
            f" RealMemory={memory_mb} {gpus} State=CLOUD",
        )
        # The cluster has its own of this name, with every node in it.
        if name != OTHERS and name not in slurm_conf.PARTITIONS:
            most = f"MaxNodes={limits.max_nodes}" if limits.max_nodes else ""
            longest = f"MaxTime={limits.max_time}" if limits.max_time else ""
            yield f"PartitionName={name} Nodes", f"{nodes} {most} {longest} State=UP"


@pytest.fixture(scope="module")
def everywhere():
    """A cluster that has the partitions and the QOS of every shipped site."""
    lacking = requirements.missing()
    if lacking:
        pytest.skip(f"no Slurm cluster on this machine: {'; '.join(lacking)}")
    settings = {
        "GresTypes": "gpu",
        "SuspendProgram": "/bin/true",
        "ResumeProgram": "/bin/true",
        "SuspendTime": 86400,
        "SuspendExcNodes": "mel[0001-0003]",
    }
    for site in SITES:
        settings |= dict(lines_of(site))
    with Cluster.start(**settings) as cluster:
        wanted = {name: qos for site in SITES for name, qos in qos_of(site).items()}
        commands = [f"add qos {','.join(wanted)}", f"modify user hpc set qos+={','.join(wanted)}"]
        for name, qos in wanted.items():
            limits = f"MaxWall={qos.max_time}" if qos.max_time else ""
            limits += f" MaxTRESPerJob=node={qos.max_nodes}" if qos.max_nodes else ""
            limits += f" MaxJobsPerUser={qos.jobs_per_user}" if qos.jobs_per_user else ""
            commands += [f"modify qos {name} set {limits}"] if limits else []
        cluster.run("sacctmgr", "-i", user="root", stdin="\n".join(commands) + "\n")
        for name in {r for qos in wanted.values() for r in qos.reservations}:
            cluster.run(
                *("scontrol", "create", f"reservation={name}", "starttime=now", "duration=60"),
                *("users=hpc", f"nodes=meluxina-{name.removesuffix('dev')}1"),
                user="root",
            )
        yield cluster


def test_only(cluster, site, resources):
    """Return what sbatch says of the site's script with these resources; nothing is submitted."""
    script = cluster.home / "job.sbatch"
    script.write_text(site_jobs.files_of(site, resources)["job.sbatch"])
    return cluster.run("sbatch", "--test-only", "/home/hpc/job.sbatch", check=False)


test_only.__test__ = False


@pytest.mark.parametrize("site", SITES)
def test_sbatch_accepts_the_usual_job_of_a_site(site, everywhere):
    done = test_only(everywhere, site, site_jobs.asked_of(site))
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


@pytest.mark.parametrize(
    ("site", "partition"), [(site, name) for site in SITES for name in partitions_of(site)]
)
def test_sbatch_accepts_all_of_a_node_of_every_partition(site, partition, everywhere):
    limits = partitions_of(site)[partition]
    asked = site_jobs.asked_of(
        site,
        nodes=min(2, limits.max_nodes or 2),
        partition=partition,
        qos=None,
        cpus_per_task=limits.cpus_per_node,
        memory=limits.memory,
        gpus_per_node=limits.gpus_per_node or 0,
    )
    done = test_only(everywhere, site, asked)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("site", "qos"), [(site, name) for site in SITES for name in qos_of(site)])
def test_sbatch_accepts_every_qos(site, qos, everywhere):
    limits = qos_of(site)[qos]
    asked = site_jobs.asked_of(
        site,
        nodes=limits.min_nodes or 1,
        qos=qos,
        reservation=next((r for r in limits.reservations if r.startswith("gpu")), None),
    )
    done = test_only(everywhere, site, asked)
    assert done.returncode == 0, done.stderr


def test_sbatch_accepts_groups_of_different_partitions(everywhere):
    groups = {
        "gpus": {"nodes": 1, "tasks_per_node": 4},
        "cpus": {"partition": "cpu", "gpus_per_node": 0, "nodes": 3, "exclusive": True},
    }
    done = test_only(everywhere, "meluxina", site_jobs.asked_of("meluxina", groups=groups))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("site", "change"), [("lumi", {"gpus_per_node": 9}), ("meluxina", {"partition": "gpuu"})]
)
def test_what_our_limits_refuse_slurm_refuses_too(site, change, everywhere):
    asked = site_jobs.asked_of(site, **change)
    with pytest.raises(SiteError):
        site_jobs.files_of(site, asked)
    assert test_only(everywhere, "generic-slurm", asked).returncode != 0


# --- a site that nobody has seen before ---

ELSEWHERE = """\
inherits: base
description: a cluster that was made up
shebang: "#!/bin/bash -l"
prologue:
  - module load stack/2026
  - export FROM_PROLOGUE="$STACK_VERSION here"
mandatory: [account, qos]
defaults: {account: p200999, qos: urgent}
options: ["--comment='of the site'", "--nice=17"]
warning_s: 45
scratch: ["$ELSEWHERE_DISK", /dev/shm]
qos:
  urgent: {max_time: "00:30:00"}
  test: {max_time: "01:00:00"}
"""
BASE = """\
description: what its clusters have in common
launcher: slurm
ports: {first: 21000, last: 21999}
programs: {node_exporter: [a-name-of-their-own, prometheus-node-exporter]}
"""
PROFILE_OF_THE_SHELL = """\
export ELSEWHERE_DISK=/dev/shm/disk
mkdir -p "$ELSEWHERE_DISK"
module() { export STACK_VERSION=${2#stack/}; }
"""


@pytest.fixture
def elsewhere(user):
    """The files of a made-up site, in the user's folder, and a module command of login shells."""
    home = user.cluster.home
    sites = home / ".config" / "jobmeter" / "sites"
    sites.mkdir(parents=True)
    (sites / "elsewhere.yaml").write_text(ELSEWHERE)
    (sites / "base.yaml").write_text(BASE)
    (home / ".bash_profile").write_text(PROFILE_OF_THE_SHELL)
    yield user
    (home / ".bash_profile").unlink()
    for name in ("elsewhere.yaml", "base.yaml"):
        (sites / name).unlink()
    sites.rmdir()


def test_a_site_is_added_by_a_file_alone(elsewhere):
    job = """\
resources: {nodes: 2, time: "00:10:00"}
monitoring: {interval: 1s}
run: >-
  echo "prologue: $FROM_PROLOGUE";
  scontrol show job "$SLURM_JOB_ID" | grep -E "QOS=|Comment=|Nice=|TimeLimit=";
  ls -d /dev/shm/disk/*
"""
    run = elsewhere.submit("job.yaml", job, "--wait", site="elsewhere")
    output = run.output
    assert "prologue: 2026 here" in output  # its module line has run, in a login shell
    assert "QOS=urgent" in output
    assert "Comment=of the site" in output
    assert "Nice=17" in output
    assert "/dev/shm/disk/" in output.split("TimeLimit=")[1]  # what the stack works with
    assert "#SBATCH --signal=B:USR1@45" in (run.folder / "job.sbatch").read_text()
    assert [event["exit_code"] for event in run.events("job_end")] == [0]
    table = run.table()
    assert table.manifest["state"] == "complete"
    used = {address for address in _addresses(run) if 21000 <= address <= 21999}
    assert used == set(_addresses(run))


MODULES = """\
description: a site whose profile names a module that is gone
inherits: generic-slurm
prologue:
  - . /opt/programs/modules.sh
  - module load stack/2026
  - module load Apptainer/9.9-GCCcore
  - export FROM_PROLOGUE="$STACK_VERSION here"
"""


def test_a_module_that_is_not_there_is_said_before_the_payload_starts(user):
    job = "resources: {nodes: 1}\nmonitoring: {interval: 1s}\nrun: echo payload $FROM_PROLOGUE\n"
    run = user.submit("job.yaml", job, "--wait", site=user.write("modules.yaml", MODULES))
    why = "module load Apptainer/9.9-GCCcore (status 1)"
    said = f"jobmeter: of the prologue of site /home/hpc/modules.yaml failed: {why}"
    before, _, after = run.output.partition(f"{said}\n")
    assert "Unable to locate a modulefile for Apptainer/9.9-GCCcore" in before
    assert "payload 2026 here" in after, "what comes after it has run"
    (failed,) = run.events("prologue_failed")
    assert failed["why"] == why
    assert failed["t"] <= run.events("phase_start")[0]["t"]
    reasons = run.table().manifest["reasons"]
    assert f"of the site's prologue failed: {why}" in reasons


def _addresses(run):
    """Yield the port of every target of the stack."""
    for file in (run.attempt / "targets").glob("stack.*.json"):
        for group in json.loads(file.read_text()):
            yield from (int(target.rpartition(":")[2]) for target in group["targets"])


def test_what_a_made_up_site_cannot_run_is_refused_and_nothing_is_written(elsewhere):
    job = 'resources: {time: "02:00:00"}\nrun: hostname\n'
    path = elsewhere.write("job.yaml", job)
    runs = "/home/hpc/refused"
    done = elsewhere.jobmeter("submit", path, "--site", "elsewhere", "--runs", runs, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == (
        f"jobmeter: {path}: resources.time: 02:00:00 asked for, but QOS 'urgent' allows 00:30:00; "
        "ask for 00:30:00 or less"
    )
    assert not elsewhere.outside(runs).exists()


def test_an_option_of_the_job_that_cannot_be_checked_is_said(elsewhere):
    job = 'resources: {extra: ["--ntasks=2"]}\nrun: hostname\n'
    done = elsewhere.jobmeter("render", elsewhere.write("job.yaml", job), "--site", "elsewhere")
    assert done.stderr == (
        "jobmeter: resources.extra: --ntasks is not checked against the limits of site "
        "'elsewhere'\n"
    )


# --- is it right here? ---

OURS = """\
description: the test cluster
launcher: slurm
mandatory: [account]
defaults: {account: p200999, partition: cpu, qos: default}
partitions:
  cpu: {nodes: 3, cpus_per_node: 8, memory: 4000M, gpus_per_node: 0, max_time: "48:00:00"}
  gpu: {nodes: 3, gpus_per_node: 0}
qos: {default: {}, test: {}, urgent: {}, normal: {}}
"""


def check(user, text, *options):
    done = user.jobmeter(
        "site", "check", user.write("ours.yaml", text), "--json", *options, check=False
    )
    told = json.loads(done.stdout)
    assert done.returncode == {"healthy": 0, "unhealthy": 1, "degraded": 2}[told["health"]]
    return {f"{f['area']}.{f['name']}": f for f in told["findings"]}


def test_a_profile_that_agrees_with_slurm_is_healthy(user):
    findings = check(user, OURS, "--on", user.write("job.yaml", "run: hostname\n"))
    assert {f["state"] for f in findings.values()} == {"ok"}, findings
    assert findings["job.slurm"]["value"] == "Slurm would take it"


def test_a_draft_of_a_profile_agrees_with_slurm(user):
    draft = user.jobmeter("site", "draft").stdout
    findings = check(user, draft, "--on", user.write("job.yaml", "run: hostname\n"))
    assert {f["state"] for f in findings.values()} == {"ok"}, findings
    assert {"partition.cpu", "partition.gpu", "qos.urgent"} <= findings.keys()


def test_what_differs_from_slurm_is_found(user):
    text = OURS.replace("cpus_per_node: 8", "cpus_per_node: 64").replace("test: {}", "tset: {}")
    text = text.replace("  gpu:", "  gpuu:")
    findings = check(user, text)
    assert findings["partition.cpu"]["value"] == "cpus_per_node is 64 here, Slurm says 8"
    assert findings["partition.gpuu"]["advice"].endswith("did you mean 'gpu'?")
    assert findings["partition.*"]["value"] == "Slurm has gpu, which the profile does not"
    assert findings["qos.tset"]["state"] == "degraded"


def test_slurm_is_asked_about_a_job_and_nothing_is_submitted(user):
    before = user.cluster.run("squeue", "--noheader").stdout
    text = OURS.replace("nodes: 3, cpus", "cpus")
    findings = check(
        user, text, "--on", user.write("job.yaml", "resources: {nodes: 9}\nrun: hostname\n")
    )
    assert findings["job.limits"]["state"] == "ok"
    assert findings["job.slurm"]["state"] == "broken"
    assert "node configuration is not available" in findings["job.slurm"]["value"]
    assert user.cluster.run("squeue", "--noheader").stdout == before
