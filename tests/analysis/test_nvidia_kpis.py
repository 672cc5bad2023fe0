"""Our exporter of NVIDIA's GPUs and dcgm-exporter give the same KPIs of the same state.

The state is that of ``devices.everything``: once as dcgm-exporter shows it, once as the driver
answers, which our exporter asks through the real pynvml.
"""

import math
import sys
from pathlib import Path

import pynvml
import pytest
from attempts import T0
from devices import (
    GAUGES,
    GPUS,
    PER_SECOND,
    SLOW,
    STEP_MS,
    STEPS,
    WINDOW,
    XID_AFTER,
    XID_BEFORE,
    everything,
    labels,
)
from replay import Page, blocks_from

sys.path.insert(0, str(Path(__file__).parents[1] / "exporters" / "nvml"))  # as for its own tests

import nvml_node
from nvml_node import ALL_LINKS, MIB, Node, build_library

from jobmeter_analysis.engine import analyze_recording
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

pytestmark = pytest.mark.prometheus

KIB = 1024
STEP_S = STEP_MS / 1000
HALF_S = STEPS * STEP_S / 2
BEGAN_S = -2 * STEP_S
BEFORE = 10**12
"""What every counter had before, so that none is below zero before the window."""

FIELDS = {
    "DCGM_FI_DEV_MEMORY_TEMP": "MEMORY_TEMP",
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": "TOTAL_ENERGY_CONSUMPTION",
    "DCGM_FI_DEV_POWER_VIOLATION": "PERF_POLICY_POWER",
    "DCGM_FI_DEV_THERMAL_VIOLATION": "PERF_POLICY_THERMAL",
    "DCGM_FI_DEV_SYNC_BOOST_VIOLATION": "PERF_POLICY_SYNC_BOOST",
    "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION": "PERF_POLICY_BOARD_LIMIT",
    "DCGM_FI_DEV_LOW_UTIL_VIOLATION": "PERF_POLICY_LOW_UTILIZATION",
    "DCGM_FI_DEV_RELIABILITY_VIOLATION": "PERF_POLICY_RELIABILITY",
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": "ECC_SBE_VOL_TOTAL",
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": "ECC_DBE_VOL_TOTAL",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": "REMAPPED_COR",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "REMAPPED_UNC",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "REMAPPED_FAILURE",
    "DCGM_FI_DEV_RETIRED_SBE": "RETIRED_SBE",
    "DCGM_FI_DEV_RETIRED_DBE": "RETIRED_DBE",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": "PCIE_REPLAY_COUNTER",
    "DCGM_FI_PROF_PCIE_TX_BYTES_TOTAL": "PCIE_COUNT_TX_BYTES",
    "DCGM_FI_PROF_PCIE_RX_BYTES_TOTAL": "PCIE_COUNT_RX_BYTES",
    "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": "NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL",
    "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": "NVLINK_CRC_DATA_ERROR_COUNT_TOTAL",
    "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": "NVLINK_REPLAY_ERROR_COUNT_TOTAL",
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": "NVLINK_RECOVERY_ERROR_COUNT_TOTAL",
}
LINKS = {
    "DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES": "NVLINK_THROUGHPUT_DATA_TX",
    "DCGM_FI_DEV_NVLINK_COUNT_RX_BYTES": "NVLINK_THROUGHPUT_DATA_RX",
}
CALLS = {
    "DCGM_FI_DEV_GPU_UTIL": ("utilization", 1),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("memory_utilization", 1),
    "DCGM_FI_DEV_ENC_UTIL": ("encoder", 1),
    "DCGM_FI_DEV_DEC_UTIL": ("decoder", 1),
    "DCGM_FI_DEV_POWER_USAGE": ("power", 1000),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": ("limit", 1000),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature", 1),
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock", 1),
    "DCGM_FI_DEV_MEM_CLOCK": ("memory_clock", 1),
    "DCGM_FI_DEV_FB_USED": ("memory_used", MIB),
    "DCGM_FI_DEV_FB_RESERVED": ("memory_reserved", MIB),
    "DCGM_FI_DEV_FB_TOTAL": ("memory_total", MIB),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": ("clock_reasons", 1),
}
"""How the driver's unit follows from DCGM's."""

ACTIVITY = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("GRAPHICS_UTIL", 100),
    "DCGM_FI_PROF_SM_ACTIVE": ("SM_UTIL", 100),
    "DCGM_FI_PROF_SM_OCCUPANCY": ("SM_OCCUPANCY", 100),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("ANY_TENSOR_UTIL", 100),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("DRAM_BW_UTIL", 100),
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": ("FP64_UTIL", 100),
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": ("FP32_UTIL", 100),
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": ("FP16_UTIL", 100),
    "DCGM_FI_PROF_PCIE_TX_BYTES": ("PCIE_TX_PER_SEC", 1 / MIB),
    "DCGM_FI_PROF_PCIE_RX_BYTES": ("PCIE_RX_PER_SEC", 1 / MIB),
    "DCGM_FI_PROF_NVLINK_TX_BYTES": ("NVLINK_TOTAL_TX_PER_SEC", 1 / MIB),
    "DCGM_FI_PROF_NVLINK_RX_BYTES": ("NVLINK_TOTAL_RX_PER_SEC", 1 / MIB),
}
"""Rates of the integrals that the stand-in keeps, in the units of NVML."""


def dcgm(at_s):
    """What dcgm-exporter shows: counters are whole, and those of NVLink fit its rate."""
    page = everything(at_s, "Hostname")
    for gpu in GPUS:
        own = {"gpu": gpu}
        for name in PER_SECOND:
            unit = KIB if name in LINKS else 1
            page.set(name, BEFORE + unit * math.floor(page.value(name, **own) / unit), **own)
        rate = sum(PER_SECOND[name] for name in LINKS) * SLOW[gpu]
        page.set("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", rate / KIB / 1000, **own)
    return page


def driver(at_s):
    """What the driver of the same GPUs answers."""
    page, lines = dcgm(at_s), {}
    for gpu in GPUS:

        def value(name, gpu=gpu):
            return page.value(name, gpu=gpu)

        for name, (key, factor) in CALLS.items():
            lines[f"{gpu}.{key}"] = round(value(name) * factor)
        for name, field in FIELDS.items():
            number = getattr(pynvml, f"NVML_FI_DEV_{field}")
            lines[f"{gpu}.field.{number}"] = round(value(name))
        for name, field in LINKS.items():
            number = getattr(pynvml, f"NVML_FI_DEV_{field}")
            lines[f"{gpu}.field.{number}.{ALL_LINKS}"] = round(value(name) / KIB)
        lines[f"{gpu}.gpm.clock"] = at_s - BEGAN_S
        for name, (metric, factor) in ACTIVITY.items():
            number = getattr(pynvml, f"NVML_GPM_METRIC_{metric}")
            lines[f"{gpu}.gpm.{number}"] = repr(value(name) * factor * (at_s - BEGAN_S))
        second = f",2:{XID_AFTER:.0f}" if gpu == "3" and at_s >= HALF_S else ""
        lines[f"{gpu}.xid"] = f"1:{XID_BEFORE:.0f}{second}" if at_s > BEGAN_S else ""
    return lines


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """By exporter, what was scraped every five seconds."""
    root = tmp_path_factory.mktemp("nvidia")
    node = Node(root / "node", build_library(root / "nvml"))
    node.say({key: None for key in node.lines if key.startswith("*.field")} | driver(BEGAN_S))
    times = [step * STEP_S for step in range(-1, STEPS + 2)]
    ours = []
    with node.scraper() as scraper:
        for at_s in times:
            node.say(driver(at_s))
            scrape = scraper.scrape(STEP_S)
            assert (scrape.success, scrape.log) == (True, [])
            ours.append(scrape.text)
    stamps = [T0 + round(at_s * 1000) for at_s in times]
    return {
        "dcgm": list(zip(stamps, [dcgm(at_s).text for at_s in times], strict=True)),
        "nvidia": list(zip(stamps, ours, strict=True)),
    }


def kpis(pages, folder):
    """Return the rows about GPUs by KPI and entity, of what was scraped when."""
    data = blocks_from(pages, folder, labels())
    table = analyze_recording(PrometheusFolder(data), WINDOW, "replay").table
    of_gpus = table[table["kpi"].str.startswith("gpu_")]
    return {(row.kpi, row.entity): row for row in of_gpus.itertuples()}


@pytest.fixture(scope="module")
def tables(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return {name: kpis(pages, folder / name) for name, pages in texts.items()}


def check_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, their in theirs.items():
        our = ours[key]
        assert (our.unit, our.status, our.samples) == (their.unit, their.status, their.samples), key
        for column in ("value", "low", "high"):
            one, other = getattr(our, column), getattr(their, column)
            assert one == pytest.approx(other, rel=1e-6, nan_ok=True), (key, column)


def test_every_kpi_of_gpus_is_the_same(tables):
    check_same(tables["nvidia"], tables["dcgm"])
    assert len(tables["dcgm"]) > 300


def test_instances_are_the_same(tmp_path):
    """Of a GPU that is cut up dcgm-exporter repeats for each instance what we say once."""
    ours = Page.of((Path(nvml_node.__file__).parents[1] / "golden" / "nvidia_mig.prom").read_text())
    ours.values = {key: value for key, value in ours.values.items() if "DCGM" in key[0]}
    profiles = {
        (own["gpu"], own["GPU_I_ID"]): own["GPU_I_PROFILE"]
        for name, own in ((name, dict(inside)) for name, inside in ours.values)
        if name == "DCGM_FI_DEV_FB_TOTAL" and "GPU_I_ID" in own
    }
    theirs = Page({}, ours.types)
    for (name, inside), value in ours.values.items():
        own = dict(inside)
        of_it = [(i, profile) for (gpu, i), profile in profiles.items() if gpu == own["gpu"]]
        copies = [{"GPU_I_ID": i, "GPU_I_PROFILE": profile} for i, profile in of_it]
        for more in [{}] if "GPU_I_ID" in own or not copies else copies:
            theirs.values[name, tuple(sorted({**own, **more}.items()))] = value
    assert len(theirs.values) > len(ours.values)
    times = [T0 + step * STEP_MS for step in range(-1, STEPS + 2)]
    one, other = (
        kpis([(at, page.text) for at in times], tmp_path / name)
        for name, page in (("nvidia", ours), ("dcgm", theirs))
    )
    check_same(one, other)
    assert one["gpu_sm_active_ratio_mean", "gpu0.1@n1"].value == pytest.approx(0.9)


def test_every_kpi_has_a_value(tables):
    """Otherwise the same would be little to say."""
    without = {key[0] for key, row in tables["nvidia"].items() if row.status == "unavailable"}
    assert without == set()
    assert tables["nvidia"]["gpu_energy_counter_joules", "gpu0@n1"].value == pytest.approx(
        600 * STEPS * STEP_S
    )


def test_the_state_has_all_that_dcgm_shows():
    mapped = {*FIELDS, *LINKS, *CALLS, *ACTIVITY}
    derived = {"DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"}
    assert {*GAUGES, *PER_SECOND} <= mapped | derived
