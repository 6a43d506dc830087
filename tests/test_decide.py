"""The verdict: its truth table, its sentences, and that it can be decided again from a record."""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
import pytest
from support.pairs import METRICS, evaluation, table

from gate.compare import compare_budgets
from gate.decide import decide, measured_of
from gate.errors import EvaluationError, RecordError
from gate.metrics import ARTIFACT_METRICS, MODEL_METRICS
from gate.policy import Budget
from gate.records import Comparison, GateRecord, Measured, Rounds
from gate.statistics import exact, jackknife

ALPHA = 1 - 0.95
ARTIFACTS = {"size": (100_000.0, 27_000.0), "int8_share": (None, 0.62)}


def budget(**fields):
    return Budget.model_validate({"metric": "accuracy"} | fields)


def measured(p_pass=1.0, p_fail=1.0, *, require="proof", where=None, **changes):
    """A drop of 0.5 pp in 1000 examples, with the p-values that the test is about."""
    fields = {
        "metric": "accuracy", "n": 1000, "reference": 0.9, "int8": 0.895, "degradation": 0.005,
        "method": exact.METHOD, "slice": where,
        "counts": {"both_right": 890, "lost": 10, "gained": 5, "both_wrong": 95},
    }  # fmt: skip
    changes |= {"p_pass": p_pass, "p_fail": p_fail}  # not validated: NaN is what is tested
    comparison = Comparison.model_validate(fields).model_copy(update=changes)
    return Measured(budget(max_drop=0.01, require=require), where, comparison)


def judged(budgets, found, alpha=ALPHA):
    known = METRICS | ARTIFACT_METRICS
    return decide(compare_budgets(budgets, found, known, ARTIFACTS, alpha), alpha)


def reason(fields, cells, alpha=ALPHA):
    (finding,) = judged([budget(**fields)], evaluation(*table(*cells)), alpha).findings
    return finding.reason


# ── the rule ──────────────────────────────────────────────────────────────────────────────


def test_what_a_first_release_cannot_be_held_against_is_listed_and_does_not_block():
    excused = Measured(budget(max_drop=0.01, against="production"), None, None, "first", True)
    verdict = decide([measured(p_pass=0.01), excused], ALPHA)
    assert verdict.outcome == "pass"
    finding = verdict.findings[1]
    assert (finding.outcome, finding.blocking, finding.reason) == ("inconclusive", False, "first")


def test_a_first_release_of_which_nothing_was_judged_does_not_pass():
    excused = Measured(budget(max_drop=0.01, against="production"), None, None, "first", True)
    assert decide([excused], ALPHA).outcome == "inconclusive"


def test_a_reason_says_what_int8_was_held_against():
    found = measured(p_pass=0.01, against="anchor")
    assert "accuracy against the anchor drops" in decide([found], ALPHA).findings[0].reason


@pytest.mark.parametrize(
    ("p_pass", "p_fail", "require", "expected"),
    [
        (0.01, 1.0, "proof", ("pass", False, "pass")),
        (0.20, 1.0, "proof", ("inconclusive", True, "inconclusive")),
        (1.0, 0.20, "proof", ("inconclusive", True, "inconclusive")),
        (1.0, 0.01, "proof", ("fail", True, "fail")),
        (0.01, 1.0, "no_proven_harm", ("pass", False, "pass")),
        (0.20, 1.0, "no_proven_harm", ("inconclusive", False, "pass")),
        (1.0, 0.20, "no_proven_harm", ("inconclusive", False, "pass")),
        (1.0, 0.01, "no_proven_harm", ("fail", True, "fail")),
        (0.01, 0.01, "proof", ("fail", True, "fail")),
    ],
)
def test_one_budget(p_pass, p_fail, require, expected):
    verdict = decide([measured(p_pass, p_fail, require=require)], 0.05)
    (finding,) = verdict.findings
    assert (finding.outcome, finding.blocking, verdict.outcome) == expected
    assert finding.budget == "accuracy.max_drop"
    assert finding.reason


@pytest.mark.parametrize("broken", [None, math.nan, math.inf])
@pytest.mark.parametrize("field", ["p_pass", "p_fail", "int8", "degradation"])
@pytest.mark.parametrize("require", ["proof", "no_proven_harm"])
def test_what_has_no_value_fails(field, broken, require):
    one = measured(**{"p_pass": 0.001, "require": require, field: broken})
    verdict = decide([one, measured(0.001)], 0.05)
    assert verdict.outcome == "fail"
    assert verdict.findings[0].blocking
    assert verdict.findings[0].reason == "accuracy has no value that could be judged"
    assert verdict.findings[1].outcome == "pass"


def test_undefined_fails_with_its_note():
    one = measured(None, None, method="undefined", int8=None, note="accuracy has no value: NaN")
    (finding,) = decide([one], 0.05).findings
    assert (finding.outcome, finding.reason) == ("fail", "accuracy has no value: NaN")


def test_undefined_fails_even_with_p_values():
    assert decide([measured(0.001, 1.0, method="undefined")], 0.05).outcome == "fail"


@pytest.mark.parametrize("require", ["proof", "no_proven_harm"])
def test_what_was_not_measured_fails(require):
    one = Measured(budget(max_drop=0.01, require=require), "site=x", None, "no site is x")
    verdict = decide([one, measured(0.001)], 0.05)
    assert verdict.outcome == "fail"
    assert verdict.findings[0].reason == "no site is x"
    silent = Measured(budget(max_drop=0.01), None, None)
    assert decide([silent], 0.05).findings[0].reason == "accuracy was not measured"


def test_nothing_measured_is_never_a_pass():
    with pytest.raises(EvaluationError, match="no budget was measured"):
        decide([], 0.05)


@pytest.mark.parametrize("alpha", [0, 0.5, 1, -0.1, math.nan])
def test_an_impossible_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0\.5"):
        decide([measured(0.0)], alpha)


def test_the_dust_of_one_minus_confidence_does_not_matter():
    assert ALPHA != 0.05
    assert decide([measured(0.05, 1.0)], ALPHA).outcome == "pass"
    assert decide([measured(ALPHA, 1.0)], 0.05).outcome == "pass"
    assert decide([measured(0.0500001, 1.0)], ALPHA).outcome == "inconclusive"
    assert decide([measured(1.0, ALPHA)], 0.05).outcome == "fail"


@pytest.mark.parametrize(
    ("p_fails", "outcomes"),
    [
        ([0.02, 0.5], ["fail", "inconclusive"]),
        ([0.03, 0.5], ["inconclusive", "inconclusive"]),
        ([0.02, 0.04], ["fail", "fail"]),
        ([0.02, 0.5, 0.5], ["inconclusive"] * 3),
    ],
)
def test_harm_is_adjusted_for_all_budgets(p_fails, outcomes):
    verdict = decide([measured(1.0, p) for p in p_fails], 0.05)
    assert [finding.outcome for finding in verdict.findings] == outcomes


def test_exact_numbers_and_what_is_not_judged_leave_the_family_alone():
    size = measured(0.0, 1.0, method="exact number", quantity="ratio", counts=None, n=0)
    small = Measured(budget(max_drop=0.01, min_examples=2000), None, measured().comparison)
    missing = Measured(budget(max_drop=0.01), None, None)
    undefined = measured(None, None)
    verdict = decide([measured(1.0, 0.04), size, small, missing, undefined], 0.05)
    assert verdict.findings[0].outcome == "fail"
    assert verdict.findings[1].outcome == "pass"


def test_an_exact_number_over_its_limit_fails_among_many():
    size = measured(1.0, 0.0, method="exact number", quantity="ratio", counts=None, n=0)
    verdict = decide([size, *[measured(0.001)] * 50], 0.05)
    assert verdict.outcome == "fail"


@pytest.mark.parametrize(
    ("require", "blocking", "overall"),
    [("proof", True, "inconclusive"), ("no_proven_harm", False, "pass")],
)
@pytest.mark.parametrize("p_fail", [None, 1e-9])
def test_a_small_slice_is_listed_and_not_judged(require, blocking, overall, p_fail):
    few = budget(max_drop=0.01, slice={"site": "x"}, require=require, min_examples=50)
    found = measured(None if p_fail is None else 1.0, p_fail, n=12, where="site=x").comparison
    verdict = decide([Measured(few, "site=x", found), measured(0.001)], 0.05)
    finding = verdict.findings[0]
    assert (finding.outcome, finding.blocking) == ("inconclusive", blocking)
    assert verdict.outcome == overall
    assert finding.reason == (
        "accuracy on site=x rests on 12 examples, fewer than the 50 of min_examples: "
        "listed, not judged"
    )


def test_one_example_is_a_small_slice_too():
    few = budget(max_drop=0.01, slice={"site": "x"}, require="no_proven_harm", min_examples=50)
    found = measured(1.0, 1e-9, n=1, where="site=x").comparison
    assert decide([Measured(few, "site=x", found), measured(0.001)], 0.05).outcome == "pass"


def test_a_note_on_a_method_is_no_reason_to_fail():
    (finding,) = decide([measured(None, 1.0, note="asymptotic")], 0.05).findings
    assert finding.reason == "accuracy has no value that could be judged"


def test_a_small_slice_without_a_value_still_fails():
    few = budget(max_drop=0.01, require="no_proven_harm", min_examples=50)
    broken = measured(None, None, n=12, int8=None, method="undefined").comparison
    assert decide([Measured(few, None, broken)], 0.05).outcome == "fail"


@pytest.mark.parametrize(
    ("kinds", "overall"),
    [
        (["pass"], "pass"),
        (["pass", "tolerated"], "pass"),
        (["tolerated"], "pass"),
        (["pass", "unproven"], "inconclusive"),
        (["unproven", "fail"], "fail"),
        (["pass", "fail"], "fail"),
        (["tolerated", "unproven"], "inconclusive"),
    ],
)
def test_all_budgets_come_to_one_verdict(kinds, overall):
    made = {
        "pass": measured(0.001),
        "tolerated": measured(0.5, require="no_proven_harm"),
        "unproven": measured(0.5),
        "fail": measured(1.0, 1e-6),
    }
    assert decide([made[kind] for kind in kinds], 0.05).outcome == overall


def test_a_ledger_makes_a_pass_harder_and_a_fail_no_easier():
    assert decide([measured(0.03, 1.0)], 0.0125, 0.05).outcome == "inconclusive"
    assert decide([measured(1.0, 0.03)], 0.0125, 0.05).outcome == "fail"
    assert decide([measured(1.0, 0.03)], 0.0125).outcome == "inconclusive"


@pytest.mark.parametrize("n", [100, 268])
def test_what_could_have_been_proven_would_be_at_the_level_of_a_pass(n):
    """At 268 Tango's limit is within 1 pp, and the exact test is not."""
    found = evaluation(*table(n, 0, 0, 0))
    known = compare_budgets([budget(max_drop=0.001)], found, METRICS, {}, 0.05)
    (finding,) = decide(known, 0.05, 0.2).findings
    p_pass = [
        exact.p_values(0, 0, n, share * finding.provable, alpha_pass=0.05, alpha_fail=0.2)[0]
        for share in (1.0, 0.9)
    ]
    assert p_pass[0] <= 0.05 < p_pass[1]


# ── examples that would decide ────────────────────────────────────────────────────────────


def needed(fields, cells):
    (finding,) = judged([budget(**fields)], evaluation(*table(*cells))).findings
    assert finding.outcome == "inconclusive"
    return finding.examples_needed


def test_the_examples_that_a_drop_would_need():
    assert needed({"max_drop": 0.01}, (360, 5, 3, 32)) == pytest.approx(3600, rel=0.5)
    assert needed({"max_drop": 0.01}, (200, 0, 0, 0)) == 301
    assert needed({"max_drop": 0.03}, (90, 0, 0, 9)) == 100


def test_more_are_always_needed_than_were_seen():
    """At n = 300 the formula says 268 and the exact test says no."""
    assert needed({"max_drop": 0.01}, (300, 0, 0, 0)) == 301
    assert needed({"metric": "prediction_flips", "at_most": 0.01}, (298, 0, 0, 0)) > 298


@pytest.mark.parametrize(
    "fields",
    [
        {"max_relative_drop": 0.01},
        {"at_least": 0.9},
        {"metric": "prediction_flips", "at_most": 0.03},
    ],
)
def test_rates_and_relative_drops_have_their_formulas(fields):
    assert 300 < needed(fields, (275, 3, 2, 20)) < 20_000


@pytest.mark.parametrize(
    ("fields", "cells"),
    [
        ({"max_drop": 0.01}, (80, 5, 1, 14)),
        ({"max_drop": 0.05}, (80, 5, 0, 15)),
        ({"max_drop": 0.0}, (90, 0, 0, 10)),
        ({"max_relative_drop": 0.01}, (80, 5, 1, 14)),
        ({"at_least": 0.9}, (88, 0, 0, 12)),
        ({"metric": "prediction_flips", "at_most": 0.03}, (90, 3, 2, 5)),
    ],
)
def test_no_number_helps_at_the_limit_or_beyond(fields, cells):
    assert needed(fields, cells) is None
    assert "more examples alone are not expected to prove it" in reason(fields, cells)


def test_a_budget_of_zero_can_be_near_its_proof():
    assert needed({"max_drop": 0.0}, (90, 0, 2, 8)) > 100


# ── sentences ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "cells", "sentence"),
    [
        (
            {"max_drop": 0.01},
            (9000, 260, 60, 680),
            "accuracy drops 2.00 pp (between 1.71 and 2.30, each end 95 % sure), "
            "more than the 1.00 pp allowed",
        ),
        (
            {"max_drop": 0.01},
            (4470, 40, 25, 465),
            "accuracy drops 0.30 pp (between 0.04 and 0.58, each end 95 % sure), "
            "proven within the 1.00 pp allowed",
        ),
        (
            {"max_drop": 0.01},
            (4470, 25, 40, 465),
            "accuracy rises 0.30 pp (loss between −0.58 and −0.04, each end 95 % sure), "
            "proven within the 1.00 pp allowed",
        ),
        (
            {"max_drop": 0.01},
            (900, 0, 0, 100),
            "accuracy does not change (loss between −0.27 and 0.27, each end 95 % sure), "
            "proven within the 1.00 pp allowed",
        ),
        (
            {"max_drop": 0.01},
            (100, 0, 0, 0),
            "accuracy does not change (loss between −2.63 and 2.63, each end 95 % sure); "
            "100 examples do not prove it within the 1.00 pp allowed, about 301 would. "
            "These 100 examples could have proven 3.00 pp",
        ),
        (
            {"max_drop": 0.01},
            (880, 22, 6, 92),
            "accuracy drops 1.60 pp (between 0.77 and 2.56, each end 95 % sure); that is no "
            "better than the limit of 1.00 pp, so more examples alone are not expected to prove "
            "it. These 1,000 examples could have proven 2.57 pp",
        ),
        (
            {"max_drop": 0.01, "require": "no_proven_harm"},
            (1, 0, 0, 0),
            "not proven: accuracy does not change (loss between −73.01 and 73.01, each end 95 % "
            "sure); 1 example does not prove it within the 1.00 pp allowed, about 301 would. "
            "WARNING: 1 example can never FAIL it even if all are lost: merge slices, or bring "
            "more examples of the rare ones",
        ),
        (
            {"metric": "error_rate", "max_drop": 0.01},
            (9000, 260, 60, 680),
            "error_rate rises 2.00 pp (between 1.71 and 2.30, each end 95 % sure), "
            "more than the 1.00 pp allowed",
        ),
        (
            {"max_relative_drop": 0.01},
            (9000, 260, 60, 680),
            "accuracy drops 2.16 % of FP32's (between 1.85 and 2.48, each end 95 % sure; "
            "asymptotic), more than the 1.00 % allowed",
        ),
        (
            {"metric": "prediction_flips", "at_most": 0.05},
            (970, 20, 10, 0),
            "prediction_flips is 3.00 % (between 2.17 and 4.05, each end 95 % sure), "
            "proven within the 5.00 % allowed",
        ),
        (
            {"at_least": 0.95},
            (900, 0, 0, 100),
            "accuracy is 90.00 % (between 88.30 and 91.52, each end 95 % sure), "
            "under the 95.00 % required",
        ),
        (
            {"at_least": 0.85},
            (900, 0, 0, 100),
            "accuracy is 90.00 % (between 88.30 and 91.52, each end 95 % sure), "
            "proven at least the 85.00 % required",
        ),
        (
            {"metric": "size", "max_ratio": 0.5},
            (1, 0, 0, 0),
            "size is 0.27 times FP32's, within the 0.5 allowed",
        ),
        (
            {"metric": "size", "at_most": 20_000},
            (1, 0, 0, 0),
            "size is 27,000, over the 20,000 allowed",
        ),
        (
            {"metric": "int8_share", "at_least": 0.8},
            (1, 0, 0, 0),
            "int8_share is 0.62, under the 0.8 required",
        ),
        (
            {"metric": "int8_share", "at_least": 0.5},
            (1, 0, 0, 0),
            "int8_share is 0.62, at least the 0.5 required",
        ),
    ],
)
def test_reasons_are_sentences(fields, cells, sentence):
    assert reason(fields, cells) == sentence


@pytest.mark.parametrize(
    ("fields", "cells", "sentence"),
    [
        (
            {"at_least": 0.9},
            (92, 0, 0, 8),
            "accuracy is 92.00 % (between 86.03 and 95.96, each end 95 % sure); 100 examples do "
            "not prove it at least 90.00 %, about 1,303 would. These 100 examples could have "
            "proven at least 86.03 %",
        ),
        (
            {"metric": "prediction_flips", "at_most": 0.01},
            (100, 0, 0, 0),
            "prediction_flips is 0.00 % (between 0.00 and 2.95, each end 95 % sure); 100 examples "
            "do not prove it within the 1.00 % allowed, about 301 would. These 100 examples could "
            "have proven 2.95 %",
        ),
        (
            {"max_drop": 0.0},
            (900, 0, 60, 40),
            "accuracy rises 6.00 pp (loss between −7.36 and −4.88, each end 95 % sure), "
            "proven within the 0.00 pp allowed",
        ),
        (
            {"max_relative_drop": 0.5},
            (5, 0, 90, 5),
            "accuracy rises 1,800.00 % of FP32's (loss between −3,768.30 and −859.80, each end "
            "95 % sure; asymptotic), proven within the 50.00 % allowed",
        ),
    ],
)
def test_reasons_of_what_is_unusual_are_sentences_too(fields, cells, sentence):
    assert reason(fields, cells) == sentence


@pytest.mark.parametrize(
    ("size", "told"), [(999.5, "999.5"), (1000.5, "1,000"), (1234.56, "1,235"), (12.0, "12")]
)
def test_what_is_large_is_told_without_decimals(size, told):
    at_most = [budget(metric="size", at_most=2000)]
    known = METRICS | ARTIFACT_METRICS
    found = compare_budgets(at_most, evaluation([1], [1]), known, {"size": (1.0, size)}, 0.05)
    assert decide(found, 0.05).findings[0].reason.startswith(f"size is {told}, within the 2,000")


def test_a_loss_without_both_values_is_a_loss():
    (finding,) = decide([measured(0.001, reference=None)], 0.05).findings
    assert finding.reason.startswith("accuracy loses 0.50 pp, proven")


# ── rounds ────────────────────────────────────────────────────────────────────────────────

TIMES = np.linspace(9, 11, 30), np.linspace(4.5, 5.5, 30)  # the sign test's ends: 4.845, 5.155


@pytest.mark.parametrize(
    ("metric", "limit", "times", "sentence"),
    [
        (
            "latency_p95",
            {"at_most": 5.01},
            TIMES,
            "latency_p95 is 5 ms (between 4.845 and 5.155, each end 95 % sure; median of rounds, "
            "noise ±0.0 % a round); 30 rounds do not prove it within the 5.01 ms allowed. These "
            "30 rounds could have proven 5.155 ms",
        ),
        (
            "latency_p50",
            {"at_most": 4.95},
            TIMES,
            "latency_p50 is 5 ms (between 4.845 and 5.155, each end 95 % sure; median of rounds, "
            "noise ±0.0 % a round); that is no better than the limit of 4.95 ms, so more rounds "
            "alone are not expected to prove it. These 30 rounds could have proven 5.155 ms",
        ),
        (
            "throughput",
            {"at_least": 4.0},
            TIMES,
            "throughput is 5 /s (between 4.845 and 5.155, each end 95 % sure; median of rounds, "
            "noise ±0.0 % a round), proven at least the 4 /s required",
        ),
        (
            "latency_p50",
            {"max_ratio": 0.9},
            ([10, 10], [5, 5]),
            "latency_p50 is 0.5 times FP32's (median of rounds, noise ±0.0 % a round); 2 rounds "
            "do not prove it within the 0.9 allowed",
        ),
        (
            "latency_p50",
            {"at_most": 5.5},
            ([10], [5]),
            "latency_p50 is 5 ms (median of rounds, noise ±0.0 % a round); 1 round does not prove "
            "it within the 5.5 ms allowed",
        ),
    ],
)
def test_reasons_of_rounds_are_sentences(metric, limit, times, sentence):
    rounds = {metric: Rounds(reference=tuple(times[0]), int8=tuple(times[1]))}
    one = budget(metric=metric, **limit)
    found = compare_budgets([one], evaluation([1], [1]), MODEL_METRICS, {}, 0.05, rounds=rounds)
    assert decide(found, 0.05).findings[0].reason == sentence


# ── what could have been proven ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limit", "n", "told"),
    [
        (0.01, 5, "These 5 examples could have proven 45.30 pp"),
        (0.01, 4, None),
        (0.0104, 4, None),
        (0.0107, 4, "These 4 examples could have proven 53.00 pp"),
        (0.02, 1, "This 1 example could have proven 95.20 pp"),
        (0.0, 5, "These 5 examples could have proven 45.30 pp"),
        (0.0, 4, None),
    ],
)
def test_nobody_hears_of_fifty_times_the_limit(limit, n, told):
    """Four examples without a flip prove 53 pp: 1 − δ, four times, is under 5 %."""
    text = reason({"max_drop": limit}, (n, 0, 0, 0))
    assert text.endswith(told) if told else "could have proven" not in text


def test_a_reason_names_its_slice():
    found = evaluation([1] * 200, [0] * 100 + [1] * 100, {"site": ["n"] * 100 + ["s"] * 100})
    north, south = judged([budget(max_drop=0.03, each="site")], found).findings
    assert north.reason.startswith("accuracy on site=n drops 100.00 pp (between ")
    assert south.reason.startswith("accuracy on site=s does not change (")


def test_the_confidence_is_the_policys():
    assert "each end 99 % sure" in reason({"max_drop": 0.01}, (900, 0, 0, 100), alpha=1 - 0.99)
    assert "each end 97.5 % sure" in reason({"max_drop": 0.01}, (900, 0, 0, 100), alpha=0.025)


def test_tiny_budgets_are_not_rounded_away():
    assert "0.001 pp" in reason({"max_drop": 0.00001}, (900, 0, 0, 100))


# ── again, from the record ────────────────────────────────────────────────────────────────

BUDGETS = (
    {"metric": "accuracy", "max_drop": 0.01},
    {"metric": "accuracy", "max_drop": 0.03, "each": "site"},
    {"metric": "accuracy", "max_drop": 0.02, "slice": {"site": "west"}},
    {"metric": "accuracy", "max_drop": 0.05, "slice": {"site": "s"}, "min_examples": 10_000},
    {"metric": "accuracy", "max_relative_drop": 0.01},
    {"metric": "prediction_flips", "at_most": 0.05},
    {"metric": "size", "max_ratio": 0.5},
    {"metric": "int8_share", "at_least": 0.8},
)


def recorded(make_record, found, alpha=ALPHA):
    verdict = judged([Budget.model_validate(fields) for fields in BUDGETS], found, alpha)
    record = make_record(judge={"budgets": BUDGETS}, verdict=verdict, alpha=alpha)
    return GateRecord.model_validate_json(record.model_dump_json())


@pytest.mark.parametrize("spoilt", [0, 1, 300])
def test_a_record_is_decided_again_to_the_same_verdict(make_record, spoilt):
    fp32, int8 = table(880, 15, 8, 97)
    int8[:spoilt] = math.nan if spoilt == 1 else 0
    sites = np.array(["n", "s"] * 500)
    record = recorded(make_record, evaluation(fp32, int8, {"site": sites}))
    assert decide(measured_of(record), record.alpha) == record.verdict


def test_what_was_measured_is_in_the_record(make_record):
    found = evaluation(*table(880, 15, 8, 97), {"site": np.array(["n", "s"] * 500)})
    budgets = [Budget.model_validate(fields) for fields in BUDGETS]
    known = METRICS | ARTIFACT_METRICS
    assert measured_of(recorded(make_record, found)) == compare_budgets(
        budgets, found, known, ARTIFACTS, ALPHA
    )


def test_a_first_release_is_still_excused_when_it_is_read_again(make_record):
    spec = ({"metric": "accuracy", "max_drop": 0.01},
            {"metric": "accuracy", "max_drop": 0.01, "against": "production"})  # fmt: skip
    budgets = [Budget.model_validate(fields) for fields in spec]
    found = evaluation(*table(1000, 0, 0, 0))
    first = compare_budgets(budgets, found, METRICS, {}, ALPHA, bootstrap=True)
    record = make_record(
        judge={"budgets": spec}, verdict=decide(first, ALPHA), alpha=ALPHA, bootstrap=True
    )
    assert [one.excused for one in measured_of(record)] == [False, True]
    assert decide(measured_of(record), ALPHA).outcome == record.verdict.outcome == "pass"


def test_a_record_whose_budgets_vanished_is_damaged(make_record):
    record = recorded(make_record, evaluation([1] * 4, [1] * 4, {"site": list("nsns")}))
    for damaged in (
        record.verdict.model_copy(update={"findings": record.verdict.findings[1:]}),
        record.verdict.model_copy(update={"findings": ()}),
    ):
        with pytest.raises(RecordError, match=r"accuracy\.max_drop"):
            measured_of(record.model_copy(update={"verdict": damaged}))
    other = make_record(verdict=record.verdict)
    with pytest.raises(RecordError, match="do not name the same budgets"):
        measured_of(other)


# ── the promises, simulated ───────────────────────────────────────────────────────────────


def test_slices_at_their_budget_rarely_fail_together():
    """20 slices, each truly at its budget of 3 pp: without Holm 64 % of releases would fail."""
    n, f, delta, slices, releases = 300, 0.05, 0.03, 20, 300

    @cache
    def p_values(lost, gained):
        return exact.p_values(lost, gained, n, delta, alpha_pass=0.05, alpha_fail=0.05 / slices)

    rng = np.random.default_rng(5)
    shares = [(f + delta) / 2, (f - delta) / 2, 1 - f]
    failed = 0
    for release in rng.multinomial(n, shares, size=(releases, slices)):
        found = [measured(*p_values(int(b), int(c)), n=n) for b, c, _ in release]
        failed += decide(found, 0.05).outcome == "fail"
    assert failed / releases <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / releases)


# ── by the point estimate ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cells", "outcome"), [((880, 22, 12, 86), "pass"), ((880, 22, 11, 87), "fail")]
)
def test_a_point_estimate_decides_where_that_is_asked_for(cells, outcome):
    found = evaluation(*table(*cells))
    budget = Budget(metric="accuracy", max_drop=0.0105)
    measured = compare_budgets([budget], found, METRICS, {}, 0.05)
    verdict = decide(measured, 0.05, point=True)
    assert verdict.outcome == outcome
    assert "by its point estimate" in verdict.findings[0].reason
    assert "releases what truly loses" in verdict.findings[0].reason
    assert decide(measured, 0.05).outcome == "inconclusive"


def pointed(fields, cells):
    known = METRICS | ARTIFACT_METRICS
    found = compare_budgets([budget(**fields)], evaluation(*table(*cells)), known, ARTIFACTS, 0.05)
    (finding,) = decide(found, 0.05, point=True).findings
    return finding


@pytest.mark.parametrize(
    ("fields", "cells", "outcome", "sentence"),
    [
        (
            {"max_drop": 0.01},
            (98, 1, 0, 1),
            "pass",
            "accuracy drops 1.00 pp (between −1.66 and 4.36, each end 95 % sure), within the "
            "1.00 pp allowed by its point estimate: at 100 examples such a gate releases what "
            "truly loses 1.30 pp, and blocks what truly loses 0.70 pp, about 43 % of the time",
        ),
        (
            {"max_drop": 0.03},
            (9800, 100, 0, 100),
            "pass",
            "accuracy drops 1.00 pp (between 0.85 and 1.18, each end 95 % sure), within the "
            "3.00 pp allowed by its point estimate: at 10,000 examples such a gate releases what "
            "truly loses 3.90 pp, and blocks what truly loses 2.10 pp, less than 1 % of the time",
        ),
        (
            {"max_relative_drop": 0.01},
            (880, 22, 12, 86),
            "fail",
            "accuracy drops 1.11 % of FP32's (between 0.05 and 2.24, each end 95 % sure; "
            "asymptotic), more than the 1.00 % allowed by its point estimate: at 1,000 examples "
            "such a gate releases what truly loses 1.30 %, and blocks what truly loses 0.70 %, "
            "about 33 % of the time",
        ),
        (
            {"max_drop": 0.0},
            (880, 22, 22, 76),
            "pass",
            "accuracy does not change (loss between −1.12 and 1.12, each end 95 % sure), within "
            "the 0.00 pp allowed by its point estimate",
        ),
        (
            {"at_least": 0.9},
            (900, 0, 0, 100),
            "pass",
            "accuracy is 90.00 % (between 88.30 and 91.52, each end 95 % sure), at least the "
            "90.00 % required by its point estimate",
        ),
        (
            {"at_least": 0.901},
            (900, 0, 0, 100),
            "fail",
            "accuracy is 90.00 % (between 88.30 and 91.52, each end 95 % sure), under the "
            "90.10 % required by its point estimate",
        ),
        (
            {"metric": "prediction_flips", "at_most": 0.03},
            (970, 20, 10, 0),
            "pass",
            "prediction_flips is 3.00 % (between 2.17 and 4.05, each end 95 % sure), within the "
            "3.00 % allowed by its point estimate",
        ),
        (
            {"metric": "size", "max_ratio": 0.2},
            (1, 0, 0, 0),
            "fail",
            "size is 0.27 times FP32's, over the 0.2 allowed",
        ),
        (
            {"metric": "size", "max_ratio": 0.5},
            (1, 0, 0, 0),
            "pass",
            "size is 0.27 times FP32's, within the 0.5 allowed",
        ),
    ],
)
def test_reasons_by_the_point_estimate_are_sentences(fields, cells, outcome, sentence):
    finding = pointed(fields, cells)
    assert (finding.outcome, finding.blocking) == (outcome, outcome == "fail")
    assert finding.reason == sentence


@pytest.mark.parametrize(
    "cells", [(98, 1, 0, 1), (880, 22, 12, 86), (880, 22, 11, 87), (2900, 100, 50, 50)]
)
@pytest.mark.parametrize("limit", [0.0105, 0.03])
def test_how_often_a_point_estimate_errs_is_the_normal_tail(cells, limit):
    """Three tenths of the budget away, by the standard error that the interval tells."""
    finding = pointed({"max_drop": limit}, cells)
    half = (finding.comparison.upper - finding.comparison.lower) / 2
    wrong = NormalDist(sigma=half / NormalDist().inv_cdf(0.95)).cdf(-0.3 * limit)
    assert finding.reason.endswith(f", about {100 * wrong:.0f} % of the time")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lower": 0.001},
        {"upper": 0.001},
        {"lower": 0.005, "upper": 0.005},
        {"lower": 0.001, "upper": 0.009, "method": jackknife.WORST_CASE},
        {"lower": 0.001, "upper": 0.009, "quantity": "ratio"},
    ],
)
def test_where_no_interval_tells_how_often_it_errs_nothing_is_said(changes):
    (finding,) = decide([measured(0.001, **changes)], 0.05, point=True).findings
    assert finding.reason.endswith("by its point estimate")


def test_what_has_no_value_fails_by_the_point_estimate_too():
    found = evaluation([1, 1], [1, np.nan])
    measured = compare_budgets([Budget(metric="accuracy", max_drop=0.5)], found, METRICS, {}, 0.05)
    assert decide(measured, 0.05, point=True).outcome == "fail"


# ── slices that nothing could prove harmful ───────────────────────────────────────────────


def test_slices_too_many_and_too_small_to_ever_fail_are_warned_of():
    fp32, int8 = table(60, 0, 0, 0)
    found = evaluation(fp32, int8, {"g": np.arange(60) % 20})
    each = budget(max_drop=0.05, each="g")
    verdict = judged([each], found)
    assert verdict.outcome == "pass"
    (told, *_), n = verdict.findings, 3
    assert exact.p_values(n, 0, n, 0.05, alpha_pass=0.05, alpha_fail=0.05 / 20)[1] > 0.05 / 20
    assert "WARNING: 3 examples can never FAIL it, at α / 20, even if all are lost" in told.reason
    few = judged([each], evaluation(fp32, int8, {"g": np.arange(60) % 3}))
    assert "WARNING" not in few.findings[0].reason
    two = judged([each], evaluation(*table(6, 0, 0, 0), {"g": np.arange(6) % 2}))
    assert "can never FAIL it, at α / 2, even" in two.findings[0].reason


def test_who_has_to_prove_is_not_warned_of_what_cannot_fail():
    assert "WARNING" not in reason({"max_drop": 0.01}, (1, 0, 0, 0))


# ── nothing judged is nothing proven ──────────────────────────────────────────────────────


def test_a_whole_set_below_its_least_number_blocks():
    (finding,) = judged(
        [budget(max_drop=0.01, min_examples=5000, require="no_proven_harm")],
        evaluation(*table(900, 60, 0, 40)),
    ).findings
    assert (finding.outcome, finding.blocking) == ("inconclusive", True)


def test_a_verdict_of_which_nothing_was_judged_is_no_pass():
    slices = {"g": np.arange(1000) % 10}
    each = budget(max_drop=0.01, each="g", min_examples=101)
    found = evaluation(*table(1000, 0, 0, 0), slices)
    assert judged([each], found).outcome == "inconclusive"
    assert judged([each, budget(max_drop=0.01)], found).outcome == "pass"
