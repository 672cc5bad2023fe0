"""A running allocation as Slurm's controller tells of it, and whether we may attach to it."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jobmeter.errors import SchedulerError, SpecError
from jobmeter.process import find_program
from jobmeter.slurm_query import ask
from jobmeter.slurm_scontrol import scontrol_command, words_of
from jobmeter.slurm_words import FINAL_STATES, count_from, epoch_from, name_from, tres_from


@dataclass(frozen=True)
class Component:
    """Nodes of one component of a heterogeneous job.

    Args:
        nodes: Their names.
        gpus_per_node: How many each of them has for the job.
    """

    nodes: tuple[str, ...]
    gpus_per_node: int = 0


@dataclass(frozen=True)
class Allocation:
    """A job that runs.

    Args:
        job_id: As srun takes it: its own number, whatever array it is of.
        attempt: What its attempt folder is called.
        nodes: Names of its nodes, the first one first.
        gpus_per_node: How many each of them has for the job.
        restart: How often it had been started before.
        ends_s: When its time is over, seconds since the epoch; None without a limit.
        components: Of a heterogeneous job, in order; else empty.
    """

    job_id: str
    attempt: str
    nodes: tuple[str, ...]
    gpus_per_node: int = 0
    restart: int = 0
    ends_s: int | None = None
    components: tuple[Component, ...] = ()

    @property
    def resources(self) -> Mapping[str, object]:
        """What there is, as a job file asks for it."""
        whole = Component(self.nodes, self.gpus_per_node)
        parts = [
            {"nodes": len(one.nodes), "gpus_per_node": one.gpus_per_node}
            for one in self.components or (whole,)
        ]
        if len(parts) == 1:
            return parts[0]
        return {"groups": {f"component_{number}": part for number, part in enumerate(parts)}}


@dataclass(frozen=True)
class _Job:
    """What the controller says of one job."""

    name: str
    state: str
    reason: str
    owner: str
    node_list: str
    allocation: Allocation
    leader: str | None = None
    offset: int = 0


def find_allocation(job_id: str) -> Allocation:
    """Return the allocation of a job, if it is ours and runs.

    Args:
        job_id: ``1234``, or ``1234_5`` of an array.

    Raises:
        SpecError: this is no job id, or means several jobs.
        SchedulerError: there is no such job, it is somebody else's, or does not run.
    """
    if re.fullmatch(r"\d+(_\d+)?", job_id) is None:
        raise SpecError(
            f"{job_id!r} is no job id; give a number such as 1234, or 1234_5 of an array"
        )
    if find_program(["scontrol"]) is None:
        raise SchedulerError(
            "scontrol is not on PATH, so there is no Slurm to ask; is this a login node?"
        )
    try:
        said = ask(scontrol_command(job_id))
    except SchedulerError as cause:
        if "Invalid job id" not in str(cause):
            raise
        raise SchedulerError(
            f"job {job_id} does not exist, or ended so long ago that Slurm forgot it; "
            "'squeue --me' shows your jobs"
        ) from cause
    jobs = [_job(words_of(line)) for line in said.splitlines() if line.strip()]
    job = _the_one(job_id, jobs)
    if job.leader is None:
        _check(job)
        return _with_nodes(job)
    if job.leader not in (one.allocation.job_id for one in jobs):
        return find_allocation(job.leader)
    components = sorted(
        (one for one in jobs if one.leader == job.leader), key=lambda one: one.offset
    )
    for one in components:
        _check(one)
    return _with_components([_with_nodes(one) for one in components])


def _job(words: Mapping[str, str]) -> _Job:
    number, name = words.get("JobId", ""), words.get("JobId", "")
    if "ArrayJobId" in words:
        name = f"{words['ArrayJobId']}_{words.get('ArrayTaskId')}"
    leader, offset = words.get("HetJobId"), count_from(words.get("HetJobOffset", "")) or 0
    if leader is not None:
        name = f"{leader}+{offset}"
    restart = count_from(words.get("Restarts", "")) or 0
    nodes = count_from(words.get("NumNodes", "").partition("-")[0]) or 1
    tres = tres_from(words.get("AllocTRES", words.get("TRES", "")))
    allocation = Allocation(
        job_id=number,
        attempt=(leader or name) + (f".r{restart}" if restart else ""),
        nodes=(),
        gpus_per_node=tres.get("gres/gpu", 0) // nodes,
        restart=restart,
        ends_s=epoch_from(words.get("EndTime", "")),
    )
    return _Job(
        name=name,
        state=words.get("JobState", "UNKNOWN"),
        reason=name_from(words.get("Reason", "")) or "",
        owner=words.get("UserId", "").partition("(")[0],
        node_list=name_from(words.get("NodeList", "")) or "",
        allocation=allocation,
        leader=leader,
        offset=offset,
    )


def _the_one(job_id: str, jobs: list[_Job]) -> _Job:
    """Return the job that is meant: of several tasks or components the only one that runs."""
    named = [job for job in jobs if job.name == job_id] if "_" in job_id else jobs
    running = [job for job in named if job.state == "RUNNING"]
    if len(running) > 1 and "_" in running[0].name:
        names = ", ".join(job.name for job in running)
        raise SpecError(f"job {job_id} is an array of which several run; give one of {names}")
    found = [*running, *named]
    if not found:
        raise SchedulerError(f"Slurm says nothing of job {job_id}; 'squeue --me' shows your jobs")
    return found[0]


def _check(job: _Job) -> None:
    me = getpass.getuser()
    if job.owner != me:
        raise SchedulerError(
            f"job {job.name} belongs to {job.owner}, and you are {me}; only its owner can attach"
        )
    if job.state in FINAL_STATES or job.state == "COMPLETING":
        raise SchedulerError(
            f"job {job.name} has ended ({job.state}); attach to one that runs, "
            "'squeue --me' shows yours"
        )
    if job.state != "RUNNING":
        why = f" ({job.reason})" if job.reason else ""
        raise SchedulerError(
            f"job {job.name} is {job.state}{why} and has no nodes to attach to; "
            "try again when it runs"
        )


def _with_nodes(job: _Job) -> Allocation:
    said = ask(("scontrol", "show", "hostnames", job.node_list))
    return replace(job.allocation, nodes=tuple(said.split()))


def _with_components(parts: list[Allocation]) -> Allocation:
    """Return the allocation of a heterogeneous job from those of its components."""
    return replace(
        parts[0],
        nodes=tuple(node for part in parts for node in part.nodes),
        components=tuple(Component(part.nodes, part.gpus_per_node) for part in parts),
    )
