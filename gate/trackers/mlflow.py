"""Keeps records in MLflow: an experiment a model, a run a record, a version a release.

A run counts only when its tag `gate.complete` is true. That tag and the outcome are written last,
in one request, so a run that was cut short never shows a verdict; logging its record again
completes it. The INT8 model of a release is registered as `<model>-int8`, byte for byte, whatever
its verdict, which the version shows once the run does. Logging sets no alias:
`MlflowRegistry.move` does, when it is told to.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from gate import artifact
from gate.errors import TrackerError
from gate.records import GateRecord
from gate.registered import registered_name
from gate.statistics.ledger import Attempt
from gate.trackers import PastRun, Registry
from gate.trackers import _mlflow_content as content
from gate.trackers import _mlflow_experiments as experiments
from gate.trackers import _mlflow_ledger as ledger
from gate.trackers import _mlflow_model as packaged
from gate.trackers import _mlflow_past as past
from gate.trackers import _mlflow_sql as sql
from gate.trackers import _mlflow_store as store
from gate.trackers import _mlflow_trials as trials
from gate.trackers._mlflow_registry import MlflowRegistry
from gate.trials import Trial

METRICS_PER_BATCH = 800
"""With as many params and tags as a request may hold, all it may hold: 1000."""
OTHERS_PER_BATCH = 100
OUTCOME = f"{content.PREFIX}outcome"
COMPLETE = f"{content.PREFIX}complete"
VERSION = f"{content.PREFIX}version"
SENT = f"{content.PREFIX}record_sha256"
"""Of record.json: whoever reads it back sees that it is what was sent."""


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
    registry: Registry | None = MlflowRegistry()

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
            else:
                _complete_versions(client, run, record)
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
                experiment = experiments.ensured(client, place, model)
            run = client.create_run(experiment, tags=tags, run_name=f"{stage}-error")
            client.set_terminated(run.info.run_id, "FAILED")
            _close(client, run.info.run_id, "error")

    def reserve(
        self, model: str, *, held_out: str, key: str, when: datetime | None = None
    ) -> Sequence[Attempt]:
        """Count a release about to be judged; all attempts on the held-out set, oldest first.

        With `when` it was begun then, and those that began later are left out.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        with store.opened(place) as client, place.lock():
            experiment = experiments.ensured(client, place, model)
            began = None if when is None else _milliseconds(when)
            ledger.reserve(client, experiment, began, model=model, held_out=held_out, key=key)
            return ledger.attempts(client, experiment, held_out, until=began)

    def log_trial(self, model: str, *, search: str, trial: Trial) -> None:
        """Keep a trial as a run nested in that of its search, which is begun by the first.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        with store.opened(place) as client:
            with place.lock():
                experiment = experiments.ensured(client, place, model)
                parent = trials.parent(client, experiment, search)
            trials.log(client, experiment, parent, trial)

    def attempts(self, model: str) -> Sequence[Attempt]:
        """On the held-out set that the newest attempt was on, oldest first.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        with experiments.kept(model) as found:
            return () if found is None else ledger.newest(*found)

    def past(self, model: str) -> Sequence[PastRun]:
        """Runs of a model, newest first; `incomplete` where logging was cut short.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        with sql.reading(store.locate()) as tables:
            if tables is not None:
                experiment = tables.experiment(f"{experiments.FOLDER}{model}")
                return () if experiment is None else past.in_tables(tables, experiment)
        with experiments.kept(model) as found:
            return () if found is None else past.asked(*found)

    def models(self) -> Sequence[str]:
        """Every model that has an experiment, sorted.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        if place.missing:
            return ()
        with sql.reading(place) as tables:
            if tables is not None:
                folder = experiments.FOLDER
                return tuple(name.removeprefix(folder) for name in tables.experiments(folder))
        with store.opened(place) as client:
            return experiments.models(client)

    def record(self, run: str) -> dict[str, Any] | None:
        """The stored record.json of a run, parsed; None where the run or the file is gone.

        Raises:
            TrackerError: the store cannot be reached.
            RecordError: the file is damaged.
        """
        place = store.locate()
        if place.missing:
            return None
        with store.opened(place) as client:
            return past.document(client, run, place.shown)

    def fetch(self, run: str, name: str, folder: Path) -> Path | None:
        """Copy a file that was kept with a run into `folder`; None where run or file is gone.

        Raises:
            TrackerError: the store cannot be reached or refused.
        """
        place = store.locate()
        if place.missing:
            return None
        with store.opened(place) as client:
            return past.fetch(client, run, name, folder)

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

    def begun() -> Any:
        experiment = experiments.ensured(client, place, record.model)
        if (run := _known(client, experiment, record.id)) is not None:
            return run
        with store.unrepeated():
            return client.create_run(
                experiment,
                start_time=_milliseconds(record.created),
                tags=content.opening_tags(record),
                run_name=record.id,
            )

    with place.lock():
        return store.insisted(begun)


def _known(client: Any, experiment: str, record: str) -> Any:
    """The run of a record; None where there is none."""
    tag = f"{content.PREFIX}record"
    found = client.search_runs([experiment], f"tags.`{tag}` = {_quoted(record)}")
    # moves of an alias name the record that backs them, too
    return next((run for run in found if past.STAGE in run.data.tags), None)


def _fill(client: Any, run: Any, record: GateRecord, files: _Files) -> None:
    """Everything about a record, the outcome last; doing it twice changes nothing."""
    run_id = run.info.run_id
    version = packaged.register(client, run, record, files.model) if files.model else None
    for path in files.evidence:
        client.log_artifact(run_id, str(path))
    _demand_kept(client, run_id, files.evidence)
    store.insisted(lambda: client.log_inputs(run_id, datasets=_datasets(record)))
    tags = content.tags(record)
    tags[SENT] = next(artifact.sha256_of(f) for f in files.evidence if f.name == content.RECORD)
    if files.note is not None:
        tags[content.NOTE] = content.shortened(files.note, content.LONGEST_TAG)
    if version is not None:
        tags[VERSION] = version
    _log(client, run_id, _milliseconds(record.created), record, tags)
    seconds = sum(record.durations.values())
    end = _milliseconds(record.created) + round(1000 * seconds)
    client.set_terminated(run_id, "FINISHED", end_time=end)
    _close(client, run_id, record.verdict.outcome)
    if version is not None:  # last: a version shows no verdict that its run does not
        _tell_outcome(client, version, record)


def _complete_versions(client: Any, run: Any, record: GateRecord) -> None:
    """Of a run that is whole: the outcome of its version, where that was cut short."""
    for version in packaged.registered(client, registered_name(record.model), run.info.run_id):
        if OUTCOME not in version.tags:
            _tell_outcome(client, version.version, record)


def _tell_outcome(client: Any, version: str, record: GateRecord) -> None:
    name = registered_name(record.model)
    client.set_model_version_tag(name, version, OUTCOME, record.verdict.outcome)
    if client.get_model_version(name, version).tags.get(OUTCOME) != record.verdict.outcome:
        _refuse(f"version {version} of {name} does not show its outcome, which was confirmed")


def _log(client: Any, run_id: str, when: int, record: GateRecord, tags: Mapping[str, str]) -> None:
    """Metrics, params and tags, in as few requests as MLflow's limits allow."""
    from mlflow.entities import Metric, Param, RunTag

    batches = zip_longest(
        _chunks(
            [Metric(key, value, when, 0) for key, value in content.metrics(record).items()],
            METRICS_PER_BATCH,
        ),
        _chunks(
            [Param(key, value) for key, value in content.params(record).items()], OTHERS_PER_BATCH
        ),
        _chunks([RunTag(key, value) for key, value in tags.items()], OTHERS_PER_BATCH),
        fillvalue=(),
    )
    for numbers, settings, told in batches:
        client.log_batch(run_id, metrics=numbers, params=settings, tags=told)


def _close(client: Any, run_id: str, outcome: str) -> None:
    """The outcome, and with it that nothing is missing: the last thing written to a run."""
    from mlflow.entities import RunTag

    last = {OUTCOME: outcome, COMPLETE: "true"}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in last.items()])
    if last.items() - client.get_run(run_id).data.tags.items():
        _refuse(f"run {run_id} is not as it was sent: the server confirmed what it did not keep")


def _demand_kept(client: Any, run_id: str, files: Sequence[Path]) -> None:
    """Raises TrackerError where the store confirmed files that it does not list, or cut short."""
    try:
        sizes = {found.path: found.file_size for found in client.list_artifacts(run_id)}
    except (AttributeError, KeyError, TypeError) as error:  # MLflow looks at no type of an answer
        _refuse(f"the list of the files of run {run_id} is none: {error}")
    for file in files:
        if sizes.get(file.name) not in (None, file.stat().st_size) or file.name not in sizes:
            _refuse(f"{file.name} of run {run_id} was sent, and is not there as it was sent")


def _datasets(record: GateRecord) -> list[Any]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(**fields),
            [InputTag("mlflow.data.context", role), InputTag("gate.sha256", sha256)],
        )
        for role, sha256, fields in content.datasets(record)
    ]


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
