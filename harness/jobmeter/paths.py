"""Where the files of a run lie. Nobody else joins paths below a run directory.

The layout is the contract between the job and the analysis; ``docs/run-directory.md`` describes
every file for a reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Side = Literal["start", "end"]


@dataclass(frozen=True)
class AttemptPaths:
    """Where the files of one attempt lie: one start of the job script."""

    attempt: Path

    @property
    def name(self) -> str:
        """The job id with its array task, component and restart, or ``local``."""
        return self.attempt.name

    @property
    def task(self) -> str:
        """What this is a try of: the name without the restart.

        >>> AttemptPaths(Path("attempts/12_3.r1")).task
        '12_3'
        """
        return self.name.partition(".")[0]

    @property
    def events(self) -> Path:
        """Append-only facts from the job, one JSON object per line."""
        return self.attempt / "events.jsonl"

    @property
    def targets(self) -> Path:
        """Prometheus ``file_sd`` files, each replaced by rename."""
        return self.attempt / "targets"

    @property
    def edges(self) -> Path:
        """One folder per phase boundary."""
        return self.attempt / "edges"

    def edge(self, phase: str, side: Side) -> Path:
        """The expositions fetched at one boundary of ``phase``."""
        return self.edges / f"{phase}.{side}"

    @property
    def tsdb(self) -> Path:
        """Copy of the Prometheus data folder."""
        return self.attempt / "tsdb"

    @property
    def results(self) -> Path:
        """One folder per phase that named its client's own result files."""
        return self.attempt / "results"

    def phase_results(self, phase: str) -> Path:
        """Copies of the result files of ``phase``; missing when there are none."""
        return self.results / phase

    def snapshot(self, when: str, service: str, name: str) -> Path:
        """What a service said of its settings at some moment."""
        return self.attempt / "snapshots" / when / service / f"{name}.json"

    @property
    def logs(self) -> Path:
        """One file per component and node."""
        return self.attempt / "logs"

    @property
    def accounting(self) -> Path:
        """What Slurm says of this attempt, fetched when it was last analysed."""
        return self.attempt / "accounting.json"

    @property
    def endpoints(self) -> Path:
        """Where processes of the payload announce endpoints."""
        return self.attempt / "endpoints"

    @property
    def final_metrics(self) -> Path:
        """Where a payload leaves its last exposition."""
        return self.attempt / "final_metrics"

    @property
    def commands(self) -> Path:
        """What its owner asks of an attached run, one line each; only ever appended to."""
        return self.attempt / "commands"

    @property
    def report(self) -> Path:
        """KPI tables and their manifest."""
        return self.attempt / "report"


@dataclass(frozen=True)
class RunPaths:
    """Where the files of one run lie."""

    run: Path

    @property
    def spec(self) -> Path:
        """The job file as given."""
        return self.run / "job.yaml"

    @property
    def script(self) -> Path:
        """The script as submitted."""
        return self.run / "job.sbatch"

    @property
    def control(self) -> Path:
        """What an attached run has in the place of a job script."""
        return self.run / "scripts" / "control.sh"

    @property
    def control_log(self) -> Path:
        """What that printed."""
        return self.job_output / "control.log"

    @property
    def environment(self) -> Path:
        """Variables of an attached run for the payload's shell."""
        return self.run / "environment.sh"

    @property
    def manifest(self) -> Path:
        """The plan, written once."""
        return self.run / "run.json"

    @property
    def submission(self) -> Path:
        """The number that Slurm gave to the job."""
        return self.run / "submitted.json"

    @property
    def job_output(self) -> Path:
        """Folder of the job's standard output; Slurm does not create folders itself."""
        return self.run / "output"

    @property
    def secrets(self) -> Path:
        """Password of this run and what is derived from it; nothing secret lies elsewhere."""
        return self.run / "secrets"

    @property
    def password(self) -> Path:
        """The password alone."""
        return self.secrets / "password"

    @property
    def attempts(self) -> Path:
        """One folder per start of the job script."""
        return self.run / "attempts"

    def attempt(self, name: str) -> AttemptPaths:
        """The folder of the attempt called ``name``."""
        return AttemptPaths(self.attempts / name)

    @property
    def report(self) -> Path:
        """KPI tables of all attempts together, where there are several."""
        return self.run / "report"

    def all_attempts(self) -> tuple[AttemptPaths, ...]:
        """Every attempt that has started so far: by job id, array task, component, restart."""
        if not self.attempts.is_dir():
            return ()
        folders = [entry for entry in self.attempts.iterdir() if entry.is_dir()]
        return tuple(AttemptPaths(f) for f in sorted(folders, key=lambda f: _numbers_in(f.name)))


@dataclass(frozen=True)
class HookPaths:
    """Where what belongs to one hook file lies: in the folder of the runs that it will make."""

    folder: Path

    @property
    def secrets(self) -> Path:
        """The password of all its runs, and what is derived from it."""
        return self.folder / "secrets"


@dataclass(frozen=True)
class ProbePaths:
    """Where the files of one probe job of ``jobmeter doctor`` lie."""

    folder: Path

    @property
    def script(self) -> Path:
        """The script as submitted."""
        return self.folder / "probe.sbatch"

    @property
    def probe(self) -> Path:
        """What runs on each node."""
        return self.folder / "probe.sh"

    @property
    def facts(self) -> Path:
        """One file per node, and one per line of the prologue."""
        return self.folder / "facts"

    def prologue(self, position: int) -> Path:
        """How one line of the site's prologue ended."""
        return self.facts / f"prologue.{position}"

    @property
    def job_output(self) -> Path:
        """Folder of the job's standard output."""
        return self.folder / "output"


@dataclass(frozen=True)
class SuitePaths:
    """Where the files of one test run lie (``jobmeter test``)."""

    run: Path

    @property
    def script(self) -> Path:
        """The script as submitted."""
        return self.run / "tests.sbatch"

    @property
    def manifest(self) -> Path:
        """What was asked for, and in which image it runs."""
        return self.run / "tests.json"

    @property
    def plugins(self) -> Path:
        """What pytest loads besides the tests."""
        return self.run / "plugins"

    @property
    def plugin(self) -> Path:
        """What keeps the JUnit file."""
        return self.plugins / "jobmeter_junit.py"

    @property
    def sources(self) -> Path:
        """Which sources are tested, where no image says it."""
        return self.plugins / "SOURCES.json"

    @property
    def junit(self) -> Path:
        """What became of each test so far."""
        return self.run / "junit.xml"

    @property
    def job_output(self) -> Path:
        """Folder of what pytest printed."""
        return self.run / "output"

    def log(self) -> Path | None:
        """What pytest printed; None when the run has not started."""
        return next(iter(sorted(self.job_output.glob("*.out"))), None)


def _numbers_in(name: str) -> tuple[tuple[int, str], ...]:
    """Return the parts of a name so that numbers sort by their size.

    >>> sorted(["12.r10", "9", "12", "12.r2"], key=_numbers_in)
    ['9', '12', '12.r2', '12.r10']
    """
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)
