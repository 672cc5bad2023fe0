"""Gaudi devices through the real pyhlml and a stand-in for the driver's library under it."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from jobmeter_exporters import hlml
from jobmeter_exporters.errors import ExporterError

SOURCE = Path(__file__).parent / "programs" / "hlml.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) on PATH")
    path = tmp_path_factory.mktemp("hlml") / "libhlml.so"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def driver(library):
    """The state of the stand-in: ``lost`` and ``unloaded``."""
    loaded = ctypes.CDLL(str(library))

    def value(name):
        return ctypes.c_uint.in_dll(loaded, name)

    yield value
    for name in ("lost", "unloaded", "opened"):
        value(name).value = 0


@pytest.fixture
def source(library, driver, monkeypatch):
    pyhlml = hlml.load(library)
    # The path is fixed in pyhlml.
    monkeypatch.setattr(pyhlml.LibHLML.__init__, "__defaults__", (str(library),))
    reader = hlml.Hlml(pyhlml)
    yield reader
    reader.close()


def values(device):
    return {family: value for (family, labels), value in device.values.items() if not labels}


def test_everything_that_a_device_says(source):
    first, _, third = source.read()
    assert first.labels == ("0", "01P0-HL3090A0-0", "0000:33:00.0", "3", "HL-325L")
    assert third.labels == ("2", "01P0-HL3090A0-2", "0000:35:00.0", "1", "HL-325L")
    assert values(first) == {
        "hpu_utilization_percent": 90,
        "hpu_memory_used_bytes": 2**30,
        "hpu_memory_total_bytes": 128 * 2**30,
        "hpu_temperature_celsius": 50,
        "hpu_board_temperature_celsius": 40,
        "hpu_power_watts": 400.5,
        "hpu_energy_joules_total": 5000000001.5,
        "hpu_clock_hertz": 1.6e9,
        "hpu_clock_max_hertz": 1.8e9,
        "hpu_pcie_replays_total": 3,
    }
    assert first.values["hpu_ecc_errors_total", ("corrected",)] == 7
    assert first.values["hpu_ecc_errors_total", ("uncorrected",)] == 17


def test_what_is_not_supported_is_absent(source):
    _, second, third = source.read()
    absent = {"hpu_clock_hertz", "hpu_clock_max_hertz", "hpu_board_temperature_celsius"}
    assert values(third).keys() - values(second).keys() == absent


def test_a_lost_device_is_left_out_and_comes_back(source, driver):
    driver("lost").value = 0b010
    assert [device.index for device in source.read()] == ["0", "2"]
    driver("lost").value = 0
    assert [device.index for device in source.read()] == ["0", "1", "2"]


def test_no_driver_is_said_and_one_that_comes_back_is_opened_again(source, driver):
    driver("unloaded").value = 1
    with pytest.raises(ExporterError, match=r"HLML says DriverNotLoaded .*is the driver loaded"):
        source.read()
    driver("unloaded").value = 0
    assert len(source.read()) == 3
    driver("unloaded").value = 1
    with pytest.raises(ExporterError, match="DriverNotLoaded"):
        source.read()
    driver("unloaded").value = 0
    assert len(source.read()) == 3


def test_what_this_pyhlml_does_not_have_is_absent(source, monkeypatch):
    monkeypatch.delattr(source._hlml, "hlmlDeviceGetTotalEnergyConsumption")
    assert "hpu_energy_joules_total" not in values(source.read()[0])


def test_closing_releases_the_library(source, driver):
    source.read()
    assert driver("opened").value == 1
    source.close()
    source.close()
    assert driver("opened").value == 0


def test_nothing_is_printed_where_the_library_cannot_be_used(tmp_path, capfd):
    path = tmp_path / "libhlml.so"
    with pytest.raises(ExporterError, match=r"there is no .*is the Gaudi driver's software"):
        hlml.load(path)
    path.write_text("no library")
    with pytest.raises(ExporterError, match=r"cannot be loaded: .*; install it again"):
        hlml.load(path)
    assert capfd.readouterr() == ("", "")
