"""Intervals against closed forms, SciPy and statsmodels, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reproven.harness import intervals

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 5, 40])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 1 - 1e-5])
def test_mean_is_students(n, confidence):
    x = RNG.normal(3, 2, n)
    expected = stats.t.interval(confidence, n - 1, loc=x.mean(), scale=stats.sem(x))
    assert intervals.mean_interval(x, confidence) == pytest.approx(expected, rel=1e-9)


def test_mean_by_hand():
    # m = 2, s = 1, n = 3, t_2(0.975) = 4.302653
    low, high = intervals.mean_interval([1.0, 2.0, 3.0], 0.95)
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


def test_one_sample_decides_nothing():
    assert intervals.mean_interval([1.0], 0.95) == (-math.inf, math.inf)
    assert intervals.prediction_interval([1.0], 3, 0.95) == (-math.inf, math.inf)
    assert intervals.bootstrap_prediction_interval([1.0], 3, 0.95) == (-math.inf, math.inf)


def test_equal_samples_of_a_deterministic_number_have_no_width():
    assert intervals.mean_interval([3.0] * 4, 0.99) == (3.0, 3.0)
    low, high = intervals.mean_interval(np.full(1000, 0.1) + 1e-17, 0.99)
    assert low == pytest.approx(0.1, abs=1e-15)
    assert high == pytest.approx(0.1, abs=1e-15)


def test_equal_samples_of_a_rate_are_as_wide_as_clopper_and_pearson():
    found = stats.binomtest(0, 20).proportion_ci(0.99, method="exact")
    assert intervals.mean_interval([0.0] * 20, 0.99, (0, 1)) == pytest.approx((0.0, found.high), abs=1e-12)
    found = stats.binomtest(20, 20).proportion_ci(0.99, method="exact")
    assert intervals.mean_interval([1.0] * 20, 0.99, (0, 1)) == pytest.approx((found.low, 1.0), abs=1e-12)


def test_a_value_outside_its_range_has_none():
    assert intervals.mean_interval([7.0] * 20, 0.99, (0, 1)) == (7.0, 7.0)


@settings(deadline=None)
@given(st.integers(1, 300), st.data(), st.floats(0.5, 0.99999))
def test_proportion_is_wilsons(n, data, confidence):
    k = data.draw(st.integers(0, n))
    found = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert intervals.proportion_interval(k, n, confidence) == pytest.approx(
        (found.low, found.high), abs=1e-12
    )


def test_proportion_at_the_ends():
    assert intervals.proportion_interval(0, 10, 0.95)[0] == 0.0
    assert intervals.proportion_interval(10, 10, 0.95)[1] == 1.0


def test_prediction_by_hand():
    # m = 2, s = 1, n = 3, repeat of 6: half = t_2 sqrt(1/3 + 1/6)
    low, high = intervals.prediction_interval([1.0, 2.0, 3.0], 6, 0.95)
    half = 4.302653 * math.sqrt(0.5)
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-6)


def test_prediction_of_endless_repeats_is_the_interval_of_the_mean():
    x = RNG.normal(size=8)
    assert intervals.prediction_interval(x, 10**12, 0.95) == pytest.approx(
        intervals.mean_interval(x, 0.95), abs=1e-5
    )


@pytest.mark.parametrize("repeat", [1, 3, 30])
def test_prediction_covers(repeat):
    inside = []
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        low, high = intervals.prediction_interval(rng.normal(size=6), repeat, 0.95)
        inside.append(low <= rng.normal(size=repeat).mean() <= high)
    # 2,000 draws have a standard error of 0.005; four of them
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_bootstrap_prediction_covers_skewed_samples():
    inside = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        low, high = intervals.bootstrap_prediction_interval(rng.exponential(size=40), 10, 0.95)
        inside.append(low <= rng.exponential(size=10).mean() <= high)
    assert np.mean(inside) > 0.9  # a percentile interval of 40 samples falls a little short of 0.95


def test_bootstrap_prediction_is_a_function_of_its_samples():
    x = RNG.exponential(size=12)
    assert intervals.bootstrap_prediction_interval(x, 5, 0.9) == intervals.bootstrap_prediction_interval(
        x, 5, 0.9
    )


def test_bootstrap_prediction_agrees_with_the_normal_one_on_many_normal_samples():
    x = RNG.normal(size=2000)
    found = intervals.bootstrap_prediction_interval(x, 20, 0.95)
    # 4,000 draws place a 2.5 % quantile to about 0.01
    assert found == pytest.approx(intervals.prediction_interval(x, 20, 0.95), abs=0.04)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99])
def test_binomial_prediction_covers(rate):
    known = [intervals.binomial_prediction_interval(k, 50, 20, 0.95) for k in range(51)]
    rng = np.random.default_rng(0)
    ends = np.array(known)[rng.binomial(50, rate, size=5000)]
    repeats = rng.binomial(20, rate, size=5000) / 20
    inside = (ends[:, 0] - 1e-12 <= repeats) & (repeats <= ends[:, 1] + 1e-12)
    assert np.mean(inside) > 0.93


@pytest.mark.parametrize("true", [0.0, 0.002, 0.02])
def test_binomial_prediction_covers_where_nothing_was_seen(true):
    """Conditional on n zeros, which is when it stands in for a rate; worlds in which that is rare aside."""
    rng = np.random.default_rng(1)
    seen = rng.binomial(30, true, size=20_000) == 0
    repeats = rng.binomial(10, true, size=20_000) / 10
    _, high = intervals.binomial_prediction_interval(0, 30, 10, 0.95)
    assert np.mean(repeats[seen] <= high) > 0.95


def test_slope_of_one_sample_is_that_of_linear_regression():
    x, y = np.arange(1.0, 9.0), RNG.normal(size=8)
    ours, low, high = intervals.slope_interval(x, y, False, 0.9)
    found = stats.linregress(x, y)
    half = stats.t.ppf(0.95, 6) * found.stderr
    assert (ours, low, high) == pytest.approx((found.slope, found.slope - half, found.slope + half), rel=1e-9)


def test_slope_of_a_power_law_is_exact():
    x = np.array([10.0, 100.0, 1000.0])
    ours, low, high = intervals.slope_interval(x, np.stack([3 * x**-0.5, 3 * x**-0.5]), True, 0.99)
    assert (ours, low, high) == pytest.approx((-0.5, -0.5, -0.5), abs=1e-12)


def test_slope_of_samples_is_students_of_their_own_slopes_when_linear():
    x, y = np.array([0.0, 1.0, 3.0]), RNG.normal(size=(7, 3))
    own = [stats.linregress(x, row).slope for row in y]
    ours, low, high = intervals.slope_interval(x, y, False, 0.95)
    assert ours == pytest.approx(np.mean(own), abs=1e-12)
    assert (low, high) == pytest.approx(intervals.mean_interval(own, 0.95), abs=1e-12)


def test_slope_covers_with_zeros_among_noisy_dependent_samples():
    x, inside = np.array([10.0, 40.0, 160.0]), []
    for seed in range(600):
        rng = np.random.default_rng(seed)
        shared = rng.gamma(2.0, 0.5, size=(40, 1))
        y = x**-0.5 * shared * rng.binomial(1, 0.8, size=(40, 3)) / 0.8
        _, low, high = intervals.slope_interval(x, y, True, 0.95)
        inside.append(low <= -0.5 <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.04)  # the delta method at 40 samples


@pytest.mark.parametrize(
    ("x", "y", "log", "match"),
    [
        ([1.0], [[1.0]], False, "two different points"),
        ([2.0, 2.0], [[1.0, 2.0]], False, "two different points"),
        ([1.0, 2.0], [[0.0, 2.0], [0.0, 1.0]], True, "no logarithm"),
        ([0.0, 2.0], [[1.0, 2.0], [3.0, 1.0]], True, "no logarithm"),
    ],
)
def test_slopes_that_do_not_exist(x, y, log, match):
    with pytest.raises(ValueError, match=match):
        intervals.slope_interval(x, y, log, 0.95)


def test_slope_of_two_points_of_one_sample_has_no_interval():
    assert intervals.slope_interval([1.0, 2.0], [1.0, 3.0], False, 0.95) == (2.0, -math.inf, math.inf)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    st.floats(0.5, 0.9),
    st.floats(0.1, 100),
    st.floats(-50, 50),
)
def test_mean_interval_scales_shifts_and_nests(x, confidence, scale, shift):
    low, high = intervals.mean_interval(x, confidence)
    wider = intervals.mean_interval(x, 0.95)
    assert wider[0] <= low <= high <= wider[1]
    moved = intervals.mean_interval(np.array(x) * scale + shift, confidence)
    assert moved == pytest.approx((low * scale + shift, high * scale + shift), rel=1e-6, abs=1e-6)
