"""Running a recipe, and the proof that its result runs as INT8."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import onnx_models as models
from support.int8 import ranges_of
from support.onnx_models import attention, cnn, images, mlp, save, vectors

from gate import artifact, graph, recipes
from gate.backends.onnxruntime import BACKEND
from gate.errors import QuantizationError
from gate.quantize import prove, prove_alone, quantize, source_node
from gate.recipes import Recipe
from gate.values import Candidate, Int8Model, Kernel

Feeds = dict[str, Any]


def candidate_of(path: Path) -> Candidate:
    runner = BACKEND.open(path, threads=1)
    return Candidate(
        path=path,
        sha256="0" * 64,
        fp32_sha256="0" * 64,
        bytes=path.stat().st_size,
        inputs=runner.inputs,
        outputs=runner.outputs,
        opset=17,
        source=str(path),
    )


def recipe(base: str = "static", **changes: Any) -> Recipe:
    return recipes.resolve({"base": base, **changes})


def run(
    model: onnx.ModelProto | Path, chosen: Recipe, feeds: Feeds, folder: Path, **changes: Any
) -> Int8Model:
    path = model if isinstance(model, Path) else save(model, folder / "fp32.onnx")
    ranges = ranges_of(path, chosen, feeds) if chosen.needs_calibration else {}
    arguments = {"ranges": ranges, "sample_feeds": feeds, "destination": folder / "int8.onnx"}
    return quantize(candidate_of(path), chosen, backend=BACKEND, threads=1, **(arguments | changes))


@pytest.fixture
def feeds() -> Feeds:
    return {"image": images()}


# ── what comes out ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["static", "static-signed", "static-per-tensor"])
def test_a_static_recipe_quantizes_all_the_work(tmp_path: Path, feeds: Feeds, name: str) -> None:
    int8 = run(cnn(), recipe(name), feeds, tmp_path)
    assert int8.quantized_nodes == ("conv1", "conv2", "fc")
    assert int8.skipped_nodes == ()
    assert int8.int8_share == 1.0
    assert int8.kernels["QLinearConv"] == 2
    assert int8.recipe == recipe(name)


def test_a_dynamic_recipe_needs_no_calibration(tmp_path: Path) -> None:
    int8 = run(mlp(), recipe("dynamic"), {"x": vectors()}, tmp_path)
    assert int8.quantized_nodes == ("first", "second")
    assert int8.kernels["DynamicQuantizeMatMul"] == 2


def test_a_dynamic_recipe_leaves_convolutions(tmp_path: Path, feeds: Feeds) -> None:
    int8 = run(cnn(), recipe("dynamic"), feeds, tmp_path)
    assert int8.quantized_nodes == ("fc",)
    assert int8.skipped_nodes == ("conv1", "conv2")
    assert 0 < int8.int8_share < 0.1


def test_an_excluded_node_is_skipped_and_lowers_the_share(tmp_path: Path, feeds: Feeds) -> None:
    int8 = run(cnn(), recipe(exclude_nodes=["conv2"]), feeds, tmp_path)
    assert int8.quantized_nodes == ("conv1", "fc")
    assert int8.skipped_nodes == ("conv2",)
    conv1, conv2, fc = 8 * 64 * 9, 16 * 16 * 72, 10 * 256
    assert int8.int8_share == pytest.approx((conv1 + fc) / (conv1 + conv2 + fc))


def test_nodes_without_names_are_matched(tmp_path: Path, feeds: Feeds) -> None:
    int8 = run(cnn(named=False), recipe(), feeds, tmp_path)
    assert int8.quantized_nodes == ("Conv_0", "Conv_3", "Gemm_6")


def test_a_batch_of_one_is_enough(tmp_path: Path) -> None:
    int8 = run(cnn(batch=1), recipe(), {"image": images(1)}, tmp_path)
    assert int8.int8_share == 1.0


def test_several_inputs(tmp_path: Path) -> None:
    feeds = {"left": vectors(8), "right": vectors(8, seed=2), "token": np.arange(8)}
    assert run(models.multi_input(), recipe(), feeds, tmp_path).quantized_nodes == ("head",)


@pytest.mark.parametrize("base", ["static", "dynamic"])
def test_text_enters_as_text(tmp_path: Path, base: str) -> None:
    words = ["ape", "bee", "cat", "dog"]
    encode = onnx.helper.make_node(
        "LabelEncoder", ["word"], ["index"], "encode", domain="ai.onnx.ml",
        keys_strings=words, values_int64s=range(4),
    )  # fmt: skip
    nodes = [
        encode,
        onnx.helper.make_node("Gather", ["table", "index"], ["x"], "look_up"),
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "text",
            [onnx.helper.make_tensor_value_info("word", onnx.TensorProto.STRING, ["N"])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 8])],
            [
                onnx.numpy_helper.from_array(models.weights(4, 16), "table"),
                onnx.numpy_helper.from_array(models.weights(16, 8, seed=1), "w"),
            ],
        ),
        opset_imports=[
            onnx.helper.make_opsetid("", 17),
            onnx.helper.make_opsetid("ai.onnx.ml", 3),
        ],
        ir_version=8,
    )
    int8 = run(model, recipe(base), {"word": np.array(words, object)}, tmp_path)
    assert int8.quantized_nodes == ("product",)
    assert [spec.dtype for spec in BACKEND.open(int8.path, threads=1).inputs] == ["object"]


def test_outputs_keep_their_names(tmp_path: Path, feeds: Feeds) -> None:
    int8 = run(cnn(), recipe(), feeds, tmp_path)
    assert [spec.name for spec in BACKEND.open(int8.path, threads=1).outputs] == ["logits"]


def test_the_hash_is_that_of_the_file_in_any_folder(tmp_path: Path, feeds: Feeds) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (run(cnn(), recipe(), feeds, tmp_path / name) for name in ("a", "b"))
    assert first.sha256 == second.sha256
    assert first.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert first.bytes == first.path.stat().st_size


def test_weights_beside_the_artifact_count(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"model")
    assert artifact.files(path) == (path,)
    (tmp_path / "m.onnx.data").write_bytes(b"weights")
    assert artifact.files(path) == (path, tmp_path / "m.onnx.data")


def test_weights_beside_the_artifact_are_hashed(
    tmp_path: Path, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(graph, "INLINE_LIMIT", 1000)
    int8 = run(cnn(), recipe(), feeds, tmp_path)
    content = b"".join(file.read_bytes() for file in artifact.files(int8.path))
    assert int8.sha256 == hashlib.sha256(content).hexdigest()
    assert int8.bytes == len(content) > int8.path.stat().st_size


def test_a_read_only_input_folder_is_enough(tmp_path: Path, feeds: Feeds) -> None:
    folder = tmp_path / "in"
    path = save(cnn(), folder / "m.onnx")
    folder.chmod(0o555)
    try:
        run(path, recipe(), feeds, tmp_path)
    finally:
        folder.chmod(0o755)
    assert [file.name for file in folder.iterdir()] == ["m.onnx"]


# ── what must not pass ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("base", ["static", "dynamic"])
@pytest.mark.parametrize(
    ("build", "inputs", "message"),
    [
        (models.nothing_to_quantize, {"x": vectors()}, "nothing to quantize"),
        (models.weights_in_if, {"x": vectors()}, "inside subgraphs.*matmul_then"),
        (models.recurrent, {"x": vectors(6).reshape(3, 2, 16)}, "no (static|dynamic) INT8 kernels"),
    ],
)
def test_a_model_that_cannot_be_int8_says_why(
    tmp_path: Path, base: str, build: Any, inputs: Feeds, message: str
) -> None:
    with pytest.raises(QuantizationError, match=message):
        run(build(), recipe(base), inputs, tmp_path)


def test_a_quantizer_that_does_nothing_is_caught(
    tmp_path: Path, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(self: Any, model: Path, recipe: Recipe, ranges: Any, destination: Path) -> None:
        destination.write_bytes(model.read_bytes())

    monkeypatch.setattr(type(BACKEND), "quantize", copy)
    with pytest.raises(QuantizationError, match=r"no integer kernel: .*fc \(Gemm\)"):
        run(cnn(), recipe(), feeds, tmp_path)


def test_float_kernels_behind_quantized_nodes_are_caught(tmp_path: Path) -> None:
    """ONNX Runtime's CPU has no integer ConvTranspose: the QDQ file is float work."""
    model = models.convolution((8, 4, 3, 3), (2, 8, 5, 5), transpose=True)
    feeds = {"x": np.ones((2, 8, 5, 5), np.float32)}
    with pytest.raises(QuantizationError, match=r"no integer kernel: conv \(ConvTranspose\)"):
        run(model, recipe(), feeds, tmp_path)


def test_products_of_two_activations_are_not_dynamic(tmp_path: Path) -> None:
    model = models.product("MatMul", (2, 4, 4), (2, 4, 4))
    feeds = {"a": np.ones((2, 4, 4), np.float32), "b": np.ones((2, 4, 4), np.float32)}
    with pytest.raises(QuantizationError, match="weights are not constants"):
        run(model, recipe("dynamic"), feeds, tmp_path)


def test_an_exclusion_that_the_runtime_ignores_is_caught(tmp_path: Path) -> None:
    feeds = {"x": vectors(8).reshape(8, 4, 4)}
    with pytest.raises(QuantizationError, match="excludes scores, and the runtime runs it as int"):
        run(attention(), recipe(exclude_nodes=["scores"]), feeds, tmp_path)
    int8 = run(attention(), recipe(exclude_nodes=["scores", "q", "k"]), feeds, tmp_path)
    assert int8.quantized_nodes == ("out",)


def test_outputs_that_changed_are_caught(tmp_path: Path, feeds: Feeds) -> None:
    path = save(cnn(), tmp_path / "fp32.onnx")
    candidate = candidate_of(path)
    other = replace(candidate, outputs=(replace(candidate.outputs[0], name="scores"),))
    with pytest.raises(
        QuantizationError, match=r"outputs are .*'logits'.*'scores'.*Exclude the nodes"
    ):
        quantize(
            other,
            recipe(),
            ranges_of(path, recipe(), feeds),
            backend=BACKEND,
            sample_feeds=feeds,
            threads=1,
            destination=tmp_path / "int8.onnx",
        )


# ── the proof ─────────────────────────────────────────────────────────────────────────────


def kernel(node: str, macs: int, *, integer: bool = False) -> Kernel:
    return Kernel(node=node, op="MatMul", integer=integer, macs=macs)


@pytest.mark.parametrize(
    ("name", "nodes", "expected"),
    [
        ("conv1", ["conv1"], "conv1"),
        ("conv1_token_1", ["conv1"], "conv1"),
        ("fc_MatMul_quant", ["fc", "fc_MatMul"], "fc_MatMul"),
        ("conv_1_quant", ["conv", "conv_1"], "conv_1"),
        ("conv10_quant", ["conv1"], None),
        ("mm/MatMulAddFusion", ["mm"], "mm"),
        ("/layer/conv/Conv_token_9", ["/layer/conv/Conv"], "/layer/conv/Conv"),
        ("_token_2", ["conv"], None),
        ("", ["conv"], None),
    ],
)
def test_a_kernel_is_traced_to_its_node(name: str, nodes: list[str], expected: str | None) -> None:
    assert source_node(name, nodes) == expected


def test_the_share_is_of_work_not_of_nodes() -> None:
    fp32 = [kernel("a", 10), kernel("b", 30), kernel("relu", 0)]
    int8 = [kernel("a_quant", 10, integer=True), kernel("b", 30), kernel("relu", 0)]
    proof = prove(fp32, int8)
    assert proof.int8_share == 0.25
    assert (proof.quantized_nodes, proof.skipped_nodes) == (("a",), ("b",))
    assert proof.kernels == {"MatMul": 3}


def test_integer_kernels_without_work_prove_nothing() -> None:
    with pytest.raises(QuantizationError, match="no integer kernel"):
        prove([kernel("a", 10)], [kernel("a", 10), kernel("add", 0, integer=True)])
    with pytest.raises(QuantizationError, match="no multiply–accumulate work at all"):
        prove([], [kernel("add", 0, integer=True)])


# ── what stays in floating point, and why ─────────────────────────────────────────────────


def test_what_stays_in_floating_point_is_told_with_its_reason(tmp_path: Path, feeds: Feeds) -> None:
    whole = run(cnn(), recipe(), feeds, tmp_path)
    assert whole.islands == ()
    one = run(cnn(), recipe(exclude_nodes=["conv2"]), feeds, tmp_path)
    assert [(i.node, i.op, i.reason) for i in one.islands] == [
        ("conv2", "Conv", "excluded by exclude_nodes")
    ]
    assert one.islands[0].share + one.int8_share == pytest.approx(1)
    kind = run(cnn(), recipe(exclude_op_types=["Conv"]), feeds, tmp_path)
    assert {i.reason for i in kind.islands} == {"excluded by exclude_op_types"}
    assert [i.share for i in kind.islands] == sorted((i.share for i in kind.islands), reverse=True)
    convs = run(cnn(), recipe("static-conv"), feeds, tmp_path)
    assert [(i.node, i.reason) for i in convs.islands] == [
        ("fc", "recipe 'static-conv' leaves Gemm out")
    ]


def test_a_transposed_convolution_is_float_and_says_why(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w1"], ["c"], "conv"),
        onnx.helper.make_node("ConvTranspose", ["c", "w2"], ["y"], "up"),
    ]
    initializers = {"w1": models.weights(8, 4, 3, 3), "w2": models.weights(8, 4, 3, 3, seed=1)}
    shape = {"x": ["N", 4, 6, 6]}, {"y": ["N", 4, 6, 6]}
    feeds = {"x": models.weights(2, 4, 6, 6, seed=2)}
    int8 = run(models.model(nodes, *shape, initializers), recipe(), feeds, tmp_path)
    (island,) = int8.islands
    assert (island.node, island.op) == ("up", "ConvTranspose")
    assert "has no integer kernel for it on the CPU" in island.reason


def test_a_dynamic_recipe_leaves_products_of_activations(tmp_path: Path) -> None:
    int8 = run(attention(), recipe("dynamic"), {"x": vectors(8).reshape(8, 4, 4)}, tmp_path)
    reasons = {island.node: island.reason for island in int8.islands}
    assert "product of two activations" in reasons["scores"]


def test_weights_that_stay_in_floating_point_are_weighed(tmp_path: Path, feeds: Feeds) -> None:
    int8 = run(cnn(), recipe(exclude_nodes=["fc"]), feeds, tmp_path)
    assert int8.float_weights is not None
    assert int8.float_weights.bytes >= 4 * 16 * 10
    assert len(int8.float_weights.largest) <= 5


def test_a_model_that_all_but_runs_in_floating_point_is_no_int8_model() -> None:
    fp32 = (kernel("large", 10_000), kernel("small", 50))
    int8 = (kernel("large", 10_000), kernel("small", 50, integer=True))
    with pytest.raises(QuantizationError, match=r"only 0\.5 % .*large \(MatMul\) run in"):
        prove(fp32, int8)
    with pytest.raises(QuantizationError, match="is no INT8 model"):
        prove_alone(fp32, int8)
    enough = (kernel("large", 10_000), kernel("small", 200, integer=True))
    assert prove(fp32, enough).int8_share == pytest.approx(200 / 10_200)
