"""ONNX Runtime: what it writes, what it exposes, and that it is silent."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import onnx_models as models
from support import steps
from support.int8 import quantized, ranges_of, recipe, sha256
from support.onnx_models import cnn, gemm_mlp, images, mlp, save, vectors

import gate
from gate import graph as graphs
from gate.backends.onnxruntime import BACKEND
from gate.errors import CandidateError, EvaluationError

# ── what is written ────────────────────────────────────────────────────────────────────────


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
        out, private = tmp_path / seed, tmp_path / f"private-{seed}"
        out.mkdir()
        private.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, str(model), str(out), base],
            env={**os.environ, "PYTHONHASHSEED": seed, "TMPDIR": str(private)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        assert list(private.iterdir()) == []  # no session of ONNX Runtime's telemetry
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
        ["m.onnx", *(f"q{index}.onnx" for index, _ in jobs)]
    )


def test_processes_side_by_side_share_no_file(tmp_path: Path) -> None:
    model = save(cnn(), tmp_path / "in" / "m.onnx")
    folders = [tmp_path / f"out{index}" for index in range(4)]
    temporary = tmp_path / "tmp"
    for folder in (*folders, temporary):
        folder.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(model), str(folder), "static"],
            env={**os.environ, "TMPDIR": str(temporary)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    said = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert len(set(said)) == 1
    assert said[0][1] == ""
    assert {file.name for file in temporary.iterdir()} <= {".ses"}  # the runtime's own, on import
    assert [file.name for file in model.parent.iterdir()] == ["m.onnx"]


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


# ── activations, exposure, silence ─────────────────────────────────────────────────────────


def test_activations_are_those_that_quantized_nodes_touch(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    everything = ("image", "c1", "r1", "p1", "c2", "r2", "flat", "logits")
    assert tuple(BACKEND.activations(path, recipe())) == everything
    assert tuple(BACKEND.activations(path, recipe(op_types=["Gemm"]))) == ("flat", "logits")
    assert BACKEND.activations(path, recipe("dynamic")) == {}


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
    def expose(count: int) -> None:
        nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"], f"n{i}") for i in range(count)]
        model = models.model(nodes, {"t0": ["N", 2]}, {f"t{count}": ["N", 2]}, {})
        path = save(model, tmp_path / "m.onnx")
        runner = BACKEND.open_exposed(path, [f"t{i}" for i in range(1, count)], threads=1)
        assert len(runner.run({"t0": vectors(1, width=2)})) == count

    few, many = (steps.taken(partial(expose, count), gate) for count in (250, 1000))
    assert 0 < many < 8 * few  # 16 times, were it quadratic


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


def test_text_that_a_model_gives_is_viewed_and_has_no_range(tmp_path: Path) -> None:
    proto = models.mlp()
    label = onnx.helper.make_tensor_value_info("label", onnx.TensorProto.STRING, [1])
    text = onnx.helper.make_tensor("text", onnx.TensorProto.STRING, [1], [b"digit"])
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["label"], "told", value=text))
    proto.graph.output.append(label)
    path = save(proto, tmp_path / "m.onnx")
    sources = BACKEND.activations(path, recipe())
    found = BACKEND.open_exposed(path, tuple(sources), threads=1).views({"x": vectors()})
    assert found["label"].tolist() == ["digit"]
    assert set(sources) - {"x"} <= set(found)
