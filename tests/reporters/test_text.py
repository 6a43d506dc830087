"""The text report says in its first lines what a person has to know."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from gate.errors import PolicyError
from gate.policy import Budget
from gate.records import GateRecord
from gate.reporters import text

REPORTER = text.REPORTER


def flat(report: str) -> str:
    """Without the line breaks of wrapping."""
    return re.sub(r"\s+", " ", report)


def test_pass_begins_with_the_verdict(make_record):
    lines = REPORTER.render(make_record()).splitlines()
    assert lines[0] == "PASS  digits-cnn  stage pr, exit 0"
    assert lines[1].startswith("5 budgets, none blocks. Not proven, not blocking: 4 of 10 slices")


def test_pass_of_everything_says_so(make_record):
    record = make_record()
    findings = [finding for finding in record.verdict.findings if finding.outcome == "pass"]
    record = make_record(verdict={"outcome": "pass", "findings": findings})
    assert REPORTER.render(record).splitlines()[1] == "5 budgets, all met."


def test_blocked_run_says_which_budget_by_how_much_and_what_changed(make_record):
    lines = REPORTER.render(make_record("fail")).splitlines()
    assert lines[0] == "FAIL  digits-cnn  stage pr, exit 1"
    assert lines[1] == (
        "- accuracy, drop ≤ 1.00 pp: drop 5.50 pp [4.29, 6.90] (97.10 % → 91.60 %), over by 4.50 pp"
    )
    assert lines[2].startswith("- accuracy, target=8, drop ≤ 3.00 pp: drop 30.00 pp")
    assert lines[4].startswith("- prediction flips ≤ 5.00 %: INT8 is at 7.40 % [6.08, 8.91], over")
    assert lines[5].startswith("Since the last PASS (2026-07-23 16:40 UTC, run 7c1e09bb52d14a7e): ")
    assert "INT8 accuracy 0.969 -> 0.916." in lines[6]


def test_first_release_says_so(make_record):
    report = REPORTER.render(make_record("fail", previous=None))
    assert "First release on record: no earlier PASS" in report.split("Budget")[0]


def test_inconclusive_says_what_would_decide_it(make_record):
    report = flat(REPORTER.render(make_record("inconclusive")))
    assert report.startswith("INCONCLUSIVE digits-cnn stage pr, exit 3")
    assert "as much as 2.34 pp cannot be ruled out; 150 examples here, about 1,031 would" in report


def test_undefined_metric_is_a_failure_with_its_reason(make_record):
    report = REPORTER.render(make_record("undefined"))
    assert report.startswith("FAIL")
    assert "- accuracy, drop ≤ 1.00 pp: accuracy has no value: INT8 gives NaN for 12 of" in report
    assert re.search(r"accuracy, drop ≤ 1.00 pp +97.10 % +– +– +FAIL", report)


def test_table_shows_both_models_the_interval_and_why(make_record):
    report = REPORTER.render(make_record())
    assert re.search(r"Budget +FP32 +INT8 +Measured \[90 % interval\] +Outcome", report)
    row = r"accuracy, drop ≤ 1.00 pp +97.10 % +97.00 % +0.10 pp \[−0.34, 0.57\] +pass\n +accuracy"
    assert re.search(row, report)
    assert re.search(r"size ≤ 0.50 × FP32 +103 kB +33.1 kB +0.32 × FP32 +pass", report)
    assert re.search(r"INT8 share ≥ 0.80 +– +0.9871 +0.9871 +pass", report)


def test_slices_show_what_blocks_and_the_worst_and_count_the_rest(make_record):
    report = REPORTER.render(make_record("fail"))
    tally = "10 slices: 1 FAIL, 4 not proven (not blocking), 5 pass; shown: the 2 worst"
    assert tally in report
    assert re.search(r"target=8 .* FAIL\n( {6}.*\n)+ +target=0 .* not proven\n", report)
    assert "target=1 " not in report


def test_few_slices_are_all_shown(make_record):
    report = REPORTER.render(make_record(slices=3))
    assert "3 slices: 1 not proven (not blocking), 2 pass\n" in report
    assert all(f"target={index}" in report for index in range(3))


def test_many_budgets_are_counted(make_record):
    budgets = [{"metric": f"m{index}", "max_drop": 0.01} for index in range(100)]
    first = make_record().verdict.findings[0]
    ids = [Budget.model_validate(budget).id for budget in budgets]
    findings = [first.model_copy(update={"budget": name}) for name in ids]
    verdict = {"outcome": "pass", "findings": findings}
    report = REPORTER.render(make_record(judge={"budgets": budgets}, verdict=verdict))
    assert "60 more budgets, 0 of them blocking" in report


def test_what_was_compared_and_proven_is_shown(make_record):
    report = flat(REPORTER.render(make_record()))
    for expected in (
        "Candidate models:/digits-cnn/4 (sha256 3fa9c21b7d04)",
        "Recipe static: uint8 activations, int8 weights per channel, min-max ranges",
        "Held-out 1,000 examples of digits/held_out.npz (sha256 efefefefefef)",
        "98.7 % of the multiply–accumulate work ran as integers; kernels run: QLinearConv ×2",
        "still FP32: fc2",
        "FP32 check accuracy 97.10 %, as training reported (96.10 % ± 2.00 pp)",
        "onnxruntime 1.31.1, Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz with VNNI, 2 threads",
        "git b1946ac92492, policy policies/digits.yaml",
        "balanced accuracy 0.9708 → 0.9699 log loss 0.0912 → 0.0967",
    ):
        assert expected in report


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ({"mode": "observe"}, "exit 0 (mode: observe)"),
        ({"mode": "observe"}, "! Observed, not enforced"),
        ({"expect_fp32": "unknown"}, "! The FP32 baseline is not checked (expect_fp32: unknown)"),
        ({"expect_fp32": "unknown"}, "FP32 check NOT CHECKED"),
        ({"decision": "point"}, "! Decided by point estimates"),
    ],
)
def test_notices_are_visible(make_record, judge, expected):
    assert expected in flat(REPORTER.render(make_record("fail", judge=judge)))


def test_warned_inconclusive_says_that_it_cannot_be_promoted(make_record):
    report = REPORTER.render(make_record("inconclusive", judge={"on_inconclusive": "warn"}))
    assert report.startswith("INCONCLUSIVE  digits-cnn  stage pr, exit 0 (on_inconclusive: warn)")
    assert "cannot be promoted" in report


def test_fits_a_hundred_columns_without_colours(make_record):
    for kind in ("pass", "fail", "inconclusive", "undefined"):
        report = REPORTER.render(make_record(kind))
        assert max(map(cell_len, report.splitlines())) <= 100
        assert "\x1b" not in report
        assert all(line == line.rstrip() for line in report.splitlines())


def test_markup_in_names_is_text(make_record):
    candidate = make_record().candidate.model_copy(update={"source": "[red]x[/red] :warning:"})
    assert "[red]x[/red] :warning:" in REPORTER.render(make_record(candidate=candidate))


def rendered(record: GateRecord, **options) -> str:
    stream = io.StringIO()
    text.render_terminal(record, Console(file=stream, **options))
    return stream.getvalue()


def test_terminal_has_colours_and_a_pipe_has_none(make_record):
    record = make_record("fail")
    assert "\x1b[1;31mFAIL" in rendered(record, force_terminal=True, color_system="standard")
    assert "\x1b" not in rendered(record)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_terminal_of_any_width_shows_all_budgets(make_record, width):
    report = flat(rendered(make_record("fail"), width=width))
    assert "91.60" in report
    assert "FAIL" in report


def test_table_of_several_records(make_record):
    problem = ("policies/typo.yaml", PolicyError("unknown metric 'acuracy'"))
    lines = text.table([make_record(), make_record("fail")], [problem]).splitlines()
    assert re.match(r"Model +Outcome +Blocked by +Exit", lines[0])
    assert re.match(r"digits-cnn +pass +– +0$", lines[1])
    assert re.match(r"digits-cnn +FAIL +accuracy, drop ≤ 1.00 pp: drop 5.50 pp .* +1$", lines[2])
    assert "and 2 more" in flat(" ".join(lines))
    assert re.match(r"policies/typo.yaml +ERROR +unknown metric 'acuracy' +2$", lines[-1])
