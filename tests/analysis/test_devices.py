"""NVIDIA GPUs and Intel Gaudis: every metric, both spellings, MIG, values that are none."""

import pytest
from attempts import T0, write_blocks
from devices import (
    GAUGES,
    GPUS,
    HPU_SLOW,
    HPUS,
    MIB,
    PER_SECOND,
    SECONDS,
    SLOW,
    STEP_MS,
    WINDOW,
    XID_AFTER,
    XID_BEFORE,
    analyzed,
    everything,
    gb200,
    habanalabs,
    merged,
    ours,
    recorded,
    rows,
    samples,
    timed,
)
from kpi_rows import holds
from replay import Page, replayed

from jobmeter_analysis.catalogue import UNITS, load_catalogue
from jobmeter_analysis.vocabulary import load_vocabulary

pytestmark = pytest.mark.prometheus

GROUPS = ("gpu", "gpu-instance", "hpu", "energy")


def analyzed_samples(found, folder):
    write_blocks(found, folder)
    return analyzed(folder)


@pytest.fixture(scope="module")
def gpus(tmp_path_factory):
    """Four GPUs of which everything is known, the last half as fast as the others."""
    return analyzed(recorded(everything, tmp_path_factory.mktemp("gpus") / "data"))


@pytest.fixture(scope="module")
def hpus(tmp_path_factory):
    """Two Gaudis by Intel's exporter, and two by ours on another node."""
    found = merged(samples(habanalabs, "n1", "gaudi"), samples(ours, "n2", "hpu"))
    return analyzed_samples(found, tmp_path_factory.mktemp("hpus") / "data")


def test_golden_of_gpus(gpus, check_golden):
    check_golden("devices-gpu.csv", gpus.table.to_csv(index=False, float_format="%.10g"))


def test_golden_of_gaudis(hpus, check_golden):
    check_golden("devices-hpu.csv", hpus.table.to_csv(index=False, float_format="%.10g"))


MEANS = {
    "gpu_utilization_ratio_mean": ("DCGM_FI_DEV_GPU_UTIL", 0.01),
    "gpu_memory_copy_utilization_ratio_mean": ("DCGM_FI_DEV_MEM_COPY_UTIL", 0.01),
    "gpu_encoder_utilization_ratio_mean": ("DCGM_FI_DEV_ENC_UTIL", 0.01),
    "gpu_decoder_utilization_ratio_mean": ("DCGM_FI_DEV_DEC_UTIL", 0.01),
    "gpu_power_watts_mean": ("DCGM_FI_DEV_POWER_USAGE", 1),
    "gpu_power_limit_watts": ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 1),
    "gpu_temperature_celsius_mean": ("DCGM_FI_DEV_GPU_TEMP", 1),
    "gpu_memory_temperature_celsius_max": ("DCGM_FI_DEV_MEMORY_TEMP", 1),
    "gpu_sm_clock_hertz_mean": ("DCGM_FI_DEV_SM_CLOCK", 1e6),
    "gpu_memory_clock_hertz_mean": ("DCGM_FI_DEV_MEM_CLOCK", 1e6),
    "gpu_memory_used_bytes_mean": ("DCGM_FI_DEV_FB_USED", MIB),
    "gpu_memory_used_bytes_max": ("DCGM_FI_DEV_FB_USED", MIB),
    "gpu_memory_free_bytes_mean": ("DCGM_FI_DEV_FB_FREE", MIB),
    "gpu_memory_total_bytes": ("DCGM_FI_DEV_FB_TOTAL", MIB),
    "gpu_nvlink_bytes_per_second_mean": ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", 1.024e6),
    "gpu_graphics_engine_active_ratio_mean": ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 1),
    "gpu_sm_active_ratio_mean": ("DCGM_FI_PROF_SM_ACTIVE", 1),
    "gpu_sm_occupancy_ratio_mean": ("DCGM_FI_PROF_SM_OCCUPANCY", 1),
    "gpu_tensor_active_ratio_mean": ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1),
    "gpu_dram_active_ratio_mean": ("DCGM_FI_PROF_DRAM_ACTIVE", 1),
    "gpu_fp64_active_ratio_mean": ("DCGM_FI_PROF_PIPE_FP64_ACTIVE", 1),
    "gpu_fp32_active_ratio_mean": ("DCGM_FI_PROF_PIPE_FP32_ACTIVE", 1),
    "gpu_fp16_active_ratio_mean": ("DCGM_FI_PROF_PIPE_FP16_ACTIVE", 1),
    "gpu_pcie_transmit_bytes_per_second_mean": ("DCGM_FI_PROF_PCIE_TX_BYTES", 1),
    "gpu_pcie_receive_bytes_per_second_mean": ("DCGM_FI_PROF_PCIE_RX_BYTES", 1),
    "gpu_nvlink_transmit_bytes_per_second_mean": ("DCGM_FI_PROF_NVLINK_TX_BYTES", 1),
    "gpu_nvlink_receive_bytes_per_second_mean": ("DCGM_FI_PROF_NVLINK_RX_BYTES", 1),
}
INCREASES = {
    "gpu_energy_counter_joules": ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e-3),
    "gpu_throttled_by_power_seconds_total": ("DCGM_FI_DEV_POWER_VIOLATION", 1e-9),
    "gpu_throttled_by_temperature_seconds_total": ("DCGM_FI_DEV_THERMAL_VIOLATION", 1e-9),
    "gpu_throttled_by_sync_boost_seconds_total": ("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", 1e-9),
    "gpu_throttled_by_board_limit_seconds_total": ("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", 1e-9),
    "gpu_throttled_by_low_utilization_seconds_total": ("DCGM_FI_DEV_LOW_UTIL_VIOLATION", 1e-9),
    "gpu_throttled_by_reliability_seconds_total": ("DCGM_FI_DEV_RELIABILITY_VIOLATION", 1e-9),
    "gpu_ecc_corrected_errors_total": ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 1),
    "gpu_ecc_uncorrected_errors_total": ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 1),
    "gpu_remapped_rows_corrected_total": ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", 1),
    "gpu_remapped_rows_uncorrected_total": ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", 1),
    "gpu_retired_pages_corrected_total": ("DCGM_FI_DEV_RETIRED_SBE", 1),
    "gpu_retired_pages_uncorrected_total": ("DCGM_FI_DEV_RETIRED_DBE", 1),
    "gpu_pcie_replays_total": ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", 1),
    "gpu_pcie_transmit_bytes_total": ("DCGM_FI_PROF_PCIE_TX_BYTES_TOTAL", 1),
    "gpu_pcie_receive_bytes_total": ("DCGM_FI_PROF_PCIE_RX_BYTES_TOTAL", 1),
    "gpu_nvlink_transmit_bytes_total": ("DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES", 1),
    "gpu_nvlink_receive_bytes_total": ("DCGM_FI_DEV_NVLINK_COUNT_RX_BYTES", 1),
    "gpu_nvlink_crc_errors_total": ("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", 1),
    "gpu_nvlink_data_crc_errors_total": ("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", 1),
    "gpu_nvlink_replays_total": ("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", 1),
    "gpu_nvlink_recoveries_total": ("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", 1),
}


@pytest.mark.parametrize("kpi", MEANS)
def test_gauges_of_gpus(gpus, kpi):
    exposed, scale = MEANS[kpi]
    found = rows(gpus, kpi, "device")
    for gpu in GPUS:
        one = found[f"gpu{gpu}@n1"]
        assert one["value"] == pytest.approx(GAUGES[exposed] * SLOW[gpu] * scale), one


@pytest.mark.parametrize("kpi", INCREASES)
def test_counters_of_gpus(gpus, kpi):
    exposed, scale = INCREASES[kpi]
    found = rows(gpus, kpi, "device")
    truths = {f"gpu{g}@n1": PER_SECOND[exposed] * SLOW[g] * SECONDS * scale for g in GPUS}
    for entity, truth in truths.items():
        assert found[entity]["value"] == pytest.approx(truth)
        assert holds(found[entity], truth)
    for scope, entity in (("node", "n1"), ("job", "job")):
        assert rows(gpus, kpi, scope)[entity]["value"] == pytest.approx(sum(truths.values()))


def test_every_kpi_of_gpus_has_a_row(gpus):
    groups = load_catalogue()
    wanted = {name for group in GROUPS[:2] for name in groups[group].kpis}
    assert set(gpus.table["kpi"]) >= wanted


def test_totals(gpus):
    assert rows(gpus, "gpu_power_watts_mean", "node")["n1"]["value"] == pytest.approx(600 * 3.5)
    assert rows(gpus, "gpu_utilization_ratio_mean", "job")["job"]["value"] == pytest.approx(0.7)
    assert rows(gpus, "gpu_utilization_ratio_max", "job")["job"]["value"] == pytest.approx(0.8)
    assert rows(gpus, "gpu_temperature_celsius_max", "job")["job"]["value"] == pytest.approx(60)
    assert rows(gpus, "gpu_sm_clock_hertz_min", "job")["job"]["value"] == pytest.approx(9e8)
    assert rows(gpus, "gpu_row_remap_failed", "job")["job"]["value"] == 1
    ratio = rows(gpus, "gpu_memory_used_ratio_mean", "job")["job"]
    assert ratio["value"] == pytest.approx(0.25)


def test_reasons_for_low_clocks_are_bits(gpus):
    capped = rows(gpus, "gpu_power_capped_time_ratio", "device")
    hot = rows(gpus, "gpu_thermal_slowdown_time_ratio", "device")
    assert (capped["gpu3@n1"]["value"], hot["gpu3@n1"]["value"]) == (0.5, 0.5)
    assert (capped["gpu0@n1"]["value"], hot["gpu0@n1"]["value"]) == (0, 0)
    assert rows(gpus, "gpu_hardware_slowdown_time_ratio", "device")["gpu3@n1"]["value"] == 0


def test_an_error_changes_labels_and_stays_one_gauge(gpus):
    first, last = (rows(gpus, f"gpu_xid_code_{end}", "device") for end in ("first", "last"))
    assert (first["gpu3@n1"]["value"], last["gpu3@n1"]["value"]) == (XID_BEFORE, XID_AFTER)
    assert (first["gpu0@n1"]["value"], last["gpu0@n1"]["value"]) == (XID_BEFORE, XID_BEFORE)
    assert rows(gpus, "gpu_xid_code_last", "job")["job"]["value"] == XID_AFTER


def test_a_straggler_is_named(gpus):
    scores = rows(gpus, "gpu_utilization_ratio_mean_score_ratio", "device")
    assert scores["gpu3@n1"]["value"] == pytest.approx(0.5)
    assert scores["gpu3@n1"]["reason"] == "outlier"
    assert scores["gpu0@n1"]["reason"] == ""
    across = rows(gpus, "gpu_power_watts_mean_across_devices_min", "job")["job"]
    assert across["value"] == pytest.approx(300)


RENAMED = {
    "DCGM_FI_DEV_GPU_UTIL": "DCGM_FI_DEV_GPU_UTIL_RATIO",
    "DCGM_FI_DEV_POWER_USAGE": "DCGM_FI_DEV_BOARD_POWER_WATTS",
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": "DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS",
    "DCGM_FI_DEV_GPU_TEMP": "DCGM_FI_DEV_GPU_TEMP_CELSIUS",
    "DCGM_FI_DEV_MEMORY_TEMP": "DCGM_FI_DEV_MEMORY_TEMP_CELSIUS",
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
    "DCGM_FI_DEV_XID_ERRORS": "DCGM_FI_DEV_XID_ERROR",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": "DCGM_FI_DEV_ROW_REMAP_CORRECTABLE_TOTAL",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "DCGM_FI_DEV_ROW_REMAP_FAILED",
    "DCGM_FI_DEV_RETIRED_SBE": "DCGM_FI_DEV_PAGE_RETIRED_SBE_TOTAL",
    "DCGM_FI_DEV_RETIRED_DBE": "DCGM_FI_DEV_PAGE_RETIRED_DBE_TOTAL",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": "DCGM_FI_DEV_PCIE_REPLAY_TOTAL",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": "DCGM_FI_DEV_NVLINK_THROUGHPUT_TOTAL",
    "DCGM_FI_DEV_NVLINK_COUNT_TX_BYTES": "DCGM_FI_DEV_NVLINK_TX_BYTES_TOTAL",
    "DCGM_FI_DEV_NVLINK_COUNT_RX_BYTES": "DCGM_FI_DEV_NVLINK_RX_BYTES_TOTAL",
    "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_TOTAL",
    "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": "DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_TOTAL",
    "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": "DCGM_FI_DEV_NVLINK_REPLAY_ERROR_TOTAL",
    "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": "DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_TOTAL",
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO",
    "DCGM_FI_PROF_SM_ACTIVE": "DCGM_FI_PROF_SM_UTIL_RATIO",
    "DCGM_FI_PROF_SM_OCCUPANCY": "DCGM_FI_PROF_SM_OCCUPANCY_RATIO",
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "DCGM_FI_PROF_TENSOR_UTIL_RATIO",
    "DCGM_FI_PROF_DRAM_ACTIVE": "DCGM_FI_PROF_DRAM_UTIL_RATIO",
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": "DCGM_FI_PROF_FP64_UTIL_RATIO",
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": "DCGM_FI_PROF_FP32_UTIL_RATIO",
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": "DCGM_FI_PROF_FP16_UTIL_RATIO",
}
"""Names of which DCGM 4.5, or an older one, has others; the values are the same."""


def renamed(page):
    values = {(RENAMED.get(name, name), own): value for (name, own), value in page.values.items()}
    return Page(values, {RENAMED.get(name, name): kind for name, kind in page.types.items()})


def test_other_spellings_of_names_and_labels_give_the_same_table(gpus, tmp_path):
    other = analyzed(recorded(lambda at: renamed(everything(at, "Hostname")), tmp_path / "data"))
    assert other.table.equals(gpus.table)


def test_two_spellings_at_once_count_once(gpus, tmp_path):
    def both(at):
        page, more = everything(at), renamed(everything(at))
        return Page({**page.values, **more.values}, {**page.types, **more.types})

    assert analyzed(recorded(both, tmp_path / "data")).table.equals(gpus.table)


def test_series_that_are_repeated_for_jobs_count_once(gpus, tmp_path):
    def shared(at):
        page = everything(at)
        values = {
            (name, tuple(sorted({**dict(own), "hpc_job": job}.items()))): value
            for (name, own), value in page.values.items()
            for job in ("17", "18")
        }
        return Page(values, page.types)

    assert analyzed(recorded(shared, tmp_path / "data")).table.equals(gpus.table)


def test_what_dcgm_has_no_value_for_is_absent(gpus, tmp_path):
    def blank(at):
        page = everything(at)
        return page.set("DCGM_FI_DEV_GPU_TEMP", 9223372036854775794.0, gpu="1")

    analysis = analyzed(recorded(blank, tmp_path / "data"))
    found = rows(analysis, "gpu_temperature_celsius_max", "device")
    assert found["gpu1@n1"]["status"] == "unavailable"
    assert found["gpu0@n1"]["value"] == 60
    assert rows(analysis, "gpu_temperature_celsius_max", "job")["job"]["value"] == 60


def instances(at):
    """One GPU cut in two by MIG: what is the board's is repeated for each of them."""
    page = Page({}, {})
    for instance, share in (("1", 0.25), ("2", 0.75)):
        own = {"gpu": "0", "UUID": "GPU-0", "GPU_I_PROFILE": "1g.6gb", "GPU_I_ID": instance}
        page.set("DCGM_FI_DEV_POWER_USAGE", 300.0, **own)
        page.set("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1e6 + 300e3 * at, **own)
        page.set("DCGM_FI_DEV_GPU_TEMP", 50.0, **own)
        page.set("DCGM_FI_DEV_SM_CLOCK", 1000.0, **own)
        page.set("DCGM_FI_DEV_XID_ERRORS", 0.0, **own)
        page.set("DCGM_FI_DEV_FB_USED", 1000 * share, **own)
        page.set("DCGM_FI_PROF_SM_ACTIVE", share, **own)
    return page


def test_the_power_of_a_gpu_cut_into_instances_counts_once(tmp_path):
    analysis = analyzed(recorded(instances, tmp_path / "data"))
    assert list(rows(analysis, "gpu_power_watts_mean", "device")) == ["gpu0@n1"]
    assert rows(analysis, "gpu_power_watts_mean", "job")["job"]["value"] == 300
    assert rows(analysis, "gpu_energy_joules", "job")["job"]["value"] == pytest.approx(18000)
    active = rows(analysis, "gpu_sm_active_ratio_mean", "device")
    assert {one: line["value"] for one, line in active.items()} == {
        "gpu0.1@n1": 0.25,
        "gpu0.2@n1": 0.75,
    }
    assert rows(analysis, "gpu_memory_used_bytes_mean", "job")["job"]["value"] == 1000 * MIB
    busy = rows(analysis, "gpu_utilization_ratio_mean", "device")["gpu0@n1"]
    assert (busy["status"], busy["reason"]) == ("unavailable", "metric_absent")


def test_a_gpu_that_is_there_as_a_whole_and_in_instances_counts_in_these(tmp_path):
    def both(at):
        page = instances(at)
        page.values["DCGM_FI_DEV_FB_USED", (("UUID", "GPU-0"), ("gpu", "0"))] = 1100.0
        return page

    analysis = analyzed(recorded(both, tmp_path / "data"))
    each = rows(analysis, "gpu_memory_used_bytes_mean", "device")
    assert [line["value"] / MIB for line in each.values()] == [1100, 250, 750]
    assert rows(analysis, "gpu_memory_used_bytes_mean", "job")["job"]["value"] == 1000 * MIB


def test_gaudis_by_either_exporter(hpus):
    kpis = {
        "hpu_utilization_ratio_mean": 0.9,
        "hpu_memory_used_bytes_max": 64e9,
        "hpu_temperature_celsius_max": 50,
        "hpu_power_watts_mean": 400,
        "hpu_energy_counter_joules": 400 * SECONDS,
        "hpu_energy_integral_joules": 400 * SECONDS,
        "hpu_energy_joules": 400 * SECONDS,
        "hpu_clock_hertz_mean": 1.6e9,
        "hpu_clock_hertz_min": 1.6e9,
    }
    for kpi, full in kpis.items():
        found = rows(hpus, kpi, "device")
        for hpu in HPUS:
            for node in ("n1", "n2"):
                value = found[f"hpu{hpu}@{node}"]["value"]
                assert value == pytest.approx(full * HPU_SLOW[hpu]), kpi
    total = rows(hpus, "hpu_energy_joules", "job")["job"]
    assert total["value"] == pytest.approx(2 * 400 * 1.75 * SECONDS)
    assert rows(hpus, "energy_joules")["job"]["value"] == total["value"]


def test_what_only_one_exporter_of_gaudis_has(hpus):
    errors = rows(hpus, "hpu_ecc_uncorrected_errors_total", "device")
    assert {one: line["value"] for one, line in errors.items()} == pytest.approx(
        {"hpu0@n2": 0.25 * SECONDS, "hpu1@n2": 0.25 * 0.75 * SECONDS}
    )
    corrected = rows(hpus, "hpu_ecc_corrected_errors_total", "node")["n2"]
    assert corrected["value"] == pytest.approx(1.75 * SECONDS)
    ports = rows(hpus, "hpu_network_ports_up", "device")
    assert {one: line["value"] for one, line in ports.items()} == {"hpu0@n1": 2, "hpu1@n1": 2}
    replays = rows(hpus, "hpu_pcie_replays_total", "device")
    assert replays["hpu1@n1"]["value"] == pytest.approx(0.75 * SECONDS)
    assert rows(hpus, "hpu_pending_rows_corrected", "node")["n1"]["value"] == 4


def test_every_kpi_of_gaudis_has_a_row(hpus):
    assert set(hpus.table["kpi"]) >= set(load_catalogue()["hpu"].kpis)


def test_kpis_of_devices_need_no_device_on_other_targets(tmp_path):
    page = Page.of("# TYPE node_load1 gauge\nnode_load1 1\n")
    analysis = analyzed(recorded(lambda at: page, tmp_path / "data", job="node"))
    named = {name for group in GROUPS for name in load_catalogue()[group].kpis}
    assert not named.intersection(analysis.table["kpi"])


# The real exposition, through a real Prometheus.

MOVED = {
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("gpu_pcie_replays_total", 3),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": ("gpu_remapped_rows_uncorrected_total", 1),
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": ("gpu_remapped_rows_corrected_total", 2),
}
NO_KPI = {"DCGM_FI_DEV_VGPU_LICENSE_STATUS"}
"""A state of the licence, no quantity of a job."""


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    pages = [gb200() for _ in range(2)]
    for answer in range(1, 5):
        page = gb200()
        for exposed, (_, amount) in MOVED.items():
            page.add(exposed, answer * amount)
        pages.append(page)
    pages += [pages[-1], pages[-1]]
    return replayed(
        {"dcgm": [page.text for page in pages]},
        tmp_path_factory.mktemp("gb200"),
        scrapes=len(pages),
    )


@pytest.fixture(scope="module")
def real(replay):
    return analyzed(replay.folder, replay.window("dcgm", 0, 6))


def test_every_family_of_the_real_exposition_has_a_row(real):
    vocabulary = load_vocabulary()
    kpis = [kpi for group in load_catalogue().values() for kpi in group.kpis.items()]
    for family in gb200().types:
        if family in NO_KPI:
            continue
        words = vocabulary.meanings({family: [{}]})
        assert family in words, f"{family} is not described"
        named = {name for name, kpi in kpis if words[family].metric in kpi.metrics}
        if family == "DCGM_FI_DEV_FB_RESERVED":
            continue  # described, and in no KPI
        assert named.intersection(real.table["kpi"]), f"{family} gives no row"
    assert set(real.table["unit"]) <= set(UNITS)


def test_values_of_the_real_exposition(real):
    page = gb200()
    for gpu in GPUS:
        entity = f"gpu{gpu}@n1"
        one = rows(real, "gpu_power_watts_mean", "device")[entity]
        assert one["value"] == pytest.approx(page.value("DCGM_FI_DEV_POWER_USAGE", gpu=gpu))
        clock = rows(real, "gpu_sm_clock_hertz_mean", "device")[entity]
        assert clock["value"] == pytest.approx(120e6)
        used = rows(real, "gpu_memory_used_bytes_max", "device")[entity]
        assert used["value"] == page.value("DCGM_FI_DEV_FB_USED", gpu=gpu) * MIB
        assert rows(real, "gpu_utilization_ratio_mean", "device")[entity]["value"] == 0
        for kpi, amount in MOVED.values():
            moved = rows(real, kpi, "device")[entity]
            assert moved["low"] <= 4 * amount <= moved["high"]
            assert moved["value"] == pytest.approx(4 * amount)


def test_energy_of_the_real_exposition_is_an_integral(real):
    """This GB200 has no counter of energy."""
    watts = gb200().value("DCGM_FI_DEV_POWER_USAGE")
    seconds = rows(real, "phase_seconds")["job"]["value"]
    total = rows(real, "gpu_energy_joules", "job")["job"]
    assert total["value"] == pytest.approx(watts * seconds)
    assert total["status"] == "estimated"
    assert "gpu_energy_counter_joules" not in set(real.table["kpi"])
    assert "gpu_energy_disagreement_ratio" not in set(real.table["kpi"])
    assert rows(real, "energy_joules")["job"]["value"] == total["value"]


def test_moving_devices_through_a_real_prometheus(tmp_path):
    live = replayed(
        {
            "nvidia": lambda at: everything(at).text,
            "gaudi": lambda at: habanalabs(at).text,
        },
        tmp_path,
        scrapes=12,
        interval_s=0.25,
    )
    window = live.window("nvidia", 2, 9)
    analysis = analyzed(live.folder, window)
    assert set(analysis.table["unit"]) <= set(UNITS)
    for kpi, (exposed, scale) in INCREASES.items():
        for gpu in GPUS:
            truth = PER_SECOND[exposed] * SLOW[gpu] * window.seconds * scale
            one = rows(analysis, kpi, "device")[f"gpu{gpu}@n1"]
            assert holds(one, truth), kpi
    for kpi, (exposed, scale) in MEANS.items():
        value = rows(analysis, kpi, "device")["gpu0@n1"]["value"]
        assert value == pytest.approx(GAUGES[exposed] * scale), kpi
    joules = 400 * sum(HPU_SLOW.values()) * window.seconds
    energy = rows(analysis, "hpu_energy_joules", "job")["job"]
    assert energy["low"] <= joules <= energy["high"]
    both = rows(analysis, "energy_joules")["job"]
    assert both["low"] <= joules + 600 * sum(SLOW.values()) * window.seconds <= both["high"]


def test_the_window_is_where_the_pages_say():
    assert timed(everything)[1][0] == T0
    assert WINDOW.end_ms - WINDOW.start_ms == STEP_MS * (len(timed(everything)) - 3)
