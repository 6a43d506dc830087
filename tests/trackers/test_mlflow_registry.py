"""What MLflow's registry does beyond the contract: other producers, bad input, cuts."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from trackers import stores
from trackers.releases import NAME

from gate.errors import RecordError, TrackerError
from gate.records import GateRecord
from gate.registered import Bridge, Version
from gate.trackers import Registry
from gate.trackers import _mlflow_store as store
from gate.trackers.mlflow import TRACKER

Keep = Callable[..., tuple[GateRecord, Path]]
assert TRACKER.registry is not None
REGISTRY: Registry = TRACKER.registry


# ── versions and their files ──────────────────────────────────────────────────────────────


def test_find_takes_one_question() -> None:
    for asked in ({}, {"version": "1", "alias": "production"}):
        with pytest.raises(ValueError, match="either a version or an alias"):
            REGISTRY.find(NAME, **asked)


def test_what_names_no_version_is_none(two: tuple[GateRecord, GateRecord]) -> None:
    for number in ("3", "0", "-1", "x", ""):
        assert REGISTRY.find(NAME, version=number) is None
    assert REGISTRY.find(NAME, alias="staging") is None


def test_reading_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert (REGISTRY.versions(NAME), REGISTRY.moves("m"), REGISTRY.bridges("m")) == ((), (), ())
    assert REGISTRY.find(NAME, version="1") is None
    assert TRACKER.fetch("r", "rows.npz", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_many_versions_are_read_at_once(
    two: tuple[GateRecord, GateRecord], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    made = "'digits-cnn-int8', value, 0, 0, 'None', 'file:///x', 'READY'"
    columns = "name, version, creation_time, last_updated_time, current_stage, source, status"
    numbers = "WITH RECURSIVE n(value) AS (SELECT 3 UNION SELECT value + 1 FROM n LIMIT 198)"
    insert = f"{numbers} INSERT INTO model_versions ({columns}) SELECT {made} FROM n"
    stores.execute(f"sqlite:///{workplace / 'mlflow.db'}", insert)
    asked: list[str] = []
    for name in ("search_model_versions", "get_model_version", "get_registered_model"):
        real = getattr(mlflow.MlflowClient, name)

        def counted(*args: Any, _name: str = name, _real: Any = real, **options: Any) -> Any:
            asked.append(_name)
            return _real(*args, **options)

        monkeypatch.setattr(mlflow.MlflowClient, name, counted)
    found = REGISTRY.versions(NAME)
    assert [version.number for version in found] == [*range(1, 201)]
    assert found[0].aliases == ("production",)
    assert sorted(asked) == ["get_registered_model", "search_model_versions"]


def elsewhere(client: Any, folder: Path, described: str | None, **files: bytes) -> Version:
    """A version that another producer registered from a folder."""
    folder.mkdir()
    if described is not None:
        (folder / "MLmodel").write_text(described)
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    if not client.search_registered_models(f"name='{NAME}'"):
        client.create_registered_model(NAME)
    made = client.create_model_version(NAME, folder.as_uri())
    found = REGISTRY.find(NAME, version=str(made.version))
    assert found is not None
    return found


def flavour(data: object, name: str = "onnx") -> str:
    return yaml.safe_dump({"flavors": {name: {"data": data}, "python_function": {"data": "x"}}})


@pytest.mark.parametrize(
    ("data", "files", "expected"),
    [
        ("m.onnx", {"m.onnx": b"m", "blob-1": b"w"}, {"m.onnx", "blob-1", "MLmodel"}),
        ("./m.onnx", {"m.onnx": b"m"}, {"m.onnx", "MLmodel"}),
        ("sub/m.onnx", {"sub__m.onnx": b"m", "sub__m.onnx.data": b"w"}, {"m.onnx", "m.onnx.data"}),
        ("sub", {"sub__m.onnx": b"m", "sub__w": b"w"}, {"m.onnx", "w"}),
    ],
)
def test_another_producers_model_is_copied_with_what_lies_beside_it(
    client: Any, tmp_path: Path, data: str, files: dict[str, bytes], expected: set[str]
) -> None:
    version = elsewhere(client, tmp_path / "theirs", flavour(data), **files)
    folder = tmp_path / "fetched"
    folder.mkdir()
    model = REGISTRY.fetch(version, folder)
    assert (model, model.read_bytes()) == (folder / "m.onnx", b"m")
    assert {path.name for path in folder.iterdir()} == expected


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # its own import
def test_what_mlflow_logs_is_copied(client: Any, kept: Keep, tmp_path: Path) -> None:
    import mlflow
    import onnx

    _, folder = kept(external=True)
    model = onnx.load(folder / "model.int8.onnx")
    mlflow.onnx.save_model(model, tmp_path / "saved", pip_requirements=["onnx"])
    client.create_registered_model(NAME)
    made = client.create_model_version(NAME, (tmp_path / "saved").as_uri())
    found = REGISTRY.find(NAME, version=str(made.version))
    assert found is not None
    (tmp_path / "fetched").mkdir()
    copy = REGISTRY.fetch(found, tmp_path / "fetched")
    assert onnx.load(copy).graph.node == onnx.load(folder / "model.int8.onnx").graph.node


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (flavour("../secret.onnx"), "points outside its folder"),
        (flavour("/etc/passwd"), "points outside its folder"),
        (flavour("a/../../secret.onnx"), "points outside its folder"),
        (flavour("..\\secret.onnx"), "points outside its folder"),
        (flavour("."), "points outside its folder"),
        (flavour(7), "points outside its folder"),
        (flavour("%2e%2e/secret.onnx"), "is no file and holds 0 .onnx files"),
        (flavour("gone.onnx"), "is no file and holds 0 .onnx files"),
        (flavour("m.onnx", "pytorch"), "has the flavours python_function, pytorch"),
        ("flavors: [", "is damaged"),
        ("- 1", "is damaged"),
        ("flavors: !!python/object/apply:os.system [echo]", "is damaged"),
        (None, "holds neither model.int8.onnx nor MLmodel"),
    ],
)
def test_a_model_that_cannot_be_copied_is_told(
    client: Any, tmp_path: Path, described: str | None, message: str
) -> None:
    (tmp_path / "secret.onnx").write_bytes(b"secret")
    version = elsewhere(client, tmp_path / "theirs", described, other=b"")
    folder = tmp_path / "fetched"
    folder.mkdir()
    with pytest.raises(TrackerError, match=message):
        REGISTRY.fetch(version, folder)
    assert list(folder.iterdir()) == []


def test_a_link_does_not_lead_out_of_a_version(client: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.onnx").write_bytes(b"secret")
    version = elsewhere(client, tmp_path / "theirs", flavour("m.onnx"))
    (tmp_path / "theirs/m.onnx").symlink_to(tmp_path / "secret.onnx")
    (tmp_path / "fetched").mkdir()
    with pytest.raises(TrackerError):
        REGISTRY.fetch(version, tmp_path / "fetched")


def test_a_copy_is_no_live_file(workplace: Path, kept: Keep, tmp_path: Path) -> None:
    record, folder = kept(stage="release")
    TRACKER.log(record, folder)
    version = REGISTRY.find(NAME, version="1")
    assert version is not None
    stored = {path: path.read_bytes() for path in (workplace / "mlruns").rglob("*.onnx")}
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        copy = REGISTRY.fetch(version, folder)
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == record.int8.sha256
        copy.write_bytes(b"changed")
    assert {path: path.read_bytes() for path in (workplace / "mlruns").rglob("*.onnx")} == stored


def test_a_version_whose_files_are_gone_is_told(
    workplace: Path, kept: Keep, tmp_path: Path
) -> None:
    TRACKER.log(*kept(stage="release"))
    version = REGISTRY.find(NAME, version="1")
    assert version is not None
    for path in (workplace / "mlruns").rglob("model/*"):
        path.unlink()
    with pytest.raises(TrackerError, match="its files are gone"):
        REGISTRY.fetch(version, tmp_path)


# ── bridges ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def bridge(tmp_path: Path) -> tuple[Bridge, Path]:
    folder = tmp_path / "bridge"
    folder.mkdir()
    release = {"version": "1", "record": "r", "int8_sha256": "s", "roles": ("anchor",)}
    rows = []
    for name in ("a.npz", "b.npz"):
        (folder / name).write_bytes(name.encode())
        digest = hashlib.sha256(name.encode()).hexdigest()
        rows.append({**release, "rows": name, "rows_sha256": digest, "before": {}, "after": {}})
    told = {"id": "1", "created": datetime.now(UTC), "model": "digits-cnn", "releases": rows}
    return Bridge.model_validate({**told, "before": "a" * 64, "after": "b" * 64}), folder


@pytest.mark.parametrize("write", ["log_artifact", "set_terminated", "set_tag"])
def test_a_bridge_that_is_cut_short_does_not_show_and_is_completed(
    client: Any, bridge: tuple[Bridge, Path], write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def cut(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, write, cut)
        with pytest.raises(TrackerError, match="the disk is full"):
            REGISTRY.keep_bridge(*bridge)
    assert list(REGISTRY.bridges("digits-cnn")) == []
    run = REGISTRY.keep_bridge(*bridge)
    assert list(REGISTRY.bridges("digits-cnn")) == [(run, bridge[0])]
    names = {file.path for file in client.list_artifacts(run)}
    assert names == {"bridge.json", "a.npz", "b.npz"}
    assert len(client.search_runs([client.get_run(run).info.experiment_id])) == 1


@pytest.mark.parametrize("name", ["../a.npz", "bridge.json", "/etc/hosts", "gone.npz"])
def test_rows_that_are_not_beside_the_bridge_are_refused(
    workplace: Path, bridge: tuple[Bridge, Path], name: str
) -> None:
    release = bridge[0].releases[0].model_copy(update={"rows": name})
    wrong = bridge[0].model_copy(update={"releases": (release,)})
    with pytest.raises(TrackerError, match=r"no plain file name|cannot be read"):
        REGISTRY.keep_bridge(wrong, bridge[1])
    assert TRACKER.models() == ()


def test_a_damaged_bridge_is_an_error(workplace: Path, bridge: tuple[Bridge, Path]) -> None:
    run = REGISTRY.keep_bridge(*bridge)
    (file,) = (workplace / "mlruns").rglob("bridge.json")
    file.write_text('{"id": 1}')
    with pytest.raises(RecordError, match=f"bridge.json of run {run} in MLflow is damaged"):
        REGISTRY.bridges("digits-cnn")
    file.unlink()
    with pytest.raises(RecordError, match=r"a bridge without bridge\.json"):
        REGISTRY.bridges("digits-cnn")


# ── where files go ────────────────────────────────────────────────────────────────────────


def test_a_database_that_others_reach_needs_a_root_for_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://bob:s3cret@db/mlflow")
    monkeypatch.delenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", raising=False)
    with pytest.raises(TrackerError, match="set MLFLOW_DEFAULT_ARTIFACT_ROOT") as caught:
        store.locate().artifacts("gate/m")
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/x/")
    assert store.locate().artifacts("gate/m") == "s3://bucket/x/gate/m"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "files")
    assert store.locate().artifacts("gate/m") == f"{(tmp_path / 'files').as_uri()}/gate/m"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://server")
    assert store.locate().artifacts("gate/m") is None
