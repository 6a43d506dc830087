"""Recipes to INT8 graphs: names that do not exist, nothing to do, exclusions, types."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import onnx_models as models
from support.int8 import quantized, recipe, work
from support.onnx_models import cnn, gemm_mlp, images, mlp, model, save, vectors, weights

from gate.backends.onnxruntime import BACKEND
from gate.errors import QuantizationError

# ── names that do not exist, and nothing to do ─────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exclude_nodes": ["conv3"]}, "exclude_nodes names 'conv3'.*nearest: conv2"),
        ({"exclude_op_types": ["Cnov"]}, "exclude_op_types names 'Cnov'.*nearest: Conv"),
        ({"op_types": ["Conv", "MatMul"]}, "op_types names 'MatMul'.*nearest"),
        ({"op_types": ["Flaten"]}, "op_types names 'Flaten'.*nearest: Flatten"),
    ],
)
def test_a_name_that_does_not_exist_is_an_error(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    for attempt in (
        lambda: BACKEND.activations(path, recipe(**changes)),
        lambda: BACKEND.quantize(path, recipe(**changes), {}, tmp_path / "q.onnx"),
    ):
        with pytest.raises(QuantizationError, match=message):
            attempt()
    assert not (tmp_path / "q.onnx").exists()


def test_a_presets_own_operators_may_be_absent(tmp_path: Path) -> None:
    int8 = quantized(mlp(), recipe("dynamic"), {}, tmp_path)
    assert any(kernel.integer for kernel in BACKEND.profile(int8, {"x": vectors()}))


def test_an_operator_added_to_a_preset_must_occur(tmp_path: Path) -> None:
    chosen = recipe("dynamic", op_types=["MatMul", "Attention", "Conv"])
    with pytest.raises(QuantizationError, match="op_types names 'Conv'"):
        quantized(mlp(), chosen, {}, tmp_path)


def test_an_operator_that_no_quantizer_knows_is_an_error(tmp_path: Path) -> None:
    chosen = recipe(op_types=["GRU"])
    with pytest.raises(QuantizationError, match="cannot quantize GRU by a static recipe"):
        quantized(models.recurrent("GRU"), chosen, {}, tmp_path)


@pytest.mark.parametrize("base", ["static", "dynamic"])
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (models.nothing_to_quantize, "no operator in it multiplies and accumulates"),
        (models.weights_in_if, "inside subgraphs.*choose/matmul_else, choose/matmul_then"),
        (models.recurrent, r"INT8 kernels for what works in this model: recurrent \(GRU\)"),
    ],
)
def test_nothing_to_quantize_says_why(
    tmp_path: Path, base: str, build: Callable[[], onnx.ModelProto], message: str
) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantized(build(), recipe(base), {}, tmp_path)


def test_everything_excluded_says_so(tmp_path: Path) -> None:
    chosen = recipe(exclude_op_types=["Conv"], exclude_nodes=["fc"])
    with pytest.raises(QuantizationError, match=r"leave out.*conv1 \(Conv\).*fc \(Gemm\)"):
        quantized(cnn(), chosen, {"image": images()}, tmp_path)


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    feeds = {"image": images()}
    for base in ("static", "dynamic"):
        int8 = quantized(cnn(), recipe(base), feeds, tmp_path, base)
        with pytest.raises(QuantizationError, match=r"already quantized.*made from"):
            BACKEND.quantize(int8, recipe(), {}, tmp_path / "again.onnx")


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("dynamic", {"activation_type": "int8"}, "uint8 only"),
        ("static", {"activation_type": "int8", "weight_type": "uint8"}, "weight_type: int8"),
    ],
)
def test_types_without_kernels_are_refused(
    tmp_path: Path, base: str, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantized(cnn(), recipe(base, **changes), {}, tmp_path)


def test_an_opset_without_per_channel_scales_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        QuantizationError, match="needs ONNX opset 13 or later and the model has 12"
    ):
        quantized(cnn(opset=12), recipe(), {}, tmp_path)
    int8 = quantized(cnn(opset=12), recipe("static-per-tensor"), {"image": images()}, tmp_path)
    assert any(kernel.integer for kernel in BACKEND.profile(int8, {"image": images()}))


def test_the_quantizers_own_failure_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    def fail(self: Any) -> None:
        raise AssertionError("scale of c1\nand much more")

    monkeypatch.setattr(QDQQuantizer, "quantize_model", fail)
    with pytest.raises(QuantizationError, match="AssertionError: scale of c1") as caught:
        quantized(cnn(), recipe(), {"image": images()}, tmp_path)
    assert isinstance(caught.value.__cause__, AssertionError)


@pytest.mark.parametrize("base", ["static", "static-per-tensor"])
@pytest.mark.parametrize("shape", [(1, 4), (1,), (), (1, 1)])
def test_a_gemms_bias_may_have_any_shape(tmp_path: Path, base: str, shape: tuple[int, ...]) -> None:
    """ONNX Runtime's quantizer raises on (1, 4), which its own fusion of MatMul and Add makes."""
    model = gemm_mlp()
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "b2")
    values = numpy_helper.to_array(bias) if 4 in shape else np.float32([0.7])
    bias.CopyFrom(numpy_helper.from_array(values.reshape(shape), "b2"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "fc2_bias"))
    path, feeds = save(model, tmp_path / "m.onnx"), {"x": vectors()}
    int8 = quantized(path, recipe(base), feeds, tmp_path)
    assert all(kernel.integer for kernel in BACKEND.profile(int8, feeds) if kernel.macs)
    before, after = (BACKEND.open(m, threads=1).run(feeds)["y"] for m in (path, int8))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.25, 4.0])
def test_a_gemms_beta_is_kept(tmp_path: Path, alpha: float, beta: float) -> None:
    """ONNX Runtime's quantizer drops it, and the bias counts as it stands."""
    model = gemm_mlp()
    for node in (node for node in model.graph.node if node.op_type == "Gemm"):
        given = {"alpha": alpha, "beta": beta}
        node.attribute.extend(onnx.helper.make_attribute(*one) for one in given.items())
    for tensor in model.graph.initializer:
        if tensor.name.startswith("b"):
            values = 5 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path, feeds = save(model, tmp_path / "m.onnx"), {"x": vectors()}
    int8 = quantized(path, recipe(), feeds, tmp_path)
    before, after = (BACKEND.open(m, threads=1).run(feeds)["y"] for m in (path, int8))
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


def test_a_grouped_transposed_convolution_stays_float_per_channel(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["a"], "first"),
        onnx.helper.make_node("ConvTranspose", ["a", "v", "b"], ["y"], "up", group=2),
    ]
    tensors = {"w": weights(4, 4, 1, 1), "b": weights(4), "v": weights(4, 2, 3, 3)}
    shape = ["N", 4, "H", "W"]
    path = save(model(nodes, {"x": shape}, {"y": shape}, tensors), tmp_path / "m.onnx")
    feeds = {"x": np.random.default_rng(0).random((2, 4, 5, 5), dtype=np.float32)}
    assert "in groups" in BACKEND.why_float(path, recipe())["up"]
    for chosen in (recipe(), recipe(per_channel=False)):
        int8 = quantized(path, chosen, feeds, tmp_path)
        before, after = (BACKEND.open(m, threads=1).run(feeds)["y"] for m in (path, int8))
        assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


# ── exclusions ─────────────────────────────────────────────────────────────────────────────


def test_an_excluded_node_stays_float(tmp_path: Path) -> None:
    feeds = {"image": images()}
    int8 = quantized(cnn(), recipe(exclude_nodes=["conv1"]), feeds, tmp_path)
    integers = [kernel for kernel in BACKEND.profile(int8, feeds) if kernel.integer]
    assert {kernel.op for kernel in integers} == {"QLinearConv", "QGemm"}
    assert all(not kernel.node.startswith("conv1") for kernel in integers)


def test_an_excluded_operator_stays_float(tmp_path: Path) -> None:
    feeds = {"image": images()}
    int8 = quantized(cnn(), recipe(exclude_op_types=["Conv"]), feeds, tmp_path)
    found = work(BACKEND.profile(int8, feeds))
    assert sorted(found.values()) == [("Conv", False), ("Conv", False), ("QGemm", True)]


@pytest.mark.parametrize(
    "changes", [{"exclude_nodes": ["fc1"]}, {"exclude_nodes": ["fc1", "relu"]}]
)
def test_an_excluded_gemm_stays_float_in_a_dynamic_recipe(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    int8 = quantized(gemm_mlp(), recipe("dynamic", **changes), {}, tmp_path)
    found = work(BACKEND.profile(int8, {"x": vectors()}))
    assert sorted(integer for _, integer in found.values()) == [False, True]


def test_an_excluded_operator_stays_float_in_a_dynamic_recipe(tmp_path: Path) -> None:
    chosen = recipe("dynamic", exclude_op_types=["Gemm"])
    with pytest.raises(QuantizationError, match="leave out"):
        quantized(gemm_mlp(), chosen, {}, tmp_path)


def test_nodes_without_names_can_be_excluded(tmp_path: Path) -> None:
    feeds = {"image": images()}
    int8 = quantized(cnn(named=False), recipe(exclude_nodes=["Conv_3"]), feeds, tmp_path)
    found = work(BACKEND.profile(int8, feeds))
    integers = {node.split("_token")[0] for node, (_, integer) in found.items() if integer}
    assert integers == {"Conv_0", "Gemm_6"}


def test_a_given_name_does_not_clash_with_one_already_there(tmp_path: Path) -> None:
    model = cnn(named=False)
    model.graph.node[0].name = "Gemm_6"
    feeds = {"image": images()}
    int8 = quantized(model, recipe(exclude_nodes=["Gemm_6_"]), feeds, tmp_path)
    found = work(BACKEND.profile(int8, feeds))
    assert sorted(found.values()) == [("Gemm", False), ("QLinearConv", True), ("QLinearConv", True)]


# ── results in floating point ──────────────────────────────────────────────────────────────


def tokens() -> onnx.ModelProto:
    """`mlp` of x (N, 4, 16): what transformers are made of."""
    proto = mlp()
    for value in (*proto.graph.input, *proto.graph.output):
        last = value.type.tensor_type.shape.dim[-1].dim_value
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, 1, ["N", 4, last]))
    return proto


@pytest.mark.parametrize(
    ("build", "op", "kernel"),
    [(tokens, "MatMul", "MatMulIntegerToFloat"), (gemm_mlp, "Gemm", "QGemm")],
)
def test_integer_kernels_work_and_their_results_stay_float(
    tmp_path: Path, build: Callable[[], onnx.ModelProto], op: str, kernel: str
) -> None:
    x = vectors(64) if build is gemm_mlp else vectors(64).reshape(16, 4, 16)
    feeds, path = {"x": x}, save(build(), tmp_path / "m.onnx")
    alone, free = recipe(op_types=[op]), recipe(op_types=[op], float_outputs=[op])
    rounded, kept = (
        quantized(path, one, feeds, tmp_path, str(i)) for i, one in enumerate((alone, free))
    )
    assert {*work(BACKEND.profile(kept, feeds)).values()} == {(kernel, True)}
    results = {node.output[0] for node in onnx.load(path).graph.node if node.op_type == op}
    read = {
        node.input[0] for node in onnx.load(kept).graph.node if node.op_type == "QuantizeLinear"
    }
    assert not results & read
    before, after, closer = (
        BACKEND.open(one, threads=1).run(feeds)["y"] for one in (path, rounded, kept)
    )
    assert 0 < np.square(closer - before).mean() < np.square(after - before).mean()


def test_results_that_stay_float_need_no_range_unless_another_rounds_them(tmp_path: Path) -> None:
    path = save(mlp(), tmp_path / "m.onnx")
    alone = recipe(op_types=["MatMul"], float_outputs=["MatMul"])
    assert {*BACKEND.activations(path, alone)} == {"x", "r1"}
    assert "m1" in BACKEND.activations(path, recipe(float_outputs=["MatMul"]))
    assert {*BACKEND.activations(path, recipe(op_types=["MatMul"]))} == {"x", "m1", "r1", "m2"}


def test_only_what_is_named_stays_float(tmp_path: Path) -> None:
    feeds = {"image": images(16)}
    chosen = recipe(float_outputs=["Gemm"])
    int8 = quantized(cnn(), chosen, feeds, tmp_path)
    ops = [kernel.op for kernel in BACKEND.profile(int8, feeds) if kernel.macs]
    assert ops == ["QLinearConv", "QLinearConv", "QGemm"]
    assert "DequantizeLinear" not in {kernel.op for kernel in BACKEND.profile(int8, feeds)}
    assert {*BACKEND.activations(tmp_path / "fp32.onnx", chosen)} == {
        "image", "c1", "r1", "p1", "c2", "r2", "flat",
    }  # fmt: skip
