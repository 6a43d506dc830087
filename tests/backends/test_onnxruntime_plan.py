"""Which tensor is observed in another's stead, and that no INT8 model is worse for it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.int8 import recipe
from support.onnx_models import cnn, images, model, save, weights

from gate import calibrate
from gate.backends.onnxruntime import BACKEND
from gate.recipes import Recipe
from gate.values import Batch

SIDE = 6


def build(
    *nodes: tuple[str, str, str], outputs: tuple[str, ...] = ("y",), **more: Any
) -> onnx.ModelProto:
    """x (N, 4, 6, 6) -> conv -> c -> the nodes, each (operator, input, output) -> outputs."""
    made = [helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1])]
    for op, given, result in nodes:
        extra = {"Clip": ["zero", "six"], "Reshape": ["shape"]}.get(op, [])
        made.append(helper.make_node(op, [given, *extra], [result], f"{op.lower()}_{result}"))
    initializers = {
        "w": weights(4, 4, 3, 3, seed=1),
        "zero": np.float32(0.0),
        "six": np.float32(1.0),
        "shape": np.array([0, -1], dtype=np.int64),
        **more,
    }
    rank = 2 if any(node.op_type == "Reshape" for node in made) else 4
    used = {name for node in made for name in node.input}
    return model(
        made,
        {"x": ["N", 4, SIDE, SIDE]},
        {name: [None] * rank for name in outputs},
        {name: np.asarray(value) for name, value in initializers.items() if name in used},
    )


def sources(proto: onnx.ModelProto, folder: Path, chosen: Recipe | None = None) -> dict[str, str]:
    return BACKEND.activations(save(proto, folder / "m.onnx"), chosen or recipe())


def data(count: int = 16) -> Any:
    shape = (count, 4, SIDE, SIDE)
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


# ── what cuts off ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("op", ["Relu", "Clip"])
def test_what_only_a_relu_or_clip_reads_is_observed_behind_it(tmp_path: Path, op: str) -> None:
    assert sources(build((op, "c", "y")), tmp_path) == {"x": "x", "c": "y", "y": "y"}


def test_a_chain_of_both_is_observed_behind_the_last(tmp_path: Path) -> None:
    found = sources(build(("Relu", "c", "r"), ("Clip", "r", "y")), tmp_path)
    assert (found["c"], found["r"]) == ("y", "y")


def test_a_second_reader_needs_all_of_the_range(tmp_path: Path) -> None:
    found = sources(build(("Relu", "c", "r"), ("Tanh", "c", "p"), outputs=("r", "p")), tmp_path)
    assert found["c"] == "c"


def test_a_relu_that_reads_twice_is_one_reader_but_not_its_bound(tmp_path: Path) -> None:
    proto = build(("Relu", "c", "y"))
    proto.graph.node.append(helper.make_node("ReduceMax", ["c"], ["most"], "most", keepdims=0))
    proto.graph.node.append(helper.make_node("Clip", ["c", "", "most"], ["z"], "clip"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    assert sources(proto, tmp_path)["c"] == "c"


def test_a_bound_is_not_cut_off_by_what_it_bounds(tmp_path: Path) -> None:
    """c goes in as Clip's upper bound: its own range is not that of the output."""
    scalar = {"k": weights(1, 4, SIDE, SIDE, seed=4), "b": np.zeros(1, np.float32)}
    proto = model(
        [
            helper.make_node("Conv", ["x", "k", "b"], ["c"], "conv"),
            helper.make_node("Squeeze", ["c"], ["s"], "squeeze"),
            helper.make_node("Clip", ["x", "", "s"], ["y"], "clip"),
        ],
        {"x": [1, 4, SIDE, SIDE]},
        {"y": [1, 4, SIDE, SIDE]},
        scalar,
    )
    assert sources(proto, tmp_path)["c"] == "c"


def test_a_graph_output_needs_all_of_its_range(tmp_path: Path) -> None:
    assert sources(build(("Relu", "c", "y"), outputs=("y", "c")), tmp_path)["c"] == "c"


def test_a_subgraph_may_read_it_too(tmp_path: Path) -> None:
    def branch(tag: str, op: str) -> onnx.GraphProto:
        given = helper.make_node(op, ["c"], [f"b_{tag}"], f"inner_{tag}")
        output = helper.make_tensor_value_info(f"b_{tag}", TensorProto.FLOAT, [None] * 4)
        return helper.make_graph([given], tag, [], [output])

    proto = build(("Relu", "c", "y"))
    proto.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    then, other = branch("then", "Neg"), branch("else", "Abs")
    proto.graph.node.append(
        helper.make_node("If", ["flag"], ["z"], "choose", then_branch=then, else_branch=other)
    )
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    onnx.checker.check_model(proto)
    assert sources(proto, tmp_path)["c"] == "c"


# ── what only moves values ────────────────────────────────────────────────────────────────


def test_what_is_moved_has_the_range_of_what_it_was(tmp_path: Path) -> None:
    chain = (("Relu", "c", "r"), ("Transpose", "r", "t"), ("Reshape", "t", "s"), ("Tanh", "s", "y"))
    chosen = recipe(op_types=["Conv", "Relu", "Transpose", "Reshape"])
    found = sources(build(*chain), tmp_path, chosen)
    assert found == {"x": "x", "c": "r", "r": "r", "t": "r", "s": "r"}


def test_a_relu_behind_a_reshape_cuts_off_what_comes_out_of_it(tmp_path: Path) -> None:
    found = sources(build(("Reshape", "c", "s"), ("Relu", "s", "y")), tmp_path)
    assert found == {"x": "x", "c": "c", "s": "y", "y": "y"}


def test_a_moved_weight_is_observed_itself(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], "transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"], "product"),
    ]
    proto = model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, {"w": weights(4, 16)})
    assert sources(proto, tmp_path)["t"] == "t"


def test_shapes_of_integers_are_no_source(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], "shape"),
        helper.make_node("Identity", ["sizes"], ["same"], "identity"),
        helper.make_node("Reshape", ["x", "same"], ["r"], "reshape"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "product"),
    ]
    proto = model(nodes, {"x": ["N", 16]}, {"y": ["N", 4]}, {"w": weights(16, 4)})
    assert sources(proto, tmp_path) == {"x": "x", "r": "x", "y": "y"}


def test_what_is_observed_is_fewer_tensors(tmp_path: Path) -> None:
    found = sources(cnn(), tmp_path)
    assert set(found.values()) < set(found)


# ── the INT8 model ────────────────────────────────────────────────────────────────────────


def int8(path: Path, chosen: Recipe, feeds: Any, name: str, *, exact: bool) -> Path:
    """By the tensors observed in others' stead, or each by itself."""
    stands_for = BACKEND.activations(path, chosen)
    if exact:
        stands_for = {tensor: tensor for tensor in stands_for}
    tensors = tuple(dict.fromkeys(stands_for.values()))
    batch = Batch(0, np.arange(len(next(iter(feeds.values())))).astype(str), feeds, None)
    run = BACKEND.open_exposed(path, tensors, threads=1).views
    found = calibrate.ranges_of(calibrate.observe(run, [batch], tensors), chosen, stands_for)
    BACKEND.quantize(path, chosen, found, path.parent / name)
    return path.parent / name


@pytest.mark.parametrize("method", ["min-max", "moving-average", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("base", ["static", "static-signed", "static-7bit", "static-per-tensor"])
def test_the_model_is_the_one_made_from_exact_ranges(
    tmp_path: Path, base: str, method: str
) -> None:
    """ONNX Runtime gives a quantized Relu's input the range of its output, whatever it is told."""
    path, feeds = save(cnn(), tmp_path / "m.onnx"), {"image": images(16)}
    chosen = recipe(base, calibration=method)
    ours = int8(path, chosen, feeds, "ours.onnx", exact=False)
    theirs = int8(path, chosen, feeds, "theirs.onnx", exact=True)
    assert ours.read_bytes() == theirs.read_bytes()


def error(path: Path, quantized: Path, feeds: Any) -> float:
    outputs = [BACKEND.open(one, threads=1).run(feeds)["y"] for one in (path, quantized)]
    return float(np.mean((outputs[0] - outputs[1]) ** 2))


@pytest.mark.parametrize("activation_type", ["int8", "uint8"])
@pytest.mark.parametrize("op", ["Relu", "Clip"])
def test_a_convolution_before_what_cuts_off_gets_better(
    tmp_path: Path, op: str, activation_type: str
) -> None:
    """Where the Relu itself is not quantized, ONNX Runtime leaves its input's range alone."""
    path = save(build((op, "c", "y")), tmp_path / "m.onnx")
    feeds = {"x": -(data(64) ** 3)}  # and the larger values are negative
    chosen = recipe("static-conv", op_types=["Conv"], activation_type=activation_type)
    ours, theirs = (
        error(path, int8(path, chosen, feeds, f"{exact}.onnx", exact=exact), feeds)
        for exact in (False, True)
    )
    assert ours < 0.95 * theirs
