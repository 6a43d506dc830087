"""Promotion, rollback, audit and evidence on a real MLflow store."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support import registry as support
from support.project import CNN, WIDE_RANGE, Project
from support.registry import MODEL, NAME, another

from gate.cli import exit_code_of
from gate.trackers.mlflow import TRACKER


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """An empty store, and a release that passed in `project/run`."""
    folder = tmp_path_factory.mktemp("template")
    support.made(folder / "project")
    shutil.copy(empty_store, folder)
    return folder


@pytest.fixture
def empty(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with an empty store in it."""
    shutil.copy(template / "mlflow.db", tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    for key in ("GITHUB_ACTIONS", "GITHUB_ACTOR"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def work(empty: Path, template: Path) -> Path:
    """The same with two releases of the model, `one` and `two`, kept as versions 1 and 2."""
    for name, hours in (("one", -2), ("two", -1)):
        TRACKER.log(another(template / "project" / "run", empty / name, hours=hours), empty / name)
    return empty


@pytest.fixture
def store(work: Path) -> MlflowClient:
    """As somebody uses it who does not know of the gate."""
    return MlflowClient(f"sqlite:///{work / 'mlflow.db'}")


def aliases(store: MlflowClient) -> dict[str, str]:
    return {name: str(one) for name, one in store.get_registered_model(NAME).aliases.items()}


def artifact(work: Path, store: MlflowClient, version: str) -> Path:
    """The file that the registry's version is."""
    run = store.get_model_version(NAME, version).run_id
    (file,) = work.glob(f"mlruns/**/{run}/**/model.int8.onnx")
    return file


def test_from_the_gate_to_production_and_back(
    empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path)

    def run(candidate: Path, out: str) -> int:
        asked = ["run", str(project.policy), "--candidate", str(candidate), "--threads", "1"]
        return exit_code_of([*asked, "--stage", "release", "--out", out])

    assert run(CNN, "one") == 0
    assert exit_code_of(["promote", "one", "--by", "ann"]) == 0
    assert run(WIDE_RANGE, "bad") == 1
    assert exit_code_of(["promote", "bad"]) == 1
    assert run(CNN, "three") in (0, 3)
    store = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert aliases(store) == {"production": "1"}
    assert exit_code_of(["audit", MODEL]) == 0
    capsys.readouterr()
    assert exit_code_of(["rollback", MODEL]) == 4
    assert "nothing to roll" in capsys.readouterr().err


def test_one_after_the_other_and_back(
    work: Path, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        assert exit_code_of(["promote", name, "--by", "ann"]) == 0
    assert aliases(store) == {"production": "2"}
    assert "gate.promoted.production" in store.get_model_version(NAME, "2").tags
    assert exit_code_of(["promote", "two"]) == 0
    assert exit_code_of(["promote", "one"]) == 2
    assert exit_code_of(["rollback", MODEL, "--by", "bob", "--why", "slow"]) == 0
    assert aliases(store) == {"production": "1"}
    assert "by bob: slow" in store.get_model_version(NAME, "2").tags["gate.rolled_back"]
    assert exit_code_of(["promote", "two"]) == 2
    capsys.readouterr()
    assert exit_code_of(["audit", MODEL, "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    moves = [(one["kind"], one["previous"], one["version"], one["who"]) for one in told["moves"]]
    assert moves == [
        ("promote", None, "1", "ann"),
        ("promote", "1", "2", "ann"),
        ("rollback", "2", "1", "bob"),
    ]


def test_moves_are_no_runs_and_stand_in_the_evidence(work: Path) -> None:
    before = TRACKER.past(MODEL)
    exit_code_of(["promote", "two", "--by", "ann"])
    assert TRACKER.past(MODEL) == before
    assert exit_code_of(["evidence", "two", "--out", "e.zip"]) == 0
    with zipfile.ZipFile(work / "e.zip") as archive:
        told = json.loads(archive.read("registry.json"))
    assert told["registered"] == f"models:/{NAME}/2"
    assert [move["who"] for move in told["moves"]] == ["ann"]


# ── what somebody did to the store ────────────────────────────────────────────────────────


def changed_artifact(work: Path, store: MlflowClient) -> None:
    with artifact(work, store, "2").open("ab") as stream:
        stream.write(b"\0")


def deleted_artifact(work: Path, store: MlflowClient) -> None:
    artifact(work, store, "2").unlink()


def deleted_version(work: Path, store: MlflowClient) -> None:
    store.delete_model_version(NAME, "2")


def deleted_run(work: Path, store: MlflowClient) -> None:
    store.delete_run(store.get_model_version(NAME, "2").run_id)


def edited_record(work: Path, store: MlflowClient) -> None:
    run = store.get_model_version(NAME, "2").run_id
    (file,) = work.glob(f"mlruns/**/{run}/artifacts/record.json")
    file.write_text(file.read_text().replace('"attempt":1', '"attempt":2'))


def edited_threads(work: Path, store: MlflowClient) -> None:
    run = store.get_model_version(NAME, "2").run_id
    (file,) = work.glob(f"mlruns/**/{run}/artifacts/record.json")
    file.write_text(file.read_text().replace('"threads":1', '"threads":2'))


def other_tags(work: Path, store: MlflowClient) -> None:
    store.set_model_version_tag(NAME, "2", "gate.record", "another")


@pytest.mark.parametrize(
    "deed", [changed_artifact, deleted_run, edited_record], ids=lambda deed: deed.__name__
)
def test_it_stands_against_a_promotion(work: Path, store: MlflowClient, deed: Any) -> None:
    deed(work, store)
    assert exit_code_of(["promote", "two"]) == 4
    assert aliases(store) == {}


@pytest.mark.parametrize(
    "deed",
    [deleted_artifact, deleted_version, other_tags, edited_threads],
    ids=lambda deed: deed.__name__,
)
def test_the_audit_finds_it(
    work: Path, store: MlflowClient, deed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        exit_code_of(["promote", name])
    deed(work, store)
    capsys.readouterr()
    assert exit_code_of(["audit", MODEL, "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [one["backed"] for one in told["moves"]] == [True, False]


def test_an_alias_moved_by_hand(work: Path, store: MlflowClient) -> None:
    exit_code_of(["promote", "two"])
    store.set_registered_model_alias(NAME, "production", "1")
    assert exit_code_of(["audit", MODEL]) == 1
    store.set_registered_model_alias(NAME, "production", "2")
    assert exit_code_of(["audit", MODEL]) == 0  # as the audit itself says: no trace is left


def test_a_rollback_does_not_go_to_an_edited_record(work: Path, store: MlflowClient) -> None:
    for name in ("one", "two"):
        exit_code_of(["promote", name])
    run = store.get_model_version(NAME, "1").run_id
    (file,) = work.glob(f"mlruns/**/{run}/artifacts/record.json")
    file.write_text(file.read_text().replace('"threads":1', '"threads":2'))
    assert exit_code_of(["rollback", MODEL]) == 4
    assert aliases(store) == {"production": "2"}


def test_without_its_experiment_what_is_in_production_is_not_backed(
    work: Path, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(["promote", "one"])
    store.delete_experiment(store.get_experiment_by_name(f"gate/{MODEL}").experiment_id)
    capsys.readouterr()
    assert exit_code_of(["audit", MODEL]) == 1
    assert "is gone from the tracker" in capsys.readouterr().out
    assert exit_code_of(["rollback", MODEL]) == 4


@pytest.mark.parametrize("alias", ["v1", "latest", "", "a b"])
def test_a_dry_run_knows_what_cannot_be_an_alias(
    work: Path, alias: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(["promote", "one", "--alias", alias, "--dry-run"]) == 2
    assert "cannot be an alias" in capsys.readouterr().err


def test_a_rollback_goes_past_it(work: Path, store: MlflowClient, template: Path) -> None:
    newer = another(template / "project" / "run", work / "three", hours=0.01)
    TRACKER.log(newer, work / "three")
    for name in ("one", "three"):
        exit_code_of(["promote", name])
    changed_artifact(work, store)
    assert exit_code_of(["rollback", MODEL]) == 0
    assert aliases(store) == {"production": "1"}


# ── cut short ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["set_registered_model_alias", "set_model_version_tag"])
def test_a_move_that_the_store_cut_short_is_found_and_completed(
    work: Path, store: MlflowClient, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*_: object, **__: object) -> None:
        raise MlflowException("the store died")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, dead)
        assert exit_code_of(["promote", "one"]) == 4
    assert exit_code_of(["audit", MODEL]) == 1
    assert exit_code_of(["promote", "one"]) == 0
    assert aliases(store) == {"production": "1"}
    assert exit_code_of(["audit", MODEL]) == 0
    assert TRACKER.registry is not None
    assert [move.complete for move in TRACKER.registry.moves(MODEL)] == [True]
