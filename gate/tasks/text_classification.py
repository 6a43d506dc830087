"""Text classification: one text or a pair of them, one class or any number of labels.

What a model makes of text is classified as anything else is, so this is the task `classification`,
reached through its door. Whether an example is one text or two is a matter of the model's inputs.
A report shows Matthews' correlation, `mcc`, unasked: text classes are seldom of one size.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from gate import tasks
from gate.metrics import Metric, Traits
from gate.policy import Build
from gate.tasks import BoundTask, Task
from gate.values import Array, Rows, TensorSpec, Values

_CLASSIFICATION = tasks.get("classification")
_BESIDES = "mcc"


class TextClassification:
    """The task `text_classification`; see `gate.tasks.Task`."""

    key: str = "text_classification"
    unit: str = "text"
    decoders: tuple[str, ...] = _CLASSIFICATION.decoders
    known: Mapping[str, Traits] = _CLASSIFICATION.known

    def traits(self, metric: str) -> Traits | None:
        """As of classification."""
        return _CLASSIFICATION.traits(metric)

    def bind(
        self,
        build: Build,
        outputs: tuple[TensorSpec, ...],
        targets: Values | None,
        first: Mapping[str, Array],
    ) -> BoundTask:
        """As classification, and with `mcc` shown where it applies.

        Raises:
            DataError: targets, outputs and decoder do not fit; says which example and why.
            UsageError: the policy names an output, decoder or number of classes that the model
                does not have.
        """
        bound = _CLASSIFICATION.bind(build, outputs, targets, first)
        if targets is None or bound.kind == "multi-label":
            return bound
        found = {**bound.metrics, _BESIDES: bound.metric(_BESIDES)}
        return replace(bound, metrics={name: found[name] for name in self.known if name in found})

    def observed(self, targets: Values | None, rows: Mapping[str, Rows]) -> Callable[[str], Metric]:
        """As of classification."""
        return _CLASSIFICATION.observed(targets, rows)


TASK: Task = TextClassification()
