"""Other ranges for an INT8 model that is there already: its graph and nearly all weights stay.

Quantizing anew takes ONNX Runtime a second or more, most of it spent on weights. Of them only the
biases depend on ranges: b is written as round(b / (s_x s_w)), with s_x the scale of what the layer
reads and s_w that of its weights; and those weights of which s_w is so small that b would not fit
into 32 bits, for which ONNX Runtime makes it larger.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gate.backends._onnxruntime_plan import quantization
from gate.backends._onnxruntime_points import producers
from gate.values import Array

_BIAS = 2
_LARGEST = 2.0**31 - 1
_MARGIN = 1.0001
"""Room that ONNX Runtime leaves to the largest integer."""
_NEAR = _LARGEST / 1.001
"""Biases from which the scale of weights is, or has to be, looked at."""


def moved(int8: Any, parameters: Mapping[str, Any], fp32: Any, *, reduce_range: bool) -> Any | None:
    """`int8`, which is used up, with other ranges; None where that takes more than ranges.

    Args:
        int8: an INT8 version of `fp32`, by the same recipe but for the choice of ranges.
        parameters: ONNX Runtime's scale and zero point for each tensor.
        fp32: with the same names and weights; only biases may be others than those of `int8`.
        reduce_range: whether weights have seven bits.
    """
    constants = {tensor.name: tensor for tensor in int8.graph.initializer}
    if not _move_activations(int8, constants, parameters):
        return None
    floats = {tensor.name: tensor for tensor in fp32.graph.initializer}
    for bias in _biases(int8, fp32, constants):
        if bias is None or bias.reads not in parameters:
            return None
        own = float(parameters[bias.reads].original["scale"])
        if not _round(bias, own, constants, floats, reduce_range=reduce_range):
            return None
    return int8


def _move_activations(
    int8: Any, constants: Mapping[str, Any], parameters: Mapping[str, Any]
) -> bool:
    for node in int8.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        _, scale, zero = (constants.get(name) for name in node.input)
        found = parameters.get(node.input[1].removesuffix("_scale"))
        if found is None or scale is None or zero is None:
            return False
        _put(scale, found.original["scale"])
        _put(zero, found.original["zero_point"])
    return True


@dataclass(frozen=True, slots=True)
class _Bias:
    """A bias of 32-bit integers: names of constants, of FP32 the first, otherwise of INT8."""

    name: str
    rounded: str
    scale: str
    reads: str
    """Tensor that the layer reads, in FP32."""
    of_input: str
    weights: str
    of_weights: str
    axis: int | None
    """Of the weights' scales; None where there is one for all."""
    beta: float
    is_alone: bool
    """Whether no other layer has its weights."""

    @property
    def has_own_input(self) -> bool:
        """Whether what it reads has a scale of its own: MaxPool, Resize, … pass theirs on."""
        return self.of_input == f"{self.reads}_scale"


def _biases(int8: Any, fp32: Any, constants: Mapping[str, Any]) -> Iterator[_Bias | None]:
    """Each one; None for one that is not read as ONNX Runtime's quantizer would have it."""
    from onnx import TensorProto

    made, readers = producers(int8), _readers(int8)
    layers = {node.name: node for node in fp32.graph.node}
    for node in int8.graph.node:
        values = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if values is None or values.data_type != TensorProto.INT32:
            continue
        read_by = readers.get(node.output[0], [])
        if len(read_by) != 1 or [*read_by[0].input].index(node.output[0]) != _BIAS:
            yield None
            return
        turned = [made.get(name) for name in read_by[0].input[:_BIAS]]
        layer = layers.get(read_by[0].name)
        if layer is None or any(one is None or one.op_type != "DequantizeLinear" for one in turned):
            yield None
            return
        reads, weighs = (one for one in turned if one is not None)
        yield _Bias(
            name=node.input[0].removesuffix("_quantized"),
            rounded=node.input[0],
            scale=node.input[1],
            reads=layer.input[0],
            of_input=reads.input[1],
            weights=weighs.input[0],
            of_weights=weighs.input[1],
            axis=next((one.i for one in weighs.attribute if one.name == "axis"), None),
            beta=_beta(layer),
            is_alone=_uses(weighs.input[0], readers) == 1,
        )


def _readers(model: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _uses(constant: str, readers: Mapping[str, list[Any]]) -> int:
    """How many nodes read it, once it is a number again."""
    turned = (name for node in readers[constant] for name in node.output)
    return sum(len(readers.get(name, ())) for name in turned)


def _beta(node: Any) -> float:
    return next((float(one.f) for one in node.attribute if one.name == "beta"), 1.0)


def _round(
    bias: _Bias,
    own: float,
    constants: Mapping[str, Any],
    floats: Mapping[str, Any],
    *,
    reduce_range: bool,
) -> bool:
    """Write it in the steps of its layer; False where that cannot be.

    `own` is the scale that what the layer reads would have by its own range.
    """
    from onnx import numpy_helper

    names = (bias.rounded, bias.scale, bias.of_input, bias.weights, bias.of_weights)
    if bias.name not in floats or any(name not in constants for name in names):
        return False
    values = numpy_helper.to_array(floats[bias.name])
    before = numpy_helper.to_array(constants[bias.rounded])
    scale, steps = _steps(bias, values, constants)
    if not (bias.has_own_input and _fit(before) and _fit(steps)):
        if not _widen(bias, own, values, constants, floats, reduce_range=reduce_range):
            return False
        scale, steps = _steps(bias, values, constants)
    if not (np.abs(steps) <= _LARGEST).all():
        return False
    integers = steps.astype(np.int32).reshape(before.shape)
    scales = np.asarray(scale, dtype=values.dtype).reshape(-1)
    for name, array in ((bias.rounded, integers), (bias.scale, scales)):
        constants[name].CopyFrom(numpy_helper.from_array(array, name))
    return True


def _steps(bias: _Bias, values: Array, constants: Mapping[str, Any]) -> tuple[Array, Array]:
    """The bias' scale, of one or each channel, and the bias in such steps."""
    from onnx import numpy_helper

    of_input, of_weights = (
        numpy_helper.to_array(constants[name]) for name in (bias.of_input, bias.of_weights)
    )
    scale = of_input * of_weights * bias.beta
    with np.errstate(divide="ignore", invalid="ignore"):
        return scale, (values.astype(np.float64) / np.asarray(scale, dtype=np.float64)).round()


def _fit(steps: Array) -> bool:
    return bool((np.abs(steps.astype(np.float64)) < _NEAR).all())


def _widen(
    bias: _Bias,
    of_input: float,
    values: Array,
    constants: Mapping[str, Any],
    floats: Mapping[str, Any],
    *,
    reduce_range: bool,
) -> bool:
    """Write the weights anew, with scales at which the bias fits; False where that cannot be.

    ONNX Runtime judges by `of_input`, even where the layer's input has the scale of another tensor.
    """
    from onnx import TensorProto, numpy_helper

    quant_utils = quantization().quant_utils
    int8, weights = constants[bias.weights], floats.get(bias.weights.removesuffix("_quantized"))
    if weights is None or int8.data_type != TensorProto.INT8 or weights.dims != int8.dims:
        return False
    wide = numpy_helper.to_array(weights)
    channels = [wide] if bias.axis is None else [*np.moveaxis(wide, bias.axis, 0)]
    found = [
        quant_utils.compute_data_quant_params(one.ravel(), int8.data_type, True, reduce_range)
        for one in channels
    ]
    own = np.array([scale for _, scale in found])
    exact = np.float64 if bias.axis is None else values.dtype  # as the quantizer has it
    largest = np.abs(values.astype(exact)).reshape(len(own), -1).max(axis=1)
    least = (_MARGIN * (2.0 * largest)).astype(np.float64) / (2 * _LARGEST)
    had = of_input * own.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        wider = (own.astype(np.float64) * (least / had)).astype(own.dtype)
    scales = np.where((had < least) & (had > 0), wider, own)
    there = numpy_helper.to_array(constants[bias.of_weights])
    scales = scales.reshape(there.shape)
    if np.array_equal(scales, there):
        return bias.is_alone or np.array_equal(scales, own.reshape(there.shape))
    if not bias.is_alone:  # each of the layers that share them may have made them wider
        return False
    zeros = np.zeros(scales.shape, dtype=np.int8)
    made = quant_utils.quantize_onnx_initializer(
        weights, int8.data_type, zeros, scales, bias.axis, quant_weight_name=bias.weights
    )
    constants[bias.weights].CopyFrom(made)
    _put(constants[bias.of_weights], scales)
    return True


def _put(tensor: Any, values: Array) -> None:
    """Other values, written as ONNX Runtime's quantizer does."""
    from onnx import helper

    kind, listed = tensor.data_type, values.ravel().tolist()
    tensor.CopyFrom(helper.make_tensor(tensor.name, kind, values.shape, listed))
