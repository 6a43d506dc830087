"""Promotion, rollback, audit and evidence where the store is a real server or database."""

import json
import zipfile
from pathlib import Path

import pytest
from support import registry as support
from support.registry import MODEL, NAME, another
from trackers import stores

from gate.cli import exit_code_of
from gate.trackers import Registry
from gate.trackers.mlflow import TRACKER

ELSEWHERE = "the registry in another store than the runs"
assert TRACKER.registry is not None
REGISTRY: Registry = TRACKER.registry


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release that passed."""
    return support.made(tmp_path_factory.mktemp("promotion") / "project").folder / "run"


KINDS = [kind for kind in stores.KINDS if kind != "sqlite"]
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in (ELSEWHERE, *KINDS[:-1])]


@pytest.fixture(params=[*SLOW, KINDS[-1]])
def tracker(
    request: pytest.FixtureRequest, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that is found."""
    if request.param == ELSEWHERE:
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{workplace / 'registry.db'}")
    else:
        stores.use(request.param, request, monkeypatch)


@pytest.fixture
def two(tracker: None, workplace: Path, release: Path) -> tuple[str, str]:
    """Folders of two releases of the model, kept as versions 1 and 2."""
    for name, hours in (("one", -2), ("two", -1)):
        TRACKER.log(another(release, workplace / name, hours=hours), workplace / name)
    return "one", "two"


def production() -> str | None:
    found = REGISTRY.find(NAME, alias="production")
    return None if found is None else found.version


def test_to_production_and_back(
    two: tuple[str, str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in two:
        assert exit_code_of(["promote", name, "--dry-run"]) == 0
        assert exit_code_of(["promote", name, "--by", "ann"]) == 0
    assert production() == "2"
    assert exit_code_of(["evidence", "two", "--out", "e.zip"]) == 0
    with zipfile.ZipFile(workplace / "e.zip") as archive:
        told = json.loads(archive.read("registry.json"))
    assert told["registered"] == f"models:/{NAME}/2"
    assert [move["who"] for move in told["moves"]] == ["ann"]
    assert exit_code_of(["rollback", MODEL]) == 0
    assert production() == "1"
    assert exit_code_of(["promote", "two"]) == 2
    capsys.readouterr()
    assert exit_code_of(["audit", MODEL, "--format", "json"]) == 0
    moves = [(one["kind"], one["version"]) for one in json.loads(capsys.readouterr().out)["moves"]]
    assert moves == [("promote", "1"), ("promote", "2"), ("rollback", "1")]


def test_what_somebody_did_by_hand_is_found(
    two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    from gate.trackers import _mlflow_store as store

    place = store.locate()
    client = MlflowClient(place.uri, place.registry)
    assert exit_code_of(["promote", "one"]) == 0
    client.set_registered_model_alias(NAME, "production", "2")
    assert exit_code_of(["audit", MODEL]) == 1
    assert "moved by hand: the gate moved it to version 1 last" in capsys.readouterr().out
    client.delete_model_version(NAME, "2")
    assert exit_code_of(["promote", "two"]) == 4
    assert "version 2 of digits-cnn-int8 is gone" in capsys.readouterr().err
    client.delete_run(client.get_model_version(NAME, "1").run_id)
    assert exit_code_of(["promote", "one"]) == 4
