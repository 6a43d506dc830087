"""Releases that INT8 is held against: end to end, on a real store, with every way to lose one."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from support.line import ANCHOR, MODEL, PRODUCTION, policy, promoted, released
from support.onnx_models import widened
from support.project import CNN, WIDE_RANGE, Project

from gate import errors, trackers
from gate.cli import exit_code_of
from gate.commands.judge import judge
from gate.commands.promote import promote
from gate.records import GateRecord
from gate.registered import Version, registered_name
from gate.release import as_shipped
from gate.sources import Preprocess


def code(line: Project, candidate: Path = CNN, *arguments: str) -> int:
    return exit_code_of(["run", str(line.policy), "--candidate", str(candidate), *arguments])


# ── the first one ─────────────────────────────────────────────────────────────────────────


def test_a_first_release_says_so_and_what_was_not_judged(
    first_release: tuple[Path, GateRecord],
) -> None:
    _, record = first_release
    assert record.bootstrap
    assert record.releases == ()
    first, second = record.verdict.findings
    assert (first.outcome, record.verdict.outcome) == ("pass", "pass")
    assert (second.outcome, second.comparison, second.blocking) == ("inconclusive", None, False)
    assert "--bootstrap" in second.reason
    assert judge(first_release[0] / "first").verdict == record.verdict


def test_without_production_nothing_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert code(policy(Project(tmp_path), PRODUCTION)) == 4
    said = capfd.readouterr().err
    assert "no version with the alias 'production'" in said
    assert "--bootstrap" in said


def test_a_first_release_is_no_such_once_one_has_passed(
    line: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert code(policy(line, PRODUCTION), CNN, "--bootstrap") == 2
    assert f"models:/{MODEL}-int8/1 is in production: leave it out" in capfd.readouterr().err


@pytest.mark.parametrize("outcome", ["pass", "waived"])
def test_what_got_through_ends_the_first_releases_though_nothing_serves(
    line: Project, capfd: pytest.CaptureFixture[str], outcome: str
) -> None:
    """A waiver is no way to have every budget against production left out again and again."""
    client = MlflowClient()
    client.delete_registered_model_alias(f"{MODEL}-int8", "production")
    client.set_model_version_tag(f"{MODEL}-int8", "1", "outcome", outcome)
    assert code(policy(line, PRODUCTION), CNN, "--bootstrap") == 2
    said = capfd.readouterr().err
    assert f"models:/{MODEL}-int8/1 has passed or was waived: leave it out" in said


def test_what_needs_a_memory_is_refused_without_one(
    line: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert code(policy(line, PRODUCTION), CNN, "--tracker", "none") == 2
    assert "--tracker mlflow" in capfd.readouterr().err
    assert code(policy(line), CNN, "--tracker", "none", "--bootstrap") == 2


def test_an_anchor_of_another_model_is_there_before_the_first_release(line: Project) -> None:
    line.spec["model"] = "digits-two"
    budgets = [{"metric": "accuracy", "max_drop": 0.5}, ANCHOR, PRODUCTION]
    line.spec["judge"] |= {"budgets": budgets, "anchor": f"models:/{MODEL}-int8/1"}
    line.write()
    record = released(line, WIDE_RANGE, bootstrap=True, out=line.folder / "out")
    assert [release.uri for release in record.releases] == [f"models:/{MODEL}-int8/1"]
    own, anchor, production = record.verdict.findings
    assert (own.outcome, anchor.outcome, record.verdict.outcome) == ("pass", "fail", "fail")
    assert (production.comparison, production.blocking) == (None, False)
    assert judge(line.folder / "out").verdict == record.verdict


# ── held against ──────────────────────────────────────────────────────────────────────────


def test_stored_rows_pair_two_releases_without_running_the_first(
    line: Project, first_release: tuple[Path, GateRecord]
) -> None:
    policy(line, PRODUCTION, ANCHOR, anchor=f"models:/{MODEL}-int8/1")
    record = released(line, WIDE_RANGE, out=line.folder / "out")
    production, anchor = record.releases
    assert (production.against, anchor.against) == ("production", "anchor")
    assert production.rows == anchor.rows == "stored"
    assert production.record == first_release[1].id
    assert "production" not in record.durations
    own, against, cumulative = (finding.comparison for finding in record.verdict.findings)
    assert own is not None
    assert against is not None
    assert cumulative is not None
    # what INT8 has is the same, what it is held against is the INT8 of version 1
    assert own.int8 == against.int8 == cumulative.int8
    assert against.reference == first_release[1].verdict.findings[0].comparison.int8  # type: ignore[union-attr]
    assert [finding.outcome for finding in record.verdict.findings] == ["fail"] * 3
    assert judge(line.folder / "out").verdict == record.verdict


def test_the_same_release_again_loses_nothing(line: Project) -> None:
    record = released(policy(line, PRODUCTION))
    against = record.verdict.findings[1].comparison
    assert record.verdict.outcome == "pass"
    assert against is not None
    assert against.degradation == 0.0
    assert against.counts is not None
    assert (against.counts.lost, against.counts.gained) == (0, 0)


def test_examples_that_were_deleted_leave_the_rest_paired(line: Project) -> None:
    line.change(
        "held_out",
        lambda columns: columns.update({k: v[7:] for k, v in columns.items()}),
    )
    record = released(policy(line, PRODUCTION))
    assert record.releases[0].rows == "stored, by content"
    assert record.verdict.findings[1].comparison is not None
    assert record.verdict.findings[1].comparison.n == 993


def test_an_example_that_was_changed_is_none_that_was_deleted(line: Project) -> None:
    def spoil(columns: dict[str, Any]) -> None:
        columns["image"] = columns["image"][1:].copy()
        columns["image"][0] *= 0.5
        columns.update({k: columns[k][1:] for k in columns if k != "image"})

    line.change("held_out", spoil)
    assert released(policy(line, PRODUCTION)).releases[0].rows == "evaluated"


def test_another_target_is_another_example(line: Project) -> None:
    def spoil(columns: dict[str, Any]) -> None:
        columns.update({k: v[1:].copy() for k, v in columns.items()})
        columns["target"][0] = (columns["target"][0] + 1) % 10

    line.change("held_out", spoil)
    assert released(policy(line, PRODUCTION)).releases[0].rows == "evaluated"


def test_on_another_set_the_model_of_the_release_is_run(
    line: Project, first_release: tuple[Path, GateRecord]
) -> None:
    def renamed(columns: dict[str, Any]) -> None:
        columns["id"] = np.array([f"new-{i}" for i in range(len(columns["target"]))])

    line.change("held_out", renamed)
    record = released(policy(line, PRODUCTION), WIDE_RANGE)
    assert record.releases[0].rows == "evaluated"
    assert "production" in record.durations
    against = record.verdict.findings[1].comparison
    assert against is not None
    # the same examples under other names: run again it gives what it gave
    assert against.reference == first_release[1].verdict.findings[0].comparison.int8  # type: ignore[union-attr]


def test_rows_that_are_gone_are_made_again(line: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = trackers.get("mlflow")
    monkeypatch.setattr(type(tracker), "fetch", lambda *_: None)
    assert released(policy(line, PRODUCTION)).releases[0].rows == "evaluated"


def test_the_size_of_a_release_needs_no_labels(line: Project) -> None:
    size = {"metric": "size", "max_ratio": 1.1, "against": "production"}
    flips = {"metric": "prediction_flips", "at_most": 0.05}
    line.change("held_out", lambda columns: columns.pop("target"))
    line.spec["judge"] |= {"expect_fp32": "unknown", "budgets": [flips, size]}
    line.write()
    record = released(line, out=line.folder / "out")
    assert [finding.outcome for finding in record.verdict.findings] == ["pass", "pass"]
    assert judge(line.folder / "out").verdict == record.verdict


def test_a_record_that_lost_its_releases_was_edited(line: Project) -> None:
    size = {"metric": "size", "max_ratio": 1.1, "against": "production"}
    released(policy(line, size), out=line.folder / "out")
    file = line.folder / "out" / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"releases": []}))
    with pytest.raises(errors.RecordError, match="was changed"):
        judge(line.folder / "out")


def test_a_policy_of_another_anchor_is_not_judged_by_the_rows_of_this_one(line: Project) -> None:
    worse = line.budget(metric="accuracy", max_drop=0.5)
    assert released(line, WIDE_RANGE).verdict.outcome == "pass"
    line.spec["judge"] |= {"budgets": [ANCHOR], "anchor": f"models:/{MODEL}-int8/2"}
    line.write()
    assert released(line, WIDE_RANGE, out=line.folder / "out").verdict.outcome == "pass"
    line.spec["judge"]["anchor"] = f"models:/{MODEL}-int8/1"
    line.write()
    with pytest.raises(errors.UsageError, match=f"budget against anchor models:/{MODEL}-int8/1,"):
        judge(line.folder / "out", str(worse))


def test_a_first_release_is_not_excused_from_the_anchor_of_another_model(
    line: Project, first_release: tuple[Path, GateRecord]
) -> None:
    policy(line, ANCHOR, anchor=f"models:/{MODEL}-int8/1")
    assert judge(first_release[0] / "first", str(line.policy)).verdict.outcome == "pass"
    policy(line, ANCHOR, anchor="models:/other-int8/1")
    with pytest.raises(errors.UsageError, match="budget against anchor models:/other-int8/1"):
        judge(first_release[0] / "first", str(line.policy))


def test_a_judged_policy_against_what_was_not_held_against_is_refused(line: Project) -> None:
    released(policy(line), out=line.folder / "out")
    policy(line, PRODUCTION)
    with pytest.raises(errors.UsageError, match="budget against production"):
        judge(line.folder / "out", str(line.policy))


def test_early_stopping_and_releases_do_not_go_together(line: Project) -> None:
    policy(line, PRODUCTION, stopping="early")
    with pytest.raises(errors.PolicyError, match="stopping: full"):
        released(line)


# ── what can be wrong with one ────────────────────────────────────────────────────────────


def version_one() -> tuple[Any, Version]:
    registry = trackers.get("mlflow").registry
    assert registry is not None
    found = registry.find(registered_name(MODEL), version="1")
    assert found is not None
    return registry, found


def test_an_anchor_that_was_deleted_is_an_error(
    line: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    policy(line, ANCHOR, anchor=f"models:/{MODEL}-int8/9")
    assert code(line) == 4
    assert f"models:/{MODEL}-int8/9 is not in the registry" in capfd.readouterr().err


def test_a_release_that_did_not_pass_is_nothing_to_be_held_against(
    line: Project, first_release: tuple[Path, GateRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = released(policy(line), WIDE_RANGE)
    promoted("2", bad, previous="1")
    assert code(policy(line, PRODUCTION)) == 4
    said = capfd.readouterr().err
    assert "no release that passed" in said
    assert "gate rollback" in said


def test_a_version_that_says_something_else_than_its_record_is_an_error(
    line: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    registry, version = version_one()
    registry.tag(version, {"int8_sha256": "0" * 64})
    assert code(policy(line, PRODUCTION)) == 4
    assert "one of them was changed" in capfd.readouterr().err


def _tampered(name: str) -> Callable[..., Any]:
    tracker = trackers.get("mlflow")
    fetch = type(tracker).fetch

    def tampering(self: Any, run: str, wanted: str, folder: Path) -> Path | None:
        path = fetch(self, run, wanted, folder)
        if path is not None and wanted == name:
            path.write_bytes(path.read_bytes() + b"\0")
        return path

    return tampering


def test_rows_that_were_changed_in_the_store_are_an_error(
    line: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(type(trackers.get("mlflow")), "fetch", _tampered("rows.npz"))
    assert code(policy(line, PRODUCTION)) == 4
    assert "is not what was written for" in capfd.readouterr().err


def test_a_model_that_was_changed_in_the_store_is_not_run(
    line: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    registry, _ = version_one()
    fetch = type(registry).fetch

    def tampering(self: Any, version: Version, folder: Path) -> Path:
        path: Path = fetch(self, version, folder)
        path.write_bytes(path.read_bytes() + b"\0")
        return path

    monkeypatch.setattr(type(registry), "fetch", tampering)
    monkeypatch.setattr(type(trackers.get("mlflow")), "fetch", lambda *_: None)
    assert code(policy(line, PRODUCTION)) == 4
    assert "is not the one that was judged" in capfd.readouterr().err


def test_a_release_of_other_classes_is_an_error(
    line: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"digit {index}" for index in range(10)]
    line.spec["build"]["classes"] = names
    first = released(policy(line))
    promoted("2", first, previous="1")
    line.spec["build"]["classes"] = names[::-1]
    assert code(policy(line, PRODUCTION)) == 4
    assert "classes are not this policy's" in capfd.readouterr().err


@pytest.mark.parametrize("deleted", [0, 7])
def test_a_release_of_more_outputs_is_an_error(
    line: Project, capfd: pytest.CaptureFixture[str], deleted: int
) -> None:
    line.spec["model"] = "eleven"
    policy(line)
    more = widened(CNN, line.folder / "more.onnx", bias=0.5)  # which it predicts at times
    line.spec["judge"]["expect_fp32"] = "unknown"
    assert released(policy(line), more).verdict.outcome == "pass"
    line.change(
        "held_out", lambda columns: columns.update({k: v[deleted:] for k, v in columns.items()})
    )
    policy(line, ANCHOR, anchor="models:/eleven-int8/1")
    line.spec["model"] = MODEL
    line.write()
    assert code(line) == 4
    assert "it had other classes" in capfd.readouterr().err


def test_what_keeps_a_release_from_being_run_again_is_said_of_it(
    line: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    columns = line.data("held_out")
    given = dict.fromkeys(("artifact_sha256", "runtime", "device"))
    for number, name in enumerate(("f", "q")):
        logits = np.eye(10, dtype=np.float32)[columns["target"]] * 5
        told = {key: np.array([str(number) * 64] * len(logits)) for key in given}
        line.save(name, id=columns["id"], logits=logits, **told)
    line.save("held_out", id=columns["id"], target=columns["target"])  # no pictures to run it on
    line.spec["judge"]["expect_fp32"] = "unknown"
    policy(line, PRODUCTION)
    outputs = ["--fp32-outputs", "f.npz", "--int8-outputs", "q.npz"]
    assert exit_code_of(["run", str(line.policy), *outputs]) == 4
    said = capfd.readouterr().err
    assert f"production (models:/{MODEL}-int8/1) has to be run on these examples" in said
    assert "no column 'image'" in said


def _keeps(text: str | None) -> Any:
    return _Keeps(text)


class _Keeps:
    """A tracker that keeps one file, of that text."""

    key, registry = "fake", None

    def __init__(self, text: str | None) -> None:
        self.text = text

    def fetch(self, _: str, name: str, folder: Path) -> Path | None:
        if self.text is None:
            return None
        (folder / name).write_text(self.text)
        return folder / name


def test_a_release_is_run_with_the_tokenizer_that_its_candidate_brought(
    make_record: Callable[..., GateRecord], tmp_path: Path
) -> None:
    version = Version("r-int8", "1", datetime.now(UTC), "run", "")
    record = make_record()
    assert as_shipped(_keeps(None), version, record, tmp_path / "a") is record
    reads = Preprocess.model_validate({"tokenizer": {"max_length": 8, "sha256": "0" * 64}})
    build = record.policy.build.model_copy(update={"preprocess": reads})
    bringing = record.model_copy(
        update={"policy": record.policy.model_copy(update={"build": build})}
    )
    with pytest.raises(errors.ReleaseError, match=r"tokenizer\.json of run run"):
        as_shipped(_keeps(None), version, bringing, tmp_path / "b")
    shipped = as_shipped(_keeps("{}"), version, bringing, tmp_path / "c")
    read = shipped.policy.build.preprocess
    assert read is not None
    assert read.tokenizer is not None
    assert read.tokenizer.own == tmp_path / "c" / "tokenizer.json"
    assert read.tokenizer.sha256 == "0" * 64  # the pin stays, so that another file is refused


def test_a_dead_tracker_stops_before_the_work_where_releases_are_needed(
    line: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    policy(line, PRODUCTION)
    with pytest.raises(errors.TrackerError):
        released(line, out=line.folder / "out")
    assert not (line.folder / "out" / "record.json").exists()


def test_reports_say_what_it_was_held_against(line: Project) -> None:
    released(policy(line, PRODUCTION), out=line.folder / "out")
    for name in ("report.md", "report.txt"):
        file = line.folder / "out" / name
        if file.exists():
            said = file.read_text()
            assert f"models:/{MODEL}-int8/1" in said
            assert "Reference" in said
    record = json.loads((line.folder / "out" / "record.json").read_text())
    assert record["comparisons"][1]["against"] == "production"


# ── waived ────────────────────────────────────────────────────────────────────────────────


def test_a_waived_release_is_promoted_only_when_that_is_said(
    line: Project, first_release: tuple[Path, GateRecord], capfd: pytest.CaptureFixture[str]
) -> None:
    waiver = {
        "model": MODEL,
        "budget": "accuracy.max_drop",
        "reason": "the camera goes",
        "who": "ann",
        "expires": str(datetime.now(UTC).date() + timedelta(days=9)),
    }
    (line.folder / "waivers.yaml").write_text(yaml.safe_dump({"version": 1, "waivers": [waiver]}))
    record = released(policy(line), WIDE_RANGE, out=line.folder / "out")
    assert record.verdict.outcome == "waived"
    assert exit_code_of(["promote", "out"]) == 1
    assert "--waived" in capfd.readouterr().err
    later = datetime.now(UTC) + timedelta(days=11)
    expired = promote(Path("out"), trackers.get("mlflow"), waived=True, now=later)
    assert [reason.code for reason in expired.reasons] == [2]
    assert "the waiver of accuracy.max_drop has expired" in expired.reasons[0].text
    assert exit_code_of(["promote", "out", "--waived"]) == 0
    assert exit_code_of(["audit", MODEL]) == 1
    assert "WAIVED" in capfd.readouterr().out
    # it serves, so it is what the next one is held against; but it is no anchor
    assert code(policy(line, PRODUCTION)) == 0
    assert code(policy(line, ANCHOR, anchor=f"models:/{MODEL}-int8/2")) == 4
