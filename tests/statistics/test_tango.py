"""Tango's score statistic and interval: published digits, symmetries, and the edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.statistics import tango

unhurried = settings(deadline=None)

GOLDEN = [
    ((1, 1, 7, 12), 0.95, -0.51723228, -0.02600303),
    ((90, 40, 20, 10), 0.95, 0.03086453, 0.21806424),
    ((900, 0, 0, 100), 0.90, -0.00269824, 0.00269824),
    ((880, 15, 8, 97), 0.90, -0.00094185, 0.01562883),
    ((880, 22, 6, 92), 0.90, 0.00769413, 0.02563204),
    ((4470, 40, 25, 465), 0.90, 0.00035509, 0.00576023),
    ((9000, 150, 120, 730), 0.90, 0.00029869, 0.00572865),
    ((180, 3, 0, 17), 0.90, 0.00145263, 0.03693652),
]


@st.composite
def tables(draw, most=2000):
    n = draw(st.integers(1, most))
    flips = draw(st.integers(0, n))
    b = draw(st.integers(0, flips))
    return b, flips - b, n


@pytest.mark.parametrize(("table", "level", "lower", "upper"), GOLDEN)
def test_golden_intervals(table, level, lower, upper):
    _, b, c, _ = table
    found = tango.interval(b, c, sum(table), level)
    assert found == (pytest.approx(lower, abs=6e-9), pytest.approx(upper, abs=6e-9))


@pytest.mark.parametrize(("b", "c", "z"), [(15, 8, -0.610924), (22, 6, 1.185434)])
def test_golden_statistics(b, c, z):
    assert float(tango.z_statistic(b, c, 1000, 0.01)) == pytest.approx(z, abs=6e-7)


@unhurried
@given(tables(), st.floats(0.5, 0.999))
def test_swapping_the_models_negates_the_interval(table, level):
    b, c, n = table
    lower, upper = tango.interval(b, c, n, level)
    assert tango.interval(c, b, n, level) == (-upper, -lower)


@unhurried
@given(tables(), st.floats(0.5, 0.999))
def test_the_interval_holds_the_estimate_and_is_where_z_crosses(table, level):
    from scipy.stats import norm

    b, c, n = table
    z = norm.ppf((1 + level) / 2)
    lower, upper = tango.interval(b, c, n, level)
    assert -1 <= lower <= (b - c) / n <= upper <= 1
    if lower > -1:
        assert float(tango.z_statistic(b, c, n, lower)) == pytest.approx(z, abs=1e-5)
    if upper < 1:
        assert float(tango.z_statistic(b, c, n, upper)) == pytest.approx(-z, abs=1e-5)


@unhurried
@given(tables(), st.floats(-1, 1), st.floats(-1, 1))
def test_z_falls_as_the_hypothetical_drop_grows(table, one, other):
    low, high = sorted((one, other))
    at_low, at_high = tango.z_statistic(*table, [low, high])
    assert at_low == at_high or at_low > at_high - 1e-9 * (1 + abs(at_low))


@unhurried
@given(tables(most=300), st.floats(0.001, 0.999))
def test_z_is_the_score_of_the_constrained_likelihood(table, delta):
    """Independent oracle: p01 that maximises b ln(q + δ) + c ln q + (n − b − c) ln(1 − 2q − δ)."""
    from scipy.optimize import minimize_scalar

    b, c, n = table

    def minus_log(q):
        terms = [(b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta)]
        return -sum(k * math.log(max(p, 1e-300)) for k, p in terms if k)

    top = (1 - delta) / 2
    found = minimize_scalar(minus_log, bounds=(0, top), method="bounded", options={"xatol": 1e-12})
    q = min((0.0, top, found.x), key=minus_log)
    variance = n * (2 * q + delta * (1 - delta))
    z = (b - c - n * delta) / math.sqrt(variance)
    assert float(tango.z_statistic(b, c, n, delta)) == pytest.approx(z, rel=2e-3, abs=2e-3)


def test_no_flips_have_the_closed_form():
    z = 1.6448536269514722
    expected = z * z / (1000 + z * z)
    found = tango.interval(0, 0, 1000, 0.9)
    assert found == (pytest.approx(-expected), pytest.approx(expected))


@pytest.mark.parametrize("n", [1, 2, 10, 1_000_000])
def test_all_lost_and_all_gained_touch_the_end(n):
    lower, upper = tango.interval(n, 0, n, 0.9)
    assert upper == 1.0
    assert lower < 1.0
    assert tango.interval(0, n, n, 0.9) == (-1.0, -lower)


def test_statistics_at_the_ends():
    assert tango.z_statistic(0, 0, 10, 0.0) == 0
    assert tango.z_statistic(10, 0, 10, 1.0) == 0
    assert tango.z_statistic(9, 0, 10, 1.0) == -math.inf
    assert tango.z_statistic(0, 9, 10, -1.0) == math.inf
    assert np.isfinite(tango.z_statistic(5, 5, 10, [1 - 1e-15, -1 + 1e-15])).all()


def test_it_broadcasts():
    z = tango.z_statistic([[15], [22]], [[8], [6]], 1000, [0.01, 0.02, 0.03])
    assert z.shape == (2, 3)
    assert z[1, 0] == tango.z_statistic(22, 6, 1000, 0.01)


@pytest.mark.parametrize(
    ("b", "c", "n", "delta"),
    [
        (-1, 0, 10, 0.1),
        (0, -1, 10, 0.1),
        (0, 0, 0, 0.1),
        (6, 5, 10, 0.1),
        (1.5, 0, 10, 0.1),
        (math.nan, 0, 10, 0.1),
        (0, 0, math.nan, 0.1),
        (0, 0, 10, math.nan),
        (0, 0, 10, 1.1),
    ],
)
def test_impossible_input_is_refused(b, c, n, delta):
    with pytest.raises(ValueError, match=r"must"):
        tango.z_statistic(b, c, n, delta)


@pytest.mark.parametrize(
    ("b", "c", "n", "delta"),
    [
        ([1, 1.5], 0, 10, 0.1),
        (0, [1, 1.5], 10, 0.1),
        (0, 0, [10, 10.5], 0.1),
        ([1, -1], 0, 10, 0.1),
        (0, [1, -1], 10, 0.1),
        (0, 0, [10, 0], 0.1),
        ([1, 11], 0, 10, 0.1),
        (0, 0, 10, [0.1, 1.1]),
    ],
)
def test_one_impossible_number_of_many_is_refused(b, c, n, delta):
    with pytest.raises(ValueError, match=r"must"):
        tango.z_statistic(np.array(b), np.array(c), np.array(n), np.array(delta))


@pytest.mark.parametrize("level", [0, 1, -0.5, math.nan])
def test_an_impossible_level_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        tango.interval(1, 2, 10, level)
