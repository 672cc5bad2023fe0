"""Power and utilisation read often, as least, mean and largest value between two scrapes."""

from __future__ import annotations

import argparse
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobmeter_exporters import nvidia_fields, nvidia_patience
from jobmeter_exporters.nvidia_answers import Answers, GpuLost, Nvml
from jobmeter_exporters.nvidia_devices import Gpu

logger = logging.getLogger(__name__)

SHORTEST_S, LONGEST_S = 0.01, 10.0
INSTANT_POWER = (nvidia_fields.Field("power", 186, 1e-3),)
"""Far cheaper in the driver than the average, and free of its delay."""

POWER = "nvidia_sampled_power_watts"
UTILIZATION = "nvidia_sampled_utilization_ratio"
READINGS = "nvidia_sampled_readings"
SAMPLES = "samples of utilisation"
DRAIN_S = 1.0
"""How often the driver's own samples of utilisation are fetched; it keeps some 100 of them."""


def interval(text: str) -> float:
    """Return the seconds of ``50ms`` or ``0.5s``.

    Raises:
        argparse.ArgumentTypeError: It is no such text, or not between 10 ms and 10 s.

    >>> interval("50ms")
    0.05
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s)", text, re.ASCII)
    seconds = float(match[1]) * (1e-3 if match[2] == "ms" else 1.0) if match else 0.0
    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time between 10 ms and 10 s; write it as 50ms or 0.5s"
        )
    return seconds


@dataclass
class Extent:
    """Least, mean and largest of readings; each stands for the time since the one before it.

    The time of the last reading stays when the rest is taken, so no time is lost between two.
    """

    last_s: float | None = None
    least: float = 0.0
    largest: float = 0.0
    area: float = 0.0
    seconds: float = 0.0
    count: int = 0
    total: float = 0.0

    def add(self, at_s: float, value: float) -> None:
        """Take in a reading; times do not go back."""
        since = 0.0 if self.last_s is None else at_s - self.last_s
        self.least = min(self.least, value) if self.count else value
        self.largest = max(self.largest, value) if self.count else value
        self.area += since * value
        self.seconds += since
        self.total += value
        self.count += 1
        self.last_s = at_s

    @property
    def mean(self) -> float:
        """The mean over time; of readings where no time lies between them."""
        mean = self.area / self.seconds if self.seconds else self.total / self.count
        return min(max(mean, self.least), self.largest)  # rounding may have led outside


class Sampler:
    """Reads power and utilisation of GPUs in a thread of its own.

    Args:
        nvml: The module pynvml.
        interval_s: Between two readings.
        clock: Seconds from any moment; tests pass their own.
    """

    def __init__(
        self, nvml: Nvml, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._nvml = nvml
        self._interval_s = interval_s
        self._clock = clock
        self._gpus: tuple[Gpu, ...] = ()
        self._answers: dict[str, Answers] = {}
        self._extents: dict[tuple[str, str], Extent] = {}
        self._seen_us: dict[str, int] = {}
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nvidia sampler", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> bool:
        """End, and return whether the reading in progress came back in time."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(nvidia_patience.LONGEST_S)
        return not self._thread.is_alive()

    def watch(self, gpus: Sequence[Gpu]) -> None:
        """Read these from now on."""
        with self._lock:
            self._gpus = tuple(gpus)

    def read(self) -> None:
        """Read the power of every GPU once, and its utilisation if the driver keeps no samples."""
        with self._lock:
            for gpu in self._gpus:
                self._guarded(self._read_one, gpu)

    def drain(self) -> None:
        """Fetch the samples of utilisation that the driver took meanwhile."""
        with self._lock:
            for gpu in self._gpus:
                self._guarded(self._drain_one, gpu)

    def take(self, gpu: Gpu) -> dict[str, float]:
        """Return the families of a GPU since they were last taken."""
        known: dict[str, float] = {}
        with self._lock:
            for what in (POWER, UTILIZATION):
                extent = self._extents.get((gpu.uuid, what))
                if extent is None or not extent.count:
                    continue
                self._extents[gpu.uuid, what] = Extent(extent.last_s)
                known[f"{what}_min"] = extent.least
                known[f"{what}_mean"] = extent.mean
                known[f"{what}_max"] = extent.largest
                if what == POWER:
                    known[READINGS] = float(extent.count)
        return known

    def take_problem(self, gpu: Gpu) -> str | None:
        """Return why a GPU could not be read since this was last asked, None if it could."""
        with self._lock:
            return self._problems.pop(gpu.uuid, None)

    def _run(self) -> None:
        now = next_s = drained_s = self._clock()
        while not self._end.wait(max(0.0, next_s - now)):
            self.read()
            if now - drained_s >= DRAIN_S:
                self.drain()
                drained_s = now
            now = self._clock()
            next_s = max(next_s + self._interval_s, now)  # late ones are not made up for

    def _guarded(self, read: Callable[[Gpu, Answers], None], gpu: Gpu) -> None:
        answers = self._answers.setdefault(gpu.uuid, Answers(self._nvml, self._clock))
        try:
            read(gpu, answers)
        except GpuLost:
            self._gpus = tuple(one for one in self._gpus if one is not gpu)
            self._extents = {key: one for key, one in self._extents.items() if key[0] != gpu.uuid}
        except Exception as problem:  # the thread must go on, and the scrape says it
            logger.debug("nvidia sampler: traceback", exc_info=True)
            self._problems[gpu.uuid] = f"the sampler failed: {problem!r}; please report this"
        answers.problems.clear()  # the scrape asks the same, and says what is wrong

    def _read_one(self, gpu: Gpu, answers: Answers) -> None:
        power = nvidia_fields.read(self._nvml, answers, gpu.handle, INSTANT_POWER).get("power")
        if power is None:
            milliwatts = answers.ask("power", self._nvml.nvmlDeviceGetPowerUsage, gpu.handle)
            power = None if milliwatts is None else milliwatts / 1000
        if power is not None:
            self._extent(gpu, POWER).add(self._clock(), power)
        if not answers.wants(SAMPLES):
            rates = answers.ask("rates", self._nvml.nvmlDeviceGetUtilizationRates, gpu.handle)
            if rates is not None:
                self._extent(gpu, UTILIZATION).add(self._clock(), rates.gpu / 100)

    def _drain_one(self, gpu: Gpu, answers: Answers) -> None:
        seen = self._seen_us.get(gpu.uuid)
        answer = answers.ask(
            SAMPLES,
            self._nvml.nvmlDeviceGetSamples,
            gpu.handle,
            self._nvml.NVML_GPU_UTILIZATION_SAMPLES,
            seen or 0,
        )
        new = sorted(
            (int(one.timeStamp), int(one.sampleValue.uiVal))
            for one in (answer[1] if answer is not None else ())
            if one.timeStamp > (seen or 0) and one.sampleValue.uiVal <= 100
        )
        if not new:
            return
        self._seen_us[gpu.uuid] = new[-1][0]
        extent = self._extent(gpu, UTILIZATION)
        if seen is None:  # the driver's buffer reaches back to before we began
            extent.last_s = new[-1][0] * 1e-6
            return
        for at_us, percent in new:
            extent.add(at_us * 1e-6, percent / 100)

    def _extent(self, gpu: Gpu, what: str) -> Extent:
        return self._extents.setdefault((gpu.uuid, what), Extent())
