import os
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from jobmeter_exporters import cgroup, cgroup_path
from jobmeter_exporters.cgroup_families import FAMILIES
from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData, Watched

HERE = Path(__file__).parent
V2_JOB = "cgroup/system.slice/n1_slurmstepd.scope/job_123"
V1_JOB = "slurm_n1/uid_1000/job_123"


def registry_of(settings):
    registry = CollectorRegistry()
    registry.register(cgroup.from_settings(settings))
    return registry


def names(settings):
    return {sample.name for family in registry_of(settings).collect() for sample in family.samples}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_exposition_matches_golden(version, request):
    node = request.getfixturevalue(f"{version}_node")
    golden = HERE / "golden" / f"cgroup_{version}.prom"
    text = generate_latest(registry_of(node.settings)).decode()
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
        pytest.fail(f"wrote {golden.name}; read the diff, then run again without UPDATE_GOLDEN")
    assert text == golden.read_text()


def test_sluid_gives_the_same(v2_node):
    before = generate_latest(registry_of(v2_node.settings))
    scope = v2_node.root / "cgroup/system.slice"
    (scope / "n1_slurmstepd.scope/job_123").rename(scope / "n1_slurmstepd.scope/s5K1KKYAYG5D00")
    (scope / "n1_slurmstepd.scope").rename(scope / "slurmstepd.scope")
    v2_node.belongs_to(
        "0::/system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_0/user/task_0",
    )
    assert generate_latest(registry_of(v2_node.settings)) == before


def test_files_are_read_at_scrape_time(v2_node):
    registry = registry_of(v2_node.settings)
    v2_node.write(f"{V2_JOB}/memory.current", "4096\n")
    assert registry.get_sample_value("job_memory_used_bytes") == 4096


def test_without_controllers_what_the_kernel_always_has_remains(v2_node):
    job = v2_node.root / V2_JOB
    for file in [*job.glob("memory.[!p]*"), job / "memory.peak", *job.glob("cpuset*")]:
        file.unlink()
    (job / "io.stat").unlink()
    (job / "pids.current").unlink()
    v2_node.write(f"{V2_JOB}/cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n")
    (job / "step_0" / "memory.current").unlink()
    assert names(v2_node.settings) == {
        "job_source_info",
        "job_cpu_seconds_total",
        "job_cpu_user_seconds_total",
        "job_cpu_system_seconds_total",
        "job_processes",
        "job_pressure_waiting_seconds_total",
        "job_monitoring_cpu_seconds_total",
    }


@pytest.mark.parametrize(
    ("node", "file", "family"),
    [
        ("v2_node", f"{V2_JOB}/memory.peak", "job_memory_peak_bytes"),
        ("v2_node", f"{V2_JOB}/memory.events", "job_memory_oom_kills_total"),
        ("v2_node", f"{V2_JOB}/pids.current", "job_threads"),
        ("v1_node", f"cgroup/cpuset/{V1_JOB}/cpuset.effective_cpus", "job_cpus"),
        ("v1_node", f"cgroup/cpuset/{V1_JOB}/cpuset.effective_cpus", "job_cpu_list_info"),
        ("v1_node", f"cgroup/cpu,cpuacct/{V1_JOB}/cpuacct.usage", "job_cpu_seconds_total"),
    ],
)
def test_absent_file_means_absent_family(node, file, family, request):
    node = request.getfixturevalue(node)
    assert family in names(node.settings)
    node.remove(file)
    assert family not in names(node.settings)


@pytest.mark.parametrize(
    ("node", "file", "text"),
    [
        ("v2_node", f"{V2_JOB}/memory.max", "max\n"),
        # Pages of 4 KiB and of 64 KiB.
        ("v1_node", f"cgroup/memory/{V1_JOB}/memory.limit_in_bytes", "9223372036854771712\n"),
        ("v1_node", f"cgroup/memory/{V1_JOB}/memory.limit_in_bytes", "9223372036854710272\n"),
    ],
)
def test_unlimited_memory_has_no_limit(node, file, text, request):
    node = request.getfixturevalue(node)
    node.write(file, text)
    assert "job_memory_limit_bytes" not in names(node.settings)


def test_no_oom_kill_seen_is_not_zero_with_v1(v1_node):
    v1_node.write(f"cgroup/memory/{V1_JOB}/step_0/task_0/memory.oom_control", "oom_kill 0\n")
    assert "job_memory_oom_kills_total" not in names(v1_node.settings)


@pytest.mark.parametrize("node", ["v1_node", "v2_node"])
def test_a_job_of_very_many_groups_is_not_walked(node, request, monkeypatch):
    node = request.getfixturevalue(node)
    monkeypatch.setattr(cgroup_path, "MOST_GROUPS", 2)
    found = names(node.settings)
    assert "job_processes" not in found
    assert "job_cpu_seconds_total" in found


@pytest.mark.parametrize("step", ["step_batch", "step_interactive", "step_extern"])
def test_a_step_shared_with_the_payload_is_not_monitoring(v2_node, step):
    v2_node.belongs_to(f"0::/system.slice/n1_slurmstepd.scope/job_123/{step}/user/task_0")
    v2_node.write(f"{V2_JOB}/{step}/cpu.stat", "usage_usec 1\n")
    assert not [name for name in names(v2_node.settings) if "monitoring" in name]


def test_oom_kills_of_ended_v1_groups_stay_counted(v1_node):
    registry = registry_of(v1_node.settings)
    own = f"cgroup/memory/{V1_JOB}"
    v1_node.write(f"{own}/step_1/task_0/memory.oom_control", "oom_kill 2\n")
    assert registry.get_sample_value("job_memory_oom_kills_total") == 3
    v1_node.remove(f"{own}/step_1/task_0/memory.oom_control")
    assert registry.get_sample_value("job_memory_oom_kills_total") == 3


def test_one_odd_file_costs_one_family_and_is_reported(v2_node, caplog):
    v2_node.write(f"{V2_JOB}/memory.current", "many\n")
    registry = CollectorRegistry()
    registry.register(Watched({"cgroup": cgroup.from_settings(v2_node.settings)}))
    assert registry.get_sample_value("job_memory_used_bytes") is None
    assert registry.get_sample_value("job_cpu_seconds_total") == 2.5
    labels = {"collector": "cgroup"}
    assert registry.get_sample_value("jobmeter_collector_success", labels) == 0
    assert "memory.current: expected one number and found 'many" in caplog.text


def test_no_group_and_no_process_is_no_data(bare_node):
    with pytest.raises(NoData, match="no control group of a Slurm job, and no --job-pid"):
        list(cgroup.from_settings(bare_node.settings).collect())


def test_no_group_falls_back_to_the_processes(bare_node):
    (bare_node.root / "proc" / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
    registry = registry_of(replace(bare_node.settings, job_pid=os.getpid()))
    assert registry.get_sample_value("job_source_info", {"source": "process_tree"}) == 1


def test_groups_that_do_not_account_cpu_fall_back_too(v1_node):
    (v1_node.root / "proc" / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
    v1_node.belongs_to("6:freezer:/slurm_n1/uid_1000/job_123/step_0")
    v1_node.write(f"cgroup/freezer/{V1_JOB}/cgroup.procs", "1\n")
    assert names(v1_node.settings) == {"job_source_info", "job_processes"}
    registry = registry_of(replace(v1_node.settings, job_pid=os.getpid()))
    assert registry.get_sample_value("job_source_info", {"source": "process_tree"}) == 1


def test_the_real_groups_of_this_process():
    collector = cgroup.from_settings(Settings(run_id="r1"))
    try:
        families = list(collector.collect())
    except NoData:
        return  # not inside a Slurm job
    except ExporterError as problem:
        pytest.fail(str(problem))
    assert {family.name for family in families} <= {
        name.removesuffix("_total") for name in FAMILIES
    }
    assert all(sample.value >= 0 for family in families for sample in family.samples)


def test_every_family_is_documented():
    page = Path(cgroup.__file__).with_name("cgroup.md").read_text()
    assert [name for name in FAMILIES if f"`{name}`" not in page] == []
