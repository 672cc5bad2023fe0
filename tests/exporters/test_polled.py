"""Programs and readings in the background: what hangs, fails, floods or ends."""

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import DEADLINE_S, until

from jobmeter_exporters.errors import CommandError, ExporterError, TooMuchOutput
from jobmeter_exporters.polled import Command, Polled, seconds
from jobmeter_exporters.watched import NoData


def shell(text):
    return ("/bin/sh", "-c", text)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_what_a_program_leaves():
    done = Command(DEADLINE_S).run(shell('echo out; echo "first\nlast" >&2; exit 7'))
    assert (done.status, done.stdout, done.stderr) == (7, "out\n", "first\nlast\n")
    assert done.complaint == "last"


def test_the_environment_is_added_to():
    done = Command(DEADLINE_S).run(shell('echo "$OWN $LC_ALL $HOME"'), {"OWN": "1"})
    assert done.stdout == f"1 C {os.environ['HOME']}\n"


def test_what_is_no_text_is_read_all_the_same():
    assert Command(DEADLINE_S).run(shell(r"printf 'a\377b'")).stdout == "a\ufffdb"


@pytest.mark.parametrize(
    "hang",
    [
        "sleep 600 & echo $$ $! > pids; wait",  # a child holds the output open too
        "exec >&- 2>&-; echo $$ > pids; sleep 600",  # nothing more to read, and no end
        "sleep 600 & echo $! > pids",  # ended, and left a child that holds the output open
        "trap '' TERM INT HUP; echo $$ > pids; while :; do sleep 600; done",
    ],
)
def test_what_hangs_is_killed_with_its_children(hang, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match=r"/bin/sh took more than 0.5 s and was killed; run"):
        Command(0.5).run(shell(hang))
    for pid in (tmp_path / "pids").read_text().split():
        until(lambda pid=pid: is_gone(pid))


def test_what_a_program_leaves_in_the_background_is_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = Command(DEADLINE_S).run(shell("sleep 600 >&- 2>&- & echo $! > pid"))
    assert done.status == 0
    until(lambda: is_gone((tmp_path / "pid").read_text().strip()))


def test_too_much_output_is_refused_and_its_writer_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TooMuchOutput, match="more than 1000 bytes"):
        Command(DEADLINE_S, 1000).run(shell("echo $$ > pid; exec yes"))
    until(lambda: is_gone((tmp_path / "pid").read_text().strip()))


def test_what_is_not_there_or_no_program(tmp_path):
    with pytest.raises(CommandError, match="no-such-program is not on PATH"):
        Command(1).run(["no-such-program"])
    with pytest.raises(CommandError, match="cannot be started: Permission denied"):
        Command(1).run([str(tmp_path)])


def test_cancelling_kills_what_runs_and_lets_nothing_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = Command(DEADLINE_S)
    statuses = []
    thread = threading.Thread(
        target=lambda: statuses.append(command.run(shell("echo $$ > pid; exec sleep 600")).status)
    )
    thread.start()
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    command.cancel()
    thread.join(DEADLINE_S)
    assert statuses == [-9]
    with pytest.raises(CommandError, match="this process ends"):
        command.run(shell("true"))


def test_while_a_killed_one_is_not_gone_no_other_is_started():
    command = Command(DEADLINE_S)
    # Stands for one that the kernel cannot end before its driver answers.
    with subprocess.Popen(shell("exec sleep 600")) as left:
        command._undead = left
        with pytest.raises(CommandError, match=rf"process {left.pid} was killed and is not gone"):
            command.run(shell("true"))
        left.kill()
        left.wait(DEADLINE_S)
        assert command.run(shell("true")).status == 0


def test_one_that_does_not_end_when_it_is_killed_is_said(monkeypatch):
    class Undead(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is not None:
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait()

    monkeypatch.setattr(subprocess, "Popen", Undead)
    command = Command(0.2)
    with pytest.raises(CommandError, match=r"took more than 0.2 s and was killed, and is not gone"):
        command.run(shell("exec sleep 600"))
    command._undead.wait()


class Source:
    """Answers what it is told to; each reading waits until it may go on."""

    def __init__(self):
        self.answer = 1
        self.read = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self):
        self.read += 1
        assert self.may_go_on.wait(DEADLINE_S)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def polled(source):
    made = []

    def start(interval_s=0.005, longest_age_s=DEADLINE_S, first_within_s=DEADLINE_S):
        made.append(Polled("it", source, interval_s, longest_age_s))
        made[-1].start(first_within_s)
        return made[-1]

    yield start
    source.may_go_on.set()
    for one in made:
        one.stop(DEADLINE_S)


def test_the_value_is_replaced_and_ages(source, polled):
    poll = polled()
    reading, problem = poll.latest()
    assert (reading.value, problem) == (1, None)
    source.answer = 2
    until(lambda: poll.latest()[0].value == 2)
    source.may_go_on.clear()
    before = until(lambda: poll.latest()[0]).age_s
    until(lambda: poll.latest()[0].age_s > before + 0.05)


def test_before_the_first_answer_there_is_no_data_and_no_waiting(source, polled):
    source.may_go_on.clear()
    reading, problem = polled(first_within_s=0).latest()
    assert reading is None
    assert isinstance(problem, NoData)
    assert "has not answered yet" in str(problem)


def test_a_failure_keeps_the_value_until_it_is_too_old(source, polled):
    poll = polled(longest_age_s=0.2)
    source.answer = ExporterError("broken; mend it")
    until(lambda: poll.latest()[1])
    reading, problem = poll.latest()
    assert str(problem) == "broken; mend it"
    assert reading is None or reading.value == 1
    until(lambda: poll.latest()[0] is None)
    assert str(poll.latest()[1]) == "broken; mend it"
    source.answer = 3
    assert until(lambda: poll.latest()[0]).value == 3
    assert poll.latest()[1] is None


def test_nothing_to_report_leaves_no_value(source, polled):
    poll = polled()
    source.answer = NoData("no device")
    until(lambda: poll.latest()[1])
    reading, problem = poll.latest()
    assert reading is None
    assert isinstance(problem, NoData)


def test_who_hangs_is_said_to_and_always_in_the_same_words(source, polled):
    poll = polled(longest_age_s=0.05)
    source.may_go_on.clear()
    reading, problem = until(lambda: (poll.latest()[0] is None) and poll.latest())
    assert reading is None
    assert isinstance(problem, ExporterError)
    assert str(problem) == str(poll.latest()[1])
    assert problem is not poll.latest()[1]  # raised again and again it would grow a traceback


def test_a_mistake_of_ours_does_not_end_the_readings(source, polled):
    source.answer = ZeroDivisionError("oops")
    poll = polled()
    assert "it failed: ZeroDivisionError('oops'); please report this" in str(poll.latest()[1])
    source.answer = 4
    assert until(lambda: poll.latest()[0]).value == 4


def test_readings_keep_their_distance(source, polled):
    poll = polled(interval_s=600)
    for _ in range(100):
        poll.latest()
    assert source.read == 1


def test_stopping_ends_a_reading_in_progress():
    command = Command(DEADLINE_S)
    poll = Polled("it", lambda: command.run(shell("exec sleep 600")), 1, 1, command.cancel)
    poll.start()
    until(lambda: command._running is not None)
    poll.stop(DEADLINE_S)
    assert not poll._thread.is_alive()


def test_stopping_what_was_never_started():
    Polled("it", int, 1, 1).stop()


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600)]
)
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "5", "s", "0s", "-5s", "5 s", "nan", "1e3s", "٣s", "9" * 400 + "s"]
)
def test_no_duration(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a duration"):
        seconds(text)


def test_the_program_under_test_is_not_this_one():
    """The group that is killed must never be the one of the exporter."""
    done = Command(DEADLINE_S).run([sys.executable, "-c", "import os; print(os.getpgrp())"])
    assert int(done.stdout) != os.getpgrp()
