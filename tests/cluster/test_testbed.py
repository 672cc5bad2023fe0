"""The testbed itself: what the other tests take for granted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import requirements
from testbed import Cluster, ClusterError, CommandFailed

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}


def wait_for(condition: Callable[[], object], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(0.05)


def accounted(cluster: Cluster, job: str) -> dict[str, list[str]]:
    """Return fields by step name once the accounting of the job is final.

    It lags behind the job: for up to 5 s a job may even be called "allocation", with the QOS
    "Unknown", because slurmctld sends the record of a job's start only that often.
    """
    fields = "jobname,state,exitcode,user,account,qos"
    rows: dict[str, list[str]] = {}

    def final() -> bool:
        rows.clear()
        for line in cluster.run("sacct", "-nPj", job, "-o", fields).stdout.splitlines():
            name, *values = line.split("|")
            rows[name] = values
        return (
            bool(rows)
            and all(state.split()[0] in FINAL for state, *_ in rows.values())
            and all(values[-1] != "Unknown" for values in rows.values())
        )

    wait_for(final, 60)
    return rows


def submit(cluster: Cluster, script: str, *options: str, user: str = "hpc") -> str:
    text = f"#!/bin/bash\n{script}\n"
    done = cluster.run("sbatch", "--parsable", *options, user=user, stdin=text)
    return done.stdout.strip()


def batch(cluster: Cluster, script: str, *options: str) -> str:
    """Run a batch script to its end and return what it printed."""
    submit(cluster, script, "--wait", "--output=batch.out", *options)
    return (cluster.home / "batch.out").read_text()


def test_three_nodes_are_idle(cluster: Cluster) -> None:
    listing = cluster.run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%N %T").stdout
    assert listing.splitlines() == ["mel0001 idle", "mel0002 idle", "mel0003 idle"]


def test_each_node_has_its_own_name(cluster: Cluster) -> None:
    names = cluster.run("srun", "-N3", "hostname").stdout.split()
    assert sorted(names) == ["mel0001", "mel0002", "mel0003"]


def test_batch_job_is_accounted(cluster: Cluster) -> None:
    job = submit(cluster, "srun --job-name=payload true; exit 7", "-N2", "--job-name=first")
    rows = accounted(cluster, job)
    assert rows["first"] == ["FAILED", "7:0", "hpc", "p200999", "default"]
    assert rows["payload"][:2] == ["COMPLETED", "0:0"]


def test_both_users_can_submit(cluster: Cluster) -> None:
    options = ("--account=p200999", "--qos=test", "--partition=gpu", "--job-name=theirs")
    job = submit(cluster, "true", *options, user="other")
    assert accounted(cluster, job)["theirs"] == ["COMPLETED", "0:0", "other", "p200999", "test"]


@pytest.mark.parametrize("option", ["--account=p200000", "--qos=long", "--partition=fpga"])
def test_unknown_account_qos_or_partition_is_refused(cluster: Cluster, option: str) -> None:
    with pytest.raises(CommandFailed, match=r"(?i)invalid"):
        submit(cluster, "true", option)


def test_sidecar_step_beside_a_main_step(cluster: Cluster) -> None:
    printed = batch(
        cluster,
        """
        srun sleep 60 &
        main=$!
        until squeue -h -j "$SLURM_JOB_ID" -s | grep -q sleep; do sleep 0.1; done
        srun --overlap --mem=0 -N2 -n2 --ntasks-per-node=1 hostname
        kill $main
        wait $main || true
        """,
        "-N2",
        "--ntasks-per-node=1",
    )
    assert {"mel0001", "mel0002"} <= set(printed.split())


def test_memory_limit_is_enforced(cluster: Cluster) -> None:
    if not cluster.cgroups:
        pytest.skip("no cgroup v1 with all controllers on this machine: limits are not enforced")
    hog = "srun --job-name=hog /usr/bin/python3 -c 'bytearray(400 << 20)'"
    job = submit(cluster, hog, "--mem=200M")
    assert accounted(cluster, job)["hog"][0] == "OUT_OF_MEMORY"


@pytest.mark.parametrize("prefix", ["", "srun "], ids=["batch", "step"])
def test_job_can_read_its_own_groups(cluster: Cluster, prefix: str) -> None:
    """The paths in /proc/self/cgroup are those below /sys/fs/cgroup, readable without privilege."""
    if not cluster.cgroups:
        pytest.skip("no cgroup v1 with all controllers on this machine")
    show = """
        group() { grep ":$1:" /proc/self/cgroup | cut -d: -f3; }
        echo "$(group memory)"
        cat "/sys/fs/cgroup/memory$(group memory)/memory.usage_in_bytes"
        cat "/sys/fs/cgroup/cpuacct$(group cpuacct)/cpuacct.usage"
        cat "/sys/fs/cgroup/memory$(group memory)/../memory.limit_in_bytes"
    """
    (cluster.home / "show.sh").write_text(show)
    printed = batch(cluster, f"{prefix}bash show.sh", "--mem=200M", "-n1")
    path, memory, cpu, limit = printed.split()
    assert re.fullmatch(r"/slurm_mel\d+/uid_\d+/job_\d+/step_(batch|0)/task_0", path)
    assert int(memory) > 0
    assert int(cpu) > 0
    assert int(limit) == 200 << 20


def test_temporary_folders_and_ports_are_per_node(cluster: Cluster) -> None:
    """The home is one folder for all, /tmp and ports are not."""
    printed = batch(
        cluster,
        """
        srun bash -c '
            hostname >/tmp/name
            hostname >/dev/shm/name
            exec 3< <(exec timeout 20 /usr/bin/python3 -u -m http.server 9100 --directory /tmp)
            until curl -sf -o /dev/null localhost:9100/name; do sleep 0.1; done
            touch up-$(hostname)
            until [ -e up-mel0001 -a -e up-mel0002 -a -e up-mel0003 ]; do sleep 0.1; done
            for node in mel0001 mel0002 mel0003; do
                echo $node $(curl -sf $node:9100/name) $(cat /dev/shm/name)
            done >seen-$(hostname)
            touch down-$(hostname)
            until [ -e down-mel0001 -a -e down-mel0002 -a -e down-mel0003 ]; do sleep 0.1; done
        ' 2>/dev/null
        cat seen-*
        """,
        "-N3",
        "--ntasks-per-node=1",
        "--time=1",
    )
    nodes = cluster.nodes
    expected = [f"{served} {served} {seen_from}" for seen_from in nodes for served in nodes]
    assert printed.splitlines() == expected


@pytest.mark.parametrize("node", [None, "mel0001"])
def test_there_is_no_way_out(cluster: Cluster, node: str | None) -> None:
    assert cluster.run("ip", "route", node=node).stdout.count("\n") == 1  # its own subnet
    connect = "exec 3<>/dev/tcp/192.0.2.1/80"
    attempt = cluster.run("bash", "-c", connect, node=node, check=False)
    assert "Network is unreachable" in attempt.stderr


def test_command_gets_its_input_environment_and_status(cluster: Cluster) -> None:
    script = 'read -r line; echo "$line $GREETING $USER $HOME $PWD $(whoami)"; exit 3'
    done = cluster.run(
        "bash", "-c", script, user="other", env={"GREETING": "hello"}, stdin="in\n", check=False
    )
    assert done.stdout == "in hello other /home/other /home/other other\n"
    assert done.returncode == 3
    environment = cluster.run("env").stdout.split()
    assert {line.split("=")[0] for line in environment} == {"HOME", "LANG", "PATH", "SHELL", "USER"}


def test_command_that_takes_too_long_is_killed(cluster: Cluster) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.run("sleep", "4321", timeout_s=0.5)
    wait_for(lambda: "sleep 4321" not in cluster.pids().values())


def test_one_component_can_be_killed(cluster: Cluster) -> None:
    with cluster.popen("sleep", "1234", node="mel0002") as sleeper:
        wait_for(lambda: "sleep 1234" in cluster.pids("mel0002").values())
        assert "sleep 1234" not in cluster.pids("mel0001").values()
        (pid,) = (pid for pid, command in cluster.pids().items() if command == "sleep 1234")
        os.kill(pid, signal.SIGTERM)
        assert sleeper.wait(10) == -signal.SIGTERM
    assert "sleep 1234" not in cluster.pids().values()


def test_node_loses_power_and_comes_back(cluster: Cluster) -> None:
    job = submit(cluster, "srun sleep 300", "-N3", "--no-requeue", "--job-name=victim")
    wait_for(lambda: "/usr/bin/sleep 300" in cluster.pids("mel0003").values())
    cluster.power_off("mel0003")
    assert cluster.pids("mel0003") == {}
    with pytest.raises(ClusterError, match="mel0003 is off"):
        cluster.run("true", node="mel0003")
    assert accounted(cluster, job)["victim"][0] == "NODE_FAIL"
    cluster.power_on("mel0003")
    cluster.wait_idle(60)
    assert cluster.run("srun", "-w", "mel0003", "hostname").stdout == "mel0003\n"


def leftovers(state: Path) -> list[str]:
    """Return everything that names a cluster's state folder and should be gone with it."""
    found = [str(state)] if state.exists() else []
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if state.name in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{state.name}*")]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if state.name.encode() in entry.read_bytes():
                found.append(entry.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_second_cluster_beside_the_first_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    links_before = links()
    hidden = tmp_path / "hidden"  # in a folder that hpc may not enter, below a /tmp it cannot see
    hidden.mkdir(mode=0o755)
    (hidden / "tool").write_text("#!/bin/sh\necho a tool\n")
    (hidden / "tool").chmod(0o755)
    second = Cluster.start(
        nodes=2,
        binds={
            hidden: Path("/opt/jobmeter/checkout"),
            hidden / "tool": Path("/usr/local/bin/some-tool"),
            HERE: Path("/mnt/tests"),
            HERE / "README.md": Path("/etc/a-new-file"),
            HERE / "testbed.py": Path("/home/hpc/tools/testbed.py"),
        },
        cgroups=False,
        kill_wait_s=2,
        SlurmdTimeout=20,
    )
    try:
        assert second.run("srun", "-N2", "some-tool").stdout == "a tool\n" * 2
        assert second.run("srun", "/opt/jobmeter/checkout/tool").stdout == "a tool\n"
        assert second.run("test", "-e", "/mnt/tests/testbed.py", node="mel0002").returncode == 0
        assert second.run("test", "-s", "/etc/a-new-file").returncode == 0
        assert second.run("test", "-s", "tools/testbed.py").returncode == 0
        refused = second.run("touch", "/opt/jobmeter/checkout/new", user="root", check=False)
        assert "Read-only file system" in refused.stderr
        assert "SlurmdTimeout           = 20 sec" in second.run("scontrol", "show", "conf").stdout
        quiet = subprocess.DEVNULL
        step = second.popen("srun", "sleep", "999", stdout=quiet, stderr=quiet)
        wait_for(lambda: list(second.pids().values()).count("/usr/bin/sleep 999") == 1)
        assert not set(second.pids()) & set(cluster.pids())
        assert cluster.run("srun", "-N3", "hostname").returncode == 0
        namespaces = second._namespaces(None)
    finally:
        second.stop()
    second.stop()  # does nothing
    assert step.wait(10) == -signal.SIGKILL
    assert processes.in_namespaces(namespaces) == {}
    assert leftovers(second.state) == []
    assert links() == links_before
    assert not Path("/opt/jobmeter").exists()
    assert not Path("/usr/local/bin/some-tool").exists()
    assert not Path("/etc/a-new-file").exists()
    assert cluster.run("srun", "-N3", "hostname").returncode == 0


def test_killed_session_leaves_nothing(cluster: Cluster) -> None:
    """The session of ``cluster`` is not needed, but tells whether a cluster can start here."""
    program = (
        "from testbed import Cluster; import time\n"
        "print(Cluster.start(nodes=1).state, flush=True); time.sleep(600)"
    )
    session = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert session.stdout is not None
    state = Path(session.stdout.readline().strip())
    assert leftovers(state)
    session.kill()
    session.wait()
    session.stdout.close()
    wait_for(lambda: leftovers(state) == [])


def test_failed_start_tells_why_and_leaves_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Path(tempfile.mkdtemp(prefix="jobmeter-cluster-", dir="/var/tmp"))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(state))
    with pytest.raises(ClusterError, match=r"(?s)during: slurmctld.*select/no_such_thing"):
        Cluster.start(nodes=1, SelectType="select/no_such_thing")
    assert leftovers(state) == []


@pytest.mark.parametrize("target", ["tools", "/tmp/tools", "/new/tools", "/opt/../tools"])
def test_bind_that_cannot_work_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="binds: "):
        Cluster.start(binds={HERE: Path(target)})


def test_packages_are_listed_for_installation() -> None:
    lines = (HERE.parent / "cluster_packages.txt").read_text().splitlines()
    assert set(requirements.PACKAGES) <= set(lines)


def test_scripts_pass_shellcheck() -> None:
    scripts = sorted(HERE.glob("*.sh"))
    done = subprocess.run(
        ["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
