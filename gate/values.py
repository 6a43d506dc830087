"""Frozen values that steps pass on: models, splits and rows, arrays among them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gate import mapped
from gate.recipes import Recipe

Array = NDArray[Any]


class Value(BaseModel):
    """Data that a document holds: frozen, strict, without NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


# ── arrays whose entries differ in length ─────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """N entries of any number of rows each: boxes of images, tokens of sentences."""

    values: Array
    """(M, k), the rows of all entries, one after another."""
    offsets: Array
    """(N + 1,) of int64: entry i is values[offsets[i] : offsets[i + 1]]."""

    @classmethod
    def of(cls, entries: Sequence[Array], width: int) -> "Ragged":
        """Of N arrays (m, width), with m = 0 where an entry has no row."""
        sizes = [len(entry) for entry in entries]
        parts = [np.asarray(entry, dtype=np.float64).reshape(-1, width) for entry in entries]
        values = np.concatenate(parts) if parts else np.zeros((0, width))
        return cls(values, np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, k): one more than it has axes of its own, like labels of several classes."""
        return len(self), self.values.shape[1]

    @property
    def ndim(self) -> int:
        """2, which no single value an example has."""
        return 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self.values.dtype

    @property
    def sizes(self) -> Array:
        """(N,) rows of each entry."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Array:
        """(M,) the entry that each row belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def __len__(self) -> int:
        """N."""
        return len(self.offsets) - 1

    def __getitem__(self, index: Any, /) -> "Ragged":
        """Entries by slice, mask or indices."""
        chosen = np.arange(len(self))[index]
        sizes = self.sizes[chosen]
        ends = np.cumsum(sizes)
        begins = np.concatenate(([0], ends[:-1])).astype(np.int64)
        places = np.repeat(self.offsets[:-1][chosen] - begins, sizes) + np.arange(sizes.sum())
        return Ragged(
            mapped.take(self.values, places), np.concatenate(([0], ends)).astype(np.int64)
        )

    @property
    def digests(self) -> Array:
        """(N, 2) of float64 that are alike where two entries are, to a chance of 2^-100."""
        found = np.zeros((len(self), 2))
        data = np.ascontiguousarray(self.values + 0.0)  # minus zero is zero
        for index, (begin, end) in enumerate(pairwise(self.offsets.tolist())):
            head = hashlib.sha256(data[begin:end].tobytes()).digest()
            found[index] = [int.from_bytes(head[at : at + 6], "little") for at in (0, 6)]
        return found

    def entry(self, index: int) -> Array:
        """(m, k) one entry's rows."""
        return np.asarray(self.values[self.offsets[index] : self.offsets[index + 1]])


@dataclass(frozen=True, slots=True, eq=False)
class Classed(Ragged):
    """A column of rows whose file names their classes."""

    classes: tuple[str, ...] = ()
    """By number."""


Values = Array | Ragged
"""(N, …), or N entries of rows."""


def joined(parts: Sequence[Values]) -> Values:
    """One after another; at least one, all arrays or all ragged."""
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if not ragged:
        return np.concatenate([np.asarray(part) for part in parts])
    sizes = np.concatenate([part.sizes for part in ragged])
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Ragged(np.concatenate([part.values for part in ragged]), offsets)


def taken(values: Values, index: Array) -> Values:
    """The entries at places, or of a mask; of what lies on disk little more is in memory."""
    return values[index] if isinstance(values, Ragged) else mapped.take(values, index)


def finite(values: Values) -> Array:
    """(N,) of bool: entries that hold neither NaN nor Inf."""
    if not isinstance(values, Ragged):
        return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
    broken = values.owners[~np.isfinite(values.values).all(axis=1)]
    found = np.ones(len(values), dtype=bool)
    found[broken] = False
    return found


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
    targets: Values | None
    """(B,), (B, L), or rows by example."""


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
    """(N, …) by column, raw."""
    targets: Values | None
    """(N,), (N, L), or rows by example; None where the split needs none."""
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
    prepare: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    """Raw values (B, …) by column to what the model takes, (B, …) by input."""
    named_by_files: bool = False
    """Whether ids are names of files: in another folder they name other examples."""
    truncated: int = 0
    """Texts with more tokens than the model is given."""
    missing: tuple[str, ...] = ()
    """Ids of images that do not decode and were left out, as many as the policy allows."""

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def take(self, index: slice | Array) -> "Split":
        """Those of the examples that `index` selects: a slice, a mask (N,), or places in order."""
        return replace(
            self,
            ids=self.ids[index],
            content=self.content[index],
            targets=None if self.targets is None else self.targets[index],
            slices={name: values[index] for name, values in self.slices.items()},
            unit=None if self.unit is None else self.unit[index],
            order=self.order[index],
        )

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
            feeds=self.feeds(rows),
            targets=self.targets[start : start + size] if self.targets is not None else None,
        )

    def feeds(self, rows: Array) -> Mapping[str, Array]:
        """(B, …) by model input, of these rows of the source."""
        return self.prepare({name: column[rows] for name, column in self.inputs.items()})


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
    """A metric's sufficient statistics, example by example."""

    values: Values
    """(N, k) float64, or any number of rows an example."""

    def __len__(self) -> int:
        """N."""
        return len(self.values)

    def take(self, mask: Array) -> "Rows":
        """Those of the examples where `mask`, (N,) of bool or indices, selects; a copy."""
        return Rows(taken(self.values, mask))

    @property
    def width(self) -> int:
        """k."""
        values = self.values.values if isinstance(self.values, Ragged) else self.values
        return int(values.shape[1])

    @property
    def flat(self) -> Array:
        """(N, k) where an example has one row."""
        assert not isinstance(self.values, Ragged)
        return self.values


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Both models' rows on the same examples in the same order."""

    ids: Array
    """(N,) of str."""
    targets: Values | None
    """(N,), (N, L), or rows by example; None where examples have no labels."""
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
    content: Array | None = None
    """(N, 16) uint8 as in `Split`, to tell the same example in another set."""
    releases: Mapping[str, Mapping[str, Rows]] = field(default_factory=dict)
    """`production` and `anchor` to the INT8 rows of that release, by observation name."""
