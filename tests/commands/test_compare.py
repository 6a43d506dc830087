"""Two releases side by side: from folders and the registry, on what both were judged on."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.line import MODEL, policy, released
from support.onnx_models import widened
from support.project import CNN, WIDE_RANGE, Project

from gate import trackers
from gate.cli import exit_code_of
from gate.commands._compare_text import render
from gate.commands.compare import Compared, compare
from gate.errors import GateError, RecordError, ReleaseError, UsageError
from gate.records import GateRecord
from gate.rows import load_rows

First = tuple[Path, GateRecord]
ONE = f"models:/{MODEL}-int8/1"


def compared(a: Any, b: Any) -> Compared:
    return compare(str(a), str(b), trackers.get("mlflow"))


def test_two_releases_are_paired_example_by_example(line: Project, first_release: First) -> None:
    record = released(policy(line), WIDE_RANGE, out=line.folder / "out")
    found = compared(ONE, line.folder / "out")
    before, after = (
        load_rows(folder / "rows.npz")
        for folder in (first_release[0] / "first", line.folder / "out")
    )
    accuracy = found.int8[0]
    assert (accuracy.metric, found.n, accuracy.counts is not None) == ("accuracy", 1000, True)
    assert accuracy.int8 == record.verdict.findings[0].comparison.int8  # type: ignore[union-attr]
    right = [
        side.int8["label"].flat[:, 0] == side.int8["label"].flat[:, 1] for side in (before, after)
    ]
    assert found.changed is not None
    assert set(found.changed.lost) == set(before.ids[right[0] & ~right[1]])
    assert set(found.changed.gained) == set(before.ids[~right[0] & right[1]])
    assert [one.degradation for one in found.fp32 if one.metric == "accuracy"] == [0.0]


def test_a_release_and_itself_differ_in_nothing(line: Project, first_release: First) -> None:
    found = compared(first_release[0] / "first", f"models:/{MODEL}-int8@production")
    assert {one.degradation for one in found.int8} == {0.0}
    assert found.changed is not None
    assert found.changed.lost == found.changed.gained == ()


def test_swapping_the_two_turns_every_loss(line: Project) -> None:
    released(policy(line), WIDE_RANGE, out=line.folder / "out")
    there, back = compared(ONE, "out"), compared("out", ONE)
    for one, other in zip(there.int8, back.int8, strict=True):
        assert one.degradation == pytest.approx(-other.degradation)  # type: ignore[operator]
    assert there.changed is not None
    assert back.changed is not None
    assert (there.changed.lost, there.changed.gained) == (back.changed.gained, back.changed.lost)


def test_only_examples_of_both_are_compared(line: Project) -> None:
    def cut(columns: dict[str, Any]) -> None:
        columns.update({key: values[9:].copy() for key, values in columns.items()})
        columns["image"][0] *= 0.5

    line.change("held_out", cut)
    released(policy(line), out=line.folder / "out")
    assert compared(ONE, "out").n == 990
    assert "of 1,000 in A and 991 in B" in render(compared(ONE, "out"), "text")


def test_reports_hold_every_metric_and_no_control_character(
    line: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    released(policy(line), WIDE_RANGE, out=line.folder / "out")
    assert exit_code_of(["compare", ONE, "out"]) == 0
    said = capfd.readouterr().out
    assert "accuracy" in said
    assert "Lost, right in A and wrong in B (accuracy): " in said
    assert exit_code_of(["compare", ONE, "out", "--format", "json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["examples"] == 1000
    assert len(document["changed"]["lost"]) > 20


# ── what cannot be compared ───────────────────────────────────────────────────────────────


def refused(kind: type[GateError], a: Any, b: Any, said: str) -> None:
    with pytest.raises(kind, match=said):
        compared(a, b)


def test_what_is_not_there_is_named(line: Project) -> None:
    refused(UsageError, "nowhere", ONE, "nowhere does not exist")
    refused(UsageError, f"models:/{MODEL}-int8/9", ONE, "there is no models:/.*int8/9")
    refused(UsageError, "models:/nobody@production", ONE, "there is no models:/nobody")
    refused(UsageError, "models:/nobody", ONE, "there is no models:/nobody")


def test_an_edited_record_is_not_compared(line: Project) -> None:
    released(policy(line), out=line.folder / "out")
    file = line.folder / "out" / "record.json"
    fields = json.loads(file.read_text())
    fields["verdict"]["findings"][0]["comparison"]["int8"] += 0.001
    file.write_text(json.dumps(fields))
    refused(RecordError, ONE, "out", "was changed after it was written")


def test_without_examples_in_common_there_is_nothing_to_compare(line: Project) -> None:
    def renamed(columns: dict[str, Any]) -> None:
        columns["id"] = columns["id"] + 1 if columns["id"].dtype.kind in "iu" else [
            f"new {key}" for key in columns["id"]
        ]  # fmt: skip

    line.change("held_out", renamed)
    released(policy(line), out=line.folder / "out")
    refused(ReleaseError, ONE, "out", "gate rebase")


def test_a_release_that_stopped_early_is_not_compared(line: Project) -> None:
    line.spec["judge"]["budgets"] = [{"metric": "accuracy", "max_drop": 0.2}]
    line.spec["judge"]["stopping"] = "early"
    line.write()
    record = released(line, out=line.folder / "out")
    assert record.stopped is not None
    refused(ReleaseError, ONE, "out", "stopped early")


def test_releases_of_other_classes_are_not_compared(line: Project, first_release: First) -> None:
    more = widened(CNN, line.folder / "more.onnx", bias=-9.0)
    released(policy(line), more, out=line.folder / "more")
    refused(UsageError, first_release[0] / "first", line.folder / "more", "other classes")


def test_releases_that_other_plugins_observed_are_not_compared(
    line: Project, first_release: First
) -> None:
    plugin = line.folder / "mine.py"
    plugin.write_text('def mine(outputs):\n    return outputs\n\n\nDECODERS = {"mine": mine}\n')
    released(policy(line), plugins=[plugin], out=line.folder / "b")
    refused(ReleaseError, first_release[0] / "first", line.folder / "b", "other plugins")
