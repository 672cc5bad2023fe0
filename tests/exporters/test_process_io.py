"""On real processes that do as they are told."""

import resource
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from waiting import until

from jobmeter_exporters import cgroup, open_files, process_io
from jobmeter_exporters.errors import UnexpectedText
from jobmeter_exporters.process_io import ProcessIo
from jobmeter_exporters.settings import Settings

PROC = Path("/proc")
READ = "job_syscall_read_bytes_total"
MEGABYTE = 10**6
TAKE = f"take({MEGABYTE})"
SLACK = MEGABYTE // 2
"""What Python reads to start, and over its pipe."""


@pytest.fixture
def follower():
    followers = []

    def make(*arguments, **more):
        followers.append(ProcessIo(PROC, *arguments, **more))
        return followers[-1]

    yield make
    for one in followers:
        one.close()


def read(io, *pids, monitoring=()):
    sides = {**dict.fromkeys(pids, True), **dict.fromkeys(monitoring, False)}
    return io.read(sides)[READ]


def millions(before, after):
    return (after - before + SLACK) // MEGABYTE


def test_what_a_process_reads_is_counted(script, follower):
    io = follower()
    before = read(io, script.pid)
    script.do(TAKE)
    assert millions(before, read(io, script.pid)) == 1


def test_a_child_that_is_waited_for_counts_once(script, follower):
    """The kernel adds its counts to its parent's."""
    io = follower()
    before = read(io, script.pid)
    child = script.do(f'out = fork("{TAKE}; wait_for_end()")')
    until(lambda: millions(before, read(io, script.pid, child)) == 1)
    script.do(f"os.kill({child}, 9); os.waitpid({child}, 0)")
    assert millions(before, read(io, script.pid)) == 1
    assert millions(before, read(io, script.pid)) == 1


def test_a_child_that_nobody_has_seen_is_counted_by_its_parent(script, follower):
    io = follower()
    before = read(io, script.pid)
    script.do(f'os.waitpid(fork("{TAKE}"), 0)')
    assert millions(before, read(io, script.pid)) == 1


def test_an_ended_process_whose_parent_is_not_of_the_job_stays_counted(script, follower):
    """As a task is, below slurmstepd."""
    io = follower()
    child = script.do(f'out = fork("{TAKE}; wait_for_end()")')
    until(lambda: read(io, child) >= MEGABYTE)
    before = read(io, child)
    script.do(f"os.kill({child}, 9); os.waitpid({child}, 0)")
    assert read(io) == before
    other = script.do(f'out = fork("{TAKE}; wait_for_end()")')
    until(lambda: read(io, other) >= before + MEGABYTE)


def test_a_line_of_processes_that_ends_at_once_stays_counted(script, follower):
    io = follower()
    upper = script.do(
        f'r, w = os.pipe(); out = fork(\'{TAKE}; child = fork("{TAKE}; wait_for_end()"); '
        "os.write(w, str(child).encode()); wait_for_end()')"
    )
    lower = script.do("out = int(os.read(r, 99))")
    until(lambda: read(io, upper, lower) >= 2 * MEGABYTE)
    before = read(io, upper, lower)
    script.do(f"os.kill({upper}, 9); os.kill({lower}, 9); os.waitpid({upper}, 0)")
    until(lambda: not (PROC / str(lower)).exists())
    assert read(io) == before


def test_monitoring_does_not_return_through_the_parent_that_waits(script, follower):
    io = follower()
    before = read(io, script.pid)
    child = script.do(f'out = fork("{TAKE}; wait_for_end()")')
    until(lambda: reads_of(child) >= MEGABYTE)
    assert millions(before, read(io, script.pid, monitoring=[child])) == 0
    script.do(f"os.kill({child}, 9); os.waitpid({child}, 0)")
    assert millions(before, read(io, script.pid)) == 0


def test_below_an_excluded_process_all_is_monitoring(script, follower):
    upper = script.do(
        "r, w = os.pipe(); "
        f'out = fork(\'child = fork("{TAKE}; wait_for_end()"); os.write(w, str(child).encode()); '
        "wait_for_end()')"
    )
    lower = script.do("out = int(os.read(r, 99))")
    until(lambda: reads_of(lower) >= MEGABYTE)
    io = follower([upper])
    without = read(io, script.pid, upper, lower)
    assert millions(reads_of(script.pid), without) == 0


def reads_of(pid):
    text = (PROC / str(pid) / "io").read_text()
    return int(text.partition("rchar: ")[2].split()[0])


def test_the_sum_never_goes_down_when_nobody_waits(script, follower):
    io = follower()
    script.do("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    child = script.do(f'out = fork("{TAKE}; wait_for_end()")')
    until(lambda: reads_of(child) >= MEGABYTE)
    before = read(io, script.pid, child)
    script.do(f"os.kill({child}, 9)")
    until(lambda: not (PROC / str(child)).exists())
    assert read(io, script.pid) == before


def test_one_too_many_is_counted_as_left_out(script, follower):
    # The tests may run as root, for whom root's processes are no users'.
    io = follower(most=1)
    assert io.read({script.pid: True, 0: True})["job_processes_without_io"] == 1


def test_one_too_many_is_not_followed_later_when_its_children_are_counted_already(script, follower):
    io = follower(most=1)
    child = script.do(f'out = fork("{TAKE}; wait_for_end()")')
    until(lambda: reads_of(child) >= MEGABYTE)
    before = read(io, child)
    assert read(io, child, script.pid) == before
    script.do(f"os.kill({child}, 9); os.waitpid({child}, 0)")
    assert reads_of(script.pid) >= MEGABYTE
    assert read(io, script.pid) == before


def test_a_node_without_payload_yet_has_read_nothing(script, follower):
    io = follower()
    assert read(io, monitoring=[script.pid]) == 0
    script.do(TAKE)
    assert read(io, monitoring=[script.pid]) == 0


def test_nothing_readable_is_absent_and_not_zero(follower):
    readings = follower().read({0: True})
    assert readings == {"job_processes_without_io": 1}
    assert follower().read({}) == {"job_processes_without_io": 0}


def test_text_that_is_none_is_refused(tmp_path, v2_node):
    v2_node.write("proc/10/io", "rchar: many\n")
    io = ProcessIo(v2_node.settings.proc)
    with pytest.raises(UnexpectedText, match="I/O counts of a process: 'rchar: many"):
        io.read({10: True})
    io.close()


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_given_back(script):
    open_before = open_descriptors()
    settings = Settings(run_id="r1", job_pid=script.pid)
    with cgroup.from_settings(settings) as collector:
        registry = CollectorRegistry()
        registry.register(collector)
        # In a job of Slurm these are the job's, of which our own are monitoring.
        assert registry.get_sample_value("job_processes") >= 1
        assert open_descriptors() > open_before
    assert open_descriptors() == open_before


@pytest.mark.parametrize(("limit", "most"), [(1024, 256), (100, 50), (-1, 256)])
def test_half_of_the_descriptors_stay_free(limit, most, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert open_files.affordable(process_io.MOST_PROCESSES, 2) == most
