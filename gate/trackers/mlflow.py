"""Keeps records in MLflow: an experiment a model, a run a record, a version a release.

A run counts only when its tag `gate.complete` is true. That tag and the outcome are written last,
in one request, so a run that was cut short never shows a verdict; logging its record again
completes it. The INT8 model of a release is registered as `<model>-int8`, byte for byte, whatever
its verdict; no alias is ever set here.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from gate.errors import RecordError, TrackerError
from gate.records import GateRecord
from gate.statistics.ledger import Attempt
from gate.trackers import PastRun
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_ledger as ledger
from gate.trackers import _mlflow_model as packaged
from gate.trackers import _mlflow_store as store
from gate.trackers import _mlflow_trials as trials
from gate.trials import Trial

EXPERIMENTS = "gate/"
METRICS_PER_BATCH = 1000
OTHERS_PER_BATCH = 100
OUTCOME = f"{content.PREFIX}outcome"
COMPLETE = f"{content.PREFIX}complete"
STAGE = f"{content.PREFIX}stage"
VERSION = f"{content.PREFIX}version"
OUTCOMES = frozenset({"pass", "fail", "inconclusive", "waived", "error"})


@dataclass(frozen=True, slots=True)
class _Files:
    """What is sent with a record."""

    evidence: list[Path]
    model: list[Path]
    """Empty unless the run is a release."""
    note: str | None
    """The verdict in Markdown."""


class MlflowTracker:
    """Keeps records in the store that `MLFLOW_TRACKING_URI` names, else in `./mlflow.db`."""

    key = "mlflow"

    def prepare(self) -> None:
        """Reach the store, making a sqlite one where there is none; 10 s at most.

        Raises:
            TrackerError: it cannot be reached or refused.
        """
        with store.opened(store.locate()):
            pass

    def log(self, record: GateRecord, folder: Path) -> str:
        """Keep a finished run, and at stage `release` register the INT8 model in `folder`.

        Returns the run's id. A record that is there completely is left as it is; one that was
        cut short is completed.

        Raises:
            TrackerError: the store cannot be reached or refused; a file of the record is missing;
                the model in `folder` is not the one that was judged.
        """
        files = _gather(record, folder)
        place = store.locate()
        with store.opened(place) as client:
            run = _begun(client, place, record)
            if run.data.tags.get(COMPLETE) != "true":
                _fill(client, run, record, files)
            return str(run.info.run_id)

    def log_error(self, model: str, *, stage: str, source: str, error: str) -> None:
        """Keep the trace of a run that could not judge, as a failed run.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        with store.opened(place) as client:
            tags = content.error_tags(model, stage=stage, source=source, error=error)
            with place.lock():
                experiment = _experiment(client, place, model)
            run = client.create_run(experiment, tags=tags, run_name=f"{stage}-error")
            client.set_terminated(run.info.run_id, "FAILED")
            _close(client, run.info.run_id, "error")

    def reserve(self, model: str, *, held_out: str, key: str) -> Sequence[Attempt]:
        """Count a release about to be judged; all attempts on the held-out set, oldest first.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        with store.opened(place) as client, place.lock():
            experiment = _experiment(client, place, model)
            ledger.reserve(client, experiment, model=model, held_out=held_out, key=key)
            return ledger.attempts(client, experiment, held_out)

    def log_trial(self, model: str, *, search: str, trial: Trial) -> None:
        """Keep a trial as a run nested in that of its search, which is begun by the first.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        with store.opened(place) as client:
            with place.lock():
                experiment = _experiment(client, place, model)
                parent = trials.parent(client, experiment, search)
            trials.log(client, experiment, parent, trial)

    def attempts(self, model: str) -> Sequence[Attempt]:
        """On the held-out set that the newest attempt was on, oldest first.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        with _kept(model) as found:
            return () if found is None else ledger.newest(*found)

    def past(self, model: str) -> Sequence[PastRun]:
        """Runs of a model, newest first; `incomplete` where logging was cut short.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        with _kept(model) as found:
            if found is None:
                return ()
            runs = store.pages(found[0].search_runs, experiment_ids=[found[1]])
            kept = [_past(run) for run in runs if STAGE in run.data.tags]
        newest = sorted(kept, key=lambda run: (run.when, run.tags.get("record", "")), reverse=True)
        return tuple(newest)

    def models(self) -> Sequence[str]:
        """Every model that has an experiment, sorted.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        if place.missing:
            return ()
        with store.opened(place) as client:
            found = store.pages(
                client.search_experiments, filter_string=f"name LIKE '{EXPERIMENTS}%'"
            )
            return tuple(sorted(entry.name.removeprefix(EXPERIMENTS) for entry in found))

    def record(self, run: str) -> dict[str, Any] | None:
        """The stored record.json of a run, parsed; None where the run or the file is gone.

        Raises:
            TrackerError: the store cannot be reached.
            RecordError: the file is damaged.
        """
        place = store.locate()
        if place.missing:
            return None
        with store.opened(place) as client, tempfile.TemporaryDirectory(prefix="gate-") as scratch:
            if content.RECORD not in _artifacts(client, run):
                return None
            # without dst_path a local store would hand out its own live file
            text = Path(client.download_artifacts(run, content.RECORD, scratch)).read_bytes()
        return _parsed(text, f"{content.RECORD} of run {run} in MLflow at {place.shown}")

    def where(self) -> str:
        """How a person opens the store: a command for a database, the address of a server."""
        place = store.locate()
        if place.uri.startswith(("http://", "https://")):
            return place.shown
        return f"mlflow ui --backend-store-uri {place.shown}"


TRACKER = MlflowTracker()


# ── keeping a record ──────────────────────────────────────────────────────────────────────


def _gather(record: GateRecord, folder: Path) -> _Files:
    """The files to send, checked before anything is sent."""
    try:
        evidence = content.evidence(folder)
        if content.RECORD not in {path.name for path in evidence}:
            _refuse(f"{folder} holds no {content.RECORD}: name the folder that `gate run` wrote")
        verdict = folder / content.VERDICT
        note = verdict.read_text(encoding="utf-8") if verdict in evidence else None
        to_register = record.stage == "release" and not record.attested
        model = packaged.judged_files(record, folder) if to_register else []
    except OSError as error:
        raise TrackerError(f"the record in {folder} cannot be read: {error}") from error
    return _Files(evidence=evidence, model=model, note=note)


def _begun(client: Any, place: store.Place, record: GateRecord) -> Any:
    """The record's run: the one that is there, else a new one."""
    with place.lock():
        experiment = _experiment(client, place, record.model)
        name = f"{content.PREFIX}record"
        known = client.search_runs([experiment], f"tags.`{name}` = {_quoted(record.id)}")
        if known:
            return known[0]
        return client.create_run(
            experiment,
            start_time=_milliseconds(record.created),
            tags=content.opening_tags(record),
            run_name=record.id,
        )


@contextmanager
def _kept(model: str) -> Iterator[tuple[Any, str] | None]:
    """The store and a model's experiment; None where there is neither."""
    place = store.locate()
    if place.missing:
        yield None
        return
    with store.opened(place) as client:
        experiment = client.get_experiment_by_name(f"{EXPERIMENTS}{model}")
        yield None if experiment is None else (client, str(experiment.experiment_id))


def _experiment(client: Any, place: store.Place, model: str) -> str:
    """The id of a model's experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    name = f"{EXPERIMENTS}{model}"
    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=place.artifacts(name)))
        except MlflowException as error:
            known = client.get_experiment_by_name(name)
            if known is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    if known.lifecycle_stage != "active":
        _refuse(
            f"MLflow at {place.shown}: the experiment {name!r} is deleted; restore it with "
            f"`mlflow experiments restore --experiment-id {known.experiment_id}`"
        )
    return str(known.experiment_id)


def _fill(client: Any, run: Any, record: GateRecord, files: _Files) -> None:
    """Everything about a record, the outcome last; doing it twice changes nothing."""
    run_id = run.info.run_id
    version = packaged.register(client, run, record, files.model) if files.model else None
    for path in files.evidence:
        client.log_artifact(run_id, str(path))
    client.log_inputs(run_id, datasets=_datasets(record))
    tags = content.tags(record)
    if files.note is not None:
        tags[content.NOTE] = content.shortened(files.note, content.LONGEST_TAG)
    if version is not None:
        tags[VERSION] = version
    _log(client, run_id, _milliseconds(record.created), record, tags)
    if version is not None:
        name = packaged.registered_name(record)
        client.set_model_version_tag(name, version, OUTCOME, record.verdict.outcome)
        told = f"{record.verdict.outcome.upper()}: INT8 of {record.candidate.source}"
        client.update_model_version(name, version, description=told)
    seconds = sum(record.durations.values())
    end = _milliseconds(record.created) + round(1000 * seconds)
    client.set_terminated(run_id, "FINISHED", end_time=end)
    _close(client, run_id, record.verdict.outcome)


def _log(client: Any, run_id: str, when: int, record: GateRecord, tags: Mapping[str, str]) -> None:
    """Metrics, params and tags, in as many requests as MLflow's limits ask for."""
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric(key, value, when, 0) for key, value in content.metrics(record).items()]
    for batch in _chunks(metrics, METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=batch)
    params = [Param(key, value) for key, value in content.params(record).items()]
    for batch in _chunks(params, OTHERS_PER_BATCH):
        client.log_batch(run_id, params=batch)
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _close(client: Any, run_id: str, outcome: str) -> None:
    """The outcome, and with it that nothing is missing: the last thing written to a run."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(OUTCOME, outcome), RunTag(COMPLETE, "true")])


def _datasets(record: GateRecord) -> list[Any]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(**fields),
            [InputTag("mlflow.data.context", role), InputTag("gate.sha256", sha256)],
        )
        for role, sha256, fields in content.datasets(record)
    ]


# ── reading back ──────────────────────────────────────────────────────────────────────────


def _past(run: Any) -> PastRun:
    known = {
        key.removeprefix(content.PREFIX): value
        for key, value in run.data.tags.items()
        if key.startswith(content.PREFIX)
    }
    return PastRun(
        run=run.info.run_id,
        when=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        stage=known["stage"],
        outcome=_outcome(known),
        candidate=known.get("candidate") or known.get("source", ""),
        version=known.get("version"),
        metrics={content.decode(key): value for key, value in run.data.metrics.items()},
        tags=known,
    )


def _outcome(known: Mapping[str, str]) -> str:
    outcome = known.get("outcome", "")
    whole = known.get("complete") == "true" and outcome in OUTCOMES
    return outcome if whole else "incomplete"


def _artifacts(client: Any, run: str) -> set[str]:
    from mlflow.exceptions import MlflowException

    try:
        return {file.path for file in client.list_artifacts(run)}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return set()
        raise


def _parsed(text: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise RecordError(f"{name} is damaged ({error}); delete that run in MLflow") from error
    if not isinstance(document, dict):
        raise RecordError(f"{name} is damaged (it is no JSON object); delete that run in MLflow")
    return document


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


# ── small things ──────────────────────────────────────────────────────────────────────────


def _quoted(text: str) -> str:
    if "'" in text or "\\" in text:
        _refuse(f"record id {text!r} cannot be kept in MLflow: it holds a quote or a backslash")
    return f"'{text}'"


def _milliseconds(when: datetime) -> int:
    return round(when.timestamp() * 1000)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _refuse(message: str) -> NoReturn:
    raise TrackerError(message)
