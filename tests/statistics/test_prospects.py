import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from gate.statistics import clopper_pearson, exact, ratio
from gate.statistics.prospects import (
    Drop,
    Prospect,
    Rate,
    RelativeDrop,
    most_flips,
    share_looked_at,
    tightest,
)

ALPHA = 0.05
DROP = Drop(0.02, 0.0025, 0.01)
RATE = Rate(0.015, 0.03)
RELATIVE = RelativeDrop(0.02, 0.0025, 0.96, 0.01)
EVERY = (DROP, RATE, RELATIVE)


def exact_power(prospect: Drop, n: int, alpha: float = ALPHA) -> float:
    """Every outcome that can be expected, each judged by the exact test."""
    lost_rate, gained_rate, _ = prospect.cells()
    chance = 0.0
    for total in range(int(binom.ppf(1 - 1e-6, n, prospect.flips)) + 1):
        for lost in range(total + 1):
            p, _ = exact.p_values(
                lost, total - lost, n, prospect.limit, alpha_pass=alpha, alpha_fail=alpha
            )
            if p > alpha:
                break  # the more are lost, the larger is p
            share = lost_rate / (lost_rate + gained_rate)
            chance += binom.pmf(total, n, prospect.flips) * binom.pmf(lost, total, share)
    return float(chance)


# ── drops ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flips", "drop", "needed"),
    [(0.02, 0.0025, 2419), (0.05, 0.0, 3162), (0.01, 0.0, 856)],  # golden, shared/verdict.md
)
def test_examples_needed_are_the_golden_ones(flips: float, drop: float, needed: int) -> None:
    assert Drop(flips, drop, 0.01).needed(ALPHA, 0.8) == needed


def test_no_fewer_than_an_identical_model_takes() -> None:
    assert Drop(0.0, 0.0, 0.01).needed(ALPHA, 0.8) == DROP.least(ALPHA) == 301


@pytest.mark.parametrize("truth", [0.01, 0.02])
def test_no_number_is_enough_for_what_is_beyond_its_limit(truth: float) -> None:
    assert not Drop(0.05, truth, 0.01).is_enough(10**9, ALPHA)
    assert not RelativeDrop(0.05, 0.96 * truth, 0.96, 0.01).is_enough(10**9, ALPHA)
    assert not Rate(truth, 0.01).is_enough(10**9, ALPHA)


@pytest.mark.parametrize("n", [60, 105, 250])
@pytest.mark.parametrize("flips", [0.0, 0.01, 0.03])
def test_the_chance_of_a_drop_to_pass_is_the_exact_tests_with_few_examples(
    n: int, flips: float
) -> None:
    prospect = Drop(flips, min(flips, 0.0075), 0.03)
    expected = exact_power(prospect, n) if flips else float(n >= prospect.least(ALPHA))
    assert prospect.passes(n, ALPHA, 0) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("n", "delta"), [(401, 0.02), (700, 0.004)])
def test_and_nearly_so_with_more(n: int, delta: float) -> None:
    prospect = Drop(0.01, delta / 4, delta)
    assert prospect.passes(n, 0.04, 0) == pytest.approx(exact_power(prospect, n, 0.04), abs=0.02)


def test_a_harm_that_is_caught_fails_as_often_as_it_is_told() -> None:
    n, alpha = 89, ALPHA / 15
    caught = Drop(0.005, 0.0, 0.03).caught(n, alpha)
    assert caught is not None
    lost = np.arange(n + 1)
    failed = [
        exact.p_values(int(b), 0, n, 0.03, alpha_pass=alpha, alpha_fail=alpha)[1] <= alpha
        for b in lost
    ]
    assert binom.pmf(lost, n, caught)[np.array(failed)].sum() == pytest.approx(0.8, abs=1e-9)


def test_and_so_in_a_large_set_by_simulation() -> None:
    caught = Drop(0.01, 0.0, 0.01).caught(2000, ALPHA)
    assert caught is not None
    lost = np.random.default_rng(0).binomial(2000, caught, size=100)
    failed = {
        b: exact.p_values(b, 0, 2000, 0.01, alpha_pass=ALPHA, alpha_fail=ALPHA)[1] <= ALPHA
        for b in set(lost.tolist())
    }
    assert np.mean([failed[b] for b in lost.tolist()]) == pytest.approx(0.8, abs=0.15)


def test_one_example_of_many_slices_can_never_fail() -> None:
    assert not DROP.can_fail(1, ALPHA / 1000)
    assert DROP.caught(1, ALPHA / 1000) is None
    assert DROP.can_fail(100, ALPHA / 1000)


def test_most_flips_is_where_the_examples_just_suffice() -> None:
    found = most_flips(856, 0.01, alpha=ALPHA)
    assert found == pytest.approx(0.01, abs=1e-4)
    assert most_flips(300, 0.01, alpha=ALPHA) is None


# ── rates ─────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=40)
@given(
    n=st.integers(1, 300),
    truth=st.just(0.0) | st.floats(1e-6, 0.1),
    limit=st.floats(0.02, 0.5),
)
def test_the_chance_of_a_rate_to_pass_is_the_sum_over_counts(
    n: int, truth: float, limit: float
) -> None:
    counts = range(n + 1)
    passed = [x for x in counts if clopper_pearson.p_at_most(x, n, limit)[0] <= ALPHA]
    expected = binom.pmf(passed, n, truth).sum() if passed else 0.0
    assert Rate(truth, limit).passes(n, ALPHA, 0) == pytest.approx(expected, abs=1e-9)


def test_a_rate_that_is_caught_fails_with_the_target() -> None:
    caught = RATE.caught(1000, ALPHA)
    assert caught is not None
    failed = [x for x in range(1001) if clopper_pearson.p_at_most(x, 1000, 0.03)[1] <= ALPHA]
    assert binom.pmf(failed, 1000, caught).sum() == pytest.approx(0.8, abs=1e-9)
    assert Rate(0.0, 0.03).caught(1, ALPHA / 100) is None


def test_the_least_examples_of_a_rate_are_those_without_any() -> None:
    least = RATE.least(ALPHA)
    assert clopper_pearson.p_at_most(0, least, 0.03)[0] <= ALPHA
    assert clopper_pearson.p_at_most(0, least - 1, 0.03)[0] > ALPHA


# ── relative drops ────────────────────────────────────────────────────────────────────────


def test_the_least_examples_of_a_relative_drop_are_an_identical_models() -> None:
    perfect = RelativeDrop(0.0, 0.0, 1.0, 0.01)
    least = perfect.least(ALPHA)
    assert ratio.p_values(least, 0, 0, least, 0.01)[0] <= ALPHA
    assert ratio.p_values(least - 1, 0, 0, least - 1, 0.01)[0] > ALPHA


def test_a_relative_drop_passes_as_often_as_its_formula_promises() -> None:
    n = RELATIVE.needed(ALPHA, 0.8)
    assert 0.75 <= RELATIVE.passes(n, ALPHA, 0) <= 0.9


def test_flips_that_the_reference_leaves_no_room_for_are_not_possible() -> None:
    assert RELATIVE.is_possible
    assert not RelativeDrop(0.05, 0.0, 0.99, 0.01).is_possible
    assert not RelativeDrop(0.01, 0.0, 0.0, 0.01).is_possible


@pytest.mark.parametrize(
    ("flips", "drop", "reference", "possible"),
    [
        (0.05, 0.05, 0.04, False),  # more are lost than were right
        (0.05, 0.05, 0.99, True),  # all are lost, none gained
        (0.05, -0.05, 0.96, False),  # more are gained than were wrong
        (0.02, 0.0, 0.985, True),
        (1.0, 0.0, 0.5, True),
        (0.0, 0.0, 1.0, True),
        (0.0, 0.0, 0.0, False),  # of nothing there is no share
        (0.0, 0.0, 1.1, False),
    ],
)
def test_what_is_lost_was_right_and_what_is_gained_was_wrong(
    flips: float, drop: float, reference: float, possible: bool
) -> None:
    assert RelativeDrop(flips, drop, reference, 0.01).is_possible is possible


@pytest.mark.parametrize("n", [1, 2, 5, 20, 100, 1000])
def test_losing_all_is_a_fail_where_the_formula_of_the_ratio_says_so(n: int) -> None:
    found = RelativeDrop(0.02, 0.0025, 0.9, 0.3).can_fail(n, 1e-3)
    assert found is (ratio.p_values(0, round(0.9 * n), 0, n, 0.3)[1] <= 1e-3)
    assert found is (n > 5)


# ── any of them ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prospect", EVERY, ids=lambda one: type(one).__name__)
def test_the_tightest_limit_is_just_proven(prospect: Prospect) -> None:
    limit = tightest(prospect, 1000, ALPHA)
    assert limit is not None
    assert prospect.truth < limit < 1
    assert prospect.at(limit).is_enough(1000, ALPHA)
    assert not prospect.at(limit - 1e-4).is_enough(1000, ALPHA)


def test_one_example_proves_hardly_anything() -> None:
    limit = tightest(DROP, 1, ALPHA)
    assert limit is None or limit > 0.9


@pytest.mark.parametrize("prospect", EVERY, ids=lambda one: type(one).__name__)
def test_what_is_needed_is_enough_and_one_less_is_not(prospect: Prospect) -> None:
    needed = prospect.needed(ALPHA, 0.8)
    assert prospect.is_enough(needed, ALPHA)
    assert not prospect.is_enough(needed - 1, ALPHA)


@pytest.mark.parametrize("prospect", EVERY, ids=lambda one: type(one).__name__)
def test_cells_add_up(prospect: Prospect) -> None:
    assert sum(prospect.cells()) == pytest.approx(1, abs=1e-12)


# shared/verdict.md: mean fraction of N evaluated at a budget of 1 pp
@pytest.mark.parametrize(
    ("flips", "drop", "n", "share"),
    [
        (0.01, 0.0, 10_000, 0.16),
        (0.01, 0.0025, 10_000, 0.26),
        (0.02, 0.0025, 10_000, 0.44),
        (0.05, 0.0, 10_000, 0.54),
        (0.02, 0.02, 10_000, 0.17),
        (0.02, 0.0025, 50_000, 0.10),
    ],
)
def test_stopping_early_looks_at_the_golden_share(
    flips: float, drop: float, n: int, share: float
) -> None:
    log = float(np.log(100))
    found = share_looked_at(Drop(flips, drop, 0.01), n, log_pass=log, log_fail=log, seed=0)
    assert found == pytest.approx(share, abs=0.035)
    again = share_looked_at(Drop(flips, drop, 0.01), n, log_pass=log, log_fail=log, seed=0)
    assert again == found


@pytest.mark.parametrize("n", [1, 63, 64, 65])
@pytest.mark.parametrize("prospect", EVERY, ids=lambda one: type(one).__name__)
def test_a_tiny_set_is_looked_at_whole(prospect: Prospect, n: int) -> None:
    assert share_looked_at(prospect, n, log_pass=9.0, log_fail=9.0, seed=1) == 1.0
