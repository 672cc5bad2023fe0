"""What our exporter of Gaudis really answers becomes KPIs: no name or label is lost on the way."""

from pathlib import Path

import pytest
from attempts import write_blocks
from devices import WINDOW, rows, samples
from replay import Page

from jobmeter_analysis.engine import analyze_recording
from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

pytestmark = pytest.mark.prometheus

GOLDEN = Path(__file__).parents[1] / "exporters" / "golden"
MIB = 2**20


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    """A node whose golden exposition was scraped for a minute; one device counts errors."""
    folder = tmp_path_factory.mktemp("hl-smi") / "data"
    golden = Page.of((GOLDEN / "hl_smi.prom").read_text())

    def at(seconds):
        return golden.copy().add("hpu_ecc_errors_total", seconds, index="0", severity="uncorrected")

    write_blocks(samples(at, "n1", "hl-smi"), folder)
    return analyze_recording(PrometheusFolder(folder), WINDOW, "replay")


def values(analysis, kpi):
    return {entity: row["value"] for entity, row in rows(analysis, kpi, scope="device").items()}


@pytest.mark.parametrize(
    ("kpi", "first", "second"),
    [
        ("hpu_utilization_ratio_mean", 0.9, 0.0),
        ("hpu_memory_used_bytes_mean", 64000 * MIB, 672 * MIB),
        ("hpu_memory_total_bytes", 131072 * MIB, 131072 * MIB),
        ("hpu_power_watts_mean", 400, 230),
        ("hpu_energy_joules", 400 * 60, 230 * 60),
        ("hpu_clock_hertz_mean", 1.6e9, 0.8e9),
        ("hpu_clock_max_hertz", 1.8e9, 1.8e9),
        ("hpu_ecc_corrected_errors_total", 0, 0),
    ],
)
def test_each_device_has_its_own(analysis, kpi, first, second):
    found = values(analysis, kpi)
    assert found == {"hpu0@n1": pytest.approx(first), "hpu1@n1": pytest.approx(second)}


def test_what_one_device_does_not_say_is_absent_there_only(analysis):
    temperatures = rows(analysis, "hpu_temperature_celsius_max", scope="device")
    assert temperatures["hpu0@n1"]["value"] == 50
    assert temperatures["hpu1@n1"]["status"] == "unavailable"
    assert values(analysis, "hpu_ecc_uncorrected_errors_total")["hpu0@n1"] == pytest.approx(60)


def test_totals_of_the_node(analysis):
    assert rows(analysis, "hpu_power_watts_mean", scope="node")["n1"]["value"] == pytest.approx(630)
