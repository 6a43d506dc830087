"""How much of a channel's error the layers that read it feel.

A layer of weights W turns errors e of its inputs into Σ_c W_c e_c, the energy of which is
Σ_c |W_c|² E_c where channels err apart. A channel that is 300 times as large as the others, and met
by weights as much smaller, so counts no more than they do.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gate.values import Array

_PASSING = frozenset(
    {"Add", "AveragePool", "Clip", "Dropout", "GlobalAveragePool", "Identity", "LeakyRelu"}
    | {"MaxPool", "Relu", "Sub"}
)
"""Operators that leave channels where they are and errors about as large as they were."""
_MATRIX = 2
Felt = dict[str, Array]


def felt(model: Any) -> Felt:
    """|W_c| of what reads a tensor, by tensor, in a shape that multiplies it; `model` is typed.

    Tensors are left out that are outputs, or whose readers' weights are not known.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    widths, kept = _shapes(model), {value.name for value in model.graph.output}
    squares: Felt = {}
    for node in reversed(model.graph.node):
        for name, energy in _by_input(node, constants, widths, squares):
            before = squares.get(name)
            if before is None or before.shape == energy.shape:
                squares[name] = energy if before is None else before + energy
    found = {name: np.sqrt(energy) for name, energy in squares.items() if name not in kept}
    return {
        name: gain.astype(np.float32)
        for name, gain in found.items()
        if np.isfinite(gain).all() and gain.any()
    }


def _by_input(
    node: Any, constants: Mapping[str, Any], shapes: Mapping[str, list[int]], squares: Felt
) -> Iterator[tuple[str, Array]]:
    """Σ |W_c|² of a node, for each input whose channels it reads."""
    weights = constants.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        if weights is not None:
            energy = _of_layer(node, weights, shapes.get(node.input[0]))
            if energy is not None:
                yield node.input[0], energy
        return
    after = squares.get(node.output[0]) if node.output else None
    if after is None:
        return
    if node.op_type == "Concat":
        yield from _of_parts(node, after, shapes)
    elif node.op_type in _PASSING:
        rank = len(shapes.get(node.output[0], []))
        for name in node.input:
            if name not in constants and len(shapes.get(name, [])) == rank:
                yield name, after


def _of_layer(node: Any, weights: Any, shape: list[int] | None) -> Array | None:
    """(K,) of the last axis, or (C, 1, …) of a convolution's; None where it cannot be told."""
    from onnx import numpy_helper

    flags = {entry.name: entry.i for entry in node.attribute}
    values = np.square(np.asarray(numpy_helper.to_array(weights), dtype=np.float64))
    if node.op_type == "Conv":
        groups, rank = flags.get("group", 1), values.ndim
        parts = values.reshape(groups, len(values) // groups, *values.shape[1:])
        energy = parts.sum(axis=(1, *range(3, rank + 1))).reshape(-1)
        return np.asarray(energy.reshape(-1, *[1] * (rank - 2)))
    if values.ndim != _MATRIX or shape is None or flags.get("transA"):
        return None
    return np.asarray(values.sum(axis=0 if flags.get("transB") else 1))


def _of_parts(
    node: Any, after: Array, shapes: Mapping[str, list[int]]
) -> Iterator[tuple[str, Array]]:
    """Of the inputs of a Concat along the channels."""
    given = [shapes.get(name, []) for name in node.input]
    axis = next(entry.i for entry in node.attribute if entry.name == "axis")
    place = len(given[0]) - after.ndim
    if not given[0] or axis % len(given[0]) != place:
        return
    sizes = [shape[place] if len(shape) > place else 0 for shape in given]
    if 0 in sizes or sum(sizes) != len(after):
        return
    parts = np.split(after, np.cumsum(sizes)[:-1])
    yield from zip(node.input, parts, strict=True)


def _shapes(model: Any) -> dict[str, list[int]]:
    """Sizes by tensor; 0 where one is not known."""
    graph = model.graph
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output, *graph.input)
        if value.type.tensor_type.HasField("shape")
    }
