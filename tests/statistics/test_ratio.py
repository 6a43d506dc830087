"""Nam and Blackwelder's test: published digits, the likelihood, and the edges."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gate.statistics import ratio

unhurried = settings(deadline=None)


@st.composite
def tables(draw, most=1000):
    n = draw(st.integers(1, most))
    flips = draw(st.integers(0, n))
    b = draw(st.integers(0, flips))
    return draw(st.integers(0, n - flips)), b, flips - b, n


def test_golden_statistics():
    assert ratio.z_statistic(880, 15, 8, 1000, 0.01) == pytest.approx(0.402318, abs=6e-7)
    assert ratio.z_statistic(450, 3, 2, 500, 0.02) == pytest.approx(2.411357, abs=6e-7)


@unhurried
@given(tables(), st.floats(-0.5, 0.9))
def test_it_is_the_formula_as_published(table, r):
    n11, b, c, n = table
    x_f, x_q, n00, t = n11 + b, n11 + c, n - n11 - b - c, 1 / (1 - r)
    assume(x_f > 0)
    root = math.sqrt((x_f - t * t * x_q) ** 2 + 4 * t * t * b * c)
    p10 = (-x_f + t * t * (x_q + 2 * b) + root) / (2 * t * (t + 1) * n)
    p01 = t * p10 - (t - 1) * (1 - n00 / n)
    assume(p10 + p01 > 1e-6)
    expected = (t * x_q - x_f) / math.sqrt(n * t * (p10 + p01))
    assert ratio.z_statistic(*table, r) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@unhurried
@given(tables(), st.floats(-2, 0.99), st.floats(-2, 0.99))
def test_a_wider_budget_is_easier(table, one, other):
    assume(table[0] + table[1] > 0)
    low, high = sorted((one, other))
    assert ratio.z_statistic(*table, low) <= ratio.z_statistic(*table, high) + 1e-9


@unhurried
@given(tables(), st.floats(0.5, 0.99))
def test_the_interval_holds_the_estimate_and_is_where_z_crosses(table, level):
    from scipy.special import ndtri

    n11, b, c, _ = table
    assume(n11 + b > 0)
    lower, upper = ratio.interval(*table, level)
    assert lower <= (b - c) / (n11 + b) + 1e-9
    assert (b - c) / (n11 + b) <= upper + 1e-9
    z = float(ndtri((1 + level) / 2))
    assert ratio.z_statistic(*table, lower) == pytest.approx(-z, abs=1e-5)
    if 1 - upper > 1e-6:
        assert ratio.z_statistic(*table, upper) == pytest.approx(z, abs=1e-4)


def test_p_values_are_the_normal_tails():
    p_pass, p_fail = ratio.p_values(450, 3, 2, 500, 0.02)
    assert p_pass == pytest.approx(0.0079463, abs=1e-6)
    assert p_pass + p_fail == pytest.approx(1)


def test_without_reference_successes_it_is_undefined():
    assert math.isnan(ratio.z_statistic(0, 0, 3, 10, 0.01))
    assert all(map(math.isnan, ratio.p_values(0, 0, 0, 10, 0.01)))
    assert all(map(math.isnan, ratio.interval(0, 0, 3, 10, 0.9)))


def test_identical_models():
    assert ratio.z_statistic(450, 0, 0, 500, 0.02) == pytest.approx(math.sqrt(450 * (1 / 0.98 - 1)))
    assert ratio.z_statistic(450, 0, 0, 500, 0.0) == 0
    lower, upper = ratio.interval(450, 0, 0, 500, 0.9)
    assert lower < 0 < upper


def test_without_flips_none_are_estimated_where_none_are_allowed():
    assert ratio.estimates(9, 0, 0, 1.0) == (0.0, 0.0)


def test_everything_lost():
    lower, upper = ratio.interval(0, 50, 0, 50, 0.9)
    assert upper == 1.0
    assert 0.9 < lower < 1
    p_pass, p_fail = ratio.p_values(0, 50, 0, 50, 0.01)
    assert p_pass > 0.99
    assert p_fail < 1e-6


@pytest.mark.parametrize(
    "table", [(-1, 0, 0, 5), (1, 0, 0, 0), (3, 2, 1, 5), (0.5, 0, 0, 5), (math.nan, 0, 0, 5)]
)
def test_impossible_counts_are_refused(table):
    with pytest.raises(ValueError, match="must"):
        ratio.z_statistic(*table, 0.01)
    with pytest.raises(ValueError, match="must"):
        ratio.interval(*table, 0.9)


@pytest.mark.parametrize("r", [1, 1.5, math.nan, -math.inf])
def test_an_impossible_budget_is_refused(r):
    with pytest.raises(ValueError, match="relative drop"):
        ratio.p_values(8, 1, 1, 10, r)


@pytest.mark.parametrize("level", [0, 1, math.nan])
def test_an_impossible_level_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        ratio.interval(8, 1, 1, 10, level)
