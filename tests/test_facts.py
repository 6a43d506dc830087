"""What a verdict rests on, line by line."""

import pytest

from gate import facts
from gate.exhibits import Waiver


def fact(record, label: str) -> str:
    return dict(facts.facts(record))[label]


def test_an_ordinary_pass_has_no_notices(make_record):
    assert facts.notices(make_record()) == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stage": "release"}, "ledger: none"),
        ({"judge": {"expect_fp32": "unknown"}}, "expect_fp32: unknown"),
        ({"judge": {"mode": "observe"}}, "mode: observe"),
        ({"judge": {"decision": "point"}}, "decision: point"),
    ],
)
def test_notices(make_record, fields, expected):
    [notice] = facts.notices(make_record(**fields))
    assert expected in notice


def test_duplicates_are_said_twice(make_record):
    splits = make_record().splits
    held_out = splits.held_out.model_copy(update={"duplicates": 2, "units": 120})
    record = make_record(splits=splits.model_copy(update={"held_out": held_out}))
    assert fact(record, "Held-out").endswith("120 independent units, 2 duplicates")
    assert "2 duplicates" in facts.notices(record)[0]


def test_images_that_are_missing_are_said_twice(make_record):
    splits = make_record().splits
    held_out = splits.held_out.model_copy(update={"missing": 3})
    record = make_record(splits=splits.model_copy(update={"held_out": held_out}))
    assert fact(record, "Held-out").endswith(", 3 left out that did not decode")
    assert "3 held-out images that did not decode" in facts.notices(record)[0]


def test_texts_that_are_cut_off_are_said_twice(make_record):
    splits = make_record().splits
    held_out = splits.held_out.model_copy(update={"truncated": 1200})
    record = make_record(splits=splits.model_copy(update={"held_out": held_out}))
    assert fact(record, "Held-out").endswith(", 1,200 cut off at max_length")
    assert "1,200 held-out texts" in facts.notices(record)[0]


def test_early_stopping_is_said(make_record):
    record = make_record(examples_evaluated=400)
    assert fact(record, "Held-out").endswith("; stopped early after 400 of 1,000")


def test_a_refined_recipe_says_what_it_leaves_out(make_record):
    int8 = make_record().int8
    recipe = int8.recipe.model_copy(
        update={"exclude_op_types": ("Softmax",), "exclude_nodes": ("fc2",), "op_types": ("Conv",)}
    )
    record = make_record(int8=int8.model_copy(update={"recipe": recipe}))
    assert fact(record, "Recipe").endswith("min-max ranges; only Conv; not Softmax, fc2")


def test_many_float_nodes_are_counted(make_record):
    int8 = make_record().int8.model_copy(update={"skipped_nodes": tuple("abcdefgh")})
    assert fact(make_record(int8=int8), "INT8 proof").endswith("still FP32: a, b, c, d and 4 more")


def test_a_missed_baseline_is_loud(make_record):
    [check] = make_record().baseline
    record = make_record(baseline=(check.model_copy(update={"measured": 0.5}),))
    assert "accuracy 50.00 %, NOT as training reported" in fact(record, "FP32 check")


@pytest.mark.parametrize(
    ("cpu", "text"),
    [
        ({"model": "X", "vnni": False}, "X without VNNI"),
        ({"model": "", "architecture": "aarch64"}, "aarch64 VNNI unknown"),
        ({}, "unknown CPU VNNI unknown"),
        ({"model": "X", "vnni": [1]}, "X VNNI unknown"),
    ],
)
def test_the_cpu(make_record, cpu, text):
    made = make_record().provenance.model_copy(update={"cpu": cpu})
    assert text in fact(make_record(provenance=made), "Ran on")


def test_a_dirty_commit_is_called_dirty(make_record):
    made = make_record().provenance
    dirty = made.model_copy(update={"git": f"{'a1' * 20}-dirty"})
    assert "git a1a1a1a1a1a1-dirty, " in fact(make_record(provenance=dirty), "Source")
    none = made.model_copy(update={"git": None})
    assert fact(make_record(provenance=none), "Source").startswith("no git, policy")


def test_the_attempt_and_its_alpha(make_record):
    record = make_record(attempt=2, alpha=0.0125, ledger="tracker")
    text = fact(record, "Judged")
    assert text == "at 95 % confidence a budget, α = 0.0125, attempt 2 on this held-out set"


def test_a_waiver_is_told_with_who_and_until_when(make_record):
    record = make_record("fail")
    finding = next(one for one in record.verdict.findings if one.blocking)
    waived = finding.model_copy(update={"outcome": "waived", "blocking": False})
    waiver = Waiver(
        model="digits-cnn", budget=finding.budget, reason="the camera goes", who="ann",
        expires="2027-01-31",
    )  # fmt: skip
    other = waiver.model_copy(update={"budget": "size.max_ratio"})
    verdict = {"outcome": "waived", "findings": (waived,)}
    record = make_record(verdict=verdict, waivers=(waiver, other))
    [notice] = facts.notices(record)
    assert notice.startswith(f"WAIVED, not passed: {finding.budget}, by ann until 2027-01-31")
