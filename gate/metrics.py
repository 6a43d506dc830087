"""What a metric is: rows observed example by example, and a summary of them.

An example metric never sees a whole data set: `observe` turns a batch into rows, the smallest
sufficient statistics of each example, and `summarize` turns any subset of rows into the
metric's value. Slices are then masks, and shards concatenate to exactly the whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gate.records import Array, Rows


class Observe(Protocol):
    """Turns a batch into rows."""

    def __call__(self, scores: Array, targets: Array, reference: Array | None) -> Array:
        """Decoded scores (B, C), targets (B,) or (B, L), the FP32 model's scores -> (B, k).

        `reference` is None while the reference itself is observed.
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
