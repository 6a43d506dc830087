"""MLflow on real stores: many at once, servers that die, files on S3, and how much is asked."""

import http.client
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from trackers import stores
from trackers.releases import NAME, a_move

import gate
from gate import artifact
from gate.errors import TrackerError
from gate.records import GateRecord
from gate.trackers import Registry
from gate.trackers import _mlflow_store as store
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


@dataclass
class Link:
    """Stands between the gate and a server; goes down at a request, or loses an answer."""

    target: str
    address: str = ""
    down_at: str = ""
    """How the path of that request ends."""
    after: bool = False
    """Whether the server still gets that request, so that only its answer is lost."""
    down: bool = False
    lost: list[str] = field(default_factory=list)
    """How the paths of requests end whose answer is lost, once each."""
    asked: list[str] = field(default_factory=list)

    def lets_through(self, path: str) -> tuple[bool, bool]:
        """Whether a request reaches the server, and its answer the gate."""
        if self.down:
            return False, False
        if self.down_at and path.endswith(self.down_at):
            self.down = True
            return self.after, False
        losing = next((end for end in self.lost if path.endswith(end)), None)
        if losing is not None:
            self.lost.remove(losing)
        return True, losing is None


class Handler(BaseHTTPRequestHandler):
    """Passes requests on as the link of its server allows."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Proxy"

    def forward(self) -> None:
        link, path = self.server.link, urlsplit(self.path).path
        link.asked.append(path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        there, back = link.lets_through(path)
        answer = self.passed_on(body) if there else None
        if answer is None or not back:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() in ("content-type", "content-disposition"):
                self.send_header(key, value)
        data = answer.read()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815

    def passed_on(self, body: bytes) -> http.client.HTTPResponse:
        target = urlsplit(self.server.link.target)
        connection = http.client.HTTPConnection(str(target.hostname), target.port or 80)
        headers = {**dict(self.headers.items()), "Host": target.netloc, "Connection": "close"}
        connection.request(self.command, self.path, body, headers)
        return connection.getresponse()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Proxy(ThreadingHTTPServer):
    link: Link


@contextmanager
def link(server: str) -> Iterator[Link]:
    proxy = Proxy(("127.0.0.1", 0), Handler)
    proxy.link = Link(server, f"http://127.0.0.1:{proxy.server_address[1]}")
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy.link
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


@pytest.fixture
def linked(
    server: tuple[str, str], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Link]:
    stores.emptied(server[1])
    monkeypatch.setitem(store.PATIENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(store, "_PAUSES_S", (0.01,))
    with link(server[0]) as found:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.address)
        yield found


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
    assert counts == [(9, 3), (14, 7)]


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
