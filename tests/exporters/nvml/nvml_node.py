"""A node whose GPUs stand in a text file: the real pynvml, in a child process, over ``nvml.c``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import jobmeter_exporters

HERE = Path(__file__).parent
EXPORTERS = Path(jobmeter_exporters.__file__).parents[1]
DEADLINE_S = 30.0
CHOICES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")

ALL_LINKS = 2**32 - 1
MIB = 2**20

UUIDS = {gpu: f"GPU-{gpu}{gpu}{gpu}{gpu}8edd-7dc2-4667-5639-a30a879048ae" for gpu in "0123"}
H100 = {
    "driver": "580.105.05",
    "count": "4",
    **{f"{gpu}.uuid": uuid for gpu, uuid in UUIDS.items()},
    **{f"{gpu}.minor": gpu for gpu in UUIDS},
    **{f"{gpu}.bus_id": f"00000000:{gpu}8:00.0" for gpu in UUIDS},
    "*.name": "NVIDIA H100 80GB HBM3",
    "*.mig_mode": "0",
    "*.power": "600123",
    "*.limit": "700000",
    "*.temperature": "60",
    "*.sm_clock": "1800",
    "*.memory_clock": "2619",
    "*.utilization": "80",
    "*.memory_utilization": "40",
    "*.encoder": "20",
    "*.decoder": "10",
    "*.clock_reasons": "0x4",
    "*.memory_total": 81920 * MIB,
    "*.memory_used": 1000 * MIB + 5,
    "*.memory_reserved": 600 * MIB,
    "*.field.82": "70",
    "*.field.83": "1000600000",
    "*.field.186": "650500",
    "*.field.185": "600123",
    "*.field.94": "2",
    **{f"*.field.{74 + at}": 10**9 + at for at in range(6)},
    **{f"*.field.{269 + at}": 2 * 10**9 + at for at in range(3)},
    **{f"*.field.{3 + at}": 4 - at for at in range(4)},
    "*.field.142": "2",
    "*.field.143": "1",
    "*.field.145": "0",
    "*.field.38": "3",
    "*.field.45": "2",
    "*.field.52": "1",
    "*.field.59": "0",
    "*.field.197": "5000000000",
    "*.field.198": "6000000000",
    f"*.field.138.{ALL_LINKS}": "1000000",
    f"*.field.139.{ALL_LINKS}": "2000000",
    "*.gpm": "1",
    "*.gpm.clock": "100",
    **{f"*.gpm.{metric}": "0" for metric in (*range(1, 14), 20, 21, 60, 61)},
    "*.samples.1": "1000000:50",
    "*.process_use": "1000000:1:1",
    "*.processes": "",
}
"""Four H100 of which all is known, but pages retired and a module's power, which they have not."""


def build_library(folder: Path, *flags: str) -> Path:
    """Compile the stand-in for the driver's library; return the folder it is in."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("cc is not on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "libnvidia-ml.so.1"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", *flags]
    subprocess.run([*command, "-o", output, HERE / "nvml.c", "-lpthread"], check=True)
    return folder


@dataclass
class Node:
    """A node; what its driver says is changed by ``say``.

    Args:
        root: A folder of the test.
        library: The folder of the library, None for a node without one.
    """

    root: Path
    library: Path | None
    lines: dict[str, object] = field(default_factory=lambda: dict(H100))

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.say({})

    def say(self, lines: Mapping[str, object]) -> None:
        """Change what the driver says from now on; None takes a line away."""
        self.lines |= lines
        self.lines = {key: value for key, value in self.lines.items() if value is not None}
        draft = self.root / "script.new"
        draft.write_text("".join(f"{key} {value}\n" for key, value in self.lines.items()))
        draft.rename(self.root / "script")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process on this node; no job has chosen GPUs."""
        kept = {key: value for key, value in os.environ.items() if key not in CHOICES}
        return {
            **kept,
            "PYTHONPATH": str(EXPORTERS),
            "JOBMETER_NVML_SCRIPT": str(self.root / "script"),
            "JOBMETER_NVML_CALLS": str(self.root / "calls"),
            "LD_LIBRARY_PATH": str(self.library or ""),
        }

    def take_calls(self) -> list[str]:
        """Return what the driver was asked since the last time."""
        calls = self.root / "calls"
        asked = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return asked

    @contextmanager
    def scraper(self, *options: str, **variables: str):
        """Start a process with the collector, whose clock stands until it is told to advance."""
        with subprocess.Popen(
            [sys.executable, str(HERE / "scraper.py"), *options],
            env={**self.environment, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout.readline() == "ready\n", "the scraper did not start"
                yield Scraper(process)
                process.stdin.close()
                assert process.wait(DEADLINE_S) == 0
            finally:
                process.kill()


@dataclass
class Scraper:
    """A process that scrapes when told to."""

    process: subprocess.Popen

    def scrape(self, advance_s: float = 5.0) -> Scrape:
        """Let time go on, and scrape."""
        return Scrape(**self._tell(do="scrape", advance_s=advance_s))

    def sample(self, advance_s: float = 0.05) -> None:
        """Let time go on, and let the sampler read once."""
        self._tell(do="sample", advance_s=advance_s)

    def _tell(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the scraper ended"
        return json.loads(line)


@dataclass(frozen=True)
class Scrape:
    """What one scrape gave.

    Args:
        text: The exposition.
        log: What was logged meanwhile.
    """

    text: str
    log: list[str]

    @property
    def lines(self) -> list[str]:
        """The samples, those of the health of the collector left out."""
        return [line for line in self.text.splitlines() if not line.startswith(("#", "jobmeter_"))]

    @property
    def success(self) -> bool:
        return 'jobmeter_collector_success{collector="nvidia"} 1.0' in self.text

    def values(self, family: str, **labels: str) -> list[float]:
        """Return the values of a family that have these labels, in the order of the GPUs."""
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        return [
            float(line.rpartition(" ")[2])
            for line in self.lines
            if line.startswith(f"{family}{{") and all(one in line for one in wanted)
        ]

    @property
    def families(self) -> set[str]:
        return {line.partition("{")[0] for line in self.lines}
