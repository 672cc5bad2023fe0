"""Real answers of squeue and sinfo of two versions, and those of the versions between them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from jobmeter_exporters.errors import CommandError
from jobmeter_exporters.slurm_queue_answers import (
    SEPARATOR,
    Unreadable,
    jobs_from_json,
    jobs_from_text,
    nodes_from_json,
    nodes_from_text,
)
from jobmeter_exporters.slurm_queue_state import (
    Job,
    NodeGroup,
    Use,
    job_state,
    node_state,
    reason_of,
    tasks_in,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "slurm-queue"


def fixture(name):
    return (FIXTURES / name).read_text()


def number(value):
    return {"set": True, "infinite": False, "number": value}


NOT_SET = {"set": False, "infinite": False, "number": 0}


def test_json_and_text_of_one_moment_say_the_same():
    by_json, by_text = (
        jobs_from_json(fixture("squeue-22.05.8.json")),
        jobs_from_text(fixture("squeue-22.05.8.txt")),
    )
    assert Counter(by_json) == Counter(by_text)
    by_json, by_text = (
        nodes_from_json(fixture("sinfo-22.05.8.json")),
        nodes_from_text(fixture("sinfo-22.05.8.txt")),
    )
    assert Counter(by_json) == Counter(by_text)


def test_jobs_of_22_05():
    jobs = jobs_from_json(fixture("squeue-22.05.8.json"))
    assert Counter((job.state, job.reason, job.tasks) for job in jobs) == {
        ("RUNNING", "None", 1): 3,
        ("PENDING", "JobArrayTaskLimit", 18): 1,
        ("PENDING", "BeginTime", 1): 1,
        ("PENDING", "Resources", 1): 1,
    }
    assert Counter(job.uid for job in jobs) == {1001: 4, 1002: 2}


def test_nodes_of_22_05():
    groups = nodes_from_json(fixture("sinfo-22.05.8.json"))
    assert [group for group in groups if group.partition == "gpu"] == [
        NodeGroup("gpu", "mixed", frozenset({"mel0001"}), Use(1, 0, 0), Use(2, 6, 0)),
        NodeGroup("gpu", "drained", frozenset({"mel0002"}), Use(0, 0, 1), Use(0, 0, 8)),
        NodeGroup("gpu", "draining", frozenset({"mel0003"}), Use(1, 0, 0), Use(1, 0, 7)),
    ]


def test_jobs_of_26_05():
    jobs = jobs_from_json(fixture("squeue-26.05.5.json"))
    assert jobs == [
        Job("PENDING", reason, uid=1000, submit_s=1795363319.0) for reason in ("None", "Priority")
    ]


def test_jobs_that_have_ended_are_no_part_of_the_queue():
    assert len(json.loads(fixture("squeue-22.05.8-ended.json"))["jobs"]) == 20
    assert jobs_from_json(fixture("squeue-22.05.8-ended.json")) == []


def test_a_controller_that_is_down_is_no_empty_queue():
    with pytest.raises(CommandError, match="squeue says 'Failed while looking for jobs'; is the"):
        jobs_from_json(fixture("squeue-22.05.8-down.json"))


@pytest.mark.parametrize("state", ["RUNNING", ["RUNNING"], {"current": ["RUNNING"]}])
@pytest.mark.parametrize("submit", [7, 7.0, "7", number(7)])
@pytest.mark.parametrize("array", [None, "", "1-4%2"])
def test_shapes_of_a_job(state, submit, array):
    record = {
        "job_state": state,
        "user_id": number(5),
        "submit_time": submit,
        "start_time": NOT_SET,
    }
    (job,) = jobs_from_json(json.dumps({"jobs": [{**record, "array_task_string": array}]}))
    assert job == Job("RUNNING", uid=5, tasks=4 if array else 1, submit_s=7.0)


def test_what_a_job_does_not_say_is_absent():
    (job,) = jobs_from_json('{"jobs": [{"job_state": "PENDING", "user_id": null}]}')
    assert job == Job("PENDING")


def sinfo_group(state, **changes):
    """Return a record as data_parser v0.0.46 dumps it, less what nobody reads."""
    return {
        "port": 6818,
        "node": {"state": state},
        "nodes": {
            "allocated": 1,
            "idle": 2,
            "other": 0,
            "total": 3,
            "hostnames": ["h1", "h2", "h3"],
            "addresses": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            "nodes": ["n1", "n2", "n3"],
        },
        "cpus": {"allocated": 4, "idle": 20, "other": 0, "total": 24, "minimum": 8},
        "partition": {"name": "gpu", "cpus": {"total": 24}, "nodes": {"total": 3}},
        **changes,
    }


def test_groups_of_nodes_since_23_02():
    text = json.dumps({"sinfo": [sinfo_group(["IDLE", "PLANNED"])], "errors": []})
    assert nodes_from_json(text) == [
        NodeGroup("gpu", "planned", frozenset({"n1", "n2", "n3"}), Use(1, 2, 0), Use(4, 20, 0))
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"partition": "gpu"},
        {"node": {"state": "IDLE"}},
        {"node": ["IDLE"]},
        {"cpus": {"allocated": number(4), "idle": number(20), "other": number(0)}},
    ],
)
def test_shapes_of_a_group(changes):
    (group,) = nodes_from_json(json.dumps({"sinfo": [sinfo_group(["IDLE"], **changes)]}))
    assert (group.partition, group.state, group.cpus) == ("gpu", "idle", Use(4, 20, 0))


@pytest.mark.parametrize(
    ("allocated", "states"),
    [(8, ("allocated", "draining")), (2, ("mixed", "draining"))],
)
def test_a_node_of_which_jobs_have_a_part_is_mixed(allocated, states):
    record = {"name": "n1", "partitions": ["gpu"], "cpus": 8, "alloc_cpus": allocated}
    words = ("ALLOCATED", "ALLOCATED+DRAIN")  # as pyslurm 22.5.3 said of both
    text = json.dumps({"nodes": [{**record, "state": state} for state in words]})
    assert tuple(group.state for group in nodes_from_json(text)) == states


@pytest.mark.parametrize(
    "text",
    ["", "slurm", "[]", "{}", "3", '{"jobs": {}}', '{"jobs": [1]}', '{"jobs": ', "[" * 100_000],
)
def test_what_is_no_answer_is_refused(text):
    with pytest.raises(Unreadable, match="squeue printed what this version cannot read"):
        jobs_from_json(text)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"name": "n1", "partitions": ["gpu"], "cpus": 8},
        {"name": "n1", "partitions": "gpu", "cpus": 8, "alloc_cpus": 0},
        sinfo_group(["IDLE"], nodes=None),
        sinfo_group(["IDLE"], cpus={"allocated": 1}),
        sinfo_group(["IDLE"], cpus=None),
    ],
)
def test_a_node_without_what_is_counted_is_refused(record):
    with pytest.raises(Unreadable, match="sinfo printed what"):
        nodes_from_json(json.dumps({"sinfo": [record]}))


@pytest.mark.parametrize("read", [jobs_from_text, nodes_from_text])
def test_lines_of_text(read):
    assert read("") == []
    assert read("CLUSTER: one\n\n") == []
    with pytest.raises(Unreadable):
        read("1000|RUNNING|N/A|1|1|None\n")


def test_a_separator_in_a_reason_shifts_nothing():
    line = SEPARATOR.join(("7", "PENDING", "N/A", "1", "N/A", f"Licenses{SEPARATOR}x"))
    (job,) = jobs_from_text(f"{line}\n")
    assert (job.uid, job.state, job.submit_s, job.start_s) == (7, "PENDING", 1.0, None)


def test_thousands_of_nodes():
    line = SEPARATOR.join(("n1", "gpu", "idle~", "0/1/0/1", "1.5K/10K/0/11.5K"))
    (group,) = nodes_from_text(f"{line}\n")
    assert (group.state, group.cpus) == ("idle", Use(1500, 10000, 0))
    with pytest.raises(Unreadable):
        nodes_from_text(line.replace("0/1/0/1", "0/1"))


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("RUNNING", "RUNNING"),
        ("RUNNING CONFIGURING", "CONFIGURING"),
        ("RUNNING POWER_UP_NODE", "RUNNING"),
        ("COMPLETED COMPLETING", "COMPLETING"),
        ("FAILED REQUEUED", ""),
        ("PENDING REQUEUE_HOLD", "REQUEUE_HOLD"),
        ("CANCELLED", ""),
        ("NEW_WORD", "NEW_WORD"),
        ("", ""),
    ],
)
def test_states_of_jobs(words, state):
    assert job_state(words.split()) == state


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("IDLE", "idle"),
        ("idle~", "idle"),
        ("MIXED DRAIN", "draining"),
        ("IDLE DRAIN", "drained"),
        ("DOWN DRAIN NOT_RESPONDING", "drained"),
        ("DOWN NOT_RESPONDING", "down"),
        ("IDLE MAINTENANCE", "maint"),
        ("ALLOCATED MAINTENANCE", "allocated"),
        ("IDLE RESERVED", "reserved"),
        ("IDLE REBOOT_ISSUED", "reboot"),
        ("MIXED COMPLETING", "completing"),
        ("ALLOCATED COMPLETING", "allocated"),
        ("IDLE INVALID_REG", "inval"),
        ("allocated+", "allocated"),
        ("drained*", "drained"),
        ("", "unknown"),
    ],
)
def test_states_of_nodes(words, state):
    assert node_state(words.split()) == state


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Resources", "Resources"),
        ("(Priority)", "Priority"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "ReqNodeNotAvail"),
        ("ReqNodeNotAvail(Unavailable:n1)", "ReqNodeNotAvail"),
        ("Nodes_required_for_job_are_DOWN,_DRAINED", "Resources"),
        ("launch failed requeued held", "other"),
        ("", "other"),
    ],
)
def test_reasons(text, word):
    assert reason_of(text) == word


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("7", 1),
        ("0-9", 10),
        ("[0-9%3]", 10),
        ("1,3,5-7", 5),
        ("1-10:0", 10),
        ("1-4,...", 4),
        ("x", 1),
    ],
)
def test_tasks_of_an_array(text, tasks):
    assert tasks_in(text) == tasks
