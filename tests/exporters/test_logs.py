"""Following files as they are written, rotated and lost; and the exporter as a whole."""

import errno
import json
import os
import random
import signal
import socket
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from waiting import DEADLINE_S, until

from jobmeter_exporters import log_file as log_file_module
from jobmeter_exporters import log_reader as log_reader_module
from jobmeter_exporters import logs as logs_module
from jobmeter_exporters.__main__ import main, serve
from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.log_events import EventFile
from jobmeter_exporters.log_file import LogFile
from jobmeter_exporters.log_files import MOST_FILES, NAMELESS_S, LogFiles
from jobmeter_exporters.log_lines import LONGEST_LINE_BYTES, LineCutter
from jobmeter_exporters.log_reader import LogReader, ServiceLogs, Source
from jobmeter_exporters.log_rule_file import rule_set
from jobmeter_exporters.rate import Rate
from jobmeter_exporters.series import Series
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

NO_RULES = rule_set([])
EVENT_RULE = [("rule 1", {"match": "(?P<level>ERROR|INFO)", "event": {"level": "level"}})]


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def append(path, text):
    with path.open("a" if isinstance(text, str) else "ab") as file:
        file.write(text)


def lines_of(files):
    """Read all there is; return the texts of the lines."""
    texts = []
    while True:
        counts = 0
        for count, lines in files.read():
            counts += count
            texts += [line.text for line in lines]
        if not counts:
            return texts


@pytest.fixture
def follow():
    """Follow patterns; each step searches and reads all there is."""
    opened = []

    def start(*patterns, from_end=False):
        clock = Clock()
        files = LogFiles([str(one) for one in patterns], from_end, clock)
        opened.append(files)

        def step():
            return [line.text for line in files.search()] + lines_of(files)

        return files, clock, step

    yield start
    for files in opened:
        list(files.close())


def open_files(path):
    """How many descriptors of this process lead to what is, or was, at or below a path."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this very listing
            targets.append(str(descriptor.readlink()))
    return len([target for target in targets if target.startswith(str(path))])


def test_lines_as_they_come(log, follow):
    _, _, step = follow(log)
    assert step() == []  # not there yet
    append(log, "one\ntw")
    assert step() == ["one"]
    append(log, "o\n\nthree\n")
    assert step() == ["two", "", "three"]
    assert step() == []


def test_from_the_end_leaves_out_what_was_there_and_nothing_else(tmp_path, follow):
    append(tmp_path / "a.log", "old\nhalf")
    append(tmp_path / "b.log", "old\n")
    append(tmp_path / "c.log", "")
    _, _, step = follow(tmp_path / "*.log", from_end=True)
    assert step() == []
    append(tmp_path / "a.log", " of it\nnew a\n")
    append(tmp_path / "b.log", "new b\n")
    append(tmp_path / "c.log", "new c\n")
    append(tmp_path / "d.log", "all of d\n")
    assert sorted(step()) == ["all of d", "new a", "new b", "new c"]


def test_rotation_by_a_new_name(log, follow):
    """What is written between the last reading and the rotation is not lost, nor read twice."""
    files, clock, step = follow(log)
    append(log, "one\n")
    assert step() == ["one"]
    append(log, "two\n")
    log.rename(log.with_suffix(".1"))
    append(log.with_suffix(".1"), "three\n")  # a writer that has not noticed
    append(log, "four\n")
    assert sorted(step()) == ["four", "three", "two"]
    append(log.with_suffix(".1"), "five\n")
    append(log, "six\n")
    assert sorted(step()) == ["five", "six"]
    assert len(files) == 2
    append(log.with_suffix(".1"), "last words")
    assert step() == []
    clock.now_s += NAMELESS_S
    assert step() == ["last words"]
    assert len(files) == 1


def test_rotation_within_a_pattern(tmp_path, follow):
    files, _, step = follow(tmp_path / "log*")
    append(tmp_path / "log", "one\n")
    assert step() == ["one"]
    for number in range(5):
        (tmp_path / "log").rename(tmp_path / f"log.{number}")
        append(tmp_path / "log", f"new {number}\n")
        assert step() == [f"new {number}"]
    assert len(files) == 6


def test_rotation_by_copy_and_truncation(log, follow):
    _, _, step = follow(log)
    append(log, "one\ntwo\nthr")
    assert step() == ["one", "two"]
    os.truncate(log, 0)
    append(log, "four\n")
    assert step() == ["thr", "four"]


def test_truncated_and_longer_than_before_at_once(log, follow):
    _, _, step = follow(log)
    append(log, "one\n")
    assert step() == ["one"]
    log.write_text("two, which is longer\n")
    assert step() == ["two, which is longer"]
    log.write_text("new, of equal length\n")
    os.utime(log, ns=(1, 1))  # that the time differs is not left to the clock of the file system
    assert step() == ["new, of equal length"]


def test_a_writer_that_goes_on_behind_the_truncation(log, follow):
    """It does not append, so what it writes next stands behind a hole."""
    _, _, step = follow(log)
    with log.open("w", buffering=1) as writer:
        writer.write("x" * 100_000 + "\n")
        assert step() == ["x" * LONGEST_LINE_BYTES]
        os.truncate(log, 0)
        assert step() == []
        writer.write("after the hole\n")
        assert step() == ["after the hole"]


def test_a_file_that_is_removed_and_comes_again(log, follow):
    files, clock, step = follow(log)
    with log.open("w", buffering=1) as writer:
        writer.write("one\n")
        assert step() == ["one"]
        log.unlink()
        writer.write("two\n")
        assert step() == ["two"]
    assert open_files(log.parent) == 1
    clock.now_s += NAMELESS_S
    assert step() == []
    assert (len(files), files.missing, open_files(log.parent)) == (0, [str(log)], 0)
    log.write_text("one\n")
    assert step() == ["one"]


def test_a_folder_that_disappears_and_comes_again(tmp_path, follow):
    folder = tmp_path / "logs"
    folder.mkdir()
    append(folder / "a.log", "one\n")
    files, clock, step = follow(folder / "*.log")
    assert step() == ["one"]
    (folder / "a.log").unlink()
    folder.rmdir()
    clock.now_s += NAMELESS_S
    assert step() == []
    assert files.problems == {}
    folder.write_text("a file in its place")
    assert step() == []
    folder.unlink()
    folder.mkdir()
    append(folder / "a.log", "two\n")
    assert step() == ["two"]


@pytest.mark.parametrize("same", [True, False])
def test_a_handle_that_the_server_forgot(log, follow, monkeypatch, same):
    """A stand-in for a network file system: reading says once that the handle is stale."""
    _, _, step = follow(log)
    append(log, "one\ntwo\nth")
    assert step() == ["one", "two"]
    append(log, "ree\n")
    with monkeypatch.context() as patch:

        def stale(*_):
            raise OSError(errno.ESTALE, "Stale file handle")

        patch.setattr(log_file_module.os, "pread", stale)
        assert step() == []
    assert open_files(log) == 0
    if not same:
        log.unlink()
        append(log, "another file altogether\n")
    assert step() == (["three"] if same else ["another file altogether"])


def test_what_cannot_be_read_is_said_and_the_others_are_read(tmp_path, follow):
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "folder.log").mkdir()
    (tmp_path / "gone.log").symlink_to("nowhere")
    (tmp_path / "loop.log").symlink_to("loop.log")
    append(tmp_path / "good.log", "one\n")
    files, _, step = follow(tmp_path / "*.log")
    assert step() == ["one"]
    assert {path.rpartition("/")[2]: problem for path, problem in files.problems.items()} == {
        "pipe.log": f"{tmp_path}/pipe.log is no regular file; name the file of a log",
        "folder.log": f"{tmp_path}/folder.log is no regular file; name the file of a log",
        "loop.log": f"cannot read {tmp_path}/loop.log: Too many levels of symbolic links; "
        "is it yours to read?",
    }
    (tmp_path / "pipe.log").unlink()
    step()
    assert len(files.problems) == 2


def test_permission_denied_and_then_granted(log, follow, monkeypatch):
    """A stand-in for the kernel's answer, as the tests may run as root, who may read anything."""
    append(log, "one\n")
    files, _, step = follow(log)
    with monkeypatch.context() as patch:

        def denied(*_):
            raise PermissionError(errno.EACCES, "Permission denied")

        patch.setattr(log_file_module.os, "open", denied)
        assert step() == []
        assert files.problems == {
            str(log): f"cannot read {log}: Permission denied; is it yours to read?"
        }
    assert step() == ["one"]
    assert files.problems == {}


def test_a_name_with_the_signs_of_a_pattern(tmp_path, follow):
    append(tmp_path / "log[1]", "one\n")
    _, _, step = follow(tmp_path / "log[1]")
    assert step() == ["one"]


def test_too_many_files(tmp_path, follow):
    for number in range(MOST_FILES + 1):
        append(tmp_path / f"{number:03}.log", f"{number}\n")
    files, _, step = follow(tmp_path / "*.log")
    assert len(step()) == MOST_FILES
    assert "stands for 65 files; only the first 64 are read" in next(iter(files.problems.values()))


def test_one_file_by_two_names_is_read_once(tmp_path, follow):
    append(tmp_path / "a.log", "one\n")
    (tmp_path / "b.log").symlink_to("a.log")
    _, _, step = follow(tmp_path / "*.log", tmp_path / "a.log")
    assert step() == ["one"]


def test_ten_megabytes_without_a_newline_need_no_memory(log):
    append(log, b"x" * 10_000_000 + b"\nnext\n")
    file = LogFile(str(log))
    tracemalloc.start()
    found = []
    while True:
        count, lines = file.read()
        found += lines
        if not count:
            break
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    file.close()
    assert [(line.text[:4], len(line.text), line.cut) for line in found] == [
        ("xxxx", LONGEST_LINE_BYTES, True),
        ("next", 4, False),
    ]
    assert most < 3_000_000


def test_any_cut_of_the_bytes_gives_the_same_lines():
    source = random.Random(1)
    data = b"".join(
        source.choice([b"a", "ü".encode(), b"\n", b"\r\n", b"\xff", b"\0", b"b" * 9000, b"\x1b[1m"])
        for _ in range(500)
    )
    whole = LineCutter()
    expected = [*whole.feed(data), *whole.finish()]
    assert any(line.cut for line in expected)
    for size in (1, 7, 4096, 100_000):
        cutter = LineCutter()
        found = [
            line for at in range(0, len(data), size) for line in cutter.feed(data[at : at + size])
        ]
        assert [*found, *cutter.finish()] == expected


def exporter(options):
    return logs_module.from_settings(Settings(run_id="r1", options=options))


def registry_of(collector):
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_the_exporter_reads_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr(log_reader_module, "SEARCH_INTERVAL_S", 0.01)
    monkeypatch.setattr(log_reader_module, "READ_INTERVAL_S", 0.01)
    log, events = tmp_path / "log", tmp_path / "events.jsonl"
    options = {
        "logs_follow": [("llm", str(log))],
        "logs_rules": ["ollama"],
        "logs_events": events,
    }
    collector = exporter(options)
    with collector:
        with pytest.raises(NoData, match=f"no log is there yet: {log}"):
            list(collector.collect())
        append(log, '[GIN] 2025/02/10 - 11:20:29 | 200 | 2.5s |  ::1 | POST     "/api/chat"\n')
        labels = {"service": "llm", "method": "POST", "path": "/api/chat", "code": "200"}

        def value(name, **labels):
            try:
                return registry_of(collector).get_sample_value(name, labels)
            except NoData:
                return None

        until(lambda: value("ollama_http_requests_total", **labels) == 1)
        append(log, "time=2025 level=ERROR source=x msg=y\nfatal error: last words")
    # The end has read what had no newline yet.
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert [(one["service"], one["level"], one["text"]) for one in found] == [
        ("llm", "error", "level=ERROR source=x msg=y"),
        ("llm", "critical", "fatal error: last words"),
    ]
    assert abs(found[0]["t"] / 1000 - time.time()) < DEADLINE_S
    assert events.stat().st_mode & 0o777 == 0o600
    assert "logs" not in [thread.name for thread in threading.enumerate()]
    assert open_files(tmp_path) == 0


def test_all_of_it_is_an_exposition(tmp_path):
    """Of any bytes at all, labels made of them included."""
    log, rules = tmp_path / "log", tmp_path / "own.yaml"
    rules.write_text(
        "rules: [{match: '(?P<all>.+)', metrics: [{counter: x_total, help: 'A \"\\ b.', "
        "labels: {all: all}}]}]"
    )
    log.write_bytes(random.Random(2).randbytes(20_000) + b'"\\\n\x7f\xed\xa0\x80\n')
    options = {"logs_follow": [("s", str(log))], "logs_rules": [str(rules), "json", "levels"]}
    with exporter(options) as collector:
        registry = registry_of(collector)
        until(lambda: registry.get_sample_value("jobmeter_log_unread_bytes", {"service": "s"}) == 0)
        text = generate_latest(registry).decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"x", "jobmeter_log_lines", "jobmeter_log_unread_bytes"} <= names


def test_half_a_character_in_json_becomes_a_label_that_can_be_sent(tmp_path):
    metric = {"counter": "x_total", "help": "A.", "labels": {"user": "user"}}
    rules = rule_set([("rule 1", {"fields": {"user": "(?P<user>.+)"}, "metrics": [metric]})])
    append(tmp_path / "log", '{"user": "a\\ud800"}\n')
    _, found = read_by(rules, tmp_path / "log")
    assert found["x_total", "s", "a?"] == 1


def read_by(rules, log, events=None, **clocks):
    """Read all of a log; return the service and the series."""
    series = Series({**logs_module.FAMILIES, **rules.families}, rules.bounds)
    service = ServiceLogs(Source("s", (str(log),), rules, False), series, events, **clocks)
    service.search()
    while service.read():
        pass
    service.close()
    return service, {
        (sample.name, *sample.labels.values()): sample.value
        for family in series.collect()
        for sample in family.samples
    }


def test_events_are_kept_at_a_bounded_rate(tmp_path):
    append(tmp_path / "log", "".join(f"ERROR {number} {'y' * 2000}\n" for number in range(300)))
    events = EventFile(tmp_path / "events")
    _, found = read_by(rule_set(EVENT_RULE), tmp_path / "log", events, clock=Clock())
    events.close()
    kept = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [event["text"][:9].split()[1] for event in kept] == [str(one) for one in range(200)]
    assert {len(event["text"]) for event in kept} == {1000}
    assert found["jobmeter_log_events_total", "s", "error"] == 300
    assert found["jobmeter_log_dropped_events_total", "s"] == 100


def test_a_rate_recovers():
    clock = Clock()
    rate = Rate(2.0, 3, clock)
    assert [rate.allows() for _ in range(4)] == [True, True, True, False]
    clock.now_s += 0.5
    assert [rate.allows() for _ in range(2)] == [True, False]
    clock.now_s += 1000
    assert [rate.allows() for _ in range(4)] == [True, True, True, False]


def test_without_a_file_events_are_counted(tmp_path):
    append(tmp_path / "log", "ERROR\n")
    _, found = read_by(rule_set(EVENT_RULE), tmp_path / "log")
    assert found["jobmeter_log_events_total", "s", "error"] == 1
    assert found["jobmeter_log_dropped_events_total", "s"] == 1


def test_a_full_disk_is_said_and_the_numbers_go_on(tmp_path):
    append(tmp_path / "log", "ERROR\nINFO\n")
    options = {
        "logs_follow": [("s", str(tmp_path / "log"))],
        "logs_rules": ["levels"],
        "logs_events": "/dev/full",
    }
    with exporter(options) as collector:

        def problem():
            try:
                list(collector.collect())
            except ExporterError as caught:
                return str(caught)

        until(problem)
        assert problem() == "cannot write the events /dev/full: No space left on device"


def test_an_event_behind_a_torn_one_is_whole(tmp_path, monkeypatch):
    """A stand-in for a disk that is full for a moment: half of a line is written."""
    write = os.write
    events = EventFile(tmp_path / "events")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:9]))
        assert not events.write("s", "info", "torn")
        assert "is the disk full?" in events.problem
    assert events.write("s", "info", "whole")
    assert events.problem is None
    events.close()
    assert json.loads((tmp_path / "events").read_text().splitlines()[1])["text"] == "whole"


def test_a_rule_that_computes_for_long_is_switched_off(tmp_path, monkeypatch):
    """With a clock that says so: a real one would hold the test up."""
    computed = iter(range(100))
    monkeypatch.setattr(log_reader_module, "SLOW_MATCH_S", 0.0)
    append(tmp_path / "log", "a\nb\n")
    rules = rule_set(
        [("r.yaml: rule 1", {"match": "a|b", "metrics": [{"counter": "x_total", "help": "X."}]})]
    )
    service, found = read_by(rules, tmp_path / "log", cpu_clock=lambda: next(computed))
    assert found["x_total", "s"] == 1
    assert found["jobmeter_log_disabled_rules", "s"] == 1
    assert found["jobmeter_log_unmatched_lines_total", "s"] == 1
    assert service.problems[0].startswith(
        "r.yaml: rule 1 took 1.0 s for one line of s and is switched"
    )


def test_time_that_others_computed_switches_off_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(log_reader_module, "SLOW_MATCH_S", 0.0)
    append(tmp_path / "log", "ERROR\n" * 9)
    service, _ = read_by(rule_set(EVENT_RULE), tmp_path / "log", cpu_clock=lambda: 7.0)
    assert service.problems == []


def test_a_bug_in_the_reader_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(ServiceLogs, "read", lambda self: 1 / 0)
    append(tmp_path / "log", "a\n")
    with exporter({"logs_follow": [("s", str(tmp_path / "log"))]}) as collector:

        def problem():
            try:
                list(collector.collect())
            except ExporterError as caught:
                return str(caught)

        until(problem)
        assert "reading ended: ZeroDivisionError" in problem()


def test_a_file_system_that_hangs_holds_up_neither_start_nor_scrape_nor_end(
    tmp_path, monkeypatch, caplog
):
    """A stand-in for a file server that does not answer."""
    released = threading.Event()

    def hang(self):
        released.wait(DEADLINE_S)
        return iter(())

    monkeypatch.setattr(LogFiles, "search", hang)
    for limit in ("LONGEST_START_S", "LONGEST_FINISH_S", "READ_INTERVAL_S"):
        monkeypatch.setattr(log_reader_module, limit, 0.01)
    reader = LogReader([Source("s", ("x",), NO_RULES, False)], Series(logs_module.FAMILIES), None)
    collector = logs_module.Logs(reader, reader._services[0]._series)
    with collector, pytest.raises(NoData):
        list(collector.collect())
    released.set()
    assert caplog.messages == ["logs: a file system does not answer; what is unread stays so"]
    reader._thread.join(DEADLINE_S)
    assert not reader._thread.is_alive()


def test_rules_for_one_service_and_for_all(tmp_path):
    for name in ("a", "b"):
        append(tmp_path / name, "ERROR\n")
    options = {
        "logs_follow": [("a", str(tmp_path / "a")), ("b", str(tmp_path / "b"))],
        "logs_rules": ["a=levels", "json"],
    }
    with exporter(options) as collector:
        registry = registry_of(collector)
        lines = "jobmeter_log_lines_total"
        until(lambda: all(registry.get_sample_value(lines, {"service": one}) for one in "ab"))
        for service, expected in (("a", 1), ("b", None)):
            labels = {"service": service, "level": "error"}
            assert registry.get_sample_value("log_messages_total", labels) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ([], 1, "no log to read; give --logs-follow SERVICE=PATH"),
        (["--logs-follow", "x"], 2, "'x' is not SERVICE=PATH"),
        (["--logs-follow", "=x"], 2, "'=x' is not SERVICE=PATH"),
        (["--logs-follow", "a=x", "--logs-from", "middle"], 2, "invalid choice: 'middle'"),
        (["--logs-follow", "a=x", "--logs-rules", "olama"], 1, "no rules 'olama'; give a file, or"),
        (["--logs-follow", "a=x", "--logs-rules", "b=ollama"], 1, "no rules 'b=ollama'"),
        (["--logs-follow", "a=x", "--logs-events", "/nowhere/x"], 1, "cannot write the events"),
    ],
)
def test_wrong_options_are_one_line(arguments, code, why, capsys):
    assert main(["logs", "--run-id", "r1", *arguments]) == code
    said = capsys.readouterr().err
    assert why in said
    assert code == 2 or said.count("\n") == 1


def test_served_and_stopped(tmp_path):
    """As the command runs it: events of the last moment are in the file."""
    log, events = tmp_path / "log", tmp_path / "events"
    append(log, "ERROR at the start\n")
    options = {
        "logs_follow": [("s", str(log))],
        "logs_rules": ["levels"],
        "logs_events": events,
        "logs_from": "start",
    }
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.send(bytes([signal.SIGTERM]))
        assert serve(["logs"], Settings(run_id="r1", required=True, options=options), reader) == 0
    assert "ERROR at the start" in events.read_text()
