"""Expositions of devices: a real one of dcgm-exporter, what others add to it, Gaudi's."""

from __future__ import annotations

from collections.abc import Sequence

from attempts import T0
from replay import Page, blocks_from, samples_from

from jobmeter.window import Window
from jobmeter_analysis.engine import analyze_recording
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

GPUS = ("0", "1", "2", "3")
MIB = 2**20
STEP_MS = 5000
STEPS = 12
WINDOW = Window(T0, T0 + STEPS * STEP_MS)
SECONDS = STEPS * STEP_MS / 1000

SLOW = {"0": 1.0, "1": 1.0, "2": 1.0, "3": 0.5}
"""How much each GPU does: the last one half of the others."""

GAUGES = {
    "DCGM_FI_DEV_GPU_UTIL": 80.0,
    "DCGM_FI_DEV_MEM_COPY_UTIL": 40.0,
    "DCGM_FI_DEV_ENC_UTIL": 20.0,
    "DCGM_FI_DEV_DEC_UTIL": 10.0,
    "DCGM_FI_DEV_POWER_USAGE": 600.0,
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": 1000.0,
    "DCGM_FI_DEV_GPU_TEMP": 60.0,
    "DCGM_FI_DEV_MEMORY_TEMP": 70.0,
    "DCGM_FI_DEV_SM_CLOCK": 1800.0,
    "DCGM_FI_DEV_MEM_CLOCK": 3000.0,
    "DCGM_FI_DEV_FB_USED": 1000.0,
    "DCGM_FI_DEV_FB_FREE": 3000.0,
    "DCGM_FI_DEV_FB_RESERVED": 1000.0,
    "DCGM_FI_DEV_FB_TOTAL": 5000.0,
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": 100.0,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.9,
    "DCGM_FI_PROF_SM_ACTIVE": 0.8,
    "DCGM_FI_PROF_SM_OCCUPANCY": 0.3,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.5,
    "DCGM_FI_PROF_DRAM_ACTIVE": 0.6,
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": 0.01,
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": 0.02,
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": 0.03,
    "DCGM_FI_PROF_PCIE_TX_BYTES": 1e9,
    "DCGM_FI_PROF_PCIE_RX_BYTES": 2e9,
    "DCGM_FI_PROF_NVLINK_TX_BYTES": 3e9,
    "DCGM_FI_PROF_NVLINK_RX_BYTES": 4e9,
}
"""Of a GPU that does all it can; times ``SLOW`` of the others."""

PER_SECOND = {
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 600e3,
    "DCGM_FI_DEV_POWER_VIOLATION": 0.25e9,
    "DCGM_FI_DEV_THERMAL_VIOLATION": 0.125e9,
    "DCGM_FI_DEV_SYNC_BOOST_VIOLATION": 1e6,
    "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION": 2e6,
    "DCGM_FI_DEV_LOW_UTIL_VIOLATION": 3e6,
    "DCGM_FI_DEV_RELIABILITY_VIOLATION": 4e6,
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 1.0,
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 0.5,
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": 0.25,
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": 0.125,
    "DCGM_FI_DEV_RETIRED_SBE": 0.25,
    "DCGM_FI_DEV_RETIRED_DBE": 0.125,
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 2.0,
    "DCGM_FI_PROF_PCIE_TX_BYTES_TOTAL": 1e9,
    "DCGM_FI_PROF_PCIE_RX_BYTES_TOTAL": 2e9,
    "DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES": 3e9,
    "DCGM_FI_DEV_NVLINK_COUNT_RX_BYTES": 4e9,
    "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": 1.0,
    "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": 2.0,
    "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": 3.0,
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": 4.0,
}
"""Counters of a GPU that does all it can."""

XID_BEFORE, XID_AFTER = 31.0, 79.0


def gb200() -> Page:
    """Return the real scrape, which has neither the counter of energy nor activity."""
    return Page.fixture("dcgm-gb200.prom")


def everything(at_s: float, hostname: str = "hostname") -> Page:
    """Return all that can be had of four GPUs, at a time since the begin of the window.

    Args:
        at_s: Seconds.
        hostname: How the label is spelled: ``Hostname`` before dcgm-exporter's 4.8.2.
    """
    page = Page({}, {})
    for gpu in GPUS:
        labels = {
            "gpu": gpu,
            "UUID" if hostname == "hostname" else "uuid": f"GPU-{gpu}",
            "device": f"nvidia{gpu}",
            "modelName": "NVIDIA H100",
            hostname: "n1",
        }
        for name, value in GAUGES.items():
            page.set(name, value * SLOW[gpu], **labels)
        for name, rate in PER_SECOND.items():
            page.set(name, 1e6 + rate * SLOW[gpu] * at_s, **labels)
        page.set("DCGM_FI_DEV_ROW_REMAP_FAILURE", float(gpu == "3"), **labels)
        capped = 0x4 if gpu == "3" and at_s < SECONDS / 2 else 0x40 if gpu == "3" else 0x0
        page.set("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", float(capped), **labels)
        code = XID_AFTER if gpu == "3" and at_s >= SECONDS / 2 else XID_BEFORE
        page.set("DCGM_FI_DEV_XID_ERRORS", code, **labels, err_code=str(int(code)), err_msg="x")
    page.types |= dict.fromkeys(GAUGES, "gauge") | dict.fromkeys(PER_SECOND, "counter")
    page.types["DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"] = "counter"
    return page


HPUS = ("0", "1")
HPU_SLOW = {"0": 1.0, "1": 0.75}


def habanalabs(at_s: float) -> Page:
    """Return what Intel's exporter says of two Gaudis."""
    page = Page({}, {})
    for hpu in HPUS:
        share = HPU_SLOW[hpu]
        labels = {
            "Serial": f"AM5{hpu}",
            "UUID": f"01P0-HL3090A0-{hpu}",
            "device": f"AM5{hpu}",
            "id": hpu,
            "driver": "1.24.0",
        }
        values = {
            "habanalabs_utilization": 90 * share,
            "habanalabs_memory_used_bytes": 64e9 * share,
            "habanalabs_memory_total_bytes": 128e9,
            "habanalabs_temperature_onchip": 50 * share,
            "habanalabs_temperature_onboard": 40 * share,
            "habanalabs_power_mW": 400e3 * share,
            "habanalabs_energy": 5e9 + 400e3 * share * at_s,
            "habanalabs_clock_soc_mhz": 1600 * share,
            "habanalabs_clock_soc_max_mhz": 1800.0,
            "habanalabs_pending_rows_with_single_bit_ecc_errors": 2.0,
            "habanalabs_pending_rows_with_double_bit_ecc_errors": 1.0,
            "habanalabs_pcie_replay_count": 3 + at_s * share,
        }
        for name, value in values.items():
            page.set(name, value, **labels)
            page.types[name] = "gauge"
        for port in ("0", "1"):
            page.set("habanalabs_nic_port_status", 1.0, **labels, port=port, port_type="internal")
        # The generic names of the same exporter carry other units than they say.
        page.set("accelerator_power_usage_watts", 400e3 * share, **labels)
    return page


def ours(at_s: float) -> Page:
    """Return what our exporter says of the same."""
    page = Page({}, {})
    for hpu in HPUS:
        share = HPU_SLOW[hpu]
        own = {"hpu": hpu, "uuid": f"01P0-{hpu}", "name": "HL-325L", "serial": f"AM5{hpu}"}
        values = {
            "hpu_utilization_ratio": 0.9 * share,
            "hpu_memory_used_bytes": 64e9 * share,
            "hpu_memory_total_bytes": 128e9,
            "hpu_temperature_celsius": 50 * share,
            "hpu_power_watts": 400 * share,
            "hpu_energy_joules_total": 5e6 + 400 * share * at_s,
            "hpu_clock_hertz": 1.6e9 * share,
        }
        for metric, value in values.items():
            page.values[metric, tuple(sorted(own.items()))] = value
        for severity, rate in (("corrected", 1.0), ("uncorrected", 0.25)):
            key = tuple(sorted({**own, "severity": severity}.items()))
            page.values["hpu_ecc_errors_total", key] = 7 + rate * share * at_s
    return page


def timed(page_at, first: int = -1, last: int = STEPS + 1) -> list[tuple[int, str]]:
    """Return ``page_at`` of every five seconds, from before the window to after it."""
    return [
        (T0 + step * STEP_MS, page_at(step * STEP_MS / 1000).text)
        for step in range(first, last + 1)
    ]


def labels(node: str = "n1", job: str = "nvidia") -> dict[str, str]:
    """Return what Prometheus attaches."""
    return {"job": job, "instance": f"{node}:9400", "node": node}


def recorded(page_at, folder, node="n1", job="nvidia"):
    """Write blocks of one exporter."""
    return blocks_from(timed(page_at), folder, labels(node, job))


def merged(*samples: dict) -> dict:
    """Return the samples of several targets."""
    return {key: points for one in samples for key, points in one.items()}


def samples(page_at, node="n1", job="nvidia"):
    """Return the samples of one exporter, for ``attempts.write_blocks``."""
    return samples_from(timed(page_at), labels(node, job))


def analyzed(folder, window=WINDOW):
    """Return the analysis of a data folder."""
    return analyze_recording(PrometheusFolder(folder), window, "replay")


def rows(analysis, kpi: str, scope: str | None = None, phase: str | None = None):
    """Return by entity the rows of one KPI."""
    table = analysis.table
    found = table[table["kpi"] == kpi]
    if scope is not None:
        found = found[found["scope"] == scope]
    if phase is not None:
        found = found[found["phase"] == phase]
    assert not found["entity"].duplicated().any(), found
    return {line["entity"]: line for _, line in found.iterrows()}


def entities(names: Sequence[str], kind: str = "gpu", node: str = "n1") -> list[str]:
    """Return the entities of some devices."""
    return [f"{kind}{name}@{node}" for name in names]
