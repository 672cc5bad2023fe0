"""Facts of compute nodes, by a job of one minute."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobmeter import __version__, slurm
from jobmeter.doctor.facts import Fact, Facts, facts_from, number
from jobmeter.doctor.probe import ProbePlan, render_probe
from jobmeter.errors import JobmeterError, ProcessError, SchedulerError, SiteError
from jobmeter.paths import ProbePaths
from jobmeter.plan import Context, make_plan
from jobmeter.process import run
from jobmeter.site import SiteProfile
from jobmeter.slurm_words import FINAL_STATES, state_from
from jobmeter.spec import JobSpec, Resources
from jobmeter.templating import render

TIME_LIMIT = "00:01:00"
RUNNING_LIMIT_S = 240.0
"""Slurm looks at time limits every half minute, and gives a job time to end."""

REMIND_S = 30.0
FACTS_LIMIT_S = 30.0
"""What a node wrote may be seen later here, on a network file system."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class ProbeJob:
    """A probe job that is planned and not yet written anywhere.

    Args:
        paths: Its folder.
        script: Text of the job script.
        probe: Text of the script that runs on each node.
        prologue: The lines that a site wants first.
        nodes: How many nodes it has.
    """

    paths: ProbePaths
    script: str
    probe: str
    prologue: tuple[str, ...]
    nodes: int


def plan_job(
    site_name: str, site: SiteProfile, asked: Resources, probe: ProbePlan, name: str
) -> ProbeJob:
    """Plan a probe job: the same request as a job's, with the same options of the site.

    Args:
        site_name: As given.
        site: The profile.
        asked: What to ask the batch system for.
        probe: What to ask each node.
        name: Of the folder below that of the runs.

    Raises:
        SiteError: the site demands something that was not given, or is no Slurm site.
    """
    if site.launcher != "slurm":
        raise SiteError(f"--on-compute: site {site_name!r} has no batch system; leave it out")
    for key in site.mandatory:
        if not (getattr(asked, key) or getattr(site.defaults, key)):
            raise SiteError(f"--{key}: site {site_name!r} demands one; add --{key}")
    paths = ProbePaths(probe.runs / name)
    context = Context(
        run_id=name,
        run_dir=paths.folder,
        job_file="jobmeter doctor",
        job_dir=Path.cwd(),
        python=sys.executable,
        jobmeter_version=__version__,
    )
    spec = JobSpec(name="jobmeter-doctor", resources=asked, run="true")
    plan = make_plan(spec, site_name, site, context)
    values = {"plan": plan, "paths": paths}
    return ProbeJob(
        paths=paths,
        script=render("sbatch", "probe.sbatch.j2", values),
        probe=render_probe(probe),
        prologue=plan.prologue,
        nodes=asked.nodes,
    )


def ask_nodes(job: ProbeJob, wait_limit_s: float, say: Say) -> tuple[Facts, ...]:
    """Submit the job, wait for its end, and return the facts of its nodes.

    Args:
        job: The planned job.
        wait_limit_s: How long it may wait for nodes.
        say: Tells a person what it waits for.

    Raises:
        SchedulerError: Slurm refused it, it got no nodes in time, or it left no facts. Its folder
            is kept where it may say more.
        JobmeterError: its folder cannot be written.
    """
    _write(job)
    try:
        job_id = slurm.submit(job.paths.script)
    except SchedulerError:
        shutil.rmtree(job.paths.folder)
        raise
    say(f"probe job {job_id} submitted")
    try:
        state = _await_end(job_id, wait_limit_s, say)
    except BaseException:  # Ctrl-C too: nothing of ours stays in the queue
        _cancel(job_id, say)
        shutil.rmtree(job.paths.folder, ignore_errors=True)
        raise
    facts = _facts(job, FACTS_LIMIT_S if state == "COMPLETED" else 1.0)
    if not facts:
        raise SchedulerError(
            f"probe job {job_id} ended as {state} and left no facts; it said: {_said(job)}; its "
            f"folder is {job.paths.folder}, which a node may not see: choose another with --runs"
        )
    shutil.rmtree(job.paths.folder, ignore_errors=True)
    return facts


def _write(job: ProbeJob) -> None:
    paths = job.paths
    try:
        paths.folder.parent.mkdir(parents=True, exist_ok=True)
        for folder in (paths.folder, paths.facts, paths.job_output):
            folder.mkdir(mode=0o700)
        paths.script.write_text(job.script, encoding="utf-8")
        paths.probe.write_text(job.probe, encoding="utf-8")
    except OSError as cause:
        raise JobmeterError(
            f"{paths.folder} cannot be written: {cause.strerror}; choose another place with --runs"
        ) from cause


def queue_command(job_id: str) -> tuple[str, ...]:
    """Return the command that asks for a job's state and why it waits."""
    return ("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T|%r")


def queued_from(stdout: str) -> tuple[str, str] | None:
    r"""Return state and reason from what ``queue_command`` printed; None when it is forgotten.

    >>> queued_from("PENDING|Resources\n"), queued_from("")
    (('PENDING', 'Resources'), None)
    """
    line = next((line for line in stdout.splitlines() if "|" in line), None)
    if line is None:
        return None
    state, _, reason = line.strip().partition("|")
    return state_from(state), reason


def _queued(job_id: str) -> tuple[str, str] | None:
    """Return state and reason; None when Slurm does not answer just now."""
    try:
        found = queued_from(run(queue_command(job_id), error=SchedulerError))
    except SchedulerError:
        found = None
    if found is not None:
        return found
    state = slurm.job_state(job_id)
    return None if state is None else (state, "")


def _await_end(job_id: str, wait_limit_s: float, say: Say) -> str:
    """Return the final state.

    Raises:
        SchedulerError: it did not begin in ``wait_limit_s``, or did not end.
    """
    began = said_at = time.monotonic()
    started: float | None = None
    said = ""
    pause_s = 0.25
    while True:
        state, reason = _queued(job_id) or ("unknown to Slurm", "")
        now = time.monotonic()
        if state in FINAL_STATES:
            say(f"probe job {job_id} {state}")
            return state
        words = f"{state} ({reason})" if reason not in ("", "None") else state
        if words != said or now - said_at > REMIND_S:
            waited = f" for {now - began:.0f} s" if words == said else ""
            say(f"probe job {job_id} {words}{waited}")
            said, said_at = words, now
        waiting = state == "PENDING"
        if waiting:
            started = None
        elif started is None:
            started = now
        if (waiting and now - began > wait_limit_s) or (
            started is not None and now - started > RUNNING_LIMIT_S
        ):
            raise SchedulerError(
                f"probe job {job_id} is {words} after {now - began:.0f} s and was cancelled; try "
                "--wait with more seconds, or another --partition or --qos ('squeue --start' tells "
                "when)"
            )
        time.sleep(pause_s)
        pause_s = min(5.0, pause_s * 1.3)


def _cancel(job_id: str, say: Say) -> None:
    try:
        run(("scancel", job_id), error=SchedulerError)
        say(f"probe job {job_id} cancelled")
    except ProcessError as problem:
        say(f"probe job {job_id} may still be in the queue: {problem}")


def _facts(job: ProbeJob, limit_s: float) -> tuple[Facts, ...]:
    """Return the facts of each node, also of one that told nothing; none when no node did."""
    deadline = time.monotonic() + limit_s
    while True:
        files = sorted(job.paths.facts.glob("*.jsonl"))
        told = [facts_from(f.read_text(encoding="utf-8", errors="replace"), f.stem) for f in files]
        whole = sum(facts.complete for facts in told) >= job.nodes
        if whole or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if not told:
        return ()
    named = next((facts.need("host")["nodes"].split() for facts in told if facts.find("host")), [])
    by_host = {facts.host: facts for facts in told}
    for host in named:
        by_host.setdefault(host, Facts(host, ()))
    prologue = _prologue(job)
    return tuple(facts.with_facts(prologue) for facts in by_host.values())


def _prologue(job: ProbeJob) -> tuple[Fact, ...]:
    """Return how each line of the prologue ended, on the first node, whose shell all inherit."""
    facts = []
    for position, line in enumerate(job.prologue):
        path = job.paths.prologue(position)
        if path.is_file():
            status, _, text = path.read_text(encoding="utf-8", errors="replace").partition("\n")
            words = re.sub(r"^\S+: line \d+: ", "", " ".join(text.split()))  # bash's own place
            if number(status) is not None:
                facts.append({"fact": "prologue", "line": line, "status": status, "text": words})
    return tuple(facts)


def _said(job: ProbeJob) -> str:
    """Return the end of the job's output in one line."""
    outputs: Sequence[Path] = sorted(job.paths.job_output.glob("*"))
    text = " ".join(
        " ".join(path.read_text(encoding="utf-8", errors="replace").split()) for path in outputs
    )
    return text[-300:] or "nothing"
