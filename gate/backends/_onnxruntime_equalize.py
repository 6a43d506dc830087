"""Channels brought to like ranges before quantizing, where that changes nothing in floating point.

Tensors joined by what commutes with a positive factor a channel, such as Relu, pooling and Add,
make up a stream. Where a stream is fed by layers alone and read by layers alone, its channel j can
be divided by s_j: in the weights of the layers that feed it, and back in those that read it. With
|X_j| the largest value of the channel in the stream and |W_j| the readers' largest weight for it ::

    s_j = max|X_j|^α / max|W_j|^(1 − α)

each relative to the largest of its kind. α is 1/2, as what the one side gains in steps the other
loses; it is 1 where every reader gives each channel a scale of its own, as a depthwise convolution
per channel does.

M. Nagel, M. van Baalen, T. Blankevoort, M. Welling (2019), "Data-free quantization through weight
equalization and bias correction", ICCV: there for pairs of layers and by the weights' ranges, here
for residual streams, too, and by the activations'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gate import graph as graphs
from gate.backends._onnxruntime_plan import Plan
from gate.backends._onnxruntime_smooth import Weights
from gate.values import Array

_COMMUTING = frozenset(
    {"AveragePool", "GlobalAveragePool", "Identity", "LeakyRelu", "MaxPool", "Relu"}
)
"""Operators with f(s · x) = s · f(x) for s > 0, each channel by itself."""
_JOINING = frozenset({"Add", "Sub", "Sum"})
_LAYERS = ("Conv", "Gemm")
_LEAST = 1e-5
_MOST = 1e4
"""By which a channel is scaled at the most, either way."""


@dataclass(slots=True)
class _Stream:
    """Tensors whose channels have to be scaled alike."""

    tensors: list[str] = field(default_factory=list)
    feeding: list[Any] = field(default_factory=list)
    """Layers whose outputs they are."""
    reading: list[Any] = field(default_factory=list)
    channels: set[int] = field(default_factory=set)
    """How many, as each layer has it."""
    is_fixed: bool = False
    """Whether something else sees one of them."""

    @property
    def can_scale(self) -> bool:
        """Whether layers, and nothing else, feed and read it."""
        ends = bool(self.feeding) and bool(self.reading)
        return ends and not self.is_fixed and len(self.channels) == 1


def tensors(fitted: Plan) -> dict[str, int]:
    """All that streams consist of, each with the axis of its channels: the second."""
    return {name: 1 for stream in _streams(fitted) for name in stream.tensors}


def equalize(fitted: Plan, maxima: Mapping[str, Array], *, per_channel: bool) -> None:
    """Rescale every stream of the model, in place; `maxima` are (C,) by `tensors`."""
    weights = Weights(fitted.model.graph)
    for stream in _streams(fitted):
        factors = _factors(stream, weights, maxima, per_channel=per_channel)
        for layer in stream.feeding:
            _scale(weights, layer, _output_axis(layer), 1 / factors)
            if len(layer.input) > 2 and layer.input[2]:  # noqa: PLR2004
                weights.divide(layer, 2, factors)
        for layer in stream.reading:
            _scale(weights, layer, _read_axis(layer, weights), factors)


def _factors(
    stream: _Stream, weights: Weights, maxima: Mapping[str, Array], *, per_channel: bool
) -> Array:
    """(C,): s, with a geometric mean of 1; 1 where a channel is never anything but 0."""
    largest = np.max([_relative(maxima[name]) for name in stream.tensors], axis=0)
    mixing = [r for r in stream.reading if not (per_channel and _is_depthwise(r, weights))]
    there = largest > 0
    if not there.any():
        return np.ones(len(largest))
    logs = np.log(np.maximum(largest, _LEAST))
    if mixing:
        heaviest = np.max([_relative(_by_input(reader, weights)) for reader in mixing], axis=0)
        logs = (logs - np.log(np.maximum(heaviest, _LEAST))) / 2
    factors = np.exp(logs - logs[there].mean())
    return np.where(there, np.clip(factors, 1 / _MOST, _MOST), 1.0)


def _relative(values: Array) -> Array:
    return np.asarray(values / max(float(values.max()), float(np.finfo(np.float32).tiny)))


def _by_input(layer: Any, weights: Weights) -> Array:
    """(C,) largest absolute weight for each channel that a layer reads."""
    values, axis = weights.array(layer.input[1]), _read_axis(layer, weights)
    return np.asarray(np.abs(np.moveaxis(values, axis, 0)).reshape(values.shape[axis], -1).max(1))


def _scale(weights: Weights, layer: Any, axis: int, factors: Array) -> None:
    values = weights.array(layer.input[1])
    shape = [1] * values.ndim
    shape[axis] = -1
    weights.replace(layer, 1, values * factors.reshape(shape))


# ── streams ───────────────────────────────────────────────────────────────────────────────


def _streams(fitted: Plan) -> list[_Stream]:
    """Of all layers, whichever are quantized: so that excluding one changes no other's weights."""
    graph = fitted.model.graph
    weights = Weights(graph)
    joined, ranks = _Joined(), graphs.ranks(fitted.model)
    layers = [node for node in graph.node if _is_plain(node, weights)]
    plain = {node.name for node in layers}
    commuting = {node.name for node in graph.node if _keeps_channels(node, weights, ranks)}
    for node in graph.node:
        if node.name in commuting:
            joined.all([*node.input, node.output[0]])
    streams: dict[str, _Stream] = {}
    for node in graph.node:
        if node.name in plain:
            _note_layer(node, joined, streams, weights)
        else:
            _note_other(node, joined, streams, weights, commutes=node.name in commuting)
    for value in (*graph.input, *graph.output):
        streams.setdefault(joined.of(value.name), _Stream()).is_fixed = True
    return [stream for stream in streams.values() if stream.can_scale]


def _note_layer(
    node: Any, joined: "_Joined", streams: dict[str, _Stream], weights: Weights
) -> None:
    shape = weights.array(node.input[1]).shape
    read = streams.setdefault(joined.of(node.input[0]), _Stream())
    read.reading.append(node)
    read.channels.add(shape[_read_axis(node, weights)])
    _keep(read, node.input[0])
    fed = streams.setdefault(joined.of(node.output[0]), _Stream())
    fed.feeding.append(node)
    fed.channels.add(shape[_output_axis(node)])
    _keep(fed, node.output[0])


def _note_other(
    node: Any, joined: "_Joined", streams: dict[str, _Stream], weights: Weights, *, commutes: bool
) -> None:
    for name in (*node.input, *graphs.read_inside(node), *node.output):
        if name and not weights.has(name):
            stream = streams.setdefault(joined.of(name), _Stream())
            stream.is_fixed |= not commutes
            _keep(stream, name)


def _keep(stream: _Stream, name: str) -> None:
    if name not in stream.tensors:
        stream.tensors.append(name)


class _Joined:
    """Which tensors belong together: a forest, each tree one set."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The one that stands for all of its set."""
        while name in self._above:
            name = self._above[name]
        return name

    def all(self, names: list[str]) -> None:
        """Put them into one set."""
        first, *others = (self.of(name) for name in names)
        for other in others:
            root, here = self.of(first), self.of(other)
            if root != here:
                self._above[here] = root


# ── layers ────────────────────────────────────────────────────────────────────────────────


def _keeps_channels(node: Any, weights: Weights, ranks: Mapping[str, int]) -> bool:
    """Commutes with a factor a channel, and reads no constant.

    What is joined has the same number of axes, or channels would not meet their like.
    """
    if len([name for name in node.output if name]) != 1:
        return False
    if node.op_type in _COMMUTING:
        return True
    known = {ranks.get(name) for name in node.input}
    alike = len(known) == 1 and None not in known
    return node.op_type in _JOINING and alike and not any(map(weights.has, node.input))


def _is_plain(node: Any, weights: Weights) -> bool:
    """A layer of constants, whose channels are as they are written; grouped only if depthwise."""
    if node.op_type not in _LAYERS or not weights.has(node.input[1]) or weights.has(node.input[0]):
        return False
    if len(node.input) > 2 and node.input[2] and not _is_vector(node, weights):  # noqa: PLR2004
        return False
    if node.op_type == "Gemm":
        return not _flags(node).get("transA")
    return _groups(node) == 1 or _is_depthwise(node, weights)


def _is_vector(node: Any, weights: Weights) -> bool:
    width = weights.array(node.input[1]).shape[_output_axis(node)]
    return weights.has(node.input[2]) and weights.array(node.input[2]).shape == (width,)


def _is_depthwise(node: Any, weights: Weights) -> bool:
    """One filter for each channel."""
    size = weights.array(node.input[1]).shape
    return node.op_type == "Conv" and 1 < _groups(node) == size[0] and bool(size[1] == 1)


def _groups(node: Any) -> int:
    return _flags(node).get("group", 1)


def _flags(node: Any) -> dict[str, int]:
    return {attribute.name: attribute.i for attribute in node.attribute}


def _output_axis(node: Any) -> int:
    return 0 if node.op_type == "Conv" or _flags(node).get("transB") else 1


def _read_axis(node: Any, weights: Weights) -> int:
    """Axis of the weights along which what a layer reads has its channels."""
    return 0 if _is_depthwise(node, weights) else 1 - _output_axis(node)
