"""Corrected biases: against the formula, and in what INT8 loses."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.int8 import ranges_of, recipe
from support.onnx_models import cnn, images, model, save, vectors, weights

from gate import calibrate
from gate.backends._onnxruntime_points import rounded_weights
from gate.backends.onnxruntime import BACKEND
from gate.values import Batch


def gemm(**flags: Any) -> onnx.ModelProto:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", **flags)
    shape = (10, 16) if flags.get("transB") else (16, 10)
    constants = {"w": weights(*shape), "b": weights(10, seed=2)}
    return model([node], {"x": ["N", 16]}, {"y": ["N", 10]}, constants)


def corrected(path: Path, feeds: dict[str, Any], folder: Path, **changes: Any) -> tuple[Path, Path]:
    """FP32 with other biases, and the INT8 model that they were made for."""
    chosen = recipe(**changes)
    axes = BACKEND.corrected(path, chosen)
    count = len(next(iter(feeds.values())))
    batch = Batch(0, np.arange(count).astype(str), feeds, None)
    run = BACKEND.open_exposed(path, tuple(axes), threads=1).run
    means = calibrate.mean_by_channel(run, [batch], axes)
    int8 = folder / "int8.onnx"
    BACKEND.quantize(path, chosen, ranges_of(path, chosen, feeds), int8)
    BACKEND.correct(path, int8, means, folder / "corrected.onnx")
    return folder / "corrected.onnx", int8


def constant(path: Path, name: str) -> Any:
    found = next(t for t in onnx.load(path).graph.initializer if t.name == name)
    return numpy_helper.to_array(found)


@pytest.mark.parametrize("flags", [{}, {"transB": 1}])
def test_it_is_the_formula(tmp_path: Path, flags: dict[str, int]) -> None:
    path, x = save(gemm(**flags), tmp_path / "m.onnx"), vectors(50) + 1
    after, int8 = corrected(path, {"x": x}, tmp_path)
    lost = rounded_weights(onnx.load(int8))["fc"] - constant(path, "w")
    shift = (lost if flags else lost.T) @ x.mean(axis=0)
    np.testing.assert_allclose(
        constant(after, "b"), constant(path, "b") - shift, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("flags", [{"alpha": 2.0}, {"beta": 0.5}])
def test_what_is_scaled_otherwise_is_left(tmp_path: Path, flags: dict[str, float]) -> None:
    path = save(gemm(**flags), tmp_path / "m.onnx")
    after, _ = corrected(path, {"x": vectors(20)}, tmp_path)
    np.testing.assert_array_equal(constant(after, "b"), constant(path, "b"))


@pytest.mark.parametrize("per_channel", [True, False])
def test_outputs_shift_less_on_average(tmp_path: Path, per_channel: bool) -> None:
    path, feeds = save(cnn(), tmp_path / "m.onnx"), {"image": images(200)}
    after, int8 = corrected(path, feeds, tmp_path, per_channel=per_channel)
    better = tmp_path / "better.onnx"
    chosen = recipe(per_channel=per_channel)
    BACKEND.quantize(after, chosen, ranges_of(path, chosen, feeds), better)
    fp32, before, now = (
        next(iter(BACKEND.open(p, threads=1).run(feeds).values())).mean(axis=0)
        for p in (path, int8, better)
    )
    assert np.abs(now - fp32).mean() < np.abs(before - fp32).mean()


def test_only_layers_that_are_quantized_and_have_a_bias(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    every = BACKEND.corrected(path, recipe())
    assert set(every.values()) == {1}
    assert len(BACKEND.corrected(path, recipe(exclude_nodes=["fc"]))) == len(every) - 1


def test_means_are_those_of_all_values() -> None:
    x = np.random.default_rng(0).normal(size=(10, 3, 4, 4)).astype(np.float32)
    parts = [Batch(i, np.array([str(i)]), {"x": x[i : i + 1]}, None) for i in range(10)]
    found = calibrate.mean_by_channel(lambda feeds: feeds, parts, {"x": 1})
    np.testing.assert_allclose(found["x"], x.mean(axis=(0, 2, 3)), rtol=1e-5)


def test_groups_of_several_channels_are_left(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", group=3)
    constants = {"w": weights(3, 2, 3, 3), "b": weights(3, seed=2)}
    proto = model([node], {"x": ["N", 6, 8, 8]}, {"y": ["N", 3, 6, 6]}, constants)
    path = save(proto, tmp_path / "m.onnx")
    assert BACKEND.corrected(path, recipe()) == {}
