"""The queue through programmable squeue and sinfo, in a collector that runs as it does in a job."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from program_answers import Answers, put_on_path
from prometheus_client import CollectorRegistry, generate_latest
from waiting import DEADLINE_S, until

from jobmeter_exporters import slurm_queue, slurm_queue_source
from jobmeter_exporters.__main__ import main
from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.slurm_queue_readings import bounds, job_readings, node_readings
from jobmeter_exporters.slurm_queue_state import Job, NodeGroup, Use
from jobmeter_exporters.watched import Watched

GOLDEN = Path(__file__).parent / "golden" / "queue.prom"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "slurm-queue"
SUBMITTED_S = 1795393227.0
ANSWERS = {
    f"{name}.{form}": f"{name}-22.05.8.{form}"
    for name in ("squeue", "sinfo")
    for form in ("json", "txt")
}


@pytest.fixture
def answers(tmp_path, monkeypatch):
    put_on_path(monkeypatch)
    monkeypatch.setenv("SLURM_ANSWERS", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_UID", "1001")
    monkeypatch.setattr(slurm_queue, "time", Clock)
    monkeypatch.setattr(slurm_queue_source, "find_spec", lambda name: None)
    for name in ANSWERS:
        shutil.copy(FIXTURES / name.replace(".", "-22.05.8."), tmp_path / name)
    return Answers(tmp_path)


class Clock:
    """The time at which the answers were recorded, and half a minute more."""

    @staticmethod
    def time():
        return SUBMITTED_S + 30


class Scraped:
    """A collector in operation, read as Prometheus would."""

    def __init__(self, collector):
        self.collector = collector
        self.registry = CollectorRegistry()
        self.registry.register(Watched({"queue": collector}))

    def text(self):
        return generate_latest(self.registry).decode()

    def value(self, name, **labels):
        return self.registry.get_sample_value(name, labels)

    def success(self):
        return self.value("jobmeter_collector_success", collector="queue")


@pytest.fixture
def running():
    """Return what starts a collector and waits for its first reading; intervals as wished."""
    entered = []

    def run(interval_s=600.0, **options):
        options = {"queue_interval": interval_s, "queue_timeout": DEADLINE_S, **options}
        settings = Settings(run_id="r1", options=options, required=True)
        entered.append(slurm_queue.from_settings(settings).__enter__())
        return Scraped(entered[-1])

    yield run
    for collector in entered:
        collector.__exit__(None, None, None)


def lines_of(scraped):
    times = ("queue_data_age_seconds ", "jobmeter_collector_duration_seconds{")
    return [
        f"{line.rpartition(' ')[0]} 0.0" if line.startswith(times) else line
        for line in scraped.text().splitlines()
    ]


def test_golden(answers, running, check_golden):
    check_golden(GOLDEN.name, "\n".join(lines_of(running())) + "\n")


def test_text_says_what_json_says(answers, running):
    lines = lines_of(running(queue_source="text"))
    by_json = GOLDEN.read_text().replace('"json"', '"text"').splitlines()
    assert sorted(lines) == sorted(by_json)


@pytest.mark.prometheus
def test_the_exposition_passes_promtool():
    subprocess.run(["promtool", "check", "metrics"], input=GOLDEN.read_bytes(), check=True)


def test_scrapes_ask_nobody(answers, running):
    scraped = running()
    for _ in range(50):
        assert scraped.success() == 1
    assert answers.starts() == ["squeue --json", "sinfo --json"]


def test_questions_are_asked_again_after_the_interval(answers, running):
    scraped = running(interval_s=0.05)
    until(lambda: len(answers.starts()) >= 6)
    assert scraped.success() == 1


@pytest.mark.parametrize("text", ["29s", "1ms", "30", "0s"])
def test_less_than_half_a_minute_is_refused(text, capsys):
    assert main(["queue", "--run-id", "r1", "--queue-interval", text]) == 2
    assert "--queue-interval" in capsys.readouterr().err


def test_without_json_text_is_asked_for_at_once_and_from_then_on(answers, running):
    answers.remove("squeue.json")
    scraped = running(interval_s=0.05)
    assert scraped.value("queue_source_info", jobs="text", nodes="json") == 1
    until(lambda: len(answers.starts()) >= 6)
    assert sum("squeue --json" in start for start in answers.starts()) == 1
    assert "--format %U %T %K %V %S %r" in answers.starts()[1]


def test_json_that_cannot_be_read_is_text_in_the_next_reading(answers, running):
    answers.write("squeue.json", '{"jobs": 7}')
    scraped = running()
    assert scraped.success() == 0
    assert scraped.value("queue_jobs", state="RUNNING") is None
    assert len(answers.starts()) == 1  # nobody was asked twice
    with pytest.raises(ExporterError, match=r"it is asked for text from the next reading on"):
        list(scraped.collector.collect())
    scraped = running(interval_s=0.05)
    until(scraped.success)
    assert scraped.value("queue_source_info", jobs="text", nodes="json") == 1


def test_json_that_is_too_large_is_text_in_the_next_reading(answers, running, monkeypatch):
    monkeypatch.setattr(slurm_queue_source, "MOST_BYTES", 2000)
    scraped = running(interval_s=0.05)
    until(scraped.success)
    assert scraped.value("queue_source_info", jobs="text", nodes="text") == 1


def test_a_controller_that_is_down_is_said_once_and_numbers_come_back(answers, running, caplog):
    answers.write("unreachable")
    scraped = running(interval_s=0.05)
    for _ in range(5):
        assert scraped.success() == 0
    assert "queue_jobs" not in scraped.text()
    said = [r.getMessage() for r in caplog.records if "Unable to contact" in r.getMessage()]
    assert len(said) == 1
    assert "squeue ended with 1" in said[0]
    assert "is the controller up?" in said[0]
    answers.remove("unreachable")
    until(scraped.success)
    assert scraped.value("queue_source_info", jobs="json", nodes="json") == 1


def test_one_that_hangs_is_killed(answers, running):
    answers.write("hang")
    scraped = running(queue_timeout=0.3)
    with pytest.raises(ExporterError, match=r"squeue took more than 0.3 s and was killed"):
        list(scraped.collector.collect())


def test_no_slurm(tmp_path, monkeypatch, running):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm_queue_source, "find_spec", lambda name: None)
    scraped = running()
    assert scraped.success() == 0
    with pytest.raises(ExporterError, match="squeue is not on PATH"):
        list(scraped.collector.collect())


def test_the_users_own_filters_are_taken_away(monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "R")
    monkeypatch.setenv("SINFO_FORMAT", "%N")
    environment = slurm_queue_source._environment()
    assert environment["SQUEUE_STATES"] is environment["SINFO_FORMAT"] is None


@pytest.fixture
def pyslurm(tmp_path, monkeypatch):
    """Write a package pyslurm that does what it is told."""
    monkeypatch.setattr(slurm_queue_source, "find_spec", lambda name: name)
    folder = tmp_path / "site"
    folder.mkdir()
    root = str(Path(slurm_queue.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{root}")

    def write(text):
        (folder / "pyslurm.py").write_text(text)

    return write


PYSLURM = """
from types import SimpleNamespace as Some

class Jobs:
    @staticmethod
    def load():
        print("noise of a library")
        waits = Some(state="PENDING", state_reason="Priority", user_id=1001, submit_time=7,
                     start_time=None, array_tasks_waiting="1-5%2")
        runs = Some(state="RUNNING", state_reason=None, user_id=5, submit_time=7, start_time=9)
        return {1: waits, 2: runs}

class Nodes:
    @staticmethod
    def load():
        node = Some(name="n1", state="MIXED+DRAIN", partitions=["gpu"], total_cpus=8,
                    allocated_cpus=2)
        return {"n1": node}
"""


def test_pyslurm_in_a_process_of_its_own(answers, running, pyslurm):
    pyslurm(PYSLURM)
    scraped = running()
    assert scraped.value("queue_source_info", jobs="pyslurm", nodes="pyslurm") == 1
    assert scraped.value("queue_own_pending_jobs", reason="Priority") == 5
    assert scraped.value("queue_jobs", state="RUNNING") == 1
    assert scraped.value("queue_nodes", state="draining") == 1
    assert scraped.value("queue_partition_cpus", partition="gpu", use="other") == 6
    assert "pyslurm" not in sys.modules
    assert not (answers.folder / "starts").exists()


@pytest.mark.parametrize("text", ["import os; os._exit(1)", "import no_such_library", "1/0"])
def test_a_pyslurm_that_cannot_be_used_gives_place_at_once(answers, running, pyslurm, text):
    pyslurm(text)
    scraped = running()
    assert scraped.value("queue_source_info", jobs="json", nodes="json") == 1
    assert len(answers.starts()) == 2


def test_a_pyslurm_that_fails_gives_place_in_the_next_reading(answers, running, pyslurm):
    pyslurm("")
    scraped = running()
    assert scraped.success() == 0
    assert not (answers.folder / "starts").exists()
    until(running(interval_s=0.05).success)


def test_only_pyslurm(answers, running, pyslurm):
    pyslurm("1/0")
    scraped = running(queue_source="pyslurm")
    with pytest.raises(ExporterError, match="pyslurm cannot be used here: 'ZeroDivisionError"):
        list(scraped.collector.collect())
    assert not (answers.folder / "starts").exists()


def test_an_empty_queue_is_zero_and_ages_are_absent():
    readings = job_readings([], 7, 100.0, bounds())
    assert readings["queue_jobs"] == {"PENDING": 0, "RUNNING": 0}
    assert readings["queue_pending_jobs"] == {}
    assert not [name for name in readings if "oldest" in name]


def test_ages_are_those_of_the_oldest_own_jobs_and_never_negative():
    jobs = [
        Job("PENDING", uid=7, submit_s=40.0),
        Job("PENDING", uid=7, submit_s=30.0),
        Job("PENDING", uid=8, submit_s=10.0),
        Job("RUNNING", uid=7, submit_s=1.0, start_s=120.0),
    ]
    readings = job_readings(jobs, 7, 100.0, bounds())
    assert readings["queue_own_oldest_pending_seconds"] == 70
    assert readings["queue_own_oldest_running_seconds"] == 0


def test_labels_stay_few_and_sums_stay_right():
    labels = bounds()
    for turn in range(2):  # what has a series keeps it
        jobs = [Job("PENDING", f"Reason{n + 5 * turn}", uid=7) for n in range(30)]
        reasons = job_readings(jobs, 7, 100.0, labels)["queue_pending_jobs"]
        assert len(reasons) <= 21
        assert sum(reasons.values()) == 30
        assert "Reason5" in reasons
        assert "Reason25" not in reasons


def test_a_node_in_two_partitions_is_one_node():
    groups = [
        NodeGroup(name, "idle", frozenset({"n1", "n2"}), Use(0, 2, 0), Use(0, 16, 0))
        for name in ("cpu", "gpu")
    ]
    readings = node_readings(groups, bounds())
    assert readings["queue_nodes"] == {"idle": 2}
    assert readings["queue_partition_cpus"]["gpu", "idle"] == 16
    assert readings["queue_partition_nodes"]["cpu", "other"] == 0
