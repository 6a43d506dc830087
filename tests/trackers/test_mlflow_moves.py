"""Moves of an alias in MLflow beyond the contract: cuts, claims, damaged entries."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trackers.releases import NAME, a_move

from gate.errors import RecordError, TrackerError, UsageError
from gate.records import GateRecord
from gate.trackers import Registry
from gate.trackers import _mlflow_moves as moves
from gate.trackers import _mlflow_versions as versions
from gate.trackers.mlflow import TRACKER

Keep = Callable[..., tuple[GateRecord, Path]]
assert TRACKER.registry is not None
REGISTRY: Registry = TRACKER.registry


def production() -> str | None:
    found = REGISTRY.find(NAME, alias="production")
    return found and found.version


# ── moves ─────────────────────────────────────────────────────────────────────────────────

WRITES = (
    "create_run",
    "set_registered_model_alias",
    "set_model_version_tag",
    "set_terminated",
    "set_tag",
)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_a_move_that_is_cut_short_is_completed_by_the_same_again(
    two: tuple[GateRecord, GateRecord], write: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    real = getattr(mlflow.MlflowClient, write)

    def cut(*args: Any, **options: Any) -> None:
        if after:
            real(*args, **options)
        raise OSError("the cable was cut")

    move = a_move(two[1], "2", "1")
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, write, cut)
        with pytest.raises(TrackerError, match="the cable was cut"):
            REGISTRY.move(move)
    written = REGISTRY.moves("digits-cnn")[1:]
    unwritten = write == "create_run" and not after
    assert written == (
        () if unwritten else (replace(move, complete=write == WRITES[-1] and after),)
    )

    REGISTRY.move(replace(move, when=move.when + timedelta(seconds=5), who="bob"))
    assert production() == "2"
    whole = REGISTRY.moves("digits-cnn")
    assert [(entry.version, entry.complete) for entry in whole] == [("1", True), ("2", True)]
    moved = write in WRITES[2:] or (write == "set_registered_model_alias" and after)
    assert whole[-1].who == ("ada" if moved else "bob")  # who moved it, not who completed it
    assert [run.stage for run in TRACKER.past("digits-cnn")] == ["release"] * 2


def test_another_move_after_one_that_was_cut_short_is_an_entry_of_its_own(
    two: tuple[GateRecord, GateRecord], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "set_registered_model_alias", cut)
        with pytest.raises(KeyboardInterrupt):
            REGISTRY.move(a_move(two[1], "2", "1"))
    REGISTRY.move(a_move(two[0], "1", "1", kind="rollback"))
    told = [(entry.version, entry.kind, entry.complete) for entry in REGISTRY.moves("digits-cnn")]
    assert told == [("1", "promote", True), ("2", "promote", False), ("1", "rollback", True)]


def test_an_alias_that_was_moved_right_after_is_told(
    two: tuple[GateRecord, GateRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    real = mlflow.MlflowClient.set_registered_model_alias

    def overtaken(self: Any, name: str, alias: str, version: str) -> None:
        real(self, name, alias, version)
        real(self, name, alias, "1")

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", overtaken)
    with pytest.raises(TrackerError, match="was set to version 2 and names version 1 now"):
        REGISTRY.move(a_move(two[1], "2", "1"))
    assert REGISTRY.moves("digits-cnn")[-1].complete is False


@pytest.mark.parametrize("alias", ["latest", "v2", "V10", "a b", "", "a/b", "Latest"])
def test_a_name_that_cannot_be_an_alias_leaves_no_trace(
    two: tuple[GateRecord, GateRecord], alias: str
) -> None:
    with pytest.raises(UsageError, match="cannot be an alias in MLflow"):
        REGISTRY.move(a_move(two[1], "2", None, alias=alias))
    with pytest.raises(UsageError, match="cannot be an alias in MLflow"):
        REGISTRY.find(NAME, alias=alias)
    assert len(REGISTRY.moves("digits-cnn")) == 1


def test_a_clock_that_is_behind_changes_no_order(two: tuple[GateRecord, GateRecord]) -> None:
    (first,) = REGISTRY.moves("digits-cnn")
    late = a_move(two[1], "2", "1", when=first.when - timedelta(hours=2))
    REGISTRY.move(late)
    REGISTRY.move(late)
    before, after = REGISTRY.moves("digits-cnn")
    assert (before.version, after.version, production()) == ("1", "2", "2")
    assert first.when < after.when < first.when + timedelta(seconds=1)


def test_a_registry_of_its_own_is_claimed_as_its_lock_is_not_the_runs(
    two: tuple[GateRecord, GateRecord], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, real = [], moves._claimed

    def noted(*args: Any) -> Any:
        claimed.append(args)
        return real(*args)

    monkeypatch.setattr(moves, "_claimed", noted)
    REGISTRY.move(a_move(two[1], "2", "1"))
    assert not claimed
    shutil.copyfile(workplace / "mlflow.db", workplace / "registry.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{workplace / 'registry.db'}")
    REGISTRY.move(a_move(two[0], "1", "2"))
    assert len(claimed) == 1


def test_a_deleted_entry_still_counts(two: tuple[GateRecord, GateRecord], client: Any) -> None:
    experiment = client.get_experiment_by_name("gate/digits-cnn").experiment_id
    (run,) = client.search_runs([experiment], "tags.`gate.move` LIKE '%'")
    client.delete_run(run.info.run_id)
    assert len(REGISTRY.moves("digits-cnn")) == 1


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("kind", "stolen"),
        ("move", "yesterday"),
        ("move", "2026-01-01"),
        ("version", "two"),
        ("previous", "../1"),
    ],
)
def test_a_damaged_entry_is_an_error(
    two: tuple[GateRecord, GateRecord], client: Any, tag: str, value: str
) -> None:
    experiment = client.get_experiment_by_name("gate/digits-cnn").experiment_id
    (run,) = client.search_runs([experiment], "tags.`gate.move` LIKE '%'")
    client.set_tag(run.info.run_id, f"gate.{tag}", value)
    with pytest.raises(RecordError, match=rf"run {run.info.run_id} in MLflow.* is damaged"):
        REGISTRY.moves("digits-cnn")


def test_a_model_that_is_not_registered_has_no_alias_to_move(workplace: Path, kept: Keep) -> None:
    record, folder = kept()
    TRACKER.log(record, folder)
    with pytest.raises(TrackerError, match="no registered model 'digits-cnn-int8'"):
        REGISTRY.move(a_move(record, "1", None))
    assert list(REGISTRY.moves("digits-cnn")) == []


def test_a_version_that_is_not_ready_is_no_release_and_no_goal(
    two: tuple[GateRecord, GateRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = versions._tags

    def pending(found: Any) -> dict[str, str]:
        found = SimpleNamespace(tags=found.tags, status="PENDING_REGISTRATION")
        return real(found)

    monkeypatch.setattr(versions, "_tags", pending)
    assert [dict(one.tags) for one in REGISTRY.versions(NAME)] == [
        {"status": "pending_registration"}
    ] * 2
    with pytest.raises(TrackerError, match=r"version 2 of .* has the status pending_registration"):
        REGISTRY.move(a_move(two[1], "2", "1"))
    assert production() == "1"


# ── claims, where there is no file to lock ────────────────────────────────────────────────


class Fake:
    """As much of a client as a claim needs."""

    def __init__(self, claim: str | None = None) -> None:
        self.tags = {} if claim is None else {"gate.moving.production": claim}

    def get_registered_model(self, name: str) -> Any:
        return SimpleNamespace(aliases={"production": 1}, tags=dict(self.tags))

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.tags[key] = value

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        del self.tags[key]


@pytest.fixture
def record(kept: Keep) -> GateRecord:
    return kept(stage="release")[0]


def test_a_claim_is_held_and_given_back(record: GateRecord) -> None:
    client = Fake()
    state = moves._State(client, a_move(record, "2", "1"))
    with moves._claimed(client, state):
        assert client.tags["gate.moving.production"] == state.claim
        assert state.now() == "1"
    assert client.tags == {}


def test_a_fresh_claim_of_somebody_else_refuses(record: GateRecord) -> None:
    client = Fake(f"other {time.time():.3f}")
    state = moves._State(client, a_move(record, "2", "1"))
    with (
        pytest.raises(TrackerError, match=r"another move of .* is under way"),
        moves._claimed(client, state),
    ):
        raise AssertionError("it must not come here")
    assert client.tags["gate.moving.production"].startswith("other")


@pytest.mark.parametrize("seconds", [-61, 61, None])
def test_a_stale_claim_is_taken_over(record: GateRecord, seconds: int | None) -> None:
    client = Fake("rubbish" if seconds is None else f"other {time.time() + seconds:.3f}")
    with moves._claimed(client, moves._State(client, a_move(record, "2", "1"))):
        assert not client.tags["gate.moving.production"].startswith(("other", "rubbish"))


def test_who_lost_its_claim_stops_and_leaves_the_other_one(record: GateRecord) -> None:
    client = Fake()
    state = moves._State(client, a_move(record, "2", "1"))
    with moves._claimed(client, state):
        client.tags["gate.moving.production"] = "other 1"
        with pytest.raises(TrackerError, match=r"another move of .* has begun meanwhile"):
            state.now()
    assert client.tags["gate.moving.production"] == "other 1"
