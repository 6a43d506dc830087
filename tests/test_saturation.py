"""What is cut off on x86 without VNNI, against pairs added one by one."""

from pathlib import Path

import numpy as np
import pytest
from support.int8 import quantized, recipe
from support.onnx_models import batched_product, cnn, convolution, images, save

from gate import saturation
from gate.backends.onnxruntime import BACKEND
from gate.histogram import Counter

UNIFORM = np.full(256, 1 / 256)
ALWAYS_255 = np.eye(256)[255]


def brute(weights, often):
    """Every pair of levels, every pair of weights."""
    levels = np.arange(256)
    both = np.outer(often, often)
    cut = []
    for row in weights.astype(int):
        for w1, w2 in np.pad(row, (0, len(row) % 2)).reshape(-1, 2):
            sums = levels[:, None] * w1 + levels[None, :] * w2
            cut.append(both[(sums > 32767) | (sums < -32768)].sum())
    return np.mean(cut)


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_the_share_is_that_of_all_pairs(width):
    rng = np.random.default_rng(width)
    weights = rng.integers(-128, 128, (6, width)).astype(np.int8)
    often = rng.dirichlet(np.ones(256))
    assert saturation.share(weights, often) == pytest.approx(brute(weights, often), abs=1e-12)
    assert saturation.share(weights, UNIFORM) == pytest.approx(brute(weights, UNIFORM), abs=1e-12)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([[127, 127]], 1.0),
        ([[-128, -128]], 1.0),
        ([[127, -128]], 0.0),
        ([[127, 1]], 0.0),
        ([[127, 2]], 1.0),
        ([[64, 64]], 0.0),
        ([[127]], 0.0),
        ([[127, 127, 127, 0]], 0.5),
    ],
)
def test_by_hand(weights, expected):
    assert saturation.share(np.array(weights, np.int8), ALWAYS_255) == expected


def test_seven_bits_never_overflow():
    weights = np.random.default_rng(0).integers(-64, 65, (32, 64)).astype(np.int8)
    assert saturation.share(weights, ALWAYS_255) == 0.0


def test_a_large_layer_is_sampled():
    weights = np.random.default_rng(1).integers(-127, 128, (512, 512)).astype(np.int8)
    part = np.random.default_rng(2).choice(512, 64, replace=False)
    assert saturation.share(weights, UNIFORM) == pytest.approx(
        brute(weights[part], UNIFORM), rel=0.05
    )


def test_levels_are_those_that_the_values_fall_on():
    values = np.random.default_rng(3).normal(1, 2, (16, 500)).astype(np.float32)
    counter = Counter()
    counter.add(values, 16)
    often = saturation.levels(counter.result(), 0.05, 100)
    exact = np.clip(np.rint(values / 0.05) + 100, 0, 255).astype(int)
    expected = np.bincount(exact.ravel(), minlength=256) / values.size
    assert often.sum() == pytest.approx(1)
    assert np.abs(np.cumsum(often) - np.cumsum(expected)).max() < 0.01


# ── the layers of a model ─────────────────────────────────────────────────────────────────


def test_the_layers_of_a_model_are_found(tmp_path: Path):
    feeds = {"image": images()}
    path = quantized(cnn(), recipe(), feeds, tmp_path)
    layers = {layer.node: layer for layer in BACKEND.products(path)}
    assert list(layers) == ["conv1", "conv2", "fc"]
    assert layers["conv1"].tensor == "image"
    assert layers["fc"].weights.shape[0] == 10
    assert all(layer.weights.dtype == np.int8 and layer.scale > 0 for layer in layers.values())
    signed = quantized(cnn(), recipe("static-signed"), feeds, tmp_path, "signed")
    # ONNX Runtime turns these into unsigned ones on x86
    assert {layer.zero_point for layer in BACKEND.products(signed)} == {128}
    reduced = quantized(cnn(), recipe("static-7bit"), feeds, tmp_path, "reduced")
    assert all(np.abs(layer.weights).max() <= 64 for layer in BACKEND.products(reduced))


def test_depthwise_convolutions_add_into_32_bits(tmp_path: Path):
    model = save(convolution((4, 1, 3, 3), (1, 4, 8, 8), group=4), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    name = BACKEND.open(model, threads=1).inputs[0].name
    path = quantized(model, recipe(), {name: x}, tmp_path)
    assert list(BACKEND.products(path)) == []


def test_several_outputs_a_channel_are_added_in_pairs(tmp_path: Path):
    model = save(convolution((32, 1, 3, 3), (1, 8, 8, 8), group=8), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)
    path = quantized(model, recipe(), {"x": x}, tmp_path)
    (layer,) = BACKEND.products(path)
    assert layer.weights.shape == (32, 9)


def test_weights_of_three_axes_are_rows_too(tmp_path: Path):
    model = save(batched_product(), tmp_path / "m.onnx")
    x = np.random.default_rng(0).random((4, 3, 8, 32), dtype=np.float32)
    (layer,) = BACKEND.products(quantized(model, recipe("static-per-tensor"), {"x": x}, tmp_path))
    assert layer.weights.shape == (3 * 16, 32)
