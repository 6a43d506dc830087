"""Recipes -> INT8 graphs, with ONNX Runtime's own graph rewriting and our ranges.

Its public `quantize_static` and `quantize_dynamic` are not used: they calibrate by keeping every
activation, write beside their input, and succeed on misspelt names and graphs they cannot touch.
"""

import logging
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gate import graph as graphs
from gate.backends._onnxruntime_names import keep_apart
from gate.backends._onnxruntime_plan import Plan, activations, float_types, quantization
from gate.backends._onnxruntime_ranges import moved
from gate.errors import QuantizationError
from gate.recipes import Recipe
from gate.wording import few

Ranges = Mapping[str, tuple[float, float]]
_WEIGHT_AND_BIAS = 2


def static(fitted: Plan, recipe: Recipe, ranges: Ranges, like: Any | None = None) -> Any:
    """The model with QuantizeLinear and DequantizeLinear around what `recipe` quantizes.

    `like` is an INT8 version by a recipe that chooses ranges otherwise, to save work; the result
    is the same with it.

    Raises:
        QuantizationError: a range is missing, a tensor has a name that the quantizer makes, or
            ONNX Runtime's quantizer failed.
    """
    kind = quantization().qdq_quantizer.QDQQuantizer
    missing = [name for name in activations(fitted, recipe) if name not in ranges]
    if missing:
        raise QuantizationError(
            f"no range was calibrated for {few(missing)}; calibrate every tensor that "
            "`activations` names"
        )
    keep_apart(fitted.model, fitted.selected)
    _plain_biases(fitted)
    model = _marked(fitted.model)
    with _quiet(), _explained(recipe):
        quantizer = kind(
            model=model,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            weight_qType=_quant_type(recipe.weight_type),
            activation_qType=_quant_type(recipe.activation_type),
            tensors_range=_tensors_data(ranges, graphs.tensor_types(model)),
            nodes_to_quantize=[],  # empty means all but the excluded ones
            nodes_to_exclude=list(fitted.excluded),
            op_types_to_quantize=list(fitted.op_types),
            extra_options={
                # Zero at the middle of int8: TensorRT takes nothing else. uint8 keeps its zero
                # point, so that what follows a Relu has all 256 steps.
                "ActivationSymmetric": recipe.is_symmetric,
                # A zero point in the weights costs a correction term in every kernel.
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": list(recipe.float_outputs),
            },
        )
        if like is not None:
            parameters = quantizer.quantization_params
            made = moved(like, parameters, model, reduce_range=recipe.reduce_range)
            if made is not None:
                return made
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    return _unmarked(quantizer.model.model)


def _plain_biases(fitted: Plan) -> None:
    """Constant biases of Gemms as (M,), with a beta of 1: all that the quantizer does right.

    ONNX Runtime itself makes a Gemm of a MatMul and an Add, whose bias may be (1, M). Another beta
    its quantizer drops, and writes the bias as if that had been 1.
    """
    graph, selected = fitted.model.graph, frozenset(fitted.selected)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gemm" and node.name in selected:
            operands = [constants.get(name) for name in node.input[1:]]
            if len(operands) == _WEIGHT_AND_BIAS and None not in operands:
                _plain_bias(graph, node, *operands)


def _plain_bias(graph: Any, gemm: Any, weight: Any, bias: Any) -> None:
    import numpy as np
    from onnx import numpy_helper

    turned = any(one.name == "transB" and one.i for one in gemm.attribute)
    width, size = weight.dims[0 if turned else 1], math.prod(bias.dims)
    beta = next((one for one in gemm.attribute if one.name == "beta" and one.f != 1), None)
    is_row = size == 1 or [size, bias.dims[-1]] == [width, width]
    if beta is None and (not is_row or [*bias.dims] == [width]):
        return
    values = numpy_helper.to_array(bias)
    if is_row:
        values = np.broadcast_to(values.reshape(-1), width)
    if beta is not None:
        values = values * values.dtype.type(beta.f)
        gemm.attribute.remove(beta)
    taken = {tensor.name for tensor in (*graph.initializer, *graph.input)}
    name = graphs.free(f"{gemm.name}_bias", taken.union(*(node.output for node in graph.node)))
    graph.initializer.append(numpy_helper.from_array(values.copy(), name))
    gemm.input[2] = name


def _gemms_to_be(fitted: Plan) -> list[str]:
    """Names that excluded Gemms get: all are rewritten as MatMul and Add before the choice."""
    excluded = frozenset(fitted.excluded)
    nodes = (node for node in fitted.model.graph.node if node.op_type == "Gemm")
    return [f"{node.name}_MatMul" for node in nodes if node.name in excluded]


def dynamic(fitted: Plan, recipe: Recipe) -> Any:
    """The model with integer weights, and activations quantized as they come.

    Raises:
        QuantizationError: a tensor has a name that the quantizer makes, or ONNX Runtime's
            quantizer failed.
    """
    made = quantization()
    keep_apart(fitted.model, fitted.selected)
    model = _marked(fitted.model)
    with _quiet(), _explained(recipe):
        quantizer = made.onnx_quantizer.ONNXQuantizer(
            model=model,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            mode=made.quant_utils.QuantizationMode.IntegerOps,
            static=False,
            weight_qType=_quant_type(recipe.weight_type),
            activation_qType=_quant_type(recipe.activation_type),
            tensors_range=None,
            nodes_to_quantize=[],
            nodes_to_exclude=[*fitted.excluded, *_gemms_to_be(fitted)],
            op_types_to_quantize=sorted({*fitted.op_types, "MatMul"}),
            extra_options={
                # A product of two activations quantizes both anew each time: slower than FP32.
                "MatMulConstBOnly": True,
                "WeightSymmetric": True,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    return _unmarked(quantizer.model.model)


# ── ONNX Runtime's quantizers ─────────────────────────────────────────────────────────────


def _quant_type(name: str) -> Any:
    kinds = quantization().QuantType
    return {"int8": kinds.QInt8, "uint8": kinds.QUInt8}[name]


def _tensors_data(ranges: Ranges, types: Mapping[str, int]) -> Any:
    """Ranges as the quantizer takes them: arrays of the tensor's own type."""
    import numpy as np

    made = quantization().calibrate
    floats = float_types()
    data = {
        name: tuple(np.array(bound, dtype=floats[types[name]]) for bound in ranges[name])
        for name in ranges
        if types.get(name) in floats
    }
    return made.TensorsData(made.CalibrationMethod.MinMax, data)


def _marked(model: Any) -> Any:
    """Say that types are inferred, or the quantizer writes and reads the whole model to do so."""
    quantization().quant_utils.add_infer_metadata(model)
    return model


def _unmarked(model: Any) -> Any:
    kept = [entry for entry in model.metadata_props if entry.key != "onnx.infer"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


@contextmanager
def _explained(recipe: Recipe) -> Iterator[None]:
    """The quantizers raise AssertionError, KeyError, RuntimeError, TypeError, ValueError, …"""
    try:
        yield
    except Exception as error:
        raise QuantizationError(
            f"ONNX Runtime's quantizer failed on recipe {recipe.name!r}: {type(error).__name__}: "
            f"{graphs.first_line(error)}. If it names a node, exclude that by exclude_nodes; else "
            "try another recipe"
        ) from error


_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizers' chatter off stderr; what they skip shows in the profile.

    They log through `logging.warning`, which installs a handler on the root logger where there
    is none: `lastResort` stands in, so that everyone else's messages go where they went before.
    """
    root, stand_in = logging.getLogger(), logging.lastResort
    with _ONE_AT_A_TIME:
        added = not root.handlers and stand_in is not None
        root.addFilter(_is_not_theirs)
        if added and stand_in is not None:
            root.addHandler(stand_in)
        try:
            yield
        finally:
            root.removeFilter(_is_not_theirs)
            if added and stand_in is not None:
                root.removeHandler(stand_in)


def _is_not_theirs(record: logging.LogRecord) -> bool:
    return "onnxruntime" not in record.pathname.replace("\\", "/").split("/")
