"""Comparisons of entities: two, three, many, all alike, none, certain and uncertain numbers."""

import math
import random

import pytest

from jobmeter_analysis.catalogue import Kpi, load_catalogue
from jobmeter_analysis.estimate import Estimate, exact, unavailable
from jobmeter_analysis.spread import spread


def kpi(better="higher"):
    return Kpi(unit="watts", help="", statistic="mean", metric="m", spread=better)


def compared(numbers, better="higher", scope="device"):
    """Return the lines by KPI and entity, of entities called a, b, c, ..."""
    entities = [(chr(ord("a") + at), number) for at, number in enumerate(numbers)]
    return {(line.kpi, line.entity): line for line in spread("x", kpi(better), scope, entities)}


def numbers_of(lines, name, entity="job"):
    one = lines[name, entity].number
    return one.low, one.value, one.high, one.status


def scores(lines):
    return {entity: line.number for (name, entity), line in lines.items() if "score" in name}


def bounded(low, value, high):
    return Estimate(value, low, high, "bounded", 1.0, 5, frozenset({"recording"}))


@pytest.mark.parametrize("numbers", [[], [exact(1.0)], [exact(1.0), unavailable("sample_gap")]])
def test_fewer_than_two_are_not_compared(numbers):
    assert not compared(numbers)


def test_two():
    lines = compared([exact(3.0), exact(1.0)])
    assert numbers_of(lines, "x_across_devices_min") == (1, 1, 1, "exact")
    assert numbers_of(lines, "x_across_devices_mean") == (2, 2, 2, "exact")
    assert numbers_of(lines, "x_across_devices_max") == (3, 3, 3, "exact")
    assert numbers_of(lines, "x_across_devices_variation_ratio") == (0.5, 0.5, 0.5, "exact")
    assert numbers_of(lines, "x_score_ratio", "a") == (1, 1, 1, "exact")
    assert numbers_of(lines, "x_score_ratio", "b") == pytest.approx((1 / 3,) * 3 + ("exact",))
    assert not any("outlier" in line.number.reasons for line in lines.values())


def test_units_scopes_and_names():
    lines = compared([exact(3.0), exact(1.0)], scope="rank")
    assert {(line.kpi, line.unit, line.scope) for line in lines.values()} == {
        ("x_across_ranks_min", "watts", "job"),
        ("x_across_ranks_mean", "watts", "job"),
        ("x_across_ranks_max", "watts", "job"),
        ("x_across_ranks_variation_ratio", "ratio", "job"),
        ("x_score_ratio", "ratio", "rank"),
    }


def test_less_may_be_better():
    found = scores(compared([exact(2.0), exact(4.0), exact(8.0)], "lower"))
    assert {name: one.value for name, one in found.items()} == {"a": 1, "b": 0.5, "c": 0.25}


def test_three_alike():
    lines = compared([exact(7.0)] * 3)
    assert numbers_of(lines, "x_across_devices_variation_ratio") == (0, 0, 0, "exact")
    assert all((one.low, one.value, one.high) == (1, 1, 1) for one in scores(lines).values())


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_nothing_at_all_is_as_good_as_nothing(better):
    lines = compared([exact(0.0)] * 3, better)
    assert all(one.value == 1 and not one.reasons for one in scores(lines).values())
    variation = lines["x_across_devices_variation_ratio", "job"].number
    assert (variation.status, variation.reasons) == ("unavailable", {"zero_denominator"})


def test_a_zero_among_others():
    more = scores(compared([exact(0.0), exact(5.0)], "higher"))
    assert (more["a"].value, more["b"].value) == (0, 1)
    less = scores(compared([exact(0.0), exact(5.0)], "lower"))
    assert (less["a"].value, less["b"].value) == (1, 0)


def test_many_with_one_straggler():
    lines = compared([exact(100.0 + at % 3) for at in range(15)] + [exact(60.0)])
    assert [one for one, score in scores(lines).items() if score.reasons] == ["p"]
    assert scores(lines)["p"].reasons == {"outlier"}
    assert scores(lines)["p"].value == pytest.approx(60 / 102)


@pytest.mark.parametrize(
    ("values", "outliers"),
    [
        ([1.0, 1.0, 0.5], "c"),
        ([1.0, 0.8, 0.5], ""),  # no two alike: nobody stands out
        ([1.0, 1.0, 1.0, 0.95], ""),  # less than a tenth
        ([0.0, 0.0, 0.0, 5.0], "d"),
        ([1.0, 0.1], ""),
        ([10.0, 10.1, 9.9, 10.0, 30.0, 2.0], "ef"),  # on either side
    ],
)
def test_outliers(values, outliers):
    found = scores(compared([exact(value) for value in values]))
    assert "".join(name for name, one in found.items() if "outlier" in one.reasons) == outliers


def test_bounds_of_scores():
    """Of all numbers in their intervals, those that make a score smallest and largest."""
    lines = compared([bounded(90, 100, 110), bounded(40, 50, 60)])
    assert numbers_of(lines, "x_score_ratio", "a") == (1, 1, 1, "bounded")  # nobody can be better
    assert numbers_of(lines, "x_score_ratio", "b") == pytest.approx(
        (40 / 110, 0.5, 60 / 90, "bounded")
    )
    lines = compared([bounded(90, 100, 110), bounded(80, 95, 120)])
    assert numbers_of(lines, "x_score_ratio", "a") == (90 / 120, 1, 1, "bounded")
    assert numbers_of(lines, "x_score_ratio", "b") == pytest.approx((80 / 110, 0.95, 1, "bounded"))


def test_bounds_of_scores_where_less_is_better():
    lines = compared([bounded(1, 2, 3), bounded(4, 5, math.inf)], "lower")
    assert numbers_of(lines, "x_score_ratio", "a") == (1, 1, 1, "bounded")
    assert numbers_of(lines, "x_score_ratio", "b") == pytest.approx((0, 0.4, 0.75, "bounded"))


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize("seed", range(20))
def test_scores_of_what_may_be_true_lie_in_their_bounds(better, seed):
    rng = random.Random(seed)
    numbers = []
    for _ in range(5):
        low, value, high = sorted(rng.uniform(1, 10) for _ in range(3))
        numbers.append(bounded(low, value, high))
    promised = scores(compared(numbers, better))
    for _ in range(50):
        true = [exact(rng.uniform(one.low, one.high)) for one in numbers]
        for name, one in scores(compared(true, better)).items():
            assert promised[name].low - 1e-12 <= one.value <= promised[name].high + 1e-12
    assert all(one.low <= one.value <= one.high for one in promised.values())


def test_unbounded_numbers():
    """Samples bound a peak from below only."""
    lines = compared([bounded(10, 10, math.inf), bounded(5, 5, math.inf)])
    assert numbers_of(lines, "x_score_ratio", "a") == (0, 1, 1, "bounded")
    assert numbers_of(lines, "x_score_ratio", "b") == (0, 0.5, 1, "bounded")
    assert numbers_of(lines, "x_across_devices_max") == (10, 10, math.inf, "bounded")


def test_numbers_without_an_interval():
    vague = Estimate(50.0, math.nan, math.nan, "estimated")
    lines = compared([vague, exact(100.0), exact(200.0)])
    found = scores(lines)
    assert found["a"].value == 0.25
    assert all(math.isnan(one.low) and math.isnan(one.high) for one in found.values())
    assert all(one.status == "estimated" for one in found.values())
    variation = lines["x_across_devices_variation_ratio", "job"].number
    assert variation.status == "estimated"
    assert math.isnan(variation.low)


def test_one_without_a_number_leaves_open_what_is_the_least_and_the_most():
    lines = compared([exact(3.0), unavailable("target_lost"), exact(1.0)])
    assert set(scores(lines)) == {"a", "c"}
    low, value, high, status = numbers_of(lines, "x_across_devices_min")
    assert (low, value, high, status) == (-math.inf, 1, 1, "estimated")
    assert numbers_of(lines, "x_across_devices_max") == (3, 3, math.inf, "estimated")
    assert numbers_of(lines, "x_across_devices_mean")[3] == "estimated"
    assert lines["x_across_devices_min", "job"].number.reasons == {"target_lost"}
    assert scores(lines)["a"].status == "estimated"


def test_what_is_compared_has_a_best_and_two_entities_can_have_it():
    every = {name: kpi for group in load_catalogue().values() for name, kpi in group.kpis.items()}
    compared_kpis = {name for name, one in every.items() if one.spread}
    assert compared_kpis >= {
        "gpu_utilization_ratio_mean",
        "gpu_power_watts_mean",
        "hpu_utilization_ratio_mean",
        "hpu_power_watts_mean",
        "rank_step_seconds_mean",
    }
    assert not {name for name in compared_kpis if every[name].statistic == "formula"}
