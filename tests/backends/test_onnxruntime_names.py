"""Names that the quantizers make beside those that a model has."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.int8 import quantized, ranges_of, recipe
from support.onnx_models import model, save, weights

from gate.backends.onnxruntime import BACKEND
from gate.errors import QuantizationError

SHAPE = ["N", 4, 8, 8]


def images() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).random((8, 4, 8, 8), dtype=np.float32)}


def scaled(name: str, value: np.ndarray) -> onnx.ModelProto:
    """Two convolutions; what the first gives is multiplied by a constant called `name`."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["a"], "one"),
        onnx.helper.make_node("Mul", ["a", name], ["m"], "mul"),
        onnx.helper.make_node("Conv", ["m", "v", "c"], ["y"], "two"),
    ]
    tensors = {"w": weights(4, 4, 1, 1), "b": weights(4, seed=1), "c": weights(4, seed=2)}
    tensors |= {"v": weights(4, 4, 1, 1, seed=3), name: value}
    return model(nodes, {"x": SHAPE}, {"y": SHAPE}, tensors)


@pytest.mark.parametrize("base", ["static", "static-per-tensor"])
@pytest.mark.parametrize("value", [np.float32(7).reshape(()), np.full((4, 1, 1), 7, np.float32)])
@pytest.mark.parametrize(
    "name", ["a_scale", "w_scale", "a_zero_point", "w_quantized", "b_quantized"]
)
def test_a_constant_that_is_called_so_stays_what_it_is(
    tmp_path: Path, name: str, value: np.ndarray, base: str
) -> None:
    path, chosen, feeds = save(scaled(name, value), tmp_path / "m.onnx"), recipe(base), images()
    int8 = quantized(path, chosen, feeds, tmp_path)
    before, after = (BACKEND.open(m, threads=1).run(feeds)["y"] for m in (path, int8))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()
    ranges = ranges_of(path, chosen, feeds)
    again = tmp_path / "again.onnx"
    BACKEND.quantize(path, chosen, ranges, again, like=int8)
    assert again.read_bytes() == int8.read_bytes()


def test_a_tensor_that_is_called_so_is_named(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["x_scale"], "one"),
        onnx.helper.make_node("Conv", ["x_scale", "w", "b"], ["y"], "two"),
    ]
    tensors = {"w": weights(4, 4, 1, 1), "b": weights(4)}
    clashing = model(nodes, {"x": SHAPE}, {"y": SHAPE}, tensors)
    with pytest.raises(QuantizationError, match=r"beside another: x_scale\. Rename"):
        quantized(clashing, recipe(), images(), tmp_path)
