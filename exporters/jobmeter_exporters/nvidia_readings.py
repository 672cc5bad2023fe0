"""What is read of a GPU by a call of its own, in DCGM's units."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jobmeter_exporters.nvidia_answers import Answers, Handle, Nvml

MIB = 2**20
SM_CLOCK, MEMORY_CLOCK = 1, 2
TEMPERATURE_OF_GPU = 0

Known = dict[str, float]
"""By family, in its unit."""


def _utilization(nvml: Nvml, handle: Handle) -> Known:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return {"DCGM_FI_DEV_GPU_UTIL": rates.gpu, "DCGM_FI_DEV_MEM_COPY_UTIL": rates.memory}


def _encoder(nvml: Nvml, handle: Handle) -> Known:
    return {"DCGM_FI_DEV_ENC_UTIL": nvml.nvmlDeviceGetEncoderUtilization(handle)[0]}


def _decoder(nvml: Nvml, handle: Handle) -> Known:
    return {"DCGM_FI_DEV_DEC_UTIL": nvml.nvmlDeviceGetDecoderUtilization(handle)[0]}


def _temperature(nvml: Nvml, handle: Handle) -> Known:
    celsius = nvml.nvmlDeviceGetTemperature(handle, TEMPERATURE_OF_GPU)
    return {"DCGM_FI_DEV_GPU_TEMP": celsius}


def _power(nvml: Nvml, handle: Handle) -> Known:
    return {"DCGM_FI_DEV_POWER_USAGE": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}  # mW


def _power_limit(nvml: Nvml, handle: Handle) -> Known:
    milliwatts = nvml.nvmlDeviceGetEnforcedPowerLimit(handle)
    return {"DCGM_FI_DEV_ENFORCED_POWER_LIMIT": milliwatts / 1000}


def _sm_clock(nvml: Nvml, handle: Handle) -> Known:
    return {"DCGM_FI_DEV_SM_CLOCK": nvml.nvmlDeviceGetClockInfo(handle, SM_CLOCK)}


def _memory_clock(nvml: Nvml, handle: Handle) -> Known:
    return {"DCGM_FI_DEV_MEM_CLOCK": nvml.nvmlDeviceGetClockInfo(handle, MEMORY_CLOCK)}


def _clock_reasons(nvml: Nvml, handle: Handle) -> Known:
    mask = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    return {"DCGM_FI_DEV_CLOCKS_EVENT_REASONS": mask}


def _clock_reasons_before_535(nvml: Nvml, handle: Handle) -> Known:
    mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return {"DCGM_FI_DEV_CLOCKS_EVENT_REASONS": mask}


def _memory(nvml: Nvml, handle: Handle) -> Known:
    info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    return {**_memory_of(info), "DCGM_FI_DEV_FB_RESERVED": info.reserved // MIB}


def _memory_before_510(nvml: Nvml, handle: Handle) -> Known:
    return _memory_of(nvml.nvmlDeviceGetMemoryInfo(handle))


def _memory_of(info: Handle) -> Known:
    return {
        "DCGM_FI_DEV_FB_USED": info.used // MIB,
        "DCGM_FI_DEV_FB_FREE": info.free // MIB,
        "DCGM_FI_DEV_FB_TOTAL": info.total // MIB,
    }


Call = Callable[[Nvml, Handle], Known]

OF_GPU: Mapping[str, tuple[Call, ...]] = {
    "power": (_power,),
    "utilisation": (_utilization,),
    "clock event reasons": (_clock_reasons, _clock_reasons_before_535),
    "SM clock": (_sm_clock,),
    "memory clock": (_memory_clock,),
    "temperature": (_temperature,),
    "power limit": (_power_limit,),
    "encoder utilisation": (_encoder,),
    "decoder utilisation": (_decoder,),
}
"""What a whole GPU is asked; a later call of a row is for drivers that have not the one before."""

OF_INSTANCE: Mapping[str, tuple[Call, ...]] = {"memory": (_memory, _memory_before_510)}
"""What a GPU is asked, or each instance of one that is cut up."""


def read(
    nvml: Nvml, answers: Answers, handle: Handle, rows: Mapping[str, tuple[Call, ...]], of: str = ""
) -> Known:
    """Return what the GPU, or the instance called ``of``, answers to ``rows``.

    Raises:
        GpuLost: It does not answer.
    """
    known: Known = {}
    for what, calls in rows.items():
        for call in calls:
            question = f"{what}{of}{' as in old drivers' if call is not calls[0] else ''}"
            answer = answers.ask(question, call, nvml, handle)
            if answer is not None:
                known |= answer
                break
            if answers.wants(question):
                break  # it has the call, and no value now
    return known
