"""Jobs of several groups of nodes on a real Slurm, which calls them heterogeneous."""

import pytest
from slurm_user import UNTIL_TOLD, until
from test_attach import everything_ended, run_of
from test_services import KEYED

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

RESOURCES = """
monitoring: {interval: 1s, checkpoint_interval: 2s}
resources:
  time: "00:05:00"
  groups:
    store: {nodes: 1, partition: gpu, cpus_per_task: 2}
    work: {nodes: 2, partition: cpu, tasks_per_node: 2}
"""
NODES = {"store": ["mel0001"], "work": ["mel0002", "mel0003"]}

BURNING = f"""
name: burning
{RESOURCES}
services:
  web: {{recipe: keyed.yaml, group: work, node: 1}}
  own: {{recipe: keyed.yaml, group: work, reach: node}}
phases:
  - name: burn
    run: |
      srun --overlap /opt/programs/burn.py 2 &
      srun --het-group={{{{ groups.work.number }}}} -N {{{{ groups.work.nodes }}}} --ntasks=2 \\
        --nodelist={{{{ groups.work.nodelist }}}} --overlap /opt/programs/burn.py 3
      wait
      curl -sf -X POST {{{{ services.web.url }}}}/add/6
      srun --het-group=1 --overlap -N 1 --ntasks=1 --nodelist={{{{ services.own.node }}}} \\
        curl -sf -X POST {{{{ services.own.url }}}}/add/7
"""


def test_all_nodes_of_all_groups_are_recorded_and_counted(user):
    user.write("keyed.yaml", KEYED)
    run = user.submit("burning.yaml", BURNING, "--wait")
    assert run.submitted.returncode == 0, run.submitted.stderr
    (start,) = run.events("job_start")
    assert {name: nodes.split() for name, nodes in start["groups"].items()} == NODES

    table = run.settled_table()
    nodes = table.manifest["nodes"]
    assert (nodes["planned"], nodes["observed"]) == (3, [*user.cluster.nodes])
    assert nodes["groups"] == NODES
    for kpi in ("cpu_utilization_ratio_mean", "memory_used_bytes_max"):
        rows = table.find(kpi, phase="burn", scope="node")
        assert {row["entity"] for row in rows if row["value"]} == set(user.cluster.nodes), kpi
    added = {row["entity"]: row for row in table.find("work_units_total", phase="burn")}
    assert added["web@mel0003"]["value"] == 6
    assert added["own@mel0002"]["value"] == 7, "on loopback of its node, seen through the gateway"
    assert {row["status"] for name, row in added.items() if "@" in name} == {"exact"}
    if user.cluster.cgroups:
        busy = {
            row["entity"]: row["value"]
            for row in table.find("job_cpu_seconds_total", phase="burn", scope="node")
        }
        # The payload's own, and a little for the script's commands and the services.
        assert 2 <= busy["mel0001"] < 2 + 3
        assert 3 <= busy["mel0002"] < 3 + 3
        assert 3 <= busy["mel0003"] < 3 + 3
    check_accounting(run, table)


def check_accounting(run, table):
    """Slurm's numbers are those of all components together."""
    slurm = table.manifest["slurm"]
    assert [(c["job_id"], c["state"], c["nodes"]) for c in slurm["components"]] == [
        (f"{run.job_id}+0", "COMPLETED", 1),
        (f"{run.job_id}+1", "COMPLETED", 2),
    ]
    assert slurm["partition"] == "gpu,cpu"
    assert table.one("slurm_nodes")["value"] == 3
    assert table.one("slurm_cpus")["value"] == 2 + 4
    assert table.one("slurm_cpu_seconds_total")["value"] >= 2 + 3 + 3
    assert table.one("slurm_exit_code")["value"] == 0


WAITING = f"""
name: waiting
{RESOURCES}
services:
  web: {{recipe: keyed.yaml, node: 1}}
phases:
  - {{name: hold, run: 'srun --het-group=0,1 --overlap sleep 300 & {UNTIL_TOLD}; kill $! || :'}}
"""


def left_of(run):
    """Processes and files that a run left on any node."""
    cluster = run.user.cluster
    ours = (run.folder.name, "service.py", "sleep 300")
    processes = [command for command in cluster.pids().values() if any(o in command for o in ours)]
    files = [
        cluster.run("find", "/tmp", "-user", "hpc", node=node, check=False).stdout
        for node in cluster.nodes
    ]
    return processes, "".join(files)


def test_a_cancelled_job_leaves_nothing_on_any_node_of_any_group(user):
    user.write("keyed.yaml", KEYED)
    run = user.submit("waiting.yaml", WAITING)
    run.wait_for_event("checkpoint")
    run.wait_for_event("phase_start")
    user.cluster.run("scancel", run.job_id)
    run.wait_for_end()
    processes, files = left_of(run)
    assert processes == []
    # Slurm gives it ten seconds; files of a script that it kills are removed by the next job.
    assert files == "" or not run.events("job_end")
    table = run.settled_table()
    assert "phase_interrupted" in table.one("phase_seconds", phase="hold")["reason"]
    rows = table.find("memory_used_bytes_mean", phase="hold", scope="node")
    assert {row["entity"] for row in rows if row["value"]} == set(user.cluster.nodes)
    assert table.manifest["slurm"]["state"] == "CANCELLED"


def test_a_group_that_is_lost_is_named_and_the_rest_goes_on(user):
    run = user.submit("waiting.yaml", WAITING.replace("services:", "#").replace("  web", "  # web"))
    run.wait_for_event("checkpoint")
    run.wait_for_event("phase_start")
    user.cluster.run("scancel", f"{run.job_id}+1")
    # The exporters go on until Slurm kills them; from then on there is a gap.
    queued = ("squeue", "--noheader", f"--jobs={run.job_id}", "--format=%i")
    until(
        lambda: f"{run.job_id}+1" not in user.cluster.run(*queued).stdout,
        90,
        lambda: user.cluster.run(*queued).stdout,
    )
    before = len(run.events("checkpoint"))
    until(lambda: len(run.events("checkpoint")) > before + 1, 60, lambda: str(run.events()))
    run.enough()
    run.wait_for_end()
    assert left_of(run)[0] == [], "files of killed exporters are removed by the next job"
    table = run.settled_table()
    assert table.manifest["slurm"]["state"] == "CANCELLED"
    states = {c["job_id"]: c["state"] for c in table.manifest["slurm"]["components"]}
    assert states == {f"{run.job_id}+0": "COMPLETED", f"{run.job_id}+1": "CANCELLED"}
    reasons = table.manifest["reasons"]
    component = f"component {run.job_id}+1 on mel[0002-0003]"
    assert f"{component} is CANCELLED, the first COMPLETED" in reasons
    for node in NODES["work"]:
        assert any(reason.startswith(f"node@{node} answered for") for reason in reasons)
    assert table.one("memory_used_bytes_mean", phase="hold", entity="mel0001")["value"] > 0


OWN = """#!/bin/bash
#SBATCH --nodes=1 --time=5 --output=own.out
#SBATCH hetjob
#SBATCH --nodes=2
source monitor.sh
jobmeter_start
sleep 600 & wait
"""


def test_attached_to_all_components_of_a_job_of_which_a_hook_would_see_the_first(user):
    user.write("monitor.sh", user.jobmeter("hook").stdout)
    user.write("own.sbatch", OWN)
    job_id = user.cluster.run("sbatch", "--parsable", "own.sbatch").stdout.strip()
    output = user.cluster.home / "own.out"
    until(lambda: output.exists() and output.read_text(), 60, lambda: "nothing was printed")
    assert output.read_text().startswith(f"jobmeter: not recorded: job {job_id} has 2 components")

    done = user.jobmeter("attach", job_id, "--interval", "1s")
    run = run_of(user, done.stdout, job_id, done)
    assert f"nodes {' '.join(user.cluster.nodes)}: 7 of 7 targets up" in done.stdout
    user.jobmeter("detach", "--no-analysis")
    everything_ended(run)
    user.cluster.run("scancel", job_id)
    run.wait_for_end()
    table = run.table()
    assert table.manifest["nodes"]["groups"] == {
        "component_0": ["mel0001"],
        "component_1": ["mel0002", "mel0003"],
    }
    rows = table.find("memory_used_bytes_mean", phase="run", scope="node")
    assert {row["entity"] for row in rows if row["value"]} == set(user.cluster.nodes)
