"""The metric families of NVIDIA's GPUs: DCGM's names and units, then those that are ours.

DCGM's counters do not end in ``_total``, so they are exposed as untyped; they only grow.
"""

from __future__ import annotations

from jobmeter_exporters.families import Family, Labels

GPU: Labels = (
    "gpu",
    "UUID",
    "pci_bus_id",
    "device",
    "modelName",
    "Hostname",
    "DCGM_FI_DRIVER_VERSION",
)
CUT: Labels = ("GPU_I_PROFILE", "GPU_I_ID")
"""Only where a GPU is cut into instances (MIG)."""

INSTANCE: Labels = GPU + CUT
PROCESS: Labels = (*GPU, "pid", "process", *CUT)


def _gauge(documentation: str, unit: str, source: str, labels: Labels = GPU) -> Family:
    return Family(documentation, labels, source, unit, "gauge")


def _counter(documentation: str, unit: str, source: str) -> Family:
    return Family(documentation, GPU, source, unit, "untyped")


def _field(number: str) -> str:
    return f"`nvmlDeviceGetFieldValues` {number}"


def _violation(what: str, number: int) -> Family:
    text = f"Time in which clocks were held down by {what}, since the driver was loaded."
    return _counter(text, "ns", _field(str(number)))


def _active(what: str, number: int) -> Family:
    text = f"{what}, mean since the scrape before."
    return _gauge(text, "ratio", f"GPM {number} (Hopper and later)", INSTANCE)


def _rate(what: str, number: int) -> Family:
    text = f"{what} per second, mean since the scrape before; a rate, not a count."
    return _gauge(text, "bytes/s", f"GPM {number} (Hopper and later)", INSTANCE)


def _sampled(what: str, unit: str) -> Family:
    return _gauge(f"{what} since the scrape before.", unit, "`--nvidia-sample-interval`")


FAMILIES: dict[str, Family] = {
    "DCGM_FI_DEV_GPU_UTIL": _gauge(
        "Share of the driver's last sample period with a kernel running.",
        "percent",
        "`nvmlDeviceGetUtilizationRates`",
    ),
    "DCGM_FI_DEV_MEM_COPY_UTIL": _gauge(
        "The same with device memory read or written.", "percent", "`nvmlDeviceGetUtilizationRates`"
    ),
    "DCGM_FI_DEV_ENC_UTIL": _gauge(
        "The same with the video encoder busy.", "percent", "`nvmlDeviceGetEncoderUtilization`"
    ),
    "DCGM_FI_DEV_DEC_UTIL": _gauge(
        "The same with the video decoder busy.", "percent", "`nvmlDeviceGetDecoderUtilization`"
    ),
    "DCGM_FI_DEV_FB_USED": _gauge(
        "Memory in use, without what the driver reserves if it tells the two apart.",
        "MiB",
        "`nvmlDeviceGetMemoryInfo_v2`",
        INSTANCE,
    ),
    "DCGM_FI_DEV_FB_FREE": _gauge("Free memory.", "MiB", "the same", INSTANCE),
    "DCGM_FI_DEV_FB_RESERVED": _gauge(
        "Memory that the driver reserves.", "MiB", "the same", INSTANCE
    ),
    "DCGM_FI_DEV_FB_TOTAL": _gauge("Memory.", "MiB", "the same", INSTANCE),
    "DCGM_FI_DEV_GPU_TEMP": _gauge("Temperature.", "degree Celsius", "`nvmlDeviceGetTemperature`"),
    "DCGM_FI_DEV_MEMORY_TEMP": _gauge("Temperature of the memory.", "degree Celsius", _field("82")),
    "DCGM_FI_DEV_POWER_USAGE": _gauge(
        "Power draw: the mean of a second since Ampere, the moment's on A100 and older.",
        "W",
        "`nvmlDeviceGetPowerUsage`",
    ),
    "DCGM_FI_DEV_POWER_USAGE_INSTANT": _gauge("Power draw of the moment.", "W", _field("186")),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": _gauge(
        "Power limit in force.", "W", "`nvmlDeviceGetEnforcedPowerLimit`"
    ),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": _counter(
        "Energy since the driver was loaded, in steps of 20 to 100 ms.", "mJ", _field("83")
    ),
    "DCGM_FI_DEV_SM_CLOCK": _gauge(
        "Clock of the multiprocessors.", "MHz", "`nvmlDeviceGetClockInfo`"
    ),
    "DCGM_FI_DEV_MEM_CLOCK": _gauge("Clock of the memory.", "MHz", "the same"),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": _gauge(
        "Why the clocks are what they are: 0x1 idle, 0x2 an application's clocks, 0x4 software "
        "power cap, 0x8 hardware slowdown, 0x10 sync boost, 0x20 software thermal, 0x40 hardware "
        "thermal, 0x80 power brake, 0x100 display.",
        "bit mask",
        "`nvmlDeviceGetCurrentClocksEventReasons`",
    ),
    "DCGM_FI_DEV_POWER_VIOLATION": _violation("power", 74),
    "DCGM_FI_DEV_THERMAL_VIOLATION": _violation("temperature", 75),
    "DCGM_FI_DEV_SYNC_BOOST_VIOLATION": _violation("the slowest GPU of a group", 76),
    "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION": _violation("the voltage regulators of the board", 77),
    "DCGM_FI_DEV_LOW_UTIL_VIOLATION": _violation("want of work", 78),
    "DCGM_FI_DEV_RELIABILITY_VIOLATION": _violation("the reliability of the board", 79),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS": _violation(
        "software for temperature", 269
    ),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS": _violation(
        "hardware for temperature", 270
    ),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS": _violation(
        "the power brake from outside", 271
    ),
    "DCGM_FI_DEV_XID_ERRORS": Family(
        "Last error (XID) since this exporter began, 0 for none; it stays when the GPU is lost.",
        (*GPU, "err_code", "err_msg"),
        "events of NVML",
        "code",
        "gauge",
    ),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": _counter(
        "Errors of memory that were corrected, since the driver was loaded.", "1", _field("3")
    ),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": _counter(
        "Errors of memory that could not be corrected, since the driver was loaded.",
        "1",
        _field("4"),
    ),
    "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL": _counter(
        "Errors of memory that were corrected, ever.", "1", _field("5")
    ),
    "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL": _counter(
        "Errors of memory that could not be corrected, ever.", "1", _field("6")
    ),
    "DCGM_FI_DEV_RETIRED_SBE": _counter(
        "Pages retired after errors that were corrected (before Ampere).", "1", _field("29")
    ),
    "DCGM_FI_DEV_RETIRED_DBE": _counter(
        "Pages retired after errors that could not be (before Ampere).", "1", _field("30")
    ),
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": _counter(
        "Rows replaced after errors that were corrected.", "1", _field("142")
    ),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": _counter(
        "Rows replaced after errors that could not be.", "1", _field("143")
    ),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": _gauge(
        "Whether replacing a row has failed, 1 or 0.", "1", _field("145")
    ),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": _counter(
        "Transfers over PCIe that were repeated.", "1", _field("94")
    ),
    "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": _counter(
        "Checksum errors of NVLink's flow control.", "1", _field("38")
    ),
    "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": _counter(
        "Checksum errors of data on NVLink.", "1", _field("45")
    ),
    "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": _counter(
        "Transfers over NVLink that were repeated.", "1", _field("52")
    ),
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": _counter(
        "Times an NVLink was trained anew.", "1", _field("59")
    ),
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": _gauge(
        "Data over all NVLinks, both directions, mean since the scrape before. DCGM declares a "
        "counter and gives this rate, too.",
        "1000 KiB/s",
        "increase of " + _field("138 and 139"),
    ),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": _active("Time with any engine of the GPU busy", 1),
    "DCGM_FI_PROF_SM_ACTIVE": _active("Multiprocessors with a warp on them", 2),
    "DCGM_FI_PROF_SM_OCCUPANCY": _active("Warps on the multiprocessors, of what they can hold", 3),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": _active("Time of the tensor pipes busy", 5),
    "DCGM_FI_PROF_PIPE_TENSOR_HMMA_ACTIVE": _active("The same with 16 bit floating point", 7),
    "DCGM_FI_PROF_PIPE_TENSOR_IMMA_ACTIVE": _active("The same with integers", 9),
    "DCGM_FI_PROF_PIPE_TENSOR_DFMA_ACTIVE": _active("The same with 64 bit floating point", 6),
    "DCGM_FI_PROF_DRAM_ACTIVE": _active("Memory bandwidth in use", 10),
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": _active("Time of the FP64 pipes busy", 11),
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": _active("Time of the FP32 pipes busy", 12),
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": _active("Time of the FP16 pipes busy", 13),
    "DCGM_FI_PROF_PIPE_INT_ACTIVE": _active("Time of the integer pipes busy", 4),
    "DCGM_FI_PROF_PCIE_TX_BYTES": _rate("Bytes sent over PCIe, headers included,", 20),
    "DCGM_FI_PROF_PCIE_RX_BYTES": _rate("Bytes received over PCIe, headers included,", 21),
    "DCGM_FI_PROF_NVLINK_TX_BYTES": _rate("Bytes sent over NVLink, headers included,", 61),
    "DCGM_FI_PROF_NVLINK_RX_BYTES": _rate("Bytes received over NVLink, headers included,", 60),
    "nvidia_activity_interval_seconds": _gauge(
        "Time that the DCGM_FI_PROF_ families are means over.", "s", "our clock", INSTANCE
    ),
    "nvidia_power_average_watts": _gauge("Power draw, mean of a second.", "W", _field("185")),
    "nvidia_module_power_watts": _gauge(
        "Power draw of the module, with its CPU (Grace), of the moment.", "W", _field("186")
    ),
    "nvidia_pcie_transmit_bytes_total": Family("Bytes sent over PCIe.", GPU, _field("197")),
    "nvidia_pcie_receive_bytes_total": Family("Bytes received over PCIe.", GPU, _field("198")),
    "nvidia_nvlink_transmit_bytes_total": Family(
        "Data sent over all NVLinks, without headers.", GPU, _field("138")
    ),
    "nvidia_nvlink_receive_bytes_total": Family(
        "Data received over all NVLinks, without headers.", GPU, _field("139")
    ),
    "nvidia_process_memory_used_bytes": Family(
        "GPU memory of a process of this user.",
        PROCESS,
        "`nvmlDeviceGetComputeRunningProcesses_v3`",
    ),
    "nvidia_process_sm_utilization_ratio": Family(
        "Share of the multiprocessors' time of a process of this user; absent while it is idle.",
        PROCESS,
        "`nvmlDeviceGetProcessUtilization`",
    ),
    "nvidia_sampled_power_watts_min": _sampled("Least power draw", "W"),
    "nvidia_sampled_power_watts_mean": _sampled("Power draw, mean over time", "W"),
    "nvidia_sampled_power_watts_max": _sampled("Largest power draw", "W"),
    "nvidia_sampled_utilization_ratio_min": _sampled("Least utilisation", "ratio"),
    "nvidia_sampled_utilization_ratio_mean": _sampled("Utilisation, mean over time", "ratio"),
    "nvidia_sampled_utilization_ratio_max": _sampled("Largest utilisation", "ratio"),
    "nvidia_sampled_readings": _sampled("Readings of power", "1"),
}
