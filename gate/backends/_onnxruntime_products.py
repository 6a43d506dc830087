"""Which layers of a QDQ model multiply unsigned activations with signed weights on x86."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gate.backends import Product
from gate.values import Array

_CONVOLUTION = "Conv"
_PRODUCTS = (_CONVOLUTION, "MatMul", "Gemm")


def of(model: Any) -> Iterator[Product]:
    """Every Conv, MatMul and Gemm with 8-bit activations and constant int8 weights.

    Depthwise convolutions, of one output a channel, are left out: their kernels add into 32 bits.
    """
    from onnx import NodeProto, numpy_helper

    graph, nothing = model.graph, NodeProto()
    made = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def value(name: str) -> Array:
        return np.asarray(numpy_helper.to_array(constants[name]))

    for node in graph.node:
        if node.op_type not in _PRODUCTS:
            continue
        activation, weight = (made.get(name, nothing) for name in node.input[:2])
        if {activation.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        source = made.get(activation.input[0])
        if weight.input[0] not in constants or source is None:
            continue
        weights = value(weight.input[0])
        scale, zero_point = (value(name) for name in source.input[1:3])
        rows = _rows(node, weights)
        # On x86 the runtime turns signed activations into unsigned ones, 128 further up.
        shift = 128 if zero_point.dtype == np.int8 else 0
        if weights.dtype == np.int8 and rows is not None:
            yield Product(node.name, source.input[0], float(scale), int(zero_point) + shift, rows)


def _rows(node: Any, weights: Array) -> Array | None:
    """(M, K), as the kernels lay them out; None where products are not added in pairs."""
    flags: Mapping[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == _CONVOLUTION:  # (M, C / group, …): channels are next to each other
        if weights.shape[1] == 1 and flags.get("group", 1) == len(weights) > 1:
            return None
        return np.moveaxis(weights, 1, -1).reshape(len(weights), -1)
    if weights.ndim == 1:
        return weights[np.newaxis]
    rows = weights if flags.get("transB") else np.swapaxes(weights, -1, -2)
    return rows.reshape(-1, rows.shape[-1])
