"""On real processes that do as they are told."""

import os
from pathlib import Path

import pytest
from told_script import Script
from waiting import until

from jobmeter_exporters import kernel_text
from jobmeter_exporters.process_tree import TURNS, ProcessTree
from jobmeter_exporters.watched import NoData

PROC = Path("/proc")


def cpu(tree):
    return tree.read()["job_cpu_seconds_total"]


def gone(pid):
    return not (PROC / str(pid)).exists()


def state(pid):
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def test_a_waited_child_stays_counted(script):
    tree = ProcessTree(script.pid, (), PROC)
    before = cpu(tree)
    script.do("pid = fork('burn(0.3)'); os.waitpid(pid, 0)")
    after = cpu(tree)
    assert after - before >= 0.28
    assert tree.read()["job_processes"] == 1


def test_a_child_that_ends_unseen_by_anyone_but_its_parent_never_lowers_the_total(script):
    tree = ProcessTree(script.pid, (), PROC)
    pid = script.do("out = fork('burn(0.2)')")
    until(lambda: state(pid) == "Z")
    zombie = cpu(tree)
    script.do(f"os.waitpid({pid}, 0)")
    assert cpu(tree) >= zombie >= 0.18


def test_an_excluded_subtree_is_monitoring(script):
    monitor = script.do(
        "out = fork('burn(0.3); fork(\"burn(0.2); wait_for_end()\"); wait_for_end()')"
    )
    tree = ProcessTree(script.pid, (monitor,), PROC)
    until(lambda: tree.read()["job_monitoring_cpu_seconds_total"] >= 0.48)
    readings = tree.read()
    monitoring = readings["job_monitoring_cpu_seconds_total"]
    assert monitoring <= readings["job_cpu_seconds_total"] < monitoring + 0.3
    assert readings["job_processes"] == 1
    assert readings["job_monitoring_memory_used_bytes"] > 0


def test_excluded_time_does_not_return_through_the_parent_that_waits(script):
    monitor = script.do("out = fork('burn(0.4); wait_for_end()')")
    tree = ProcessTree(script.pid, (monitor,), PROC)
    until(lambda: tree.read()["job_monitoring_cpu_seconds_total"] >= 0.38)
    before = tree.read()
    script.do(f"os.kill({monitor}, 9); os.waitpid({monitor}, 0)")
    after = tree.read()
    assert after["job_cpu_seconds_total"] - before["job_cpu_seconds_total"] < 0.1
    assert after["job_monitoring_cpu_seconds_total"] >= before["job_monitoring_cpu_seconds_total"]


def test_a_process_adopted_by_another_one_stays_in_the_account(script):
    tree = ProcessTree(script.pid, (), PROC)
    middle = script.do("out = fork('fork(\"burn(0.2); wait_for_end()\"); wait_for_end()')")
    until(lambda: tree.read()["job_processes"] == 3)
    script.do(f"os.kill({middle}, 9); os.waitpid({middle}, 0)")
    until(lambda: gone(middle))
    until(lambda: cpu(tree) >= 0.18)
    assert tree.read()["job_processes"] == 2


def test_the_exporter_and_what_started_it_are_excluded_without_their_other_children(script):
    """script -> starter -> (exporter, payload): the payload stays, though the starter does not."""
    starter = script.do(
        'r, w = os.pipe(); out = fork(\'os.write(w, b"%d %d" % ('
        'fork("wait_for_end()"), fork("wait_for_end()"))); wait_for_end()\')'
    )
    exporter, payload = script.do("out = tuple(map(int, os.read(r, 99).split()))")
    tree = ProcessTree(script.pid, (), PROC, own=exporter)
    tree.read()
    sides = {member.stat.pid: member.payload for member in tree._last.values()}
    assert sides == {script.pid: True, starter: False, exporter: False, payload: True}


def test_a_job_script_that_ended_is_no_data(tmp_path):
    script = Script(tmp_path)
    tree = ProcessTree(script.pid, (), PROC)
    tree.read()
    script.end()
    with pytest.raises(NoData, match="has ended"):
        tree.read()


def fake_process(proc, pid, parent, started, ticks=0, name="a"):
    folder = proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    fields = ["0"] * 48
    fields[0], fields[10], fields[16], fields[18] = str(parent), str(ticks), "1", str(started)
    (folder / "stat").write_text(f"{pid} ({name}) S {' '.join(fields)}\n")


def test_a_reused_pid_is_another_process(tmp_path):
    fake_process(tmp_path, 10, 1, started=5)
    tree = ProcessTree(10, (), tmp_path, own=99)
    tree.read()
    fake_process(tmp_path, 10, 1, started=6)
    with pytest.raises(NoData):
        tree.read()


def test_a_reused_pid_of_the_monitoring_is_payload(tmp_path):
    fake_process(tmp_path, 10, 1, started=5)
    fake_process(tmp_path, 11, 10, started=6, ticks=100)
    tree = ProcessTree(10, (11,), tmp_path, own=99)
    assert tree.read()["job_processes"] == 1
    fake_process(tmp_path, 11, 10, started=7)
    assert tree.read()["job_processes"] == 2


def test_strangers_are_not_read_at_every_scrape(tmp_path, monkeypatch):
    for pid in range(100, 200):
        fake_process(tmp_path, pid, 1, started=5)
    fake_process(tmp_path, 10, 1, started=5)
    tree = ProcessTree(10, (), tmp_path, own=99)
    tree.read()
    asked = []
    monkeypatch.setattr(kernel_text, "read", lambda path: asked.append(path) or real_read(path))
    tree.read()
    assert 100 // TURNS <= len([path for path in asked if path.endswith("/stat")]) <= 10


real_read = kernel_text.read


def test_a_reused_pid_of_a_stranger_is_payload_within_some_scrapes(tmp_path):
    fake_process(tmp_path, 10, 1, started=5)
    fake_process(tmp_path, 11, 1, started=5, ticks=100)
    tree = ProcessTree(10, (), tmp_path, own=99)
    assert tree.read()["job_processes"] == 1
    fake_process(tmp_path, 11, 10, started=6, ticks=300)
    assert [tree.read()["job_processes"] for _ in range(TURNS)][-1] == 2
    assert cpu(tree) == 300 / os.sysconf("SC_CLK_TCK")


def test_the_total_stays_when_a_parent_never_learns_of_the_end(tmp_path):
    """As with SIGCHLD ignored: the parent lives on and its waited time does not grow."""
    fake_process(tmp_path, 10, 1, started=5, ticks=100)
    fake_process(tmp_path, 11, 10, started=6, ticks=300)
    tree = ProcessTree(10, (), tmp_path, own=99)
    before = cpu(tree)
    (tmp_path / "11" / "stat").write_text("")
    assert cpu(tree) == before == 400 / os.sysconf("SC_CLK_TCK")


def test_memory_of_a_process_is_its_share(script):
    readings = ProcessTree(script.pid, (), PROC).read()
    if not os.access(PROC / str(script.pid) / "smaps_rollup", os.R_OK):
        pytest.skip("this kernel has no smaps_rollup")
    status = (PROC / str(script.pid) / "status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    assert 0 < readings["job_memory_anonymous_bytes"] <= readings["job_memory_used_bytes"]
    assert readings["job_memory_used_bytes"] <= resident + 2**20


def test_memory_without_a_share_is_the_resident_set(tmp_path):
    fake_process(tmp_path, 10, 1, started=5)
    (tmp_path / "10" / "statm").write_text("900 300 100 1 0 1 0\n")
    readings = ProcessTree(10, (), tmp_path, own=99).read()
    page = os.sysconf("SC_PAGE_SIZE")
    assert readings["job_memory_used_bytes"] == 300 * page
    assert readings["job_memory_anonymous_bytes"] == 200 * page


def test_cpus_are_those_that_the_job_script_may_use(script):
    readings = ProcessTree(script.pid, (), PROC).read()
    assert readings["job_cpus"] == len(os.sched_getaffinity(script.pid))
    (listed,) = readings["job_cpu_list_info"]
    assert kernel_text.cpu_count(listed) == readings["job_cpus"]
