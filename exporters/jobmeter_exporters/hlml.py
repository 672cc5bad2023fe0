"""Gaudi devices through HLML, the driver's own library, and ``habana-pyhlml``."""

from __future__ import annotations

import ctypes
import importlib
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.families import Labels
from jobmeter_exporters.hl_smi_text import Hpu

LIBRARY = Path("/usr/lib/habanalabs/libhlml.so")
"""Where pyhlml looks for it."""

# Of hlml.h.
_SOC_CLOCK = 0
_ON_CHIP, _ON_BOARD = 0, 1
_CORRECTED, _UNCORRECTED = 0, 1
_SINCE_DRIVER_LOAD = 0


class _Reading(NamedTuple):
    """One value: what it becomes, how it is read, and what makes it a base unit."""

    family: str
    read: Callable[[Any, Any], float]
    to_base: float = 1.0
    labels: Labels = ()


READINGS = (
    _Reading(
        "hpu_utilization_percent", lambda hlml, hpu: hlml.hlmlDeviceGetUtilizationRates(hpu).aip
    ),
    _Reading("hpu_memory_used_bytes", lambda hlml, hpu: hlml.hlmlDeviceGetMemoryInfo(hpu).used),
    _Reading("hpu_memory_total_bytes", lambda hlml, hpu: hlml.hlmlDeviceGetMemoryInfo(hpu).total),
    _Reading(
        "hpu_temperature_celsius", lambda hlml, hpu: hlml.hlmlDeviceGetTemperature(hpu, _ON_CHIP)
    ),
    _Reading(
        "hpu_board_temperature_celsius",
        lambda hlml, hpu: hlml.hlmlDeviceGetTemperature(hpu, _ON_BOARD),
    ),
    _Reading("hpu_power_watts", lambda hlml, hpu: hlml.hlmlDeviceGetPowerUsage(hpu), 1e-3),
    _Reading(
        "hpu_energy_joules_total",
        lambda hlml, hpu: hlml.hlmlDeviceGetTotalEnergyConsumption(hpu),
        1e-3,
    ),
    _Reading(
        "hpu_clock_hertz", lambda hlml, hpu: hlml.hlmlDeviceGetClockInfo(hpu, _SOC_CLOCK), 1e6
    ),
    _Reading(
        "hpu_clock_max_hertz",
        lambda hlml, hpu: hlml.hlmlDeviceGetMaxClockInfo(hpu, _SOC_CLOCK),
        1e6,
    ),
    _Reading(
        "hpu_ecc_errors_total",
        lambda hlml, hpu: hlml.hlmlDeviceGetTotalECCErrors(hpu, _CORRECTED, _SINCE_DRIVER_LOAD),
        labels=("corrected",),
    ),
    _Reading(
        "hpu_ecc_errors_total",
        lambda hlml, hpu: hlml.hlmlDeviceGetTotalECCErrors(hpu, _UNCORRECTED, _SINCE_DRIVER_LOAD),
        labels=("uncorrected",),
    ),
    _Reading("hpu_pcie_replays_total", lambda hlml, hpu: hlml.hlmlDeviceGetPCIEReplayCounter(hpu)),
)


def load(library: Path = LIBRARY) -> Any:  # noqa: ANN401 - the module has no types
    """Return the module ``pyhlml``.

    Raises:
        ExporterError: It or the library is not here.
    """
    # Tried first: where it cannot be loaded pyhlml prints so to stdout, at each attempt.
    if not library.exists():
        raise ExporterError(
            f"there is no {library}; is the Gaudi driver's software installed here?"
        )
    try:
        ctypes.CDLL(str(library))
    except OSError as cause:
        raise ExporterError(f"{library} cannot be loaded: {cause}; install it again") from cause
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports what it has deprecated itself
            return importlib.import_module("pyhlml")
    except Exception as cause:  # a package that does not fit fails in any way
        raise ExporterError(
            f"pyhlml cannot be imported: {cause}; pip install habana-pyhlml"
        ) from cause


class Hlml:
    """Reads every device that this process may see.

    Args:
        pyhlml: The module.
    """

    source = "hlml"

    def __init__(self, pyhlml: Any) -> None:  # noqa: ANN401 - the module has no types
        self._hlml = pyhlml
        self._is_open = False

    def read(self) -> list[Hpu]:
        """Return the devices; one that is lost is left out.

        Raises:
            ExporterError: The library does not answer.
        """
        try:
            if not self._is_open:
                self._hlml.hlmlInit()
                self._is_open = True
            count = self._hlml.hlmlDeviceGetCount()
        except self._hlml.HLMLError as cause:
            self.close()  # after a reload of the driver it has to be opened again
            raise ExporterError(
                f"HLML says {_words(cause)}; is the driver loaded, and /dev/accel readable?"
            ) from cause
        found = (self._device(index) for index in range(count))
        return [device for device in found if device is not None]

    def close(self) -> None:
        """Release the library."""
        if self._is_open:
            self._is_open = False
            with suppress(self._hlml.HLMLError):
                self._hlml.hlmlShutdown()

    def _device(self, index: int) -> Hpu | None:
        hlml = self._hlml
        handle = self._value(hlml.hlmlDeviceGetHandleByIndex, index)
        if handle is None:
            return None
        values: dict[tuple[str, Labels], float] = {}
        for reading in READINGS:
            value = self._value(reading.read, hlml, handle)
            if value is not None:
                values[reading.family, reading.labels] = float(value) * reading.to_base
        if not values:
            return None
        return Hpu(
            index=str(index),
            uuid=self._text(lambda: hlml.hlmlDeviceGetUUID(handle)),
            bus_id=self._text(lambda: hlml.hlmlDeviceGetPCIInfo(handle).bus_id),
            module_id=self._text(lambda: hlml.hlmlDeviceGetModuleID(handle)),
            name=self._text(lambda: hlml.hlmlDeviceGetName(handle)),
            values=values,
        )

    def _value(self, read: Callable[..., Any], *of: Any) -> Any:  # noqa: ANN401 - whatever it reads
        """Return what ``read`` returns, None if the library or this pyhlml cannot say."""
        try:
            return read(*of)
        except (self._hlml.HLMLError, AttributeError):
            return None

    def _text(self, read: Callable[[], Any]) -> str:
        value = self._value(read)
        if isinstance(value, bytes):
            return value.decode(errors="replace").strip()
        return "" if value is None else str(value)


def _words(problem: Exception) -> str:
    """Return the reason from the name of the error's class, as pyhlml makes one of each code."""
    return f"{type(problem).__name__.removeprefix('HLMLError_')} ({problem})"
