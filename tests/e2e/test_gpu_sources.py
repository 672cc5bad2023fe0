"""Where the numbers of GPUs come from: what a node has, dcgm-exporter, and NVML in its place.

No GPU is needed: dcgm-exporter and the driver's library are stand-ins.
"""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from nvml_node import Node, build_library
from slurm_user import Table, until

PROGRAM = Path(__file__).parent / "programs" / "dcgm_exporter.py"
SITE_PORT = 9400
JOB = """
run: {run}
monitoring: {{interval: 1s, exporters: {exporters}}}
"""

UNTIL_REPLACED = """|
  until grep -q nvidia "$JOBMETER_ATTEMPT_DIR"/targets/stack.*.tsv; do sleep 0.1; done
  sleep 2
"""

pytestmark = pytest.mark.prometheus


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def node(library, tmp_path):
    """This machine, with a driver that tells of four GPUs."""
    return Node(tmp_path / "node", library)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder at the front of PATH, in which dcgm-exporter is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "dcgm-exporter"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAM}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def ended(child):
    _, stderr = child.communicate(timeout=180)
    assert child.returncode == 0, stderr
    assert "Traceback" not in stderr


def report_of(tmp_path):
    (attempt,) = (tmp_path / "runs").glob("*/attempts/local")
    events = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    return Table(json.loads((attempt / "report" / "kpis.json").read_text())), events


def named(events, name):
    return [event for event in events if event["event"] == name]


def gpus(table, kpi):
    rows = table.find(kpi, phase="run", scope="device")
    return {row["entity"]: row["value"] for row in rows if row["value"] is not None}


@pytest.mark.parametrize(("capability", "profiling"), [("8.0", "0"), ("9.0", "1")])
def test_dcgm_exporter_is_started_and_believed(started, path, tmp_path, capability, profiling):
    asked = path / "nvidia-smi"
    asked.write_text(f"#!/bin/sh\necho 12.1\necho {capability}\n")
    asked.chmod(0o755)
    ended(
        started(
            JOB.format(run="sleep 4", exporters="[cgroup, dcgm]"),
            DCGM_STANDIN="works",
            DCGM_STANDIN_PROFILING=profiling,
        )
    )
    table, events = report_of(tmp_path)
    assert not named(events, "source_degraded")
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    assert sorted(gpus(table, "gpu_utilization_ratio_mean").values()) == [0.5, 0.51]
    energy = gpus(table, "gpu_energy_joules")
    assert len(energy) == 2
    assert all(900 < joules < 3000 for joules in energy.values())  # 300 W for four seconds and more


def test_what_dies_is_replaced_by_nvml(started, path, node, tmp_path):
    ended(
        started(
            JOB.format(run="sleep 4", exporters="[cgroup, dcgm]"), DCGM_STANDIN="dies", **of(node)
        )
    )
    table, events = report_of(tmp_path)
    (degraded,) = named(events, "source_degraded")
    assert (degraded["service"], degraded["instead"]) == ("dcgm", "nvidia")
    assert any(one.startswith("source_degraded: nvidia") for one in table.manifest["reasons"])
    assert list(gpus(table, "gpu_utilization_ratio_mean").values()) == [0.8] * 4


def test_what_falls_silent_is_replaced_while_the_job_runs(started, path, node, tmp_path):
    ended(
        started(
            JOB.format(run=UNTIL_REPLACED, exporters="[cgroup, dcgm]"),
            DCGM_STANDIN="falls-silent",
            DCGM_STANDIN_PROFILING="0",
            **of(node),
        )
    )
    table, events = report_of(tmp_path)
    (degraded,) = named(events, "source_degraded")
    assert degraded["why"] == "ran and told of no GPU"
    assert 0.8 in gpus(table, "gpu_utilization_ratio_mean").values()


def test_one_that_listens_already_is_used_through_the_gateway(started, path, tmp_path):
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", SITE_PORT)) == 0:
            pytest.fail(f"something listens on {SITE_PORT}, where the site's exporter should")
    with subprocess.Popen([path / "dcgm-exporter", "--address", f"127.0.0.1:{SITE_PORT}"]) as site:
        until(lambda: listens(SITE_PORT), 20, lambda: "the stand-in does not listen")
        try:
            # Another one would die.
            ended(
                started(JOB.format(run="sleep 3", exporters="[cgroup, dcgm]"), DCGM_STANDIN="dies")
            )
        finally:
            site.kill()
    table, events = report_of(tmp_path)
    assert not named(events, "source_degraded")
    assert {event["component"] for event in named(events, "component_start")} == {
        "exporters",
        "prometheus",
    }
    assert sorted(gpus(table, "gpu_utilization_ratio_mean").values()) == [0.5, 0.51]


def test_auto_finds_what_a_node_has(started, node, tmp_path, monkeypatch):
    """In a /dev of its own there is a device of the driver."""
    folder = tmp_path / "bin"
    folder.mkdir()
    wrapper = folder / "bash"
    wrapper.write_text(
        f"""#!/bin/sh
if [ -e /dev/nvidia0 ]; then exec {shutil.which("bash")} "$@"; fi
exec unshare --mount sh -c '
  mkdir {tmp_path}/dev && mount -t tmpfs dev {tmp_path}/dev &&
  cp -a /dev/null /dev/zero /dev/random /dev/urandom /dev/tty {tmp_path}/dev &&
  ln -s /proc/self/fd {tmp_path}/dev/fd && mkdir {tmp_path}/dev/shm &&
  touch {tmp_path}/dev/nvidia0 &&
  mount --move {tmp_path}/dev /dev && exec {shutil.which("bash")} "$@"' bash "$@"
"""
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    ended(started(JOB.format(run="sleep 4", exporters="auto"), **of(node)))
    table, events = report_of(tmp_path)
    assert [event["services"] for event in named(events, "exporters_found")] == ["nvidia"]
    (up,) = named(events, "targets_up")
    assert (up["up"], up["expected"], up["missing"]) == (4, 4, "")
    assert list(gpus(table, "gpu_utilization_ratio_mean").values()) == [0.8] * 4
    assert table.manifest["state"] == "complete", table.manifest["reasons"]


def of(node):
    """The environment of the driver, not that of the exporters' own tests."""
    return {
        name: value
        for name, value in node.environment.items()
        if name in ("JOBMETER_NVML_SCRIPT", "JOBMETER_NVML_CALLS", "LD_LIBRARY_PATH")
    }


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
