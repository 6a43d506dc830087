"""What there is to say about a record."""

import pytest

from gate import story
from gate.policy import Budget


@pytest.mark.parametrize(
    ("kind", "judge", "text"),
    [
        ("pass", {}, "exit 0"),
        ("fail", {}, "exit 1"),
        ("inconclusive", {}, "exit 3"),
        ("fail", {"mode": "observe"}, "exit 0 (mode: observe)"),
        ("inconclusive", {"on_inconclusive": "warn"}, "exit 0 (on_inconclusive: warn)"),
    ],
)
def test_exit_text(make_record, kind, judge, text):
    assert story.exit_text(make_record(kind, judge=judge)) == text


def compared(make_record, budget: dict, outcome: str = "fail", **changes):
    """The one sentence about a budget, for a first comparison with `changes`."""
    finding = make_record("fail").verdict.findings[0]
    comparison = finding.comparison.model_copy(update=changes)
    new = {"budget": Budget.model_validate(budget).id, "comparison": comparison, "outcome": outcome}
    findings = [finding.model_copy(update=new)]
    verdict = {"outcome": outcome, "findings": findings}
    [sentence] = story.blockers(make_record("fail", judge={"budgets": [budget]}, verdict=verdict))
    return sentence


def test_a_floor_is_missed_by_so_much(make_record):
    floor = {"metric": "accuracy", "at_least": 0.95}
    numbers = {"int8": 0.912, "quantity": "value", "lower": 0.891, "upper": 0.93}
    assert compared(make_record, floor, **numbers) == (
        "accuracy ≥ 95.00 %: INT8 is at 91.20 % [89.10, 93.00], short by 3.80 pp"
    )


def test_a_floor_that_is_not_proven(make_record):
    floor = {"metric": "accuracy", "at_least": 0.95}
    numbers = {"int8": 0.96, "quantity": "value", "lower": 0.941, "upper": 0.97}
    assert compared(make_record, floor, "inconclusive", **numbers) == (
        "accuracy ≥ 95.00 %: INT8 is at 96.00 % [94.10, 97.00]; "
        "as little as 94.10 % cannot be ruled out"
    )


def test_over_the_limit_and_not_proven(make_record):
    drop = {"metric": "accuracy", "max_drop": 0.01}
    numbers = {"degradation": 0.012, "lower": 0.005, "upper": 0.02}
    assert compared(make_record, drop, "inconclusive", **numbers).endswith(
        "drop 1.20 pp [0.50, 2.00] (97.10 % → 91.60 %); over the limit, but not proven to be"
    )


def test_an_interval_within_the_limit_that_the_exact_test_does_not_grant(make_record):
    drop = {"metric": "accuracy", "max_drop": 0.01}
    numbers = {"degradation": 0.0, "lower": -0.00999, "upper": 0.00999, "p_pass": 0.069}
    assert compared(make_record, drop, "inconclusive", **numbers).endswith(
        "not proven (p = 0.069, needs ≤ 0.05)"
    )


def test_a_size_that_is_over(make_record):
    size = {"metric": "size", "max_ratio": 0.5}
    numbers = {"reference": 1e6, "int8": 6.2e5, "quantity": "ratio", "counts": None}
    assert compared(make_record, size, **numbers | {"lower": None, "upper": None}) == (
        "size ≤ 0.50 × FP32: 0.62 × FP32 (1.00 MB → 620 kB), over by 0.12 × FP32"
    )


def test_a_failure_within_the_limit_gives_its_reason(make_record):
    drop = {"metric": "accuracy", "max_drop": 0.1}
    assert compared(make_record, drop).startswith(
        "accuracy, drop ≤ 10.00 pp: accuracy drops 5.50 pp"
    )


def test_a_budget_that_the_policy_does_not_have_goes_by_its_id(make_record):
    finding = make_record("fail").verdict.findings[0]
    strange = finding.model_copy(update={"budget": "ghost.max_drop", "slice": "a=b"})
    record = make_record("fail", verdict={"outcome": "fail", "findings": [strange]})
    assert story.blockers(record)[0].startswith("ghost.max_drop, a=b: accuracy drops 5.50 pp")


def test_failures_come_before_what_is_inconclusive(make_record):
    first, *rest = make_record("fail").verdict.findings
    first = first.model_copy(update={"outcome": "inconclusive"})
    record = make_record("fail", verdict={"outcome": "fail", "findings": [first, *rest]})
    assert [sentence.partition(":")[0] for sentence in story.blockers(record)] == [
        "accuracy, target=8, drop ≤ 3.00 pp",
        "prediction flips ≤ 5.00 %",
        "accuracy, drop ≤ 1.00 pp",
    ]


def test_blocking_slices_are_shown_up_to_five_and_counted(make_record):
    findings = [
        f.model_copy(update={"blocking": True, "outcome": "fail"}) if f.slice else f
        for f in make_record("fail").verdict.findings
    ]
    record = make_record("fail", verdict={"outcome": "fail", "findings": findings})
    group = next(group for group in story.groups(record) if group.tally)
    assert len(group.rows) == 5
    assert group.rows[0].name == "target=8"
    assert (group.tally, group.shown) == ("10 slices: 10 FAIL", "shown: the 5 worst")
    assert len(story.blockers(record)) == 3
    assert story.blockers(record)[1].startswith("accuracy, target=8, drop ≤ 3.00 pp: drop 30.00 pp")
    assert story.blockers(record)[1].endswith("over by 27.00 pp; 9 more slices too")


def test_blocking_budgets_come_first(make_record):
    first, *rest = make_record("fail").verdict.findings
    first = first.model_copy(update={"outcome": "pass", "blocking": False})
    record = make_record("fail", verdict={"outcome": "fail", "findings": [first, *rest]})
    names = [group.name for group in story.groups(record)]
    assert names[0] == "accuracy, each target, drop ≤ 3.00 pp"
    assert names[2] == "accuracy, drop ≤ 1.00 pp"


def test_examples_needed_are_said_once(make_record):
    finding = make_record("inconclusive").verdict.findings[0]
    said = finding.model_copy(update={"reason": "about 1,031 examples would do"})
    record = make_record("inconclusive", verdict={"outcome": "inconclusive", "findings": [said]})
    assert story.groups(record)[0].rows[0].reason == "about 1,031 examples would do"


def test_others_are_what_has_no_budget(make_record):
    assert story.others(make_record()) == (
        ("balanced accuracy", "0.9708", "0.9699"),
        ("log loss", "0.0912", "0.0967"),
    )


def test_what_changed(make_record):
    previous = make_record().previous
    record = make_record(previous=previous.model_copy(update={"changes": ()}))
    assert story.since(record).endswith("nothing that is recorded changed.")
    many = previous.model_copy(update={"changes": tuple(f"c{index}" for index in range(14))})
    assert story.since(make_record(previous=many)).endswith("c9; and 4 more.")
