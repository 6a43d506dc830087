"""A verdict can be decided again from its record, and a changed one is found out."""

import json

import pytest

from gate.commands.judge import judge, rejudge
from gate.commands.report import render
from gate.errors import RecordError, UsageError
from gate.records import GateRecord

KINDS = ["pass", "fail", "inconclusive", "undefined"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_give_the_same_verdict(make_record, kind, tmp_path):
    record = make_record(kind)
    (tmp_path / "record.json").write_text(render(record, "json"))
    again = judge(tmp_path)
    assert again.verdict.outcome == record.verdict.outcome
    assert again.exit_code == record.exit_code
    assert again == rejudge(again)
    assert again.model_dump(exclude={"verdict"}) == record.model_dump(exclude={"verdict"})


def tampered(record: GateRecord, index: int, **changes) -> GateRecord:
    fields = json.loads(record.model_dump_json())
    fields["verdict"]["findings"][index] |= changes
    return GateRecord.model_validate(fields)


def test_a_finding_turned_into_a_pass_is_named(make_record):
    record = tampered(make_record("fail"), 0, outcome="pass", blocking=False)
    with pytest.raises(RecordError, match=r"own numbers give, for accuracy\.max_drop: .*again"):
        rejudge(record)


def test_a_slice_that_no_longer_blocks_is_named(make_record):
    record = make_record("fail")
    index = next(i for i, f in enumerate(record.verdict.findings) if f.slice == "target=8")
    with pytest.raises(RecordError, match=r"accuracy\.max_drop\[each target\] \(target=8\)"):
        rejudge(tampered(record, index, blocking=False))


def test_an_outcome_that_its_findings_do_not_give(make_record):
    record = make_record("fail")
    verdict = record.verdict.model_copy(update={"outcome": "pass"})
    with pytest.raises(RecordError, match=r"the outcome \(pass, and it should be fail\)"):
        rejudge(record.model_copy(update={"verdict": verdict}))


def test_a_budget_without_a_finding_does_not_pass(make_record):
    record = make_record("fail")
    findings = tuple(f for f in record.verdict.findings if f.outcome == "pass")
    verdict = record.verdict.model_copy(update={"outcome": "pass", "findings": findings})
    with pytest.raises(RecordError):
        rejudge(record.model_copy(update={"verdict": verdict}))


def test_no_record(tmp_path):
    with pytest.raises(UsageError):
        judge(tmp_path / "record.json")
