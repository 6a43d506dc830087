"""SmoothQuant: outliers of activations moved into the weights that they meet, before quantizing.

Channel j of what a matrix product reads is divided by s_j, and row j of its weights multiplied by
it, which changes nothing in floating point ::

    s_j = max|X_j|^α / max|W_j|^(1 − α)

The division is folded into the LayerNormalization, or the Mul and Add, that made the tensor; where
somebody else reads the tensor, too, it is a Mul of its own.

G. Xiao, J. Lin, M. Seznec, H. Wu, J. Demouth, S. Han (2023), "SmoothQuant: accurate and efficient
post-training quantization for large language models", ICML.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gate import graph as graphs
from gate.backends._onnxruntime_plan import Plan
from gate.values import Array

_MATRIX = 2
_LEAST = 1e-5


@dataclass(frozen=True, slots=True)
class _Reader:
    """A matrix product with constant weights."""

    node: Any
    weight: str
    channels: int
    """Axis of the weights along which the input's channels lie."""


def tensors(fitted: Plan) -> dict[str, int]:
    """What the products to be smoothed read, each with the axis of its channels: the last."""
    return dict.fromkeys(_readers(fitted), -1)


def smoothed(fitted: Plan, maxima: Mapping[str, Array], strength: float) -> Any:
    """The model with every product of `tensors` smoothed; `fitted` is used up.

    Args:
        fitted: the model, and which of its nodes are quantized.
        maxima: (K,) largest absolute value by channel, of each of `tensors`.
        strength: α, 0..1: how much of the outliers the weights take.
    """
    graph = fitted.model.graph
    weights = Weights(graph)
    for name, readers in _readers(fitted).items():
        factors = _factors(maxima[name], [(weights.array(r.weight), r) for r in readers], strength)
        for reader in readers:
            weights.scale(reader, factors)
        if not _folded(graph, weights, name, readers, factors):
            _insert(graph, weights, name, readers, factors)
    return fitted.model


def _readers(fitted: Plan) -> dict[str, list[_Reader]]:
    """Products with constant matrices, by what they read."""
    graph = fitted.model.graph
    sizes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    chosen = {*fitted.selected}
    found: dict[str, list[_Reader]] = {}
    for node in graph.node:
        if node.name not in chosen or node.op_type not in ("MatMul", "Gemm"):
            continue
        flags = {attribute.name: attribute.i for attribute in node.attribute}
        plain = sizes.get(node.input[1]) == _MATRIX and node.input[0] not in sizes
        if plain and not flags.get("transA"):
            reader = _Reader(node, node.input[1], 1 if flags.get("transB") else 0)
            found.setdefault(node.input[0], []).append(reader)
    return found


def _factors(largest: Array, weights: list[tuple[Array, _Reader]], strength: float) -> Array:
    """(K,): s, 1 where a channel is never anything but 0."""
    rows = [np.abs(array).max(axis=1 - reader.channels) for array, reader in weights]
    heaviest = np.maximum(np.max(rows, axis=0), _LEAST)
    factors = np.maximum(largest, _LEAST) ** strength / heaviest ** (1 - strength)
    return np.where(largest > 0, np.maximum(factors, _LEAST), 1.0)


class Weights:
    """Constants by name; one that others share is copied before it changes."""

    def __init__(self, graph: Any) -> None:
        """Of a GraphProto, which is changed in place."""
        self._graph = graph
        self._found = {tensor.name: tensor for tensor in graph.initializer}
        self._uses: dict[str, int] = {value.name: 1 for value in graph.output}
        for node in graph.node:
            for name in (*node.input, *graphs.read_inside(node)):
                self._uses[name] = self._uses.get(name, 0) + 1

    def has(self, name: str) -> bool:
        """Whether it is one of them."""
        return name in self._found

    def array(self, name: str) -> Array:
        """Its values."""
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._found[name]))

    def vector(self, name: str, size: int) -> bool:
        """Whether it is a constant with one value a channel."""
        found = self._found.get(name)
        return (
            found is not None
            and len(found.dims) >= 1
            and (list(found.dims)[-1] == size and int(np.prod(found.dims)) == size)
        )

    def scale(self, reader: _Reader, factors: Array) -> None:
        """Multiply the rows of a product's weights."""
        shape = (-1, 1) if reader.channels == 0 else (1, -1)
        self.replace(reader.node, 1, self.array(reader.weight) * factors.reshape(shape))

    def divide(self, node: Any, place: int, factors: Array) -> None:
        """Put the constant, divided, in the place of a node's input."""
        self.replace(node, place, self.array(node.input[place]) / factors)

    def replace(self, node: Any, place: int, values: Array) -> None:
        """Put other values in the place of a node's input."""
        from onnx import numpy_helper

        before = self._found[node.input[place]]
        made = numpy_helper.from_array(values.astype(self.array(before.name).dtype), before.name)
        if self._uses[before.name] == 1:
            before.CopyFrom(made)
            return
        self._uses[before.name] -= 1
        node.input[place] = self.add(f"{before.name}_{node.name}_smoothed", values, before.name)

    def add(self, name: str, values: Array, like: str) -> str:
        """A new constant of the type of another; its name."""
        from onnx import numpy_helper

        while name in self._found:
            name += "_"
        made = numpy_helper.from_array(values.astype(self.array(like).dtype), name)
        self._graph.initializer.append(made)
        self._found[name], self._uses[name] = self._graph.initializer[-1], 1
        return name


def _folded(
    graph: Any, weights: Weights, name: str, readers: list[_Reader], factors: Array
) -> bool:
    """Divide where the tensor is made, if nobody but the readers sees it."""
    if not _seen_only_by(graph, name, len(readers)):
        return False
    places = list(_places(graph, weights, name, len(factors)))
    for node, place in places:
        weights.divide(node, place, factors)
    return bool(places)


def _seen_only_by(graph: Any, name: str, readers: int) -> bool:
    uses = sum(list(node.input).count(name) for node in graph.node)
    inside = any(name in graphs.read_inside(node) for node in graph.node)
    return uses == readers and not inside and all(v.name != name for v in graph.output)


def _places(graph: Any, weights: Weights, name: str, size: int) -> Iterator[tuple[Any, int]]:
    """Constants that, divided, divide the tensor; none where there is no such set of them."""
    maker = next((node for node in graph.node if name in node.output), None)
    if maker is None or maker.output[0] != name:  # LayerNormalization also gives what is unscaled
        return
    if maker.op_type == "LayerNormalization":
        scales = [place for place in (1, 2) if place < len(maker.input) and maker.input[place]]
        if all(weights.vector(maker.input[place], size) for place in scales):
            yield from ((maker, place) for place in scales)
        return
    vectors = [p for p in (0, 1) if len(maker.input) > p and weights.vector(maker.input[p], size)]
    if maker.op_type == "Mul" and len(vectors) == 1:
        yield maker, vectors[0]
    elif maker.op_type == "Add" and len(vectors) == 1:
        inner = maker.input[1 - vectors[0]]
        before = _places(graph, weights, inner, size) if _seen_only_by(graph, inner, 1) else ()
        found = list(before)
        if found:
            yield maker, vectors[0]
            yield from found


def _insert(
    graph: Any, weights: Weights, name: str, readers: list[_Reader], factors: Array
) -> None:
    """A Mul by 1 / s between the tensor and its readers."""
    from onnx import helper

    taken = {output for node in graph.node for output in node.output}
    smooth = f"{name}_smoothed"
    while smooth in taken:
        smooth += "_"
    scale = weights.add(f"{smooth}_factors", 1.0 / factors, readers[0].node.input[1])
    first = min(i for i, node in enumerate(graph.node) if name in node.input and _is(node, readers))
    graph.node.insert(first, helper.make_node("Mul", [name, scale], [smooth], f"{smooth}_Mul"))
    for reader in readers:
        reader.node.input[0] = smooth


def _is(node: Any, readers: list[_Reader]) -> bool:
    return any(node.name == reader.node.name for reader in readers)
