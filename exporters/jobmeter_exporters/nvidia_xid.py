"""Errors of GPUs (XID), which the driver tells as events."""

from __future__ import annotations

import ctypes
from collections.abc import Container

from jobmeter_exporters.families import Labels
from jobmeter_exporters.nvidia_answers import Answers, Handle, Nvml
from jobmeter_exporters.nvidia_devices import Gpu

CRITICAL_XID = 0x8
MOST_EVENTS = 1000
"""At one scrape; the rest waits for the next."""

MEANINGS = {
    0: "No Error",
    13: "Graphics Engine Exception",
    31: "GPU memory page fault",
    32: "Invalid or corrupted push buffer stream",
    38: "Driver firmware error",
    43: "GPU stopped processing",
    45: "Preemptive cleanup, due to previous errors",
    48: "Double Bit ECC Error",
    61: "Internal micro-controller breakpoint/warning",
    62: "Internal micro-controller halt",
    63: "ECC page retirement or row remapping recording event",
    64: "ECC page retirement or row remapper recording failure",
    69: "Graphics Engine class error",
    74: "NVLINK Error",
    79: "GPU has fallen off the bus",
    92: "High single-bit ECC error rate",
    94: "Contained ECC error",
    95: "Uncontained ECC error",
    119: "GSP RPC timeout",
    120: "GSP error",
}
"""What the driver's documentation calls the codes that matter to a job."""


class Xids:
    """The last error of each GPU since it was watched.

    Args:
        nvml: The module pynvml.
    """

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._events: Handle = None
        self._uuids: dict[int, str] = {}
        self._gpus: dict[str, Gpu] = {}
        self._last: dict[str, int] = {}

    def watch(self, answers: Answers, gpu: Gpu) -> None:
        """Begin with a GPU, unless it is watched.

        Raises:
            GpuLost: The GPU does not answer.
        """
        if _address(gpu.handle) in self._uuids:
            return
        if self._events is None:
            self._events = answers.ask("events", self._nvml.nvmlEventSetCreate)
        if self._events is not None and answers.ask("XID events", self._register, gpu.handle):
            self._uuids[_address(gpu.handle)] = gpu.uuid
            self._gpus[gpu.uuid] = gpu
            self._last.setdefault(gpu.uuid, 0)

    def forget(self, gpu: Gpu) -> None:
        """Begin anew with a GPU that was lost; its last error stays."""
        self._uuids = {at: uuid for at, uuid in self._uuids.items() if uuid != gpu.uuid}

    def drain(self) -> None:
        """Take in what happened since the last time, without waiting."""
        if not self._uuids:
            return
        for _ in range(MOST_EVENTS):
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError:
                return  # a timeout: no more; or a GPU is lost, which the GPU itself says better
            uuid = self._uuids.get(_address(event.device))
            if uuid is not None:
                self._last[uuid] = int(event.eventData)

    def readings(self, alive: Container[str]) -> dict[Labels, float]:
        """Return the last code by labels; of a GPU that is not ``alive`` only what was an error."""
        return {
            (*gpu.labels, str(code), MEANINGS.get(code, f"Xid {code}")): float(code)
            for gpu, code in ((gpu, self._last[uuid]) for uuid, gpu in self._gpus.items())
            if code or gpu.uuid in alive
        }

    def close(self) -> None:
        """Give the event set back."""
        if self._events is not None:
            self._nvml.nvmlEventSetFree(self._events)
        self._events = None

    def _register(self, handle: Handle) -> bool:
        self._nvml.nvmlDeviceRegisterEvents(handle, CRITICAL_XID, self._events)
        return True


def _address(handle: Handle) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
