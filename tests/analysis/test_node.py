"""Nodes, the job on them, and the monitoring: a node of 144 CPUs and four InfiniBand ports."""

import kpi_rows
import pytest
from attempts import T0, write_blocks
from kpi_rows import holds
from replay import Page, replayed, samples_from

from jobmeter.window import Window
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.engine import analyze_recording
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

pytestmark = pytest.mark.prometheus

GIB = 2**30
STEP_S = 5.0
CPUS = 144
OF_JOB = 36
"""The job has the CPUs 0 to 35, which are busy; the others are busy a quarter of the time."""

MOVING = {
    ("node_network_receive_bytes_total", (("device", "eth0"),)): 1e6,
    ("node_network_receive_bytes_total", (("device", "lo"),)): 9e9,
    ("node_network_receive_bytes_total", (("device", "bond0"),)): 1e6,
    ("node_network_transmit_bytes_total", (("device", "eth0"),)): 2e6,
    ("node_disk_read_bytes_total", (("device", "nvme0n1"),)): 3e6,
    ("node_disk_read_bytes_total", (("device", "dm-0"),)): 3e6,
    ("node_disk_written_bytes_total", (("device", "nvme0n1"),)): 4e6,
    ("node_disk_io_time_seconds_total", (("device", "nvme0n1"),)): 0.5,
    ("node_pressure_cpu_waiting_seconds_total", ()): 0.25,
    ("node_pressure_io_waiting_seconds_total", ()): 0.125,
    ("node_pressure_io_stalled_seconds_total", ()): 0.0625,
    ("node_pressure_memory_waiting_seconds_total", ()): 0.0,
    ("node_pressure_memory_stalled_seconds_total", ()): 0.0,
    ("process_cpu_seconds_total", ()): 0.02,
}
"""Per second. Of each pair of one network or disk, one stands for the other as well."""
STANDING = {
    "node_memory_MemTotal_bytes": 64 * GIB,
    "node_memory_MemAvailable_bytes": 48 * GIB,
    "node_load1": 40.0,
    "process_resident_memory_bytes": 25e6,
    "process_start_time_seconds": T0 / 1000 - 3600,
}


def node_page(t):
    """Return what node_exporter says after ``t`` seconds."""
    page = Page.fixture("node-exporter-gb200.prom")
    for (name, labels), value in page.values.items():
        cpu = int(dict(labels).get("cpu", CPUS))
        if name == "node_cpu_seconds_total" and cpu < CPUS:
            busy = 1.0 if cpu < OF_JOB else 0.25
            share = {"user": busy, "idle": 1 - busy}.get(dict(labels)["mode"], 0.0)
            page.values[name, labels] = value + share * t
    for device in range(4):
        page.add(
            "node_infiniband_port_data_received_bytes_total", 1e10 * t, device=f"mlx5_{device}"
        )
        page.add(
            "node_infiniband_port_data_transmitted_bytes_total", 5e9 * t, device=f"mlx5_{device}"
        )
    for (name, labels), per_second in MOVING.items():
        page.types[name] = "counter"
        page.set(name, 1000.0 + per_second * t, **dict(labels))
    for name, value in STANDING.items():
        page.set(name, value)
    return page


def job_page(t):
    """Return what our exporter says: 30 cores used, 0.5 of them by the monitoring."""
    lines = [
        'job_source_info{source="cgroup_v2"} 1',
        f"job_cpus {OF_JOB}",
        f'job_cpu_list_info{{cpus="0-{OF_JOB - 1}"}} 1',
        f"job_memory_used_bytes {10 * GIB}",
        f"job_memory_anonymous_bytes {8 * GIB}",
        f"job_memory_page_cache_bytes {2 * GIB}",
        f"job_memory_peak_bytes {11 * GIB}",
        f"job_memory_limit_bytes {20 * GIB}",
        "job_processes 5",
        "job_threads 50",
        "job_processes_without_io 1",
        f"job_monitoring_memory_used_bytes {GIB}",
        "process_resident_memory_bytes 3e7",
    ]
    moving = {
        "job_cpu_seconds_total": 30.0,
        "job_cpu_user_seconds_total": 28.0,
        "job_cpu_system_seconds_total": 2.0,
        "job_cpu_throttled_seconds_total": 0.5,
        "job_memory_oom_kills_total": 0.0,
        "job_memory_major_faults_total": 3.0,
        'job_memory_events_total{event="max"}': 7.0,
        'job_memory_events_total{event="oom"}': 0.0,
        'job_io_reads_total{device="sda"}': 10.0,
        'job_io_writes_total{device="sda"}': 20.0,
        "job_syscall_read_bytes_total": 8e6,
        "job_syscall_write_bytes_total": 4e6,
        "job_syscall_reads_total": 80.0,
        "job_syscall_writes_total": 10.0,
        "job_storage_read_bytes_total": 2e6,
        "job_storage_write_bytes_total": 4e6,
        'job_io_read_bytes_total{device="sda"}': 1e6,
        'job_io_write_bytes_total{device="sda"}': 2e6,
        'job_pressure_waiting_seconds_total{resource="cpu"}': 0.25,
        'job_pressure_waiting_seconds_total{resource="io"}': 0.125,
        'job_pressure_waiting_seconds_total{resource="memory"}': 0.0,
        'job_pressure_stalled_seconds_total{resource="cpu"}': 0.0,
        'job_pressure_stalled_seconds_total{resource="io"}': 0.0625,
        'job_pressure_stalled_seconds_total{resource="memory"}': 0.0,
        "job_monitoring_cpu_seconds_total": 0.5,
        "process_cpu_seconds_total": 0.01,
    }
    lines += [f"{name} {100 + per_second * t}" for name, per_second in moving.items()]
    types = {name.partition("{")[0] for name in moving}
    return "\n".join([*(f"# TYPE {name} counter" for name in sorted(types)), *lines, ""])


def rows(analysis, kpi, scope="node"):
    found = kpi_rows.rows(analysis.table, kpi, scope=scope)
    assert len(found), f"no row {kpi}"
    return found


def of(analysis, kpi, scope="node"):
    return rows(analysis, kpi, scope).iloc[0]


def recorded(folder, nodes=("n1", "n2"), steps=12, without=()):
    """Write blocks of both exporters of two nodes, the second of which started later."""
    samples = {}
    for at, node in enumerate(nodes):
        for service, page in (("node", node_page), ("cgroup", job_page)):
            if service in without:
                continue
            texts = [
                (T0 + int(1000 * STEP_S * step) + 7 * at, getattr(said, "text", said))
                for step in range(steps)
                for said in [page(STEP_S * step)]
            ]
            labels = {"job": service, "instance": f"{node}:9100", "node": node}
            samples |= samples_from(texts, labels)
    write_blocks(samples, folder)
    return PrometheusFolder(folder)


WINDOW = Window(T0 + 7500, T0 + 47_500)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    folder = recorded(tmp_path_factory.mktemp("nodes") / "tsdb")
    return analyze_recording(folder, WINDOW, "nodes")


def test_a_real_prometheus_gives_what_the_node_did(tmp_path):
    """What moves is a function of the step, so that it is known what happened between two."""
    nodes = [node_page(10.0 * step).text for step in range(8)]
    jobs = [job_page(10.0 * step) for step in range(8)]
    replay = replayed({"node": nodes, "cgroup": jobs}, tmp_path, scrapes=8, interval_s=0.5)
    window = replay.window("node", 1, 5)
    analysis = analyze_recording(PrometheusFolder(replay.folder), window, "replay")
    assert of(analysis, "cpu_utilization_ratio_mean")["value"] == pytest.approx(1, abs=1e-6)
    whole = (OF_JOB + 0.25 * (CPUS - OF_JOB)) / CPUS
    assert of(analysis, "node_cpu_utilization_ratio_mean")["value"] == pytest.approx(whole)
    assert holds(of(analysis, "infiniband_receive_bytes_total"), 4 * 1e10 * 40)
    assert holds(of(analysis, "network_receive_bytes_total"), 1e6 * 40)
    assert holds(of(analysis, "disk_read_bytes_total"), 3e6 * 40)
    assert of(analysis, "node_cpus")["value"] == CPUS
    for service in ("node@n1", "cgroup@n1"):
        told = rows(analysis, "monitoring_scrape_seconds_max", "service").set_index("entity")
        assert 0 < told.loc[service, "value"] < 0.5
        brought = rows(analysis, "monitoring_scrape_samples_mean", "service").set_index("entity")
        assert brought.loc[service, "value"] > 20
    window = replay.window("cgroup", 1, 5)
    analysis = analyze_recording(PrometheusFolder(replay.folder), window, "replay")
    assert holds(of(analysis, "job_cpu_seconds_total"), 29.5 * 40)
    assert holds(of(analysis, "job_io_read_bytes_total"), 1e6 * 40)


TRUTH = {
    "cpu_utilization_ratio_mean": 1.0,
    "node_cpu_utilization_ratio_mean": (OF_JOB + 0.25 * (CPUS - OF_JOB)) / CPUS,
    "cpu_iowait_ratio_mean": 0.0,
    "load_1m_mean": 40.0,
    "memory_used_bytes_mean": 16 * GIB,
    "memory_total_bytes": 64 * GIB,
    "network_receive_bytes_per_second": 1e6,
    "network_transmit_bytes_per_second": 2e6,
    "infiniband_receive_bytes_per_second": 4e10,
    "infiniband_transmit_bytes_per_second": 2e10,
    "infiniband_receive_utilization_ratio": 0.1,
    "infiniband_transmit_utilization_ratio": 0.05,
    "infiniband_link_downed_total": 0.0,
    "infiniband_symbol_errors_total": 0.0,
    "disk_read_bytes_per_second": 3e6,
    "disk_write_bytes_per_second": 4e6,
    "disk_busy_mean": 0.5,
    "cpu_pressure_ratio": 0.25,
    "io_pressure_ratio": 0.125,
    "io_full_pressure_ratio": 0.0625,
    "memory_pressure_ratio": 0.0,
    "memory_full_pressure_ratio": 0.0,
    "job_cpu_cores_mean": 29.5,
    "job_cpu_efficiency_ratio": 29.5 / OF_JOB,
    "job_cpu_throttled_ratio": 0.5,
    "job_cpu_pressure_ratio": 0.25,
    "job_io_pressure_ratio": 0.125,
    "job_memory_pressure_ratio": 0.0,
    "job_io_full_pressure_ratio": 0.0625,
    "job_syscall_read_bytes_per_second": 8e6,
    "job_storage_write_bytes_per_second": 4e6,
    "job_memory_limit_hits_total": 7.0 * 40,
    "job_memory_bytes_mean": 10 * GIB,
    "job_memory_limit_bytes": 20 * GIB,
    "job_threads_max": 50.0,
    "job_io_read_bytes_per_second": 1e6,
    "job_io_write_bytes_per_second": 2e6,
    "monitoring_cpu_cores_mean": 0.03,
    "monitoring_memory_bytes_max": 55e6,
    "node_cpus": 144.0,
    "monitoring_cpu_ratio": 0.03 / 144,
    "monitoring_memory_ratio": 55e6 / (64 * GIB),
}
MEANS = ("ratio", "celsius")


@pytest.mark.parametrize("kpi", TRUTH)
def test_known_truth(analysis, kpi):
    row = of(analysis, kpi)
    assert row["value"] == pytest.approx(TRUTH[kpi], rel=1e-6)
    assert row["status"] != "unavailable"
    if row["status"] in ("exact", "bounded"):
        assert holds(row, TRUTH[kpi])
    table = analysis.table
    total = table[(table["kpi"] == kpi) & (table["scope"] == "job")]
    if len(total):
        both = TRUTH[kpi] * (1 if row["unit"] in MEANS else 2)
        assert total.iloc[0]["value"] == pytest.approx(both, rel=1e-6)


def test_table_matches_golden(analysis, check_golden):
    names = ("job", "node", "monitoring", "monitoring-node")
    kpis = {kpi for name in names for kpi in load_catalogue()[name].kpis}
    table = analysis.table[analysis.table["kpi"].isin(kpis)]
    text = table.to_csv(index=False, float_format="%.12g")
    check_golden("node.csv", text)


def test_every_kpi_has_a_row(analysis):
    names = ("job", "node", "monitoring", "monitoring-node")
    kpis = {
        kpi
        for name in names
        for kpi, of_kpi in load_catalogue()[name].kpis.items()
        if not str(of_kpi.metric).startswith("scrape_")  # Prometheus writes them
    }
    assert kpis <= set(analysis.table["kpi"])


def test_an_allocation_that_is_not_known_is_said(tmp_path):
    folder = recorded(tmp_path / "tsdb", nodes=("n1",), without=("cgroup",))
    analysis = analyze_recording(folder, WINDOW, "unknown")
    row = of(analysis, "cpu_utilization_ratio_mean")
    assert row["value"] == of(analysis, "node_cpu_utilization_ratio_mean")["value"]
    assert row["reason"] == "allocation_unknown"


def test_nodes_count_by_their_cpus(tmp_path):
    """One node of 3 CPUs that is busy, one of 1 CPU that is idle: three quarters are busy."""
    samples = {}
    for node, cpus, busy in (("n1", 3, 1.0), ("n2", 1, 0.0)):
        texts = []
        for step in range(10):
            page = Page({}, {"node_cpu_seconds_total": "counter"})
            for cpu in range(cpus):
                page.add("node_cpu_seconds_total", 10 + step * busy, cpu=str(cpu), mode="user")
                page.add(
                    "node_cpu_seconds_total", 10 + step * (1 - busy), cpu=str(cpu), mode="idle"
                )
            texts.append((T0 + step * 1000, page.text))
        samples |= samples_from(texts, {"job": "node", "instance": f"{node}:1", "node": node})
    write_blocks(samples, tmp_path / "tsdb")
    window = Window(T0 + 1500, T0 + 7500)
    analysis = analyze_recording(PrometheusFolder(tmp_path / "tsdb"), window, "uneven")
    total = of(analysis, "cpu_utilization_ratio_mean", "job")
    assert total["value"] == pytest.approx(0.75)
    assert holds(total, 0.75)
