"""Groups of nodes in a job file: what each asks for, and where things run."""

from pathlib import Path

import pytest

from jobmeter.errors import SiteError, SpecError
from jobmeter.plan import Context, make_plan
from jobmeter.site import read_site
from jobmeter.spec import JobSpec

CONTEXT = Context("r-1", Path("/runs/r-1"), "job.yaml", Path("/jobs"), "/usr/bin/python3", "0")
GROUPS = {
    "gpus": {"partition": "gpu", "gpus_per_node": 4, "nodes": 2},
    "cpus": {"nodes": 3, "tasks_per_node": 16},
}
USUAL = {"time": "01:00:00", "account": "p200000", "partition": "cpu", "groups": GROUPS}


def planned(site="meluxina", run="true", **keys):
    data = {"name": "job", "resources": USUAL, "run": run, **keys}
    return make_plan(JobSpec.model_validate(data), site, read_site(site), CONTEXT)


def test_a_group_has_what_it_says_and_else_what_the_job_says():
    options = planned().sbatch_options
    split = options.index("hetjob")
    first, second = options[:split], options[split + 1 :]
    assert "--partition=gpu" in first
    assert "--gpus-per-node=4" in first
    assert "--partition=cpu" in second
    assert not [option for option in second if "gpus" in option]
    for option in ("--time=01:00:00", "--account=p200000"):
        assert option in first
        assert option in second
    # The script is one, and runs in the first component.
    assert not [option for option in second if option.startswith(("--output", "--signal"))]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {**GROUPS, "cpus": {"nodes": 3, "gpus_per_node": 1}},
            "resources.groups.cpus.gpus_per_node: 1 GPUs a node asked for, but partition 'cpu' "
            "has none",
        ),
        (
            {**GROUPS, "gpus": {"nodes": 60, "partition": "gpu"}},
            "resources.groups.gpus.nodes: 60 nodes asked for, but QOS 'default' allows 50",
        ),
        (
            {**GROUPS, "more": {"partition": "gpus"}},
            "resources.groups.more.partition: site 'meluxina' has no partition 'gpus'",
        ),
        (
            {**GROUPS, "more": {"extra": ["--nodes=600"]}},
            "resources.groups.more.extra: 600 nodes asked for",
        ),
    ],
)
def test_limits_hold_for_each_group(groups, message):
    with pytest.raises(SiteError) as refused:
        planned(resources={**USUAL, "groups": groups})
    assert str(refused.value).startswith(f"job.yaml: {message}")


def test_phases_name_what_they_want_of_a_group():
    text = (
        "srun --het-group={{ groups.cpus.number }} -N {{ groups.cpus.nodes }} "
        "-w {{ groups.cpus.nodelist }} x {{ groups.gpus.gpus_per_node }} "
        "{{ groups.cpus.tasks_per_node }}"
    )
    (phase,) = planned(run=text).phases
    where = '"${SLURM_JOB_NODELIST_HET_GROUP_1}"'
    assert phase.command == f"srun --het-group=1 -N 3 -w {where} x 4 16"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("x {{ nodes }}", "asks for 'nodes', which has no value; the groups of the job differ: "),
        ("x {{ groups.cpu.nodes }}", "asks for group 'cpu', which the job file does not have; "),
        ("x {{ groups.cpus.gpus_per_node }}", "something of group 'cpus': 'gpus_per_node'"),
    ],
)
def test_what_differs_by_group_is_asked_of_a_group(run, message):
    with pytest.raises(SpecError) as refused:
        planned(run=run)
    assert message in str(refused.value)


def test_an_ordinary_job_has_no_groups_to_name():
    usual = {key: value for key, value in USUAL.items() if key != "groups"}
    with pytest.raises(SpecError, match=r"asks for 'groups', .*add 'groups' to 'resources'"):
        planned(resources=usual, run="x {{ groups.a.nodes }}")


@pytest.mark.parametrize(
    ("keys", "nodes"),
    [
        ({"node": 1, "replicas": 2}, [(1,), (2,)]),
        ({"node": 4, "replicas": 2}, [(4,), (0,)]),
        ({"group": "cpus", "replicas": 4}, [(2,), (3,), (4,), (2,)]),
        ({"group": "gpus", "node": 1, "replicas": 2}, [(1,), (0,)]),
    ],
)
def test_a_service_runs_on_nodes_of_the_job_or_of_its_group(keys, nodes):
    plan = planned(services={"store": {"recipe": "qdrant", **keys}})
    assert [service.nodes for service in plan.services.every] == nodes
    for service in plan.services.every:
        (index,) = service.nodes
        steps = [g.service_steps[service.label] for g in plan.groups if index in g.nodes]
        assert f"--het-group={0 if index < 2 else 1}" in steps[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"group": "cpu"}, "services.store.group: no group 'cpu' in 'resources'; did you mean"),
        ({"group": "cpus", "node": 3}, "node: 3, but the nodes of group 'cpus' are 0 to 2"),
        ({"group": "cpus", "recipe": "vllm", "model": "m", "nodes": 4}, "but group 'cpus' has 3"),
    ],
)
def test_a_service_that_its_group_cannot_have(keys, message):
    with pytest.raises(SpecError) as refused:
        planned(services={"store": {"recipe": "qdrant", **keys}})
    assert message in str(refused.value)


def test_devices_of_all_groups_count_for_the_utilisation_of_a_model():
    assert planned().workload["devices"] == 8
