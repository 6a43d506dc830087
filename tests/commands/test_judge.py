"""A verdict can be decided again from its record, and a changed one is found out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.project import WIDE_RANGE, Project

from gate.commands.judge import judge, rejudge
from gate.commands.report import render
from gate.errors import RecordError, UsageError
from gate.pipeline import run_gate
from gate.records import GateRecord

KINDS = ["pass", "fail", "inconclusive", "undefined"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_give_the_same_verdict(make_record, kind):
    record = make_record(kind)
    again = rejudge(GateRecord.model_validate_json(render(record, "json")))
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


# ── a record that somebody edited ─────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release that failed."""
    folder = tmp_path_factory.mktemp("failed")
    project = Project(folder)
    run_gate(project.policy, WIDE_RANGE, tracker="none", out=folder / "out", threads=1)
    return folder / "out"


def passed(fields: dict[str, Any]) -> None:
    fields["verdict"]["outcome"] = "pass"
    for finding in fields["verdict"]["findings"]:
        finding |= {"outcome": "pass", "blocking": False}
        finding["comparison"] |= {"p_pass": 0.0, "p_fail": 1.0}


def observed(fields: dict[str, Any]) -> None:
    fields["policy"]["judge"]["mode"] = "observe"


def loosened(fields: dict[str, Any]) -> None:
    passed(fields)
    fields["policy"]["judge"]["budgets"][0]["max_drop"] = 0.5


def milder(fields: dict[str, Any]) -> None:
    passed(fields)
    for finding in fields["verdict"]["findings"]:
        finding["comparison"]["counts"] |= {"lost": 1, "gained": 0}


def shortened(fields: dict[str, Any]) -> None:
    fields["examples_total"] = fields["examples_evaluated"] = 900


@pytest.mark.parametrize("change", [passed, observed, loosened, shortened])
@pytest.mark.parametrize("with_rows", [True, False])
def test_an_edited_record_is_found_out(
    failed: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], with_rows: bool
) -> None:
    fields = json.loads((failed / "record.json").read_text())
    change(fields)
    (tmp_path / "record.json").write_text(json.dumps(fields))
    if with_rows:
        (tmp_path / "rows.npz").write_bytes((failed / "rows.npz").read_bytes())
    with pytest.raises(RecordError, match="was changed after it was written"):
        judge(tmp_path)


def test_rows_tell_of_edited_counts(failed: Path, tmp_path: Path) -> None:
    fields = json.loads((failed / "record.json").read_text())
    milder(fields)
    (tmp_path / "record.json").write_text(json.dumps(fields))
    (tmp_path / "rows.npz").write_bytes((failed / "rows.npz").read_bytes())
    with pytest.raises(RecordError, match="not what its examples give"):
        judge(tmp_path)


def test_other_rows_are_found_out(failed: Path, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes((failed / "record.json").read_bytes())
    with np.load(failed / "rows.npz") as archive:
        columns = dict(archive)
    columns["int8/label"] = columns["fp32/label"]
    np.savez(tmp_path / "rows.npz", **columns)
    with pytest.raises(RecordError, match="changed after"):
        judge(tmp_path)


def test_an_untouched_record_is_judged_alike_with_and_without_its_rows(
    failed: Path, tmp_path: Path
) -> None:
    (tmp_path / "record.json").write_bytes((failed / "record.json").read_bytes())
    assert judge(failed) == judge(tmp_path)
