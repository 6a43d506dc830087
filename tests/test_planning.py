import math
from typing import Any

import pytest

from gate.planning import BudgetPlan, Kind, Plan, Question, Slice, plan_budgets
from gate.policy import Budget

WHOLE: tuple[Slice, ...] = ((None, 1000),)


def question(
    kind: Kind = "drop",
    slices: tuple[Slice, ...] | None = WHOLE,
    seen: tuple[float, ...] = (),
    reference: float | None = 0.961,
    **budget: Any,
) -> Question:
    written = {"metric": "accuracy"} | (budget or {"max_drop": 0.01})
    return Question(Budget.model_validate(written), kind, slices, seen, reference)


def plan(*questions: Question, **terms: Any) -> Plan:
    return plan_budgets(questions, **{"alpha": 0.05, **terms})


def only(*arguments: Any, **budget: Any) -> BudgetPlan:
    return plan(question(*arguments, **budget)).budgets[0]


EACH = {"max_drop": 0.03, "each": "g"}


# ── scenarios ─────────────────────────────────────────────────────────────────────────────


def test_plausible_flips_with_nothing_and_a_quarter_of_the_budget_lost() -> None:
    found = [(one.rate, one.drop) for one in only().scenarios]
    rates = (0.005, 0.01, 0.02, 0.05)
    assert found == [(rate, drop) for rate in rates for drop in (0.0, 0.0025)]


def test_the_golden_numbers() -> None:
    needed = {(one.rate, one.drop): one.needed[0] for one in only().scenarios}
    assert needed[0.02, 0.0025] == 2419
    assert needed[0.05, 0.0] == 3162
    assert needed[0.01, 0.0] == 856


def test_more_certainty_takes_more_examples_and_every_curve_rises() -> None:
    for kind, budget in KINDS:
        for one in only(kind, **budget).scenarios:
            assert one.needed == tuple(sorted(one.needed))
            assert one.curve == tuple(sorted(one.curve))
            assert (one.needed[0], 0.8) in one.curve


KINDS: list[tuple[Kind, dict[str, Any]]] = [
    ("drop", {"max_drop": 0.01}),
    ("relative_drop", {"max_relative_drop": 0.01}),
    ("rate", {"metric": "prediction_flips", "at_most": 0.03}),
    ("rate", {"at_least": 0.95}),
]


def test_a_drop_is_never_larger_than_its_flips() -> None:
    found = only(max_drop=0.1).scenarios
    assert all(one.drop is not None and one.drop <= one.rate for one in found)
    assert [one.drop for one in only(seen=(0.0,)).scenarios] == [0.0]


def test_history_replaces_what_is_assumed() -> None:
    assert {one.rate for one in only(seen=(0.007, 0.003, 0.007)).scenarios} == {0.003, 0.007}
    rates = only("rate", seen=(0.01, 0.04), metric="prediction_flips", at_most=0.03).scenarios
    assert [one.rate for one in rates] == [0.01]


def test_rates_are_parts_of_what_is_allowed() -> None:
    ceiling = only("rate", metric="prediction_flips", at_most=0.04)
    floor = only("rate", at_least=0.96)
    assert [one.rate for one in ceiling.scenarios] == pytest.approx([0.01, 0.02, 0.03])
    assert [one.rate for one in floor.scenarios] == pytest.approx([0.99, 0.98, 0.97])
    assert [one.needed for one in floor.scenarios] == [one.needed for one in ceiling.scenarios]


@pytest.mark.parametrize(
    ("kind", "budget"),
    [
        ("drop", {"max_drop": 0.0}),
        ("rate", {"metric": "prediction_flips", "at_most": 0.0}),
        ("rate", {"at_least": 1.0}),
        ("spread", {"metric": "f1_macro", "max_drop": 0.01}),
        ("exact", {"metric": "size", "max_ratio": 0.5}),
    ],
)
def test_no_number_is_invented(kind: Kind, budget: dict[str, Any]) -> None:
    assert only(kind, **budget).scenarios == ()


def test_a_relative_drop_needs_to_know_what_it_is_relative_to() -> None:
    assert only("relative_drop", reference=None, max_relative_drop=0.01).scenarios == ()
    assert only("relative_drop", reference=0.0, max_relative_drop=0.01).scenarios == ()
    rates = {one.rate for one in only("relative_drop", reference=0.99, **KINDS[1][1]).scenarios}
    assert 0.05 not in rates  # half of them would have to be gained, and FP32 errs on 1 % only


# ── what is at hand ───────────────────────────────────────────────────────────────────────


def test_a_set_of_a_thousand() -> None:
    budget = only()
    at_hand = {(one.rate, one.drop): one.at_hand for one in budget.scenarios}
    typical = at_hand[0.02, 0.0025]
    assert typical is not None
    # summed over every outcome that the exact test passes: .473
    assert typical.passes == pytest.approx(0.473, abs=0.01)
    assert typical.tightest == pytest.approx(0.0147, abs=1e-4)
    assert typical.caught is not None
    assert typical.caught > 0.01
    assert budget.most_flips == pytest.approx(0.01275, abs=1e-5)
    assert budget.least == 301


def test_without_data_only_the_need_is_told() -> None:
    budget = only(slices=None)
    assert [one.needed for one in budget.scenarios] == [one.needed for one in only().scenarios]
    assert {one.at_hand for one in budget.scenarios} == {None}
    assert budget.smallest is None


def test_the_smallest_slice_speaks_for_all() -> None:
    budget = only("drop", (("g=a", 500), ("g=b", 90), ("g=c", 100)), **EACH)
    assert (budget.smallest, budget.judged, budget.provable) == (("g=b", 90), 3, 2)
    assert budget.least == 100
    assert budget.can_fail


def test_slices_below_min_examples_do_not_count() -> None:
    slices: tuple[Slice, ...] = (("g=a", 500), ("g=b", 9))
    found = plan(question("drop", slices, min_examples=10, **EACH))
    assert found.family == 1
    assert found.budgets[0].smallest == ("g=a", 500)
    nothing = plan(question("drop", slices, min_examples=1000, **EACH))
    assert nothing.budgets[0].smallest is None
    assert nothing.family == 1


def test_many_tiny_slices_leave_nothing_that_could_fail() -> None:
    slices = tuple((f"g={i}", 1) for i in range(50))
    budget = only("drop", slices, **EACH)
    assert not budget.can_fail
    assert {one.at_hand.caught for one in budget.scenarios if one.at_hand} == {None}


@pytest.mark.parametrize("n", [1, 2, 7, 65])
def test_tiny_sets_give_finite_numbers(n: int) -> None:
    for kind, budget in KINDS:
        for one in only(kind, ((None, n),), **budget).scenarios:
            assert one.at_hand is not None
            assert 0 <= one.at_hand.passes <= 1
            numbers = (one.at_hand.tightest, one.at_hand.caught, one.at_hand.share)
            assert all(number is None or math.isfinite(number) for number in numbers)


def test_nothing_at_hand_is_nothing_at_all() -> None:
    assert only("drop", ((None, 0),)).smallest is None
    assert only("drop", ()).smallest is None


# ── α, and stopping early ─────────────────────────────────────────────────────────────────


def test_the_alpha_in_force_counts() -> None:
    strict = plan(question(), alpha=0.01).budgets[0].scenarios
    assert all(a.needed > b.needed for a, b in zip(strict, only().scenarios, strict=True))


def test_stopping_early_leaves_less_for_the_last_look() -> None:
    found = plan(question(), early=True)
    assert (found.alpha, found.alpha_pass) == (0.05, pytest.approx(0.04))
    # summed over every outcome that the exact test passes at .04: .428
    at_hand = {(one.rate, one.drop): one.at_hand for one in found.budgets[0].scenarios}
    typical = at_hand[0.02, 0.0025]
    assert typical is not None
    assert typical.passes == pytest.approx(0.428, abs=0.02)


def test_the_expected_share_of_a_large_set() -> None:
    found = only("drop", ((None, 50_000),)).scenarios
    shares = {(one.rate, one.drop): one.at_hand.share for one in found if one.at_hand}
    assert shares[0.01, 0.0] == pytest.approx(0.036, abs=0.003)
    assert shares[0.05, 0.0] == pytest.approx(0.13, abs=0.01)


def shares(found: Plan) -> set[float | None]:
    return {
        one.at_hand.share for budget in found.budgets for one in budget.scenarios if one.at_hand
    }


def test_a_metric_with_a_spread_keeps_all_from_stopping() -> None:
    other = question("spread", metric="f1_macro", max_drop=0.01)
    assert shares(plan(question(), other)) == {None}
    assert not plan(question(), other).may_stop_early
    assert plan(question(), question("exact", metric="size", max_ratio=0.5)).may_stop_early


def test_what_needs_no_proof_is_not_waited_for() -> None:
    assert shares(plan(question("drop", (("g=a", 300),), **EACH))) == {None}
    assert shares(plan(question(max_drop=0.01, require="no_proven_harm"))) == {None}


def test_holms_family_is_every_test() -> None:
    slices = tuple((f"g={i}", 100) for i in range(10))
    sizes = question("exact", metric="size", max_ratio=0.5)
    assert plan(question(), question("drop", slices, **EACH), sizes).family == 11


@pytest.mark.parametrize("alpha", [0.0, 0.5, math.nan])
def test_alpha_has_a_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0\.5"):
        plan(question(), alpha=alpha)


@pytest.mark.parametrize("alpha", [0.001, 0.2, 0.45])
def test_curves_rise_at_any_alpha(alpha: float) -> None:
    for kind, budget in KINDS:
        for one in plan(question(kind, **budget), alpha=alpha).budgets[0].scenarios:
            assert one.curve == tuple(sorted(one.curve))
