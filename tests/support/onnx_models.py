"""Small ONNX models, built by hand, with seeded weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def weights(*shape: int, seed: int = 0, scale: float = 0.3) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def images(count: int = 8, *, seed: int = 1) -> NDArray[np.float32]:
    """Inputs for `cnn`."""
    return np.random.default_rng(seed).random((count, 1, 8, 8), dtype=np.float32)


def vectors(count: int = 8, *, width: int = 16, seed: int = 1) -> NDArray[np.float32]:
    """Inputs for `mlp`."""
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    initializers: dict[str, NDArray[Any]],
    *,
    opset: int = OPSET,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A checked model; a shape stands for float, or is (type, shape)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [_info(name, spec) for name, spec in inputs.items()],
        [_info(name, spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = ir_version
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _info(name: str, spec: Any) -> onnx.ValueInfoProto:
    kind, shape = spec if isinstance(spec, tuple) else (TensorProto.FLOAT, spec)
    return helper.make_tensor_value_info(name, kind, shape)


def save(proto: onnx.ModelProto, path: Path, *, external: bool = False) -> Path:
    """Write it, with the weights in a file beside it when `external`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        onnx.save_model(
            proto, path, save_as_external_data=True, location=path.name + ".data", size_threshold=0
        )
    else:
        onnx.save_model(proto, path)
    return path


def cnn(*, batch: int | str = "N", named: bool = True, opset: int = OPSET) -> onnx.ModelProto:
    """image (N, 1, 8, 8) -> conv1, relu1, pool1, conv2, relu2, flatten, fc -> logits (N, 10)."""
    names = ["conv1", "relu1", "pool1", "conv2", "relu2", "flatten", "fc"]
    name = dict(zip(names, names if named else [""] * 7, strict=True))
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name["conv1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name["relu1"]),
        helper.make_node(
            "MaxPool", ["r1"], ["p1"], name["pool1"], kernel_shape=[2, 2], strides=[2, 2]
        ),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], name["conv2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name["relu2"]),
        helper.make_node("Flatten", ["r2"], ["flat"], name["flatten"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], name["fc"], transB=1),
    ]
    initializers = {
        "w1": weights(8, 1, 3, 3, seed=1),
        "b1": weights(8, seed=2),
        "w2": weights(16, 8, 3, 3, seed=3),
        "b2": weights(16, seed=4),
        "w3": weights(10, 256, seed=5),
        "b3": weights(10, seed=6),
    }
    return model(
        nodes, {"image": [batch, 1, 8, 8]}, {"logits": [batch, 10]}, initializers, opset=opset
    )


def mlp() -> onnx.ModelProto:
    """x (N, 16) -> first, add1, relu, second, add2 -> y (N, 4)."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"], "first"),
        helper.make_node("Add", ["m1", "b1"], ["a1"], "add1"),
        helper.make_node("Relu", ["a1"], ["r1"], "relu"),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"], "second"),
        helper.make_node("Add", ["m2", "b2"], ["y"], "add2"),
    ]
    initializers = {
        "w1": weights(16, 32, seed=1),
        "b1": weights(32, seed=2),
        "w2": weights(32, 4, seed=3),
        "b2": weights(4, seed=4),
    }
    return model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, initializers)


def gemm_mlp() -> onnx.ModelProto:
    """x (N, 16) -> fc1, relu, fc2 -> y (N, 4), as exporters of linear layers write it."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["g1"], "fc1", transB=1),
        helper.make_node("Relu", ["g1"], ["r1"], "relu"),
        helper.make_node("Gemm", ["r1", "w2", "b2"], ["y"], "fc2", transB=1),
    ]
    initializers = {
        "w1": weights(32, 16, seed=1),
        "b1": weights(32, seed=2),
        "w2": weights(4, 32, seed=3),
        "b2": weights(4, seed=4),
    }
    return model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, initializers)


def nothing_to_quantize() -> onnx.ModelProto:
    """x (N, 16) -> tanh, log_softmax -> y: no operator that multiplies and accumulates."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"], "tanh"),
        helper.make_node("LogSoftmax", ["t"], ["y"], "log_softmax", axis=1),
    ]
    return model(nodes, {"x": ["N", 16]}, {"y": ["N", 16]}, {})


def weights_in_if() -> onnx.ModelProto:
    """x (N, 16) -> If(sum > 0) {MatMul} else {MatMul} -> y (N, 4); weights inside the branches."""

    def branch(tag: str, seed: int) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", f"w_{tag}"], [f"y_{tag}"], f"matmul_{tag}")],
            tag,
            [],
            [_info(f"y_{tag}", ["N", 4])],
            [numpy_helper.from_array(weights(16, 4, seed=seed), f"w_{tag}")],
        )

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], "total", keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"], "positive"),
        helper.make_node(
            "If",
            ["positive"],
            ["y"],
            "choose",
            then_branch=branch("then", 1),
            else_branch=branch("else", 2),
        ),
    ]
    zero = {"zero": np.array(0.0, dtype=np.float32)}
    return model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, zero)


def recurrent(kind: str = "GRU", *, hidden: int = 8) -> onnx.ModelProto:
    """x (seq, N, 16) -> `kind` -> y (seq, 1, N, hidden); no quantizer touches a GRU."""
    gates = {"GRU": 3, "LSTM": 4, "RNN": 1}[kind]
    node = helper.make_node(kind, ["x", "w", "r", "b"], ["y"], "recurrent", hidden_size=hidden)
    initializers = {
        "w": weights(1, gates * hidden, 16, seed=1),
        "r": weights(1, gates * hidden, hidden, seed=2),
        "b": weights(1, 2 * gates * hidden, seed=3),
    }
    return model([node], {"x": ["S", "N", 16]}, {"y": ["S", 1, "N", hidden]}, initializers)


def multi_input() -> onnx.ModelProto:
    """left (N, 16), right (N, 16), token (N,) of int64 -> y (N, 4)."""
    nodes = [
        helper.make_node("Gather", ["table", "token"], ["embedded"], "embed"),
        helper.make_node("Add", ["left", "right"], ["both"], "join"),
        helper.make_node("Add", ["both", "embedded"], ["all"], "join_token"),
        helper.make_node("MatMul", ["all", "w"], ["y"], "head"),
    ]
    inputs = {"left": ["N", 16], "right": ["N", 16], "token": (TensorProto.INT64, ["N"])}
    initializers = {"table": weights(10, 16, seed=1), "w": weights(16, 4, seed=2)}
    return model(nodes, inputs, {"y": ["N", 4]}, initializers)


def strings() -> onnx.ModelProto:
    """name (N,) of str -> the same."""
    node = helper.make_node("Identity", ["name"], ["same"], "identity")
    return model(
        [node],
        {"name": (TensorProto.STRING, ["N"])},
        {"same": (TensorProto.STRING, ["N"])},
        {},
    )


def convolution(
    weight: tuple[int, ...], x: tuple[int, ...], *, transpose: bool = False, **attributes: Any
) -> onnx.ModelProto:
    """x -> Conv or ConvTranspose, named `conv`, with a weight of that shape -> y."""
    op = "ConvTranspose" if transpose else "Conv"
    node = helper.make_node(op, ["x", "w"], ["y"], "conv", **attributes)
    shape: list[Any] = [None] * len(x)
    return model([node], {"x": list(x)}, {"y": shape}, {"w": weights(*weight)})


def product(op: str, a: tuple[int, ...], b: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """a, b -> `op`, named `product` -> y of unstated shape; both are inputs."""
    node = helper.make_node(op, ["a", "b"], ["y"], "product", **attributes)
    output = onnx.ValueInfoProto(name="y")
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph([node], "graph", [_info("a", list(a)), _info("b", list(b))], [output])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    proto.ir_version = 8
    return proto


def attention(*, width: int = 4) -> onnx.ModelProto:
    """x (N, 4, width) -> q, k; scores = q · k; out = scores · w -> y."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q_out"], "q"),
        helper.make_node("MatMul", ["x", "wk"], ["k_out"], "k"),
        helper.make_node("MatMul", ["q_out", "k_out"], ["s"], "scores"),
        helper.make_node("MatMul", ["s", "wo"], ["y"], "out"),
    ]
    initializers = {
        name: weights(width, width, seed=seed) for seed, name in enumerate(["wq", "wk", "wo"])
    }
    return model(nodes, {"x": ["N", width, width]}, {"y": ["N", width, width]}, initializers)


def batched_product() -> onnx.ModelProto:
    """x (4, 3, 8, 32) times a weight (3, 32, 16), as node `product` -> y."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    shapes: dict[str, Any] = {"x": [4, 3, 8, 32], "y": [4, 3, 8, 16]}
    return model([node], {"x": shapes["x"]}, {"y": shapes["y"]}, {"w": weights(3, 32, 16)})


def widened(source: Path, path: Path, *, bias: float) -> Path:
    """A classifier whose last layer, a Gemm, has one more class, of that logit for every input."""
    model = onnx.load(source)
    last = next(node for node in model.graph.node if model.graph.output[0].name in node.output)
    for weight in model.graph.initializer:
        if weight.name in last.input:
            values = numpy_helper.to_array(weight)
            rows = ((0, 1), (0, 0))[: values.ndim]
            more = np.pad(values, rows, constant_values=bias if values.ndim == 1 else 0.0)
            weight.CopyFrom(numpy_helper.from_array(more, weight.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    del model.graph.value_info[:]
    onnx.save(model, path)
    return path


def retouched(source: Path, path: Path, *, by: float = 0.01, seed: int = 3) -> Path:
    """A model whose weights differ by as much as a retraining moves them."""
    model, rng = onnx.load(source), np.random.default_rng(seed)
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.ndim > 1:
            noise = by * values.std() * rng.standard_normal(values.shape)
            weight.CopyFrom(
                numpy_helper.from_array((values + noise).astype(np.float32), weight.name)
            )
    onnx.save(model, path)
    return path
