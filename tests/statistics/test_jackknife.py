"""The jackknife and the worst case: hand-computed cases, symmetries, and error rates by simulation.

The simulations draw the counts of every kind of pair for each group, for all runs at once, and put
the bound at the true drop: a PASS there is a false PASS, a FAIL a false FAIL.
"""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory import an_example

from gate.statistics import jackknife
from gate.statistics.jackknife import Estimate

unhurried = settings(deadline=None)
RUNS = 3000
MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


@st.composite
def estimates(draw):
    """A mean of 2..60 groups, with few distinct values so that ties and skewness are common."""
    pool = st.sampled_from([0.0, 1.0, 7.0, -3.0]) | st.floats(-100, 100).map(lambda x: round(x, 3))
    return mean_of(draw(st.lists(pool, min_size=2, max_size=60)))


def mean_of(data):
    values = np.asarray(data, dtype=float)
    n = len(values)
    return Estimate(float(values.mean()), (values.sum() - values) / (n - 1))


def negated(estimate):
    return Estimate(-estimate.value, -estimate.replicates)


bounds = st.floats(-200, 200)
levels = st.floats(0.5, 0.99)


# --- dealing units into groups ---


def test_units_are_dealt_in_the_order_of_their_hashes():
    names = ["a", "b", "c", "d", "e"]
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    expected = [ordered.index(name) % 2 for name in names]
    assert jackknife.deal(names, groups=2).tolist() == expected
    assert jackknife.deal([*names, *names], groups=2).tolist() == expected * 2


@given(st.lists(st.integers(0, 40), max_size=200), st.integers(1, 12), st.randoms())
def test_groups_belong_to_units_and_are_even(units, most, random):
    groups = jackknife.deal(units, groups=most)
    distinct = set(units)
    group_of = dict(zip(units, groups.tolist(), strict=True))
    sizes = np.bincount(list(group_of.values())) if units else np.zeros(0)
    assert len(sizes) == min(most, len(distinct))
    assert sizes.size == 0 or sizes.max() - sizes.min() <= 1
    assert [group_of[unit] for unit in units] == groups.tolist()
    shuffled = random.sample(units, len(units))
    assert jackknife.deal(shuffled, groups=most).tolist() == [group_of[unit] for unit in shuffled]


def test_a_unit_is_its_text():
    as_text = jackknife.deal(["3", "1", "20"])
    assert jackknife.deal(np.array([3, 1, 20])).tolist() == as_text.tolist()
    assert jackknife.deal(np.array(["3", "1", "20"], dtype=object)).tolist() == as_text.tolist()
    assert jackknife.deal(["\udcff.jpg", "ü.jpg"]).size == 2
    assert jackknife.deal(np.arange(1000)).max() == jackknife.GROUPS - 1


def test_no_groups_are_refused():
    with pytest.raises(ValueError, match="groups"):
        jackknife.deal(["a"], groups=0)


# --- replicates ---


def test_replicates_leave_one_group_out():
    data = np.array([1.0, 2.0, 4.0, 9.0, 5.0])
    seen = []

    def mean(rows):
        seen.append(rows.tolist())
        return float(data[rows].mean())

    found = jackknife.replicates(mean, np.array([0, 1, 2, 0, 1]))
    assert seen == [[1, 2, 4], [0, 2, 3], [0, 1, 3, 4]]
    assert found.tolist() == [11 / 3, 14 / 3, 17 / 4]


def test_an_undefined_replicate_stays_undefined():
    found = jackknife.replicates(lambda rows: math.nan if 0 not in rows else 1.0, np.arange(3))
    assert np.isnan(found).tolist() == [True, False, False]
    undefined_everywhere(Estimate(1.0, found))


@pytest.mark.parametrize("units", [[], ["a"], ["a", "a"]])
def test_fewer_than_two_units_are_undefined_and_nothing_is_asked_of_nothing(units):
    found = jackknife.replicates(lambda rows: 1 / len(rows), jackknife.deal(units))
    undefined_everywhere(Estimate(0.5, found))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_undefined_value_is_undefined_everywhere(value):
    undefined_everywhere(Estimate(value, np.array([1.0, 2.0])))
    undefined_everywhere(Estimate(1.0, np.array([1.0, value])))


def undefined_everywhere(estimate):
    assert not estimate.defined
    found = (*jackknife.interval(estimate, 0.9), *jackknife.p_values(estimate, 0.0))
    assert all(map(math.isnan, (*found, estimate.se, estimate.skewness)))


@unhurried
@given(st.randoms(), st.integers(0, 10**6))
def test_permuting_the_rows_changes_no_digit(random, seed):
    """An F1 drop counts, so that its digits cannot depend on the order of a sum."""
    rng = np.random.default_rng(seed)
    units = rng.integers(0, 60, 300)
    truth, reference, candidate = rng.random((3, 300)) < 0.5

    def result(order):
        kept = [column[order] for column in (truth, reference, candidate)]

        def drop(rows):
            t, f, q = (column[rows] for column in kept)
            f1 = [2 * (t & p).sum() / (t.sum() + p.sum()) for p in (f, q)]
            return float(f1[0] - f1[1])

        groups = jackknife.deal(units[order], groups=20)
        estimate = Estimate(drop(np.arange(300)), jackknife.replicates(drop, groups))
        return (*jackknife.interval(estimate, 0.9), *jackknife.p_values(estimate, 0.01))

    assert result(np.arange(300)) == result(np.array(random.sample(range(300), 300)))


# --- estimates, p-values and intervals ---


@unhurried
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=60))
def test_of_a_mean_it_is_the_textbook(data):
    from scipy import stats

    estimate = mean_of(data)
    assert estimate.se == pytest.approx(stats.sem(data), rel=1e-9, abs=1e-12)
    if np.ptp(data):
        assert estimate.skewness == pytest.approx(stats.skew(data), rel=1e-6, abs=1e-9)


@unhurried
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30), st.integers(-60, 60))
def test_symmetric_data_have_twice_students_p(half, bound):
    """Without skewness the two methods are one, and a p-value is twice that of the t-test."""
    from scipy import stats

    data = [*half, *(-x for x in half)]
    if not np.ptp(data):
        return
    p_pass, p_fail = jackknife.p_values(mean_of(data), bound)
    less, greater = (
        stats.ttest_1samp(data, bound, alternative=a).pvalue for a in ("less", "greater")
    )
    assert p_pass == pytest.approx(min(1, 2 * less), rel=1e-6, abs=1e-12)
    assert p_fail == pytest.approx(min(1, 2 * greater), rel=1e-6, abs=1e-12)


def test_a_case_by_hand():
    """Data 0, 0, 0, 4: mean 1, s = 2, se = 1, m2 = 3, m3 = 6, skewness 6 / 3^1.5 = 2 / √3."""
    from scipy.stats import t as student

    estimate = mean_of([0, 0, 0, 4])
    assert estimate.replicates == pytest.approx([4 / 3, 4 / 3, 4 / 3, 0])
    assert estimate.se == pytest.approx(1)
    skewness = 2 / math.sqrt(3)
    assert estimate.skewness == pytest.approx(skewness)

    def hall(t):
        return t + skewness * (t**2 / 3 + 1 / 6) / 2 + skewness**2 * t**3 / 108

    # right-skewed data: Hall's is the larger p below the bound, Student's the larger above it
    p_pass, p_fail = jackknife.p_values(estimate, 3)
    assert p_pass == pytest.approx(2 * student.cdf(hall(-2), 3))
    assert hall(-2) > -2
    assert p_fail == 1
    p_pass, p_fail = jackknife.p_values(estimate, -1)
    assert p_pass == 1
    assert p_fail == pytest.approx(2 * student.sf(2, 3))
    lower, upper = jackknife.interval(estimate, 0.9)
    quantile = student.ppf(0.975, 3)
    assert lower == pytest.approx(1 - quantile)
    assert upper > 1 + quantile
    assert hall(1 - upper) == pytest.approx(-quantile)


@unhurried
@given(estimates(), levels)
def test_the_interval_holds_the_value_and_both_methods_own(estimate, level):
    from scipy.stats import t as student

    lower, upper = jackknife.interval(estimate, level)
    assert lower <= estimate.value <= upper
    reach = student.ppf((3 + level) / 4, estimate.replicates.size - 1) * estimate.se
    assert lower <= estimate.value - reach * (1 - 1e-9)
    assert upper >= estimate.value + reach * (1 - 1e-9)


@unhurried
@given(estimates(), levels, levels)
def test_more_confidence_is_wider(estimate, one, other):
    low, high = sorted((one, other))
    narrow, wide = jackknife.interval(estimate, low), jackknife.interval(estimate, high)
    slack = 1e-12 * (1 + estimate.se)
    assert wide[0] <= narrow[0] + slack
    assert narrow[1] <= wide[1] + slack


@unhurried
@given(estimates(), bounds, bounds)
def test_a_wider_budget_is_easier(estimate, one, other):
    low, high = sorted((one, other))
    (pass_low, fail_low), (pass_high, fail_high) = (
        jackknife.p_values(estimate, bound) for bound in (low, high)
    )
    assert pass_high <= pass_low + 1e-12
    assert fail_low <= fail_high + 1e-12


@unhurried
@given(estimates(), st.floats(-8, 8), levels)
def test_interval_and_p_values_agree(estimate, distance, level):
    bound = estimate.value + distance * estimate.se
    lower, upper = jackknife.interval(estimate, level)
    p_pass, p_fail = jackknife.p_values(estimate, bound)
    near = 1e-7 * estimate.se
    if abs(upper - bound) > near:
        assert (p_pass <= (1 - level) / 2) == (upper <= bound)
    if abs(lower - bound) > near:
        assert (p_fail <= (1 - level) / 2) == (lower >= bound)


@unhurried
@given(estimates(), bounds, levels)
def test_negating_the_data_mirrors_everything(estimate, bound, level):
    lower, upper = jackknife.interval(estimate, level)
    assert jackknife.interval(negated(estimate), level) == (-upper, -lower)
    p_pass, p_fail = jackknife.p_values(estimate, bound)
    assert jackknife.p_values(negated(estimate), -bound) == (p_fail, p_pass)


def test_without_spread_the_side_decides():
    estimate = Estimate(0.25, np.full(10, 0.25))
    assert (estimate.se, estimate.skewness) == (0, 0)
    assert jackknife.interval(estimate, 0.9) == (0.25, 0.25)
    assert jackknife.p_values(estimate, 0.25) == (1, 1)
    assert jackknife.p_values(estimate, 0.3) == (0, 1)
    assert jackknife.p_values(estimate, 0.2) == (1, 0)


def test_bounds_far_away_and_scales_small():
    for data in ([0, 0, 0, 4], [0, 0, 0, -4], [1e-150, 2e-150, 5e-150]):
        assert jackknife.p_values(mean_of(data), math.inf) == (pytest.approx(0, abs=1e-9), 1)
        assert jackknife.p_values(mean_of(data), -math.inf) == (1, pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize("level", [0, 1, math.nan])
def test_an_impossible_level_is_refused(level):
    for estimate in (mean_of([1, 2]), Estimate(math.nan, np.zeros(0))):
        with pytest.raises(ValueError, match="level"):
            jackknife.interval(estimate, level)
    with pytest.raises(ValueError, match="level"):
        jackknife.worst_case_interval(1, 10, 1.0, level)


def test_a_missing_bound_is_refused():
    for estimate in (mean_of([1, 2]), Estimate(math.nan, np.zeros(0))):
        with pytest.raises(ValueError, match="bound"):
            jackknife.p_values(estimate, math.nan)
    with pytest.raises(ValueError, match="bound"):
        jackknife.worst_case_p(1, 10, 1.0, math.nan)


# --- the worst case ---


def test_the_worst_case_without_changes_is_the_rule_of_three():
    assert jackknife.worst_case_p(0, 300, 1.0, 0.01) == pytest.approx(0.99**300)
    assert jackknife.worst_case_p(0, 300, 2.0, 0.02) == pytest.approx(0.99**300)
    _, upper = jackknife.worst_case_interval(0, 300, 1.0, 0.9)
    assert upper == pytest.approx(0.00993608, abs=6e-9)


@unhurried
@given(st.integers(0, 30), st.integers(30, 500), st.floats(0.1, 5), st.floats(0.001, 6), levels)
def test_the_worst_case_is_a_binomial_tail_and_agrees_with_its_interval(x, n, reach, bound, level):
    from scipy.stats import binom

    p = jackknife.worst_case_p(x, n, reach, bound)
    expected = binom.cdf(x, n, bound / reach) if bound < reach else 0.0
    assert p == pytest.approx(expected, abs=1e-9)
    lower, upper = jackknife.worst_case_interval(x, n, reach, level)
    assert lower == -upper
    if abs(upper - bound) > 1e-9:
        assert (p <= (1 - level) / 2) == (upper <= bound)


def test_the_ends_of_the_worst_case():
    assert jackknife.worst_case_p(0, 300, 1.0, 0.0) == 1
    assert jackknife.worst_case_p(0, 300, 1.0, -0.1) == 1
    assert jackknife.worst_case_p(0, 300, 0.0, 0.0) == 1
    assert jackknife.worst_case_p(300, 300, 1.0, 1.0) == 0
    assert jackknife.worst_case_p(3, 300, 0.0, 0.01) == 0
    assert jackknife.worst_case_p(0, 300, math.inf, 0.01) == 1
    assert jackknife.worst_case_interval(0, 300, math.inf, 0.9) == (-math.inf, math.inf)
    assert jackknife.worst_case_interval(3, 300, 0.0, 0.9) == (0, 0)


@pytest.mark.parametrize("reach", [-1.0, math.nan])
def test_an_impossible_reach_is_refused(reach):
    with pytest.raises(ValueError, match="reach"):
        jackknife.worst_case_p(1, 10, reach, 0.1)
    with pytest.raises(ValueError, match="reach"):
        jackknife.worst_case_interval(1, 10, reach, 0.9)


@pytest.mark.parametrize("count", [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(count):
    for bound in (0.0, 0.1, 2.0):
        with pytest.raises(ValueError, match="whole number"):
            jackknife.worst_case_p(*count, 1.0, bound)
    with pytest.raises(ValueError, match="whole number"):
        jackknife.worst_case_interval(*count, 1.0, 0.9)


# --- error rates at the boundary ---


def f1_drop(cells):
    """Cells (…, 6): true positives, false positives and misses of the reference, then of INT8."""
    reference, candidate = (
        2 * part[..., 0] / (2 * part[..., 0] + part[..., 1] + part[..., 2])
        for part in (cells[..., :3], cells[..., 3:])
    )
    return reference - candidate


# TP, miss, FP and TN in both; TP lost, miss mended, FP mended, FP made
F1_PAIRS = np.array(
    [
        [1, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0, 1],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 1],
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0],
    ]
)
MEAN_PAIRS = np.array([[1, 0], [1, 1], [1, -1], [1, 5]])  # unit, its loss: none, one, a gain, five


def mean_drop(cells):
    return cells[..., 1] / cells[..., 0]


def auroc_drop(cells):
    """Cells (…, 4, K): scores of positives and negatives in the reference, then in INT8."""

    def auroc(positives, negatives):
        below = np.cumsum(negatives, axis=-1) - negatives / 2
        return (positives * below).sum(-1) / (positives.sum(-1) * negatives.sum(-1))

    return auroc(cells[..., 0, :], cells[..., 1, :]) - auroc(cells[..., 2, :], cells[..., 3, :])


def auroc_pairs(prevalence, changed, far):
    """(P,) probabilities and (P, 4, K) pairs: `changed` of the positives fall, one level or all."""
    K = 8
    positive, negative = (np.exp(-((np.arange(K) - top) ** 2) / 4) for top in (5, 2))
    probabilities, pairs = [], []
    for label, scores in ((0, prevalence * positive), (1, (1 - prevalence) * negative)):
        for level, p in enumerate(scores / scores.sum() * (prevalence, 1 - prevalence)[label]):
            to = (0 if far else max(0, level - 1)) if label == 0 else level
            for end, share in ((level, 1 - changed), (to, changed)):
                pair = np.zeros((4, K))
                pair[label, level] = pair[2 + label, end] = 1
                probabilities.append(p * share)
                pairs.append(pair)
    return np.array(probabilities), np.array(pairs)


def simulated(rng, n, probabilities, pairs, *, drop, runs=RUNS):
    """The estimates of `runs` sets of `n` units, the true drop, and how many units changed."""
    groups, half = 100, len(pairs[0]) // 2
    changed = np.array([not np.array_equal(pair[:half], pair[half:]) for pair in pairs])
    if drop is mean_drop:
        changed = pairs[:, 1] != 0
    counts = rng.multinomial(n // groups, probabilities, size=(runs, groups))
    cells = np.tensordot(counts, pairs, 1).astype(float)
    total = cells.sum(1)
    values, without = drop(total), drop(total[:, None] - cells)
    found = [Estimate(float(v), w) for v, w in zip(values, without, strict=True)]
    return (
        found,
        float(drop(np.tensordot(probabilities, pairs, 1))),
        counts[..., changed].sum((1, 2)),
    )


def error_rates(found, bound, changed):
    """(false PASS, false FAIL) of the jackknife; neither is given where few changed."""
    enough = [e for e, count in zip(found, changed, strict=True) if count >= jackknife.FEW]
    p = np.array([jackknife.p_values(estimate, bound) for estimate in enough])
    return tuple((p <= 0.05).sum(0) / len(found))


def with_the_rest(position, *shares):
    """Shares of the pairs, with what is left of 1 put at `position`."""
    return np.insert(np.array(shares), position, 1 - sum(shares))


@pytest.mark.parametrize(
    ("n", "shares"),
    [
        (2000, (0.0225, 0, 0)),  # 45 losses, no gains
        (2000, (0.03, 0.01, 0)),
        (5000, (0, 0.012, 0)),  # gains only
        (2000, (0.02, 0.002, 0.006)),  # a fifth of the losses weigh five
        (100, (0.45, 0, 0.05)),  # as many groups as units
    ],
)
def test_a_mean_holds_its_error_rates(n, shares):
    rng = np.random.default_rng(1)
    run = simulated(rng, n, with_the_rest(0, *shares), MEAN_PAIRS, drop=mean_drop)
    assert max(error_rates(*run)) <= MOST


@pytest.mark.parametrize(
    ("n", "shares"),
    [
        (2000, (0.06, 0.02, 0.02, 0.02, 0.002, 0.003, 0.003)),
        (10_000, (0.015, 0.005, 0.004, 0.0045, 0, 0, 0)),  # positives lost
        (10_000, (0.015, 0.005, 0.004, 0, 0, 0, 0.0045)),  # false alarms made
        (10_000, (0.015, 0.005, 0.004, 0, 0.0045, 0, 0)),  # misses mended
    ],
)
def test_f1_holds_its_error_rates(n, shares):
    rng = np.random.default_rng(2)
    run = simulated(rng, n, with_the_rest(3, *shares), F1_PAIRS, drop=f1_drop)
    assert max(error_rates(*run)) <= MOST


@pytest.mark.parametrize(
    ("n", "prevalence", "changed", "far"),
    [(2000, 0.2, 0.12, True), (2000, 0.2, 0.12, False), (5000, 0.02, 0.45, True)],
)
def test_auroc_holds_its_error_rates(n, prevalence, changed, far):
    rng = np.random.default_rng(3)
    run = simulated(rng, n, *auroc_pairs(prevalence, changed, far), drop=auroc_drop)
    assert max(error_rates(*run)) <= MOST


@pytest.fixture(scope="module")
def rare_losses():
    return simulated(
        np.random.default_rng(4),
        2000,
        with_the_rest(0, 0.03, 0, 0),
        MEAN_PAIRS,
        drop=mean_drop,
        runs=20_000,
    )


def test_halls_sign_moves_both_tails_towards_the_level(rare_losses):
    """With the other sign, rates that Student's t misses on either side would move further off."""
    from scipy.special import stdtr

    found, bound, _ = rare_losses
    student, hall, wrong = [], [], []
    for estimate in found:
        t = (estimate.value - bound) / estimate.se
        student.append(t)
        hall.append(jackknife._transformed(t, estimate.skewness, 10))
        wrong.append(jackknife._transformed(t, -estimate.skewness, 10))
    passed, failed = (
        np.array([(stdtr(99, side * np.array(t)) <= 0.05).mean() for t in (student, hall, wrong)])
        for side in (1, -1)
    )
    for rates in (passed, failed):
        off = np.abs(rates - 0.05)
        assert off[1] < off[0] < off[2]
    assert passed[0] > 0.055
    assert failed[0] < 0.045


def test_units_and_not_examples_are_independent():
    """8 examples a unit that change together: dealing examples errs, dealing units does not."""
    rng = np.random.default_rng(5)
    units, runs, size = 200, 1000, 8
    of_unit = np.repeat(np.arange(units), size)
    losses = np.repeat(rng.random((runs, units)) < 0.3, size, axis=1).astype(float)

    def rates(groups):
        sums = np.stack([losses[:, groups == g].sum(1) for g in range(100)], axis=1)
        sizes = np.bincount(groups)
        value = losses.mean(1)
        without = (losses.sum(1)[:, None] - sums) / (losses.shape[1] - sizes)
        p = [
            jackknife.p_values(Estimate(float(v), w), 0.3)
            for v, w in zip(value, without, strict=True)
        ]
        return (np.array(p) <= 0.05).mean(0)

    assert max(rates(jackknife.deal(of_unit))) <= 0.05
    assert min(rates(jackknife.deal(np.arange(units * size)))) > 0.1


def test_the_worst_case_never_passes_falsely_below_few():
    """All changes are losses of the same weight, the hardest case: still at most 5 %."""
    from scipy.stats import binom

    for n, rate in ((300, 0.01), (300, 0.05), (2000, 0.005), (2000, 0.01)):
        passed = [
            x for x in range(jackknife.FEW) if jackknife.worst_case_p(x, n, 1.0, rate) <= 0.05
        ]
        assert sum(binom.pmf(passed, n, rate)) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.015, 0.0175, 0.02, 0.03, 0.05])
def test_both_rules_together_hold_the_false_pass_rate(rate):
    """The jackknife from FEW changed units on, the worst case below: the switch adds nothing."""
    n, runs = 2000, 40_000
    rng = np.random.default_rng(6)
    shares = with_the_rest(0, rate, 0, 0)
    found, bound, changed = simulated(rng, n, shares, MEAN_PAIRS, drop=mean_drop, runs=runs)
    passed, failed = error_rates(found, bound, changed)
    few = changed[changed < jackknife.FEW]
    counts, times = np.unique(few, return_counts=True)
    worst = [jackknife.worst_case_p(int(x), n, 1.0, bound) <= 0.05 for x in counts]
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert passed + (times[worst].sum() if counts.size else 0) / runs <= most
    assert failed <= most


# --- memory ---


def test_dealing_takes_a_few_bytes_a_unit():
    """Python's own texts would take 250, and their hashes as much."""

    def work(count):
        units = np.array([f"{place:017d}" for place in range(count)])
        return lambda: jackknife.deal(units)

    assert an_example(work, 10_000, 30_000) < 80
