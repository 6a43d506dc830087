"""Biases that make up for what rounding the weights shifts on average.

A layer y = W x + b whose weights are rounded to Ŵ gives (Ŵ − W) x more, and on average ::

    E[ŷ − y] = (Ŵ − W) E[x],   so   b' = b − (Ŵ − W) E[x]

with E[x] the mean of each channel over the calibration data; a convolution's mean does not see the
padding at the edges.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling (2019), "Data-free quantization through weight
equalization and bias correction", ICCV, section 4.2, with means measured instead of derived.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gate.backends._onnxruntime_points import rounded_weights
from gate.backends._onnxruntime_smooth import Weights
from gate.values import Array

_BIAS = 2


def tensors(model: Any, selected: tuple[str, ...]) -> dict[str, int]:
    """What the layers with constant weights and biases read, each with the axis of its channels."""
    return {node.input[0]: 1 for node in _layers(model, selected)}


def corrected(model: Any, int8: Any, means: Mapping[str, Array]) -> Any:
    """The FP32 `model`, which is used up, with biases for the weights of `int8`, made of it."""
    weights = Weights(model.graph)
    rounded = rounded_weights(int8)
    for node in _layers(model, tuple(rounded)):
        if node.input[0] not in means:
            continue
        lost = rounded[node.name] - weights.array(node.input[1])
        shift = _shift(node, lost, means[node.input[0]])
        weights.replace(node, _BIAS, weights.array(node.input[_BIAS]) - shift)
    return model


def _layers(model: Any, selected: tuple[str, ...]) -> Iterator[Any]:
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    chosen = frozenset(selected)
    for node in model.graph.node:
        if node.name not in chosen or node.op_type not in ("Conv", "Gemm"):
            continue
        flags = _flags(node)
        if any(entry.name in ("alpha", "beta") and entry.f != 1 for entry in node.attribute):
            continue
        whole = len(node.input) > _BIAS and {*node.input[1:]} <= sizes.keys()
        if not whole or flags.get("transA") or len(sizes[node.input[_BIAS]]) != 1:
            continue
        size = sizes[node.input[1]]
        if flags.get("group", 1) == 1 or (flags["group"] == size[0] and size[1] == 1):
            yield node


def _shift(node: Any, lost: Array, mean: Array) -> Array:
    """(M,): what the rounding of the weights adds on average."""
    if node.op_type == "Gemm":
        return np.asarray((lost if _flags(node).get("transB") else lost.T) @ mean)
    summed = lost.reshape(*lost.shape[:2], -1).sum(axis=2)  # over the kernel's positions
    if _flags(node).get("group", 1) == 1:
        return np.asarray(summed @ mean)
    return np.asarray(summed[:, 0] * mean)


def _flags(node: Any) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}
