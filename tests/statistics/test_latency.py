"""Randomised ABBA rounds: the sign test is exact, and noise in any shape does not fool it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.statistics import latency

unhurried = settings(deadline=None, max_examples=100)

ALPHA = 0.05
ROUNDS = 30
INFERENCES = 4 * latency.BLOCK

# Few distinct values, so that there are ties with one another and with the bound.
rounds_seen = st.lists(st.integers(-3, 3), min_size=1, max_size=40)


# ── the schedule ──────────────────────────────────────────────────────────────────────────


def test_a_schedule_is_drawn_by_lot_and_repeats_with_its_seed():
    drawn = latency.schedule(400, 7)
    assert drawn == latency.schedule(400, 7)
    assert drawn != latency.schedule(400, 8)
    assert set(drawn) == {(0, 1, 1, 0), (1, 0, 0, 1)}
    assert 150 < drawn.count((0, 1, 1, 0)) < 250
    assert latency.schedule(10, 7) == drawn[:10]


# ── the values ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_values_are_log_ratios_of_quantiles(quantile):
    rng = np.random.default_rng(0)
    reference, int8 = rng.lognormal(size=(2, 6, 50))
    found = latency.log_ratios(reference, int8, quantile)
    one = math.log(np.quantile(int8[3], quantile) / np.quantile(reference[3], quantile))
    assert found.shape == (6,)
    assert found[3] == pytest.approx(one)
    assert latency.log_ratios(int8, reference, quantile) == pytest.approx(-found)
    slower = latency.log_ratios(reference, 1.1 * reference, quantile)
    assert slower == pytest.approx(np.full(6, math.log(1.1)))


# ── the sign test ─────────────────────────────────────────────────────────────────────────


@unhurried
@given(rounds_seen, st.integers(-3, 3))
def test_it_is_the_sign_test_with_ties_against_either_side(values, bound):
    from scipy.stats import binomtest

    below, above = sum(v < bound for v in values), sum(v > bound for v in values)
    expected = [binomtest(k, len(values), alternative="greater").pvalue for k in (below, above)]
    assert latency.p_values(values, bound) == pytest.approx(expected)


@unhurried
@given(rounds_seen, st.integers(-3, 3), st.sampled_from([0.01, 0.03125, 0.05, 0.2, 0.25]))
def test_the_interval_says_what_the_p_values_say(values, bound, alpha):
    lower, upper = latency.interval(values, 1 - 2 * alpha)
    p_pass, p_fail = latency.p_values(values, bound)
    assert lower <= upper
    assert (p_pass <= alpha) == (upper < bound)
    assert (p_fail <= alpha) == (lower > bound)


@unhurried
@given(rounds_seen, st.integers(-3, 3))
def test_turning_the_ratio_round_swaps_the_sides(values, bound):
    turned = [-value for value in values]
    assert latency.p_values(turned, -bound) == latency.p_values(values, bound)[::-1]
    lower, upper = latency.interval(values, 0.9)
    assert latency.interval(turned, 0.9) == (-upper, -lower)


def test_five_rounds_decide_and_four_do_not():
    assert latency.p_values([-1.0] * 5, 0.0) == (0.03125, 1.0)
    assert latency.p_values([1.0] * 5, 0.0) == (1.0, 0.03125)
    assert latency.p_values([-1.0] * 4, 0.0) == (0.0625, 1.0)
    assert latency.interval([3.0, 1.0, 2.0, 5.0, 4.0], 0.9) == (1.0, 5.0)
    assert latency.interval([3.0, 1.0, 2.0, 5.0], 0.9) == (-math.inf, math.inf)


def test_identical_rounds_prove_nothing_at_their_own_value():
    assert latency.p_values([0.0] * 100, 0.0) == (1.0, 1.0)
    assert latency.interval([0.0] * 100, 0.9) == (0.0, 0.0)


@pytest.mark.parametrize("rounds", [5, 30, 31, 100])
def test_the_interval_covers_exactly_as_often_as_binomials_say(rounds):
    """Cauchy values: the mean has no expectation, the median does not mind."""
    values = np.random.default_rng(1).standard_cauchy((4000, rounds))
    found = np.array([latency.interval(one, 0.9) for one in values])
    missed = [np.mean(found[:, 0] > 0), np.mean(found[:, 1] < 0)]
    assert max(missed) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 4000)


def test_noise_is_half_the_interquartile_range():
    assert latency.noise([5.0, 1.0, 2.0, 4.0, 3.0]) == 1.0
    assert latency.noise([7.0]) == 0.0


# ── A against A ───────────────────────────────────────────────────────────────────────────


def machine(kind, rng, runs, rounds=ROUNDS):
    """Seconds of each inference, in the order in which they are made: (runs, rounds · 100)."""
    size = (runs, rounds * INFERENCES)
    seconds = 0.01 * (1 + 0.02 * rng.standard_normal(size) ** 2)
    when = np.arange(size[1])
    if kind == "heavy-tailed":
        return seconds * (1 + 0.05 * rng.pareto(1.1, size))
    if kind == "drifting":  # other work comes and goes, and the chip warms up
        steps = rng.standard_normal((runs, size[1] // latency.BLOCK)) * 0.03
        load = np.repeat(np.cumsum(steps, axis=1), latency.BLOCK, axis=1)
        return seconds * np.exp(load + 0.2 * when / size[1])
    outer = (when // latency.BLOCK) % 4 % 3 == 0  # a load in step with the first and last block
    return seconds * (1 + 0.1 * outer)


def divided(seconds, order):
    """One run's inferences, dealt by (rounds, 4) -> (reference, int8), (rounds, 50) each."""
    blocks, order = seconds.reshape(len(order), 4, latency.BLOCK), np.array(order)
    return [blocks[order == model].reshape(len(order), -1) for model in (0, 1)]


def false_verdicts(kind, quantile, runs, order_of):
    """Shares of runs in which equal models are called faster and slower, at a bound of 0."""
    rng = np.random.default_rng(2)
    found = [
        latency.p_values(latency.log_ratios(*divided(run, order_of(seed)), quantile), 0.0)
        for seed, run in enumerate(
            itertools.chain(*(machine(kind, rng, 50) for _ in range(runs // 50)))
        )
    ]
    return np.mean(np.array(found) <= ALPHA, axis=0)


def randomised(seed):
    return latency.schedule(ROUNDS, seed)


def fixed(_seed):
    return [(0, 1, 1, 0)] * ROUNDS


def allowed(runs):
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


KINDS = ["heavy-tailed", "drifting", "resonant"]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_models_are_rarely_told_apart(kind):
    assert max(false_verdicts(kind, 0.5, 600, randomised)) <= allowed(600)


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.5, 0.95])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_models_are_rarely_told_apart_at_full_size(kind, quantile):
    found = false_verdicts(kind, quantile, 10_000, randomised)
    print(f"{kind} p{100 * quantile:.0f}: {found}")
    assert max(found) <= allowed(10_000)


def test_a_fixed_order_is_fooled_by_a_load_in_step_with_it():
    faster, slower = false_verdicts("resonant", 0.5, 50, fixed)
    assert (faster, slower) == (1.0, 0.0)


def test_one_model_after_the_other_is_fooled_by_drift():
    """Equal models, all of one and then all of the other: most runs are wrong by over 3 %."""
    halves = np.split(machine("drifting", np.random.default_rng(3), 100), 2, axis=1)
    ratios = np.median(halves[1], axis=1) / np.median(halves[0], axis=1)
    assert np.mean(np.abs(np.log(ratios)) > 0.03) > 0.46
    called = [
        latency.p_values(latency.log_ratios(*(half.reshape(-1, 50) for half in pair), 0.5), 0.0)
        for pair in zip(*halves, strict=True)
    ]
    assert np.mean(np.min(called, axis=1) <= ALPHA) > 0.46


def test_a_model_that_is_slower_is_found_through_the_noise():
    for kind, quantile in itertools.product(KINDS, (0.5, 0.95)):
        run = machine(kind, np.random.default_rng(4), 1, rounds=100)[0]
        reference, int8 = divided(run, latency.schedule(100, 4))
        values = latency.log_ratios(reference, 1.5 * int8, quantile)
        assert latency.p_values(values, math.log(1.1))[1] <= ALPHA
        assert latency.p_values(values, math.log(2.5))[0] <= ALPHA


# ── nonsense ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("rounds", "seed"), [(0, 1), (-3, 1), (5, -1)])
def test_an_impossible_schedule_is_refused(rounds, seed):
    with pytest.raises(ValueError, match="must"):
        latency.schedule(rounds, seed)


GOOD = np.ones((3, 50))


@pytest.mark.parametrize(
    ("reference", "int8", "quantile"),
    [
        (GOOD, np.ones((4, 50)), 0.5),
        (np.ones((3, 49)), np.ones((3, 49)), 0.5),
        (np.ones(50), np.ones(50), 0.5),
        (np.ones((0, 50)), np.ones((0, 50)), 0.5),
        (GOOD, 0 * GOOD, 0.5),
        (GOOD, -GOOD, 0.5),
        (GOOD, math.inf * GOOD, 0.5),
        (math.nan * GOOD, GOOD, 0.5),
        (GOOD, GOOD, 0.0),
        (GOOD, GOOD, 1.0),
        (GOOD, GOOD, math.nan),
    ],
)
def test_impossible_times_are_refused(reference, int8, quantile):
    with pytest.raises(ValueError, match="must"):
        latency.log_ratios(reference, int8, quantile)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_one_impossible_time_of_many_is_refused(bad):
    times = np.array(GOOD)
    times[1, 7] = bad
    for one, other in ((GOOD, times), (times, GOOD)):
        with pytest.raises(ValueError, match="seconds above 0"):
            latency.log_ratios(one, other, 0.5)


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf], [[1.0, 2.0]]])
def test_impossible_values_are_refused(values):
    for asked in (
        lambda: latency.interval(values, 0.9),
        lambda: latency.p_values(values, 0.0),
        lambda: latency.noise(values),
    ):
        with pytest.raises(ValueError, match="must"):
            asked()


def test_impossible_bounds_and_levels_are_refused():
    for bound in (math.nan, math.inf):
        with pytest.raises(ValueError, match="must"):
            latency.p_values([1.0], bound)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="must"):
            latency.interval([1.0], level)
