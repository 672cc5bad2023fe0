"""Threads that answer one connection after the other."""

import threading

from waiting import until

from jobmeter_exporters.spare_threads import SpareThreads


def count(name):
    return sum(thread.name == name for thread in threading.enumerate())


def test_tasks_run_at_once_and_their_threads_are_used_again():
    threads = SpareThreads("pool of a test", 2)
    go_on, seen = threading.Event(), []
    waiting = threading.Barrier(6)

    def task():
        seen.append(threading.get_ident())
        waiting.wait(20)
        go_on.wait(20)

    for _ in range(5):
        threads.run(task)
    waiting.wait(20)  # all five are at it
    go_on.set()
    until(lambda: count("pool of a test") == 2)
    first = set(seen)
    for _ in range(10):
        ran = threading.Event()
        threads.run(lambda ran=ran: (seen.append(threading.get_ident()), ran.set()))
        assert ran.wait(20)
        until(lambda: threads._spare == 2)
    assert set(seen) == first
    threads.close()
    until(lambda: count("pool of a test") == 0)


def test_a_task_that_outlives_the_pool_ends_its_thread():
    threads = SpareThreads("closed pool of a test", 2)
    go_on = threading.Event()
    threads.run(lambda: go_on.wait(20))
    threads.close()
    go_on.set()
    until(lambda: count("closed pool of a test") == 0)
