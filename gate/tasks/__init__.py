"""What a model is for: how outputs become predictions, and which metrics judge them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from gate import door
from gate.exhibits import Answers, Plot
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.records import Part
from gate.values import Array, Evaluation, Rows, TensorSpec, Values

GROUP = "gate.tasks"
TASKS = {
    "classification": "gate.tasks.classification:TASK",
    "detection": "gate.tasks.detection:TASK",
    "embedding": "gate.tasks.embedding:TASK",
    "question_answering": "gate.tasks.question_answering:TASK",
    "ranking": "gate.tasks.ranking:TASK",
    "regression": "gate.tasks.regression:TASK",
    "segmentation": "gate.tasks.segmentation:TASK",
    "text_classification": "gate.tasks.text_classification:TASK",
    "text_recognition": "gate.tasks.text_recognition:TASK",
    "token_classification": "gate.tasks.token_classification:TASK",
}


@dataclass(frozen=True, slots=True)
class BoundTask:
    """A task fitted to one model and one data set."""

    kind: str
    """What the data made of it: multi-class, binary, multi-label."""
    decode: Callable[[Mapping[str, Array]], Values]
    """Raw outputs by name, (B, …) -> what the task's metrics observe, an entry an example; NaN in
    that of an example whose outputs are not finite."""
    metrics: Mapping[str, Metric]
    """Every metric that applies to this kind, in the order a report shows them."""
    metric: Callable[[str], Metric]
    """A metric by name, parametrised ones (top5_accuracy) included.

    Raises UsageError where it does not apply to this kind."""
    tell: Callable[[Any, Any], tuple[str, str]] | None = None
    """What FP32 and INT8 predict for one example, as decoded, in a few words: for tables of
    flips."""
    groups: Callable[[Values], Mapping[str, Array]] | None = None
    """Slice columns (N,) that the targets themselves make."""
    parts: Callable[[Evaluation], Iterable[Part]] | None = None
    """Tables for the report."""
    answers: Callable[[Evaluation], Answers] | None = None
    """Targets, FP32's and INT8's answers in a few words, (N,) each, from rows."""
    plots: Callable[[Evaluation], Iterable[Plot]] | None = None
    """Curves for the report."""
    apart: Callable[[Any, Any], Array] | None = None
    """(N,) how far FP32's and INT8's predictions are apart, the worst flips having most."""


class Task(Protocol):
    """A kind of model."""

    key: str
    unit: str
    """What its examples are, each independent of the others unless the data name a `unit`."""
    decoders: tuple[str, ...]
    """Values of `build.decode`."""
    known: Mapping[str, Traits]
    """Metrics by name."""

    def traits(self, metric: str) -> Traits | None:
        """Those of a metric, parametrised ones (top5_accuracy) included; None: no such metric."""

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit the task to a model's outputs and all targets of a split.

        Without targets only metrics that compare INT8 with FP32 in itself are there.

        `first` are the FP32 model's raw outputs by name, (B, …) each, for one batch.

        Raises:
            DataError: targets and outputs do not fit; says which example and why.
            UsageError: the policy names an output or decoder that does not exist.
        """

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:
        """Metrics by name, for rows that were observed in an earlier run.

        `targets`, an entry an example, and `rows` by observation, as `rows.npz` holds them.

        Raises (when called): UsageError where a metric does not apply to what was predicted.
        """


def get(key: str) -> Task:
    """The task behind `key`; `UsageError` lists the known ones."""
    return cast(Task, door.look_up(GROUP, TASKS, key))


def names() -> tuple[str, ...]:
    """Every known key."""
    return door.names(GROUP, TASKS)
