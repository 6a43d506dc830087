"""What every registered tracker does."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gate import trackers
from gate.errors import UsageError
from gate.recipes import RECIPES
from gate.records import GateRecord
from gate.trackers import PastRun, Tracker
from gate.trials import Trial

Keep = Callable[..., tuple[GateRecord, Path]]


@pytest.fixture(params=sorted(trackers.TRACKERS))
def tracker(request: pytest.FixtureRequest, workplace: Path) -> Tracker:
    found = trackers.get(request.param)
    found.prepare()
    return found


def test_its_key_is_its_name(tracker: Tracker) -> None:
    assert trackers.get(tracker.key) is tracker
    assert tracker.where()


def test_an_unknown_key_lists_the_known() -> None:
    with pytest.raises(UsageError, match="did you mean 'mlflow'"):
        trackers.get("mlfow")


def test_it_can_be_prepared_again(tracker: Tracker) -> None:
    tracker.prepare()


def test_a_record_is_kept_once(tracker: Tracker, kept: Keep) -> None:
    record, folder = kept()
    files = {path: path.read_bytes() for path in folder.iterdir()}
    run = tracker.log(record, folder)
    assert tracker.log(record, folder) == run
    assert len(tracker.past(record.model)) <= 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == files


def test_what_it_remembers_is_the_record(tracker: Tracker, kept: Keep) -> None:
    record, folder = kept(outcome="inconclusive")
    run = tracker.log(record, folder)
    for past in tracker.past(record.model):
        assert isinstance(past, PastRun)
        assert (past.run, past.when, past.stage) == (run, record.created, "pr")
        assert (past.outcome, past.candidate) == ("inconclusive", record.candidate.sha256)
        assert past.metrics["accuracy.max_drop/drop"] == 0.002
        assert GateRecord.model_validate(tracker.record(past.run)) == record
        assert list(tracker.models()) == [record.model]


def test_runs_come_newest_first_and_errors_are_runs(tracker: Tracker, kept: Keep) -> None:
    for number in (2, 1, 3):
        tracker.log(*kept(number))
    tracker.log_error("digits-cnn", stage="release", source="x.onnx", error="why")
    runs = list(tracker.past("digits-cnn"))
    assert runs == sorted(runs, key=lambda run: run.when, reverse=True)
    assert [run.outcome for run in runs] in ([], ["error", "pass", "pass", "pass"])


def test_what_it_does_not_know_is_empty_or_none(tracker: Tracker) -> None:
    assert list(tracker.past("nobody")) == []
    assert tracker.record("0" * 32) is None
    assert list(tracker.models()) == []


def test_attempts_are_counted_before_they_are_made_or_not_at_all(
    tracker: Tracker, kept: Keep
) -> None:
    first = tracker.reserve("digits-cnn", held_out="a" * 64, key="one")
    tracker.reserve("digits-cnn", held_out="b" * 64, key="other set")
    second = tracker.reserve("digits-cnn", held_out="a" * 64, key="two")
    if first is None:
        assert second is None
        return
    assert [attempt.key for attempt in first] == ["one"]
    assert second is not None
    assert [attempt.key for attempt in second] == ["one", "two"]
    assert {attempt.outcome for attempt in second} == {None}
    assert list(tracker.past("digits-cnn")) == []  # a reservation is no run of the gate


def test_a_pass_is_among_the_attempts(tracker: Tracker, kept: Keep) -> None:
    record, folder = kept(stage="release")
    held_out = "c" * 64
    split = record.splits.held_out.model_copy(update={"population": held_out})
    changes = {"ledger": "tracker", "attempt": 1, "attempt_key": "one"}
    splits = record.splits.model_copy(update={"held_out": split})
    record = record.model_copy(update={**changes, "splits": splits})
    if tracker.reserve(record.model, held_out=held_out, key="one") is None:
        return
    tracker.log(record, folder)
    found = tracker.reserve(record.model, held_out=held_out, key="two")
    assert found is not None
    assert sorted(str(attempt.outcome) for attempt in found) == ["None", "None", "pass"]
    assert [a.demands for a in found if a.outcome == "pass"] == [record.policy.demands]


def test_trials_are_no_runs_of_the_gate(tracker: Tracker) -> None:
    for number, outcome in enumerate(("misses", "failed", "meets"), start=1):
        tracker.log_trial("m", search="one", trial=trial(number, outcome))
    tracker.log_trial("m", search="two", trial=trial(1, "misses"))
    assert list(tracker.past("m")) == []


def trial(number: int, outcome: str) -> Trial:
    return Trial.model_validate(
        {
            "number": number,
            "recipe": RECIPES["static"],
            "move": "the policy's own recipe",
            "outcome": outcome,
            "int8_share": None if outcome == "failed" else 0.9,
            "error": "broken" if outcome == "failed" else None,
            "estimates": ({"budget": "accuracy.max_drop", "value": 0.1, "beyond": 0.09},),
        }
    )


def test_attempts_are_those_on_the_newest_set(tracker: Tracker) -> None:
    assert list(tracker.attempts("digits-cnn")) == []
    for held_out, key in (("a", "one"), ("b", "two"), ("a", "three"), ("b", "four")):
        if tracker.reserve("digits-cnn", held_out=held_out * 64, key=key) is None:
            return
    assert [attempt.key for attempt in tracker.attempts("digits-cnn")] == ["two", "four"]
