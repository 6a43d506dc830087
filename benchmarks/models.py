"""Models of the size of well-known ones, with random weights: good for what things cost."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
_INVERTED_RESIDUALS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
"""Expansion, channels, repeats, stride.

M. Sandler et al. (2018), "MobileNetV2: inverted residuals and linear bottlenecks", CVPR, table 2.
"""


def mobilenet_v2(path: Path, *, side: int = 224, classes: int = 1000) -> Path:
    """image (N, 3, side, side) -> logits (N, classes); BatchNorm is folded."""
    net = _Net()
    x, channels = net.conv("image", 3, 32, 3, stride=2), 32
    for expansion, wide, repeats, stride in _INVERTED_RESIDUALS:
        for repeat in range(repeats):
            given, hidden = x, channels * expansion
            y = net.conv(x, channels, hidden, 1) if expansion != 1 else x
            y = net.conv(y, hidden, hidden, 3, stride=1 if repeat else stride, groups=hidden)
            x = net.conv(y, hidden, wide, 1, cut=False)
            x = net.op("Add", given, x) if repeat else x
            channels = wide
    x = net.op("Flatten", net.op("GlobalAveragePool", net.conv(x, channels, 1280, 1)))
    net.op("Gemm", x, net.weight(1280, classes), net.weight(classes), to="logits")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, side, side])
    return net.save(path, image, "logits", ["N", classes])


def transformer(
    path: Path,
    *,
    layers: int = 6,
    width: int = 384,
    heads: int = 12,
    inner: int = 1536,
    words: int = 128,
    vocabulary: int = 30522,
) -> Path:
    """ids (N, words) -> y (N, width), an encoder of MiniLM-L6's size; GELU by Erf."""
    net = _Net()
    x = net.op("Gather", net.weight(vocabulary, width, scale=1.0), "ids")
    x = net.norm(net.op("Add", x, net.weight(words, width, scale=1.0)), width)
    for _ in range(layers):
        x = net.norm(net.op("Add", x, _attention(net, x, width, heads, words)), width)
        inside = _gelu(net, net.linear(x, width, inner))
        x = net.norm(net.op("Add", x, net.linear(inside, inner, width)), width)
    net.op("ReduceMean", x, to="y", axes=[1], keepdims=0)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", words])
    return net.save(path, ids, "y", ["N", width])


def convolutions(path: Path, *, layers: int = 1000, side: int = 8) -> Path:
    """image (N, 4, side, side) -> as many convolutions with ReLU -> y."""
    net, x = _Net(), "image"
    for _ in range(layers):
        x = net.op("Relu", net.conv(x, 4, 4, 3, cut=False))
    net.op("Identity", x, to="y")
    shape = ["N", 4, side, side]
    return net.save(
        path, helper.make_tensor_value_info("image", TensorProto.FLOAT, shape), "y", shape
    )


def _attention(net: "_Net", x: str, width: int, heads: int, words: int) -> str:
    each = width // heads
    split = net.constant(np.array([0, words, heads, each]))

    def part(order: list[int]) -> str:
        return net.op(
            "Transpose", net.op("Reshape", net.linear(x, width, width), split), perm=order
        )

    query, key, value = part([0, 2, 1, 3]), part([0, 2, 3, 1]), part([0, 2, 1, 3])
    scores = net.op("Div", net.op("MatMul", query, key), net.number(math.sqrt(each)))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    joined = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = net.op("Reshape", joined, net.constant(np.array([0, words, width])))
    return net.linear(joined, width, width)


def _gelu(net: "_Net", x: str) -> str:
    erf = net.op("Erf", net.op("Div", x, net.number(math.sqrt(2))))
    product = net.op("Mul", x, net.op("Add", erf, net.number(1.0)))
    return net.op("Mul", product, net.number(0.5))


class _Net:
    """A graph, node by node; every method gives the name of what it made."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._rng = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self._nodes)}"
        output = to or f"{name}_out"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name, **attributes))
        return output

    def constant(self, value: Any) -> str:
        name = f"w_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def weight(self, *shape: int, scale: float = 0.03) -> str:
        return self.constant(self._rng.normal(0, scale, shape).astype(np.float32))

    def conv(
        self,
        x: str,
        given: int,
        made: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        cut: bool = True,
    ) -> str:
        inputs = given // groups
        scale = math.sqrt(2 / (kernel * kernel * inputs))
        weight = self.weight(made, inputs, kernel, kernel, scale=scale)
        y = self.op(
            *("Conv", x, weight, self.weight(made, scale=0.1)),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )
        return self.op("Clip", y, self.number(0), self.number(6)) if cut else y

    def linear(self, x: str, given: int, made: int) -> str:
        product = self.op("MatMul", x, self.weight(given, made, scale=1 / math.sqrt(given)))
        return self.op("Add", product, self.weight(made))

    def norm(self, x: str, width: int) -> str:
        scale, bias = self.constant(np.ones(width, np.float32)), self.weight(width)
        return self.op("LayerNormalization", x, scale, bias, axis=-1)

    def save(self, path: Path, given: Any, output: str, shape: list[Any]) -> Path:
        made = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, "bench", [given], [made], self._weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        proto.ir_version = 8
        onnx.checker.check_model(proto)
        onnx.save_model(proto, path)
        return path
