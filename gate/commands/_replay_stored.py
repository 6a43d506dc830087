"""What a record's folder holds for a replay, each part shown to be what the record vouches for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gate import artifact, data, decoding, plugins, preprocess, remote
from gate.backends import Backend
from gate.errors import GateError, RecordError, UsageError
from gate.metrics import Metric
from gate.records import GateRecord
from gate.release import brings_tokenizer, with_tokenizer
from gate.rows import load_arrays, load_rows, places
from gate.sources import DataSource
from gate.tasks import BoundTask
from gate.values import Array, Evaluation, Ragged, Rows, Split, TensorSpec, Values

INT8, FP32, OUTPUTS, ROWS = "model.int8.onnx", "model.fp32.onnx", "outputs.npz", "rows.npz"
TOKENIZER = "tokenizer.json"
_OUTPUT = "output/"
_CLOSE = 1e-6
"""Rows that were observed on another machine may differ in the last bits."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The sample of INT8 outputs that a run left, and the order in which it saw examples."""

    ids: Array
    """(S,) of str, in the order of `evaluation`."""
    outputs: Mapping[str, Array]
    """(S, …) by output name."""
    places: Array
    """(S,) of int64: where the sample stands in `evaluation`."""
    evaluation: Evaluation
    """Every example that the run saw."""

    def take(self, chosen: Array) -> "Stored":
        """The examples at `chosen`, ascending."""
        outputs = {name: values[chosen] for name, values in self.outputs.items()}
        return Stored(self.ids[chosen], outputs, self.places[chosen], self.evaluation)


# ── the artifact and the sample ───────────────────────────────────────────────────────────


def demand_artifact(folder: Path, record: GateRecord) -> Path:
    """The INT8 model beside the record.

    Raises:
        RecordError: there is none, it is missing, or not the one that was judged.
    """
    model = folder / INT8
    if record.attested:
        raise RecordError(
            f"record {record.id} judged the outputs of models that ran elsewhere: there is no "
            "model to replay here"
        )
    if not model.is_file():
        raise RecordError(f"{model} is missing: fetch the whole folder of record {record.id}")
    if artifact.sha256_of(*artifact.files(model)) != record.int8.sha256:
        raise RecordError(
            f"{model} is not the INT8 model that record {record.id} judged: it was changed or "
            "replaced. Fetch it again, or run the gate again"
        )
    return model


def demand_fp32(folder: Path, record: GateRecord) -> Path:
    """The FP32 model beside the record.

    Raises:
        RecordError: it is missing, or not the one that was judged.
    """
    model = folder / FP32
    if not model.is_file():
        raise RecordError(f"{model} is missing: fetch the whole folder of record {record.id}")
    if artifact.sha256_of(*artifact.files(model)) != record.candidate.fp32_sha256:
        raise RecordError(
            f"{model} is not the FP32 model of record {record.id}: fetch the folder again"
        )
    return model


def vouched_rows(folder: Path, record: GateRecord) -> Evaluation:
    """The rows beside the record.

    Raises:
        RecordError: they are missing, damaged, or of another run.
    """
    evaluation = load_rows(folder / ROWS)
    _demand_the_runs(folder / ROWS, record.rows_sha256, record)
    return evaluation


def load_stored(folder: Path, record: GateRecord) -> Stored:
    """The stored sample.

    Raises:
        RecordError: `outputs.npz` or `rows.npz` is missing, damaged, or of another run.
    """
    evaluation = vouched_rows(folder, record)
    arrays = load_arrays(folder / OUTPUTS)
    _demand_the_runs(folder / OUTPUTS, record.outputs_sha256, record)
    ids = arrays["id"]
    outputs = {
        name.removeprefix(_OUTPUT): values
        for name, values in arrays.items()
        if name.startswith(_OUTPUT)
    }
    _demand_fit(folder / OUTPUTS, ids, outputs, record)
    found = places(ids, evaluation.ids)
    if found is None:
        raise RecordError(
            f"{folder / OUTPUTS} holds examples that record {record.id} did not see: it is of "
            "another run. Fetch the folder again, or run the gate again"
        )
    return Stored(ids, outputs, found, evaluation).take(np.argsort(found))


def _demand_the_runs(file: Path, sha256: str | None, record: GateRecord) -> None:
    if sha256 is not None and artifact.sha256_of(file) != sha256:
        raise RecordError(
            f"{file} is not what record {record.id} vouches for: it was changed after "
            "it was written. Fetch it again, or run the gate again"
        )


def _demand_fit(file: Path, ids: Array, outputs: Mapping[str, Array], record: GateRecord) -> None:
    whole = all(values.ndim and len(values) == len(ids) for values in outputs.values())
    if not len(ids) or not whole or not outputs:
        raise RecordError(
            f"{file} is damaged: it holds {len(ids)} ids, and not one output for each. Run the "
            f"gate again to replay record {record.id}"
        )


# ── the inputs ────────────────────────────────────────────────────────────────────────────


def with_own_files(record: GateRecord, folder: Path) -> GateRecord:
    """The record, reading the candidate's own tokenizer from its folder where it was judged so.

    Raises:
        RecordError: it is missing.
    """
    if not brings_tokenizer(record):
        return record
    if not (folder / TOKENIZER).is_file():
        raise RecordError(
            f"{folder / TOKENIZER} is missing: fetch the whole folder of record {record.id}"
        )
    return with_tokenizer(record, folder / TOKENIZER)


def held_out(record: GateRecord, path: Path | None, scratch: Path) -> Split:
    """The examples that the record was measured on, from the policy's place or from `path`.

    Raises:
        UsageError: they are not there; says to pass --data.
        GateError: they are damaged, or others.
    """
    return opened("held_out", record, path, scratch, flag="--data")


def opened(name: str, record: GateRecord, path: Path | None, scratch: Path, *, flag: str) -> Split:
    """A split of the record's run, from the policy's place or from `path`, which `flag` gives.

    Raises:
        UsageError: it is not there; says to pass the flag.
        GateError: it is damaged, or another.
    """
    policy = record.policy
    _demand_preprocessing(record)
    named, known = _named(record, name)
    # which bytes hold the examples does not matter: their content is compared below
    source = named.model_copy(update={"sha256": None})
    base = home = home_of(record)
    what = name.replace("_", "-")
    if path is not None:
        source = source.model_copy(update={"path": str(path), "format": _format(source, path)})
        base = Path()
    elif not remote.is_uri(source.path) and not (base / source.path).exists():
        raise UsageError(
            f"the {what} data of record {record.id} are no longer at {base / source.path}: "
            f"say where they are with {flag}"
        )
    split = data.open_split(
        name,
        source,
        base=base,
        inputs=tuple(TensorSpec(**info.model_dump()) for info in record.candidate.inputs),
        preprocess=policy.build.preprocess,
        seed=policy.judge.seed,
        scratch=scratch,
        needs_target=name == "held_out" and data.has_target(name, source, base),
        home=home,
    )
    if split.sha256 != known:
        raise UsageError(
            f"{_shown(source, base)} is not the {what} set of record {record.id} (sha256 "
            f"{split.sha256[:12]}…, and it was {known[:12]}…): name the right one with {flag}"
        )
    return split


def _shown(source: DataSource, base: Path) -> str:
    return source.path if remote.is_uri(source.path) else str(base / source.path)


def _named(record: GateRecord, name: str) -> tuple[DataSource, str]:
    """Where the policy says that a split is, and the sha256 that it had."""
    info = getattr(record.splits, name)
    section = record.policy.judge if name == "held_out" else record.policy.build
    source: DataSource | None = getattr(section, name)
    if source is None or info is None:
        raise UsageError(f"record {record.id} was made without {name} data")
    return source, str(info.sha256)


def _format(source: Any, path: Path) -> str | None:
    """The policy's format counts for a file that is named alike."""
    return source.format if path.suffix == Path(source.path).suffix else None


def _demand_preprocessing(record: GateRecord) -> None:
    if preprocess.digest(record.policy.build.preprocess) != record.preprocessing_sha256:
        raise RecordError(
            f"the preprocessing in record {record.id} is not what its hash says: it was changed "
            "after it was written, or this version of gate does it otherwise. Run the gate again"
        )


def batches(
    stored: Stored, split: Split, *, size: int, whole: bool
) -> Iterator[tuple[Mapping[str, Array], Array]]:
    """Feeds of full batches by input name, and which of their outputs are the sample's, in order.

    With `whole` they are the run's own batches. Otherwise the sample is packed into as few as
    possible, of the same size: an integer kernel gives an example the same beside any other.
    """
    for ids, wanted in _whole(stored, size) if whole else _packed(stored, size):
        positions = places(ids, split.ids)
        assert positions is not None, "a split of the record's digest holds the record's ids"
        rows = split.order[positions]
        yield split.feeds(rows), wanted


def _whole(stored: Stored, size: int) -> Iterator[tuple[Array, Array]]:
    numbers = stored.places // size
    for number in np.unique(numbers):
        start = int(number) * size
        yield (
            stored.evaluation.ids[start : start + size],
            stored.places[numbers == number] - start,
        )


def _packed(stored: Stored, size: int) -> Iterator[tuple[Array, Array]]:
    for start in range(0, len(stored.ids), size):
        part = stored.ids[start : start + size]
        # a short batch is filled up, for a batch of another size may be another arithmetic
        full = np.resize(part, min(size, len(stored.evaluation.ids)))
        yield full, np.arange(len(part))


# ── the task ──────────────────────────────────────────────────────────────────────────────


def bind(
    folder: Path, record: GateRecord, split: Split, stored: Stored, backend: Backend
) -> BoundTask:
    """The task, fitted as it was fitted in the run: to FP32's outputs where that model is here.

    Only shapes come of it, so INT8's stored outputs do as well where it is not.
    """
    outputs = tuple(TensorSpec(**info.model_dump()) for info in record.candidate.outputs)
    first: Mapping[str, Array] = stored.outputs
    if (folder / FP32).is_file():
        model = demand_fp32(folder, record)
        runner = backend.open(model, threads=record.provenance.threads)
        first = runner.run(split.batch(0, record.provenance.batch_size).feeds)
    home = home_of(record)
    plugins.demand_same(record.provenance.plugins)
    return decoding.bind(record.policy, outputs, split.targets, first, home=home)


def home_of(record: GateRecord) -> Path:
    """The folder that paths of the record's policy are relative to."""
    told = record.policy_source
    return Path(told.base) if told.base else Path(told.file).parent


def demand_vouched(stored: Stored, task: BoundTask, targets: Values | None, file: Path) -> None:
    """The outputs give the rows that the record vouches for.

    Raises:
        RecordError: they do not, so they were changed, or are of another run.
    """
    scores = task.decode(stored.outputs)
    for metric in task.metrics.values():
        known = stored.evaluation.int8.get(metric.observation)
        if metric.relative or known is None:
            continue
        if not _alike(metric, scores, targets, known.take(stored.places)):
            raise RecordError(
                f"{file} does not give the {metric.observation} rows that the record vouches for: "
                "it was changed after it was written. Fetch it again, or run the gate again"
            )


def _alike(metric: Metric, scores: Values, targets: Values | None, known: Rows) -> bool:
    sides = [metric.observe(scores, targets, None), known.values]
    if all(isinstance(side, Ragged) for side in sides):
        before, after = (side for side in sides if isinstance(side, Ragged))
        if before.sizes.tolist() != after.sizes.tolist():
            return False
        sides = [before.values, after.values]
    old, new = map(np.asarray, sides)
    return old.shape == new.shape and np.allclose(
        old, new, rtol=_CLOSE, atol=_CLOSE, equal_nan=True
    )


def targets_of(stored: Stored, split: Split) -> Values | None:
    """The sample's targets, an entry an example; None where there are none."""
    positions = places(stored.ids, split.ids)
    if positions is None:
        raise GateError("the held-out set does not hold the record's examples")
    return None if split.targets is None else split.targets[positions]
