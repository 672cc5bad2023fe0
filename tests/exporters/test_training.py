"""What a training loop reports, and what Prometheus reads of it."""

import base64
import http.client
import json
import logging
import math
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import jobmeter_analysis
from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.training import TrainingMonitor, timing
from jobmeter_exporters.training.families import FAMILIES
from jobmeter_exporters.training.rank import LAUNCHERS, Rank, rank_from

VARIABLES = [name for pair in LAUNCHERS for name in pair]
STEP = "training_step_duration_seconds"


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    """These tests may run in a job themselves."""
    for name in (
        *VARIABLES,
        *("JOBMETER_FINAL_METRICS", "JOBMETER_ENDPOINTS_DIR", "JOBMETER_PASSWORD_FILE"),
        *("JOBMETER_LISTEN_HOST", "JOBMETER_RUN_ID"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")


@pytest.fixture
def monitors():
    """Make monitors that leave SIGTERM alone, and close them."""
    made = []

    def make(*arguments, **options):
        made.append(TrainingMonitor(*arguments, **{"sigterm": False, **options}))
        return made[-1]

    yield make
    for monitor in made:
        monitor.close()


@pytest.fixture
def monitor(monitors):
    return monitors()


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when it is told to."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


def value(monitor, name, **labels):
    registry = CollectorRegistry()
    registry.register(monitor)
    return registry.get_sample_value(name, labels)


def names(monitor):
    return {family.name for family in monitor.collect()}


def get(port, user=None, path="/metrics"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Authorization": f"Basic {base64.b64encode(user).decode()}"} if user else {}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_before_the_first_step_there_is_no_loss_and_no_zero(monitor):
    assert names(monitor) == {STEP}
    assert value(monitor, f"{STEP}_count") == 0


def test_a_step_is_counted_when_it_is_over(monitor):
    with monitor.step(tokens=4096, samples=8) as step:
        assert value(monitor, f"{STEP}_count") == 0
        step.tokens = 4000
        monitor.record(loss=2.5, learning_rate=1e-4, gradient_norm=0.7, accuracy=0.5, epoch=1)
    assert value(monitor, f"{STEP}_count") == 1
    assert value(monitor, "training_tokens_total") == 4000
    assert value(monitor, "training_samples_total") == 8
    assert value(monitor, "training_loss") == 2.5
    assert value(monitor, "training_learning_rate") == 1e-4
    assert value(monitor, "training_gradient_norm") == 0.7
    assert value(monitor, "training_accuracy") == 0.5
    assert value(monitor, "training_epoch") == 1


def test_a_step_that_fails_is_none(monitor):
    with pytest.raises(ZeroDivisionError), monitor.step(samples=8):
        _ = 1 / 0
    monitor.end_step(samples=8)
    assert value(monitor, f"{STEP}_count") == 0
    assert value(monitor, "training_samples_total") is None


def test_a_loop_without_with(monitor, clock):
    monitor.begin_step()
    clock.now += 7
    monitor.begin_step()  # the former was given up
    clock.now += 2
    monitor.end_step(samples=4)
    assert value(monitor, f"{STEP}_sum") == 2
    assert value(monitor, "training_samples_total") == 4


def test_the_wait_for_data_is_in_the_step_and_pauses_are_not(monitor, clock):
    def loader():
        for batch in range(2):
            clock.now += 0.5
            yield batch
        clock.now += 99  # the end of the data is no wait for data

    for _ in monitor.batches(loader()):
        with monitor.step():
            with monitor.forward():
                clock.now += 1
            with monitor.backward():
                clock.now += 2
            with monitor.optimizer():
                clock.now += 0.25
            with monitor.checkpoint():
                clock.now += 30
        with monitor.validation():
            for _ in monitor.batches(loader()):
                clock.now += 5
            with monitor.checkpoint():
                clock.now += 3
    assert value(monitor, f"{STEP}_count") == 2
    assert value(monitor, f"{STEP}_sum") == 2 * 3.75
    assert value(monitor, "training_data_wait_seconds_total") == 2 * 0.5
    assert value(monitor, "training_forward_seconds_total") == 2
    assert value(monitor, "training_backward_seconds_total") == 4
    assert value(monitor, "training_optimizer_seconds_total") == 0.5
    assert value(monitor, "training_checkpoint_duration_seconds_sum") == 2 * 33
    assert value(monitor, "training_checkpoint_duration_seconds_count") == 4
    assert value(monitor, "training_validation_duration_seconds_sum") == 2 * (0.5 * 2 + 10 + 99 + 3)


def test_a_wait_inside_a_step_counts_once(monitor, clock):
    with monitor.step(), monitor.data():
        clock.now += 4
    assert value(monitor, f"{STEP}_sum") == 4
    assert value(monitor, "training_data_wait_seconds_total") == 4


def test_the_buckets_hold_the_time_of_a_step(monitors, clock):
    monitor = monitors(step_edges_s=[1.0, 0.5])
    for seconds in (0.5, 0.75, 2):
        monitor.begin_step()
        clock.now += seconds
        monitor.end_step()
    counts = {edge: value(monitor, f"{STEP}_bucket", le=edge) for edge in ("0.5", "1.0", "+Inf")}
    assert counts == {"0.5": 1, "1.0": 2, "+Inf": 3}


def test_a_loss_that_is_no_number_is_shown_as_such(monitor):
    monitor.record(loss=math.nan)
    assert math.isnan(value(monitor, "training_loss"))


class Tensor:
    """Stands in for a tensor on a device: its number costs a wait when it is read."""

    def __init__(self, values, log):
        self.values, self.log = values, log

    def detach(self):
        return Tensor(self.values, self.log)

    def clone(self):
        return Tensor(list(self.values), self.log)

    long = detach

    def __add__(self, other):
        return Tensor([a + b for a, b in zip(self.values, other.values, strict=True)], self.log)

    def __len__(self):
        return len(self.values)

    def tolist(self):
        self.log.append("read")
        return self.values

    def __float__(self):
        (only,) = self.tolist()
        return float(only)


def test_a_tensor_is_read_when_it_is_scraped_and_not_before(monitor):
    log = []
    loss = Tensor([0.25], log)
    counts = Tensor([3, 5], log)
    for _ in range(4):
        monitor.record(loss=loss)
        monitor.record_experts(counts)
    counts.values[0] = 1000  # the caller uses its buffer again
    assert log == []
    assert value(monitor, "training_loss") == 0.25
    assert value(monitor, "moe_expert_tokens_total", layer="0", expert="0") == 12
    assert value(monitor, "moe_expert_tokens_total", layer="0", expert="1") == 20


def test_a_tensor_that_cannot_be_read_is_absent(monitor):
    monitor.record(loss=Tensor([1, 2], []), epoch=3)
    assert value(monitor, "training_loss") is None
    assert value(monitor, "training_epoch") == 3


def test_experts_router_and_dropped_tokens(monitor):
    for _ in range(2):
        monitor.record_experts([1, 2, 0], layer=1)
        monitor.record_experts([4, 4], layer="last")
        monitor.record_dropped_tokens(5, layer=1)
    monitor.record_router_loss(0.5, layer=1)
    assert value(monitor, "moe_expert_tokens_total", layer="1", expert="1") == 4
    assert value(monitor, "moe_expert_tokens_total", layer="1", expert="2") == 0
    assert value(monitor, "moe_expert_tokens_total", layer="last", expert="0") == 8
    assert value(monitor, "moe_dropped_tokens_total", layer="1") == 10
    assert value(monitor, "moe_router_loss", layer="1") == 0.5
    assert value(monitor, "moe_router_loss") is None


def test_more_experts_than_asked_for_are_a_histogram(monitors):
    monitor = monitors(most_expert_series=5, rank=0, world_size=2)
    for layer in range(2):
        monitor.record_experts([0, 10, 20], layer=layer)
    monitor.record_router_loss(0.25)
    assert "moe_expert_tokens" not in names(monitor)
    load = "moe_expert_load_ratio_bucket"
    counts = [value(monitor, load, le=edge, rank="0") for edge in ("0.0", "1.0", "2.0")]
    assert counts == [2, 4, 6]
    assert value(monitor, "moe_routed_tokens_total", layer="1", rank="0") == 30
    assert value(monitor, "moe_router_loss", rank="0") == 0.25


def test_several_ranks_have_a_label_and_names_of_their_own(monitors):
    monitor = monitors(rank=3, world_size=8)
    with monitor.step(samples=2):
        monitor.record(loss=1.0)
    monitor.record_dropped_tokens(0, layer=4)
    assert value(monitor, "training_samples_total", rank="3") == 2
    assert value(monitor, "training_loss", rank="3") == 1
    assert value(monitor, f"{STEP}_bucket", rank="3", le="+Inf") == 1
    assert value(monitor, "moe_dropped_tokens_total", rank="3", layer="4") == 0
    for family in monitor.collect():
        assert all(sample.labels["rank"] == "3" for sample in family.samples)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank(0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0"}, Rank(1, 2)),
        ({"RANK": "1"}, Rank(0, 1)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, Rank(5, 6)),
        # A batch script that starts one process: no task of the eight.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Rank(0, 1)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, Rank(2, 4)),
    ],
)
def test_the_rank_is_the_launchers(environment, rank):
    assert rank_from(environment) == rank


@pytest.mark.parametrize(("number", "size"), [("x", "2"), ("2", "2"), ("-1", "2"), ("", "")])
def test_a_rank_that_cannot_be_is_none_and_said(number, size, caplog):
    assert rank_from({"RANK": number, "WORLD_SIZE": size}) == Rank()
    assert "give TrainingMonitor(rank=, world_size=)" in caplog.text


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ExporterError, match="service 'a/b' is no name"):
        TrainingMonitor("a/b")
    with pytest.raises(ExporterError, match="give both or none"):
        TrainingMonitor(rank=2)


def test_it_is_served_on_loopback_and_named(monitor):
    with monitor.step(samples=1):
        pass
    status, text = get(monitor.port)
    assert status == 200
    assert "training_samples_total 1.0" in text
    assert "process_start_time_seconds" in text  # by it the start of the counters is known


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The environment of a job's command; the folders in it."""
    for name in ("endpoints", "final"):
        (tmp_path / name).mkdir()
    (tmp_path / "password").write_text("secret\n")
    monkeypatch.setenv("JOBMETER_ENDPOINTS_DIR", str(tmp_path / "endpoints"))
    monkeypatch.setenv("JOBMETER_FINAL_METRICS", str(tmp_path / "final"))
    monkeypatch.setenv("JOBMETER_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("JOBMETER_RUN_ID", "r 1")
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_rank_is_announced_while_it_listens_and_leaves_its_last_numbers(job, monitors):
    monitor = monitors(rank=3, world_size=8)
    assert files(job / "endpoints") == ["training-rank3@n1.json"]
    text = (job / "endpoints" / "training-rank3@n1.json").read_text()
    assert text.count("\n") == 1  # the job's scripts have no JSON reader: one line, keys in order
    said = json.loads(text)
    order = "schema service node host port path auth run_id rank world_size pid"
    assert list(said) == order.split()
    assert text.startswith('{"schema": 1, "service": "training-rank3", "node": "n1"')
    assert said.pop("pid") > 0
    assert said == {
        "schema": 1,
        "service": "training-rank3",
        "node": "n1",
        "host": "127.0.0.1",
        "port": monitor.port,
        "path": "/metrics",
        "auth": "basic",
        "run_id": "r 1",
        "rank": 3,
        "world_size": 8,
    }
    assert get(monitor.port)[0] == 401
    status, text = get(monitor.port, b"jobmeter:secret")
    assert status == 200
    assert 'jobmeter_run_info{run_id="r 1"} 1.0' in text
    with monitor.step(samples=5):
        pass
    monitor.close()
    assert files(job / "endpoints") == []
    assert files(job / "final") == ["training-rank3@n1.prom"]
    left = (job / "final" / "training-rank3@n1.prom").read_text()
    assert 'training_samples_total{rank="3"} 5.0' in left
    with pytest.raises(ConnectionRefusedError):
        get(said["port"])


def test_a_port_of_the_job_file_is_not_announced_and_asks_for_nothing(job, monitors, unused_port):
    monitor = monitors(port=unused_port)
    assert monitor.port == unused_port
    assert files(job / "endpoints") == []
    assert get(unused_port)[0] == 200
    monitor.close()
    assert files(job / "final") == ["training.prom"]


@pytest.fixture
def unused_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_port_in_use_is_said_and_the_training_goes_on(job, monitors, caplog):
    taken = monitors().port
    monitor = monitors("other", taken)
    assert monitor.port is None
    assert f"127.0.0.1:{taken} is in use" in caplog.text
    with monitor.step(samples=3):
        pass
    monitor.close()
    assert "training_samples_total 3.0" in (job / "final" / "other.prom").read_text()


def test_beyond_loopback_only_with_a_password(job, monitors, monkeypatch, caplog):
    monkeypatch.setenv("JOBMETER_LISTEN_HOST", "0.0.0.0")
    monitors()
    said = json.loads((job / "endpoints" / "training@n1.json").read_text())
    assert said["host"] == "n1"
    monkeypatch.delenv("JOBMETER_PASSWORD_FILE")
    assert monitors("open").port is None
    assert "no password was given" in caplog.text
    assert files(job / "endpoints") == ["training@n1.json"]


def test_a_folder_that_cannot_be_written_is_said_once(job, monitor, caplog):
    shutil.rmtree(job / "final")
    monitor.flush()
    monitor.flush()
    assert caplog.text.count("cannot write") == 1
    assert "training@n1.prom: No such file or directory" in caplog.text


def test_scrapes_see_whole_steps(monitor):
    """What is read belongs together, whenever it is read."""
    stop = threading.Event()

    def scrape():
        seen = []
        while not stop.is_set():
            text = get(monitor.port)[1]
            found = {
                sample.name: sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
            seen.append((found[f"{STEP}_count"], found.get("training_samples_total", 0)))
        return seen

    results = []
    threads = [threading.Thread(target=lambda: results.append(scrape())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20_000):
        with monitor.step(samples=7):
            monitor.record(loss=1.0)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert sum(map(len, results)) >= 3
    for seen in results:
        assert all(samples == 7 * steps for steps, samples in seen)
        assert seen == sorted(seen)


def everything(monitor):
    for part in (monitor.forward(), monitor.backward(), monitor.optimizer()):
        with part:
            pass
    for _ in monitor.batches([1]):
        with monitor.step(tokens=1, samples=1):
            monitor.record(loss=1, accuracy=1, learning_rate=1, gradient_norm=1, epoch=1)
    with monitor.checkpoint(), monitor.validation():
        monitor.record_validation(loss=1, accuracy=1)
    monitor.record_experts([1, 2])
    monitor.record_dropped_tokens(1)
    monitor.record_router_loss(1)


def exposed(monitor):
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in monitor.collect()
    }


def test_every_family_can_be_exposed(monitors):
    one, many = monitors(), monitors("many", most_expert_series=1)
    everything(one)
    everything(many)
    assert exposed(one) | exposed(many) == set(FAMILIES)


def test_the_analysis_knows_the_names():
    """What the KPIs of a training are computed from is what is exposed here."""
    folder = Path(jobmeter_analysis.__file__).parent / "metrics"
    known = set(yaml.safe_load((folder / "training.yaml").read_text())["metrics"])
    of_serving = {"moe_cache_hits_total", "moe_cache_queries_total"}
    assert known - of_serving <= set(FAMILIES)


@pytest.mark.prometheus
def test_promtool_finds_nothing(monitors):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH")
    monitor = monitors(rank=1, world_size=2)
    everything(monitor)
    text = get(monitor.port, path="/metrics/training")[1]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    # _created is what the text format makes of the birth of a counter.
    said = [line for line in (done.stdout + done.stderr).splitlines() if "_created" not in line]
    assert said == []


PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_documented(name):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    assert FAMILIES[name].documentation in row
    for label in FAMILIES[name].labels:
        assert f"`{label}`" in row


def test_the_log_is_quiet(monitors, caplog):
    with caplog.at_level(logging.INFO):
        everything(monitors())
    assert [record.message.split(" on ")[0] for record in caplog.records] == [
        "metrics of the training"
    ]


def test_the_announcement_of_a_successor_stays(job, monitors):
    """As after a restart by torchrun, when the first process ends late."""
    first, second = monitors(), monitors()
    first.close()
    said = json.loads((job / "endpoints" / "training@n1.json").read_text())
    assert said["port"] == second.port


def test_another_number_of_experts_is_refused(monitor):
    monitor.record_experts([1, 2])
    with pytest.raises(ValueError, match="3 experts in a layer that had 2"):
        monitor.record_experts([1, 2, 3])
    assert value(monitor, "moe_expert_tokens_total", layer="0", expert="1") == 2
    with pytest.raises(ValueError, match="1 experts in a layer that had 2"):
        monitor.record_experts(Tensor([5], []))  # which tensors would add to each
    assert value(monitor, "moe_expert_tokens_total", layer="0", expert="1") == 2


@pytest.mark.parametrize(
    ("module", "make"),
    [("lightning", "lightning_callback"), ("huggingface", "huggingface_callback")],
)
def test_a_callback_without_its_framework_says_what_to_install(module, make):
    import importlib

    factory = getattr(importlib.import_module(f"jobmeter_exporters.training.{module}"), make)
    with pytest.raises(ExporterError, match="pip install"):
        factory()


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("JOBMETER_PASSWORD_FILE", "/nonexistent/file", "cannot read the password file"),
        ("JOBMETER_LISTEN_HOST", "no such host", "cannot resolve 'no such host'"),
    ],
)
def test_what_the_environment_gets_wrong_is_said(
    monitors, monkeypatch, caplog, variable, text, said
):
    monkeypatch.setenv(variable, text)
    monitor = monitors()
    assert monitor.port is None
    assert said in caplog.text
    with monitor.step(samples=1):
        pass
    assert value(monitor, "training_samples_total") == 1
