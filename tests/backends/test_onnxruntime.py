"""ONNX Runtime: its traps, and the arithmetic of its profile."""

import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import onnx_models as models
from support.onnx_models import attention, cnn, gemm_mlp, images, mlp, save, vectors

from gate import recipes
from gate.backends import _onnxruntime_graph as graphs
from gate.backends import _onnxruntime_profile as profiles
from gate.backends.onnxruntime import BACKEND
from gate.calibrate import calibrate
from gate.errors import CandidateError, EvaluationError, QuantizationError
from gate.recipes import Recipe
from gate.records import Batch, Kernel

Feeds = dict[str, Any]


def recipe(base: str = "static", **changes: Any) -> Recipe:
    return recipes.resolve({"base": base, **changes})


def ranges_of(model: Path, chosen: Recipe, feeds: Feeds) -> dict[str, tuple[float, float]]:
    tensors = BACKEND.activations(model, chosen)
    run = BACKEND.open_exposed(model, tensors, threads=1).run
    ids = np.array(["0"])
    return calibrate(run, [Batch(start=0, ids=ids, feeds=feeds, targets=None)], tensors)


def quantized(
    model: onnx.ModelProto | Path, chosen: Recipe, feeds: Feeds, folder: Path, name: str = "q"
) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    path = model if isinstance(model, Path) else save(model, folder / "fp32.onnx")
    ranges = ranges_of(path, chosen, feeds) if chosen.needs_calibration else {}
    BACKEND.quantize(path, chosen, ranges, folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def work(kernels: tuple[Kernel, ...]) -> dict[str, tuple[str, bool]]:
    return {kernel.node: (kernel.op, kernel.integer) for kernel in kernels if kernel.macs}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ── names that do not exist, and nothing to do ────────────────────────────────────────────


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
        with pytest.raises(QuantizationError, match=r"already quantized.*--int8"):
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


# ── exclusions ────────────────────────────────────────────────────────────────────────────


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


# ── what is written ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("base", ["static", "dynamic"])
def test_two_folders_give_the_same_bytes(tmp_path: Path, base: str) -> None:
    feeds = {"image": images()}
    hashes = {sha256(quantized(cnn(), recipe(base), feeds, tmp_path / name)) for name in "ab"}
    assert len(hashes) == 1


_SCRIPT = """
import hashlib, sys
from pathlib import Path
from gate.backends.onnxruntime import BACKEND
from gate import recipes
model, out = Path(sys.argv[1]), Path(sys.argv[2])
BACKEND.optimize(model, out / "o.onnx")
chosen = recipes.RECIPES[sys.argv[3]]
tensors = BACKEND.activations(out / "o.onnx", chosen)
BACKEND.quantize(out / "o.onnx", chosen, dict.fromkeys(tensors, (-1.0, 2.0)), out / "q.onnx")
print(*(hashlib.sha256((out / n).read_bytes()).hexdigest() for n in ("o.onnx", "q.onnx")))
"""


@pytest.mark.parametrize("base", ["static", "dynamic"])
def test_other_processes_give_the_same_bytes_and_say_nothing(tmp_path: Path, base: str) -> None:
    model = save(cnn(), tmp_path / "in" / "m.onnx")
    printed = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(model), str(out), base],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        printed.append(done.stdout)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("base", ["static", "dynamic"])
def test_nothing_is_written_beside_the_input(
    tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    folder = tmp_path / "in"
    path = save(cnn(), folder / "m.onnx", external=True)
    folder.chmod(0o555)
    out = tmp_path / "out"
    out.mkdir()
    feeds = {"image": images()}
    try:
        BACKEND.optimize(path, out / "o.onnx")
        ranges = ranges_of(path, recipe(base), feeds) if base == "static" else {}
        BACKEND.quantize(path, recipe(base), ranges, out / "q.onnx")
        BACKEND.profile(path, feeds)
    finally:
        folder.chmod(0o755)
    assert sorted(file.name for file in folder.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert sorted(file.name for file in out.iterdir()) == ["o.onnx", "q.onnx"]
    assert list(scratch.iterdir()) == []


def test_quantizations_side_by_side_do_not_meet(tmp_path: Path) -> None:
    feeds = {"image": images()}
    path = save(cnn(), tmp_path / "m.onnx")
    names = ["static", "dynamic", "static-signed", "static-per-tensor"]
    jobs = [(index, names[index % len(names)]) for index in range(10)]
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(
                lambda job: quantized(path, recipe(job[1]), feeds, tmp_path, f"q{job[0]}"), jobs
            )
        )
    by_recipe = {name: {sha256(made[index]) for index, n in jobs if n == name} for name in names}
    assert all(len(hashes) == 1 for hashes in by_recipe.values())
    assert len({hashes.pop() for hashes in by_recipe.values()}) == len(names)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        ["m.onnx", *(f"q{index}.onnx" for index in range(10))]
    )


def test_large_models_keep_their_weights_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = {"image": images()}
    path = save(cnn(), tmp_path / "m.onnx")
    whole = quantized(path, recipe(), feeds, tmp_path, "whole")
    expected = BACKEND.open(whole, threads=1).run(feeds)["logits"]
    monkeypatch.setattr(graphs, "INLINE_LIMIT", 1000)
    BACKEND.optimize(path, tmp_path / "o.onnx")
    split = quantized(tmp_path / "o.onnx", recipe(), feeds, tmp_path, "split")
    assert (tmp_path / "o.onnx.data").exists()
    assert (tmp_path / "split.onnx.data").exists()
    np.testing.assert_array_equal(BACKEND.open(split, threads=1).run(feeds)["logits"], expected)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".data"] * 2 + [".onnx"] * 4


def test_initializers_among_the_inputs_are_weights(tmp_path: Path) -> None:
    model = cnn()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    feeds = {"image": images()}
    int8 = quantized(model, recipe(), feeds, tmp_path)
    assert [spec.name for spec in BACKEND.open(int8, threads=1).inputs] == ["image"]
    assert sum(kernel.integer for kernel in BACKEND.profile(int8, feeds)) == 3


@pytest.mark.parametrize(
    ("base", "zero_point"), [("static", TensorProto.UINT8), ("static-signed", TensorProto.INT8)]
)
def test_activations_have_the_recipes_type(tmp_path: Path, base: str, zero_point: int) -> None:
    int8 = onnx.load(quantized(cnn(), recipe(base), {"image": images()}, tmp_path))
    tensors = {tensor.name: tensor for tensor in int8.graph.initializer}
    points = [tensors[n.input[2]] for n in int8.graph.node if n.op_type == "QuantizeLinear"]
    assert {tensor.data_type for tensor in points} == {zero_point}
    if zero_point == TensorProto.INT8:
        assert all(not numpy_helper.to_array(tensor).any() for tensor in points)


@pytest.mark.parametrize(("base", "scales"), [("static", (8,)), ("static-per-tensor", ())])
def test_weights_are_symmetric_per_channel_or_per_tensor(
    tmp_path: Path, base: str, scales: tuple[int, ...]
) -> None:
    int8 = onnx.load(quantized(cnn(), recipe(base), {"image": images()}, tmp_path))
    tensors = {t.name: numpy_helper.to_array(t) for t in int8.graph.initializer}
    assert tensors["w1_scale"].shape == scales
    assert tensors["w1_quantized"].dtype == np.int8
    assert not tensors["w1_zero_point"].any()


def test_unsigned_weights_run_as_integers(tmp_path: Path) -> None:
    feeds = {"image": images()}
    int8 = quantized(cnn(), recipe(weight_type="uint8"), feeds, tmp_path)
    assert sum(kernel.integer for kernel in BACKEND.profile(int8, feeds)) == 3


def test_weights_that_state_their_own_shape_can_be_transposed(tmp_path: Path) -> None:
    model = gemm_mlp()
    for tensor in model.graph.initializer:
        model.graph.value_info.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    int8 = quantized(model, recipe("dynamic"), {}, tmp_path)
    assert sum(kernel.integer for kernel in BACKEND.profile(int8, {"x": vectors()})) == 2


def test_half_precision_models_quantize(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")],
        {"x": (TensorProto.FLOAT16, ["N", 16])},
        {"y": (TensorProto.FLOAT16, ["N", 4])},
        {"w": models.weights(16, 4).astype(np.float16)},
        opset=19,
        ir_version=9,
    )
    feeds = {"x": vectors().astype(np.float16)}
    int8 = onnx.load(quantized(model, recipe(), feeds, tmp_path))
    assert "QuantizeLinear" in {node.op_type for node in int8.graph.node}


# ── activations, exposure, silence ────────────────────────────────────────────────────────


def test_activations_are_those_that_quantized_nodes_touch(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    everything = ("image", "c1", "r1", "p1", "c2", "r2", "flat", "logits")
    assert BACKEND.activations(path, recipe()) == everything
    assert BACKEND.activations(path, recipe(op_types=["Gemm"])) == ("flat", "logits")
    assert BACKEND.activations(path, recipe("dynamic")) == ()


def test_integer_tensors_need_no_range(tmp_path: Path) -> None:
    path = save(models.multi_input(), tmp_path / "m.onnx")
    assert "token" not in BACKEND.activations(path, recipe())


def test_exposed_tensors_are_those_of_the_graph_as_written(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    runner = BACKEND.open_exposed(path, ["c1", "r1", "image", "logits", "c1"], threads=1)
    assert [spec.name for spec in runner.outputs] == ["logits", "c1", "r1"]
    found = runner.run({"image": images()})
    np.testing.assert_array_equal(np.maximum(found["c1"], 0), found["r1"])


def test_a_tensor_that_does_not_exist_cannot_be_exposed(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    with pytest.raises(CandidateError, match="c9"):
        BACKEND.open_exposed(path, ["c9"], threads=1)


def test_exposing_many_tensors_takes_no_quadratic_time(tmp_path: Path) -> None:
    import time

    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(1000)]
    model = models.model(nodes, {"t0": ["N", 2]}, {"t1000": ["N", 2]}, {})
    path = save(model, tmp_path / "m.onnx")
    start = time.perf_counter()
    runner = BACKEND.open_exposed(path, [f"t{i}" for i in range(1, 1000)], threads=1)
    assert len(runner.run({"t0": vectors(1, width=2)})) == 1000
    assert time.perf_counter() - start < 5


def test_failures_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(mlp(), tmp_path / "m.onnx")
    runner = BACKEND.open(path, threads=1)
    with pytest.raises(EvaluationError):
        runner.run({"x": np.zeros((1, 15), np.float32)})
    with pytest.raises(CandidateError):
        BACKEND.open_exposed(path, ["none"], threads=1)
    assert capfd.readouterr() == ("", "")


def test_the_quantizers_chatter_goes_nowhere_and_leaves_logging_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    original = QDQQuantizer.quantize_model

    def chatty(self: Any) -> Any:
        self._is_tensor_quantizable("no such tensor")
        logging.getLogger("another").warning("heard")
        return original(self)

    monkeypatch.setattr(QDQQuantizer, "quantize_model", chatty)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    quantized(cnn(), recipe(), {"image": images()}, tmp_path)
    assert root.handlers == []
    assert root.filters == []
    assert capfd.readouterr() == ("", "heard\n")


def test_what_is_no_tensor_keeps_its_own_type(tmp_path: Path) -> None:
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["y"], "pair")
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])], [output]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    spec = BACKEND.open(save(model, tmp_path / "m.onnx"), threads=1).outputs[0]
    assert spec.dtype == "seq(tensor(float))"


def test_folding_keeps_normalisations_and_activations_standard(tmp_path: Path) -> None:
    scalars = {"half": 0.5, "one": 1.0, "root": 2.0**0.5}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "mm"),
        helper.make_node("Add", ["m", "b"], ["a"], "bias"),
        helper.make_node("Div", ["a", "root"], ["e1"], "e1"),
        helper.make_node("Erf", ["e1"], ["e2"], "e2"),
        helper.make_node("Add", ["e2", "one"], ["e3"], "e3"),
        helper.make_node("Mul", ["a", "e3"], ["e4"], "e4"),
        helper.make_node("Mul", ["e4", "half"], ["g"], "gelu"),
        helper.make_node("Sigmoid", ["g"], ["s"], "sigmoid"),
        helper.make_node("Mul", ["g", "s"], ["y"], "silu"),
    ]
    initializers = {key: np.array(value, np.float32) for key, value in scalars.items()}
    initializers |= {"w": models.weights(16, 16), "b": models.weights(16)}
    path = save(
        models.model(nodes, {"x": ["N", 16]}, {"y": ["N", 16]}, initializers), tmp_path / "m.onnx"
    )
    BACKEND.optimize(path, tmp_path / "o.onnx")
    assert {node.domain for node in onnx.load(tmp_path / "o.onnx").graph.node} == {""}


# ── work, by hand ─────────────────────────────────────────────────────────────────────────


def macs(model: onnx.ModelProto, folder: Path, *, optimize: bool = False) -> int:
    path = save(model, folder / "m.onnx")
    feeds = {
        value.name: np.ones([d.dim_value for d in value.type.tensor_type.shape.dim], np.float32)
        for value in model.graph.input
    }
    return sum(kernel.macs for kernel in BACKEND.profile(path, feeds, optimize=optimize))


@pytest.mark.parametrize(
    ("weight", "x", "attributes", "expected"),
    [
        ((6, 4, 3, 3), (2, 4, 8, 8), {}, 2 * 6 * 6 * 6 * (4 * 9)),
        ((6, 4, 3, 3), (2, 4, 8, 8), {"strides": [2, 2]}, 2 * 6 * 3 * 3 * (4 * 9)),
        ((6, 2, 3, 3), (2, 4, 8, 8), {"group": 2, "pads": [1] * 4}, 2 * 6 * 8 * 8 * (2 * 9)),
        ((4, 1, 3, 3), (2, 4, 8, 8), {"group": 4}, 2 * 4 * 6 * 6 * 9),
        ((4, 4, 3, 3), (1, 4, 9, 9), {"dilations": [2, 2]}, 4 * 5 * 5 * (4 * 9)),
        ((6, 4, 5), (2, 4, 16), {}, 2 * 6 * 12 * (4 * 5)),
        ((6, 2, 2, 2, 2), (1, 2, 4, 4, 4), {}, 6 * 27 * (2 * 8)),
    ],
)
def test_convolutions(
    tmp_path: Path,
    weight: tuple[int, ...],
    x: tuple[int, ...],
    attributes: dict[str, Any],
    expected: int,
) -> None:
    assert macs(models.convolution(weight, x, **attributes), tmp_path) == expected


def test_a_blocked_convolution_counts_as_the_plain_one_without_padding(tmp_path: Path) -> None:
    model = models.convolution((32, 16, 3, 3), (2, 16, 8, 8))
    assert macs(model, tmp_path, optimize=True) == macs(model, tmp_path) == 2 * 32 * 36 * 16 * 9


def test_a_transposed_convolution_works_by_input_element(tmp_path: Path) -> None:
    model = models.convolution((8, 4, 3, 3), (2, 8, 5, 5), transpose=True, strides=[2, 2])
    assert macs(model, tmp_path) == 2 * 8 * 5 * 5 * (4 * 9)


@pytest.mark.parametrize(
    ("op", "a", "b", "attributes", "expected"),
    [
        ("MatMul", (3, 5), (5, 7), {}, 3 * 5 * 7),
        ("MatMul", (2, 4, 3, 5), (5, 7), {}, 8 * 3 * 5 * 7),
        ("MatMul", (2, 4, 3, 5), (2, 4, 5, 7), {}, 8 * 3 * 5 * 7),
        ("MatMul", (2, 1, 3, 5), (4, 5, 7), {}, 8 * 3 * 5 * 7),
        ("MatMul", (5,), (5, 7), {}, 5 * 7),
        ("MatMul", (3, 5), (5,), {}, 3 * 5),
        ("Gemm", (3, 5), (5, 7), {}, 3 * 5 * 7),
        ("Gemm", (5, 3), (5, 7), {"transA": 1}, 3 * 5 * 7),
        ("Gemm", (5, 3), (7, 5), {"transA": 1, "transB": 1}, 3 * 5 * 7),
        ("Einsum", (2, 3, 5), (2, 5, 7), {"equation": "bij,bjk->bik"}, 2 * 3 * 5 * 7),
        ("Einsum", (4, 2, 3, 5), (1, 2, 5, 7), {"equation": "...ij, ...jk->...ik"}, 8 * 3 * 5 * 7),
    ],
)
@pytest.mark.parametrize("optimize", [False, True])
def test_products(  # noqa: PLR0917
    tmp_path: Path,
    op: str,
    a: tuple[int, ...],
    b: tuple[int, ...],
    attributes: dict[str, Any],
    expected: int,
    optimize: bool,
) -> None:
    assert macs(models.product(op, a, b, **attributes), tmp_path, optimize=optimize) == expected


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_networks(tmp_path: Path, kind: str, gates: int) -> None:
    path = save(models.recurrent(kind, hidden=8), tmp_path / "m.onnx")
    kernels = BACKEND.profile(path, {"x": vectors(6).reshape(3, 2, 16)})
    assert [kernel.macs for kernel in kernels] == [3 * 2 * gates * 8 * (16 + 8)]


def test_a_dynamic_lstm_runs_integers_with_the_same_work(tmp_path: Path) -> None:
    int8 = quantized(models.recurrent("LSTM", hidden=8), recipe("dynamic"), {}, tmp_path)
    (kernel,) = BACKEND.profile(int8, {"x": vectors(6).reshape(3, 2, 16)})
    assert kernel == Kernel("recurrent_quant", "DynamicQuantizeLSTM", True, 3 * 2 * 32 * 24)


def test_integers_do_the_same_work_as_floats(tmp_path: Path) -> None:
    feeds = {"x": vectors(8).reshape(8, 4, 4)}
    path = save(attention(), tmp_path / "m.onnx")
    int8 = quantized(path, recipe(), feeds, tmp_path)
    before = BACKEND.profile(path, feeds, optimize=False)
    after = BACKEND.profile(int8, feeds)
    assert sum(k.macs for k in before) == sum(k.macs for k in after if k.integer) == 4 * 8 * 64


def test_a_transposed_product_is_fused_with_the_same_work(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["a"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "b"], ["y"], "product"),
    ]
    model = models.model(nodes, {"a": [2, 5, 3], "b": [2, 5, 7]}, {"y": [2, 3, 7]}, {})
    path = save(model, tmp_path / "m.onnx")
    feeds = {"a": np.ones((2, 5, 3), np.float32), "b": np.ones((2, 5, 7), np.float32)}
    kernels = BACKEND.profile(path, feeds)
    assert [(kernel.op, kernel.macs) for kernel in kernels] == [("FusedMatMul", 2 * 3 * 5 * 7)]


def test_work_inside_a_branch_is_seen(tmp_path: Path) -> None:
    path = save(models.weights_in_if(), tmp_path / "m.onnx")
    kernels = BACKEND.profile(path, {"x": np.ones((4, 16), np.float32)})
    assert {k.node: k.macs for k in kernels if k.macs} == {"matmul_then": 4 * 16 * 4}


def test_a_loops_repeats_are_summed(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"], "step"),
            helper.make_node("Identity", ["go"], ["still"], "keep"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["N", 4]),
        ],
    )
    model = models.model(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], "loop", body=body)],
        {"x": ["N", 4]},
        {"y": ["N", 4]},
        {"trips": np.array(5), "w": models.weights(4, 4)},
    )
    path = save(model, tmp_path / "m.onnx")
    kernels = BACKEND.profile(path, {"x": vectors(3, width=4)})
    assert [(k.node, k.macs) for k in kernels if k.macs] == [("step", 5 * 3 * 4 * 4)]


def test_names_with_quotes_survive_the_profile(tmp_path: Path) -> None:
    model = mlp()
    model.graph.node[0].name = 'a "quoted"\\name\n'
    kernels = BACKEND.profile(save(model, tmp_path / "m.onnx"), {"x": vectors()}, optimize=False)
    assert kernels[0].node == 'a "quoted"\\name\n'


def profile_of(folder: Path, op: str, inputs: list[Any], output: list[int]) -> Kernel:
    """A kernel as ONNX Runtime would report it."""
    import json

    args = {
        "op_name": op,
        "node_index": "0",
        "input_type_shape": inputs,
        "output_type_shape": [{"float": output}],
    }
    file = folder / "profile.json"
    file.write_text(json.dumps([{"cat": "Node", "name": "n_kernel_time", "args": args}]))
    return profiles.parse(file, {})[0]


def test_an_integer_kernels_operand_must_be_an_integer(tmp_path: Path) -> None:
    floats = [{"float": [3, 5]}, {"float": [5, 7]}]
    mixed = [{"float": [3, 5]}, {"int8": [5, 7]}]
    assert not profile_of(tmp_path, "MatMulIntegerToFloat", floats, [3, 7]).integer
    assert profile_of(tmp_path, "DynamicQuantizeMatMul", mixed, [3, 7]).integer
    assert not profile_of(
        tmp_path, "MatMulNBits", [{"float": [3, 5]}, {"uint8": [7, 1, 3]}], [3, 7]
    ).integer


def test_fused_attention_counts_projections_and_scores(tmp_path: Path) -> None:
    x, w = {"uint8": [2, 6, 8]}, {"int8": [8, 24]}
    packed = profile_of(tmp_path, "QAttention", [x, w, {"float": [24]}], [2, 6, 8])
    assert packed == Kernel("n", "QAttention", True, 2 * 6 * 8 * 24 + 2 * (2 * 6 * 6 * 8))
    q, k, v = {"float": [2, 6, 8]}, {"float": [2, 5, 8]}, {"float": [2, 5, 4]}
    split = profile_of(tmp_path, "MultiHeadAttention", [q, k, v], [2, 6, 4])
    assert split.macs == 2 * 6 * 5 * 8 + 2 * 6 * 5 * 4


def test_an_einsum_whose_equation_is_unknown_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot count the work of Einsum node 'n'"):
        profile_of(tmp_path, "Einsum", [{"float": [3]}, {"float": [3]}], [])


def test_a_damaged_profile_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text('[{"cat": "No')
    with pytest.raises(EvaluationError, match="cannot be read"):
        profiles.parse(file, {})
