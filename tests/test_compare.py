"""Rows to comparisons: tables, slices, methods, and everything that has no value."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory import an_example
from support.pairs import ACCURACY, ERROR_RATE, FLIPS, LOG_LOSS, METRICS, evaluation, table

from gate import mapped
from gate.compare import compare_budgets, describe, describe_others
from gate.decide import decide
from gate.errors import EvaluationError
from gate.metrics import ARTIFACT_METRICS, MODEL_METRICS, Metric
from gate.policy import Budget
from gate.records import Rounds
from gate.slices import samples
from gate.statistics import clopper_pearson, exact, ratio, tango
from gate.values import Evaluation, Rows

ARTIFACTS = {"size": (100_000.0, 27_000.0), "int8_share": (None, 0.85)}
KNOWN = METRICS | ARTIFACT_METRICS
GOLDEN = (880, 22, 6, 92)


def budget(**fields):
    return Budget.model_validate({"metric": "accuracy"} | fields)


def compare(budgets, found, alpha=0.05, metrics=KNOWN, artifacts=ARTIFACTS):
    return compare_budgets(budgets, found, metrics, artifacts, alpha)


def only(measured):
    (one,) = measured
    return one.comparison


# ── methods ───────────────────────────────────────────────────────────────────────────────


def test_a_drop_has_tangos_interval_and_the_exact_p_values():
    found = only(compare([budget(max_drop=0.01)], evaluation(*table(*GOLDEN))))
    assert found.quantity == "drop"
    assert found.method == exact.METHOD
    assert (found.lower, found.upper) == tango.interval(22, 6, 1000, 0.9)
    assert found.p_pass == 1.0
    assert found.p_fail == pytest.approx(0.12347, abs=6e-6)
    assert found.counts.model_dump() == {
        "both_right": 880, "lost": 22, "gained": 6, "both_wrong": 92,
    }  # fmt: skip
    assert (found.n, found.reference, found.int8) == (1000, 0.902, 0.886)
    assert found.degradation == 0.016
    assert found.against == "fp32"


def test_a_relative_drop_has_nam_and_blackwelders_score():
    found = only(compare([budget(max_relative_drop=0.01)], evaluation(*table(880, 15, 8, 97))))
    assert found.quantity == "relative_drop"
    assert (found.method, found.note) == (ratio.METHOD, "asymptotic")
    assert (found.p_pass, found.p_fail) == ratio.p_values(880, 15, 8, 1000, 0.01)
    assert (found.lower, found.upper) == ratio.interval(880, 15, 8, 1000, 0.9)
    assert found.degradation == 7 / 895


def test_a_floor_is_on_the_models_own_value():
    found = only(compare([budget(at_least=0.9)], evaluation(*table(*GOLDEN))))
    assert found.quantity == "value"
    assert found.method == clopper_pearson.METHOD
    assert (found.p_pass, found.p_fail) == clopper_pearson.p_at_least(886, 1000, 0.9)
    assert (found.lower, found.upper) == clopper_pearson.interval(886, 1000, 0.9)
    assert found.degradation == pytest.approx(0.016)


def test_flips_are_a_rate():
    flips = budget(metric="prediction_flips", at_most=0.05)
    found = only(compare([flips], evaluation(*table(*GOLDEN))))
    assert (found.reference, found.int8, found.degradation) == (0.0, 0.028, 0.028)
    assert (found.p_pass, found.p_fail) == clopper_pearson.p_at_most(28, 1000, 0.05)
    assert found.counts is None


def test_what_is_better_low_loses_when_it_rises():
    measured = evaluation(*table(*GOLDEN))
    drop = only(compare([budget(metric="error_rate", max_drop=0.01)], measured))
    mirror = only(compare([budget(max_drop=0.01)], measured))
    assert drop.degradation == mirror.degradation
    assert (drop.p_pass, drop.p_fail) == (mirror.p_pass, mirror.p_fail)
    assert drop.counts == mirror.counts
    ceiling = only(compare([budget(metric="error_rate", at_most=0.15)], measured))
    assert (ceiling.p_pass, ceiling.p_fail) == clopper_pearson.p_at_most(114, 1000, 0.15)


@pytest.mark.parametrize(
    ("fields", "quantity", "degradation", "met"),
    [
        ({"metric": "size", "max_ratio": 0.5}, "ratio", -0.73, True),
        ({"metric": "size", "max_ratio": 0.2}, "ratio", -0.73, False),
        ({"metric": "size", "at_most": 27_000}, "value", -73_000, True),
        ({"metric": "size", "at_most": 26_999}, "value", -73_000, False),
        ({"metric": "int8_share", "at_least": 0.8}, "value", None, True),
        ({"metric": "int8_share", "at_least": 0.85}, "value", None, True),
        ({"metric": "int8_share", "at_least": 0.9}, "value", None, False),
    ],
)
def test_exact_numbers_meet_their_limit_or_do_not(fields, quantity, degradation, met):
    found = only(compare([budget(**fields)], evaluation(*table(9, 0, 0, 1))))
    assert (found.method, found.n) == ("exact number", 0)
    assert found.quantity == quantity
    assert found.degradation == (None if degradation is None else pytest.approx(degradation))
    assert (found.p_pass, found.p_fail) == (0.0, 1.0) if met else (1.0, 0.0)
    assert found.lower is None


@pytest.mark.parametrize("before", [None, 0.0, math.nan, math.inf])
def test_a_ratio_to_nothing_has_no_value(before):
    size = budget(metric="size", max_ratio=0.5)
    found = only(compare([size], evaluation([1], [1]), artifacts={"size": (before, 5.0)}))
    assert (found.method, found.p_pass) == ("undefined", None)
    assert "FP32 has no size" in found.note


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_artifact_that_is_no_number_has_no_value(value):
    size = budget(metric="size", max_ratio=0.5)
    measured = compare([size], evaluation([1], [1]), artifacts={"size": (100.0, value)})
    assert only(measured).int8 is None
    assert "not a finite number" in only(measured).note
    assert decide(measured, 0.05).outcome == "fail"


# ── slices ────────────────────────────────────────────────────────────────────────────────


def test_each_is_judged_by_value_in_natural_order():
    digits = np.array([10, 2, 1, 2, 10, 10])
    measured = compare(
        [budget(max_drop=0.03, each="target")],
        evaluation([1] * 6, [1, 0, 1, 1, 1, 1], {"target": digits}),
    )
    assert [one.slice for one in measured] == ["target=1", "target=2", "target=10"]
    assert [one.comparison.n for one in measured] == [1, 2, 3]
    assert [one.comparison.counts.lost for one in measured] == [0, 1, 0]
    assert all(one.comparison.slice == one.slice for one in measured)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array(["north", "south", "north"]), "north"),
        (np.array([True, False, True]), True),
        (np.array([3, 4, 3], dtype=np.int8), 3),
        (np.array([3.0, 0.5, 3.0]), 3),
        (np.array([0.5, 1.5, 0.5]), "0.5"),
        (np.array(["7", None, "7"], dtype=object), 7),
    ],
)
def test_values_match_as_a_policy_writes_them(values, wanted):
    north = budget(max_drop=0.1, slice={"where": wanted})
    found = only(compare([north], evaluation([1, 1, 1], [0, 1, 1], {"where": values})))
    assert (found.n, found.counts.lost) == (2, 1)


def test_a_slice_of_two_columns_is_where_both_hold():
    slices = {"site": ["n", "n", "s", "s"], "night": [True, False, True, False]}
    both = budget(max_drop=0.1, slice={"site": "s", "night": True})
    (one,) = compare([both], evaluation([1, 1, 1, 1], [1, 1, 0, 1], slices))
    assert one.slice == "night=true,site=s"
    assert (one.comparison.n, one.comparison.counts.lost) == (1, 1)


def test_a_value_that_does_not_occur_is_missing_and_those_that_do_are_named():
    nowhere = budget(max_drop=0.1, slice={"site": "west"})
    (one,) = compare([nowhere], evaluation([1, 1], [1, 1], {"site": ["north", "south"]}))
    assert one.comparison is None
    assert one.reason == "no held-out example has site=west; site is north, south"
    many = {"site": [f"s{index}" for index in range(30)]}
    (one,) = compare([nowhere], evaluation([1] * 30, [1] * 30, many))
    assert one.reason.endswith("and 20 more")


def test_values_that_never_meet_are_missing():
    slices = {"site": ["n", "s"], "night": [True, False]}
    both = budget(max_drop=0.1, slice={"site": "s", "night": True})
    (one,) = compare([both], evaluation([1, 1], [1, 1], slices))
    assert (one.comparison, one.reason) == (None, "no held-out example has night=true,site=s")


def test_a_column_that_does_not_exist_is_an_error():
    for fields in ({"each": "site"}, {"slice": {"site": "n"}}):
        with pytest.raises(EvaluationError, match=r"no slice column 'site'; their columns: night"):
            compare([budget(max_drop=0.1, **fields)], evaluation([1], [1], {"night": [True]}))


def test_a_small_slice_is_shown_and_not_tested():
    each = budget(max_drop=0.1, each="site", min_examples=3)
    measured = compare([each], evaluation([1] * 5, [0] * 5, {"site": list("nnsss")}))
    small, large = (one.comparison for one in measured)
    assert (small.n, small.p_pass, small.p_fail) == (2, None, None)
    assert small.lower is not None
    assert "min_examples" in small.note
    assert large.p_fail is not None


def test_only_tested_slices_count_in_the_family():
    """γ of the exact test shrinks with the family, so the family shows in the p-value."""
    both, sites = table(20, 20, 0, 0), {"site": ["a"] * 20 + ["b"] * 20}
    found = evaluation(*both, sites)
    alone = compare([budget(max_drop=0.01, slice={"site": "b"})], found)
    with_small = compare(
        [
            budget(max_drop=0.01, slice={"site": "b"}),
            budget(metric="size", max_ratio=0.5),
            budget(max_drop=0.02, slice={"site": "a"}, min_examples=21),
        ],
        found,
    )
    assert with_small[0] == alone[0]
    two = compare([budget(max_drop=0.01, each="site")], found)
    expected = exact.p_values(20, 0, 20, 0.01, alpha_pass=0.05, alpha_fail=0.025)[1]
    assert two[1].comparison.p_fail == expected
    assert alone[0].comparison.p_fail > expected


# ── no value ──────────────────────────────────────────────────────────────────────────────


def test_nan_of_int8_has_no_value_and_says_why():
    found = evaluation([1, 1, 1], [1, math.nan, 1], problems={"label": "NaN on 1 of 3 examples"})
    none = only(compare([budget(max_drop=0.5)], found))
    assert (none.int8, none.degradation, none.p_pass, none.p_fail) == (None,) * 4
    assert (none.reference, none.method) == (1.0, "undefined")
    assert none.note == "accuracy has no value: NaN on 1 of 3 examples"
    assert "NaN" not in none.model_dump_json(exclude={"note"})


def test_nan_matters_only_in_its_slice():
    found = evaluation([1, 1], [math.nan, 1], {"site": ["n", "s"]})
    north, south = compare([budget(max_drop=0.5, each="site")], found)
    assert north.comparison.method == "undefined"
    assert south.comparison.method == exact.METHOD


def test_nan_anywhere_disqualifies_the_model_on_every_slice():
    why = {"label": "NaN on 1 of 2 examples"}
    found = evaluation([1, 1], [math.nan, 1], {"site": ["n", "s"]}, problems=why)
    south = only(compare([budget(max_drop=0.5, slice={"site": "s"})], found))
    assert (south.method, south.int8) == ("undefined", None)
    assert decide(compare([budget(max_drop=0.5, each="site")], found), 0.05).outcome == "fail"


def test_a_small_model_that_gives_nan_is_no_model():
    why = {"label": "the INT8 model gives NaN on 1 of 2 examples"}
    found = evaluation([1, 1], [math.nan, 1], problems=why)
    measured = compare([budget(metric="size", max_ratio=0.5)], found)
    assert measured[0].reason == why["label"]
    assert decide(measured, 0.05).outcome == "fail"


def test_a_fast_model_that_gives_nan_is_no_model():
    found = evaluation([1, 1], [math.nan, 1], problems={"label": "NaN on 1 of 2 examples"})
    rounds = {"latency_p50": Rounds(reference=(10.0,) * 9, int8=(5.0,) * 9)}
    fast = budget(metric="latency_p50", max_ratio=0.9)
    (one,) = compare_budgets([fast], found, MODEL_METRICS, {}, 0.05, rounds=rounds)
    assert (one.comparison, one.reason) == (None, "NaN on 1 of 2 examples")
    sound = evaluation([1, 1], [1, 1])
    (one,) = compare_budgets([fast], sound, MODEL_METRICS, {}, 0.05, rounds=rounds)
    assert (one.comparison.n, one.comparison.degradation) == (9, -0.5)


def test_nan_of_fp32_has_no_value_either():
    none = only(compare([budget(max_drop=0.5)], evaluation([math.nan, 1], [1, 1])))
    assert (none.reference, none.int8, none.method) == (None, 1.0, "undefined")
    assert "FP32" in none.note


def test_nan_flips_never_pass():
    flips = budget(metric="prediction_flips", at_most=0.5)
    measured = compare([flips], evaluation([1] * 50, [math.nan] + [1] * 49))
    assert decide(measured, 0.05).outcome == "fail"


def test_a_relative_drop_from_nothing_has_no_value():
    none = only(compare([budget(max_relative_drop=0.1)], evaluation([0, 0], [0, 1])))
    assert (none.method, none.degradation) == ("undefined", None)
    assert none.note == "FP32 gets none of the 2 examples right: a relative drop has no value"


def test_a_metric_that_was_not_measured_is_missing():
    found = evaluation([1], [1])
    for measured in (
        compare([budget(max_drop=0.1)], found, metrics={}),
        compare([budget(max_drop=0.1)], Evaluation(**_fields(found) | {"int8": {}})),
        compare([budget(metric="size", max_ratio=0.5)], found, artifacts={}),
    ):
        assert measured[0].comparison is None
        assert measured[0].reason.endswith("was not measured")


def _fields(found):
    return {name: getattr(found, name) for name in found.__slots__}


# ── against earlier releases ──────────────────────────────────────────────────────────────


def with_release(against="production", release=None):
    """FP32 by INT8 of the golden table, INT8 of the release right wherever FP32 is or as told."""
    fp32, int8 = table(*GOLDEN)
    earlier = evaluation(fp32, fp32 if release is None else release)
    return evaluation(fp32, int8, releases={against: earlier.int8})


def test_a_release_stands_in_the_place_of_fp32():
    found = with_release()
    own, against = compare([budget(max_drop=0.01), budget(max_drop=0.01, against="production")],
                           found)  # fmt: skip
    assert against.comparison.against == "production"
    same = own.comparison.model_copy(update={"against": "production"})
    assert against.comparison == same


def test_each_release_has_rows_of_its_own():
    fp32, int8 = table(*GOLDEN)
    rows = {"production": evaluation(fp32, int8).int8, "anchor": evaluation(fp32, fp32).int8}
    found = evaluation(fp32, int8, {"site": ["north"] * 500 + ["south"] * 500}, releases=rows)
    budgets = [
        budget(max_drop=0.01, against="production"),
        budget(max_drop=0.01, against="anchor"),
        budget(max_drop=0.01, against="anchor", each="site"),
    ]
    production, anchor, *slices = (one.comparison for one in compare(budgets, found))
    assert (production.degradation, anchor.degradation) == (0.0, 0.016)
    assert [(one.slice, one.against) for one in slices] == [
        ("site=north", "anchor"),
        ("site=south", "anchor"),
    ]


def test_the_size_is_held_against_the_releases():
    budgets = [budget(metric="size", max_ratio=1.1, against="production")]
    artifacts, alpha = {"size": (100.0, 30.0)}, 0.05
    (one,) = compare_budgets(
        budgets, with_release(), KNOWN, artifacts, alpha, releases={"production": {"size": 25.0}}
    )
    assert (one.comparison.reference, one.comparison.int8) == (25.0, 30.0)
    assert (one.comparison.p_pass, one.comparison.against) == (1.0, "production")


def test_no_such_release_is_missing_and_never_fp32():
    (one,) = compare([budget(max_drop=0.01, against="anchor")], with_release("production"))
    assert one.comparison is None
    assert not one.excused
    assert "there is no anchor" in one.reason


def test_a_first_release_is_excused_where_there_is_none_and_only_there():
    budgets = [budget(max_drop=0.01, against=side) for side in ("fp32", "production", "anchor")]
    found = compare_budgets(budgets, with_release("anchor"), KNOWN, ARTIFACTS, 0.05, bootstrap=True)
    assert [one.excused for one in found] == [False, True, False]
    assert [one.comparison is None for one in found] == [False, True, False]


def test_what_no_budget_is_about_is_told_of_releases_too():
    judged = compare([budget(max_drop=0.01, against="production")], with_release())
    shown = describe_others(
        [one.comparison for one in judged], with_release(), KNOWN, ARTIFACTS, 0.05
    )
    of_release = [one.metric for one in shown if one.against == "production"]
    assert of_release == ["error_rate", "log_loss"]
    assert "accuracy" in [one.metric for one in shown if one.against == "fp32"]


def test_what_a_slice_alone_is_judged_by_is_told_of_the_whole():
    found = evaluation([1] * 4, [1, 1, 1, 0], {"site": list("nnss")})
    judged = [one.comparison for one in compare([budget(max_drop=0.1, each="site")], found)]
    shown = describe_others(judged, found, {"accuracy": ACCURACY}, {}, 0.05)
    assert [(one.metric, one.slice, one.n) for one in shown] == [("accuracy", None, 4)]


# ── units ─────────────────────────────────────────────────────────────────────────────────


def test_units_of_one_example_each_change_no_digit():
    """Whatever they are called: groups are dealt by the names of the examples."""
    fp32, int8 = table(700, 120, 60, 120)
    budgets = [budget(max_drop=0.1), budget(metric="log_loss", max_drop=0.1)]
    alone = evaluation(fp32, int8, unit=np.array([f"u{index * 7}" for index in range(1000)]))
    assert compare(budgets, alone) == compare(budgets, evaluation(fp32, int8))


# ── what cannot be judged ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "log_loss", "at_least": 0.1}, "better low.*write `at_most`"),
        ({"at_least": 0.1, "against": "anchor"}, "own accuracy.*delete `against: anchor`"),
        ({"metric": "prediction_flips", "max_drop": 0.1, "against": "production"}, "its own FP32"),
        ({"metric": "int8_share", "max_drop": 1, "against": "production"}, "side by side"),
        ({"max_ratio": 1.0}, "max_relative_drop"),
        ({"at_most": 0.9}, "better high.*write `at_least`"),
        ({"at_least": 0.0}, "met by every model"),
        ({"metric": "prediction_flips", "at_most": 1.0}, "met by every model"),
        ({"metric": "prediction_flips", "at_least": 0.1}, "better low.*write `at_most`"),
        ({"metric": "prediction_flips", "max_drop": 0.1}, "in itself"),
        ({"metric": "error_rate", "max_relative_drop": 0.1}, "better low"),
        ({"metric": "size", "max_drop": 5}, "one number of the whole model"),
        ({"metric": "size", "at_least": 5}, "better low"),
        ({"metric": "int8_share", "max_ratio": 5}, "better high"),
        ({"metric": "int8_share", "at_most": 0.5}, "better high"),
        ({"metric": "size", "max_ratio": 0.5, "each": "site"}, "no slices"),
        ({"at_least": 1.5}, "between 0 and 1"),
    ],
)
def test_a_budget_without_statistics_is_refused_not_skipped(fields, message):
    found = evaluation([1, 1], [1, 1], {"site": ["n", "s"]})
    with pytest.raises(EvaluationError, match=message):
        compare([budget(**fields)], found)


@pytest.mark.parametrize("alpha", [0, 0.5, -1, math.nan])
def test_an_impossible_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        compare([budget(max_drop=0.1)], evaluation([1], [1]), alpha=alpha)


# ── description ───────────────────────────────────────────────────────────────────────────


def test_metrics_without_a_budget_are_described():
    found = evaluation(*table(*GOLDEN))
    shown = describe(
        found, [ACCURACY, FLIPS, LOG_LOSS, *ARTIFACT_METRICS.values()], ARTIFACTS, 0.05
    )
    accuracy, flips, loss, size, share = shown
    assert (accuracy.method, accuracy.lower) == (tango.METHOD, tango.interval(22, 6, 1000, 0.9)[0])
    assert accuracy.counts is not None
    assert (flips.method, flips.quantity) == (clopper_pearson.METHOD, "value")
    assert (loss.method, loss.lower, loss.quantity) == ("point estimate", None, "drop")
    assert loss.degradation == pytest.approx(0.008)
    assert (size.degradation, share.reference) == (-73_000, None)
    assert all((one.p_pass, one.p_fail, one.slice) == (None, None, None) for one in shown)


def test_undefined_metrics_are_described_as_such():
    (none,) = describe(evaluation([1], [math.nan]), [LOG_LOSS], {}, 0.05)
    assert (none.int8, none.method) == (None, "undefined")
    assert describe(evaluation([1], [1]), list(ARTIFACT_METRICS.values()), {}, 0.05) == ()


def test_a_summary_without_a_value_is_undefined():
    """As AUROC where one class only occurs: the rows are finite, the metric is not."""
    nothing = type(LOG_LOSS)("auroc", "loss", LOG_LOSS.observe, lambda _: math.nan, True)
    (none,) = describe(evaluation([1, 1], [1, 1]), [nothing], {}, 0.05)
    assert none.note == "auroc is undefined on these 2 examples"


def test_clustered_examples_are_described_without_an_interval():
    found = evaluation([1, 1], [1, 0], unit=np.array([1, 1]))
    (shown,) = describe(found, [ACCURACY], {}, 0.05)
    assert (shown.method, shown.lower, shown.int8) == ("point estimate", None, 0.5)


# ── properties ────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1), st.data())
def test_the_order_of_the_file_changes_no_digit(rows, data):
    fp32, int8, site = (np.array(column) for column in zip(*rows, strict=True))
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    budgets = [
        budget(max_drop=0.03, each="site"),
        budget(metric="log_loss", max_drop=0.03),
        budget(metric="log_loss", max_ratio=1.1),
        budget(max_relative_drop=0.05),
        budget(metric="prediction_flips", at_most=0.2),
    ]
    straight = compare(budgets, evaluation(fp32, int8, {"site": site}))
    ids = np.array([f"id{index}" for index in order])
    shuffled = evaluation(fp32[order], int8[order], {"site": site[order]}, ids=ids)
    assert compare(budgets, shuffled) == straight


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_models_negates_the_drop(rows):
    fp32, int8 = (np.array(column) for column in zip(*rows, strict=True))
    for metric in (ACCURACY, ERROR_RATE):
        (one,) = describe(evaluation(fp32, int8), [metric], {}, 0.05)
        (other,) = describe(evaluation(int8, fp32), [metric], {}, 0.05)
        assert (one.degradation, one.lower) == (-other.degradation, -other.upper)


# ── with decide: the promises ─────────────────────────────────────────────────────────────


def outcome(budgets, found):
    return decide(compare(budgets, found), 0.05).outcome


@pytest.mark.parametrize(("n", "expected"), [(301, "pass"), (297, "inconclusive")])
def test_identical_models_pass_where_n_allows(n, expected):
    ones = np.ones(n)
    assert outcome([budget(max_drop=0.01)], evaluation(ones, ones)) == expected


def test_one_of_a_thousand_slices_that_lost_much_fails():
    sites = np.concatenate([np.repeat(np.arange(999), 3), np.full(1000, 999)])
    int8 = np.ones(len(sites))
    int8[-400:] = 0
    each = budget(max_drop=0.03, each="site")
    verdict = decide(compare([each], evaluation(np.ones(len(sites)), int8, {"site": sites})), 0.05)
    assert verdict.outcome == "fail"
    assert [one.slice for one in verdict.findings if one.outcome == "fail"] == ["site=999"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ((1, 0, 0, 0), "inconclusive"),
        ((0, 1, 0, 0), "inconclusive"),
        ((0, 0, 0, 1), "inconclusive"),
        ((0, 500, 0, 0), "fail"),
        ((0, 0, 500, 0), "pass"),
        ((0, 0, 0, 500), "pass"),
        ((0, 250, 250, 0), "inconclusive"),
    ],
    ids=["one", "one-lost", "one-wrong", "all-lost", "all-gained", "all-wrong", "all-flip"],
)
def test_villains(cells, expected):
    assert outcome([budget(max_drop=0.01)], evaluation(*table(*cells))) == expected


def test_rows_of_nothing_have_no_value():
    empty = Evaluation(
        ids=np.array([], dtype=str), targets=np.array([]), slices={}, unit=None,
        fp32={"label": Rows(np.empty((0, 1)))}, int8={"label": Rows(np.empty((0, 1)))},
    )  # fmt: skip
    assert outcome([budget(max_drop=0.01)], empty) == "fail"


# ── memory ────────────────────────────────────────────────────────────────────────────────


def wide(n):
    """Rows of 100 numbers an example, that are the same under both models, in four slices."""
    rng = np.random.default_rng(0)
    rows = {"wide": Rows(np.ones((n, 100)))}
    ids = np.array([f"{place:017d}" for place in rng.permutation(n)])
    sites = {f"site{k}": np.resize(np.arange(2), n) for k in range(4)}
    return Evaluation(ids, None, sites, None, rows, rows)


WIDE = Metric(
    name="wide",
    observation="wide",
    observe=lambda *_: np.zeros((0, 100)),
    summarize=lambda rows: float(rows.flat[0, 0]),
    higher_is_better=True,
    per_example=lambda rows: rows.flat[:, 0] == 1,
)


def test_a_comparison_holds_one_sides_rows_at_a_time():
    """Of 800 bytes an example; finite rows are told by one more a number."""
    found = {n: wide(n) for n in (2_000, 4_000)}
    grows = an_example(lambda n: lambda: describe(found[n], [WIDE, WIDE], {}, 0.05), 2_000, 4_000)
    assert 800 < grows < 1_100


def test_of_wide_rows_a_column_is_in_memory():
    """Of 100, and 16 bytes of places; a comparison without it holds all."""
    by_column = replace(WIDE, by_column=lambda column: float(column(7)[0]), per_example=None)
    found = {n: wide(n) for n in (2_000, 4_000)}

    def work(n):
        return lambda: describe(found[n], [by_column], {}, 0.05)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "WINDOW", 1 << 12)
        assert an_example(work, 2_000, 4_000) < 80


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_wide_rows_that_are_not_finite_have_no_value(broken):
    found = wide(10)
    found.int8["wide"] = Rows(np.full((10, 100), 1.0))
    found.int8["wide"].flat[3, 99] = broken
    by_column = replace(WIDE, by_column=lambda column: float(column(7)[0]), per_example=None)
    (one,) = describe(replace(found, fp32=wide(10).fp32), [by_column], {}, 0.05)
    assert (one.reference, one.int8, one.method) == (1.0, None, "undefined")


def test_rows_of_slices_do_not_add_up():
    found = {n: wide(n) for n in (2_000, 4_000)}
    budgets = [budget(metric="wide", max_drop=0.1, each=f"site{k}") for k in range(4)]

    def work(n):
        return lambda: compare(budgets, found[n], metrics={"wide": WIDE})

    assert 400 < an_example(work, 2_000, 4_000) < 1_100


def test_slices_take_a_few_bytes_an_example():
    """An order and a number each; texts of their values would take 60 and more."""
    sites = {n: {"site": np.resize(np.arange(2), n)} for n in (20_000, 60_000)}
    found = {n: evaluation(np.ones(n), np.ones(n), sites[n]) for n in sites}
    sliced = budget(max_drop=0.1, each="site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "WINDOW", 1 << 12)
        grows = an_example(lambda n: lambda: [*samples(sliced, found[n])], 20_000, 60_000)
    assert grows < 40
