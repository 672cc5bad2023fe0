"""``jobmeter doctor`` on a real Slurm, as the unprivileged user, and on this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import second_root
from slurm_user import User, until
from testbed import Cluster

JOBMETER = Path(sys.executable).parent / "jobmeter"
EXIT_CODES = {"healthy": 0, "unhealthy": 1, "degraded": 2}


class Told:
    """What ``jobmeter doctor --json`` said."""

    def __init__(self, done):
        self.done = done
        assert done.stdout, done.stderr
        self.report = json.loads(done.stdout)
        assert done.returncode == EXIT_CODES[self.report["health"]], done.stderr

    def one(self, check, host=None):
        found = [
            f
            for f in self.report["findings"]
            if (f["area"], f["name"]) == tuple(check.split(".")) and host in (None, f["host"])
        ]
        assert len(found) == 1, found
        return found[0]

    @property
    def hosts(self):
        return set(self.report["facts"])

    def states(self):
        return {
            (f["host"], f"{f['area']}.{f['name']}"): f["state"] for f in self.report["findings"]
        }


@pytest.fixture
def doctor(user):
    def ask(*options, site="generic-slurm"):
        return Told(user.jobmeter("doctor", "--site", site, "--json", *options, check=False))

    return ask


def left_by_doctor(user):
    queue = user.cluster.run("squeue", "--noheader", "--user=hpc").stdout
    return queue, list((user.cluster.home / "runs").glob(".doctor-*"))


@pytest.fixture
def closed_partition(user):
    """The default partition starts nothing, so that a job waits until it is open again."""
    set_to = ("scontrol", "update", "PartitionName=cpu")
    user.cluster.run(*set_to, "State=DOWN", user="root")
    yield
    user.cluster.run(*set_to, "State=UP", user="root")


def test_two_nodes_of_which_one_has_an_exporter_already(user, doctor):
    listening = user.cluster.popen(
        "prometheus-node-exporter", "--web.listen-address=:9100", user="other", node="mel0001"
    )
    try:
        until(
            lambda: (
                "node_exporter_build_info"
                in user.cluster.run(
                    "curl", "--silent", "http://mel0001:9100/metrics", check=False
                ).stdout
            ),
            30,
            lambda: "node_exporter does not answer",
        )
        told = doctor("--on-compute", "--nodes", "2")
    finally:
        listening.kill()
        listening.communicate()
    assert told.hosts == {"login", "mel0001", "mel0002"}
    assert "9100 node_exporter" in told.one("network.listeners", "mel0001")["value"]
    assert told.one("network.listeners", "mel0002")["state"] == "not_applicable"
    states = told.states()
    assert not [where for where, state in states.items() if state in ("broken", "unknown")]
    for check in ("commands", "version", "controller", "accounting"):
        assert states["login", f"slurm.{check}"] == "ok"
    assert states["login", "clock.controller"] == "ok"
    for node, other in (("mel0001", "mel0002"), ("mel0002", "mel0001")):
        assert other in told.one("network.names", node)["value"]
        assert "/tmp" in told.one("scratch.folder", node)["value"]
        assert states[node, "programs.python"] == "ok"
        assert states[node, "machine.cgroup"] == ("ok" if user.cluster.cgroups else "degraded")
    assert "probe job" in told.done.stderr
    assert left_by_doctor(user) == ("", [])


def test_the_login_host_alone_says_what_was_not_asked(user):
    done = user.jobmeter("doctor", "--site", "generic-slurm", check=False)
    assert done.returncode == 0, done.stdout
    assert "scratch.folder" not in done.stdout
    assert "compute nodes were not asked; --on-compute does" in done.stdout


def test_a_runtime_that_is_not_there(user, doctor):
    site = user.write(
        "contained.yaml",
        "description: with containers\n"
        "launcher: slurm\n"
        "prologue: ['true', 'module load Apptainer']\n"
        "runtime: {kind: apptainer, program: no-such-apptainer, binds: ['/no/such/tier:/data']}\n"
        "images: {folder: $HOME/images}\n",
    )
    told = doctor("--on-compute", site=site)
    assert told.report["health"] == "unhealthy"
    runtime = told.one("runtime.program", "mel0001")
    assert runtime["state"] == "broken"
    assert "no-such-apptainer is not on PATH" in runtime["value"]
    assert "prologue" in runtime["advice"]
    assert told.one("runtime.program", "login")["state"] == "not_applicable"
    assert "missing: /no/such/tier" in told.one("runtime.binds", "mel0001")["value"]
    prologue = told.one("site.prologue")
    assert prologue["state"] == "broken"
    assert "module: command not found" in prologue["value"]
    assert told.one("images.files", "login")["state"] == "broken"
    assert told.one("images.folders")["state"] == "degraded"


def test_the_real_apptainer(installed):
    root = second_root.ROOT
    with Cluster.start(nodes=1, root=root, binds=installed(root)) as cluster:
        user = User(cluster)
        site = user.write(
            "contained.yaml",
            "description: with containers\n"
            "launcher: slurm\n"
            "runtime: {kind: apptainer, binds: ['$HOME']}\n"
            "images: {folder: /home/hpc/images}\n",
        )
        told = Told(user.jobmeter("doctor", "--site", site, "--on-compute", "--json", check=False))
    assert told.one("runtime.program", "mel0001")["state"] == "ok"
    assert "/usr/bin/apptainer" in told.one("runtime.program", "mel0001")["value"]
    assert told.one("runtime.isolation", "mel0001")["state"] == "ok"
    assert told.one("runtime.binds", "mel0001")["value"] == "/home/hpc"
    assert told.one("programs.prometheus", "mel0001")["state"] == "not_applicable"
    images = told.one("images.files", "login")
    assert images["state"] == "broken"
    assert "jobmeter images build" in images["advice"]


def test_a_job_that_gets_no_node_says_why_and_is_cancelled(user, closed_partition):
    done = user.jobmeter(
        "doctor", "--site", "generic-slurm", "--on-compute", "--wait", "2", check=False
    )
    assert done.returncode == 1
    assert "PENDING (PartitionDown)" in done.stderr
    assert "was cancelled; try --wait" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_by_doctor(user) == ("", [])


def test_ctrl_c_cancels_the_probe_job(user, closed_partition):
    command = ("/opt/jobmeter/bin/jobmeter", "doctor", "--site", "generic-slurm", "--on-compute")
    asking = user.cluster.popen(*command)
    said = ""
    while "PENDING" not in said:
        line = asking.stderr.readline()
        assert line, said
        said += line
    pids = [pid for pid, words in user.cluster.pids().items() if "jobmeter doctor --site" in words]
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    _, rest = asking.communicate(timeout=60)
    assert asking.returncode == 130, said + rest
    assert "cancelled" in rest
    assert left_by_doctor(user) == ("", [])


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--site", "meluxina", "--on-compute"), 2, "--account: site 'meluxina' demands one"),
        (("--site", "local", "--on-compute"), 2, "site 'local' has no batch system"),
        (("--site", "melluxina"), 2, "did you mean 'meluxina'?"),
        (
            ("--site", "generic-slurm", "--on-compute", "--partition", "none"),
            1,
            "invalid partition specified: none",
        ),
        (("--site", "generic-slurm", "--on-compute", "--runs", "/proc/runs"), 1, "--runs"),
        (("--nodes", "0"), 2, "--nodes"),
    ],
)
def test_a_wrong_request_gets_one_clear_line(user, options, code, expected):
    done = user.jobmeter("doctor", *options, check=False)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert left_by_doctor(user) == ("", [])


def test_without_its_database_slurm_still_works(cluster_settings):
    with Cluster.start(**cluster_settings, nodes=1) as cluster:
        user = User(cluster)
        pids = [pid for pid, words in cluster.pids().items() if words.startswith("slurmdbd")]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not set(pids) & set(cluster.pids()), 30, lambda: "slurmdbd does not end")
        told = Told(user.jobmeter("doctor", "--site", "generic-slurm", "--json", check=False))
        accounting = told.one("slurm.accounting")
        assert accounting["state"] == "degraded"
        assert "slurmdbd does not answer" in accounting["meaning"]
        assert told.one("slurm.controller")["state"] == "ok"
        assert told.report["health"] == "degraded"


def test_this_machine(local_programs, tmp_path):
    done = subprocess.run(
        [JOBMETER, "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    told = Told(done)
    states = told.states()
    (host,) = told.hosts
    assert "broken" not in states.values(), done.stdout
    for check in ("programs.bash", "programs.curl", "programs.commands", "programs.prometheus"):
        assert states[host, check] == "ok"
    assert states[host, "slurm.commands"] == "not_applicable"
    assert list(tmp_path.iterdir()) == []
