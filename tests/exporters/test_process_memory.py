"""When a process is looked at again, on a small copy of /proc."""

import os

import pytest

from jobmeter_exporters import process_memory
from jobmeter_exporters.process_memory import TURNS, Memory, ProcessMemory
from jobmeter_exporters.process_text import Stat

PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """Writes what the kernel says of the memory of processes."""

    def __init__(self, proc):
        self.proc = proc

    def shares(self, pid, kib, anonymous_kib=0):
        folder = self.proc / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "statm").write_text("900 300 100 1 0 1 0\n")
        (folder / "smaps_rollup").write_text(f"Pss: {kib} kB\nPss_Anon: {anonymous_kib} kB\n")


@pytest.fixture
def processes(tmp_path):
    return Processes(tmp_path)


def stat(pid, faults=0, resident_pages=300, started=7):
    return Stat(pid, 1, started, 0, 0, 1, faults, resident_pages)


def test_the_share_of_a_process_that_stands_still_is_read_in_turns(processes):
    memory = ProcessMemory(processes.proc)
    processes.shares(10, 100, 40)
    assert memory.read([stat(10)]) == {(10, 7): Memory(100 * 1024, 40 * 1024)}
    processes.shares(10, 50)
    used = [memory.read([stat(10)])[10, 7].used for _ in range(TURNS)]
    assert used == sorted(used, reverse=True)
    assert used[-1] == 50 * 1024


@pytest.mark.parametrize("change", [{"faults": 1}, {"resident_pages": 301}, {"started": 8}])
def test_a_process_that_changed_is_read_at_once(processes, change):
    for turn in range(TURNS):
        memory = ProcessMemory(processes.proc)
        processes.shares(10, 100)
        for _ in range(turn + 1):
            memory.read([stat(10)])
        processes.shares(10, 50)
        (now,) = memory.read([stat(10, **change)]).values()
        assert now.used == 50 * 1024


@pytest.mark.parametrize("others", [[], [12], [11, 12]])
def test_all_are_read_at_once_when_one_came_or_went(processes, others):
    for turn in range(TURNS):
        memory = ProcessMemory(processes.proc)
        for pid in (10, 11, 12):
            processes.shares(pid, 100)
        for _ in range(turn + 1):
            memory.read([stat(10), stat(11)])
        processes.shares(10, 50)
        assert memory.read([stat(10), *map(stat, others)])[10, 7].used == 50 * 1024


def test_the_share_of_a_large_process_is_never_asked_for(processes, monkeypatch):
    monkeypatch.setattr(process_memory, "LARGEST_SHARED_OUT_BYTES", 299 * PAGE)
    processes.shares(10, 100)
    assert ProcessMemory(processes.proc).read([stat(10)])[10, 7] == Memory(300 * PAGE, 200 * PAGE)


def test_a_process_that_ended_has_no_memory(tmp_path):
    assert ProcessMemory(tmp_path).read([stat(10)]) == {(10, 7): Memory(0, 0)}
