"""Real stores on this machine: PostgreSQL, an S3-compatible store, MLflow servers."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
PATIENCE_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Without what names a store, and quiet."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "_MLFLOW"))}
    return kept | QUIET


def wait(ready: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it is ready; a process that ended, or takes too long, fails with its log."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            ready()
        except (OSError, sqlalchemy.exc.OperationalError):
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"{process.args} did not start:\n{log.read_text()}") from None
            time.sleep(0.05)
        else:
            return


@contextmanager
def ended(process: subprocess.Popen[bytes], how: signal.Signals) -> Iterator[None]:
    try:
        yield
    finally:
        os.killpg(process.pid, how)
        process.wait(timeout=PATIENCE_S)


# ── PostgreSQL ────────────────────────────────────────────────────────────────────────────


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None where they are not installed."""
    named = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = Path(named) if named else next(reversed(debian), None)
    return found.parent if found else None


def _another_user() -> dict[str, object]:
    """PostgreSQL does not run as root: who it runs as then, as `Popen` takes it."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """A cluster of its own on a free port: the URI of its databases, without their name."""
    who = _another_user()
    with tempfile.TemporaryDirectory(prefix="gate-postgres-", ignore_cleanup_errors=True) as home:
        folder, port = Path(home), free_port()
        log = folder / "log"
        if who:
            shutil.chown(folder, who["user"], who["group"])  # type: ignore[call-overload]
        make = [programs / "initdb", "-D", folder / "data", "-U", "gate", "-A", "trust"]
        make += ["--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(make, cwd=folder, check=True, capture_output=True, **who)  # type: ignore[call-overload]
        run: list[Path | str] = [programs / "postgres", "-D", folder / "data", "-p", str(port)]
        for option in ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"):
            run += ["-c", option]
        with log.open("wb") as stream:
            process = subprocess.Popen(  # type: ignore[call-overload]
                run, cwd=folder, stdout=stream, stderr=stream, start_new_session=True, **who
            )
        base = f"postgresql+psycopg2://gate@127.0.0.1:{port}"
        with ended(process, signal.SIGQUIT):
            wait(lambda: execute(f"{base}/postgres", "SELECT 1"), process, log)
            yield base


def execute(uri: str, *statements: str) -> None:
    """Statements that no transaction may hold, such as CREATE DATABASE."""
    engine = sqlalchemy.create_engine(
        uri, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))


def emptied(uri: str) -> None:
    """Take every row out of an MLflow database, as if it had just been made."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    names = [n for n in sqlalchemy.inspect(engine).get_table_names() if n != "alembic_version"]
    if engine.dialect.name == "postgresql":
        # the server may still read; a plain TRUNCATE waits for it
        statements = [f"TRUNCATE {', '.join(names)} CASCADE"]
    else:
        statements = [f"DELETE FROM {name}" for name in names]
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))


# ── S3 ────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def s3() -> Iterator[dict[str, str]]:
    """An S3-compatible store with the bucket `gate`: the environment that reaches it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    reach = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        bucket_in(reach).create_bucket(Bucket="gate")
        yield reach
    finally:
        server.stop()


def bucket_in(reach: Mapping[str, str]) -> Any:
    """A client of the store that this environment reaches."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=reach["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=reach["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=reach["AWS_SECRET_ACCESS_KEY"],
        region_name=reach["AWS_DEFAULT_REGION"],
    )


# ── MLflow ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def server(
    folder: Path, database: str, artifacts: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A real `mlflow server`, which hands out artifacts itself: its address."""
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", database]
    command += ["--artifacts-destination", artifacts]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=clean_environment() | dict(environment or {}),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    with ended(process, signal.SIGKILL):
        wait(lambda: urllib.request.urlopen(f"{address}/health").close(), process, log)
        yield address


# ── every kind ────────────────────────────────────────────────────────────────────────────


def _on_sqlite(request: pytest.FixtureRequest) -> dict[str, str]:
    """What `workplace` made."""
    return {}


def _on_server(request: pytest.FixtureRequest) -> dict[str, str]:
    address, database = request.getfixturevalue("server")
    emptied(database)
    return {"MLFLOW_TRACKING_URI": address}


def _on_postgres(request: pytest.FixtureRequest) -> dict[str, str]:
    database: str = request.getfixturevalue("postgres_database")
    emptied(database)
    root = request.getfixturevalue("tmp_path") / "artifacts"
    return {"MLFLOW_TRACKING_URI": database, "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(root)}


KINDS: dict[str, Callable[[pytest.FixtureRequest], dict[str, str]]] = {
    "sqlite": _on_sqlite,
    "PostgreSQL": _on_postgres,
    "server, sqlite": _on_server,
}


def use(kind: str, request: pytest.FixtureRequest, patch: pytest.MonkeyPatch) -> None:
    """Make a store of that kind, empty, the one that the tracker finds; `workplace` is needed."""
    for key, value in KINDS[kind](request).items():
        patch.setenv(key, value)
