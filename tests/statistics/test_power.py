"""How many examples: published numbers, and that the promised power is delivered."""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest

from gate.statistics import clopper_pearson, exact, power, ratio


@pytest.mark.parametrize(
    ("f", "d", "delta", "n"),
    [(0.02, 0.0025, 0.01, 2419), (0.05, 0.0, 0.01, 3162), (0.01, 0.0, 0.01, 856)],
)
def test_golden_numbers_to_pass(f, d, delta, n):
    assert power.examples_needed(f, d, delta, alpha=0.05) == n


def test_golden_number_to_fail():
    assert power.examples_to_fail(0.02, 0.015, 0.01, alpha=0.05) == 4433


@pytest.mark.parametrize(("delta", "n"), [(0.01, 301), (0.03, 100), (0.05, 59)])
def test_golden_numbers_without_flips(delta, n):
    assert power.without_flips(delta, alpha=0.05) == n


@pytest.mark.parametrize("alpha", [0.2, 0.01, 0.001])
@pytest.mark.parametrize("delta", [0.001, 0.1, 0.9])
def test_without_flips_is_the_least_that_the_exact_test_passes(delta, alpha):
    n = power.without_flips(delta, alpha=alpha)
    proven = [
        exact.p_values(0, 0, k, delta, alpha_pass=alpha, alpha_fail=alpha)[0] <= alpha
        for k in (max(n - 1, 1), n, n + 1)
    ]
    assert proven[1:] == [True, True]
    assert n == 1 or not proven[0]


def achieved(n, shares, proves, size=500):
    """Share of simulated sets of n that `proves` accepts."""
    draws = np.random.default_rng(3).multinomial(n, shares, size=size)
    return np.mean([proves(*map(int, draw)) for draw in draws])


@pytest.mark.parametrize(("f", "d"), [(0.02, 0.0025), (0.05, 0.0), (0.01, 0.0)])
def test_the_exact_test_has_the_promised_power(f, d):
    n = power.examples_needed(f, d, 0.01, alpha=0.05)

    @cache
    def proves(lost, gained):
        return exact.p_values(lost, gained, n, 0.01, alpha_pass=0.05, alpha_fail=0.05)[0] <= 0.05

    shares = [(f + d) / 2, (f - d) / 2, 1 - f]
    assert achieved(n, shares, lambda b, c, _: proves(b, c), 400) >= 0.8 - 0.04 - 0.04


@pytest.mark.parametrize(("rate", "bound"), [(0.01, 0.02), (0.001, 0.01), (0.0, 0.05)])
def test_rates_have_the_promised_power_on_either_side(rate, bound):
    n = power.examples_for_rate(rate, bound, alpha=0.05)
    assert power.examples_for_rate(1 - rate, 1 - bound, alpha=0.05) == pytest.approx(n, abs=1)

    def proves(x, _):
        return clopper_pearson.p_at_most(x, n, bound)[0] <= 0.05

    assert achieved(n, [rate, 1 - rate], proves) >= 0.75


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.018), (0.004, 0.004), (0.0, 0.0)])
def test_relative_drops_have_the_promised_power(lost, gained):
    n = power.examples_for_ratio(0.9, lost, gained, 0.01, alpha=0.05)

    def proves(both, b, c, _):
        return ratio.p_values(both, b, c, n, 0.01)[0] <= 0.05

    shares = [0.9 - lost, lost, gained, 0.1 - gained]
    assert achieved(n, shares, proves) >= 0.75


@pytest.mark.parametrize(
    ("right", "lost", "gained", "r"),
    [(0.9, 0.02, 0.018, 0.05), (0.5, 0.1, 0.3, 0.4), (0.9, 0.0, 0.0, 0.3), (1.0, 0.1, 0.0, 0.2)],
)
def test_examples_for_a_ratio_are_those_of_its_contrast(right, lost, gained, r):
    """t · INT8 − FP32 of one pair, with its mean and variance taken from its four outcomes."""
    t = 1 / (1 - r)
    shares = np.array([right - lost, lost, gained, 1 - right - gained])
    contrasts = np.array([t - 1, -1, t, 0])
    mean = shares @ contrasts
    variance = shares @ (contrasts - mean) ** 2
    null = t * sum(ratio.estimates(right - lost, lost, gained, t))
    z_alpha, z_beta = (NormalDist().inv_cdf(level) for level in (0.95, 0.9))
    expected = ((z_alpha * math.sqrt(null) + z_beta * math.sqrt(variance)) / mean) ** 2
    found = power.examples_for_ratio(right, lost, gained, r, alpha=0.05, power=0.9)
    assert found == max(1, math.ceil(expected))


def test_more_is_needed_nearer_the_budget():
    numbers = [power.examples_needed(0.02, d, 0.01, alpha=0.05) for d in (-0.01, 0, 0.005, 0.009)]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("drop", [0.01, 0.02, math.nan])
def test_no_number_proves_a_drop_at_the_budget(drop):
    with pytest.raises(ValueError, match="cannot be proven"):
        power.examples_needed(0.05, drop, 0.01, alpha=0.05)
    with pytest.raises(ValueError, match="cannot be proven"):
        power.examples_to_fail(0.05, 0.02 - drop, 0.01, alpha=0.05)


@pytest.mark.parametrize(
    "call",
    [
        lambda: power.examples_needed(0.001, -0.01, 0.01, alpha=0.05),
        lambda: power.examples_needed(1.5, 0, 0.01, alpha=0.05),
        lambda: power.examples_needed(0.02, 0, 0.01, alpha=0),
        lambda: power.examples_needed(0.02, 0, 0.01, alpha=0.05, power=1),
        lambda: power.examples_needed(math.nan, 0, 0.01, alpha=0.05),
        lambda: power.without_flips(0.0, alpha=0.05),
        lambda: power.without_flips(1.0, alpha=0.05),
        lambda: power.without_flips(0.01, alpha=math.nan),
        lambda: power.examples_for_rate(0.02, 0.02, alpha=0.05),
        lambda: power.examples_for_rate(1.2, 0.02, alpha=0.05),
        lambda: power.examples_for_rate(0.01, 0.0, alpha=0.05),
        lambda: power.examples_for_ratio(0.9, 0.02, 0.0, 0.01, alpha=0.05),
        lambda: power.examples_for_ratio(0.9, 0.95, 0.0, 0.01, alpha=0.05),
        lambda: power.examples_for_ratio(0.9, 0.0, 0.0, 1.0, alpha=0.05),
        lambda: power.examples_for_ratio(0.9, 0.0, 0.5, 0.01, alpha=0.05),
        lambda: power.examples_for_ratio(0.9, -0.01, 0.0, 0.1, alpha=0.05),
        lambda: power.examples_for_ratio(1.1, 0.0, 0.0, 0.1, alpha=0.05),
        lambda: power.examples_for_ratio(0.9, 0.0, -0.01, 0.1, alpha=0.05),
        lambda: power.examples_needed(0.02, -0.02, -0.01, alpha=0.05),
        lambda: power.examples_needed(0.02, 0.0, 1.0, alpha=0.05),
        lambda: power.examples_for_mean(-0.1, 0.01, alpha=0.05),
        lambda: power.examples_for_mean(math.nan, 0.01, alpha=0.05),
        lambda: power.examples_for_mean(0.1, 0.01, alpha=0.0),
        lambda: power.examples_for_mean(0.1, 0.01, alpha=0.05, power=1.0),
        lambda: power.chance_for_mean(-0.1, 0.01, 9, alpha=0.05),
        lambda: power.chance_for_mean(0.1, 0.0, 9, alpha=0.05),
        lambda: power.chance_for_mean(0.1, 0.01, 0, alpha=0.05),
        lambda: power.chance_for_mean(0.0, 0.01, 9, alpha=1.0),
        lambda: power.noise(0.1, 100, alpha=0.0),
        lambda: power.noise(-0.1, 100, alpha=0.05),
        lambda: power.noise(math.nan, 100, alpha=0.05),
        lambda: power.noise(0.1, 0, alpha=0.05),
    ],
)
def test_impossible_input_is_refused(call):
    with pytest.raises(ValueError, match=r"must|need|impossible|proven"):
        call()


# ── estimates whose error shrinks with √n ─────────────────────────────────────────────────


def test_examples_for_a_mean_have_the_power_that_they_promise():
    n = power.examples_for_mean(0.3, 0.01, alpha=0.05, power=0.8)
    assert power.chance_for_mean(0.3, 0.01, n, alpha=0.05) == pytest.approx(0.8, abs=1e-3)
    rng = np.random.default_rng(5)
    estimates = rng.normal(0.002, 0.3 / np.sqrt(n), 40_000)
    upper = estimates + 1.959964 * 0.3 / np.sqrt(n)
    assert np.mean(upper <= 0.012) == pytest.approx(0.8, abs=0.01)


def test_one_example_has_a_noise_and_a_chance():
    assert power.noise(1.959964, 1, alpha=0.05) == pytest.approx(1.0, rel=1e-6)
    assert power.noise(0.0, 1, alpha=0.05) == 0.0
    assert power.chance_for_mean(1.0, 1.959964, 1, alpha=0.05) == pytest.approx(0.5, rel=1e-6)


def test_an_interval_tells_the_noise():
    assert power.noise(1.959964 * 0.01, 900, alpha=0.05) == pytest.approx(0.3, rel=1e-6)


def test_without_noise_one_example_is_enough():
    assert power.examples_for_mean(0.0, 0.01, alpha=0.05) == 1
    assert power.chance_for_mean(0.0, 0.01, 1, alpha=0.05) == 1.0


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan")])
def test_no_number_proves_what_is_beyond_its_limit(margin):
    with pytest.raises(ValueError, match="margin > 0"):
        power.examples_for_mean(0.3, margin, alpha=0.05)
    with pytest.raises(ValueError, match="margin > 0"):
        power.chance_for_mean(0.3, margin, 10, alpha=0.05)
