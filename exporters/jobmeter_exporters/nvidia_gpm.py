"""Activity of the parts of a GPU, from GPM: since Hopper, and without privileges.

GPM gives means between two samples. The sample of the scrape before is kept, so the mean is over
exactly the time between the scrapes. With two scrapers each gets the mean since the other's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from jobmeter_exporters.nvidia_answers import NOT_SUPPORTED, Answers, Handle, Nvml
from jobmeter_exporters.nvidia_devices import Gpu, Instance

SHORTEST_S = 0.1
"""Samples closer than this give no mean; a scrape so soon gets the means of the one before."""

PERCENT = 1e-2
MIB = 2.0**20
INTERVAL = "nvidia_activity_interval_seconds"


class GpmMetric(NamedTuple):
    """One metric: where it goes, and what turns it into DCGM's unit."""

    family: str
    id: int
    scale: float


METRICS = (
    GpmMetric("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1, PERCENT),
    GpmMetric("DCGM_FI_PROF_SM_ACTIVE", 2, PERCENT),
    GpmMetric("DCGM_FI_PROF_SM_OCCUPANCY", 3, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 5, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_TENSOR_HMMA_ACTIVE", 7, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_TENSOR_IMMA_ACTIVE", 9, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_TENSOR_DFMA_ACTIVE", 6, PERCENT),
    GpmMetric("DCGM_FI_PROF_DRAM_ACTIVE", 10, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_FP64_ACTIVE", 11, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_FP32_ACTIVE", 12, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_FP16_ACTIVE", 13, PERCENT),
    GpmMetric("DCGM_FI_PROF_PIPE_INT_ACTIVE", 4, PERCENT),
    GpmMetric("DCGM_FI_PROF_PCIE_TX_BYTES", 20, MIB),
    GpmMetric("DCGM_FI_PROF_PCIE_RX_BYTES", 21, MIB),
    GpmMetric("DCGM_FI_PROF_NVLINK_TX_BYTES", 61, MIB),
    GpmMetric("DCGM_FI_PROF_NVLINK_RX_BYTES", 60, MIB),
)


@dataclass
class _Kept:
    """The last sample of a GPU or an instance, one more to write the next into, and the means."""

    sample: Handle
    spare: Handle
    at_s: float
    means: dict[str, float] = field(default_factory=dict)


class Activity:
    """Means since the scrape before, of GPUs and of instances.

    Args:
        nvml: The module pynvml.
        clock: Seconds from any moment; tests pass their own.
    """

    def __init__(self, nvml: Nvml, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._clock = clock
        self._able: set[str] = set()
        self._kept: dict[tuple[str, int], _Kept] = {}
        self._request: Handle = None

    def read(self, answers: Answers, gpu: Gpu, instance: Instance | None) -> dict[str, float]:
        """Return the means by family, in its unit; none at the first time.

        Raises:
            GpuLost: The GPU does not answer.
        """
        if not self._can(answers, gpu):
            return {}
        key = (gpu.uuid, -1 if instance is None else instance.id)
        kept, now = self._kept.get(key), self._clock()
        if kept is not None and now - kept.at_s < SHORTEST_S:
            return kept.means
        of = "" if instance is None else f" of instance {instance.id}"
        if kept is None:
            if answers.wants(f"GPM sample{of}"):
                self._begin(key, answers, gpu, instance, of, now)
            return {}
        if answers.ask(f"GPM sample{of}", self._sample, gpu, instance, kept.spare) is None:
            kept.means = {}
            return {}
        metrics = answers.ask(f"GPM metrics{of}", self._metrics, kept.sample, kept.spare)
        kept.means = {} if metrics is None else {**_usable(metrics), INTERVAL: now - kept.at_s}
        kept.sample, kept.spare, kept.at_s = kept.spare, kept.sample, now
        return kept.means

    def forget(self, gpu: Gpu) -> None:
        """Begin anew with a GPU that was lost: its counters may, too."""
        self._drop([key for key in self._kept if key[0] == gpu.uuid])

    def close(self) -> None:
        """Give the samples back."""
        self._drop(list(self._kept))

    def _drop(self, keys: Iterable[tuple[str, int]]) -> None:
        for key in keys:
            kept = self._kept.pop(key)
            self._nvml.nvmlGpmSampleFree(kept.sample)
            self._nvml.nvmlGpmSampleFree(kept.spare)

    def _can(self, answers: Answers, gpu: Gpu) -> bool:
        if gpu.uuid in self._able:
            return True
        support = answers.ask("GPM", self._nvml.nvmlGpmQueryDeviceSupport, gpu.handle)
        if support is not None and support.isSupportedDevice:
            self._able.add(gpu.uuid)
        elif support is not None:
            answers.heard("GPM", NOT_SUPPORTED)
        return gpu.uuid in self._able

    def _begin(
        self,
        key: tuple[str, int],
        answers: Answers,
        gpu: Gpu,
        instance: Instance | None,
        of: str,
        now: float,
    ) -> None:
        sample = self._nvml.nvmlGpmSampleAlloc()
        try:
            taken = answers.ask(f"GPM sample{of}", self._sample, gpu, instance, sample)
        except BaseException:
            self._nvml.nvmlGpmSampleFree(sample)
            raise
        if taken is None:
            self._nvml.nvmlGpmSampleFree(sample)
        else:
            self._kept[key] = _Kept(sample, self._nvml.nvmlGpmSampleAlloc(), now)

    def _sample(self, gpu: Gpu, instance: Instance | None, into: Handle) -> Handle:
        if instance is None:
            return self._nvml.nvmlGpmSampleGet(gpu.handle, into)
        return self._nvml.nvmlGpmMigSampleGet(gpu.handle, instance.id, into)

    def _metrics(self, before: Handle, after: Handle) -> Handle:
        if self._request is None:
            self._request = self._nvml.c_nvmlGpmMetricsGet_t()
        request = self._request
        request.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(METRICS)
        request.sample1, request.sample2 = before, after
        for at, metric in enumerate(METRICS):
            request.metrics[at].metricId = metric.id
        return self._nvml.nvmlGpmMetricsGet(request)


def _usable(metrics: Handle) -> dict[str, float]:
    """Return the values that there are; NaN is NVML's word for none."""
    answers = ((metric, metrics.metrics[at]) for at, metric in enumerate(METRICS))
    return {
        metric.family: answer.value * metric.scale
        for metric, answer in answers
        if answer.nvmlReturn == 0 and math.isfinite(answer.value)
    }
