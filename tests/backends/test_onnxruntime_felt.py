"""What a layer feels of a channel is what it makes of one impulse there."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.onnx_models import cnn, gemm_mlp, mlp, model, save, weights

from gate import graph as graphs
from gate.backends._onnxruntime_felt import felt
from gate.backends.onnxruntime import BACKEND


def gains(proto: onnx.ModelProto) -> dict[str, Any]:
    return felt(graphs.typed(proto))


def reads(op: str, weight: tuple[int, ...], shape: list[Any], **flags: Any) -> onnx.ModelProto:
    """x -> double -> given -> `op` -> y."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["given"], "double"),
        helper.make_node(op, ["given", "w"], ["y"], "layer", **flags),
    ]
    output: list[Any] = [None] * len(shape)
    return model(nodes, {"x": shape}, {"y": output}, {"w": weights(*weight)})


@pytest.mark.parametrize(
    ("op", "weight", "shape", "flags"),
    [
        ("Conv", (5, 3, 3, 3), [1, 3, 5, 5], {}),
        ("Conv", (6, 2, 3, 3), [1, 4, 5, 5], {"group": 2}),
        ("Conv", (4, 1, 3, 3), [1, 4, 5, 5], {"group": 4}),
        ("Conv", (5, 3, 3), [1, 3, 5], {}),
        ("MatMul", (4, 7), [1, 4], {}),
        ("MatMul", (4, 7), [1, 3, 4], {}),
        ("Gemm", (4, 7), [1, 4], {}),
        ("Gemm", (7, 4), [1, 4], {"transB": 1}),
    ],
)
def test_it_is_the_answer_to_an_impulse(
    tmp_path: Path, op: str, weight: tuple[int, ...], shape: list[Any], flags: dict[str, int]
) -> None:
    proto = reads(op, weight, shape, **flags)
    run = BACKEND.open(save(proto, tmp_path / "m.onnx"), threads=1).run
    gain = gains(proto)["given"]
    axis = len(shape) - gain.ndim
    assert gain.size == shape[axis]
    for channel in range(shape[axis]):
        x = np.zeros(shape, np.float32)
        middle = [size // 2 for size in shape]
        middle[axis], middle[0] = channel, 0
        x[tuple(middle)] = 0.5  # which is doubled
        assert np.linalg.norm(run({"x": x})["y"]) == pytest.approx(gain.reshape(-1)[channel], 1e-5)


def test_it_passes_through_what_leaves_channels_where_they_are() -> None:
    found = gains(cnn())
    assert {"c1", "r1", "p1"} <= found.keys()
    np.testing.assert_array_equal(found["c1"], found["p1"])
    second = weights(16, 8, 3, 3, seed=3)
    np.testing.assert_allclose(found["c1"][:, 0, 0] ** 2, (second**2).sum(axis=(0, 2, 3)), 1e-5)


def test_it_is_not_told_behind_a_reshape_nor_of_an_output() -> None:
    assert not {"r2", "c2", "logits"} & gains(cnn()).keys()
    assert {"x", "a1", "r1"} <= gains(mlp()).keys()
    assert "y" not in gains(gemm_mlp())


def test_two_readers_add_up() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "a"], ["left"], "left"),
        helper.make_node("MatMul", ["r", "b"], ["right"], "right"),
        helper.make_node("Add", ["left", "right"], ["y"], "sum"),
    ]
    a, b = weights(4, 3, seed=1), weights(4, 3, seed=2)
    found = gains(model(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, {"a": a, "b": b}))
    np.testing.assert_allclose(found["r"], np.sqrt((a**2 + b**2).sum(axis=1)), rtol=1e-5)


def test_a_concat_is_taken_apart() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "a"),
        helper.make_node("Neg", ["x"], ["b"], "b"),
        helper.make_node("Concat", ["a", "b"], ["ab"], "join", axis=-1),
        helper.make_node("MatMul", ["ab", "w"], ["y"], "head"),
    ]
    w = weights(8, 3)
    found = gains(model(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": w}))
    np.testing.assert_allclose(found["a"], np.linalg.norm(w[:4], axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["b"], np.linalg.norm(w[4:], axis=1), rtol=1e-5)
