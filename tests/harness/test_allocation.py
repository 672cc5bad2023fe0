"""What Slurm's controller says of a job that somebody wants to attach to."""

import getpass

import pytest

from jobmeter.allocation import Allocation, find_allocation
from jobmeter.errors import SchedulerError, SpecError

ME = getpass.getuser()
JOB = (
    "JobId={id} {array}JobName=it's Reason=odd UserId={owner}(1000) GroupId=x(1) JobState={state} "
    "Reason={reason} Restarts={restarts} EndTime=1795400000 NodeList=n[1-2] NumNodes=2 NumCPUs=4 "
    "TRES=cpu=4,mem=1G,node=2,gres/gpu=8\n"
)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-in for scontrol at the edge of the process: it prints what it is told."""

    def say(text):
        (tmp_path / "jobs").write_text(text)
        command = tmp_path / "scontrol"
        cases = f'*hostnames*) printf "n1\\nn2\\n" ;; *) cat {tmp_path}/jobs ;;'
        command.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return say


def line(number="7", array="", owner=ME, state="RUNNING", reason="None", restarts=0):
    return JOB.format(
        id=number, array=array, owner=owner, state=state, reason=reason, restarts=restarts
    )


def test_a_running_job_of_ours(slurm):
    slurm(line(restarts=2))
    assert find_allocation("7") == Allocation(
        "7", "7.r2", ("n1", "n2"), gpus_per_node=4, restart=2, ends_s=1795400000
    )


def test_tasks_of_an_array(slurm):
    tasks = line("9", "ArrayJobId=7 ArrayTaskId=1 ") + line("7", "ArrayJobId=7 ArrayTaskId=2 ")
    slurm(tasks)
    assert find_allocation("7_1").job_id == "9"
    assert find_allocation("7_1").attempt == "7_1"
    with pytest.raises(SpecError, match="several run; give one of 7_1, 7_2"):
        find_allocation("7")
    slurm(line("9", "ArrayJobId=7 ArrayTaskId=1 ") + line("7", "ArrayJobId=7 ", state="PENDING"))
    assert find_allocation("7").attempt == "7_1"


def test_all_components_of_a_heterogeneous_job(slurm):
    parts = [
        line(number, f"HetJobId=7 HetJobOffset={offset} ") for offset, number in enumerate("78")
    ]
    slurm("".join(parts))
    found = find_allocation("7")
    assert (found.job_id, found.attempt) == ("7", "7")
    assert found.nodes == ("n1", "n2", "n1", "n2")
    assert [len(one.nodes) for one in found.components] == [2, 2]
    assert found.resources == {
        "groups": {f"component_{n}": {"nodes": 2, "gpus_per_node": 4} for n in (0, 1)}
    }
    slurm(parts[0] + line("8", "HetJobId=7 HetJobOffset=1 ", state="CANCELLED"))
    with pytest.raises(SchedulerError, match=r"job 7\+1 has ended \(CANCELLED\)"):
        find_allocation("7")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (line(owner="other"), f"job 7 belongs to other, and you are {ME}"),
        (line(state="PENDING", reason="Resources"), r"job 7 is PENDING \(Resources\)"),
        (line(state="TIMEOUT"), r"job 7 has ended \(TIMEOUT\)"),
        (line(state="COMPLETING"), r"job 7 has ended \(COMPLETING\)"),
        (line(state="SUSPENDED"), "job 7 is SUSPENDED and has no nodes"),
        ("", "Slurm says nothing of job 7"),
    ],
)
def test_jobs_that_cannot_be_attached_to(slurm, said, words):
    slurm(said)
    with pytest.raises(SchedulerError, match=words):
        find_allocation("7")


def test_what_is_no_job_id():
    with pytest.raises(SpecError, match="'7; rm' is no job id"):
        find_allocation("7; rm")


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerError, match="scontrol is not on PATH"):
        find_allocation("7")
