"""What a metric is: rows observed example by example, and a summary of them.

An example metric never sees a whole data set: `observe` turns a batch into rows, the smallest
sufficient statistics of each example, and `summarize` turns any subset of rows into the
metric's value. Slices are then masks, and shards concatenate to exactly the whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gate import mapped
from gate.values import Array, Ragged, Rows, Values


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of a metric by its name, before any model or data are."""

    proportion: bool = False
    """Whether it is a 0/1 an example."""
    relative: bool = False
    """Whether it compares INT8 with FP32 in itself."""
    higher_is_better: bool = True
    low: float | None = 0.0
    """The least value it can have; None where nothing bounds it."""
    high: float | None = 1.0
    """The largest; None where nothing bounds it."""
    undefined: str = "without examples"
    """When it has no value, other than on outputs that are not finite."""

    @property
    def is_share(self) -> bool:
        """Whether its values lie in 0..1."""
        return (self.low, self.high) == (0.0, 1.0)


class Observe(Protocol):
    """Turns a batch into rows."""

    def __call__(self, scores: Any, targets: Any, reference: Any | None) -> Values:
        """What was decoded of B examples, their targets, what FP32 gave -> their rows.

        Classification decodes scores (B, C) and has targets (B,) or (B, L); other tasks say
        themselves. `targets` is None where there are no labels, and `reference` while the
        reference itself is observed.
        """


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of single examples."""

    name: str
    observation: str
    """Name of the rows; metrics that share it share the rows."""
    observe: Observe
    summarize: Callable[[Rows], float]
    """Any number of rows to the value; NaN where it is undefined."""
    higher_is_better: bool
    per_example: Callable[[Rows], Array] | None = None
    """(N,) of bool where the metric is a proportion of examples: which ones count."""
    relative: bool = False
    """Whether it compares INT8 with FP32 in itself (flips): a rate, never a drop."""
    sway: Callable[[Rows], Array] | None = None
    """FP32's rows to (N,): how far one change of each example can move the value, times N; inf
    where nothing bounds it. By default 1 for a proportion, and unknown for others."""
    flaws: Callable[[Rows], Array] | None = None
    """Rows to (N,) of bool: the examples that keep the value from being as good as can be (1
    where it is better high, 0 where low). By default a proportion's, and unknown for others."""
    by_column: Callable[[Callable[[int], Array]], float] | None = None
    """The same as `summarize` for rows that are wide, finite, and read a column at a time: given
    what makes of i the column (N,), the examples in any order."""
    sees: Callable[[Rows], Array] | None = None
    """Rows to (N, k): what of them the value depends on; by default all of it."""

    def reach(self, rows: Rows) -> Array:
        """(N,) as `sway`; inf where that is unknown, so that few changes prove nothing."""
        if self.sway is not None:
            return self.sway(rows)
        return np.full(len(rows), np.inf if self.per_example is None else 1.0)

    def counted(self, rows: Rows) -> Array:
        """(N,) as `per_example`, which there has to be; of rows on disk a window at a time."""
        count = self.per_example
        assert count is not None
        if isinstance(rows.values, Ragged):
            return count(rows)
        return mapped.each(lambda part: count(Rows(part)), rows.values)

    def flawed(self, rows: Rows) -> Array | None:
        """(N,) as `flaws`, None where unknown."""
        if self.flaws is not None:
            return self.flaws(rows)
        if self.per_example is None:
            return None
        return np.asarray(self.per_example(rows) != self.higher_is_better)

    def seen(self, rows: Rows) -> Array:
        """(N, k): rows that agree in it have the same value."""
        if self.sees is not None:
            return self.sees(rows)
        if self.per_example is not None:
            return self.per_example(rows)[:, np.newaxis]
        return rows.values.digests if isinstance(rows.values, Ragged) else rows.values

    def worse(self, reference: Any, int8: Any) -> Any:
        """How much worse INT8 is, elementwise: positive is worse."""
        return reference - int8 if self.higher_is_better else int8 - reference

    @property
    def is_proportion(self) -> bool:
        """Whether drops of it are paired differences of proportions."""
        return self.per_example is not None and not self.relative


class Sized(Protocol):
    """What artifact metrics read of a model."""

    @property
    def bytes(self) -> int:
        """Size of the artifact."""


class Quantized(Sized, Protocol):
    """What artifact metrics read of an INT8 model."""

    @property
    def int8_share(self) -> float:
        """Share of multiply–accumulate work that runs as integers."""


@dataclass(frozen=True, slots=True)
class ArtifactMetric:
    """A metric of the artifacts themselves: an exact number."""

    name: str
    measure: Callable[[Sized, Quantized], tuple[float | None, float]]
    """(FP32, INT8) to their values; None where FP32 has none."""
    higher_is_better: bool

    def worse(self, reference: float, int8: float) -> float:
        """How much worse INT8 is: positive is worse."""
        return reference - int8 if self.higher_is_better else int8 - reference


def _by_a_process(fp32: Sized, int8: Quantized) -> tuple[float | None, float]:
    """Files do not tell; `gate.timing` does."""
    raise NotImplementedError("this metric is measured by running both models")


PROCESS_METRICS: Mapping[str, ArtifactMetric] = {
    name: ArtifactMetric(name=name, measure=_by_a_process, higher_is_better=better_high)
    for name, better_high in (
        ("latency_p50", False),
        ("latency_p95", False),
        ("throughput", True),
        ("peak_memory", False),
    )
}
"""Of one quiet process: milliseconds an inference, examples a second, bytes."""
ARTIFACT_METRICS: Mapping[str, ArtifactMetric] = {
    metric.name: metric
    for metric in (
        ArtifactMetric(
            name="size",
            measure=lambda fp32, int8: (float(fp32.bytes), float(int8.bytes)),
            higher_is_better=False,
        ),
        ArtifactMetric(
            name="int8_share",
            measure=lambda _fp32, int8: (None, int8.int8_share),
            higher_is_better=True,
        ),
    )
}
MODEL_METRICS: Mapping[str, ArtifactMetric] = {**ARTIFACT_METRICS, **PROCESS_METRICS}
"""Metrics of a model as a whole, which have no slices."""
