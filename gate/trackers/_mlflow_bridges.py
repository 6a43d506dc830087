"""Bridges between held-out sets in MLflow: a run each, with bridge.json and its files of rows."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from gate import artifact
from gate.errors import RecordError, TrackerError
from gate.registered import Bridge
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_experiments as experiments
from gate.trackers import _mlflow_past as past
from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store

_FILE = "bridge.json"
_BRIDGE = f"{content.PREFIX}bridge"
_COMPLETE = f"{content.PREFIX}complete"


def gathered(bridge: Bridge, folder: Path) -> list[Path]:
    """The files of rows that a bridge names, checked before anything is sent.

    Raises:
        TrackerError: one is missing, or not the one that the bridge is about.
    """
    return [
        _rows(folder, release.rows, release.rows_sha256)
        for release in {release.rows: release for release in bridge.releases}.values()
    ]


def _rows(folder: Path, name: str, sha256: str) -> Path:
    path = folder / name
    if path.name != name or name == _FILE:
        raise TrackerError(f"the bridge names its rows {name!r}, which is no plain file name")
    try:
        found = artifact.sha256_of(path)
    except OSError as error:
        raise TrackerError(f"the rows {path} of the bridge cannot be read: {error}") from error
    if found != sha256:
        raise TrackerError(
            f"{path} are not the rows of the bridge: their sha256 is {found}, and the bridge says "
            f"{sha256}. Run `gate rebase` again; nothing was kept"
        )
    return path


def keep(client: Any, place: store.Place, bridge: Bridge, files: Sequence[Path]) -> str:
    """Keep a bridge, or complete what was cut short; its run's id."""
    with place.lock():
        run = _begun(client, place, bridge)
    run_id = str(run.info.run_id)
    if run.data.tags.get(_COMPLETE) == "true":
        return run_id
    for file in files:
        client.log_artifact(run_id, str(file))
    with TemporaryDirectory(prefix="gate-") as scratch:
        document = Path(scratch) / _FILE
        document.write_text(bridge.model_dump_json(indent=2), encoding="utf-8")
        client.log_artifact(run_id, str(document))
    client.set_terminated(run_id, "FINISHED")
    client.set_tag(run_id, _COMPLETE, "true")
    return run_id


def _begun(client: Any, place: store.Place, bridge: Bridge) -> Any:
    """The bridge's run: the one that is there, else a new one."""
    experiment = experiments.ensured(client, place, bridge.model)
    known = client.search_runs([experiment], f"tags.`{_BRIDGE}` = '{_plain(bridge.id)}'")
    if known:
        return known[0]
    tags = {
        "mlflow.source.name": "gate",
        "mlflow.source.type": "JOB",
        _BRIDGE: bridge.id,
        f"{content.PREFIX}model": bridge.model,
        f"{content.PREFIX}before": bridge.before,
        f"{content.PREFIX}after": bridge.after,
        _COMPLETE: "false",
        content.NOTE: "Releases evaluated on an old and on a new held-out set. Do not delete it.",
    }
    with store.unrepeated():
        return client.create_run(experiment, tags=tags, run_name=f"bridge-{bridge.id}")


def is_any(tables: sql.Tables, experiment: int) -> bool:
    """Whether a model has a bridge: what it says lies in files, which MLflow hands out."""
    return bool(tables.tagged(experiment, _BRIDGE, prefix=_COMPLETE, deleted=False))


def every(client: Any, experiment: str) -> tuple[tuple[str, Bridge], ...]:
    """The complete ones with the ids of their runs, newest first.

    Raises:
        RecordError: one is damaged.
    """
    runs = store.pages(
        client.search_runs,
        experiment_ids=[experiment],
        filter_string=f"tags.`{_BRIDGE}` LIKE '%' AND tags.`{_COMPLETE}` = 'true'",
    )
    found = [(str(run.info.run_id), _read(client, str(run.info.run_id))) for run in runs]
    return tuple(sorted(found, key=lambda one: (one[1].created, one[1].id), reverse=True))


def _read(client: Any, run: str) -> Bridge:
    with TemporaryDirectory(prefix="gate-") as scratch:
        file = past.fetch(client, run, _FILE, Path(scratch))
        if file is None:
            raise RecordError(f"run {run} in MLflow is a bridge without {_FILE}: delete that run")
        try:
            return Bridge.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise RecordError(
                f"{_FILE} of run {run} in MLflow is damaged ({error.error_count()} errors, the "
                f"first: {error.errors()[0]['msg']}); delete that run"
            ) from error


def _plain(text: str) -> str:
    if "'" in text or "\\" in text:
        raise TrackerError(f"{text!r} cannot be kept in MLflow: it holds a quote or a backslash")
    return text
