"""What versions of hl-smi print, and what must never be guessed."""

from pathlib import Path

import pytest

from jobmeter_exporters.errors import CommandError
from jobmeter_exporters.hl_smi_text import FIELDS, command, fewer, parse

FIXTURES = Path(__file__).parents[1] / "fixtures" / "hl-smi"
GAUDI3 = ["index", "uuid", "name", "driver_version"]
GAUDI3 += ["memory.total", "memory.used", "memory.free"]
GAUDI3 += ["power.draw", "power.max", "temperature.aip", "utilization.aip"]
MIB = 2**20


def values(device):
    return {family: value for (family, _), value in device.values.items()}


def test_gaudi3_without_a_header_and_with_units():
    first, second = parse((FIXTURES / "gaudi3-1.22.csv").read_text(), GAUDI3)
    assert (first.index, first.name) == ("0", "HL-325L")
    assert second.uuid == "01P4-HL3090A0-18-U4V298-03-04-04"
    assert (second.bus_id, second.module_id) == ("", "")
    assert values(second) == {
        "hpu_memory_total_bytes": 131072 * MIB,
        "hpu_memory_used_bytes": 672 * MIB,
        "hpu_power_watts": 230,
        "hpu_temperature_celsius": 39,
        "hpu_utilization_percent": 0,
    }


def test_gaudi1_with_a_header_though_none_was_asked_for():
    devices = parse((FIXTURES / "gaudi1-1.18.csv").read_text(), list(FIELDS))
    assert [device.index for device in devices] == list("01234567")  # rows are in their order
    assert devices[1].uuid == "00P1-HL2000A1-14-P64W98-10-03-11"
    assert values(devices[1]) == {
        "hpu_memory_total_bytes": 32768 * MIB,
        "hpu_memory_used_bytes": 512 * MIB,
        "hpu_power_watts": 103,
        "hpu_temperature_celsius": 32,
        "hpu_utilization_percent": 15,
    }


def test_a_header_decides_the_order_and_comes_again():
    text = "power.draw [mW], index\n1500, 0\npower.draw [mW], index\n2500, 1\n"
    first, second = parse(text, ["index", "power.draw"])
    assert (first.index, values(first)) == ("0", {"hpu_power_watts": 1.5})
    assert (second.index, values(second)) == ("1", {"hpu_power_watts": 2.5})


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ("memory.used", "672 MiB", 672 * MIB),
        ("memory.used", "672Mib", 672 * MIB),
        ("memory.used", "1.5 GiB", 1.5 * 2**30),
        ("memory.used", "672", 672 * MIB),
        ("power.draw", "226 W", 226),
        ("utilization.aip", "7 %", 7),
        ("utilization.aip", "7%", 7),
        ("temperature.aip", "36 C", 36),
        ("clocks.current.soc", "1650 MHz", 1.65e9),
        ("clocks.max.soc", "1.65GHz", 1.65e9),
        ("ecc.errors.corrected.volatile.total", "3", 3),
    ],
)
def test_numbers(field, cell, value):
    (device,) = parse(f"0, {cell}\n", ["index", field])
    assert list(device.values.values()) == [pytest.approx(value)]


@pytest.mark.parametrize(
    "cell", ["N/A", "n/a", "[N/A]", "[Not Supported]", "Not Supported", "-", "", "nan", "ERR!"]
)
@pytest.mark.parametrize("field", ["power.draw", "bus_id", "module_id"])
def test_what_it_does_not_say_is_absent(field, cell):
    (device,) = parse(f'0, "{cell}"\n', ["index", field])
    assert device.values == {}
    assert (device.bus_id, device.module_id) == ("", "")


def test_a_device_without_an_index_is_left_out():
    assert [device.index for device in parse("0, 5\nN/A, 6\n", ["index", "power.draw"])] == ["0"]


@pytest.mark.parametrize(
    "text",
    [
        "0, 102, 29\n",  # a column more
        "0\n1\n",  # only one
        "0, 226 horses\n",
        "0, 12 MiB\n",  # the unit of another column
        "0, HL-325L\n",
        "a, 5\n",
        "0, 1e999\n",
    ],
)
def test_what_could_be_another_column_is_refused(text):
    with pytest.raises(CommandError, match="hl-smi"):
        parse(text, ["index", "power.draw"])


def test_shifted_names_are_refused():
    with pytest.raises(CommandError, match="printed 'HL-325L' for bus_id"):
        parse("0, HL-325L, 0000:33:00.0\n", ["index", "bus_id", "name"])


def test_words_instead_of_rows():
    with pytest.raises(CommandError, match="lists no device and says 'No devices found'"):
        parse("No devices found\n", ["index", "power.draw"])
    assert parse("\n", ["index", "power.draw"]) == []
    warned = "habana driver is old\n0, 5\n"
    assert len(parse(warned, ["index", "power.draw"])) == 1


def test_commas_in_a_name():
    (device,) = parse('0, "HL-205, PCIe"\n', ["index", "name"])
    assert device.name == "HL-205, PCIe"


def test_a_refused_field_is_left_out():
    asked = tuple(FIELDS)
    without = fewer(asked, "ERROR: unknown field clocks.max.soc.")
    assert set(asked) - set(without) == {"clocks.max.soc"}


def test_an_unclear_refusal_leaves_out_what_is_new_until_nothing_is_left_to():
    asked = tuple(FIELDS)
    seen = [asked]
    while seen[-1]:
        seen.append(fewer(seen[-1], "invalid name, see index"))
    assert [len(fields) for fields in seen] == [14, 12, 10, 8, 0]
    assert seen[-2][:3] == ("index", "uuid", "name")


def test_the_command():
    assert command(["index", "uuid"]) == (
        "hl-smi",
        "-Q",
        "index,uuid",
        "-f",
        "csv,noheader,nounits",
    )
