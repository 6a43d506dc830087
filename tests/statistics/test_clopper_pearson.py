"""Clopper and Pearson's interval and tests, held against scipy's own."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.statistics import clopper_pearson as cp

unhurried = settings(deadline=None)


@st.composite
def counts(draw):
    n = draw(st.integers(1, 500))
    return draw(st.integers(0, n)), n


def test_golden_upper_limits():
    assert cp.interval(0, 300, 0.9)[1] == pytest.approx(0.00993608, abs=6e-9)
    assert cp.interval(30, 2000, 0.9)[1] == pytest.approx(0.02029078, abs=6e-9)


@unhurried
@given(counts(), st.floats(0.5, 0.99))
def test_it_agrees_with_scipy(count, level):
    from scipy.stats import binomtest

    expected = binomtest(*count).proportion_ci(level)
    assert cp.interval(*count, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@unhurried
@given(counts(), st.floats(0, 1))
def test_p_values_are_the_binomial_tails(count, bound):
    from scipy.stats import binomtest

    p_pass, p_fail = cp.p_at_most(*count, bound)
    assert p_pass == pytest.approx(binomtest(*count, bound, "less").pvalue, abs=1e-9)
    assert p_fail == pytest.approx(binomtest(*count, bound, "greater").pvalue, abs=1e-9)


@unhurried
@given(counts(), st.floats(0, 1))
def test_a_floor_is_a_ceiling_on_the_rest(count, bound):
    x, n = count
    assert cp.p_at_least(x, n, bound) == cp.p_at_most(n - x, n, 1 - bound)


@unhurried
@given(counts(), st.floats(0.001, 0.999))
def test_interval_and_test_agree(count, bound):
    upper = cp.interval(*count, 0.9)[1]
    p_pass, _ = cp.p_at_most(*count, bound)
    if abs(upper - bound) > 1e-9:
        assert (p_pass <= 0.05) == (upper <= bound)


def test_bounds_of_zero_and_one():
    assert cp.p_at_most(0, 10, 0.0) == (1.0, 1.0)
    assert cp.p_at_most(1, 10, 0.0) == (1.0, 0.0)
    assert cp.p_at_least(10, 10, 1.0) == (1.0, 1.0)
    assert cp.p_at_least(9, 10, 1.0) == (1.0, 0.0)
    assert cp.interval(0, 1, 0.9) == (0.0, pytest.approx(0.95))
    assert cp.interval(1, 1, 0.9) == (pytest.approx(0.05), 1.0)


@pytest.mark.parametrize("count", [(0, 0), (-1, 5), (6, 5), (0.5, 5), (math.nan, 5), (0, math.inf)])
def test_impossible_counts_are_refused(count):
    for call in (cp.interval, cp.p_at_most, cp.p_at_least):
        with pytest.raises(ValueError, match="whole number"):
            call(*count, 0.9)


@pytest.mark.parametrize("bound", [-0.1, 1.1, math.nan])
def test_an_impossible_bound_is_refused(bound):
    with pytest.raises(ValueError, match="bound"):
        cp.p_at_most(1, 10, bound)
    with pytest.raises(ValueError, match="level"):
        cp.interval(1, 10, bound)
