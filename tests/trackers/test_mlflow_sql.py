import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store
from gate.trackers.mlflow import TRACKER


def test_a_database_read_by_columns_gives_what_mlflow_gives(
    workplace: Path, kept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, outcome in enumerate(("pass", "fail", "pass")):
        run = TRACKER.log(*kept(number, outcome=outcome))
    TRACKER.log_error("digits-cnn", stage="release", source="x.onnx", error="broken")
    with store.opened(store.locate()) as client:
        client.delete_run(run)
        assert sql.database(client) is not None
    read = TRACKER.past("digits-cnn")
    monkeypatch.setattr(sql, "database", lambda client: None)
    assert read == TRACKER.past("digits-cnn")
    assert sorted(one.outcome for one in read) == ["error", "fail", "pass"]
    assert all(one.limits for one in read if one.outcome != "error")


def test_what_is_no_number_is_told_as_such(workplace: Path, kept: Callable[..., Any]) -> None:
    run = TRACKER.log(*kept())
    with store.opened(store.locate()) as client:
        client.log_metric(run, "accuracy/drop", float("nan"))
    value = TRACKER.past("digits-cnn")[0].metrics["accuracy/drop"]
    assert math.isnan(value)
