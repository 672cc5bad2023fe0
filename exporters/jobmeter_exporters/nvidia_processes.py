"""What this user's processes use of a GPU."""

from __future__ import annotations

import os
from pathlib import Path

from jobmeter_exporters.families import Labels, Readings
from jobmeter_exporters.nvidia_answers import Answers, Nvml
from jobmeter_exporters.nvidia_devices import Gpu, Instance

MEMORY = "nvidia_process_memory_used_bytes"
UTILIZATION = "nvidia_process_sm_utilization_ratio"
UNKNOWN = 2**64 - 1
"""NVML's word for memory that it cannot tell."""


class Processes:
    """Memory and SM share of the processes that belong to the user of this one.

    NVML's process ids are those of the node: in a container with ids of its own there are none.

    Args:
        nvml: The module pynvml.
        proc: Mount point of procfs.
    """

    def __init__(self, nvml: Nvml, proc: Path) -> None:
        self._nvml = nvml
        self._proc = proc
        self._seen_us: dict[str, int] = {}

    def read(self, answers: Answers, gpu: Gpu, instance: Instance | None) -> Readings:
        """Return the families of the processes on a GPU, or on an instance of it.

        Raises:
            GpuLost: The GPU does not answer.
        """
        handle, of = (gpu.handle, "") if instance is None else (instance.handle, instance.uuid)
        running = answers.ask(
            f"processes{of}", self._nvml.nvmlDeviceGetComputeRunningProcesses_v3, handle
        )
        tail = () if instance is None else instance.labels
        labels = {
            process.pid: (*gpu.labels, str(process.pid), name, *tail)
            for process in running or ()
            if (name := self._own(process.pid)) is not None
        }
        memory: dict[Labels, float] = {
            labels[process.pid]: float(process.usedGpuMemory)
            for process in running or ()
            if process.pid in labels and process.usedGpuMemory not in (None, UNKNOWN)
        }
        readings: Readings = {MEMORY: memory} if memory else {}
        # Not on instances: NVML has it for whole GPUs alone.
        shares = self._shares(answers, gpu) if instance is None else {}
        own = {labels[pid]: share for pid, share in shares.items() if pid in labels}
        if own:
            readings[UTILIZATION] = own
        return readings

    def _shares(self, answers: Answers, gpu: Gpu) -> dict[int, float]:
        """Return the newest share of each process, of those since the last time.

        The driver keeps samples for a while, and some repeat what was read before, or hold
        garbage where a process has ended. What the first answer has may be of long ago.
        """
        seen = self._seen_us.get(gpu.uuid)
        samples = answers.ask(
            "utilisation of processes",
            self._nvml.nvmlDeviceGetProcessUtilization,
            gpu.handle,
            seen or 0,
        )
        new = [one for one in samples or () if one.timeStamp > (seen or 0)]
        if new or samples is not None or seen is not None:
            self._seen_us[gpu.uuid] = max([seen or 0, *(one.timeStamp for one in new)])
        if seen is None:
            return {}
        return {
            one.pid: one.smUtil / 100
            for one in sorted(new, key=lambda one: int(one.timeStamp))
            if one.pid and one.smUtil <= 100
        }

    def _own(self, pid: int) -> str | None:
        """Return the name of a process of this user; None for any other."""
        folder = self._proc / str(pid)
        try:
            if folder.stat().st_uid != os.geteuid():
                return None
            return (folder / "comm").read_text(errors="replace").rstrip("\n")
        except OSError:
            return None
