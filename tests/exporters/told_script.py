"""A job script that does as it is told over its stdin: a small, real Python process."""

import os
import subprocess
import sys
from contextlib import contextmanager

DEADLINE_S = 20.0

# Reads lines of Python, runs each, and answers with what the line left in `out`.
PROGRAM = """
import os, subprocess, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
def take(count):  # one read call
    with open("/dev/zero", "rb", buffering=0) as zero:
        assert len(zero.read(count)) == count
def fork(then):
    pid = os.fork()
    if pid == 0:
        exec(then, globals())
        os._exit(0)
    return pid
def wait_for_end():  # also where the end has come already, at which a plain open would hang
    fifo = os.open(hold, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fifo, True)
    os.read(fifo, 1)
hold = sys.argv[1]
for line in iter(sys.stdin.readline, ""):
    out = None
    exec(line, globals())
    print(out, flush=True)
"""


class Script:
    """The job script: a process that does as it is told."""

    def __init__(self, hold):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(hold)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def do(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return eval(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait(DEADLINE_S)
        self.process.stdout.close()


@contextmanager
def holding(path):
    """Children that call wait_for_end() live until this ends."""
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    try:
        yield writer
    finally:
        os.close(writer)
