"""What backs a version, each part by itself: its run, its record, its artifact."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from support import registry as support
from support.registry import MODEL, MemoryTracker

from gate.commands._promote_backing import (
    Backing,
    backing,
    demand_known,
    differing,
    kept_faults,
    outcome_reasons,
    registry_of,
    run_of,
    sent_faults,
    stored_record,
)
from gate.commands.report import load_record
from gate.errors import RecordError, UsageError
from gate.records import GateRecord
from gate.trackers import get


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.made(tmp_path_factory.mktemp("backing") / "project").folder / "run"


@pytest.fixture
def tracker(once: Path) -> MemoryTracker:
    """One release that passed."""
    made = MemoryTracker()
    made.log(load_record(once), once)
    return made


def found(tracker: MemoryTracker) -> Backing:
    return backing(tracker, tracker.runs, tracker.registry.known[0])


def keep(tracker: MemoryTracker, text: str) -> None:
    """Put another record in the place of the one that was sent, and say that it was sent."""
    tracker.records["run1"] = text
    tags = {**tracker.runs[0].tags, "record_sha256": sha256(text.encode()).hexdigest()}
    tracker.runs[0] = replace(tracker.runs[0], tags=tags)


def edited(tracker: MemoryTracker, **verdict: Any) -> str:
    record = json.loads(tracker.records["run1"])
    record["verdict"] |= verdict
    return GateRecord.model_validate(record).model_dump_json()


def test_a_release_that_passed_is_backed(tracker: MemoryTracker, once: Path) -> None:
    assert found(tracker) == Backing(tracker.registry.known[0], load_record(once), ())
    assert found(tracker).holds


def test_a_version_that_no_gate_registered_is_not(tracker: MemoryTracker) -> None:
    stranger = replace(tracker.registry.known[0], tags={})
    assert backing(tracker, tracker.runs, stranger).faults == (
        "no gate registered it: it names no record",
    )


def test_of_an_incomplete_run_nothing_else_is_held_against_it(tracker: MemoryTracker) -> None:
    """Its record may not be sent yet, so its digest says nothing, nor does its outcome."""
    tags = {**tracker.runs[0].tags, "record_sha256": ""}
    tracker.runs[0] = replace(tracker.runs[0], outcome="incomplete", tags=tags)
    told = "run run1 is incomplete: complete it with `gate report --track RECORD`"
    assert found(tracker).faults == (told,)
    assert [*sent_faults(tracker, tracker.runs[0])] == []


def test_a_run_that_says_another_outcome_is_told(tracker: MemoryTracker) -> None:
    tracker.runs[0] = replace(tracker.runs[0], outcome="fail")
    assert found(tracker).faults == ("its run says fail, and its record pass",)


def test_a_record_that_was_sent_otherwise_is_told(tracker: MemoryTracker) -> None:
    told = "record.json of run run1 in the tracker was changed after it was sent"
    tracker.records["run1"] += " "
    assert [*sent_faults(tracker, tracker.runs[0])] == [told]
    assert found(tracker).faults == (told,)


def test_a_verdict_that_its_numbers_do_not_give_is_no_record(tracker: MemoryTracker) -> None:
    """However well its digest was edited along with it."""
    keep(tracker, edited(tracker, outcome="inconclusive"))
    with pytest.raises(RecordError, match="was changed after it was written"):
        stored_record(tracker, tracker.runs[0])
    (fault,) = found(tracker).faults
    assert "was changed after it was written" in fault


def test_a_record_that_is_gone_is_told_with_its_run(tracker: MemoryTracker, once: Path) -> None:
    del tracker.records["run1"]
    with pytest.raises(RecordError, match=r"record\.json of run run1 is gone from the tracker"):
        stored_record(tracker, tracker.runs[0])
    (told,) = kept_faults(tracker, tracker.runs[0], load_record(once))
    assert told.startswith("the record of run run1 is gone from the tracker: gate it again")


def test_a_record_of_another_schema_is_none(tracker: MemoryTracker, once: Path) -> None:
    tracker.records["run1"] = json.dumps({"schema_version": 1})
    with pytest.raises(RecordError, match=r"does not fit the record's schema \(\d+ faults\)"):
        stored_record(tracker, tracker.runs[0])
    (told,) = kept_faults(tracker, tracker.runs[0], load_record(once))
    assert told.startswith("the record that run run1 keeps cannot be read (")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("said", "shown"), [(None, "nothing"), ("abc", "abc"), ("ef" * 32, "efefefefefef…")]
)
def test_a_version_that_names_another_artifact_is_told(
    tracker: MemoryTracker, once: Path, said: str | None, shown: str
) -> None:
    (version,), record = tracker.registry.known, load_record(once)
    tags = {"record": record.id} if said is None else {"record": record.id, "int8_sha256": said}
    other = replace(version, tags=tags)
    assert backing(tracker, tracker.runs, other).faults == (
        f"version 1 of digits-cnn-int8 says int8_sha256 {shown}, and the record "
        f"{record.int8.sha256[:12]}…: it is another release, perhaps of another store; look at "
        "MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI",
    )


def test_a_version_that_another_run_made_is_told(tracker: MemoryTracker) -> None:
    other = replace(tracker.registry.known[0], run="run7")
    assert backing(tracker, tracker.runs, other).faults == (
        "version 1 of digits-cnn-int8 was made by run run7, and the record is kept as run run1: "
        "it is another store's release",
    )
    unknown = replace(other, run="")
    assert backing(tracker, tracker.runs, unknown).holds


def test_an_artifact_that_changed_is_told(tracker: MemoryTracker, tmp_path: Path) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(b"other")
    tracker.registry.files["1"] = other
    (told,) = found(tracker).faults
    assert told.startswith("the artifact of models:/digits-cnn-int8/1 changed: its sha256 is ")
    other.unlink()
    (told,) = found(tracker).faults
    assert told.startswith("the artifact of models:/digits-cnn-int8/1 cannot be fetched: ")


def test_a_complete_run_is_preferred(tracker: MemoryTracker) -> None:
    (mine,) = tracker.runs
    cut = replace(mine, run="run0", outcome="incomplete")
    record = mine.tags["record"]
    assert run_of([cut, mine], record) == mine
    assert run_of([mine, cut], record) == mine
    assert run_of([cut], record) == cut
    assert run_of([mine], "other") is None


def test_a_model_without_runs_is_told_with_those_that_have(tracker: MemoryTracker) -> None:
    demand_known(tracker, MODEL)
    with pytest.raises(UsageError) as known:
        demand_known(tracker, "other")
    assert str(known.value) == "no run of 'other' is kept. Known: digits-cnn (looked in: memory)"
    with pytest.raises(UsageError) as none:
        demand_known(MemoryTracker(), "other")
    assert str(none.value) == "no run of 'other' is kept. No model has runs yet (looked in: memory)"


def test_a_registry_is_one_of_a_tracker_that_has_one(tracker: MemoryTracker) -> None:
    assert registry_of(tracker) is tracker.registry
    with pytest.raises(UsageError, match="--tracker none registers no releases"):
        registry_of(get("none"))


@pytest.mark.parametrize(
    ("outcome", "waived", "codes"),
    [
        ("pass", False, []),
        ("waived", True, []),
        ("waived", False, [1]),
        ("fail", True, [1]),
        ("inconclusive", True, [3]),
    ],
)
def test_a_pass_is_released_and_what_was_waived_where_that_is_said(
    once: Path, outcome: str, waived: bool, codes: list[int]
) -> None:
    record = load_record(once)
    verdict = record.verdict.model_copy(update={"outcome": outcome})
    record = record.model_copy(update={"verdict": verdict})
    assert [reason.code for reason in outcome_reasons(record, waived=waived)] == codes


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"a": 2, "b": {"c": 1, "d": 3}}, ["a", "b.d"]),
        ({"b": {}}, {"a": 1, "b": {"c": 1}}, ["b.c", "a"]),
        ({"a": {"b": 1}}, {"a": [1]}, ["a"]),
        ({"a": [1]}, {"a": {"b": 1}}, ["a"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ([1], [1], []),
    ],
)
def test_what_differs_is_named(one: Any, other: Any, names: list[str]) -> None:
    assert [*differing(one, other)] == names
