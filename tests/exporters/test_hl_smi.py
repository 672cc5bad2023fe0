"""Gaudi devices through a programmable hl-smi, in a collector that runs as it does in a job."""

import subprocess
from pathlib import Path

import pytest
from program_answers import Answers, put_on_path
from prometheus_client import CollectorRegistry, generate_latest
from waiting import DEADLINE_S, until

from jobmeter_exporters import hl_smi, hlml
from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData, Watched

GOLDEN = Path(__file__).parent / "golden" / "hl_smi.prom"
ROWS = (
    (
        "index\tuuid\tname\tutilization.aip [%]\tmemory.used [MiB]\tmemory.total [MiB]"
        "\ttemperature.aip [C]\tpower.draw [W]\tbus_id\tmodule_id\tclocks.current.soc [MHz]"
        "\tclocks.max.soc [MHz]\tecc.errors.corrected.volatile.total"
        "\tecc.errors.uncorrected.volatile.total"
    ),
    "0\t01P0-HL3090A0-0\tHL-325L\t90\t64000\t131072\t50\t400\t0000:33:00.0\t3\t1600\t1800\t2\t0",
    "1\t01P0-HL3090A0-1\tHL-325L\t0\t672\t131072\tN/A\t230\t0000:34:00.0\t0\t800\t1800\t0\tN/A",
)


@pytest.fixture
def answers(tmp_path, monkeypatch):
    put_on_path(monkeypatch)
    monkeypatch.setenv("HL_SMI_ANSWERS", str(tmp_path))
    answers = Answers(tmp_path, end="\n")
    answers.write("rows", "\n".join(ROWS))
    return answers


class Scraped:
    """A collector in operation, read as Prometheus would."""

    def __init__(self, collector):
        self.collector = collector
        self.registry = CollectorRegistry()
        self.registry.register(Watched({"hl-smi": collector}))

    def value(self, name, **labels):
        text = generate_latest(self.registry).decode()
        lines = [
            line
            for line in text.splitlines()
            if line.startswith((f"{name}{{", f"{name} "))
            and all(f'{key}="{value}"' in line for key, value in labels.items())
        ]
        assert len(lines) < 2, lines
        return float(lines[0].rpartition(" ")[2]) if lines else None

    def success(self):
        return self.value("jobmeter_collector_success")


@pytest.fixture
def running():
    """Return what starts a collector; ``settled`` waits for its first reading."""
    entered = []

    def run(settled=True, sources=None, **options):
        options = {"hl_smi_interval": 0.05, "hl_smi_timeout": DEADLINE_S, **options}
        options = {"hl_smi_source": "hl-smi", **options}
        settings = Settings(run_id="r1", options=options, required=settled)
        collector = hl_smi.from_settings(settings)
        entered.append(collector.__enter__())
        return Scraped(collector)

    yield run
    for collector in entered:
        collector.__exit__(None, None, None)


def exposition(running):
    lines = generate_latest(running().registry).decode().splitlines()
    times = ("hpu_data_age_seconds ", "jobmeter_collector_duration_seconds{")
    lines = [f"{line.rpartition(' ')[0]} 0.0" if line.startswith(times) else line for line in lines]
    return "\n".join(lines) + "\n"


def test_golden(answers, running, check_golden):
    check_golden(GOLDEN.name, exposition(running))


@pytest.mark.prometheus
def test_the_exposition_passes_promtool():
    subprocess.run(["promtool", "check", "metrics"], input=GOLDEN.read_bytes(), check=True)


def test_a_header_and_units_make_no_difference(answers, running, check_golden):
    answers.write("header")
    check_golden(GOLDEN.name, exposition(running))


def test_a_scrape_never_waits(answers, running):
    answers.write("hang")
    scraped = running(settled=False)
    until((answers.folder / "hanging").exists)
    assert scraped.success() == 1  # nothing is wrong yet
    assert scraped.value("hpu_source_info") is None
    assert len(answers.starts()) == 1


def test_one_that_hangs_is_killed_with_its_children_and_said(answers, running):
    answers.write("hang")
    scraped = running(hl_smi_timeout=0.3)
    assert scraped.success() == 0
    with pytest.raises(ExporterError, match=r"hl-smi took more than 0.3 s and was killed; run it"):
        list(scraped.collector.collect())
    answers.remove("hang")
    until(scraped.success)
    for pid in (answers.folder / "hanging").read_text().split():
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_old_numbers_are_left_out_and_come_back(answers, running):
    scraped = running(hl_smi_timeout=2.0)
    assert scraped.value("hpu_power_watts", index="0") == 400
    age = scraped.value("hpu_data_age_seconds")
    assert 0 <= age < DEADLINE_S
    answers.write("fail", "driver is gone")
    until(lambda: scraped.success() == 0)
    until(lambda: scraped.value("hpu_power_watts", index="0") is None)
    assert scraped.value("hpu_data_age_seconds") is None
    with pytest.raises(ExporterError, match="ended with 1 and says 'driver is gone'"):
        list(scraped.collector.collect())
    answers.remove("fail")
    assert until(lambda: scraped.value("hpu_power_watts", index="0")) == 400
    until(scraped.success)


def test_a_failure_is_logged_once(answers, running, caplog):
    answers.write("fail", "driver is gone")
    scraped = running()
    for _ in range(5):
        assert scraped.success() == 0
    assert len([r for r in caplog.records if "driver is gone" in r.getMessage()]) == 1


def test_a_device_that_disappears_has_no_series_and_is_missed(answers, running):
    scraped = running()
    assert scraped.value("hpu_power_watts", index="1") == 230
    answers.write("rows", "\n".join(ROWS[:2]))
    until(lambda: scraped.value("hpu_power_watts", index="1") is None)
    assert scraped.value("hpu_power_watts", index="0") == 400
    assert scraped.success() == 0
    with pytest.raises(ExporterError, match=r"1 of 2 devices answer, not 1 \(01P0-HL3090A0-1\)"):
        list(scraped.collector.collect())
    answers.write("rows", ROWS[0])
    until(lambda: scraped.value("hpu_power_watts", index="0") is None)
    assert scraped.success() == 0
    answers.write("rows", "\n".join(ROWS))
    until(lambda: scraped.value("hpu_power_watts", index="1") == 230)
    assert scraped.success() == 1


def test_an_old_one_is_asked_for_fewer_fields(answers, running):
    answers.write("refuse", "ecc.errors.corrected.volatile.total\nmodule_id")
    scraped = running()
    assert scraped.success() == 1
    assert scraped.value("hpu_clock_hertz", index="0", module_id="") == 1.6e9
    assert scraped.value("hpu_ecc_errors_total", severity="corrected") is None
    asked = [len(line.split()[2].split(",")) for line in answers.starts()]
    assert asked[:3] == [14, 13, 12]
    assert set(asked[2:]) == {12}  # it is not asked again for what it does not know


def test_a_failure_later_on_is_not_about_the_fields(answers, running):
    scraped = running()
    answers.write("fail", "bad")
    until(lambda: scraped.success() == 0)
    answers.remove("fail")
    until(scraped.success)
    assert {len(line.split()[2].split(",")) for line in answers.starts()} == {14}


def test_a_lost_column_is_never_another_one(answers, running):
    answers.write("shorter")
    scraped = running()
    assert scraped.success() == 0
    assert scraped.value("hpu_power_watts", index="0") is None
    with pytest.raises(ExporterError, match="printed 13 columns for 14 fields"):
        list(scraped.collector.collect())


def test_no_device_is_no_failure(answers, running):
    answers.write("rows", ROWS[0])
    scraped = running()
    assert scraped.success() == 1
    with pytest.raises(NoData, match="hl-smi lists no device"):
        list(scraped.collector.collect())


def test_no_hl_smi(tmp_path, monkeypatch, running):
    monkeypatch.setenv("PATH", str(tmp_path))
    scraped = running()
    assert scraped.success() == 0
    with pytest.raises(ExporterError, match="hl-smi is not on PATH"):
        list(scraped.collector.collect())


def test_its_logs_go_where_a_user_may_write_and_are_removed(answers, tmp_path, monkeypatch):
    monkeypatch.delenv("HABANA_LOGS", raising=False)
    source = hl_smi.HlSmi(DEADLINE_S)
    source.read()
    folder = Path(source._environment()["HABANA_LOGS"])
    assert folder.is_dir()
    source.close()
    assert not folder.exists()
    monkeypatch.setenv("HABANA_LOGS", "/own")
    assert source._environment() == {}


def test_its_logs_do_not_grow(answers, monkeypatch):
    monkeypatch.delenv("HABANA_LOGS", raising=False)
    monkeypatch.setattr(hl_smi, "LARGEST_LOGS_BYTES", 5000)
    source = hl_smi.HlSmi(DEADLINE_S)
    answers.write("logs", "2000")
    sizes = []
    for _ in range(4):
        source.read()
        files = Path(source._environment()["HABANA_LOGS"]).rglob("*.log")
        sizes.append(sum(path.stat().st_size for path in files))
    source.close()
    assert sizes == [2000, 4000, 0, 2000]


def test_hlml_is_asked_for_and_not_there(tmp_path, monkeypatch, running):
    monkeypatch.setattr(hlml.load, "__defaults__", (tmp_path / "libhlml.so",))
    scraped = running(hl_smi_source="hlml")
    assert scraped.success() == 0
    with pytest.raises(ExporterError, match=r"there is no .*libhlml.so; is the Gaudi driver's"):
        list(scraped.collector.collect())


class Broken:
    """A source that never answers."""

    source = "broken"

    def read(self):
        raise ExporterError("broken for good")

    def close(self):
        pass


def test_the_next_source_is_taken_when_the_first_is_broken(answers):
    with hl_smi.Hpus([Broken(), hl_smi.HlSmi(DEADLINE_S)], 600, DEADLINE_S, True) as collector:
        assert Scraped(collector).value("hpu_source_info", source="hl-smi") == 1


def test_all_sources_are_named_when_none_works(answers):
    answers.write("fail", "no driver")
    both = [Broken(), hl_smi.HlSmi(DEADLINE_S)]
    wanted = pytest.raises(ExporterError, match=r"broken for good; hl-smi ended with 1")
    with hl_smi.Hpus(both, 600, DEADLINE_S, True) as collector, wanted:
        list(collector.collect())
