"""Putting the stack into an allocation that is there already."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from jobmeter.allocation import Allocation
from jobmeter.errors import SchedulerError
from jobmeter.events import EventLog, read_events
from jobmeter.launch import Prepared
from jobmeter.paths import AttemptPaths, RunPaths
from jobmeter.plan import Plan
from jobmeter.process import start_detached
from jobmeter.templating import quoted

POLL_S = 0.1
STEP_LIMIT_S = 60
"""How long Slurm may take to start a step, beside the limit of the stack itself."""

_KEPT = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
"""Variables that say which Slurm is meant. All others describe the step that we may be in."""


@dataclass(frozen=True)
class Listening:
    """What runs after an attach.

    Args:
        up: How many endpoints of the stack answer.
        expected: How many should.
        missing: Those that do not, as ``service@node``.
        node: Where Prometheus is.
        port: On which it listens there, on loopback; None when it does not.
    """

    up: int
    expected: int
    missing: tuple[str, ...]
    node: str
    port: int | None


def attempt_of(paths: RunPaths, allocation: Allocation) -> AttemptPaths:
    """Return the only attempt of an attached run."""
    return paths.attempt(allocation.attempt)


def control_command(
    prepared: Prepared, paths: RunPaths, allocation: Allocation, phase: str
) -> tuple[str, ...]:
    """Return the command that runs the control as a step on the first node."""
    gpus = ("--gpus-per-node=0",) if allocation.gpus_per_node else ()
    return (
        "srun",
        f"--jobid={allocation.job_id}",
        *("--overlap", "--mem=0", "--nodes=1", "--ntasks=1", "--cpus-per-task=1"),
        f"--nodelist={allocation.nodes[0]}",
        f"--job-name={prepared.plan.run_id}",  # by which the step is known as long as it runs
        *gpus,
        *(("--het-group=0",) if allocation.components else ()),
        *prepared.site.step_options,
        *shell_of(prepared.plan),
        str(paths.control),
        phase,
    )


def shell_of(plan: Plan) -> tuple[str, ...]:
    """Return the words of the shell in which the site's modules exist."""
    return tuple(shlex.split(plan.shebang.removeprefix("#!")))


def payload_environment(plan: Plan, attempt: AttemptPaths, paths: RunPaths) -> Mapping[str, str]:
    """Return the variables by which a payload finds the recording it is part of."""
    return {
        "JOBMETER_RUN_ID": plan.run_id,
        "JOBMETER_RUN_DIR": str(paths.run),
        "JOBMETER_ATTEMPT_DIR": str(attempt.attempt),
        "JOBMETER_FINAL_METRICS": str(attempt.final_metrics),
        "JOBMETER_ENDPOINTS_DIR": str(attempt.endpoints),
        "JOBMETER_LISTEN_HOST": plan.listen_host,
        "JOBMETER_PASSWORD_FILE": str(paths.password),
    }


def environment_text(variables: Mapping[str, str]) -> str:
    """Return a file for ``source``."""
    return "".join(f"export {name}={quoted(value)}\n" for name, value in variables.items())


def start(
    prepared: Prepared, paths: RunPaths, allocation: Allocation, phase: str
) -> subprocess.Popen[bytes]:
    """Start the stack and return at once; it goes on without us.

    Raises:
        ProcessError: srun is not on PATH.
    """
    attempt = attempt_of(paths, allocation)
    variables = payload_environment(prepared.plan, attempt, paths)
    paths.environment.touch(mode=0o600)
    paths.environment.write_text(environment_text(variables), encoding="utf-8")
    ours = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(("SLURM_", "SRUN_"))
    }
    command = control_command(prepared, paths, allocation, phase)
    return start_detached(command, paths.control_log, ours)


def await_stack(
    child: subprocess.Popen[bytes], paths: RunPaths, allocation: Allocation, limit_s: float
) -> Listening:
    """Wait until the targets are up and the first phase has begun.

    Raises:
        SchedulerError: the step ended before, or it takes too long.
    """
    attempt = attempt_of(paths, allocation)
    deadline = time.monotonic() + limit_s
    while True:
        ended = child.poll() is not None
        log = read_events(attempt.events)
        if log.named("phase_start") and not ended:
            return _listening(log, allocation)
        if ended:
            raise SchedulerError(
                f"the monitoring does not start in job {allocation.job_id}; it said: "
                f"{_last_words(paths)}; see {paths.job_output}"
            )
        if time.monotonic() > deadline:
            child.terminate()
            raise SchedulerError(
                f"the monitoring was not up in job {allocation.job_id} after {limit_s:g} s and was "
                f"ended; see {attempt.logs} and {paths.control_log}"
            )
        time.sleep(POLL_S)


def _last_words(paths: RunPaths) -> str:
    try:
        lines = paths.control_log.read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()]
    return "; ".join(said[-3:]) or "nothing"


def _listening(log: EventLog, allocation: Allocation) -> Listening:
    up = log.named("targets_up")
    fields: Mapping[str, object] = up[-1].fields if up else {}
    started = [e for e in log.named("component_start") if e.fields.get("component") == "prometheus"]
    port = started[-1].fields.get("port") if started else None
    return Listening(
        up=int(str(fields.get("up", 0))),
        expected=int(str(fields.get("expected", 0))),
        missing=tuple(str(fields.get("missing", "")).split()),
        node=allocation.nodes[0],
        port=port if isinstance(port, int) else None,
    )


def tunnel(listening: Listening, user: str, login: str | None) -> str:
    """Return the command that brings Prometheus to a person's own machine.

    >>> tunnel(Listening(7, 7, (), "n1", 20001), "me", "login.hpc.org:8822")
    'ssh -N -L 9090:127.0.0.1:20001 -J me@login.hpc.org:8822 me@n1'
    """
    there = f"{user}@{login or 'LOGIN'}"
    return f"ssh -N -L 9090:127.0.0.1:{listening.port} -J {there} {user}@{listening.node}"
