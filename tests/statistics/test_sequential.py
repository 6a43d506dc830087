"""The e-process: published digits, that it bets fairly, and how many examples it saves."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gate.statistics import exact, sequential

unhurried = settings(deadline=None, max_examples=60)

ALPHA = 0.05
DELTA = 0.01
STOP = math.log(1 / (sequential.SHARE * ALPHA))
NEVER_MORE_THAN = sequential.SHARE * ALPHA

# N, f, d, mean fraction of N evaluated, as the specification has it
SAVINGS = [
    (10_000, 0.01, 0.0, 0.16),
    (10_000, 0.01, 0.0025, 0.26),
    (10_000, 0.02, 0.0025, 0.44),
    (10_000, 0.05, 0.0, 0.54),
    (10_000, 0.02, 0.02, 0.17),
    (10_000, 0.02, 0.01, 0.99),
    (50_000, 0.01, 0.0, 0.036),
    (50_000, 0.01, 0.0025, 0.059),
    (50_000, 0.02, 0.0025, 0.10),
    (50_000, 0.05, 0.0, 0.13),
    (50_000, 0.02, 0.02, 0.04),
    (50_000, 0.02, 0.01, 0.99),
]
SAVED = {(10_000, 0.01, 0.0025): 0.70, (10_000, 0.02, 0.0025): 0.54, (50_000, 0.02, 0.0025): 0.88}


@st.composite
def tables(draw, most=2000):
    n = draw(st.integers(1, most))
    flips = draw(st.integers(0, n))
    b = draw(st.integers(0, flips))
    return b, flips - b, n


def cells(f, d):
    """Probabilities of a pair lost, gained, and neither."""
    return np.array([(f + d) / 2, (f - d) / 2, 1 - (f + d) / 2 - (f - d) / 2])


# ── golden values ─────────────────────────────────────────────────────────────────────────


def golden_path():
    i = np.arange(10_000)
    d = np.where(i % 97 == 5, 1, np.where(i % 193 == 11, -1, 0))
    return np.cumsum(d == 1), np.cumsum(d == -1), i + 1


def test_golden_values():
    e_pass, e_fail = sequential.log_e_drop(*golden_path(), 0.01, 10_000)
    found = e_pass[[499, 999, 1999, 4999]]
    assert found == pytest.approx([-0.12374409, 0.23585497, 0.60610249, 2.19279414], abs=6e-9)
    assert e_fail[1999] == pytest.approx(-2.09836795, abs=6e-9)
    assert int(np.argmax(e_pass >= math.log(20))) + 1 == 5995


def test_golden_bets():
    gamma = sequential.bets(10_000)
    assert gamma.shape == (12,)
    assert gamma[[0, -1]] == pytest.approx([math.sqrt(0.006), 0.9])
    assert np.diff(np.log(gamma)) == pytest.approx(np.full(11, math.log(gamma[-1] / gamma[0]) / 11))
    assert sequential.bets(1)[0] == 0.5


# ── the definition ────────────────────────────────────────────────────────────────────────


def by_definition(contrasts, highest, lowest, n_total):
    """Wealth after these contrasts, pair after pair."""
    gamma = sequential.bets(n_total)
    e_pass = np.mean([math.prod(1 - g / highest * d for d in contrasts) for g in gamma])
    e_fail = np.mean([math.prod(1 + g / -lowest * d for d in contrasts) for g in gamma])
    return pytest.approx((math.log(e_pass), math.log(e_fail)), rel=1e-9, abs=1e-9)


outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@unhurried
@given(outcomes, st.sampled_from([-0.3, 0.0, 0.01, 0.2, 0.99]), st.randoms())
def test_it_is_the_wealth_of_the_bettors_in_any_order(pairs, delta, random):
    n, b = len(pairs), sum(f and not q for f, q in pairs)
    c = sum(q and not f for f, q in pairs)
    n11 = sum(f and q for f, q in pairs)
    drop = sequential.log_e_drop(b, c, n, delta, 100)
    relative = sequential.log_e_relative(n11, b, c, n, delta, 100)
    rate = sequential.log_e_rate(b, n, abs(delta) or 0.5, 100)
    bound = abs(delta) or 0.5
    random.shuffle(pairs)
    assert drop == by_definition([f - q - delta for f, q in pairs], 1 - delta, -1 - delta, 100)
    assert relative == by_definition([(1 - delta) * f - q for f, q in pairs], 1 - delta, -1, 100)
    assert rate == by_definition([f * (1 - q) - bound for f, q in pairs], 1 - bound, -bound, 100)


def test_no_relative_drop_is_no_drop():
    assert sequential.log_e_relative(90, 8, 2, 120, 0.0, 500) == pytest.approx(
        sequential.log_e_drop(8, 2, 120, 0.0, 500)
    )


def test_a_rate_of_losses_alone_is_a_drop_up_to_scale():
    """Without gains the contrasts X − bound and F − Q − δ are the same pair for pair."""
    drop = sequential.log_e_drop(7, 0, 300, 0.02, 500)[0]
    assert sequential.log_e_rate(7, 300, 0.02, 500)[0] == pytest.approx(drop)


@unhurried
@given(tables(), st.floats(-1, 1))
def test_swapping_the_models_swaps_the_sides(table, delta):
    b, c, n = table
    e_pass, e_fail = sequential.log_e_drop(b, c, n, delta, 2000)
    assert sequential.log_e_drop(c, b, n, -delta, 2000) == pytest.approx((e_fail, e_pass))


@unhurried
@given(tables(), st.floats(-1, 1), st.floats(-1, 1))
def test_evidence_grows_with_the_distance_from_the_budget(table, one, other):
    low, high = sorted((one, other))
    (pass_low, fail_low), (pass_high, fail_high) = (
        sequential.log_e_drop(*table, delta, 2000) for delta in (low, high)
    )
    assert pass_low <= pass_high or pass_low == pytest.approx(pass_high)
    assert fail_low >= fail_high or fail_low == pytest.approx(fail_high)


@unhurried
@given(tables(), st.floats(-0.999, 0.999))
def test_nothing_is_proven_against_what_was_seen(table, delta):
    b, c, n = table
    e_pass, e_fail = sequential.log_e_drop(b, c, n, delta, 2000)
    assert min(e_pass, e_fail) <= 1e-9
    if (b - c) / n >= delta:
        assert e_pass <= 1e-9
    if (b - c) / n <= delta:
        assert e_fail <= 1e-9


def test_numbers_give_floats_and_arrays_broadcast():
    e_pass, e_fail = sequential.log_e_drop(3, 2, 500, 0.01, 1000)
    assert type(e_pass) is type(e_fail) is float
    wide, _ = sequential.log_e_drop(np.array([[3], [4]]), np.array([2, 1, 0]), 500, 0.01, 1000)
    assert wide.shape == (2, 3)
    assert wide[0, 0] == pytest.approx(e_pass)
    assert sequential.log_e_rate(np.arange(4), np.int64(9), 0.1, 9)[1].shape == (4,)
    assert sequential.log_e_relative(np.arange(4), 1, 1, 9, 0.1, 9)[0].shape == (4,)


def test_wealth_starts_at_one():
    assert sequential.log_e_drop(0, 0, 0, 0.01, 10) == (0.0, 0.0)
    assert sequential.log_e_rate(0, 0, 0.0, 10) == (0.0, 0.0)


def test_a_million_pairs_neither_overflow_nor_vanish():
    n = 1_000_000
    for b, c in ((n, 0), (0, n), (0, 0), (n // 2, n // 2)):
        assert np.isfinite(sequential.log_e_drop(b, c, n, 0.01, n)).all()
    assert sequential.p_value(sequential.log_e_drop(0, n, n, 0.01, n)[0]) == 0.0


# ── the ends of the domain ────────────────────────────────────────────────────────────────


def test_one_event_disproves_a_rate_of_zero_and_nothing_proves_it():
    assert sequential.log_e_rate(1, 900, 0.0, 1000)[1] == math.inf
    assert sequential.log_e_rate(0, 900, 0.0, 1000)[1] <= 0
    assert all(sequential.log_e_rate(x, 900, 0.0, 1000)[0] <= 0 for x in (0, 1, 900))


def test_one_miss_proves_a_rate_below_one_and_nothing_disproves_it():
    assert sequential.log_e_rate(899, 900, 1.0, 1000)[0] == math.inf
    assert sequential.log_e_rate(900, 900, 1.0, 1000)[0] <= 0
    assert all(sequential.log_e_rate(x, 900, 1.0, 1000)[1] <= 0 for x in (0, 899, 900))


def test_a_drop_of_everything_is_disproven_by_one_pair():
    assert sequential.log_e_drop(9, 0, 10, 1.0, 10)[0] == math.inf
    assert sequential.log_e_drop(10, 0, 10, 1.0, 10)[0] <= 0
    assert sequential.log_e_drop(0, 9, 10, -1.0, 10)[1] == math.inf


@pytest.mark.parametrize("edge", [5e-324, 1e-300, 1e-12])
def test_the_ends_are_approached_without_a_break(edge):
    assert sequential.log_e_rate(1, 9, edge, 10)[1] > 15
    assert sequential.log_e_rate(0, 9, edge, 10)[1] <= 0
    near = math.nextafter(1.0, 0.0)
    assert sequential.log_e_drop(9, 0, 10, near, 10)[0] > 15
    assert np.isfinite(sequential.log_e_drop(9, 0, 10, near, 10)).all()


# ── that it is fair ───────────────────────────────────────────────────────────────────────


def mean_e(log_e, chances):
    """Expectation over the outcomes that can occur."""
    return float(sum(p * math.exp(e) for p, e in zip(chances, log_e, strict=True) if p > 0))


def compositions(n, parts):
    if parts == 1:
        return [(n,)]
    return [(k, *rest) for k in range(n + 1) for rest in compositions(n - k, parts - 1)]


def chance(counts, p):
    ways = math.factorial(sum(counts)) // math.prod(math.factorial(k) for k in counts)
    return ways * math.prod(q**k for q, k in zip(p, counts, strict=True))


# Tiny chances would only test how floats round: a bound of 0 is not one of 1e-200.
shares = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any)
fractions = st.integers(0, 1000).map(lambda k: k / 1000)
ends = st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, -0.5, 0.0, 0.01, 0.5, 1 - 1e-9, 1.0]))


@unhurried
@given(shares, ends, st.integers(1, 5), st.integers(5, 100_000))
def test_no_distribution_of_the_hypothesis_pays_more_than_the_stake(weights, delta, n, n_total):
    """The mean of E by enumeration, over drops at least (at most) δ, the boundary among them."""
    p10, p01, *_ = np.array(weights) / sum(weights)
    p = (p10, p01, 1 - p10 - p01)
    seen = [k for k in compositions(n, 3) if chance(k, p) > 0]
    chances = [chance(k, p) for k in seen]
    for budget in (delta, p10 - p01):
        found = np.array([sequential.log_e_drop(b, c, n, budget, n_total) for b, c, _ in seen])
        if p10 - p01 >= budget:
            assert mean_e(found[:, 0], chances) <= 1 + 1e-6
        if p10 - p01 <= budget:
            assert mean_e(found[:, 1], chances) <= 1 + 1e-6


@unhurried
@given(shares, st.sampled_from([-1.0, 0.0, 0.01, 0.3, 0.99]), st.integers(1, 4))
def test_nor_does_a_relative_drop(weights, r, n):
    p = np.array(weights) / sum(weights)  # n11, b, c, n00
    mean = (1 - r) * (p[0] + p[1]) - p[0] - p[2]
    seen = [k for k in compositions(n, 4) if chance(k, p) > 0]
    chances = [chance(k, p) for k in seen]
    found = np.array([sequential.log_e_relative(*k[:3], n, r, 50) for k in seen])
    if mean >= 0:
        assert mean_e(found[:, 0], chances) <= 1 + 1e-6
    if mean <= 0:
        assert mean_e(found[:, 1], chances) <= 1 + 1e-6


@unhurried
@given(fractions, fractions, st.integers(1, 9))
def test_nor_does_a_rate(rate, bound, n):
    seen = [x for x in range(n + 1) if math.comb(n, x) * rate**x * (1 - rate) ** (n - x) > 0]
    chances = [math.comb(n, x) * rate**x * (1 - rate) ** (n - x) for x in seen]
    for held in (bound, rate):
        found = np.array([sequential.log_e_rate(x, n, held, 50) for x in seen])
        if rate >= held:
            assert mean_e(found[:, 0], chances) <= 1 + 1e-6
        if rate <= held:
            assert mean_e(found[:, 1], chances) <= 1 + 1e-6


@pytest.mark.parametrize("bound", [0.02, 0.3])
def test_a_rate_at_its_bound_rarely_ever_crosses(bound):
    """The exact probability of ever crossing: counts pair by pair, absorbed where they cross."""
    n_total = 400
    crossed, x = np.zeros(2), np.arange(n_total + 1)
    for side in (0, 1):
        alive = np.zeros(n_total + 1)
        alive[0] = 1.0
        for n in range(1, n_total + 1):
            alive[1:] = alive[1:] * (1 - bound) + alive[:-1] * bound
            alive[0] *= 1 - bound
            log_e = sequential.log_e_rate(x[: n + 1], n, bound, n_total)[side]
            crossed[side] += alive[: n + 1][log_e >= STOP].sum()
            alive[: n + 1][log_e >= STOP] = 0.0
    assert np.all(crossed <= NEVER_MORE_THAN)


def crossings(n_total, p, delta, runs, rng):
    """Whether each run ever crosses, (runs,) a side.

    E_pass falls only at a pair lost and E_fail rises only there, so that their peaks stand just
    before and just after one (or at the last pair): nothing between needs a look.
    """
    steps = rng.choice(3, size=(runs, n_total), p=p).astype(np.int8)
    steps = np.concatenate([steps, np.zeros((runs, 1), np.int8)], axis=1)  # a look at the end
    lost, gained = np.cumsum(steps == 0, axis=1), np.cumsum(steps == 1, axis=1)
    run, at = np.nonzero(steps == 0)
    b, c = lost[run, at], gained[run, at]
    e_pass, _ = sequential.log_e_drop(b - 1, c, at, delta, n_total)
    inside = at < n_total
    _, e_fail = sequential.log_e_drop(b[inside], c[inside], at[inside] + 1, delta, n_total)
    passed, failed = np.zeros(runs, bool), np.zeros(runs, bool)
    passed[run[e_pass >= STOP]] = True
    failed[run[inside][e_fail >= STOP]] = True
    return passed, failed, lost[:, n_total - 1], gained[:, n_total - 1]


@cache
def p_values(b, c, n, alpha):
    return exact.p_values(b, c, n, DELTA, alpha_pass=alpha, alpha_fail=alpha)


def at_the_end(b, c, n, alpha):
    """Verdicts of the fixed test: (runs, 2)."""
    pairs = zip(b, c, strict=True)
    return np.array([p_values(int(lost), int(won), n, alpha) for lost, won in pairs]) <= alpha


def slack(level, runs):
    return level + 3 * math.sqrt(level * (1 - level) / runs)


def errors(n_total, f, runs, seed):
    """Runs at the budget that ever cross a side, and those also at 0.8 α at the end: (2,), (2,)."""
    rng, early, either, left = np.random.default_rng(seed), np.zeros(2), np.zeros(2), runs
    while left:
        size = min(left, max(1, 4_000_000 // n_total))
        passed, failed, b, c = crossings(n_total, cells(f, DELTA), DELTA, size, rng)
        crossed = np.stack([passed, failed], axis=1)
        fixed = at_the_end(b, c, n_total, ALPHA * (1 - sequential.SHARE))
        early += crossed.sum(axis=0)
        either += (crossed | fixed).sum(axis=0)
        left -= size
    return early / runs, either / runs


@pytest.mark.parametrize(("n_total", "f"), [(500, 0.012), (1000, 0.02)])
def test_at_the_budget_it_rarely_ever_crosses(n_total, f):
    early, either = errors(n_total, f, runs=2000, seed=3)
    assert np.all(early <= slack(NEVER_MORE_THAN, 2000))
    assert np.all(either <= slack(ALPHA, 2000))


@pytest.mark.slow
@pytest.mark.parametrize("n_total", [500, 1000, 2000, 10_000])
@pytest.mark.parametrize("f", [0.01, 0.012, 0.02, 0.05])
def test_at_the_budget_it_rarely_ever_crosses_at_full_size(n_total, f):
    early, either = errors(n_total, f, runs=20_000, seed=4)
    print(f"{n_total} {f}: early {early}, early or at the end {either}")
    assert np.all(early <= slack(NEVER_MORE_THAN, 20_000))
    assert np.all(either <= slack(ALPHA, 20_000))


# ── what it saves ─────────────────────────────────────────────────────────────────────────


def fraction_evaluated(n_total, f, d, *, runs, every, seed=5):
    """Mean fraction of N at which a run stops, looking after each `every` pairs."""
    rng, stopped = np.random.default_rng(seed), []
    n = np.arange(every, n_total + 1, every)
    for _ in range(0, runs, 100):
        counts = rng.multinomial(every, cells(f, d), size=(100, len(n))).cumsum(axis=1)
        sides = sequential.log_e_drop(counts[..., 0], counts[..., 1], n, DELTA, n_total)
        crossed = np.maximum(*sides) >= STOP
        stopped.append(np.where(crossed.any(axis=1), n[crossed.argmax(axis=1)], n_total))
    return float(np.mean(stopped)) / n_total


@pytest.mark.parametrize(("n_total", "f", "d", "expected"), SAVINGS)
def test_it_saves_examples(n_total, f, d, expected):
    found = fraction_evaluated(n_total, f, d, runs=200, every=n_total // 500)
    assert found == pytest.approx(expected, abs=0.035)
    assert 1 - found >= SAVED.get((n_total, f, d), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("n_total", "f", "d", "expected"), SAVINGS)
def test_it_saves_examples_at_full_size(n_total, f, d, expected):
    found = fraction_evaluated(n_total, f, d, runs=4000, every=10)
    print(f"{n_total} {f} {d}: {found:.4f}, expected {expected}")
    assert expected - 0.035 <= found <= expected + 0.005  # the table looked less often
    assert 1 - found >= SAVED.get((n_total, f, d), 0.0)


def powers(n_total, f, d, runs, seed=6):
    """Shares that PASS: with early stopping, and in the fixed test at α."""
    rng = np.random.default_rng(seed)
    passed, failed, b, c = crossings(n_total, cells(f, d), DELTA, runs, rng)
    end = at_the_end(b, c, n_total, ALPHA * (1 - sequential.SHARE))[:, 0]
    fixed = at_the_end(b, c, n_total, ALPHA)[:, 0]
    return float(np.mean((passed | end) & ~failed)), float(np.mean(fixed))


def test_it_costs_little_power():
    early, fixed = powers(2419, 0.02, 0.0025, runs=500)
    assert 0.7 < fixed < 0.9
    assert early >= fixed - 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_total", "f", "d"),
    [(2419, 0.02, 0.0025), (10_000, 0.02, 0.0025), (10_000, 0.02, 0.006), (10_000, 0.05, 0.004)],
)
def test_it_costs_little_power_at_full_size(n_total, f, d):
    early, fixed = powers(n_total, f, d, runs=2000)
    print(f"{n_total} {f} {d}: early {early:.3f}, fixed {fixed:.3f}")
    assert early >= fixed - 0.05


# ── p-values and intervals ────────────────────────────────────────────────────────────────


def test_p_values_spend_their_share():
    assert sequential.p_value(math.log(100) + 1e-12) <= 0.05
    assert sequential.p_value(math.log(100) - 1e-12) > 0.05
    assert sequential.p_value(math.log(20), share=1.0) == pytest.approx(0.05)
    assert sequential.p_value(-1e6) == sequential.p_value(0.0) == 1.0
    assert sequential.p_value(math.inf) == sequential.p_value(1e6) == 0.0


@unhurried
@given(tables(most=400), st.sampled_from([0.01, 0.05]), st.floats(-0.99, 0.99))
def test_the_interval_holds_what_is_not_disproven(table, alpha_end, delta):
    b, c, n = table
    lower, upper = sequential.interval_drop(b, c, n, 400, alpha_end)
    assert -1 <= lower <= (b - c) / n <= upper <= 1
    assert sequential.interval_drop(c, b, n, 400, alpha_end) == (-upper, -lower)
    assume(min(abs(delta - lower), abs(delta - upper)) > 1e-9)
    e_pass, e_fail = sequential.log_e_drop(b, c, n, delta, 400)
    assert (delta > upper) == (e_pass > -math.log(alpha_end))
    assert (delta < lower) == (e_fail > -math.log(alpha_end))


@unhurried
@given(tables(most=400), st.sampled_from([0.01, 0.05]), st.floats(0, 1))
def test_the_interval_of_a_rate_holds_what_is_not_disproven(table, alpha_end, bound):
    x, _, n = table
    lower, upper = sequential.interval_rate(x, n, 400, alpha_end)
    assert 0 <= lower <= x / n <= upper <= 1
    assume(min(abs(bound - lower), abs(bound - upper)) > 1e-9)
    e_pass, e_fail = sequential.log_e_rate(x, n, bound, 400)
    assert (bound > upper) == (e_pass > -math.log(alpha_end))
    assert (bound < lower) == (e_fail > -math.log(alpha_end))


def test_without_pairs_everything_is_possible():
    assert sequential.interval_drop(0, 0, 0, 10, 0.01) == (-1.0, 1.0)
    assert sequential.interval_rate(0, 0, 10, 0.01) == (0.0, 1.0)


@unhurried
@given(tables(most=200), st.integers(0, 200), st.sampled_from([0.01, 0.05]), st.floats(-9, 0.99))
def test_the_interval_of_a_relative_drop_holds_what_is_not_disproven(table, both, alpha_end, r):
    b, c, n = table
    both = min(both, n - b - c)
    lower, upper = sequential.interval_relative(both, b, c, n, 200, alpha_end)
    assert lower <= upper <= 1
    assume(min(abs(r - lower), abs(r - upper)) > 1e-9)
    e_pass, e_fail = sequential.log_e_relative(both, b, c, n, r, 200)
    assert (r > upper) == (e_pass > -math.log(alpha_end))
    assert (r < lower) == (e_fail > -math.log(alpha_end))


def test_no_gain_is_too_large_to_be_believed_of_a_reference_that_was_never_right():
    assert sequential.interval_relative(0, 0, 0, 0, 100, 0.01)[0] == -math.inf
    lower, _ = sequential.interval_relative(100, 0, 0, 100, 100, 0.01)
    assert -1 < lower < 0


def test_it_is_wider_than_that_of_the_fixed_test_but_not_idle():
    lower, upper = sequential.interval_drop(15, 8, 1000, 1000, 0.01)
    assert -0.02 < lower < -0.0009
    assert 0.0156 < upper < 0.04


# ── nonsense ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("b", "c", "n", "delta", "n_total"),
    [
        (-1, 0, 10, 0.1, 10),
        (0, -1, 10, 0.1, 10),
        (6, 5, 10, 0.1, 10),
        (0, 0, 11, 0.1, 10),
        (0.5, 0, 10, 0.1, 10),
        (math.nan, 0, 10, 0.1, 10),
        (np.array([1, 11]), 0, 10, 0.1, 10),
        (0, 0, math.nan, 0.1, 10),
        (0, 0, math.inf, 0.1, 10),
        (0, 0, 10, math.nan, 10),
        (0, 0, 10, 1.001, 10),
        (0, 0, 10, -1.001, 10),
        (0, 0, 0, 0.1, 0),
        (0, 0, 10, 0.1, 10.5),
        (0, 0, 10, 0.1, math.nan),
        (0, 0, 10, 0.1, math.inf),
    ],
)
def test_impossible_input_is_refused(b, c, n, delta, n_total):
    with pytest.raises(ValueError, match="must"):
        sequential.log_e_drop(b, c, n, delta, n_total)


def test_the_other_contrasts_refuse_too():
    for r in (1.0, 2.0, math.nan, -math.inf):
        with pytest.raises(ValueError, match="must"):
            sequential.log_e_relative(5, 1, 1, 10, r, 10)
    with pytest.raises(ValueError, match="must"):
        sequential.log_e_relative(9, 1, 1, 10, 0.1, 10)
    for bound in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="must"):
            sequential.log_e_rate(1, 10, bound, 10)
    with pytest.raises(ValueError, match="must"):
        sequential.log_e_rate(11, 10, 0.1, 20)


def test_the_rest_refuses_too():
    with pytest.raises(ValueError, match="must"):
        sequential.p_value(math.nan)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="must"):
            sequential.p_value(1.0, share)
    for alpha_end in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="must"):
            sequential.interval_drop(1, 1, 10, 10, alpha_end)
        with pytest.raises(ValueError, match="must"):
            sequential.interval_rate(1, 10, 10, alpha_end)
