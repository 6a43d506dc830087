"""MLflow on real stores: many at once, servers that die, files on S3, and how much is asked."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from trackers import stores
from trackers.links import Link
from trackers.releases import NAME, a_move

import gate
from gate import artifact
from gate.errors import TrackerError
from gate.records import GateRecord
from gate.trackers import Registry
from gate.trackers.mlflow import TRACKER

Keep = Callable[..., tuple[GateRecord, Path]]
CROWD = Path(stores.__file__).with_name("crowd.py")
SOURCE = str(Path(gate.__file__).parent.parent)
assert TRACKER.registry is not None
REGISTRY: Registry = TRACKER.registry


# ── many at once ──────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_eight_gates_at_once_lose_nothing(
    tmp_path: Path,
    server: tuple[str, str],
    kept: Keep,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a fresh sqlite file, a server, and a fresh PostgreSQL database, in one program.

    What imports take is the same for all, and most of the time.
    """
    stores.emptied(server[1])
    uris = [f"sqlite:///{tmp_path / 'fresh.db'}", server[0]]
    if stores.postgres_programs() is not None:
        base = request.getfixturevalue("postgres")
        stores.execute(f"{base}/postgres", "CREATE DATABASE fresh")
        uris.append(f"{base}/fresh")
    folders = [str(kept(number, stage="release")[1]) for number in range(8)]
    root = {"MLFLOW_DEFAULT_ARTIFACT_ROOT": str(tmp_path / "artifacts")}
    run = subprocess.run(  # noqa: PLW1510
        [sys.executable, str(CROWD), *folders, "--", *uris],
        env=stores.clean_environment() | root | {"PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    for uri in uris:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        all_eight()
    if len(uris) < 3:
        pytest.skip("the others lose nothing; PostgreSQL is not installed: see .ci/run")


def all_eight() -> None:
    """Eight runs, complete, with eight versions, none of them twice."""
    past, versions = TRACKER.past("digits-cnn"), REGISTRY.versions(NAME)
    assert [one.outcome for one in past] == ["pass"] * 8
    assert {one.version for one in past} == {str(number) for number in range(1, 9)}
    assert [version.number for version in versions] == [*range(1, 9)]
    assert {version.run for version in versions} == {one.run for one in past}
    assert [version.tags["outcome"] for version in versions] == ["pass"] * 8
    assert len({one.tags["record"] for one in past}) == 8


@pytest.mark.parametrize("kind", ["sqlite", "PostgreSQL", "server, sqlite"])
def test_of_two_moves_at_once_one_is_refused(
    kind: str,
    request: pytest.FixtureRequest,
    workplace: Path,
    kept: Keep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stores.use(kind, request, monkeypatch)
    records = [kept(number, stage="release") for number in range(2)]
    for one in records:
        TRACKER.log(*one)
    barrier = threading.Barrier(2)
    refused: list[str] = []

    def move(record: GateRecord, version: str) -> None:
        barrier.wait()
        try:
            REGISTRY.move(a_move(record, version, None))
        except TrackerError as error:
            refused.append(str(error))

    threads = [
        threading.Thread(target=move, args=(record, str(number)))
        for number, (record, _) in enumerate(records, start=1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = REGISTRY.find(NAME, alias="production")
    complete = [entry.version for entry in REGISTRY.moves("digits-cnn") if entry.complete]
    if len(refused) == 2:  # both claimed, each saw the other, and neither moved the alias
        assert kind == "server, sqlite"
        assert (found, complete) == (None, [])
        return
    assert len(refused) == 1, refused
    assert found is not None
    assert complete == [found.version]


# ── a server that dies ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cut", "after"),
    [
        ("runs/create", False),
        ("runs/create", True),
        ("artifacts/model/model.int8.onnx", False),
        ("model-versions/create", False),
        ("model-versions/create", True),
        ("artifacts/rows.npz", True),
        ("log-inputs", True),
        ("log-batch", True),
        ("runs/update", False),
    ],
)
def test_a_record_is_whole_and_once_after_a_server_died(
    linked: Link, kept: Keep, cut: str, after: bool
) -> None:
    record, folder = kept(stage="release")
    linked.down_at, linked.after = cut, after
    with pytest.raises(TrackerError):
        TRACKER.log(record, folder)
    linked.down_at, linked.down = "", False
    assert {run.outcome for run in TRACKER.past("digits-cnn")} <= {"incomplete"}
    run = TRACKER.log(record, folder)
    (past,) = TRACKER.past("digits-cnn")
    (version,) = REGISTRY.versions(NAME)
    assert (past.run, past.outcome, past.version, version.run) == (run, "pass", "1", run)
    assert GateRecord.model_validate(TRACKER.record(run)) == record


def test_a_lost_answer_does_not_make_a_thing_twice(linked: Link, kept: Keep) -> None:
    """The server is there again at once: whoever asks again finds what was made."""
    linked.lost = ["runs/create", "model-versions/create", "log-inputs"]
    run = TRACKER.log(*kept(stage="release"))
    assert linked.lost == []
    assert [(one.run, one.outcome) for one in TRACKER.past("digits-cnn")] == [(run, "pass")]
    assert [version.run for version in REGISTRY.versions(NAME)] == [run]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "after"),
    [
        ("registered-models/set-tag", False),
        ("registered-models/set-tag", True),
        ("runs/create", True),
        ("registered-models/alias", False),
        ("registered-models/alias", True),
    ],
)
def test_a_move_is_whole_and_once_after_a_server_died(
    linked: Link, kept: Keep, cut: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gate.trackers import _mlflow_moves as moves

    record, folder = kept(stage="release")
    TRACKER.log(record, folder)
    linked.down_at, linked.after = cut, after
    with pytest.raises(TrackerError):
        REGISTRY.move(a_move(record, "1", None))
    linked.down_at, linked.down = "", False
    if after or cut != "registered-models/set-tag":
        with pytest.raises(TrackerError, match="is under way"):  # its claim is not stale yet
            REGISTRY.move(a_move(record, "1", None))
        monkeypatch.setattr(moves, "_STALE_S", 0)
    REGISTRY.move(a_move(record, "1", None))
    found = REGISTRY.find(NAME, alias="production")
    assert found is not None
    assert found.version == "1"
    assert [entry.complete for entry in REGISTRY.moves("digits-cnn")] == [True]


# ── how much is asked, and how long it takes ──────────────────────────────────────────────


def test_a_run_is_kept_in_few_requests(linked: Link, kept: Keep) -> None:
    TRACKER.log(*kept(0, stage="release"))  # makes experiment and registered model
    counts = []
    for number, stage in ((1, "pr"), (2, "release")):
        record, folder = kept(number, stage=stage)
        linked.asked.clear()
        TRACKER.log(record, folder)
        files = [request for request in linked.asked if "/mlflow-artifacts/" in request]
        counts.append((len(linked.asked) - len(files), len(files)))
    assert counts == [(11, 4), (17, 8)]


def test_versions_are_few_requests(linked: Link, kept: Keep) -> None:
    TRACKER.log(*kept(stage="release"))
    linked.asked.clear()
    REGISTRY.versions(NAME)
    assert len(linked.asked) == 3


# ── files on S3, behind a server and without one ─────────────────────────────────────────────


def test_files_go_to_s3_from_a_sqlite_store(
    workplace: Path,
    s3: dict[str, str],
    kept: Keep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in {**s3, "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://gate/direct"}.items():
        monkeypatch.setenv(key, value)
    record, folder = kept(stage="release", external=True)
    run = TRACKER.log(record, folder)
    (version,) = REGISTRY.versions(NAME)
    assert version.source == f"s3://gate/direct/gate/digits-cnn/{run}/artifacts/model"
    copies = tmp_path / "copies"
    copies.mkdir()
    model = REGISTRY.fetch(version, copies)
    assert artifact.sha256_of(*artifact.files(model)) == record.int8.sha256
    assert GateRecord.model_validate(TRACKER.record(run)) == record
    assert TRACKER.fetch(run, "gone.npz", copies) is None
    assert not (workplace / "mlruns").exists()

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{stores.free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(TrackerError, match=r"127\.0\.0\.1"):
        TRACKER.log(*kept(1))


def test_a_release_on_a_server_with_postgresql_and_s3(
    large_server: str,
    s3: dict[str, str],
    kept: Keep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", large_server)
    record, folder = kept(stage="release", external=True)
    run = TRACKER.log(record, folder)
    TRACKER.log(*kept(1, stage="release"))
    REGISTRY.move(a_move(record, "1", None))
    version = REGISTRY.find(NAME, alias="production")
    assert version is not None
    assert (version.version, version.run, version.aliases) == ("1", run, ("production",))
    model = REGISTRY.fetch(version, tmp_path)
    assert artifact.sha256_of(*artifact.files(model)) == record.int8.sha256
    assert GateRecord.model_validate(TRACKER.record(run)) == record
    assert [past.outcome for past in TRACKER.past("digits-cnn")] == ["pass", "pass"]
    assert [move.complete for move in REGISTRY.moves("digits-cnn")] == [True]
    kept_there = stores.bucket_in(s3).list_objects(Bucket="gate")["Contents"]
    keys = [entry["Key"] for entry in kept_there]
    assert any(f"{run}/artifacts/model/model.int8.onnx.data" in key for key in keys)
