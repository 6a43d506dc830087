"""A database read as tables gives what MLflow gives, and only where its schema is known."""

import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from trackers.releases import NAME, a_move

from gate.errors import RecordError, TrackerError
from gate.records import GateRecord
from gate.trackers import Registry
from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store
from gate.trackers.mlflow import TRACKER

Keep = Callable[..., tuple[GateRecord, Path]]
assert TRACKER.registry is not None
REGISTRY: Registry = TRACKER.registry


def everything() -> list[Any]:
    """All that is read as tables."""
    return [
        TRACKER.past("digits-cnn"),
        list(TRACKER.models()),
        REGISTRY.moves("digits-cnn"),
        [REGISTRY.find(NAME, alias=alias) for alias in ("production", "other", "nobody")],
        REGISTRY.find("nobody-int8", alias="production"),
        REGISTRY.bridges("digits-cnn"),
        TRACKER.past("nobody"),
    ]


def filled(kept: Keep) -> str:
    """A store with runs of every kind, two versions and their moves; a run that was deleted."""
    for number, outcome in enumerate(("fail", "pass", "pass")):
        record, folder = kept(number, outcome=outcome, stage="release")
        run = TRACKER.log(record, folder)
    REGISTRY.move(a_move(record, "2", None))
    REGISTRY.move(a_move(record, "3", "2"))
    TRACKER.log_error("digits-cnn", stage="release", source="x.onnx", error="broken")
    return run


def test_it_gives_what_mlflow_gives(
    workplace: Path, kept: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = filled(kept)
    with store.opened(store.locate()) as client:
        client.delete_run(run)
        client.set_registered_model_alias(NAME, "other", "1")
    with sql.reading(store.locate()) as tables:
        assert tables is not None
    read = everything()
    monkeypatch.setattr(sql, "SCHEMAS", frozenset())
    assert read == everything()
    assert sorted(one.outcome for one in read[0]) == ["error", "fail", "pass"]
    assert all(one.limits for one in read[0] if one.outcome != "error")
    assert [move.version for move in read[2]] == ["2", "3"]


def test_a_deleted_version_has_no_alias(workplace: Path, kept: Keep) -> None:
    filled(kept)
    with store.opened(store.locate()) as client:
        client.delete_model_version(NAME, "3")
    assert REGISTRY.find(NAME, alias="production") is None


def test_reading_does_not_import_mlflow(workplace: Path, kept: Keep) -> None:
    filled(kept)
    program = (
        "import sys\nfrom gate.trackers.mlflow import TRACKER as t\n"
        "assert t.past('digits-cnn') and t.models() and t.registry.moves('digits-cnn')\n"
        f"assert t.registry.find({NAME!r}, alias='production')\n"
        "assert t.registry.bridges('digits-cnn') == ()\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_schema_is_left_to_mlflow(workplace: Path, kept: Keep) -> None:
    filled(kept)
    read = everything()
    with closing(sqlite3.connect(workplace / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'of another day'")
    with sql.reading(store.locate()) as tables:
        assert tables is None
    assert everything() == read


@pytest.mark.parametrize("variable", ["MLFLOW_WORKSPACE", "MLFLOW_ENABLE_WORKSPACES"])
def test_workspaces_are_left_to_mlflow(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "team")
    with sql.reading(store.locate()) as tables:
        assert tables is None


def test_what_is_no_database_is_told_by_mlflow(workplace: Path) -> None:
    (workplace / "mlflow.db").write_bytes(b"no database" * 100)
    with sql.reading(store.locate()) as tables:
        assert tables is None
    with pytest.raises(TrackerError, match="not a database"):
        TRACKER.past("digits-cnn")


def test_a_database_that_fails_while_it_is_read_is_an_error(workplace: Path, kept: Keep) -> None:
    filled(kept)
    with closing(sqlite3.connect(workplace / "mlflow.db")) as database, database:
        database.execute("DROP TABLE tags")
    with pytest.raises(TrackerError, match="tags"):
        TRACKER.past("digits-cnn")


def test_what_is_no_number_is_told_as_such(workplace: Path, kept: Keep) -> None:
    run = TRACKER.log(*kept())
    with store.opened(store.locate()) as client:
        client.log_metric(run, "accuracy/drop", float("nan"))
    value = TRACKER.past("digits-cnn")[0].metrics["accuracy/drop"]
    assert math.isnan(value)


@pytest.mark.parametrize("text", ["abc", "nan", "inf"])
def test_a_limit_that_is_no_number_is_told(workplace: Path, kept: Keep, text: str) -> None:
    run = TRACKER.log(*kept())
    with store.opened(store.locate()) as client:
        client.log_param(run, "budget/x", text)
    with pytest.raises(RecordError, match=f"run {run} .*is no number .*{text}"):
        TRACKER.past("digits-cnn")


def test_names_are_told_apart_by_case(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.opened(store.locate()) as client:
        client.create_experiment("gate/a")
        client.create_experiment("GATE/b")
    assert TRACKER.models() == ("a",)
    monkeypatch.setattr(sql, "SCHEMAS", frozenset())
    assert TRACKER.models() == ("a",)
