"""Equalizing changes nothing in floating point, and less is lost to integers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.int8 import quantized, recipe
from support.onnx_models import OPSET, cnn, images, model, save, weights
from support.project import CNN, WIDE_RANGE

from gate.backends.onnxruntime import BACKEND
from gate.recipes import Recipe

WIDTH = 6
Nodes = list[onnx.NodeProto]


def conv(name: str, x: str, y: str, weight: str, **flags: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, weight, f"b_{weight}"], [y], name, pads=[1] * 4, **flags)


def spread(*shape: int, seed: int) -> Any:
    """Weights of which each output channel is twice as large as the one before it."""
    factors = 2.0 ** np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (weights(*shape, seed=seed) * factors).astype(np.float32)


def convolutional(nodes: Nodes, **constants: Any) -> onnx.ModelProto:
    """x (N, 3, 8, 8) -> nodes -> y."""
    known = {
        "w1": spread(WIDTH, 3, 3, 3, seed=1),
        "w2": weights(WIDTH, WIDTH, 3, 3, seed=2),
        "w3": spread(3, 3, 3, 3, seed=3),
        "dw": weights(WIDTH, 1, 3, 3, seed=3),
    } | constants
    known |= {f"b_{name}": weights(len(value), seed=9) for name, value in known.items()}
    used = {name: v for name, v in known.items() if any(name in node.input for node in nodes)}
    return model(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", None, None, None]}, used)


def relu(x: str, y: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [x], [y], f"relu_{y}")


CHAINS: dict[str, Nodes] = {
    "conv-relu-conv": [conv("1", "x", "a", "w1"), relu("a", "r"), conv("2", "r", "y", "w2")],
    "conv-conv": [conv("1", "x", "a", "w1"), conv("2", "a", "y", "w2")],
    "depthwise": [
        conv("1", "x", "a", "w1"),
        relu("a", "r"),
        conv("2", "r", "d", "dw", group=WIDTH),
        relu("d", "s"),
        conv("3", "s", "y", "w2"),
    ],
    "max-pool": [
        conv("1", "x", "a", "w1"),
        helper.make_node("LeakyRelu", ["a"], ["r"], "leaky", alpha=0.1),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        conv("2", "p", "y", "w2"),
    ],
    "residual": [
        conv("1", "x", "a", "w1"),
        conv("2", "a", "b", "w2"),
        helper.make_node("Add", ["a", "b"], ["s"], "add"),
        relu("s", "t"),
        conv("3", "t", "y", "w2"),
    ],
    "shared": [
        conv("1", "x", "a", "w1"),
        relu("a", "r"),
        conv("2", "r", "b", "w2"),
        relu("b", "s"),
        conv("3", "s", "y", "w2"),
    ],
}
UNTOUCHED: dict[str, Nodes] = {
    "residual that is an output": [
        conv("1", "x", "a", "w1"),
        conv("2", "a", "b", "w2"),
        helper.make_node("Add", ["a", "b"], ["y"], "add"),
    ],
    "residual of an input": [
        conv("1", "x", "a", "w3"),
        helper.make_node("Add", ["a", "x"], ["r"], "add"),
        conv("2", "r", "y", "w3"),
    ],
    "no scale passes": [
        conv("1", "x", "a", "w1"),
        helper.make_node("Sigmoid", ["a"], ["r"], "sigmoid"),
        conv("2", "r", "y", "w2"),
    ],
}


def batch(count: int = 16) -> dict[str, Any]:
    return {"x": np.random.default_rng(5).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def equalized(path: Path, feeds: dict[str, Any], chosen: Recipe | None = None) -> Path:
    chosen = chosen or recipe("static-equalized")
    axes = BACKEND.smoothable(path, chosen)
    found = feeds | BACKEND.open_exposed(path, tuple(axes), threads=1).run(feeds)
    maxima = {}
    for name, axis in axes.items():
        channels = np.moveaxis(np.abs(found[name]), axis, 0)
        maxima[name] = channels.reshape(len(channels), -1).max(axis=1)
    BACKEND.smooth(path, chosen, maxima, path.with_name("equalized.onnx"))
    return path.with_name("equalized.onnx")


def output(path: Path, feeds: dict[str, Any]) -> Any:
    return next(iter(BACKEND.open(path, threads=1).run(feeds).values()))


def demand_same(before: Any, after: Any) -> None:
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def constants(path: Path) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_it_changes_weights_and_nothing_in_floating_point(
    tmp_path: Path, kind: str, per_channel: bool
) -> None:
    path, feeds = save(convolutional(CHAINS[kind]), tmp_path / "m.onnx"), batch()
    chosen = recipe("static-equalized", per_channel=per_channel)
    after = equalized(path, feeds, chosen)
    demand_same(output(path, feeds), output(after, feeds))
    assert not np.allclose(constants(path)["w1"], constants(after)["w1"])
    nodes = [[node.op_type for node in onnx.load(file).graph.node] for file in (path, after)]
    assert nodes[0] == nodes[1]


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_where_somebody_else_sees_a_tensor_it_stays(tmp_path: Path, kind: str) -> None:
    path, feeds = save(convolutional(UNTOUCHED[kind]), tmp_path / "m.onnx"), batch()
    assert not BACKEND.smoothable(path, recipe("static-equalized"))
    np.testing.assert_array_equal(output(equalized(path, feeds), feeds), output(path, feeds))


def test_an_inner_output_stays(tmp_path: Path) -> None:
    proto = convolutional(CHAINS["conv-conv"])
    proto.graph.output.append(helper.make_tensor_value_info("a", 1, ["N", WIDTH, 8, 8]))
    path = save(proto, tmp_path / "m.onnx")
    assert not BACKEND.smoothable(path, recipe("static-equalized"))


@pytest.mark.parametrize("transposed", [(0, 0), (1, 1), (1, 0)])
@pytest.mark.parametrize("biased", [True, False])
def test_gemms_are_equalized_either_way_round(
    tmp_path: Path, transposed: tuple[int, int], biased: bool
) -> None:
    first = spread(WIDTH, 4, seed=1)
    second = weights(WIDTH, 3, seed=2)
    values = {
        "w1": first if transposed[0] else np.ascontiguousarray(first.T),
        "w2": np.ascontiguousarray(second.T) if transposed[1] else second,
        "b": weights(WIDTH, seed=3),
    }
    given = ["x", "w1", "b"] if biased else ["x", "w1"]
    nodes = [
        helper.make_node("Gemm", given, ["a"], "1", transB=transposed[0], alpha=0.5, beta=2.0),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2"], ["y"], "2", transB=transposed[1]),
    ]
    used = {name: values[name] for name in ("w1", "w2", *(["b"] if biased else []))}
    proto = model(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, used)
    path = save(proto, tmp_path / "m.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)}
    after = equalized(path, feeds)
    demand_same(output(path, feeds), output(after, feeds))
    assert not np.allclose(constants(path)["w2"], constants(after)["w2"])


def test_a_channel_that_is_never_anything_but_0_stays(tmp_path: Path) -> None:
    dead = spread(WIDTH, 3, 3, 3, seed=1)
    dead[2] = 0
    proto = convolutional(CHAINS["conv-relu-conv"], w1=dead)
    (bias,) = [tensor for tensor in proto.graph.initializer if tensor.name == "b_w1"]
    values = numpy_helper.to_array(bias).copy()
    values[2] = 0
    bias.CopyFrom(numpy_helper.from_array(values, "b_w1"))
    path, feeds = save(proto, tmp_path / "m.onnx"), batch()
    after = equalized(path, feeds)
    demand_same(output(path, feeds), output(after, feeds))
    assert np.isfinite(constants(after)["w2"]).all()
    np.testing.assert_array_equal(constants(after)["w2"][:, 2], constants(path)["w2"][:, 2])


def test_channels_come_to_like_ranges(tmp_path: Path) -> None:
    path, feeds = save(convolutional(CHAINS["conv-relu-conv"]), tmp_path / "m.onnx"), batch()
    before, after = (
        BACKEND.open_exposed(p, ("r",), threads=1).run(feeds)["r"].max(axis=(0, 2, 3))
        for p in (path, equalized(path, feeds))
    )
    assert before.max() / before.min() > 8
    assert after.max() / after.min() < before.max() / before.min() / 3


def test_spread_channels_lose_less(tmp_path: Path) -> None:
    undone = weights(WIDTH, WIDTH, 3, 3, seed=2) / 2.0 ** np.arange(WIDTH).reshape(1, -1, 1, 1)
    proto = convolutional(CHAINS["conv-relu-conv"], w2=undone.astype(np.float32))
    path, feeds = save(proto, tmp_path / "m.onnx"), batch()
    fp32, chosen = output(path, feeds), recipe("static-per-tensor")
    before = output(quantized(path, chosen, feeds, tmp_path, "before"), feeds)
    even = equalized(path, feeds, recipe("static-equalized", per_channel=False))
    after = output(quantized(even, chosen, feeds, tmp_path, "after"), feeds)
    assert np.square(after - fp32).sum() < np.square(before - fp32).sum() / 4


def test_of_the_wide_range_digits_next_to_none_flip(tmp_path: Path) -> None:
    from gate import examples

    with np.load(examples.policies() / "digits" / "calibration.npz") as archive:
        feeds = {"image": archive["image"]}
    path = tmp_path / "wide.onnx"
    path.write_bytes(WIDE_RANGE.read_bytes())
    fp32 = output(CNN, feeds).argmax(axis=1)
    static = quantized(path, recipe("static"), feeds, tmp_path, "static")
    even = quantized(equalized(path, feeds), recipe("static-mse"), feeds, tmp_path, "even")
    flips = [float((output(file, feeds).argmax(axis=1) != fp32).mean()) for file in (static, even)]
    assert flips[0] > 0.05
    assert flips[1] <= 0.01


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    path, feeds = save(cnn(opset=OPSET), tmp_path / "m.onnx"), {"image": images()}
    first = equalized(path, feeds).read_bytes()
    assert equalized(path, feeds).read_bytes() == first


def test_a_weight_that_is_an_output_too_stays(tmp_path: Path) -> None:
    proto = convolutional([conv("c1", "x", "h", "w1"), conv("c2", "h", "y", "w2")])
    shape = [WIDTH, 3, 3, 3]
    proto.graph.output.append(helper.make_tensor_value_info("w1", onnx.TensorProto.FLOAT, shape))
    path = save(proto, tmp_path / "m.onnx")
    before = next(t for t in onnx.load(path).graph.initializer if t.name == "w1")
    chosen = recipe("static-equalized")
    maxima = {name: np.arange(1.0, WIDTH + 1) for name in BACKEND.smoothable(path, chosen)}
    BACKEND.smooth(path, chosen, maxima, tmp_path / "after.onnx")
    after = next(t for t in onnx.load(tmp_path / "after.onnx").graph.initializer if t.name == "w1")
    np.testing.assert_array_equal(numpy_helper.to_array(after), numpy_helper.to_array(before))
