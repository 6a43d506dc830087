"""What an FP32 model and its INT8 version have in common: where one can be held to the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gate import graph as graphs
from gate.backends import Point
from gate.values import Array

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True, slots=True)
class Quantizer:
    """A QuantizeLinear of one scale around an activation, with its DequantizeLinear."""

    given: str
    """Tensor that is rounded, by its name in the INT8 model."""
    gives: tuple[str, ...]
    """What it is rounded to; several where each reader has its own DequantizeLinear."""
    nodes: tuple[Any, Any]
    scale: float
    ends: tuple[float, float]
    """What the integers cover."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A point, and how the INT8 model rounds it."""

    point: Point
    quantizer: Quantizer | None

    @property
    def represented(self) -> tuple[str, ...]:
        """What the INT8 model reads where FP32 reads the tensor."""
        return (self.point.tensor,) if self.quantizer is None else self.quantizer.gives


def shared(fp32: Any, int8: Any) -> tuple[Shared, ...]:
    """Floating-point tensors that both models have, in FP32's order; `fp32` is typed and named."""
    quantizers = {_plain(one.given): one for one in _quantizers(int8)}
    made, kept = producers(fp32), producers(int8)
    there = {*kept, *quantizers, *(value.name for value in int8.graph.input)}
    floats = _floats(fp32)
    inputs = (value.name for value in fp32.graph.input)
    common = [name for name in (*inputs, *made) if name in floats and name in there]
    represented = {
        name: (quantizers[name].gives if name in quantizers else (name,)) for name in common
    }
    points = {given: name for name, several in represented.items() for given in several}
    rounded = {one.given: name for name, one in quantizers.items() if name in represented}
    describe = _Describer(fp32, int8, made, kept, points, rounded=rounded)
    return tuple(
        Shared(describe(name, represented[name][0], quantizers.get(name)), quantizers.get(name))
        for name in common
    )


class _Describer:
    """Points, one by one."""

    def __init__(
        self,
        fp32: Any,
        int8: Any,
        made: Mapping[str, Any],
        kept: Mapping[str, Any],
        points: Mapping[str, str],
        *,
        rounded: Mapping[str, str],
    ) -> None:
        self._made, self._kept, self._points = made, kept, points
        self._inside = {**points, **rounded}  # a body may read what is not rounded yet
        self._names = {node.name: node for node in fp32.graph.node}
        self._outputs = {value.name for value in fp32.graph.output}
        self._ranks = graphs.ranks(fp32)
        self._weights = _weights(int8)

    def __call__(self, name: str, represented: str, quantizer: Quantizer | None) -> Point:
        worker = self._kept.get(name if quantizer is None else quantizer.given)
        node = self._made.get(name)
        if worker is not None and worker.name in self._names:  # a Relu may have been merged into it
            node = self._names[worker.name]
        peaks, scales = self._weights.get("" if worker is None else worker.name, (None, 0))
        return Point(
            tensor=name,
            node="" if node is None else node.name,
            op="" if node is None else node.op_type,
            sources=self._sources(represented),
            is_output=name in self._outputs,
            ends=None if quantizer is None else quantizer.ends,
            rank=self._ranks.get(name),
            groups=_groups(node),
            weights=peaks,
            scales=scales,
        )

    def _sources(self, represented: str) -> tuple[str, ...]:
        """The points that a point is computed from, in the INT8 model."""
        found: dict[str, None] = {}
        pending, seen = [represented], set()
        while pending:
            node = self._kept.get(pending.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            read = ((node.input, self._points), (graphs.read_inside(node), self._inside))
            for names, known in read:
                for name in filter(None, names):
                    if name in known:
                        found[known[name]] = None
                    else:
                        pending.append(name)
        return tuple(sorted(found))


def producers(model: Any) -> dict[str, Any]:
    """The node that computes a tensor, by the tensor; constants have none."""
    return {
        name: node
        for node in model.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if name
    }


def _plain(name: str) -> str:
    """ONNX Runtime renames what a graph's quantized output is computed from."""
    return name.removesuffix("_QuantizeLinear_Input")


def _floats(model: Any) -> set[str]:
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return {name for name, kind in graphs.tensor_types(model).items() if kind in kinds}


def _groups(node: Any) -> int:
    values = {} if node is None else {entry.name: entry.i for entry in node.attribute}
    return int(values.get("group", 1))


# ── what INT8 rounds ──────────────────────────────────────────────────────────────────────


def _quantizers(model: Any) -> Iterator[Quantizer]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        if node.op_type == _DEQUANTIZE:
            readers.setdefault(node.input[0], []).append(node)
    for node in model.graph.node:
        if node.op_type != _QUANTIZE or node.input[0] in constants:
            continue
        turned = readers.get(node.output[0], [])
        scale = _constant(constants, node.input, 1)
        if not turned or scale is None or scale.size != 1:
            continue
        zero = _constant(constants, node.input, 2)
        zero = np.zeros(1, np.uint8) if zero is None else zero.reshape(-1)
        limits, step = np.iinfo(zero.dtype), float(scale.reshape(-1)[0])
        low, high = ((end - int(zero[0])) * step for end in (limits.min, limits.max))
        yield Quantizer(
            given=node.input[0],
            gives=tuple(one.output[0] for one in turned),
            nodes=(node, turned[0]),
            scale=step,
            ends=(low, high),
        )


def _constant(constants: Mapping[str, Any], names: Sequence[str], place: int) -> Array | None:
    from onnx import numpy_helper

    found = constants.get(names[place]) if place < len(names) else None
    return None if found is None else np.asarray(numpy_helper.to_array(found))


def rounded_weights(model: Any) -> dict[str, Array]:
    """What the layers of an INT8 model multiply with, in floating point, by node."""
    return {node.name: wide for node, wide, _ in _dequantized_weights(model)}


def _weights(model: Any) -> dict[str, tuple[Array, int]]:
    """(M,) largest absolute weight of each output channel, and how many scales, by node."""
    found = {}
    for node, wide, scales in _dequantized_weights(model):
        axis = _output_axis(node, wide.ndim)
        others = tuple(other for other in range(wide.ndim) if other != axis)
        found[node.name] = (np.abs(wide).max(axis=others), scales)
    return found


def _dequantized_weights(model: Any) -> Iterator[tuple[Any, Array, int]]:
    """Each layer of constant weights, those weights, and how many scales they have."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made = producers(model)
    for node in model.graph.node:
        turned = made.get(node.input[1]) if len(node.input) > 1 else None
        if turned is None or turned.op_type != _DEQUANTIZE:
            continue
        values, scale, zero = (_constant(constants, turned.input, place) for place in range(3))
        if values is not None and scale is not None and values.ndim > 1:
            yield node, _dequantized(turned, values, scale, zero), scale.size


def _dequantized(turned: Any, values: Array, scale: Array, zero: Array | None) -> Array:
    shape = [1] * values.ndim
    if scale.size > 1:
        given = {entry.name: entry.i for entry in turned.attribute}
        shape[given.get("axis", 1)] = -1
    wide = values.astype(np.float32)
    if zero is not None and zero.any():
        wide -= zero.astype(np.float32).reshape(shape)
    return np.asarray(wide * scale.reshape(shape))


def _output_axis(node: Any, rank: int) -> int:
    if node.op_type == "Conv":
        return 0
    turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if node.op_type == "Gemm" and turned else rank - 1
