import os
import shutil
from pathlib import Path

import pytest

from jobmeter_exporters import cgroup_path
from jobmeter_exporters.cgroup_path import (
    UNIFIED,
    Locator,
    job_path_v1,
    job_path_v2,
    locate,
    parse_mounts,
    subgroups,
)
from jobmeter_exporters.watched import NoData


def split(path):
    return tuple(path.strip("/").split("/"))


@pytest.mark.parametrize(
    ("path", "job", "step"),
    [
        ("/system.slice/slurmstepd.scope/job_1/step_0/user/task_0", "job_1", "step_0"),
        ("/system.slice/n1_slurmstepd.scope/job_1/step_batch/user/task_0", "job_1", "step_batch"),
        ("/system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_2/slurm", "s5K1KKYAYG5D00", "step_2"),
        ("/a/b/own.slice/slurmstepd.scope/job_1+1/step_extern", "job_1+1", "step_extern"),
        ("/system.slice/slurmstepd.scope/job_1", "job_1", None),
        ("/slurm-psid/user-ann/job-77/step-3/tasks", "job-77", "step-3"),
        ("/slurm-psid/user-ann/job-77/tasks", "job-77", None),
    ],
)
def test_job_and_step_of_a_v2_path(path, job, step):
    found = job_path_v2(split(path))
    assert found.job[-1] == job
    assert found.step == (None if step is None else (step,))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/user.slice/user-1000.slice/session-4.scope",
        "/system.slice/slurmstepd.scope/system",
        "/system.slice/slurmstepd.scope",
        "/somewhere/job_12/step_0",
        "/slurm/uid_1000/job_7/step_0",
        "/user-ann/job-x",
    ],
)
def test_no_job_in_a_v2_path(path):
    assert job_path_v2(split(path)) is None


def test_job_and_step_of_a_v1_path():
    found = job_path_v1(split("/prefix/slurm_n1/uid_1000/job_7/step_4/task_0"))
    assert found.job == ("prefix", "slurm_n1", "uid_1000", "job_7")
    assert found.step == ("step_4",)
    assert job_path_v1(split("/slurm/uid_1000/job_7")).step is None


@pytest.mark.parametrize("path", ["/", "/slurm/uid_1000", "/slurm/job_7", "/uid_x/job_7"])
def test_no_job_in_a_v1_path(path):
    assert job_path_v1(split(path)) is None


def test_v2_folders(v2_node):
    groups = locate(v2_node.settings)
    job = f"{v2_node.settings.cgroup_root}/system.slice/n1_slurmstepd.scope/job_123"
    assert groups.source == "cgroup_v2"
    assert groups.job == {UNIFIED: job}
    assert groups.step == {UNIFIED: f"{job}/step_0"}


def test_v1_folders_only_of_controllers_that_have_the_job(v1_node):
    groups = locate(v1_node.settings)
    assert groups.source == "cgroup_v1"
    assert set(groups.job) == {"cpu", "cpuacct", "memory", "cpuset", "pids", "blkio"}
    assert set(groups.step) == {"cpu", "cpuacct", "memory", "cpuset", "pids"}
    assert groups.job["cpuacct"].endswith("cgroup/cpu,cpuacct/slurm_n1/uid_1000/job_123")


def test_a_namespace_that_begins_above_the_job(v2_node):
    # The root of the namespace is system.slice, and so is that of the mount made inside it.
    v2_node.belongs_to("0::/n1_slurmstepd.scope/job_123/step_0/user/task_0")
    v2_node.mounts(("/", "/sys/fs/cgroup/system.slice", "cgroup2", "rw"))
    assert locate(v2_node.settings).job[UNIFIED].endswith("/n1_slurmstepd.scope/job_123")


def test_a_mount_that_shows_a_part_of_the_tree(v2_node):
    v2_node.mounts(
        (
            "/system.slice/n1_slurmstepd.scope",
            "/sys/fs/cgroup/system.slice/n1_slurmstepd.scope",
            "cgroup2",
            "rw",
        )
    )
    assert locate(v2_node.settings).job[UNIFIED].endswith("/n1_slurmstepd.scope/job_123")


def test_a_mount_from_outside_of_the_namespace_does_not_match(v2_node):
    v2_node.mounts(("/../..", "/sys/fs/cgroup", "cgroup2", "rw"))
    with pytest.raises(NoData, match="not visible in any mount"):
        locate(v2_node.settings)


def test_a_mount_that_does_not_show_the_job_is_passed_over(v2_node):
    v2_node.mounts(
        ("/", "/sys/fs/cgroup", "cgroup2", "rw"), ("/step", "/sys/fs/cgroup", "cgroup2", "rw")
    )
    assert locate(v2_node.settings).source == "cgroup_v2"


def test_a_group_of_the_same_name_in_another_part_of_the_tree_is_not_ours(v2_node):
    v2_node.mounts(("/other/scope", "/sys/fs/cgroup", "cgroup2", "rw"))
    v2_node.write_group("job_123", {"cpu.stat": "usage_usec 1\n"})
    with pytest.raises(NoData, match="not visible in any mount"):
        locate(v2_node.settings)


def test_a_namespace_that_begins_below_the_job(v2_node):
    v2_node.belongs_to("0::/")
    with pytest.raises(NoData, match="no control group of a Slurm job"):
        locate(v2_node.settings)


def test_no_proc_at_all(bare_node):
    bare_node.remove("proc/self/cgroup")
    with pytest.raises(NoData):
        locate(bare_node.settings)


def test_what_was_found_is_looked_for_again_when_it_is_gone_or_elsewhere(v2_node, v1_node):
    locator = Locator(v1_node.settings)
    assert locator.locate().source == "cgroup_v1"
    v1_node.remove("proc/self/mountinfo")  # not needed any more
    assert locator.locate().source == "cgroup_v1"
    v2_node.mounts(("/", "/sys/fs/cgroup", "cgroup2", "rw"))
    v2_node.belongs_to("0::/system.slice/n1_slurmstepd.scope/job_123/step_1/user/task_0")
    assert locator.locate().source == "cgroup_v2"
    shutil.rmtree(locator.locate().job[UNIFIED])
    with pytest.raises(NoData, match="not visible"):
        locator.locate()


def test_a_job_that_comes_after_none_is_found(v2_node):
    there = (v2_node.root / "proc/self/cgroup").read_text().rstrip()
    v2_node.belongs_to("0::/user.slice")
    mounts = v2_node.root / "proc/self/mountinfo"
    text = mounts.read_text()
    mounts.unlink()
    locator = Locator(v2_node.settings)
    for _ in range(2):
        with pytest.raises(NoData, match="no control group of a Slurm job"):
            locator.locate()
    v2_node.belongs_to(there)
    with pytest.raises(NoData, match="not visible"):
        locator.locate()
    mounts.write_text(text)
    assert locator.locate().source == "cgroup_v2"


def test_mounts_with_a_space_in_the_path():
    mounts = parse_mounts("1 2 0:3 / /mnt/a\\040b rw shared:9 - cgroup none rw,memory\n")
    assert [mount.point for mount in mounts] == ["/mnt/a b"]
    assert "memory" in mounts[0].controllers


def test_what_is_below_a_job(v2_node):
    job = locate(v2_node.settings).job[UNIFIED]
    groups = subgroups(job)
    assert groups[0] == job
    assert len(groups) == 11
    assert {Path(group).name for group in groups[1:4]} == {"step_0", "step_1", "step_batch"}


def test_what_is_below_very_much_is_cut_off(v2_node, monkeypatch):
    monkeypatch.setattr(cgroup_path, "MOST_GROUPS", 5)
    assert len(subgroups(locate(v2_node.settings).job[UNIFIED])) == 5


def test_no_group_at_all():
    assert subgroups("/nowhere") == ["/nowhere"]


def test_a_group_without_groups_is_not_listed(tmp_path, monkeypatch):
    (tmp_path / "leaf").mkdir()
    if (tmp_path / "leaf").stat().st_nlink != 2:
        pytest.skip("this file system does not count folders in the links of a folder")
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"listed {path}"))
    assert subgroups(str(tmp_path / "leaf")) == [str(tmp_path / "leaf")]
