"""The INT8 model of a record, run again on other examples: as it was shipped.

Inputs are prepared, and outputs read, as the record's own policy says, in its own batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gate import data, decoding
from gate.backends import Backend
from gate.evaluate import first_outputs, observe_alone, opening
from gate.metrics import Metric
from gate.records import GateRecord
from gate.sources import DataSource
from gate.values import Array, Batch, Rows, Split, TensorSpec


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model runs, and what its data are relative to."""

    backend: Backend
    threads: int
    base: Path
    """What the path of the data is relative to."""
    scratch: Path
    """A private folder."""
    home: Path
    """What files of preprocessing and decoding are relative to."""


@dataclass(frozen=True, slots=True)
class Again:
    """What a model gave."""

    split: Split
    metrics: Mapping[str, Metric]
    rows: Mapping[str, Rows]
    """By observation name, in the order of the split."""


def open_again(
    record: GateRecord, source: DataSource, place: Place, *, labelled: bool, seed: int
) -> Split:
    """A held-out set, as the model of a record takes it.

    Raises:
        GateError: it cannot be read, or does not fit the model.
    """
    build = record.policy.build
    inputs = tuple(TensorSpec(i.name, i.dtype, i.shape) for i in record.candidate.inputs)
    return data.open_split(
        "held_out",
        source,
        base=place.base,
        inputs=inputs,
        preprocess=build.preprocess,
        seed=seed,
        scratch=place.scratch,
        needs_target=labelled,
        classes=build.classes,
        home=place.home,
    )


def rerun(
    record: GateRecord,
    model: Path,
    split: Split,
    place: Place,
    *,
    metrics: Sequence[str] | None = None,
    who: str = "the INT8 model",
    progress: Callable[[int], None] = lambda _: None,
) -> Again:
    """Rows of a record's INT8 model on a split.

    Args:
        record: what released the model.
        model: its ONNX file, already shown to be the one.
        split: as `open_again` gives it.
        place: where it runs.
        metrics: by name; default: all of the task that are about one model alone.
        who: the model, as an error names it.
        progress: called with the number of examples done after each batch.

    Raises:
        GateError: the model fails, gives NaN or Inf, or does not fit the examples.
    """
    runner = place.backend.open(model, threads=place.threads)
    size = record.provenance.batch_size

    def give(batch: Batch) -> Mapping[str, Array]:
        return runner.run(batch.feeds)

    outputs = tuple(TensorSpec(o.name, o.dtype, o.shape) for o in record.candidate.outputs)
    first = first_outputs(give, opening(split, size))
    task = decoding.bind(record.policy, outputs, split.targets, first, home=place.home)
    every = [name for name, metric in task.metrics.items() if not metric.relative]
    chosen = {name: task.metric(name) for name in (every if metrics is None else metrics)}
    rows = observe_alone(
        give, split, task=task, metrics=chosen, batch_size=size, who=who, progress=progress
    )
    return Again(split, chosen, rows)
