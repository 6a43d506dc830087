"""Smoothing changes nothing in floating point, and less is lost to integers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.int8 import quantized, ranges_of, recipe
from support.onnx_models import model, save, weights

from gate.backends.onnxruntime import BACKEND

CHANNELS, EXAMPLES = 16, 64
OUTLIER = 5


def vectors(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(EXAMPLES, 4, CHANNELS)).astype(np.float32)


def block(kind: str, *, residual: bool = False, shared: bool = False) -> onnx.ModelProto:
    """What two matrix products read, made by `kind`: channel 5 is 60 times as large as others."""
    rng = np.random.default_rng(1)
    gamma = np.ones(CHANNELS, np.float32)
    gamma[OUTLIER] = 60
    constants = {
        "gamma": gamma,
        "beta": rng.normal(size=CHANNELS).astype(np.float32),
        "wq": rng.normal(size=(CHANNELS, CHANNELS)).astype(np.float32),
        "wk": rng.normal(size=(CHANNELS, CHANNELS)).astype(np.float32),
        "bk": rng.normal(size=CHANNELS).astype(np.float32),
    }
    makers = {
        "layer-norm": [helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], "ln")],
        "mul-add": [
            helper.make_node("Mul", ["x", "gamma"], ["scaled"], "scale"),
            helper.make_node("Add", ["scaled", "beta"], ["n"], "shift"),
        ],
        "mul": [helper.make_node("Mul", ["gamma", "x"], ["n"], "scale")],
        "input": [helper.make_node("Add", ["x", "x"], ["n"], "twice")],
    }
    nodes = [
        *makers[kind],
        helper.make_node("MatMul", ["n", "wq"], ["q"], "q"),
        helper.make_node("MatMul", ["n", "wq" if shared else "wk"], ["k"], "k"),
        helper.make_node("Add", ["q", "k"], ["both"], "both"),
    ]
    nodes.append(helper.make_node("Add", ["both", "n" if residual else "bk"], ["y"], "end"))
    shape = [None, 4, CHANNELS]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def gemm(*, transposed: bool) -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(8, CHANNELS) if transposed else (CHANNELS, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "gamma"], ["n"], "scale"),
        helper.make_node("Gemm", ["n", "w", "b"], ["y"], "fc", transB=int(transposed), alpha=0.5),
    ]
    graph = helper.make_graph(
        nodes,
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, CHANNELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 8])],
        [
            numpy_helper.from_array(np.ones(CHANNELS, np.float32), "gamma"),
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.zeros(8, np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def smoothed(path: Path, feeds: dict[str, Any], strength: float = 0.5) -> Path:
    chosen = recipe("smoothquant", smooth=strength)
    tensors = BACKEND.smoothable(path, chosen)
    found = BACKEND.open_exposed(path, tensors, threads=1).run(feeds)
    values = found | feeds
    maxima = {n: np.abs(values[n]).reshape(-1, values[n].shape[-1]).max(axis=0) for n in tensors}
    BACKEND.smooth(path, chosen, maxima, path.with_name("smoothed.onnx"))
    return path.with_name("smoothed.onnx")


def outputs(path: Path, feeds: dict[str, Any]) -> Any:
    return BACKEND.open(path, threads=1).run(feeds)["y"]


@pytest.mark.parametrize(
    ("kind", "options", "muls"),
    [
        ("layer-norm", {}, 0),
        ("mul-add", {}, 0),
        ("mul", {}, 0),
        ("input", {}, 1),
        ("layer-norm", {"residual": True}, 1),
        ("mul-add", {"shared": True}, 0),
    ],
)
def test_it_changes_nothing_in_floating_point(
    tmp_path: Path, kind: str, options: dict[str, bool], muls: int
) -> None:
    path, feeds = save(block(kind, **options), tmp_path / "m.onnx"), {"x": vectors()}
    before = outputs(path, feeds)
    after = outputs(smoothed(path, feeds), feeds)
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3 * np.abs(before).max())
    nodes = onnx.load(smoothed(path, feeds)).graph.node
    assert sum(node.name.endswith("_smoothed_Mul") for node in nodes) == muls


def test_only_what_a_layer_norm_scales_takes_factors(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s", "b"], ["y0", "mean"], "norm"),
        helper.make_node("MatMul", ["mean", "w"], ["y"], "product"),
    ]
    ones = np.ones(1, np.float32)
    proto = model(
        nodes,
        {"x": ["N", 1]},
        {"y": ["N", 4], "y0": ["N", 1]},
        {"s": ones, "b": ones, "w": weights(1, 4)},
    )
    path, feeds = save(proto, tmp_path / "m.onnx"), {"x": np.ones((4, 1), np.float32)}
    after = BACKEND.open(smoothed(path, feeds), threads=1).run(feeds)
    for name, before in BACKEND.open(path, threads=1).run(feeds).items():
        np.testing.assert_allclose(after[name], before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_gemm_is_smoothed_either_way_round(tmp_path: Path, transposed: bool) -> None:
    path = save(gemm(transposed=transposed), tmp_path / "m.onnx")
    feeds = {"x": vectors()[:, 0]}
    feeds["x"][:, OUTLIER] *= 60
    before, after = outputs(path, feeds), outputs(smoothed(path, feeds), feeds)
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3 * np.abs(before).max())
    weight = next(t for t in onnx.load(smoothed(path, feeds)).graph.initializer if t.name == "w")
    rows = np.abs(numpy_helper.to_array(weight)).max(axis=0 if transposed else 1)
    assert rows.argmax() == OUTLIER


def error(path: Path, chosen: Any, feeds: dict[str, Any], folder: Path, exact: Any) -> float:
    BACKEND.quantize(path, chosen, ranges_of(path, chosen, feeds), folder / "q.onnx")
    return float(np.square(outputs(folder / "q.onnx", feeds) - exact).mean())


def test_outliers_cost_less(tmp_path: Path) -> None:
    path, feeds = save(block("layer-norm"), tmp_path / "m.onnx"), {"x": vectors()}
    exact = outputs(path, feeds)
    plain = error(path, recipe("static-matmul"), feeds, tmp_path, exact)
    smooth = error(smoothed(path, feeds), recipe("smoothquant"), feeds, tmp_path, exact)
    assert smooth < plain / 3


def test_a_channel_that_is_never_used_stays(tmp_path: Path) -> None:
    path = save(gemm(transposed=False), tmp_path / "m.onnx")
    feeds = {"x": vectors()[:, 0]}
    feeds["x"][:, 3] = 0
    after = outputs(smoothed(path, feeds), feeds)
    assert np.isfinite(after).all()
    other = {"x": vectors(9)[:, 0]}
    np.testing.assert_allclose(
        outputs(smoothed(path, feeds), other), outputs(path, other), rtol=1e-3, atol=1e-2
    )


def test_what_has_no_constant_matrix_is_left(tmp_path: Path) -> None:
    path = save(block("input"), tmp_path / "m.onnx")
    chosen = recipe("smoothquant", exclude_nodes=["q", "k"])
    with pytest.raises(Exception, match="quantizes nothing"):
        BACKEND.smoothable(path, chosen)
    assert BACKEND.smoothable(path, recipe("smoothquant")) == {"n": -1}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    path, feeds = save(block("mul-add"), tmp_path / "m.onnx"), {"x": vectors()}
    first = smoothed(path, feeds).read_bytes()
    assert smoothed(path, feeds).read_bytes() == first
    chosen = recipe("smoothquant")
    assert quantized(smoothed(path, feeds), chosen, feeds, tmp_path).exists()
