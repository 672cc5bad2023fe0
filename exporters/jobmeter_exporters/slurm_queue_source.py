"""Who is asked about the queue: pyslurm in a process of its own, or squeue and sinfo."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Generic, TypeVar

from jobmeter_exporters import slurm_queue_answers as answers
from jobmeter_exporters.errors import ExporterError, TooMuchOutput
from jobmeter_exporters.families import Labels
from jobmeter_exporters.polled import Command
from jobmeter_exporters.slurm_queue_probe import IMPORTED
from jobmeter_exporters.slurm_queue_state import Job, NodeGroup

Answer = TypeVar("Answer")

MOST_BYTES = 16 * 2**20
"""The largest answer that is read: JSON of about 2000 jobs, text of a hundred times more."""

_UNKNOWN_OPTION = re.compile(r"option|plugin|seriali|json", re.I)
_FILTERS = ("SQUEUE_", "SINFO_")


class NotUsable(ExporterError):  # noqa: N818 - reads as what happened
    """A way to ask that does not exist here; the controller was not asked."""


class Program(Generic[Answer]):
    """One of Slurm's programs, asked for JSON until it turns out that it has none.

    Args:
        command: Starts it.
        json: The arguments for JSON, and what reads that.
        text: The same for text.
        formats: Which of them may be used, the best first.
    """

    def __init__(
        self,
        command: Command,
        json: tuple[Sequence[str], Callable[[str], list[Answer]]],
        text: tuple[Sequence[str], Callable[[str], list[Answer]]],
        formats: Sequence[str],
    ) -> None:
        self._command = command
        self._ways = {"json": json, "text": text}
        self._formats = list(formats)

    def read(self) -> tuple[str, list[Answer]]:
        """Ask, and return in which format and what the answer was.

        The next format is tried at once where the program has none of the first, which it says
        without asking the controller, and at the next reading where the answer was of no use.

        Raises:
            ExporterError: There is no answer, or none that can be read.
        """
        while True:
            form = self._formats[0]
            arguments, parse = self._ways[form]
            try:
                return form, parse(self._ask(form, arguments))
            except NotUsable:
                if len(self._formats) == 1:
                    raise
                del self._formats[0]
            except (answers.Unreadable, TooMuchOutput) as problem:
                if len(self._formats) == 1:
                    raise
                del self._formats[0]
                raise ExporterError(
                    f"{problem}; it is asked for {self._formats[0]} from the next reading on"
                ) from problem

    def _ask(self, form: str, arguments: Sequence[str]) -> str:
        done = self._command.run(arguments, _environment())
        if done.status == 0:
            return done.stdout
        said = f"{arguments[0]} ended with {done.status} and says {done.complaint!r}"
        if form == "json" and _UNKNOWN_OPTION.search(done.stderr):
            raise NotUsable(f"{said}; give --queue-source text")
        raise ExporterError(f"{said}; is slurm.conf here, and is the controller up?")


class Slurm:
    """Asks for the jobs and nodes of the cluster.

    Args:
        wanted: ``auto`` or one way to ask.
        timeout_s: After which a program is killed.
    """

    def __init__(self, wanted: str, timeout_s: float) -> None:
        self.command = Command(timeout_s, MOST_BYTES)
        self._try_pyslurm = wanted in ("auto", "pyslurm")
        self._only_pyslurm = wanted == "pyslurm"
        formats = ("json", "text") if wanted == "auto" else (wanted,)
        self._jobs = Program(
            self.command,
            (answers.SQUEUE_JSON, answers.jobs_from_json),
            (answers.SQUEUE_TEXT, answers.jobs_from_text),
            formats,
        )
        self._nodes = Program(
            self.command,
            (answers.SINFO_JSON, answers.nodes_from_json),
            (answers.SINFO_TEXT, answers.nodes_from_text),
            formats,
        )

    def read(self) -> tuple[Labels, list[Job], list[NodeGroup]]:
        """Return how jobs and nodes were asked for, and both.

        Raises:
            ExporterError: There is no answer, or none that can be read.
        """
        if self._try_pyslurm:
            try:
                return (("pyslurm", "pyslurm"), *self._read_by_pyslurm())
            except NotUsable:
                if self._only_pyslurm:
                    raise
                self._try_pyslurm = False
            except ExporterError:
                self._try_pyslurm = self._only_pyslurm
                raise
        jobs_by, jobs = self._jobs.read()
        nodes_by, nodes = self._nodes.read()
        return (jobs_by, nodes_by), jobs, nodes

    def _read_by_pyslurm(self) -> tuple[list[Job], list[NodeGroup]]:
        if find_spec("pyslurm") is None:
            raise NotUsable("pyslurm is not installed here; pip install pyslurm")
        # Not -m: that would put the folder in which the user happens to stand before all others.
        start = (
            "import sys; sys.path[:] = filter(None, sys.path); "
            "import jobmeter_exporters.slurm_queue_probe as p; p.main()"
        )
        done = self.command.run((sys.executable, "-c", start), _environment())
        answer = done.stdout.rstrip().rpartition("\n")[2]
        if IMPORTED not in done.stdout.splitlines():
            raise NotUsable(f"pyslurm cannot be used here: {done.complaint!r}; install it again")
        if done.status != 0:
            raise ExporterError(f"pyslurm says {done.complaint!r}; is the controller up?")
        return answers.jobs_from_json(answer), answers.nodes_from_json(answer)


def _environment() -> dict[str, str | None]:
    """Return what takes the user's own defaults away, which filter and format, and what we need."""
    own: dict[str, str | None] = {name: None for name in os.environ if name.startswith(_FILTERS)}
    return {**own, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
