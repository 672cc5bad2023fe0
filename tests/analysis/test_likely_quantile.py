"""Values of quantiles that use the sum of a histogram: nearer to the truth, bracket or not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmeter_analysis.histograms import Masses, likely_quantile, quantile

EDGES = np.array([0.01, 0.025, 0.05, 0.1, 1.0, math.inf])


def masses_of(observations):
    counts = np.bincount(np.searchsorted(EDGES, observations, "left"), minlength=EDGES.size)
    exact = counts.astype(float)
    return Masses(EDGES, exact, exact, exact)


def true_quantile(observations, q):
    return sorted(observations)[max(1, math.ceil(q * len(observations) * (1 - 1e-12))) - 1]


@given(st.lists(st.floats(0, 2), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_it_lies_in_the_bucket_of_the_rank(observations, q):
    masses = masses_of(observations)
    found = likely_quantile(masses, q, math.fsum(observations))
    if found is not None:
        holder = np.searchsorted(masses.value.cumsum(), q * len(observations), "left")
        assert (0 if holder == 0 else EDGES[holder - 1]) <= found <= EDGES[holder]


def test_a_sum_that_cannot_be_is_not_used():
    assert likely_quantile(masses_of([0.02] * 30), 0.5, 99.0) is None


def test_what_lies_above_the_last_edge_has_no_likely_value():
    assert likely_quantile(masses_of([0.02, 5.0]), 0.5, 5.02) is None


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_one_bucket_says_little_and_the_sum_says_more(q):
    times = np.random.default_rng(1).exponential(0.001, 5000)
    times = times[times < 0.01]
    masses, truth = masses_of(times), true_quantile(times, q)
    assert abs(quantile(masses, q).value - truth) > 0.8 * truth
    assert likely_quantile(masses, q, float(times.sum())) == pytest.approx(truth, rel=0.1)


def test_even_masses_are_interpolated_as_ever():
    even = [(at + 0.5) / 1000 for at in range(1000)]
    found = likely_quantile(masses_of(even), 0.95, math.fsum(even))
    assert found == pytest.approx(quantile(masses_of(even), 0.95).value, rel=1e-3)
