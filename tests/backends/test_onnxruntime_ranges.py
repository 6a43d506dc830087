"""Other ranges for a model that is there already: the same bytes as from quantizing anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.int8 import recipe
from support.onnx_models import cnn, gemm_mlp, mlp, model, save, weights

from gate.backends import _onnxruntime_quantizer as quantizer
from gate.backends._onnxruntime_ranges import moved
from gate.backends.onnxruntime import BACKEND

Ranges = dict[str, tuple[float, float]]


def some_ranges(path: Path, chosen: Any, seed: int, scale: float = 1.0) -> Ranges:
    random = np.random.default_rng(seed)
    return {
        name: (-scale * float(random.random()), scale * float(random.random()))
        for name in BACKEND.activations(path, chosen)
    }


def large_bias(model: onnx.ModelProto, bias: float = 1e6, weight: float = 1e-6) -> onnx.ModelProto:
    """Of the first layer: one channel's weights are so small that its bias needs 33 bits."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    layer = next(node for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    for place, factor in ((1, weight), (2, bias)):
        tensor = tensors[layer.input[place]]
        values = numpy_helper.to_array(tensor).copy()
        axis = 1 if layer.op_type == "Gemm" and place == 1 and not layer.attribute else 0
        np.moveaxis(values, axis, 0)[1] *= factor
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def anew_and_moved(
    path: Path, chosen: Any, before: Ranges, after: Ranges, monkeypatch: pytest.MonkeyPatch
) -> tuple[bytes, bytes, bool]:
    """The INT8 model both ways, and whether the second was made without quantizing anew."""
    folder, made = path.parent, []

    def told(*args: Any, **options: Any) -> Any:
        found = moved(*args, **options)
        made.append(found is not None)
        return found

    monkeypatch.setattr(quantizer, "moved", told)
    BACKEND.quantize(path, chosen, after, folder / "anew.onnx")
    BACKEND.quantize(path, chosen, before, folder / "moved.onnx")
    assert (folder / "anew.onnx").read_bytes() != (folder / "moved.onnx").read_bytes()
    BACKEND.quantize(path, chosen, after, folder / "moved.onnx", like=folder / "moved.onnx")
    (quick,) = made
    return (folder / "anew.onnx").read_bytes(), (folder / "moved.onnx").read_bytes(), quick


MODELS: list[Callable[[], onnx.ModelProto]] = [cnn, mlp, gemm_mlp]
RECIPES = ["static", "static-signed", "static-7bit", "static-per-tensor"]


@pytest.mark.parametrize("base", RECIPES)
@pytest.mark.parametrize("build", MODELS)
def test_the_bytes_are_those_of_quantizing_anew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[], onnx.ModelProto],
    base: str,
) -> None:
    path, chosen = save(build(), tmp_path / "m.onnx"), recipe(base)
    before, after = (some_ranges(path, chosen, seed) for seed in (1, 2))
    anew, other, quick = anew_and_moved(path, chosen, before, after, monkeypatch)
    assert quick
    assert other == anew


@pytest.mark.parametrize("base", RECIPES)
@pytest.mark.parametrize("build", [cnn, gemm_mlp])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 1e-3), (1e-3, 1.0), (1.0, 1e4)])
def test_weights_whose_scale_depends_on_ranges_are_those_of_quantizing_anew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[], onnx.ModelProto],
    base: str,
    scales: tuple[float, float],
) -> None:
    """A bias that does not fit into 32 bits in the steps of its layer makes these larger."""
    path, chosen = save(large_bias(build()), tmp_path / "m.onnx"), recipe(base)
    before, after = (
        some_ranges(path, chosen, seed, scale) for seed, scale in enumerate(scales, start=1)
    )
    anew, other, _ = anew_and_moved(path, chosen, before, after, monkeypatch)
    assert other == anew


def two_convolutions(
    *between: onnx.NodeProto, shared: bool = False, **more: Any
) -> onnx.ModelProto:
    """Of `a` and `p`; the second's second channel has tiny weights, and a bias of 33 bits."""
    first, second = weights(4, 4, 3, 3), weights(4, 4, 3, 3, seed=1)
    bias = weights(4, seed=2)
    (first if shared else second)[1] *= 1e-6
    bias[1] *= 1e6
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "one", pads=[1] * 4),
        *between,
        onnx.helper.make_node("Conv", ["p", "w1" if shared else "w2", "b2"], ["y"], "two"),
    ]
    tensors = {"w1": first, "b1": weights(4, seed=3), "b2": bias, **more}
    if not shared:
        tensors["w2"] = second
    return model(nodes, {"x": ["N", 4, 8, 8]}, {"y": ["N", 4, "H", "W"]}, tensors)


def after_pooling() -> onnx.ModelProto:
    """What the second reads has the scale of what is pooled."""
    return two_convolutions(onnx.helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2]))


def after_resizing() -> onnx.ModelProto:
    node = onnx.helper.make_node("Resize", ["a", "", "sizes"], ["p"])
    return two_convolutions(node, sizes=np.float32([1, 1, 2, 2]))


def sharing_weights() -> onnx.ModelProto:
    return two_convolutions(onnx.helper.make_node("Relu", ["a"], ["p"]), shared=True)


def of_a_constant() -> onnx.ModelProto:
    """Whose bias does not make its weights wider, as it has no range."""
    node = onnx.helper.make_node("Add", ["a", "k"], ["s"])
    constant = onnx.helper.make_node("Relu", ["s"], ["p"])
    found = two_convolutions(node, constant, k=weights(1, 4, 8, 8))
    found.graph.node[-1].input[0] = "k"
    return found


@pytest.mark.parametrize("base", RECIPES)
@pytest.mark.parametrize("build", [after_pooling, after_resizing, sharing_weights, of_a_constant])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 1e-3), (1e-3, 1.0)])
def test_weights_are_widened_for_what_anew_widens_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[], onnx.ModelProto],
    base: str,
    scales: tuple[float, float],
) -> None:
    path, chosen = save(build(), tmp_path / "m.onnx"), recipe(base)
    before, after = (
        some_ranges(path, chosen, seed, scale) for seed, scale in enumerate(scales, start=1)
    )
    anew, other, _ = anew_and_moved(path, chosen, before, after, monkeypatch)
    assert other == anew


def test_other_biases_are_rounded_as_well(tmp_path: Path) -> None:
    path, chosen = save(cnn(), tmp_path / "m.onnx"), recipe()
    ranges = some_ranges(path, chosen, 1)
    model = onnx.load(str(path))
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Conv"}
    for tensor in model.graph.initializer:
        if tensor.name in biases:
            values = numpy_helper.to_array(tensor) + 0.25
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    other = save(model, tmp_path / "other.onnx")
    BACKEND.quantize(path, chosen, ranges, tmp_path / "like.onnx")
    BACKEND.quantize(other, chosen, ranges, tmp_path / "moved.onnx", like=tmp_path / "like.onnx")
    BACKEND.quantize(other, chosen, ranges, tmp_path / "anew.onnx")
    assert (tmp_path / "moved.onnx").read_bytes() == (tmp_path / "anew.onnx").read_bytes()


@pytest.mark.parametrize("spoil", ["scale", "bias", "reader"])
def test_what_is_not_as_the_quantizer_writes_it_is_quantized_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    path, chosen = save(cnn(), tmp_path / "m.onnx"), recipe()
    ranges = some_ranges(path, chosen, 1)
    like = tmp_path / "like.onnx"
    BACKEND.quantize(path, chosen, ranges, like)
    model = onnx.load(str(like))
    _spoil(model, spoil)
    save(model, like)
    made: list[bool] = []

    def told(*args: Any, **options: Any) -> Any:
        found = moved(*args, **options)
        made.append(found is not None)
        return found

    monkeypatch.setattr(quantizer, "moved", told)
    BACKEND.quantize(path, chosen, ranges, tmp_path / "again.onnx", like=like)
    BACKEND.quantize(path, chosen, ranges, tmp_path / "anew.onnx")
    assert made == [False]
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "anew.onnx").read_bytes()


def _spoil(model: onnx.ModelProto, what: str) -> None:
    if what == "scale":
        node = next(one for one in model.graph.node if one.op_type == "QuantizeLinear")
        tensor = next(one for one in model.graph.initializer if one.name == node.input[1])
        tensor.name = node.input[1] = "another"
    elif what == "bias":
        tensor = next(one for one in model.graph.initializer if one.data_type == 6)
        node = next(one for one in model.graph.node if tensor.name in one.input)
        tensor.name = node.input[0] = "another"
    else:
        convolution = next(one for one in model.graph.node if one.op_type == "Conv")
        copy = onnx.NodeProto()
        copy.CopyFrom(convolution)
        copy.name, copy.output[0] = "twin", "twin"
        model.graph.node.append(copy)
