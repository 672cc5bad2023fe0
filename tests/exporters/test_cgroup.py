import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from jobmeter_exporters import cgroup, cgroup_processes, cgroup_steps, kernel_text
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
def test_exposition_matches_golden(version, request, check_golden):
    node = request.getfixturevalue(f"{version}_node")
    text = generate_latest(registry_of(node.settings)).decode()
    check_golden(f"cgroup_{version}.prom", text)


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
    for file in [*job.glob("step_1/**/memory.*"), *job.glob("step_batch/memory.*")]:
        file.unlink()
    for file in (v2_node.root / "proc").glob("*/io"):
        file.unlink()
    assert names(v2_node.settings) == {
        "job_steps",
        "job_step_cpu_seconds_total",
        "job_processes_without_io",
        "job_pressure_stalled_seconds_total",
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


def test_steps_without_a_kill_are_not_remembered(v1_node):
    collector = cgroup.from_settings(v1_node.settings)
    for step in range(3):
        group = f"memory/{V1_JOB}/step_{step + 7}"
        v1_node.write_group(group, {"memory.oom_control": "oom_kill 0\n", "cgroup.procs": ""})
        list(collector.collect())
        shutil.rmtree(v1_node.root / "cgroup" / group)
    assert list(collector._oom_kills.values()) == [1]


def test_no_oom_kill_seen_is_not_zero_with_v1(v1_node):
    v1_node.write(f"cgroup/memory/{V1_JOB}/step_0/task_0/memory.oom_control", "oom_kill 0\n")
    assert "job_memory_oom_kills_total" not in names(v1_node.settings)


@pytest.mark.parametrize("node", ["v1_node", "v2_node"])
def test_of_very_many_groups_some_are_asked_for_their_processes_at_a_scrape(
    node, request, monkeypatch
):
    node = request.getfixturevalue(node)
    with cgroup.from_settings(node.settings) as collector:
        whole = value_of(collector, "job_syscall_read_bytes_total")
        groups = value_of(collector, "job_steps")
    assert whole >= 1000
    assert groups >= 2
    monkeypatch.setattr(cgroup_processes, "MOST_LISTS", 2)
    monkeypatch.setattr(cgroup_processes, "SEEN_LISTS", 1)
    with cgroup.from_settings(node.settings) as collector:
        seen = [value_of(collector, "job_syscall_read_bytes_total") for _ in range(12)]
        assert value_of(collector, "job_processes") is None
        assert value_of(collector, "job_cpu_seconds_total") == 2.5
    assert seen[-1] == whole
    assert seen[0] != whole


def test_every_group_is_asked_again_and_those_that_went_are_forgotten(tmp_path):
    groups = [str(tmp_path / str(number)) for number in range(200)]
    lists = cgroup_processes.ProcessLists(kernel_text.read)
    asked = [lists.read(groups).looked_at for _ in range(30)]
    assert len(asked[-1]) == cgroup_processes.SEEN_LISTS
    assert max(map(len, asked)) <= cgroup_processes.MOST_LISTS
    assert {group for some in asked for group in some} == set(groups)
    assert {group for some in asked[-13:] for group in some} == set(groups)
    assert set(lists.read(groups[:100]).looked_at) <= set(groups[:100])
    assert lists.read(groups[:48]).complete


def value_of(collector, name, **labels):
    registry = CollectorRegistry()
    registry.register(collector)
    return registry.get_sample_value(name, labels)


def with_steps(node, detail):
    return replace(node.settings, options={"cgroup_steps": detail})


def test_steps_are_told_and_tasks_when_asked_for(v2_node):
    told = {
        detail: {
            name for name in names(with_steps(v2_node, detail)) if "step" in name or "task" in name
        }
        for detail in cgroup_steps.DETAILS
    }
    assert told["off"] == {"job_steps"}
    assert {"job_step_cpu_seconds_total", "job_step_memory_peak_bytes"} < told["steps"]
    assert not [name for name in told["steps"] if "task" in name]
    assert names(v2_node.settings) == names(with_steps(v2_node, "steps"))
    with cgroup.from_settings(with_steps(v2_node, "tasks")) as collector:
        assert value_of(collector, "job_task_cpu_seconds_total", step="1", task="0") == 1.5
        assert value_of(collector, "job_task_memory_peak_bytes", step="1", task="0") == 262144
        assert value_of(collector, "job_step_memory_oom_kills_total", step="1") == 1
        assert value_of(collector, "job_step_cpu_seconds_total", step="0") == 0.25


@pytest.mark.parametrize(
    ("detail", "first"),
    [
        ("steps", {("0",), ("1",), ("2",), ("batch",)}),
        ("tasks", {("1", "0"), ("2", "0")}),  # (0, 0) and (1, 1) are there and tell nothing
    ],
)
def test_what_ends_leaves_no_series_and_makes_no_room(v2_node, detail, first, monkeypatch):
    monkeypatch.setattr(cgroup_steps, f"MOST_{detail.upper()}", 4)
    family = f"job_{detail[:-1]}_cpu_seconds_total"
    with cgroup.from_settings(with_steps(v2_node, detail)) as collector:
        seen = set()
        for step in range(2, 20):
            group = f"{V2_JOB}/step_{step}"
            v2_node.write(f"{group}/cpu.stat", "usage_usec 1\n")
            v2_node.write(f"{group}/user/task_0/cpu.stat", "usage_usec 1\n")
            (told,) = [f for f in collector.collect() if f.name + "_total" == family]
            labels = {tuple(sample.labels.values()) for sample in told.samples}
            seen |= labels
            if step > 4:
                (v2_node.root / group / "cpu.stat").unlink()
        assert seen == first
        assert value_of(collector, "job_steps") == 21


def test_what_the_payload_makes_below_its_task_is_no_task(v2_node):
    group = f"{V2_JOB}/step_1/user/task_0/inner/task_7"
    v2_node.write(f"{group}/cpu.stat", "usage_usec 1\n")
    with cgroup.from_settings(with_steps(v2_node, "tasks")) as collector:
        assert value_of(collector, "job_task_cpu_seconds_total", step="1", task="7") is None


def test_io_of_the_monitoring_is_left_out(v2_node):
    """10 is in the batch step, 13 in step 1; 11 is in ours."""
    with cgroup.from_settings(v2_node.settings) as collector:
        assert value_of(collector, "job_syscall_read_bytes_total") == 1500
        assert value_of(collector, "job_storage_write_bytes_total") == 8192 + 512
    settings = replace(v2_node.settings, exclude_pids=(13,))
    with cgroup.from_settings(settings) as collector:
        assert value_of(collector, "job_syscall_read_bytes_total") == 1000


def test_pressure_of_some_and_of_all(v2_node):
    with cgroup.from_settings(v2_node.settings) as collector:
        assert value_of(collector, "job_pressure_waiting_seconds_total", resource="cpu") == 1.25
        assert value_of(collector, "job_pressure_stalled_seconds_total", resource="cpu") == 7e-6
        assert value_of(collector, "job_pressure_stalled_seconds_total", resource="io") is None


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
    of_groups = {"job_source_info", "job_steps", "job_processes", "job_processes_without_io"}
    assert names(v1_node.settings) == of_groups
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
