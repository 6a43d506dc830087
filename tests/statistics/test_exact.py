"""The exact test: published digits, brute force, and that it errs no more often than it says."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.statistics import exact, tango


def p_values(b, c, n, delta, alpha=0.05):
    return exact.p_values(b, c, n, delta, alpha_pass=alpha, alpha_fail=alpha)


@cache
def outcomes(n):
    """Every (b, c) with b + c ≤ n, and the logarithm of its number of arrangements."""
    from scipy.special import gammaln

    b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    b, c = b[b + c <= n], c[b + c <= n]
    return b, c, gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)


def probability(n, delta, f, chosen):
    from scipy.special import xlogy

    b, c, ways = (values[chosen] for values in outcomes(n))
    p10, p01 = (f + delta) / 2, max((f - delta) / 2, 0.0)
    return np.exp(ways + xlogy(b, p10) + xlogy(c, p01) + xlogy(n - b - c, 1 - f)).sum()


def brute_force(b, c, n, delta, *, losing, gamma=0.001):
    """The definition, over all outcomes and a fine grid."""
    from scipy.stats import binomtest

    every_b, every_c, _ = outcomes(n)
    z, mine = tango.z_statistic(every_b, every_c, n, delta), tango.z_statistic(b, c, n, delta)
    slack = 1e-9 * (1 + abs(mine))
    tail = z >= mine - slack if losing else z <= mine + slack
    limits = binomtest(b + c, n).proportion_ci(1 - gamma)
    grid = np.linspace(max(limits.low, delta), max(limits.high, delta), 600)
    return min(1.0, gamma + max(probability(n, delta, f, tail) for f in grid))


def test_golden_values():
    assert p_values(15, 8, 1000, 0.01) == (pytest.approx(0.31038, abs=6e-6), 1.0)
    assert p_values(22, 6, 1000, 0.01) == (1.0, pytest.approx(0.12347, abs=6e-6))


@pytest.mark.parametrize(("delta", "n"), [(0.01, 301), (0.03, 100), (0.05, 59)])
def test_identical_models_are_proven_from_here_on(delta, n):
    assert p_values(0, 0, n, delta)[0] <= 0.05
    assert p_values(0, 0, n - 1, delta)[0] > 0.05


def test_tangos_interval_alone_would_pass_too_early():
    """At n = 268 the interval's upper limit lies below the budget; the exact test is not fooled."""
    assert tango.interval(0, 0, 268, 0.9)[1] < 0.01
    assert p_values(0, 0, 268, 0.01)[0] == pytest.approx(0.0687, abs=1e-3)
    assert p_values(0, 0, 297, 0.01)[0] > 0.05


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_is_the_maximum_over_all_outcomes(data):
    n = data.draw(st.integers(1, 40))
    flips = data.draw(st.integers(0, n))
    b = data.draw(st.integers(0, flips))
    c, delta = flips - b, data.draw(st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9]))
    if abs(b - c - n * delta) < 1e-9:
        assert p_values(b, c, n, delta) == (1.0, 1.0)
        return
    losing = b - c > n * delta
    found = p_values(b, c, n, delta)
    assert found[not losing] == 1.0
    expected = brute_force(b, c, n, delta, losing=losing)
    assert expected - 5e-3 <= found[losing] <= expected + 1e-4


@pytest.mark.parametrize(("n", "delta"), [(10, 0.05), (25, 0.05), (40, 0.03), (40, 0.1), (30, 0.0)])
def test_its_true_size_is_at_most_nominal(n, delta):
    """At the boundary, over every flip rate: the probability of a false verdict, by enumeration."""
    b, c, _ = outcomes(n)
    found = np.array([p_values(*map(int, pair), n, delta) for pair in zip(b, c, strict=True)])
    for false in (found[:, 0] <= 0.05, found[:, 1] <= 0.05):
        sizes = [probability(n, delta, f, false) for f in np.linspace(max(delta, 1e-3), 1, 40)]
        assert max(sizes) <= 0.05


@pytest.mark.parametrize(("n", "f"), [(500, 0.012), (500, 0.05), (1000, 0.02), (2000, 0.01)])
def test_at_the_budget_it_errs_rarely(n, f):
    """Simulated at a true drop of exactly 1 pp."""
    delta, rng = 0.01, np.random.default_rng(17)
    draws = rng.multinomial(n, [(f + delta) / 2, (f - delta) / 2, 1 - f], size=4000)[:, :2]
    pairs, counts = np.unique(draws, axis=0, return_counts=True)
    found = np.array([p_values(int(b), int(c), n, delta) for b, c in pairs])
    for side in (0, 1):
        assert counts[found[:, side] <= 0.05].sum() / 4000 <= 0.05 + 3 * math.sqrt(
            0.05 * 0.95 / 4000
        )


@given(st.integers(1, 200), st.data())
@settings(max_examples=40, deadline=None)
def test_a_wider_budget_is_easier_to_prove(n, data):
    flips = data.draw(st.integers(0, min(n, 20)))
    b = data.draw(st.integers(0, flips))
    found = np.array([p_values(b, flips - b, n, delta) for delta in (0.005, 0.02, 0.08, 0.3, 0.7)])
    assert np.all(np.diff(found[:, 0]) <= 5e-3)
    assert np.all(np.diff(found[:, 1]) >= -5e-3)


def test_a_family_of_many_leaves_room_to_fail():
    """With a γ that did not shrink, no one of 1000 slices could ever fail."""
    _, p_fail = exact.p_values(400, 0, 1000, 0.03, alpha_pass=0.05, alpha_fail=0.05 / 1000)
    assert p_fail <= 0.05 / 1000


@pytest.mark.parametrize(
    ("alpha", "gamma"), [(0.3, 0.001), (0.05, 0.001), (0.0125, 0.00025), (5e-5, 1e-6)]
)
def test_no_p_value_is_less_than_its_share_for_the_flip_rate(alpha, gamma):
    """Nothing flipped in a million, and everything was lost: the tails themselves are nothing."""
    p_pass, _ = exact.p_values(0, 0, 10**6, 0.01, alpha_pass=alpha, alpha_fail=0.05)
    _, p_fail = exact.p_values(10**4, 0, 10**4, 0.01, alpha_pass=0.05, alpha_fail=alpha)
    assert gamma < p_pass < gamma * 1.0001
    assert gamma < p_fail < gamma * 1.0001


@pytest.mark.parametrize("n", [1, 50, 1000, 50_000])
@pytest.mark.parametrize("rate", [1e-5, 0.001, 0.01, 0.3, 0.9, 1.0])
def test_flips_that_are_left_out_are_negligible_together(n, rate):
    """And not many more are looked at than ten standard deviations hold."""
    from scipy.stats import binom

    totals = exact._likely(n, np.array([rate]))
    left_out = binom.cdf(totals[0] - 1, n, rate) + binom.sf(totals[-1], n, rate)
    assert left_out < 1e-12
    assert totals[0] >= max(0, n * rate - 10 * math.sqrt(n * rate * (1 - rate)) - 25)
    assert totals[-1] <= min(n, n * rate + 10 * math.sqrt(n * rate * (1 - rate)) + 25)


@pytest.mark.parametrize("n", [1, 10, 500])
def test_a_budget_of_zero_passes_only_what_is_proven_better(n):
    assert p_values(0, 0, n, 0.0) == (1.0, 1.0)
    assert p_values(1, 0, n, 0.0)[0] == 1.0
    p_pass, p_fail = p_values(0, 1, n, 0.0)
    assert 0.05 < p_pass < 1
    assert p_fail == 1.0


def test_a_budget_of_zero_can_be_proven_and_disproven():
    assert p_values(2, 40, 500, 0.0)[0] < 0.01
    assert p_values(40, 2, 500, 0.0)[1] < 0.01


@pytest.mark.parametrize("n", [1, 7, 300])
def test_villains(n):
    assert p_values(n, 0, n, 0.01)[0] == 1.0
    assert p_values(0, n, n, 0.01)[1] == 1.0
    assert p_values(n, 0, n, 1.0) == (1.0, 1.0)
    assert p_values(0, 0, n, 1.0) == (0.0, 1.0)
    assert p_values(n, 0, n, 5.0) == (0.0, 1.0)


def test_one_example_proves_nothing():
    for b, c in ((0, 0), (1, 0), (0, 1)):
        p_pass, p_fail = p_values(b, c, 1, 0.01)
        assert p_pass > 0.05
        if (b, c) != (1, 0):
            assert p_fail == 1.0


def test_one_lost_of_one_is_rare_within_a_small_budget():
    """A single example that is lost has probability at most (1 + δ) / 2: far from proof."""
    assert p_values(1, 0, 1, 0.01)[1] > 0.5


@pytest.mark.parametrize("n", [10_000, 50_000])
def test_large_sets_are_judged_at_once(n):
    p_pass, p_fail = p_values(n // 200, n // 250, n, 0.01)
    assert p_pass < 0.01
    assert p_fail == 1.0


@pytest.mark.parametrize(
    ("b", "c", "n", "delta", "alpha"),
    [
        (-1, 0, 10, 0.01, 0.05),
        (0, 0, 0, 0.01, 0.05),
        (9, 9, 10, 0.01, 0.05),
        (1, 0, 10, -0.01, 0.05),
        (1, 0, 10, math.nan, 0.05),
        (1, 0, 10, math.inf, 0.05),
        (1, 0, 10, 0.01, 0.0),
        (1, 0, 10, 0.01, 1.0),
        (1, 0, 10, 0.01, math.nan),
    ],
)
def test_impossible_input_is_refused(b, c, n, delta, alpha):
    with pytest.raises(ValueError, match="must"):
        p_values(b, c, n, delta, alpha)


@pytest.mark.parametrize("levels", [(0.05, 0.0), (0.0, 0.05), (0.05, 1.0), (1.0, 0.05)])
def test_either_level_is_checked(levels):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        exact.p_values(1, 0, 10, 0.01, alpha_pass=levels[0], alpha_fail=levels[1])
