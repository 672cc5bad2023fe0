"""What the exposition of NVIDIA's GPUs is, value by value."""

import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from nvml_node import ALL_LINKS, H100, MIB, UUIDS

from jobmeter_exporters.nvidia import TRY_AGAIN_S
from jobmeter_exporters.nvidia_families import FAMILIES
from jobmeter_exporters.nvidia_fields import FIELDS, NvlinkRate
from jobmeter_exporters.nvidia_gpm import METRICS

HERE = Path(__file__).parent
KIB = 1024


def after(seconds, share=1.0):
    """What the driver says some seconds on, of GPUs that did ``share`` of what they can."""
    return {
        "*.gpm.clock": 100 + seconds,
        **{f"*.gpm.{metric}": 10 * metric * seconds * share for metric in (*range(1, 10),)},
        **{f"*.gpm.{metric}": 50.0 * seconds * share for metric in (10, 11, 12, 13)},
        **{f"*.gpm.{metric}": 100.0 * seconds * share for metric in (20, 21, 60, 61)},
        f"*.field.138.{ALL_LINKS}": round(1000000 + 3000 * seconds * share),
        f"*.field.139.{ALL_LINKS}": round(2000000 + 4000 * seconds * share),
    }


def exposition(scrape):
    times = r"^(jobmeter_collector_duration_seconds.*) .*$"
    return re.sub(times, r"\1 0", scrape.text, flags=re.M)


def test_exposition_matches_golden(node, check_golden):
    with node.scraper() as scraper:
        node.say({**after(5), "3.power": "300000", "3.xid": "1:79"})
        scrape = scraper.scrape()
    assert (scrape.success, scrape.log) == (True, [])
    check_golden("nvidia.prom", exposition(scrape))


def test_instances_match_golden(node, check_golden):
    """GPU 0 is cut: one GPU instance as a whole, one cut again into two; the others are not."""
    name = "NVIDIA H100 80GB HBM3 MIG"
    node.say(
        {
            "count": 2,
            "0.mig_mode": 1,
            "0.mig_count": 7,
            "0.utilization": "error 3",
            "0.gpm.clock": "error 3",
            **{f"0/{at}.gi": gi for at, gi in ((0, 1), (2, 9), (3, 9))},
            **{f"0/{at}.uuid": f"MIG-{at}" for at in (0, 2, 3)},
            "0/0.name": f"{name} 3g.40gb",
            "0/2.name": f"{name} 1c.2g.20gb",
            "0/3.name": f"{name} 1c.2g.20gb",
            "*/*.memory_total": 20000 * MIB,
            "0/0.memory_total": 40000 * MIB,
            "*/*.memory_used": 4000 * MIB,
            "*/*.memory_reserved": 0,
            "0.gi1.gpm.clock": 100,
            "0.gi9.gpm.clock": 100,
            **{f"0.gi{gi}.gpm.{metric}": 0 for gi in (1, 9) for metric in (2, 5)},
        }
    )
    with node.scraper() as scraper:
        node.say({**after(5), "0.gi1.gpm.clock": 105, "0.gi9.gpm.clock": 105})
        node.say({"0.gi1.gpm.2": 450, "0.gi9.gpm.2": 50, "0.gi9.gpm.5": 25})
        scrape = scraper.scrape()
    assert scrape.values("DCGM_FI_PROF_SM_ACTIVE", GPU_I_ID="1") == [pytest.approx(0.9)]
    assert scrape.values("DCGM_FI_PROF_SM_ACTIVE", gpu="0") == pytest.approx([0.9, 0.1])
    assert scrape.values("DCGM_FI_DEV_POWER_USAGE", gpu="0") == [600.123]
    assert scrape.values("DCGM_FI_DEV_GPU_UTIL", gpu="0") == []
    check_golden("nvidia_mig.prom", exposition(scrape))


CAMEL = "label names should be written in 'snake_case' not 'camelCase'"
UNITS = "metric names should not contain abbreviated units"
OLDER_RULES = {"DCGM_FI_DEV_PCIE_REPLAY_COUNTER metric name should not include type 'counter'"}
"""What promtool says before 3, and not since."""
DCGM_EXCEPTIONS = {
    f"DCGM_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS {UNITS}",
    f"DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS {UNITS}",
    f"DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS {UNITS}",
}
"""What promtool says of DCGM's names; of every family beside, that its label modelName is."""


def promtool(text):
    if not shutil.which("promtool"):
        pytest.skip("promtool is not on PATH")
    return subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["nvidia.prom", "nvidia_mig.prom"])
def test_promtool_has_only_dcgms_names_to_complain_about(name):
    done = promtool((HERE / "golden" / name).read_text())
    said = (done.stdout + done.stderr).splitlines()
    assert any(line.endswith(CAMEL) for line in said)
    assert {line for line in said if not line.endswith(CAMEL)} - OLDER_RULES == DCGM_EXCEPTIONS


def test_every_family_is_read_and_every_reading_has_a_family():
    read = {one.family for one in FIELDS} | {one.family for one in METRICS}
    assert read <= FAMILIES.keys()
    golden = (HERE / "golden" / "nvidia.prom").read_text()
    exposed = set(re.findall(r"^# HELP (\S+) ", golden, re.M))
    of_others = {"DCGM_FI_DEV_RETIRED_SBE", "DCGM_FI_DEV_RETIRED_DBE", "nvidia_module_power_watts"}
    elsewhere = {name for name in FAMILIES if name.startswith(("nvidia_process", "nvidia_sampled"))}
    assert FAMILIES.keys() - exposed == of_others | elsewhere


def test_labels_are_those_of_dcgm_exporter():
    """Of the real one, driver 580; ours beside it have the same."""
    recorded = HERE.parent / "fixtures" / "expositions" / "dcgm-gb200.prom"

    def labels(text):
        line = re.search(r"^DCGM_FI_DEV_XID_ERRORS\{(.*)\}", text, re.M)
        return set(re.findall(r'(\w+)="', line[1]))

    ours = labels((HERE / "golden" / "nvidia.prom").read_text())
    assert ours == labels(recorded.read_text())


def test_units_are_dcgms(node):
    node.say({"0.memory_used": 2 * MIB - 1})
    with node.scraper() as scraper:
        scrape = scraper.scrape()
    assert scrape.values("DCGM_FI_DEV_FB_USED")[:2] == [1, 1000]  # MiB, truncated
    assert scrape.values("DCGM_FI_DEV_POWER_USAGE", gpu="0") == [600.123]
    assert scrape.values("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", gpu="0") == [1000600000]
    assert scrape.values("DCGM_FI_DEV_POWER_VIOLATION", gpu="0") == [1e9]
    assert scrape.values("nvidia_nvlink_transmit_bytes_total", gpu="0") == [1000000 * KIB]


KEYS = sorted(
    key
    for key in H100
    if key.startswith("*.")
    and not key.startswith(("*.gpm", "*.name", "*.mig_mode", "*.process", "*.samples"))
)


def test_each_value_that_a_gpu_has_not_is_absent_alone(node):
    """One after the other is refused; nothing else goes, nothing becomes zero."""
    with node.scraper() as scraper:
        whole = dict(line.rsplit(" ", 1) for line in scraper.scrape().lines)
        for key in KEYS:
            node.say({key: "error 3"})
            scrape = scraper.scrape(advance_s=301)
            left = dict(line.rsplit(" ", 1) for line in scrape.lines)
            gone = {name.partition("{")[0] for name in whole.keys() - left.keys()}
            assert scrape.success, key
            assert gone, key
            assert len(gone) <= 4, (key, gone)
            still = {name for name in left if "_PROF_" not in name and "activity" not in name}
            assert all(left[name] == whole[name] for name in still), key
            node.say({key: H100[key]})


def test_activity_is_the_mean_over_exactly_the_time_between_scrapes(node):
    with node.scraper() as scraper:
        node.say(after(5, share=1.0))
        first = scraper.scrape(advance_s=5)
        node.say({"*.gpm.clock": 108})  # three seconds in which the integrals do not grow
        second = scraper.scrape(advance_s=3)
    assert first.values("DCGM_FI_PROF_SM_ACTIVE") == [pytest.approx(0.2)] * 4
    assert first.values("DCGM_FI_PROF_PCIE_TX_BYTES") == [100 * MIB] * 4
    assert first.values("nvidia_activity_interval_seconds") == [5] * 4
    assert second.values("DCGM_FI_PROF_SM_ACTIVE") == [0] * 4
    assert second.values("nvidia_activity_interval_seconds") == [3] * 4


def test_a_second_scraper_breaks_no_mean(node):
    """It comes right behind the first and gets the same; later it gets the mean since then."""
    with node.scraper() as scraper:
        node.say(after(5))
        one = scraper.scrape(advance_s=5)
        other = scraper.scrape(advance_s=0.05)
        assert other.values("DCGM_FI_PROF_SM_ACTIVE") == one.values("DCGM_FI_PROF_SM_ACTIVE")
        node.say({**after(10), "*.gpm.2": 20 * 5 + 40 * 5})
        later = scraper.scrape(advance_s=4.95)
    assert later.values("DCGM_FI_PROF_SM_ACTIVE") == [pytest.approx(0.4)] * 4


def test_activity_that_gpm_has_not_is_absent(node):
    node.say({"*.gpm.5": "error 3", "*.gpm.2": "nan", "1.gpm": 0, "2.gpm": "error 3"})
    with node.scraper() as scraper:
        node.say({**after(5), "*.gpm.5": "error 3", "*.gpm.2": "nan"})
        node.take_calls()
        scrape = scraper.scrape()
        asked = node.take_calls()
    assert scrape.success
    assert "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE" not in scrape.families
    assert "DCGM_FI_PROF_SM_ACTIVE" not in scrape.families
    assert len(scrape.values("DCGM_FI_PROF_DRAM_ACTIVE")) == 2
    assert not [call for call in asked if call.startswith(("1.gpm", "2.gpm"))]


def test_a_sample_that_fails_leaves_a_gap_and_the_next_mean_covers_it(node):
    with node.scraper() as scraper:
        node.say({"*.gpm.clock": "error 10"})
        gap = scraper.scrape(advance_s=5)
        node.say(after(10))
        scrape = scraper.scrape(advance_s=5)
    assert not gap.values("DCGM_FI_PROF_SM_ACTIVE")
    assert "GPM sample: Timeout (10)" in gap.log[0]
    assert scrape.values("DCGM_FI_PROF_SM_ACTIVE") == [pytest.approx(0.2)] * 4
    assert scrape.values("nvidia_activity_interval_seconds") == [10] * 4


def test_samples_of_gpm_are_given_back(node):
    with node.scraper() as scraper:
        for seconds in (5, 10, 15):
            node.say(after(seconds))
            scraper.scrape()
    calls = node.take_calls()
    assert calls.count("gpm alloc") == calls.count("gpm free") == 8
    assert calls[-1] == "shutdown"


def test_nvlink_is_a_rate_under_dcgms_name_and_a_counter_under_ours(node):
    with node.scraper() as scraper:
        node.say(after(5))
        scrape = scraper.scrape(advance_s=5)
    assert scrape.values("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL") == [7] * 4  # of 1000 KiB/s
    sent = (1000000 + 15000) * KIB
    assert scrape.values("nvidia_nvlink_transmit_bytes_total") == [sent] * 4


def test_a_counter_of_nvlink_that_begins_anew_gives_no_rate():
    now = [0.0]
    rate = NvlinkRate(lambda: now[0])

    def at(seconds, kib):
        now[0] = seconds
        names = ("nvidia_nvlink_transmit_bytes_total", "nvidia_nvlink_receive_bytes_total")
        return rate.of("GPU-0", dict.fromkeys(names, kib * KIB / 2))

    assert at(0, 10_000) is None
    assert at(2, 14_000) == 2
    assert at(2.01, 15_000) == 2  # a second scraper
    assert at(3, 0) is None
    assert at(4, 1_000) == 1
    assert rate.of("GPU-0", {}) is None


def test_the_last_xid_and_what_it_means(node):
    node.say({"1.xid": "1:31"})  # before we began: NVML does not tell
    with node.scraper() as scraper:
        before = scraper.scrape()
        node.say({"1.xid": "1:31,2:48,3:12345", "2.xid": "1:94"})
        scrape = scraper.scrape()
        again = scraper.scrape()
    assert before.values("DCGM_FI_DEV_XID_ERRORS", err_msg="No Error") == [0] * 4
    assert scrape.values("DCGM_FI_DEV_XID_ERRORS") == [0, 12345, 94, 0]
    assert scrape.values("DCGM_FI_DEV_XID_ERRORS", err_msg="Contained ECC error") == [94]
    assert scrape.values("DCGM_FI_DEV_XID_ERRORS", err_code="12345", err_msg="Xid 12345")
    assert again.values("DCGM_FI_DEV_XID_ERRORS") == [0, 12345, 94, 0]


def test_no_events_no_xid(node):
    node.say({"0.events": "error 4"})
    with node.scraper() as scraper:
        scrape = scraper.scrape()
    assert scrape.success
    assert len(scrape.values("DCGM_FI_DEV_XID_ERRORS")) == 3


@pytest.fixture
def proc(tmp_path):
    """11 and 12 are ours, 13 is another user's, 14 has ended."""
    folder = tmp_path / "proc"
    for pid, name in (("11", "python3"), ("12", 'we"ird')):
        (folder / pid).mkdir(parents=True)
        (folder / pid / "comm").write_text(f"{name}\n")
    if os.geteuid():
        (folder / "13").symlink_to("/proc/1")
    else:
        (folder / "13").mkdir()
        (folder / "13" / "comm").write_text("other\n")
        os.chown(folder / "13", 65534, 65534)
    return folder


def test_own_processes_and_no_others(node, proc):
    node.say({"0.processes": f"11:{3 * MIB},13:{5 * MIB},14:1", "1.processes": f"12:{2**64 - 1}"})
    with node.scraper(JOBMETER_TEST_PROC=str(proc)) as scraper:
        scraper.scrape()
        # New of 11 twice and of 12; what 13 does is not ours, and pid 0 and 250 % are garbage.
        node.say({"0.process_use": "2000000:11:30,3000000:11:40,3000000:13:50,3000000:0:9"})
        node.say({"1.process_use": "2000000:12:250"})
        scrape = scraper.scrape()
        later = scraper.scrape()
    memory = "nvidia_process_memory_used_bytes"
    assert scrape.values(memory, pid="11", process="python3", UUID=UUIDS["0"]) == [3 * MIB]
    assert scrape.values(memory) == [3 * MIB]
    assert scrape.values("nvidia_process_sm_utilization_ratio") == [0.4]
    assert later.values("nvidia_process_sm_utilization_ratio") == []  # no newer sample
    assert later.values(memory) == [3 * MIB]
    assert later.success


def test_what_processes_did_before_we_began_is_left_out(node, proc):
    node.say({"init": "error 9", "0.processes": "11:1", "0.process_use": "500000:11:77"})
    with node.scraper(JOBMETER_TEST_PROC=str(proc)) as scraper:
        node.say({"init": None})
        first = scraper.scrape(TRY_AGAIN_S)
        node.say({"0.process_use": "500000:11:77,600000:11:50"})
        second = scraper.scrape()
    assert first.values("nvidia_process_sm_utilization_ratio") == []
    assert second.values("nvidia_process_sm_utilization_ratio") == [0.5]


def test_no_number_is_infinite_or_none(node):
    with node.scraper() as scraper:
        node.say(after(5))
        scrape = scraper.scrape()
    assert all(math.isfinite(float(line.rpartition(" ")[2])) for line in scrape.lines)
