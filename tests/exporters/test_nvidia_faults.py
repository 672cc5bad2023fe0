"""Drivers, GPUs and values that are not there, or go away."""

import time

import pytest
from nvml_node import ALL_LINKS, DEADLINE_S, H100, Node, build_library

from jobmeter_exporters.nvidia import LOOK_AGAIN_S, TRY_AGAIN_S
from jobmeter_exporters.nvidia_answers import ASK_AGAIN_S, Answers, GpuLost


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"init": "error 9"}, "Driver Not Loaded (9): the driver is not loaded"),
        ({"init": "error 18"}, "different versions"),
        ({"init": "error 999"}, "Unknown Error (999): try nvidia-smi"),
        ({"driver": "error 1"}, "Uninitialized (1)"),
    ],
)
def test_no_driver_is_said_once_and_asked_for_again(node, lines, words):
    node.say(lines)
    with node.scraper() as scraper:
        first, second = scraper.scrape(1), scraper.scrape(1)
        node.say(dict.fromkeys(lines) | {"driver": "580.105.05"})
        before, then = scraper.scrape(1), scraper.scrape(TRY_AGAIN_S)
    assert (first.success, first.lines) == (False, [])
    assert len(first.log) == 1
    assert words in first.log[0]
    assert (second.success, second.log) == (False, [])
    assert not before.success  # asked once a minute, not at every scrape
    assert then.success
    assert len(then.values("DCGM_FI_DEV_POWER_USAGE")) == 4


def test_no_library(tmp_path):
    with Node(tmp_path / "node", None).scraper() as scraper:
        scrape, again = scraper.scrape(), scraper.scrape()
    assert not scrape.success
    assert "libnvidia-ml.so.1 is not found" in scrape.log[0]
    assert again.log == []


def test_no_gpu_is_no_error(node):
    node.say({"count": 0})
    with node.scraper() as scraper:
        scrape, again = scraper.scrape(), scraper.scrape()
    assert (scrape.success, scrape.lines) == (True, [])
    assert scrape.log == ["INFO nvidia: no data: NVML sees no GPU"]
    assert again.log == []


def test_a_gpu_that_falls_off_the_bus_is_gone_alone_and_its_last_xid_stays(node):
    with node.scraper() as scraper:
        before = scraper.scrape()
        node.say({"2.xid": "1:79"})
        scraper.scrape()
        node.say({"2.all": "error 15"})
        lost, still = scraper.scrape(), scraper.scrape()
        node.take_calls()
        scraper.scrape()
        asked = node.take_calls()
        longer = scraper.scrape(TRY_AGAIN_S)  # looked for, and still lost
        node.say({"2.all": None})
        back = scraper.scrape(TRY_AGAIN_S)
    assert {line.partition("{")[0] for line in lost.lines if 'gpu="2"' in line} == {
        "DCGM_FI_DEV_XID_ERRORS"
    }
    assert lost.values("DCGM_FI_DEV_XID_ERRORS", gpu="2") == [79]
    assert len(lost.values("DCGM_FI_DEV_POWER_USAGE")) == 3
    assert not lost.success
    assert lost.log == [
        "WARNING nvidia: GPU 2: GPU_IS_LOST; all else is complete, nvidia-smi may tell more"
    ]
    assert (still.success, still.log) == (False, [])
    assert (longer.success, longer.log, longer.families) == (False, [], lost.families)
    assert longer.values("DCGM_FI_DEV_XID_ERRORS", gpu="2") == [79]
    assert not [call for call in asked if call.startswith("2.") and call != "2.xid"]
    assert back.success
    assert back.families == before.families
    assert len(back.values("DCGM_FI_DEV_POWER_USAGE")) == 4


def test_a_driver_that_is_loaded_anew_is_begun_with_anew(node):
    with node.scraper() as scraper:
        node.say({f"{gpu}.all": "error 1" for gpu in range(4)} | {"driver": "error 1"})
        gone, still = scraper.scrape(), scraper.scrape(TRY_AGAIN_S)
        node.take_calls()
        node.say({f"{gpu}.all": None for gpu in range(4)} | {"driver": "590.1"})
        back = scraper.scrape(TRY_AGAIN_S)
    assert (gone.lines, still.lines) == ([], [])
    assert "GPU 0: UNINITIALIZED; GPU 1: UNINITIALIZED" in gone.log[0]
    assert "NVML: Uninitialized (1)" in still.log[0]
    assert "init" in node.take_calls()
    assert back.values("DCGM_FI_DEV_POWER_USAGE", DCGM_FI_DRIVER_VERSION="590.1") == [600.123] * 4


def test_a_gpu_that_comes_back_begins_anew(node):
    """No mean reaches over its reset, and its errors are told again."""
    with node.scraper() as scraper:
        node.say({"2.all": "error 15"})
        scraper.scrape()
        node.take_calls()
        node.say({"2.all": None, "*.gpm.clock": 165, "*.gpm.2": 650})
        back = scraper.scrape(TRY_AGAIN_S)
        asked = node.take_calls()
        node.say({"*.gpm.clock": 170, "*.gpm.2": 1150, "2.xid": "1:94"})
        later = scraper.scrape()
    assert back.values("DCGM_FI_PROF_SM_ACTIVE") == [pytest.approx(0.1)] * 3
    assert back.values("DCGM_FI_PROF_SM_ACTIVE", gpu="2") == []
    assert "2.events" in asked
    assert later.values("DCGM_FI_PROF_SM_ACTIVE") == [1] * 4
    assert later.values("DCGM_FI_DEV_XID_ERRORS", gpu="2") == [94]


def test_a_gpu_that_is_lost_without_an_xid_leaves_nothing(node):
    with node.scraper() as scraper:
        node.say({"1.power": "error 16"})
        scrape = scraper.scrape()
    assert not [line for line in scrape.lines if 'gpu="1"' in line]
    assert "GPU 1: RESET_REQUIRED" in scrape.log[0]


def test_a_gpu_that_is_lost_when_we_begin_is_named_and_the_others_go_on(node):
    node.say({"3.handle": "error 15"})
    with node.scraper() as scraper:
        scrape = scraper.scrape()
    assert len(scrape.values("DCGM_FI_DEV_POWER_USAGE")) == 3
    assert not scrape.success
    assert "GPU 3: GPU_IS_LOST" in scrape.log[0]


def test_a_gpu_that_the_control_group_forbids_is_not_ours(node):
    node.say({"0.handle": "error 4", "1.handle": "error 4"})
    with node.scraper() as scraper:
        scrape = scraper.scrape()
    assert scrape.success
    assert len(scrape.values("DCGM_FI_DEV_POWER_USAGE")) == 2


def test_what_is_refused_is_not_asked_for_at_every_scrape(node):
    node.say({"*.encoder": "error 3", "*.field.82": "error 2", "*.gpm": "error 3"})
    with node.scraper() as scraper:
        scraper.scrape()
        node.take_calls()
        scrape = scraper.scrape()
        asked = node.take_calls()
        node.say({"*.encoder": "20", "*.field.82": "70"})
        later = scraper.scrape(ASK_AGAIN_S)
    assert scrape.success
    assert not [call for call in asked if call.endswith((".encoder", ".field.82", ".gpm"))]
    assert "0.decoder" in asked
    assert later.values("DCGM_FI_DEV_ENC_UTIL") == [20] * 4
    assert later.values("DCGM_FI_DEV_MEMORY_TEMP") == [70] * 4


def test_few_questions_for_each_scrape(node):
    with node.scraper() as scraper:
        scraper.scrape()
        node.take_calls()
        scraper.scrape()
        asked = node.take_calls()
    of_one = [call for call in asked if call.startswith("0.") and ".field." not in call]
    assert len([call for call in of_one if call.startswith("0.fields")]) == 1
    assert len(of_one) <= 18, of_one  # three of them one call for memory, two for utilisation


@pytest.mark.parametrize("code", [10, 999])
def test_what_goes_wrong_with_one_value_is_said_and_the_others_are_there(node, code):
    node.say({"1.temperature": f"error {code}", "0.field.83": f"error {code}"})
    with node.scraper() as scraper:
        scrape, again = scraper.scrape(), scraper.scrape()
        node.say({"1.temperature": "61", "0.field.83": "7"})
        well = scraper.scrape()
    assert not scrape.success
    assert len(scrape.values("DCGM_FI_DEV_GPU_TEMP")) == 3
    assert len(scrape.values("DCGM_FI_DEV_POWER_USAGE")) == 4
    assert f"GPU 0: field 83: NVML error ({code}); GPU 1: temperature: " in scrape.log[0]
    assert again.log == []
    assert well.success
    assert well.values("DCGM_FI_DEV_GPU_TEMP", gpu="1") == [61]


def test_what_fails_now_is_not_tried_the_old_way(node):
    node.say({"*.clock_reasons": "error 10"})
    with node.scraper() as scraper:
        scraper.scrape()
        node.take_calls()
        scraper.scrape()
        assert node.take_calls().count("0.clock_reasons") == 1


def test_a_driver_of_2018_gives_what_it_has(tmp_path):
    """No GPM, no second version of memory, other names; one new field spoils the whole batch."""
    node = Node(tmp_path / "node", build_library(tmp_path / "old", "-DOLD_DRIVER"))
    with node.scraper() as scraper:
        scrape = scraper.scrape()
        node.take_calls()
        again = scraper.scrape()
        asked = node.take_calls()
    assert (scrape.success, scrape.log) == (True, [])
    assert scrape.values("DCGM_FI_DEV_CLOCKS_EVENT_REASONS") == [4] * 4
    assert scrape.values("DCGM_FI_DEV_FB_USED") == [1600] * 4  # with what the driver reserves
    assert scrape.values("DCGM_FI_DEV_FB_TOTAL") == [81920] * 4
    assert scrape.values("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION") == [1000600000] * 4
    assert not {"DCGM_FI_DEV_FB_RESERVED", "DCGM_FI_DEV_POWER_USAGE_INSTANT"} & scrape.families
    assert not [family for family in scrape.families if "PROF" in family]
    assert again.families == scrape.families
    assert len([call for call in asked if ".fields" in call]) == 4  # one batch for each again


def test_a_gpu_that_knows_no_field_at_all_is_not_asked_again(node):
    refused = {key: "error 3" for key in H100 if ".field." in key}
    node.say({**refused, f"*.field.138.{ALL_LINKS}": "error 3"})
    with node.scraper() as scraper:
        scraper.scrape()
        node.take_calls()
        scrape = scraper.scrape()
        assert not [call for call in node.take_calls() if ".fields" in call]
    assert scrape.values("DCGM_FI_DEV_POWER_USAGE") == [600.123] * 4


def test_a_driver_that_hangs_holds_no_scrape_and_what_comes_late_is_dropped(node):
    with node.scraper(JOBMETER_TEST_LONGEST_S="0.1") as scraper:
        node.say({"1.temperature": "hang"})
        scrape, again = scraper.scrape(), scraper.scrape()
        node.say({"1.temperature": "60"})
        deadline = time.monotonic() + DEADLINE_S
        while not (later := scraper.scrape()).success:
            assert time.monotonic() < deadline
    assert (scrape.success, scrape.lines) == (False, [])
    assert "the driver does not answer" in scrape.log[0]
    assert (again.lines, again.log) == ([], [])
    assert len(later.values("DCGM_FI_DEV_GPU_TEMP")) == 4


def test_a_driver_that_hangs_holds_no_end(node):
    with node.scraper(JOBMETER_TEST_LONGEST_S="0.1") as scraper:
        node.say({"*.power": "hang"})
        assert not scraper.scrape().success


def test_instances_that_come_later_are_found(node):
    node.say({"count": 1})
    with node.scraper() as scraper:
        whole = scraper.scrape()
        node.say({"0.mig_mode": 1, "0.mig_count": 7, "0/0.gi": 3, "0/0.uuid": "MIG-a"})
        node.say({"0/0.name": "H100 MIG 3g.40gb", "*/*.memory_total": 2**30})
        node.say({"*/*.memory_used": 2**20, "*/*.memory_reserved": 0})
        cut = scraper.scrape(LOOK_AGAIN_S)
    assert whole.values("DCGM_FI_DEV_FB_TOTAL") == [81920]
    assert cut.values("DCGM_FI_DEV_FB_TOTAL", GPU_I_PROFILE="3g.40gb", GPU_I_ID="3") == [1024]
    assert len(cut.values("DCGM_FI_DEV_FB_TOTAL")) == 1


class RefusedError(Exception):
    """Stands in for pynvml.NVMLError."""

    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


class StandIn:
    NVMLError = RefusedError


def refusing(code):
    raise RefusedError(code)


def test_a_refusal_is_believed_for_a_while_and_others_are_not():
    now = [0.0]
    answers = Answers(StandIn, lambda: now[0])
    assert answers.ask("x", refusing, 3) is None
    assert not answers.wants("x")
    assert answers.ask("x", lambda: 1) is None
    assert answers.ask("y", lambda: 1) == 1
    now[0] = ASK_AGAIN_S
    assert answers.ask("x", lambda: 1) == 1
    for code in (2, 4, 13, 25, 26):
        assert answers.ask(f"code {code}", refusing, code) is None
        assert not answers.wants(f"code {code}")
    for code in (0, 6, 21):
        assert answers.ask("x", refusing, code) is None
        assert answers.wants("x")
    assert answers.problems == []
    assert answers.ask("x", refusing, 999) is None
    assert answers.problems == ["x: code 999 (999)"]
    with pytest.raises(GpuLost, match="GPU_IS_LOST"):
        answers.ask("x", refusing, 15)
