"""One graph that runs FP32, INT8, and INT8 layer by layer on FP32's own values, and measures.

Three copies share the inputs: FP32 as it is; INT8 as it is, under `int8/`; and INT8 of which every
layer is given FP32's values, under `own/`. At each tensor that both models have, the last copy
differs from FP32 by what the layer before it loses, and from INT8 by what came to it from further
up. The differences are summed up inside the graph, so that only a few numbers leave it, however
large the activations are. Each channel counts as much as the layers that read it feel it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gate import graph as graphs
from gate.backends import READINGS, Point
from gate.backends._onnxruntime_felt import Felt, felt
from gate.backends._onnxruntime_points import Quantizer, Shared, shared
from gate.errors import CandidateError
from gate.values import Array

_INT8, _OWN, _PROBE = "int8/", "own/", "probe/"
NUMBERS, PEAKS = f"{_PROBE}numbers", f"{_PROBE}peaks/"
_FAR = 8
"""A value lies far out where it is larger than the range's end over this."""
_CLIPPED = 0.5 + 1e-3
"""Rounding errs by half a step; what errs by more was clipped."""
_AXES_ARE_INPUTS = 18
"""Opset from which reductions take their axes as an input."""


def build(fp32: Any, int8: Any) -> tuple[Any, tuple[Point, ...]]:
    """The graph, and its points in the order in which FP32 computes them.

    Both ModelProtos are used up. The outputs are `NUMBERS`, (points · readings,), and for each
    quantized point of known rank `PEAKS` with its place: the largest value of each channel.

    Raises:
        CandidateError: the models have no inner tensor in common, or other operator sets.
    """
    _demand_alike(fp32, int8)
    graphs.name_nodes(fp32)
    graphs.name_nodes(int8)
    fp32 = graphs.typed(fp32)
    found = shared(fp32, int8)
    if all(one.quantizer is None and not one.point.sources for one in found):
        raise CandidateError(
            "the INT8 model has no inner tensor in common with FP32, so its layers cannot be told "
            "apart: export both with the same names, or quantize with a recipe"
        )
    return _merged(fp32, int8, found), tuple(one.point for one in found)


def _demand_alike(fp32: Any, int8: Any) -> None:
    if graphs.opset(fp32) != graphs.opset(int8):
        raise CandidateError(
            f"FP32 has ONNX opset {graphs.opset(fp32)} and INT8 {graphs.opset(int8)}: layers can "
            "be compared within one opset alone; export both with the same"
        )
    if fp32.functions or int8.functions:
        raise CandidateError("layers inside ONNX functions cannot be compared: inline them")


def _merged(fp32: Any, int8: Any, found: Sequence[Shared]) -> Any:
    from onnx import TensorProto, helper

    graph, gains = fp32.graph, felt(fp32)
    known = {entry.domain for entry in fp32.opset_import}
    fp32.opset_import.extend(e for e in int8.opset_import if e.domain not in known)
    fp32.ir_version = max(fp32.ir_version, int8.ir_version)
    given = {value.name for value in graph.input}
    constants = [tensor for tensor in int8.graph.initializer if tensor.name not in given]
    kept = {name: name for name in given}
    kept |= {tensor.name: _INT8 + tensor.name for tensor in constants}
    computed = [name for node in int8.graph.node for name in node.output if name]
    whole = {name: _INT8 + name for name in computed} | kept
    own = {name: _OWN + name for name in computed} | kept
    boundary = {name: one.point.tensor for one in found for name in one.represented}
    for tensor in constants:
        tensor.name = kept[tensor.name]
    graph.initializer.extend(constants)
    measured = _Measured(graphs.opset(fp32), whole, own, graphs.tensor_types(fp32), gains)
    measured.all(found)
    graph.node.extend(_renamed(node, _INT8, whole, whole) for node in int8.graph.node)
    # a body may read what the quantizer rounds as it is, and that is FP32's own, too
    inside = own | {o.quantizer.given: o.point.tensor for o in found if o.quantizer} | boundary
    apart = own | boundary
    graph.node.extend(_renamed(node, _OWN, apart, own, inside) for node in int8.graph.node)
    graph.node.extend(measured.nodes)
    graph.initializer.extend(measured.constants)
    del graph.output[:], graph.value_info[:]
    outputs = (NUMBERS, *measured.peaks)
    graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs)
    return fp32


def _renamed(
    node: Any,
    prefix: str,
    reads: Mapping[str, str],
    writes: Mapping[str, str],
    inside: Mapping[str, str] | None = None,
) -> Any:
    copied = type(node)()
    copied.CopyFrom(node)
    copied.name = prefix + node.name
    copied.input[:] = [reads.get(name, name) for name in node.input]
    copied.output[:] = [writes.get(name, name) for name in node.output]
    for body in graphs.subgraphs(copied):
        _rename_inside(body, inside or reads)
    return copied


def _rename_inside(body: Any, reads: Mapping[str, str]) -> None:
    """What a body reads of the graph around it; its own names are its own."""
    own = {value.name for value in (*body.input, *body.initializer)}
    own.update(name for node in body.node for name in node.output)
    outer = {old: new for old, new in reads.items() if old not in own}
    for node in body.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        for inner in graphs.subgraphs(node):
            _rename_inside(inner, outer)
    for value in body.output:
        value.name = outer.get(value.name, value.name)


class _Measured:
    """The nodes that sum up differences, and their constants."""

    def __init__(
        self,
        opset: int,
        whole: Mapping[str, str],
        own: Mapping[str, str],
        types: Mapping[str, int],
        gains: Felt,
    ) -> None:
        self._opset, self._whole, self._own, self._types = opset, whole, own, types
        self._felt, self._made = gains, 0
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.peaks: list[str] = []
        self._zero = self._constant(np.float32(0))
        self._one = self._constant(np.array([1], np.int64))

    def all(self, found: Sequence[Shared]) -> None:
        """`NUMBERS`, and the peaks."""
        from onnx import helper

        numbers: list[str] = []
        for place, one in enumerate(found):
            fp32 = self._float(one.point.tensor, one)
            numbers += self._differences(fp32, one)
            numbers += self._rounding(fp32, one)
            axes = _others(one.point, self._felt.get(one.point.tensor))
            if one.quantizer is not None and axes:
                self._peak(fp32, axes, f"{PEAKS}{place}")
        assert len(numbers) == len(found) * len(READINGS)
        flat = [self._op("Reshape", name, self._one) for name in numbers]
        self.nodes.append(helper.make_node("Concat", flat, [NUMBERS], NUMBERS, axis=0))

    def _differences(self, fp32: str, one: Shared) -> list[str]:
        """Energies of FP32, of INT8's error, of the layer's own, and of what came to it."""
        name = one.represented[0]
        whole, own = (self._float(names.get(name, name), one) for names in (self._whole, self._own))
        pairs = ((whole, fp32), (own, fp32), (whole, own))
        values = (fp32, *(self._op("Sub", *pair) for pair in pairs))
        return [self._energy(value, one) for value in values]

    def _rounding(self, fp32: str, one: Shared) -> list[str]:
        """Energy that the quantizer alone loses, of that by clipping, and the far values' share."""
        if one.quantizer is None:
            return [self._zero] * 3
        lost = self._op("Sub", self._float(self._rounded(one), one), fp32)
        limit = self._constant(np.float32(one.quantizer.scale * _CLIPPED))
        cut = self._op("Where", self._op("Greater", self._op("Abs", lost), limit), lost, self._zero)
        end = self._constant(np.float32(max(map(abs, one.quantizer.ends)) / _FAR))
        far = self._op("Cast", self._op("Greater", self._op("Abs", fp32), end), to=1)
        return [
            self._energy(lost, one),
            self._energy(cut, one),
            self._op("ReduceMean", far, keepdims=0),
        ]

    def _rounded(self, one: Shared) -> str:
        """FP32's own tensor through the quantizer."""
        assert isinstance(one.quantizer, Quantizer)
        name = one.point.tensor
        for node in one.quantizer.nodes:
            copied = _renamed(node, _PROBE, self._own, {})
            copied.name, copied.input[0] = self._name(), name
            name = copied.output[0] = self._name()
            self.nodes.append(copied)
        return name

    def _peak(self, fp32: str, axes: Sequence[int], name: str) -> None:
        from onnx import helper

        size = self._op("Abs", fp32)
        if self._opset < _AXES_ARE_INPUTS:
            node = helper.make_node("ReduceMax", [size], [name], name, keepdims=0, axes=list(axes))
        else:
            along = self._constant(np.array(axes, np.int64))
            node = helper.make_node("ReduceMax", [size, along], [name], name, keepdims=0)
        self.nodes.append(node)
        self.peaks.append(name)

    def _energy(self, name: str, one: Shared) -> str:
        gains = self._felt.get(one.point.tensor)
        if gains is not None:
            name = self._op("Mul", name, self._constant(gains))
        return self._op("ReduceSumSquare", name, keepdims=0)

    def _float(self, name: str, one: Shared) -> str:
        """As float32, in which half precision's squares do not overflow."""
        from onnx import TensorProto

        if self._types.get(one.point.tensor) == TensorProto.FLOAT:
            return name
        return self._op("Cast", name, to=TensorProto.FLOAT)

    def _op(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = self._name()
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = self._name()
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _name(self) -> str:
        self._made += 1
        return f"{_PROBE}{self._made}"


_CHANNELS_SECOND = frozenset({"AveragePool", "Conv", "GlobalAveragePool", "MaxPool"})


def _others(point: Point, gains: Array | None) -> tuple[int, ...]:
    """All axes but the channels', of a batch; none where it cannot be told which those are."""
    rank = point.rank
    if rank is None or rank < 2:  # noqa: PLR2004
        return ()
    axis = rank - 1 if rank <= 3 else None  # noqa: PLR2004
    if point.op in _CHANNELS_SECOND:
        axis = 1
    elif gains is not None:
        axis = rank - gains.ndim
    return () if axis is None else tuple(other for other in range(rank) if other != axis)
