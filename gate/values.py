"""Frozen values that steps pass on: models, splits and rows, arrays among them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gate.recipes import Recipe

Array = NDArray[Any]


class Value(BaseModel):
    """Data that a document holds: frozen, strict, without NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


# ── data ──────────────────────────────────────────────────────────────────────────────────


class Column(Protocol):
    """A column of a split, read lazily: slicing or indexing copies only what is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, first axis N."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    def __getitem__(self, index: Any, /) -> Any:
        """Rows by slice or index array, as a numpy array."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive examples of a split."""

    start: int
    ids: Array
    """(B,) of str."""
    feeds: Mapping[str, Array]
    """(B, …) per model input, preprocessed."""
    targets: Array | None
    """(B,) or (B, L)."""


@dataclass(frozen=True, slots=True)
class Split:
    """N examples, held lazily, ready to be fed to a model."""

    name: str
    """calibration, tuning or held_out."""
    source: str
    """Where it came from, as the policy says."""
    ids: Array
    """(N,) of str, unique."""
    explicit_ids: bool
    """Whether the data brought ids; otherwise they derive from each example's content."""
    content: Array
    """(N, 16) uint8: the head of sha256 of each example's inputs, as the model gets them: for
    overlap and duplicates."""
    inputs: Mapping[str, Column]
    """(N, …) per model input, raw."""
    targets: Array | None
    """(N,) or (N, L); None where the split needs none."""
    slices: Mapping[str, Array]
    """(N,) per slice column."""
    unit: Array | None
    """(N,) independent unit, where the data name one."""
    sha256: str
    """Of the raw content: ids, inputs, targets."""
    population: str
    """Of inputs and targets of all that there was to draw from, before `limit`, without ids."""
    order: Array
    """(N,) of int64: rows of the source, in the order they are visited."""
    prepare: Callable[[Array], Array]
    """What happens to a raw batch (B, …) of an input before it enters the model."""

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def batches(self, size: int) -> Iterator[Batch]:
        """Consecutive batches of `size`; the last may be shorter."""
        for start in range(0, len(self), size):
            yield self.batch(start, size)

    def batch(self, start: int, size: int) -> Batch:
        """The examples from `start` on, `size` of them or what is left."""
        rows = self.order[start : start + size]
        return Batch(
            start=start,
            ids=self.ids[start : start + size],
            feeds={name: self.prepare(column[rows]) for name, column in self.inputs.items()},
            targets=self.targets[start : start + size] if self.targets is not None else None,
        )


# ── models ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A model input or output: `shape` holds None where a dimension is free."""

    name: str
    dtype: str
    """numpy name: float32, int64, object (strings)."""
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """The FP32 model, normalised, with the hashes that bind a verdict to it."""

    path: Path
    """Normalised ONNX in the run's private folder."""
    sha256: str
    """Of the bytes as they came, external data included."""
    fp32_sha256: str
    """Of the normalised ONNX, metadata stripped."""
    bytes: int
    """Of the normalised ONNX, external data included."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    source: str
    """As the user named it: a path, an MLflow URI, or `module:<class>`."""
    steps: tuple[str, ...] = ()
    """What normalisation did: `opset 11 -> 17`, …"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operator that the runtime executed."""

    node: str
    """Node name in the runtime's optimized graph."""
    op: str
    """Kernel's operator type: QLinearConv, Gemm, …"""
    integer: bool
    """Whether it multiplies and accumulates integers."""
    macs: int
    """Multiply–accumulate operations in the run; 0 for operators that have none."""


class Island(Value):
    """A node that multiplies and accumulates in floating point within an INT8 model."""

    node: str
    op: str
    share: float
    """Of the FP32 model's multiply–accumulate work, 0..1."""
    reason: str


class Saturation(Value):
    """A layer whose sums are cut off on x86 without VNNI."""

    node: str
    share: float
    """Of its pairs of products, by the calibration ranges and the weights, 0..1."""


class FloatWeights(Value):
    """Weights that an INT8 artifact still holds in floating point."""

    bytes: int
    """All of them."""
    largest: tuple[str, ...]
    """Names of the largest, at most five."""


@dataclass(frozen=True, slots=True)
class Int8Model:
    """The INT8 artifact, and the proof that it is one."""

    path: Path
    sha256: str
    bytes: int
    recipe: Recipe | None
    """What made it; None where it was made elsewhere."""
    quantized_nodes: tuple[str, ...]
    """FP32 nodes with multiply–accumulate work that an integer kernel executes; of an artifact
    that was made elsewhere its own nodes."""
    skipped_nodes: tuple[str, ...]
    """Those that a float kernel executes."""
    int8_share: float
    """Share of multiply–accumulate operations executed by integer kernels, 0..1."""
    kernels: Mapping[str, int]
    """Executed kernels by operator type, with their number."""
    source: str | None = None
    """As the user named it, where it was made elsewhere."""
    islands: tuple[Island, ...] = ()
    """What stays in floating point, and why; most work first."""
    float_weights: FloatWeights | None = None
    """What keeps the artifact large; None where it has none."""
    saturating: tuple[Saturation, ...] | None = None
    """Layers that overflow on x86 without VNNI, the worst first; None: nothing tells."""


# ── what they gave ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Rows:
    """A metric's sufficient statistics, one row an example."""

    values: Array
    """(N, k) float64."""

    def __len__(self) -> int:
        """N."""
        return len(self.values)

    def take(self, mask: Array) -> "Rows":
        """The rows where `mask`, (N,) of bool or indices, selects."""
        return Rows(self.values[mask])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Both models' rows on the same examples in the same order."""

    ids: Array
    """(N,) of str."""
    targets: Array
    """(N,) or (N, L)."""
    slices: Mapping[str, Array]
    """(N,) per column, `target` included where it is one value an example."""
    unit: Array | None
    fp32: Mapping[str, Rows]
    """Rows by observation name."""
    int8: Mapping[str, Rows]
    """Rows by observation name."""
    own: Mapping[str, Rows] = field(default_factory=dict)
    """The rows of the FP32 model that INT8 was made of, where `fp32` is another model's."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Observation name to why its INT8 rows are not finite."""
