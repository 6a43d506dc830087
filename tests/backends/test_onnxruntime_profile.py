"""The arithmetic of the profile, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import onnx_models as models
from support.int8 import quantized, recipe
from support.onnx_models import attention, mlp, save, vectors

from gate.backends import _onnxruntime_profile as profiles
from gate.backends.onnxruntime import BACKEND
from gate.errors import EvaluationError
from gate.values import Kernel


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


def test_work_that_nobody_counts_is_an_error(tmp_path: Path) -> None:
    signal = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 1])
    spectrum = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 2])
    node = helper.make_node("DFT", ["x"], ["y"], name="spectrum", axis=1)
    graph = helper.make_graph([node], "g", [signal], [spectrum])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    with pytest.raises(EvaluationError, match=r"operator 'DFT' \(node 'spectrum'\) does"):
        macs(model, tmp_path)


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
