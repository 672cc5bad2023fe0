"""Readings between two scrapes."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmeter_exporters.nvidia import TRY_AGAIN_S
from jobmeter_exporters.nvidia_sampler import Extent, interval

POWER = "nvidia_sampled_power_watts"
UTILIZATION = "nvidia_sampled_utilization_ratio"
FAST = ("--nvidia-sample-interval", "50ms")


def extent(scrape, family, gpu="0"):
    return [scrape.values(f"{family}_{part}", gpu=gpu) for part in ("min", "mean", "max")]


def test_a_spike_between_two_scrapes_is_seen(node):
    with node.scraper(*FAST) as scraper:
        for watts in (100, 100, 900, 100):
            node.say({"*.field.186": watts * 1000, "1.field.186": "50000"})
            scraper.sample(0.05)
        scrape = scraper.scrape()
    assert extent(scrape, POWER) == [[100], [pytest.approx(1100 / 3)], [900]]
    assert extent(scrape, POWER, "1") == [[50], [50], [50]]
    assert scrape.values("nvidia_sampled_readings") == [4] * 4


def test_the_mean_is_over_time_and_begins_anew_at_each_scrape(node):
    """A reading that came late counts for longer; time between two takings is not lost."""
    with node.scraper(*FAST) as scraper:
        for watts, seconds in ((500, 0.05), (100, 0.05), (400, 0.10)):
            node.say({"*.field.186": watts * 1000})
            scraper.sample(seconds)
        first = scraper.scrape(0)
        for watts, seconds in ((200, 1), (800, 0.5)):
            node.say({"*.field.186": watts * 1000})
            scraper.sample(seconds)
        second = scraper.scrape(0)
        third = scraper.scrape(0)
    assert extent(first, POWER) == [[100], [pytest.approx(300)], [500]]
    assert extent(second, POWER) == [[200], [pytest.approx(400)], [800]]
    assert extent(third, POWER) == [[], [], []]  # another scraper got it; nothing since then
    assert third.success


def test_utilisation_is_from_the_samples_of_the_driver_each_once(node):
    """Their own times are their weights; what came before we began is left out."""
    node.say({"*.samples.1": "1000000:99,2000000:99"})
    with node.scraper(*FAST) as scraper:
        node.say({"*.samples.1": "1000000:99,2000000:99,3000000:10,6000000:50,6100000:255"})
        first = scraper.scrape()
        node.say({"*.samples.1": "3000000:10,6000000:50,8000000:30"})
        second = scraper.scrape()
        third = scraper.scrape()
    assert extent(first, UTILIZATION) == [[0.1], [pytest.approx(0.4)], [0.5]]
    assert extent(second, UTILIZATION) == [[0.3], [0.3], [0.3]]
    assert extent(third, UTILIZATION) == [[], [], []]


def test_utilisation_of_before_we_began_is_left_out(node):
    node.say({"init": "error 9", "*.samples.1": "1000000:99"})
    with node.scraper(*FAST) as scraper:
        node.say({"init": None})
        first, still = scraper.scrape(TRY_AGAIN_S), scraper.scrape()
        node.say({"*.samples.1": "1000000:99,2000000:20"})
        then = scraper.scrape()
    assert extent(first, UTILIZATION) == extent(still, UTILIZATION) == [[], [], []]
    assert extent(then, UTILIZATION) == [[0.2], [0.2], [0.2]]


def test_a_driver_that_keeps_no_samples_is_read_as_often_as_power(node):
    node.say({"*.samples.1": "error 3"})
    with node.scraper(*FAST) as scraper:
        for percent in (10, 90):
            node.say({"*.utilization": percent})
            scraper.sample()
        scrape = scraper.scrape()
    assert extent(scrape, UTILIZATION) == [[0.1], [0.9], [0.9]]


def test_old_gpus_have_only_the_other_power(node):
    node.say({"*.field.186": "error 3", "*.power": "250000"})
    with node.scraper(*FAST) as scraper:
        scraper.sample()
        scrape = scraper.scrape()
    assert extent(scrape, POWER) == [[250], [250], [250]]


def test_no_power_no_families(node):
    node.say({"*.field.186": "error 3", "*.power": "error 3", "*.samples.1": "error 3"})
    node.say({"*.utilization": "error 3"})
    with node.scraper(*FAST) as scraper:
        scraper.sample()
        scrape = scraper.scrape()
    assert scrape.success
    assert not [family for family in scrape.families if "sampled" in family]


def test_a_lost_gpu_does_not_end_the_sampler(node):
    with node.scraper(*FAST) as scraper:
        scraper.sample()
        node.say({"0.all": "error 15"})
        scraper.sample()
        scraper.sample()
        scrape = scraper.scrape()
    assert scrape.values("nvidia_sampled_readings") == [3] * 3


def test_without_the_option_nothing_is_sampled(node):
    with node.scraper() as scraper:
        scrape = scraper.scrape()
        asked = node.take_calls()
    assert not [family for family in scrape.families if "sampled" in family]
    assert not [call for call in asked if "samples" in call]


@given(
    st.lists(
        st.tuples(st.floats(1e-3, 10), st.floats(0, 1000)),
        min_size=1,
        max_size=30,
    ),
    st.integers(0, 30),
)
def test_extents_taken_in_two_parts_are_the_whole(readings, cut):
    whole, parts, at = Extent(0.0), [Extent(0.0)], 0.0
    for number, (seconds, value) in enumerate(readings):
        if number == cut:
            parts.append(Extent(parts[-1].last_s))
        at += seconds
        whole.add(at, value)
        parts[-1].add(at, value)
    parts = [part for part in parts if part.count]
    assert whole.least == min(part.least for part in parts)
    assert whole.largest == max(part.largest for part in parts)
    assert sum(part.seconds for part in parts) == pytest.approx(at)
    assert sum(part.mean * part.seconds for part in parts) == pytest.approx(whole.mean * at)


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("0.5s", 0.5), ("10s", 10), ("10ms", 0.01)]
)
def test_intervals(text, seconds):
    assert interval(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "50", "5ms", "11s", "-1s", "1m", "nan", "1e3ms", "\u0665\u0660ms"]
)
def test_no_interval(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"write it as 50ms or 0\.5s"):
        interval(text)
