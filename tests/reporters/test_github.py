"""Annotations stand at the policy's lines; summary and outputs cannot be injected into."""

import re

import pytest

from gate.errors import CandidateError, Mark, PolicyError, RecordError, UsageError
from gate.reporters import github

REPORTER = github.REPORTER


def commands(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Workflow commands as GitHub's runner reads them."""
    found = []
    for line in text.splitlines():
        kind, properties, message = re.fullmatch(r"::(\w+) (.*?)::(.*)", line).groups()
        pairs = dict(part.split("=", 1) for part in properties.split(","))
        found.append((kind, pairs, message))
    return found


def outputs(text: str) -> dict[str, str]:
    """Step outputs as GitHub's runner reads them."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, delimiter = line.split("<<", 1)
        value = []
        while (line := next(lines)) != delimiter:
            value.append(line)
        found[name] = "\n".join(value)
    return found


def test_blocking_findings_are_errors_at_the_budgets_line(make_record):
    errors = [c for c in commands(REPORTER.render(make_record("fail"))) if c[0] == "error"]
    assert [(place["file"], place["line"]) for _, place, _ in errors] == [
        ("policies/digits.yaml", "17"),
        ("policies/digits.yaml", "18"),
        ("policies/digits.yaml", "19"),
    ]
    assert errors[0][1]["title"] == "FAIL digits-cnn"
    assert "drop 5.50 pp [4.29, 6.90] (97.10 %25 → 91.60 %25), over by 4.50 pp" in errors[0][2]
    assert "Since the last PASS" in errors[0][2]


def test_slices_that_are_not_proven_share_one_warning(make_record):
    warnings = [c for c in commands(REPORTER.render(make_record())) if c[0] == "warning"]
    assert len(warnings) == 1
    assert warnings[0][1]["line"] == "18"
    assert "10 slices: 4 not proven (not blocking), 6 pass. Worst: accuracy" in warnings[0][2]


def test_pass_is_a_notice(make_record):
    notices = [c for c in commands(REPORTER.render(make_record())) if c[0] == "notice"]
    assert [(place["title"]) for _, place, _ in notices] == ["PASS digits-cnn"]


def test_unknown_baseline_is_a_warning(make_record):
    text = REPORTER.render(make_record(judge={"expect_fp32": "unknown"}))
    assert "::The FP32 baseline is not checked" in text


@pytest.mark.parametrize(
    ("kind", "judge"),
    [("fail", {"mode": "observe"}), ("inconclusive", {"on_inconclusive": "warn"})],
)
def test_what_exits_zero_only_warns(make_record, kind, judge):
    kinds = {command[0] for command in commands(REPORTER.render(make_record(kind, judge=judge)))}
    assert kinds == {"warning"}


def test_at_most_ten_of_a_kind_and_the_last_counts(make_record):
    record = make_record("fail")
    slices = [
        finding.model_copy(update={"blocking": True}) for finding in record.verdict.findings[1:-3]
    ] * 3
    text = REPORTER.render(make_record("fail", verdict={"outcome": "fail", "findings": slices}))
    errors = [command for command in commands(text) if command[0] == "error"]
    assert len(errors) == 10
    assert errors[-1][2].startswith("21 more: ")


def test_values_are_escaped(make_record):
    source = {"file": "a,b:c%d\n::error::x", "lines": {}}
    text = REPORTER.render(make_record("fail", policy_source=source))
    files = {place["file"] for _, place, _ in commands(text)}
    assert files == {r"a%2Cb%3Ac%25d\x0a%3A %3Aerror%3A %3Ax"}
    assert all("line" not in place for _, place, _ in commands(text))


def test_a_verdict_that_nothing_explains_is_still_shown(make_record):
    text = REPORTER.render(make_record("fail", verdict={"outcome": "fail", "findings": []}))
    assert commands(text)[0][1]["title"] == "FAIL digits-cnn"


def test_a_policy_error_is_announced_where_it_is(tmp_path):
    error = PolicyError("unknown metric", Mark(tmp_path / "p.yaml", 4, 7))
    [(kind, place, message)] = commands(github.announce(error))
    assert (kind, place["line"], place["col"]) == ("error", "4", "7")
    assert message.endswith("unknown metric")
    assert place["title"] == "gate could not judge (exit 2)"


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), (None, False)])
def test_active(value, expected):
    assert github.active({} if value is None else {"GITHUB_ACTIONS": value}) is expected


@pytest.fixture
def environ(tmp_path):
    return {
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }


def test_publish_appends_summary_and_outputs(make_record, environ, tmp_path):
    (tmp_path / "summary").write_text("before\n")
    (tmp_path / "output").write_text("other=1\n")
    github.publish([make_record("fail")], environ)
    assert (tmp_path / "summary").read_text().startswith("before\n## FAIL: digits-cnn")
    written = (tmp_path / "output").read_text()
    assert written.startswith("other=1\n")
    assert outputs(written.removeprefix("other=1\n")) == {
        "outcome": "fail",
        "exit-code": "1",
        "record-id": make_record("fail").id,
    }


def test_several_records_come_to_the_worst(make_record, environ, tmp_path):
    records = [make_record(), make_record("inconclusive"), make_record("fail", id="second")]
    github.publish(records, environ)
    found = outputs((tmp_path / "output").read_text())
    assert (found["outcome"], found["exit-code"]) == ("fail", "1")
    assert found["record-id"].splitlines() == [record.id for record in records]


def test_observed_failure_keeps_its_outcome(make_record, environ, tmp_path):
    github.publish([make_record("fail", judge={"mode": "observe"}), make_record()], environ)
    found = outputs((tmp_path / "output").read_text())
    assert (found["outcome"], found["exit-code"]) == ("fail", "0")


def test_a_run_that_could_not_judge_is_an_error(make_record, environ, tmp_path):
    problem = ("policies/x.yaml", CandidateError("not an ONNX file\n## PASS: <b>"))
    github.publish([make_record()], environ, [problem])
    found = outputs((tmp_path / "output").read_text())
    assert (found["outcome"], found["exit-code"]) == ("error", "4")
    summary = (tmp_path / "summary").read_text()
    assert "    not an ONNX file\n    ## PASS: <b>\n" in summary


def test_no_record_at_all_is_an_error(environ, tmp_path):
    github.publish([], environ)
    found = outputs((tmp_path / "output").read_text())
    assert found == {"outcome": "error", "exit-code": "4", "record-id": ""}


def test_outputs_cannot_be_injected_into(make_record, environ, tmp_path):
    github.publish([make_record("fail", id="x\ngate_0\nexit-code=0\noutcome<<EOF")], environ)
    found = outputs((tmp_path / "output").read_text())
    assert set(found) == {"outcome", "exit-code", "record-id"}
    assert found["exit-code"] == "1"


@pytest.mark.parametrize("missing", ["GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"])
def test_missing_variables_are_named(make_record, environ, missing):
    del environ[missing]
    with pytest.raises(UsageError, match=f"{missing} is not set"):
        github.publish([make_record()], environ)


def test_summary_stays_under_a_mebibyte_and_counts_the_rest(make_record, environ, tmp_path):
    (tmp_path / "summary").write_text("x" * 1_000_000)
    github.publish([make_record("fail", slices=3) for _ in range(40)], environ)
    text = (tmp_path / "summary").read_text()
    assert len(text.encode()) <= github.SUMMARY_LIMIT
    shown = text.count("## FAIL")
    assert f"{40 - shown} more reports: no room here" in text


def test_unwritable_files_are_a_record_error(make_record, environ, tmp_path):
    environ["GITHUB_OUTPUT"] = str(tmp_path / "missing" / "output")
    with pytest.raises(RecordError, match="cannot be written"):
        github.publish([make_record()], environ)
