"""One graph of FP32 and INT8 gives what separate sessions give, tensor by tensor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.int8 import quantized, recipe
from support.onnx_models import cnn, images, mlp, model, save, vectors, weights, weights_in_if

from gate import diagnose
from gate import graph as graphs
from gate.backends import READINGS
from gate.backends._onnxruntime_felt import felt
from gate.backends._onnxruntime_points import Shared, shared
from gate.backends.onnxruntime import BACKEND
from gate.errors import CandidateError
from gate.recipes import Recipe
from gate.values import Batch

Feeds = dict[str, Any]
Models = tuple[Path, Path, Feeds]


def tokens(count: int = 6) -> Any:
    return np.random.default_rng(3).standard_normal((count, 5, 8)).astype(np.float32)


def block() -> onnx.ModelProto:
    """x (N, 5, 8) -> attention, a residual, LayerNormalization, a matrix product -> y."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], "key"),
        helper.make_node("Transpose", ["k"], ["kt"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["s"], "scores"),
        helper.make_node("Softmax", ["s"], ["p"], "softmax", axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["mixed"], "mix"),
        helper.make_node("Add", ["mixed", "x"], ["sum"], "residual"),
        helper.make_node("LayerNormalization", ["sum", "g", "b"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "wo"], ["y"], "out"),
    ]
    constants = {name: weights(8, 8, seed=seed) for seed, name in enumerate(("wq", "wk", "wo"))}
    constants |= {"g": np.ones(8, np.float32), "b": weights(8)}
    return model(nodes, {"x": ["N", 5, 8]}, {"y": ["N", 5, 8]}, constants)


def residual() -> onnx.ModelProto:
    """image (N, 1, 8, 8) -> conv1, relu, conv2, add -> y."""
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["b"], "conv2", pads=[1] * 4),
        helper.make_node("Add", ["r", "b"], ["y"], "add"),
    ]
    constants = {"w1": weights(4, 1, 3, 3, seed=1), "w2": weights(4, 4, 3, 3, seed=2)}
    return model(nodes, {"image": ["N", 1, 8, 8]}, {"y": ["N", 4, 8, 8]}, constants)


def around_an_if() -> onnx.ModelProto:
    """x -> before -> If (which reads it inside) -> after -> y."""
    proto = weights_in_if()
    for body in graphs.subgraphs(proto.graph.node[2]):
        body.node[0].input[0] = "h"
    before = helper.make_node("MatMul", ["x", "wa"], ["h"], "before")
    after = helper.make_node("MatMul", ["z", "wb"], ["y"], "after")
    proto.graph.node[2].output[0] = "z"
    proto.graph.node.insert(0, before)
    proto.graph.node.append(after)
    for name, values in (("wa", weights(16, 16, seed=7)), ("wb", weights(4, 4, seed=8))):
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(proto, full_check=True)
    return proto


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Recipe, Feeds]] = {
    "cnn": (cnn, recipe(), {"image": images(6)}),
    "cnn, per tensor": (cnn, recipe("static-per-tensor"), {"image": images(6)}),
    "cnn, signed": (cnn, recipe("static-signed"), {"image": images(6)}),
    "mlp": (mlp, recipe(), {"x": vectors(6)}),
    "mlp, dynamic": (mlp, recipe("dynamic"), {"x": vectors(6)}),
    "transformer": (block, recipe(), {"x": tokens()}),
    "transformer, matrix products": (block, recipe("static-matmul"), {"x": tokens()}),
    "residual": (residual, recipe(), {"image": images(6)}),
    "if": (around_an_if, recipe(), {"x": vectors(6)}),
}


@pytest.fixture(params=CASES)
def models(request: pytest.FixtureRequest, tmp_path: Path) -> Models:
    make, chosen, feeds = CASES[request.param]
    int8 = quantized(make(), chosen, feeds, tmp_path)
    return tmp_path / "fp32.onnx", int8, feeds


def batches(feeds: Feeds, size: int) -> list[Batch]:
    count = len(next(iter(feeds.values())))
    return [
        Batch(
            start=start,
            ids=np.arange(start, min(start + size, count)).astype(str),
            feeds={name: values[start : start + size] for name, values in feeds.items()},
            targets=None,
        )
        for start in range(0, count, size)
    ]


def probed(fp32: Path, int8: Path, feeds: Feeds) -> tuple[Any, Any]:
    probe = BACKEND.probe(fp32, int8, threads=1)
    return probe, probe.run(feeds)[0]


# ── against separate sessions ─────────────────────────────────────────────────────────────


def part(int8: onnx.ModelProto, given: dict[str, Any], wanted: str, path: Path) -> Any:
    """`wanted` of the INT8 model, of which some inner tensors are given."""
    made = {name: node for node in int8.graph.node for name in node.output}
    needed, pending = [], [wanted]
    while pending:
        name = pending.pop()
        node = made.get(name)
        if name not in given and node is not None and node not in needed:
            needed.append(node)
            pending += [*node.input, *graphs.read_inside(node)]
    names = [node.name for node in needed]
    nodes = [node for node in int8.graph.node if node.name in names]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in given]
    outputs = [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "part", inputs, outputs, int8.graph.initializer)
    proto = helper.make_model(graph, opset_imports=int8.opset_import, ir_version=8)
    onnx.save(proto, path)
    return BACKEND.open_exposed(path, (), threads=1).run(given)[wanted]


def values_of(path: Path, names: set[str], feeds: Feeds) -> dict[str, Any]:
    inner = tuple(name for name in names if name not in feeds)
    return BACKEND.open_exposed(path, inner, threads=1).run(feeds) | feeds


def named(path: Path) -> onnx.ModelProto:
    proto = onnx.load(path)
    graphs.name_nodes(proto)
    return graphs.typed(proto)  # type: ignore[no-any-return]


def by_hand(fp32: Path, int8: Path, feeds: Feeds, one: Shared, every: tuple[Shared, ...]) -> Any:
    """signal, whole, own, came."""
    reads = {other.point.tensor: other.represented for other in every}
    wanted, name = one.represented[0], one.point.tensor
    x = values_of(fp32, {name, *one.point.sources}, feeds)
    there = values_of(int8, {wanted}, feeds)[wanted]
    given = {inner: x[source] for source in one.point.sources for inner in reads[source]}
    rounded = {o.point.tensor: o.quantizer.given for o in every if o.quantizer is not None}
    given |= {rounded[source]: x[source] for source in one.point.sources if source in rounded}
    if not given:  # a model input, which is itself what its quantizer rounds
        given = {name: x[name]}
    alone = (
        x[name] if wanted in given else part(named(int8), given, wanted, fp32.with_name("p.onnx"))
    )
    gain = felt(named(fp32)).get(name, np.float32(1))
    differences = (x[name], there - x[name], alone - x[name], there - alone)
    return [float(np.square((d * gain).astype(np.float64)).sum()) for d in differences]


def test_energies_are_those_of_separate_sessions(models: Models) -> None:
    fp32, int8, feeds = models
    every = shared(named(fp32), onnx.load(int8))
    probe, numbers = probed(fp32, int8, feeds)
    assert [one.point.tensor for one in every] == [point.tensor for point in probe.points]
    for one, found in zip(every, numbers[:, :4], strict=True):
        expected = by_hand(fp32, int8, feeds, one, every)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7 * expected[0])


def test_shares_sum_to_1(models: Models) -> None:
    fp32, int8, feeds = models
    seen = diagnose.observe(BACKEND.probe(fp32, int8, threads=1), batches(feeds, 6))
    assert diagnose.shares(seen).sum() == pytest.approx(1)
    assert all(one.share > 0 for one in diagnose.layers(seen))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_sums_do_not_depend_on_batches(tmp_path: Path, size: int) -> None:
    feeds = {"image": images(10)}
    int8 = quantized(cnn(), recipe(), feeds, tmp_path)
    probe = BACKEND.probe(tmp_path / "fp32.onnx", int8, threads=1)
    whole, parts = (diagnose.observe(probe, batches(feeds, n)) for n in (10, size))
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-4, atol=1e-6)
    assert parts.examples == whole.examples == 10
    for place, peak in whole.peaks.items():
        np.testing.assert_array_equal(parts.peaks[place], peak)


def test_what_leaves_the_graph_does_not_grow_with_examples(tmp_path: Path) -> None:
    int8 = quantized(cnn(), recipe(), {"image": images()}, tmp_path)
    probe = BACKEND.probe(tmp_path / "fp32.onnx", int8, threads=1)
    sizes = []
    for count in (1, 64):
        numbers, peaks = probe.run({"image": images(count)})
        sizes.append((numbers.shape, {place: peak.shape for place, peak in peaks.items()}))
    assert sizes[0] == sizes[1]
    assert sizes[0][0] == (len(probe.points), len(READINGS))


# ── what the quantizer alone loses ────────────────────────────────────────────────────────


def test_clipping_is_told_from_rounding(tmp_path: Path) -> None:
    few, many = {"x": 0.1 * vectors(8)}, {"x": vectors(8)}
    int8 = quantized(mlp(), recipe(), few, tmp_path)
    probe = BACKEND.probe(tmp_path / "fp32.onnx", int8, threads=1)
    at = [point.tensor for point in probe.points].index("x")
    rounding, clipped, far = (READINGS.index(name) for name in ("rounding", "clipped", "far"))
    low, high = probe.points[at].ends
    x = many["x"]
    step = (high - low) / 255
    gain = np.linalg.norm(weights(16, 32, seed=1), axis=1)
    lost = (np.clip(np.round(x / step) * step, low, high) - x) * gain
    for feeds, all_of_it in ((few, False), (many, True)):
        found = probe.run(feeds)[0][at]
        assert (found[clipped] > 0.9 * found[rounding]) == all_of_it
    found = probe.run(many)[0][at]
    assert found[rounding] == pytest.approx(np.square(lost).sum(), rel=1e-2)
    assert found[far] == pytest.approx((np.abs(x) > max(-low, high) / 8).mean(), rel=1e-6)


def test_peaks_are_those_of_each_channel(tmp_path: Path) -> None:
    feeds = {"image": images(6)}
    int8 = quantized(cnn(), recipe(), feeds, tmp_path)
    probe = BACKEND.probe(tmp_path / "fp32.onnx", int8, threads=1)
    peaks = probe.run(feeds)[1]
    at = [point.tensor for point in probe.points].index("p1")
    x = values_of(tmp_path / "fp32.onnx", {"p1"}, feeds)["p1"]
    np.testing.assert_allclose(peaks[at], np.abs(x).max(axis=(0, 2, 3)), rtol=1e-6)


# ── points ────────────────────────────────────────────────────────────────────────────────


def test_a_point_tells_its_layer(tmp_path: Path) -> None:
    int8 = quantized(cnn(), recipe(), {"image": images()}, tmp_path)
    points = {p.tensor: p for p in BACKEND.probe(tmp_path / "fp32.onnx", int8, threads=1).points}
    assert (points["image"].node, points["image"].sources) == ("", ())
    assert (points["r1"].node, points["r1"].op, points["r1"].sources) == (
        "conv1", "Conv", ("image",),
    )  # fmt: skip
    assert points["r1"].scales == 8
    peaks = points["r1"].weights
    assert peaks is not None
    np.testing.assert_allclose(
        peaks, np.abs(weights(8, 1, 3, 3, seed=1)).max(axis=(1, 2, 3)), rtol=0.01
    )
    assert points["logits"].is_output
    assert not points["r1"].is_output


def test_weights_of_a_gemm_are_told_by_output_channel(tmp_path: Path) -> None:
    int8 = quantized(cnn(), recipe("static-per-tensor"), {"image": images()}, tmp_path)
    points = {p.tensor: p for p in BACKEND.probe(tmp_path / "fp32.onnx", int8, threads=1).points}
    peaks = points["logits"].weights
    assert peaks is not None
    assert points["logits"].scales == 1
    np.testing.assert_allclose(peaks, np.abs(weights(10, 256, seed=5)).max(axis=1), rtol=0.02)


# ── what is broken ────────────────────────────────────────────────────────────────────────


def spoilt(int8: Path, tensor: str) -> Path:
    """The INT8 model with a NaN for the scale by which it reads a tensor."""
    proto = onnx.load(int8)
    quantizer = next(
        n for n in proto.graph.node if n.op_type == "QuantizeLinear" and tensor in n.input[0]
    )
    reads = next(
        n
        for n in proto.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] == quantizer.output[0]
    )
    nan = numpy_helper.from_array(np.float32(np.nan), "not_a_number")
    proto.graph.initializer.append(nan)
    reads.input[1] = "not_a_number"
    onnx.save(proto, int8)
    return int8


@pytest.mark.parametrize(("tensor", "node"), [("p1", "pool1"), ("logits", "fc")])
def test_nan_of_int8_gives_a_finite_ranking(tmp_path: Path, tensor: str, node: str) -> None:
    feeds = {"image": images()}
    int8 = spoilt(quantized(cnn(), recipe(), feeds, tmp_path), tensor)
    seen = diagnose.observe(
        BACKEND.probe(tmp_path / "fp32.onnx", int8, threads=1), batches(feeds, 8)
    )
    found = diagnose.layers(seen)
    assert np.isfinite([one.share for one in found]).all()
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found[0].node == node


def test_half_precision(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["g"], "first"),
        helper.make_node("Relu", ["g"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2"], ["y"], "second"),
    ]
    half = TensorProto.FLOAT16
    proto = model(
        nodes,
        {"x": (half, ["N", 16])},
        {"y": (half, ["N", 4])},
        {"w1": weights(16, 8).astype(np.float16), "w2": weights(8, 4).astype(np.float16)},
        opset=21,
        ir_version=10,
    )
    feeds = {"x": 300 * vectors(8).astype(np.float16)}  # whose squares are beyond half precision
    int8 = quantized(proto, recipe(), feeds, tmp_path)
    probe, numbers = probed(tmp_path / "fp32.onnx", int8, feeds)
    assert np.isfinite(numbers).all()
    gain = np.linalg.norm(weights(16, 8).astype(np.float16).astype(np.float32), axis=1)
    signal = np.square(feeds["x"].astype(np.float64) * gain).sum()
    assert numbers[0, 0] == pytest.approx(signal, rel=1e-3)
    assert len(probe.points) >= 3


def test_models_without_a_tensor_in_common_are_refused(tmp_path: Path) -> None:
    feeds = {"x": vectors()}
    int8 = quantized(mlp(), recipe(), feeds, tmp_path)
    other = mlp()
    for node in other.graph.node:
        node.input[:] = [f"t_{n}" if n[0] in "mar" else n for n in node.input]
        node.output[:] = [f"t_{n}" if n[0] in "mar" else n for n in node.output]
    other.graph.input[0].name, other.graph.node[0].input[0] = "z", "z"
    other.graph.output[0].name, other.graph.node[-1].output[0] = "o", "o"
    with pytest.raises(CandidateError, match="no inner tensor in common"):
        BACKEND.probe(save(other, tmp_path / "other.onnx"), int8, threads=1)


def test_other_operator_sets_are_refused(tmp_path: Path) -> None:
    int8 = quantized(cnn(), recipe(), {"image": images()}, tmp_path)
    other = save(cnn(opset=18), tmp_path / "other.onnx")
    with pytest.raises(CandidateError, match="opset 18 and INT8 17"):
        BACKEND.probe(other, int8, threads=1)
