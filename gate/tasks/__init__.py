"""What a model is for: how outputs become predictions, and which metrics judge them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from gate import door
from gate.metrics import Metric
from gate.policy import Build
from gate.values import Array, Rows, TensorSpec

GROUP = "gate.tasks"
TASKS = {"classification": "gate.tasks.classification:TASK"}


@dataclass(frozen=True, slots=True)
class BoundTask:
    """A task fitted to one model and one data set."""

    kind: str
    """What the data made of it: multi-class, binary, multi-label."""
    decode: Callable[[Mapping[str, Array]], Array]
    """Raw outputs by name, (B, …) -> scores (B, C)."""
    metrics: Mapping[str, Metric]
    """Every metric that applies to this kind, in the order a report shows them."""
    metric: Callable[[str], Metric]
    """A metric by name, parametrised ones (top5_accuracy) included.

    Raises UsageError where it does not apply to this kind."""


class Task(Protocol):
    """A kind of model."""

    key: str
    decoders: tuple[str, ...]
    """Values of `build.decode`."""
    known: tuple[str, ...]
    """Metric names, for messages."""

    def proportion(self, metric: str) -> bool | None:
        """Whether a known metric is a 0/1 per example; None where the name is not known."""

    def relative(self, metric: str) -> bool:
        """Whether a known metric compares INT8 with FP32 in itself."""

    def higher_is_better(self, metric: str) -> bool:
        """A known metric's direction."""

    def share(self, metric: str) -> bool:
        """Whether a known metric's values lie in 0..1."""

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Array,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """Fit the task to a model's outputs and all targets of a split.

        `first` are the FP32 model's raw outputs by name, (B, …) each, for one batch.

        Raises:
            DataError: targets and outputs do not fit; says which example and why.
            UsageError: the policy names an output or decoder that does not exist.
        """

    def observed(self, targets: Array, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:
        """Metrics by name, for rows that were observed in an earlier run.

        `targets` (N,) or (N, L), and `rows` by observation, as `rows.npz` holds them.

        Raises (when called): UsageError where a metric does not apply to what was predicted.
        """


def get(key: str) -> Task:
    """The task behind `key`; `UsageError` lists the known ones."""
    return cast(Task, door.look_up(GROUP, TASKS, key))


def names() -> tuple[str, ...]:
    """Every known key."""
    return door.names(GROUP, TASKS)
