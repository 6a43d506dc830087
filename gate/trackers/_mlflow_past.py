"""Runs of the gate as MLflow hands them back, and the files that were kept with them."""

import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from gate.errors import RecordError
from gate.trackers import PastRun
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store

STAGE = f"{content.PREFIX}stage"
"""The tag that tells a run of the gate from attempts, trials, moves and bridges."""
OUTCOMES = frozenset({"pass", "fail", "inconclusive", "waived", "error"})


def in_tables(tables: sql.Tables, experiment: int) -> tuple[PastRun, ...]:
    """Every run of the gate in a model's experiment, newest first."""
    return _newest(tables.runs(experiment, tags=content.PREFIX, params=content.BUDGET))


def asked(client: Any, experiment: str) -> tuple[PastRun, ...]:
    """The same, as MLflow gives them."""
    return _newest(map(stored, store.pages(client.search_runs, experiment_ids=[experiment])))


def stored(run: Any) -> sql.Stored:
    """A run as MLflow gives it."""
    told = run.data
    return sql.Stored(run.info.run_id, run.info.start_time, told.tags, told.params, told.metrics)


def _newest(runs: Iterable[sql.Stored]) -> tuple[PastRun, ...]:
    kept = [_past(run) for run in runs if STAGE in run.tags]
    return tuple(sorted(kept, key=lambda run: (run.when, run.tags.get("record", "")), reverse=True))


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The gate's own tags, without their prefix."""
    prefix = content.PREFIX
    return {key.removeprefix(prefix): tags[key] for key in tags if key.startswith(prefix)}


def document(client: Any, run: str, where: str) -> dict[str, Any] | None:
    """The record.json of a run, parsed; None where the run or the file is gone.

    Raises:
        RecordError: the file is damaged; the message names the store as `where`.
    """
    with tempfile.TemporaryDirectory(prefix="gate-") as scratch:
        file = fetch(client, run, content.RECORD, Path(scratch))
        if file is None:
            return None
        return _parsed(file.read_bytes(), f"{content.RECORD} of run {run} in MLflow at {where}")


def fetch(client: Any, run: str, name: str, folder: Path) -> Path | None:
    """Copy a file at the top of a run's artifacts into `folder`; None where it is not there.

    `name` is held against what lies there, so one that leads elsewhere is not found.
    """
    if name not in _artifacts(client, run):
        return None
    # without dst_path a local store would hand out its own live file
    return Path(client.download_artifacts(run, name, str(folder)))


def _artifacts(client: Any, run: str) -> set[str]:
    from mlflow.exceptions import MlflowException

    try:
        return {file.path for file in client.list_artifacts(run) if not file.is_dir}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return set()
        raise


def _past(run: sql.Stored) -> PastRun:
    known = own_tags(run.tags)
    return PastRun(
        run=run.run,
        when=datetime.fromtimestamp(run.started / 1000, UTC),
        stage=known["stage"],
        outcome=_outcome(known),
        candidate=known.get("candidate") or known.get("source", ""),
        version=known.get("version"),
        metrics={_name(key): value for key, value in run.metrics.items()},
        tags=known,
        limits=_limits(run),
    )


_name = lru_cache(maxsize=10_000)(content.decode)  # thousands of runs share a few keys


def _limits(run: sql.Stored) -> dict[str, float]:
    """Raises RecordError where one is no number: no gate wrote it."""
    prefix = content.BUDGET
    keys = [key for key in run.params if key.startswith(prefix)]
    try:
        limits = {_name(key.removeprefix(prefix)): float(run.params[key]) for key in keys}
    except ValueError as error:
        raise RecordError(_no_limit(run, str(error))) from error
    wrong = [key for key, limit in limits.items() if not math.isfinite(limit)]
    if wrong:
        raise RecordError(_no_limit(run, f"{wrong[0]} is {limits[wrong[0]]}"))
    return limits


def _no_limit(run: sql.Stored, why: str) -> str:
    return (
        f"run {run.run} in MLflow has a param {content.BUDGET}… that is no number ({why}), which "
        "no gate wrote: delete that run, and import its record again (`gate history import`)"
    )


def _outcome(known: Mapping[str, str]) -> str:
    outcome = known.get("outcome", "")
    whole = known.get("complete") == "true" and outcome in OUTCOMES
    return outcome if whole else "incomplete"


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise RecordError(f"{name} is damaged ({error}); delete that run in MLflow") from error
    if not isinstance(found, dict):
        raise RecordError(f"{name} is damaged (it is no JSON object); delete that run in MLflow")
    return found


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")
