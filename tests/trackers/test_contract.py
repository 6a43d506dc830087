"""What every registered tracker does."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.linked import linked
from trackers import stores
from trackers.releases import NAME, a_move

from gate import artifact, trackers
from gate.errors import TrackerError, UsageError
from gate.recipes import RECIPES
from gate.records import GateRecord
from gate.registered import Bridge
from gate.trackers import PastRun, Registry, Tracker
from gate.trials import Trial

Keep = Callable[..., tuple[GateRecord, Path]]


OUTSIDE = "outside"
OTHERS = sorted({*trackers.TRACKERS} - {"mlflow"})


SLOW = {"PostgreSQL": pytest.mark.slow}  # in `make test` it bears the crowd, and a whole release
KINDS = [pytest.param(kind, marks=SLOW.get(kind, ())) for kind in stores.KINDS]


@pytest.fixture(params=[*OTHERS, *KINDS, OUTSIDE])
def tracker(
    request: pytest.FixtureRequest, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tracker]:
    """Every tracker; MLflow's on each kind of store, and asked from where no network is."""
    if request.param in stores.KINDS:
        stores.use(request.param, request, monkeypatch)
    with linked() if request.param == OUTSIDE else nullcontext():
        found = trackers.get(request.param if request.param in OTHERS else "mlflow")
        found.prepare()
        yield found


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


def test_an_attempt_of_before_is_counted_where_it_was(tracker: Tracker) -> None:
    now = datetime.now(UTC)
    if tracker.reserve("m", held_out="a" * 64, key="now") is None:
        return
    for key, ago, expected in (("b", 2, ["b"]), ("a", 3, ["a"]), ("c", 1, ["a", "b", "c"])):
        when = now - timedelta(hours=ago)
        found = tracker.reserve("m", held_out="a" * 64, key=key, when=when)
        assert found is not None
        assert [attempt.key for attempt in found] == expected
    assert [attempt.key for attempt in tracker.attempts("m")] == ["a", "b", "c", "now"]


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


# ── files and releases ────────────────────────────────────────────────────────────────────


def test_a_file_comes_back_as_it_was_kept(tracker: Tracker, kept: Keep, tmp_path: Path) -> None:
    record, folder = kept()
    run = tracker.log(record, folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    if not tracker.past(record.model):
        assert tracker.fetch(run, "rows.npz", copy) is None
        return
    found = tracker.fetch(run, "rows.npz", copy)
    assert found is not None
    assert found.parent == copy
    assert found.read_bytes() == (folder / "rows.npz").read_bytes()
    found.write_bytes(b"changed")  # a copy, and not what the store keeps
    again = tracker.fetch(run, "rows.npz", copy)
    assert again is not None
    assert again.read_bytes() == (folder / "rows.npz").read_bytes()
    for gone in ((run, "nothing.npz"), ("0" * 32, "rows.npz"), (run, "../rows.npz")):
        assert tracker.fetch(*gone, copy) is None


@pytest.fixture
def registry(tracker: Tracker) -> Registry:
    if tracker.registry is None:
        pytest.skip("registers no releases")
    return tracker.registry


def test_a_release_is_a_version_with_its_bytes(
    tracker: Tracker, registry: Registry, kept: Keep, tmp_path: Path
) -> None:
    records = [kept(number, stage="release", external=number == 1) for number in range(2)]
    runs = [tracker.log(*one) for one in records]
    tracker.log(*kept(5))  # a pull request releases nothing
    versions = list(registry.versions(NAME))
    assert [version.number for version in versions] == [1, 2]
    assert [version.run for version in versions] == runs
    for version, (record, _) in zip(versions, records, strict=True):
        told = {"record": record.id, "int8_sha256": record.int8.sha256, "outcome": "pass"}
        assert told.items() <= version.tags.items()
        assert version.aliases == ()
        folder = tmp_path / f"fetched {version.version}"
        folder.mkdir()
        model = registry.fetch(version, folder)
        assert artifact.sha256_of(*artifact.files(model)) == record.int8.sha256
        assert {*folder.iterdir()} == {*artifact.files(model)}
        assert registry.find(NAME, version=version.version) == version


def test_what_is_not_registered_is_none(registry: Registry) -> None:
    assert list(registry.versions(NAME)) == list(registry.moves("digits-cnn")) == []
    assert list(registry.bridges("digits-cnn")) == []
    assert registry.find(NAME, alias="production") is None
    assert registry.find(NAME, version="1") is None


def test_an_alias_moves_and_it_is_written_down(
    tracker: Tracker, registry: Registry, kept: Keep
) -> None:
    records = [kept(number, stage="release") for number in range(2)]
    for one in records:
        tracker.log(*one)
    assert registry.find(NAME, alias="production") is None
    first = a_move(records[0][0], "1", None)
    second = a_move(records[1][0], "2", "1")
    back = a_move(records[0][0], "1", "2", kind="rollback")
    for move in (first, second, back):
        registry.move(move)
        found = registry.find(NAME, alias="production")
        assert found is not None
        assert (found.version, found.aliases) == (move.version, ("production",))
        assert "by ada" in found.tags["promoted.production"]
    assert list(registry.moves("digits-cnn")) == [first, second, back]
    assert [version.aliases for version in registry.versions(NAME)] == [("production",), ()]
    registry.move(back)  # the same again changes nothing
    assert len(registry.moves("digits-cnn")) == 3
    assert len(tracker.past("digits-cnn")) == 2  # a move is no run of the gate
    assert tracker.log(*records[0]) == registry.versions(NAME)[0].run


def test_an_alias_that_somebody_moved_stays(
    tracker: Tracker, registry: Registry, kept: Keep
) -> None:
    records = [kept(number, stage="release") for number in range(3)]
    for one in records:
        tracker.log(*one)
    registry.move(a_move(records[0][0], "1", None))
    for previous, message in (("2", "version 1, and not version 2"), (None, "version 1, and not")):
        with pytest.raises(TrackerError, match=message):
            registry.move(a_move(records[2][0], "3", previous))
    with pytest.raises(TrackerError, match="version 9 of digits-cnn-int8 is gone"):
        registry.move(a_move(records[2][0], "9", "1"))
    found = registry.find(NAME, alias="production")
    assert found is not None
    assert found.version == "1"
    assert len(registry.moves("digits-cnn")) == 1


def test_a_tag_comes_back_without_its_prefix(
    tracker: Tracker, registry: Registry, kept: Keep
) -> None:
    tracker.log(*kept(stage="release"))
    registry.tag(registry.versions(NAME)[0], {"rolled_back": "yes", "note": "ü"})
    assert {"rolled_back": "yes", "note": "ü"}.items() <= registry.versions(NAME)[0].tags.items()


def test_a_bridge_is_kept_once_with_its_rows(
    tracker: Tracker, registry: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "bridge"
    folder.mkdir()
    (folder / "rows.1.npz").write_bytes(b"rows")
    bridges = [a_bridge(number, folder) for number in range(2)]
    runs = [registry.keep_bridge(bridge, folder) for bridge in bridges]
    assert registry.keep_bridge(bridges[0], folder) == runs[0]
    assert list(registry.bridges("digits-cnn")) == [(runs[1], bridges[1]), (runs[0], bridges[0])]
    assert list(registry.bridges("another")) == []
    found = tracker.fetch(runs[0], "rows.1.npz", tmp_path)
    assert found is not None
    assert found.read_bytes() == b"rows"
    assert list(tracker.past("digits-cnn")) == []  # a bridge is no run of the gate
    (folder / "rows.1.npz").write_bytes(b"others")
    with pytest.raises(TrackerError, match="not the rows of the bridge"):
        registry.keep_bridge(bridges[1], folder)


def a_bridge(number: int, folder: Path) -> Bridge:
    rows = {"rows": "rows.1.npz", "rows_sha256": artifact.sha256_of(folder / "rows.1.npz")}
    values = {"before": {"accuracy": 0.95}, "after": {"accuracy": 0.94}}
    release = {"version": "1", "record": "r", "int8_sha256": "s", "roles": ("anchor",)}
    created = datetime(2026, 4, 1 + number, tzinfo=UTC)
    told = {"id": f"{created:%Y%m%d}-b", "created": created, "model": "digits-cnn"}
    sets = {"before": "a" * 64, "after": "b" * 64}
    return Bridge.model_validate({**told, **sets, "releases": [{**release, **values, **rows}]})
