"""Field values: what the driver gives many of in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jobmeter_exporters.nvidia_answers import LOST, Answers, GpuLost, Handle, Nvml

ALL_LINKS = 0xFFFFFFFF
MODULE = 1
KIB = 1024.0
MILLI = 1e-3

SHORTEST_S = 0.1
"""Over less than this no rate is taken: a second scraper gets that of the first."""

NVLINK = ("nvidia_nvlink_transmit_bytes_total", "nvidia_nvlink_receive_bytes_total")


class Field(NamedTuple):
    """One field value: where it goes, and what turns it into the unit of its family."""

    family: str
    id: int
    scale: float = 1.0
    scope: int = 0

    @property
    def question(self) -> str:
        """Name for messages."""
        return f"field {self.id}" + (f" of scope {self.scope}" if self.scope else "")


FIELDS = (
    Field("DCGM_FI_DEV_MEMORY_TEMP", 82),
    Field("DCGM_FI_DEV_POWER_USAGE_INSTANT", 186, MILLI),
    Field("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 83),
    Field("DCGM_FI_DEV_POWER_VIOLATION", 74),
    Field("DCGM_FI_DEV_THERMAL_VIOLATION", 75),
    Field("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", 76),
    Field("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", 77),
    Field("DCGM_FI_DEV_LOW_UTIL_VIOLATION", 78),
    Field("DCGM_FI_DEV_RELIABILITY_VIOLATION", 79),
    Field("DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS", 269),
    Field("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS", 270),
    Field("DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS", 271),
    Field("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 3),
    Field("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 4),
    Field("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", 5),
    Field("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", 6),
    Field("DCGM_FI_DEV_RETIRED_SBE", 29),
    Field("DCGM_FI_DEV_RETIRED_DBE", 30),
    Field("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", 142),
    Field("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", 143),
    Field("DCGM_FI_DEV_ROW_REMAP_FAILURE", 145),
    Field("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 94),
    Field("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", 38),
    Field("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", 45),
    Field("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", 52),
    Field("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", 59),
    Field("nvidia_power_average_watts", 185, MILLI),
    Field("nvidia_module_power_watts", 186, MILLI, MODULE),
    Field("nvidia_pcie_transmit_bytes_total", 197),
    Field("nvidia_pcie_receive_bytes_total", 198),
    Field(NVLINK[0], 138, KIB, ALL_LINKS),
    Field(NVLINK[1], 139, KIB, ALL_LINKS),
)

_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Of ``nvmlValue_t``, by ``nvmlValueType_t``; the rest of the union is not cleared."""


def read(nvml: Nvml, answers: Answers, handle: Handle, fields: Sequence[Field]) -> dict[str, float]:
    """Return what the GPU has of ``fields``, by family, in the unit of the family.

    Raises:
        GpuLost: The GPU does not answer.
    """
    wanted = [field for field in fields if answers.wants(field.question)]
    if not wanted:
        return {}
    try:
        values = nvml.nvmlDeviceGetFieldValues(handle, [(one.id, one.scope) for one in wanted])
    except nvml.NVMLError as problem:
        if problem.value in LOST:
            raise GpuLost(LOST[problem.value]) from problem
        if len(wanted) == 1:
            answers.heard(wanted[0].question, problem.value, str(problem))
            return {}
        return _one_by_one(nvml, answers, handle, wanted)
    return _by_family(answers, wanted, values)


def _one_by_one(
    nvml: Nvml, answers: Answers, handle: Handle, fields: Sequence[Field]
) -> dict[str, float]:
    """Ask for each by itself: an old driver refuses all for one that it does not know."""
    known: dict[str, float] = {}
    for field in fields:
        known |= read(nvml, answers, handle, (field,))
    return known


def _by_family(answers: Answers, fields: Sequence[Field], values: Handle) -> dict[str, float]:
    known: dict[str, float] = {}
    for field, value in zip(fields, values, strict=True):
        if value.nvmlReturn:
            answers.heard(field.question, value.nvmlReturn)
        elif value.valueType < len(_MEMBERS):
            known[field.family] = getattr(value.value, _MEMBERS[value.valueType]) * field.scale
    return known


class NvlinkRate:
    """Turns the counters of NVLink into the rate that DCGM has: 1000 KiB/s, both directions.

    Args:
        clock: Seconds from any moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[str, tuple[float, float]] = {}
        self._rates: dict[str, float] = {}

    def of(self, uuid: str, known: Mapping[str, float]) -> float | None:
        """Return the mean since the scrape before; None when there was none."""
        if any(name not in known for name in NVLINK):
            return None
        now, count = self._clock(), sum(known[name] for name in NVLINK)
        at, before = self._before.setdefault(uuid, (now, count))
        if now - at >= SHORTEST_S:
            self._before[uuid] = (now, count)
            self._rates.pop(uuid, None)
            if count >= before:
                self._rates[uuid] = (count - before) / (now - at) / KIB / 1000
        return self._rates.get(uuid)
