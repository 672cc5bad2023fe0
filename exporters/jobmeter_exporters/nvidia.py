"""NVIDIA GPUs through the driver's own library (NVML), under the names, labels and units of DCGM.

Needs no privileges and no daemon: `libnvidia-ml.so.1`, which comes with the driver (`apptainer
exec --nv` binds it). Dashboards and KPIs need not care whether this or dcgm-exporter fed them. What
a GPU or a driver does not have is absent, and asked for again every five minutes.

Activity (`DCGM_FI_PROF_*`) comes from GPM on Hopper and later, and is the mean over exactly the
time since the scrape before; with two scrapers each gets the mean since the other's. Until there is
a tenth of a second of it, it is absent. The `*_TX_BYTES` and `*_RX_BYTES` among them are rates, as
DCGM's are whatever type it declares; `nvidia_pcie_*_bytes_total` and `nvidia_nvlink_*_bytes_total`
are counters. DCGM's counters are exposed as untyped, since their names do not end in `_total`.

`--nvidia-devices auto` (the default) reports the GPUs that `SLURM_STEP_GPUS`, else
`SLURM_JOB_GPUS`, else `CUDA_VISIBLE_DEVICES` names, and all where none of them is set: NVML sees
the GPUs of other jobs, too, unless the job's control group hides them. Slurm's numbers are those of
the device files, CUDA's those of NVML. Where CUDA's variable names instances (MIG), it goes first.
Of a GPU cut into instances memory and activity are given by instance, the rest once for the whole.

A GPU that is lost or fails a question is named in the log, once, and `jobmeter_collector_success`
is 0; its last XID stays, the other GPUs go on. A driver that does not answer within three seconds
holds up neither the scrape nor the end.

`--nvidia-sample-interval 50ms` reads power and utilisation that often in the background and gives
least, mean over time and largest since the scrape before (`nvidia_sampled_*`). Taking them begins
them anew: of two scrapers one gets the rest.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters import nvidia_devices, nvidia_fields, nvidia_readings, nvidia_sampler
from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.families import Labels, Readings, merge, to_metrics
from jobmeter_exporters.nvidia_answers import Answers, GpuLost, Nvml
from jobmeter_exporters.nvidia_devices import Choice, Gpu, Instance
from jobmeter_exporters.nvidia_families import FAMILIES as FAMILIES
from jobmeter_exporters.nvidia_gpm import Activity
from jobmeter_exporters.nvidia_patience import Patience
from jobmeter_exporters.nvidia_processes import Processes
from jobmeter_exporters.nvidia_sampler import Sampler
from jobmeter_exporters.nvidia_xid import Xids
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 300.0
"""How often GPUs are looked for: one that was reset comes back, instances change."""

TRY_AGAIN_S = 60.0
"""How often a driver that did not answer is asked again."""

XID = "DCGM_FI_DEV_XID_ERRORS"

WITHOUT_DRIVER = {
    9: "the driver is not loaded; is this a node with NVIDIA GPUs?",
    12: "libnvidia-ml.so.1 is not found; is the driver installed, and in a container bound "
    "(apptainer exec --nv)?",
    13: "libnvidia-ml.so.1 is too old or broken; a driver of 2018 or later is needed",
    18: "the library and the loaded driver are of different versions; has the node to be rebooted?",
}
"""By NVML's return code, what to try."""


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add which GPUs to report, and how often to read power."""
    parser.add_argument(
        "--nvidia-devices",
        type=_devices,
        default="auto",
        metavar="auto|all|LIST",
        help="numbers or UUIDs, such as 0,2-3; auto: those of the job (default)",
    )
    parser.add_argument(
        "--nvidia-sample-interval",
        type=nvidia_sampler.interval,
        metavar="TIME",
        help="read power and utilisation this often, such as 50ms, and give least, mean, largest",
    )


def _devices(text: str) -> str:
    if text not in ("auto", "all") and not nvidia_devices.names_in(text):
        raise argparse.ArgumentTypeError(f"{text!r} names no GPU; write auto, all or such as 0,2-3")
    return text


def from_settings(settings: Settings) -> Collector:
    """Return the collector for this node.

    Raises:
        ExporterError: nvidia-ml-py is not installed.
    """
    try:
        import pynvml
    except ImportError as cause:
        raise ExporterError(
            f"cannot import pynvml ({cause}); install nvidia-ml-py beside jobmeter"
        ) from cause
    options = settings.options
    choice = nvidia_devices.choice(options.get("nvidia_devices") or "auto", os.environ)
    return GpuUse(pynvml, choice, options.get("nvidia_sample_interval"), settings.proc)


class GpuUse(Collector):
    """What the GPUs of this job do.

    Args:
        nvml: The module pynvml.
        choice: Which GPUs to report.
        sample_interval_s: How often to read power in the background; None for not at all.
        proc: Mount point of procfs.
        clock: Seconds from any moment; tests pass their own.
    """

    def __init__(
        self,
        nvml: Nvml,
        choice: Choice,
        sample_interval_s: float | None = None,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml = nvml
        self._choice = choice
        self._clock = clock
        self._lock = threading.Lock()  # /metrics and /metrics/nvidia may be read at once
        self._patience: Patience[tuple[Readings, list[str]]] = Patience()
        self._connected = False
        self._gpus: list[Gpu] = []
        self._missing: list[str] = []
        self._lost: dict[str, tuple[Gpu, str]] = {}
        self._failure: ExporterError | NoData | None = None
        self._due_s = clock()
        self._answers: dict[str, Answers] = {}
        self._activity = Activity(nvml, clock)
        self._nvlink = nvidia_fields.NvlinkRate(clock)
        self._processes = Processes(nvml, proc)
        self._xids = Xids(nvml)
        self._sampler = (
            None if sample_interval_s is None else Sampler(nvml, sample_interval_s, clock)
        )

    def __enter__(self) -> GpuUse:
        """Take the first samples, so that the first scrape has means since now."""
        try:
            with self._lock:
                self._patience.run(self._read)
        except (ExporterError, NoData) as reason:
            logger.debug("nvidia: not yet: %s", reason)  # the first scrape says it
        if self._sampler is not None:
            self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the background, and leave the driver."""
        ended = self._sampler is None or self._sampler.stop()
        with self._lock:
            if self._connected and ended and not self._patience.busy:
                self._activity.close()
                self._xids.close()
                self._nvml.nvmlShutdown()
            self._connected = False

    def collect(self) -> Iterator[Metric]:
        """Yield one family per number that can be read now.

        Raises:
            NoData: There is no GPU, or the job has none.
            ExporterError: There is no driver, or some GPU or value of it cannot be read; what can
                be was yielded before.
        """
        with self._lock:
            readings, problems = self._patience.run(self._read)
        yield from to_metrics(readings, FAMILIES)
        if problems:
            raise ExporterError(
                f"{'; '.join(problems)}; all else is complete, nvidia-smi may tell more"
            )

    def _read(self) -> tuple[Readings, list[str]]:
        """Return what can be read, and what went wrong with the rest."""
        self._look()
        readings: Readings = {}
        problems: list[str] = []
        if self._sampler is not None:
            self._sampler.drain()
        for gpu in self._gpus:
            if gpu.uuid not in self._lost:
                self._read_gpu(gpu, readings, problems)
        self._xids.drain()
        codes = self._xids.readings({gpu.uuid for gpu in self._gpus} - self._lost.keys())
        if codes:
            readings[XID] = codes
        problems += self._missing
        problems += [f"GPU {gpu.index}: {why}" for gpu, why in self._lost.values()]
        return readings, problems

    def _read_gpu(self, gpu: Gpu, into: Readings, problems: list[str]) -> None:
        answers = self._answers.setdefault(gpu.uuid, Answers(self._nvml, self._clock))
        readings: Readings = {}
        try:
            self._read_whole(gpu, answers, readings)
            parts: tuple[Instance | None, ...] = gpu.instances if gpu.cut else (None,)
            for part in parts:
                self._read_part(gpu, part, answers, readings)
            self._xids.watch(answers, gpu)
        except GpuLost as lost:
            self._lost[gpu.uuid] = (gpu, str(lost))
            self._activity.forget(gpu)
            self._due_s = min(self._due_s, self._clock() + TRY_AGAIN_S)
        else:
            merge(into, readings)
        problems += [f"GPU {gpu.index}: {problem}" for problem in answers.problems]
        answers.problems.clear()

    def _read_whole(self, gpu: Gpu, answers: Answers, into: Readings) -> None:
        known = nvidia_fields.read(self._nvml, answers, gpu.handle, nvidia_fields.FIELDS)
        rate = self._nvlink.of(gpu.uuid, known)
        if rate is not None:
            known["DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"] = rate
        known |= nvidia_readings.read(self._nvml, answers, gpu.handle, nvidia_readings.OF_GPU)
        if self._sampler is not None:
            known |= self._sampler.take(gpu)
            failed = self._sampler.take_problem(gpu)
            answers.problems += [failed] if failed else []
        merge(into, _labelled(known, gpu.labels))

    def _read_part(self, gpu: Gpu, part: Instance | None, answers: Answers, into: Readings) -> None:
        """Read what a GPU has by instance; ``None`` is the whole of one that is not cut."""
        handle, of = (gpu.handle, "") if part is None else (part.handle, f" of {part.uuid}")
        known = nvidia_readings.read(self._nvml, answers, handle, nvidia_readings.OF_INSTANCE, of)
        known |= self._activity.read(answers, gpu, part)
        labels = gpu.labels if part is None else (*gpu.labels, *part.labels)
        merge(into, _labelled(known, labels))
        merge(into, self._processes.read(answers, gpu, part))

    def _look(self) -> None:
        """Find the GPUs, when it is time to.

        Raises:
            NoData: There is none to report.
            ExporterError: The driver does not answer.
        """
        if self._clock() >= self._due_s:
            self._failure = None
            try:
                self._find()
            except (ExporterError, NoData) as failure:
                self._failure = failure
                self._gpus = []
            amiss = self._failure is not None or self._missing
            self._due_s = self._clock() + (TRY_AGAIN_S if amiss else LOOK_AGAIN_S)
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # it would grow with each scrape

    def _find(self) -> None:
        try:
            if not self._connected:
                self._nvml.nvmlInit()
                self._connected = True
            gpus, missing = nvidia_devices.found(self._nvml, socket.gethostname())
        except self._nvml.NVMLError as problem:
            self._connected = False  # the driver may have been loaded anew
            words = WITHOUT_DRIVER.get(problem.value, "try nvidia-smi")
            raise ExporterError(f"NVML: {problem} ({problem.value}): {words}") from problem
        self._missing = [
            f"GPU {index}: {why}"
            for index, why in missing.items()
            if nvidia_devices.may_be_meant(index, self._choice)
        ]
        for gpu, _ in self._lost.values():
            self._xids.forget(gpu)
        self._lost.clear()
        self._gpus = nvidia_devices.chosen(gpus, self._choice)
        if not self._gpus and not self._missing:
            raise NoData("NVML sees no GPU")
        if self._sampler is not None:
            self._sampler.watch(self._gpus)


def _labelled(known: dict[str, float], labels: Labels) -> Readings:
    return {family: {labels: float(value)} for family, value in known.items()}
