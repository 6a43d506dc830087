"""Any ONNX to the FP32 ONNX that the gate works on."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import onnx_models as models
from support.onnx_models import cnn, images, mlp, save

from gate import backends, graph, recipes
from gate import normalize as normalize_module
from gate.errors import CandidateError
from gate.normalize import normalize, prove_parity, sha256_of_onnx
from gate.values import Candidate

BACKEND = backends.get("onnxruntime")


def normalized(path: Path, scratch: Path) -> Candidate:
    scratch.mkdir(exist_ok=True)
    return normalize(path, name=str(path), sha256=None, backend=BACKEND, threads=1, scratch=scratch)


def outputs(path: Path) -> Any:
    return BACKEND.open(path, threads=1).run({"image": images()})["logits"]


def test_the_model_stays_the_same(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    candidate = normalized(path, tmp_path / "scratch")
    np.testing.assert_allclose(outputs(candidate.path), outputs(path), rtol=1e-5, atol=1e-6)
    assert candidate.opset >= 17
    assert candidate.bytes == candidate.path.stat().st_size
    assert [spec.name for spec in candidate.inputs] == ["image"]


def test_the_sha256_of_a_single_file_is_what_sha256sum_prints(tmp_path: Path) -> None:
    import hashlib

    path = save(cnn(), tmp_path / "model.onnx")
    candidate = normalized(path, tmp_path / "scratch")
    assert candidate.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_external_data_counts_in_the_sha256(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "model.onnx", external=True)
    before = sha256_of_onnx(path)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    assert sha256_of_onnx(path) != before


def test_external_data_is_read(tmp_path: Path) -> None:
    plain = save(cnn(), tmp_path / "plain.onnx")
    path = save(cnn(), tmp_path / "external" / "model.onnx", external=True)
    candidate = normalized(path, tmp_path / "scratch")
    np.testing.assert_allclose(outputs(candidate.path), outputs(plain), rtol=1e-5, atol=1e-6)


def test_the_candidates_folder_is_never_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    path = save(cnn(opset=12), folder / "model.onnx")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    folder.chmod(0o500)
    try:
        normalized(path, tmp_path / "scratch")
        assert {file: file.read_bytes() for file in folder.iterdir()} == before
    finally:
        folder.chmod(0o700)


def test_an_old_opset_is_raised(tmp_path: Path) -> None:
    path = save(cnn(opset=11), tmp_path / "model.onnx")
    candidate = normalized(path, tmp_path / "scratch")
    assert candidate.opset == 17
    assert "opset 11 -> 17" in candidate.steps
    np.testing.assert_allclose(outputs(candidate.path), outputs(path), rtol=1e-5, atol=1e-6)


def test_initializers_leave_the_inputs(tmp_path: Path) -> None:
    model = cnn()
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    candidate = normalized(save(model, tmp_path / "model.onnx"), tmp_path / "scratch")
    assert [spec.name for spec in candidate.inputs] == ["image"]
    assert any("taken off the inputs" in step for step in candidate.steps)


def test_constants_are_folded_into_weights(tmp_path: Path) -> None:
    model = mlp()
    first = model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], [first.name], value=first))
    model.graph.initializer.remove(first)
    candidate = normalized(save(model, tmp_path / "model.onnx"), tmp_path / "scratch")
    assert "Constant" not in {node.op_type for node in onnx.load(candidate.path).graph.node}


def test_weights_of_half_precision_are_cast_once(tmp_path: Path) -> None:
    """ONNX Runtime casts them in every run, and a quantizer takes the results for activations."""
    model = cnn()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    candidate = normalized(save(model, tmp_path / "model.onnx"), tmp_path / "scratch")
    graph = onnx.load(candidate.path).graph
    assert [node.input[0] for node in graph.node if node.op_type == "Cast"][:1] == ["image"]
    assert {tensor.data_type for tensor in graph.initializer} == {TensorProto.FLOAT}
    assert "6 weights cast once and for all" in candidate.steps
    assert [spec.dtype for spec in candidate.inputs] == ["float16"]


def test_every_node_has_a_name_of_its_own(tmp_path: Path) -> None:
    model = cnn(named=False)
    candidate = normalized(save(model, tmp_path / "model.onnx"), tmp_path / "scratch")
    names = [node.name for node in onnx.load(candidate.path).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_the_normalised_hash_ignores_folder_and_metadata(tmp_path: Path) -> None:
    plain = normalized(save(cnn(), tmp_path / "a" / "model.onnx"), tmp_path / "one")
    model = cnn()
    model.doc_string = "made on the fifth of May"
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/somebody/train.py")
    other = normalized(save(model, tmp_path / "b" / "other.onnx"), tmp_path / "two")
    assert plain.sha256 != other.sha256
    assert plain.fp32_sha256 == other.fp32_sha256


# ── what is refused ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\x08\x07"])
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(CandidateError, match="is not an ONNX"):
        normalized(path, tmp_path / "scratch")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(tmp_path: Path, share: float) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CandidateError, match=r"cut off|cannot be"):
        normalized(path, tmp_path / "scratch")


@pytest.mark.parametrize("location", ["../model.onnx.data", "/etc/passwd", "sub/../../x"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    path = save(cnn(), tmp_path / "inner" / "model.onnx", external=True)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    shutil.copyfile(path.with_name("model.onnx.data"), tmp_path / "model.onnx.data")
    with pytest.raises(CandidateError, match="lies outside its folder"):
        normalized(path, tmp_path / "scratch")


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "inner" / "model.onnx", external=True)
    data = path.with_name("model.onnx.data")
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CandidateError, match="lies outside its folder"):
        normalized(path, tmp_path / "scratch")


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "model.onnx", external=True)
    path.with_name("model.onnx.data").unlink()
    with pytest.raises(CandidateError, match=r"'model.onnx.data' is missing beside it"):
        normalized(path, tmp_path / "scratch")


def test_an_operator_that_the_runtime_does_not_know_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], "odd", domain="acme")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CandidateError, match="Frobnicate"):
        normalized(path, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("opset", "message"), [(5, "has opset 5, and ONNX cannot raise it to 17"), (999, "999")]
)
def test_an_opset_out_of_reach_is_named(tmp_path: Path, opset: int, message: str) -> None:
    model = cnn()
    model.opset_import[0].version = opset
    if opset < 6:
        model.graph.node.insert(0, helper.make_node("Upsample", ["image"], ["big"], "up"))
    with pytest.raises(CandidateError, match=message):
        normalized(save(model, tmp_path / "model.onnx"), tmp_path / "scratch")


def test_what_onnx_cannot_convert_is_a_clear_error(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["image", "nope"], ["logits"])
    ends = [helper.make_tensor_value_info(n, 1, ["N", 8]) for n in ("image", "logits")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CandidateError, match="has opset 11, and ONNX cannot raise it"):
        normalized(path, tmp_path / "scratch")


def test_errors_name_the_candidate_and_no_private_file(tmp_path: Path) -> None:
    model = cnn()
    model.opset_import[0].version = 30
    with pytest.raises(CandidateError) as caught:
        normalized(save(model, tmp_path / "model.onnx"), tmp_path / "scratch")
    assert "cleaned.onnx" not in str(caught.value)
    assert "model.onnx" in str(caught.value)


def test_sparse_constants_are_refused(tmp_path: Path) -> None:
    model = cnn()
    values = helper.make_tensor("sparse", 1, [1], [1.0])
    indices = helper.make_tensor("indices", 7, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CandidateError, match=r"sparse constants \(sparse\)"):
        normalized(path, tmp_path / "scratch")


# ── parity ────────────────────────────────────────────────────────────────────────────────


def test_parity_of_a_model_with_itself_is_exact(tmp_path: Path) -> None:
    runner = BACKEND.open(save(cnn(), tmp_path / "model.onnx"), threads=1)
    assert prove_parity(runner.run, runner, [{"image": images()}], "m") == 0.0


def test_another_model_has_no_parity(tmp_path: Path) -> None:
    runner = BACKEND.open(save(cnn(), tmp_path / "model.onnx"), threads=1)
    model = cnn()
    bias = model.graph.initializer[-1]
    moved = numpy_helper.to_array(bias) + np.float32(0.1)
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    other = BACKEND.open(save(model, tmp_path / "other.onnx"), threads=1)
    with pytest.raises(CandidateError, match="no longer computes the same"):
        prove_parity(other.run, runner, [{"image": images()}], "m")


def test_nan_has_no_parity_with_a_number(tmp_path: Path) -> None:
    runner = BACKEND.open(save(cnn(), tmp_path / "model.onnx"), threads=1)

    def broken(feeds: Any) -> Any:
        return {"logits": np.full_like(runner.run(feeds)["logits"], np.nan)}

    with pytest.raises(CandidateError, match="no longer computes the same"):
        prove_parity(broken, runner, [{"image": images()}], "m")


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    load = normalize_module._load

    def meanwhile(file: Path) -> Any:
        model = load(file)
        save(cnn(named=False), path)
        return model

    monkeypatch.setattr(normalize_module, "_load", meanwhile)
    with pytest.raises(CandidateError, match="was changed while it was read"):
        normalized(path, tmp_path / "scratch")


def test_renamed_outputs_have_no_parity(tmp_path: Path) -> None:
    runner = BACKEND.open(save(cnn(), tmp_path / "model.onnx"), threads=1)
    with pytest.raises(CandidateError, match=r"\['other'\] became \['logits'\]"):
        prove_parity(lambda feeds: {"other": images()}, runner, [{"image": images()}], "m")


def test_weights_beyond_protobufs_limit_go_to_a_file_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(cnn(), tmp_path / "model.onnx", external=True)
    monkeypatch.setattr(graph, "INLINE_LIMIT", 1000)
    candidate = normalized(path, tmp_path / "scratch")
    assert (tmp_path / "scratch" / "cleaned.onnx.data").is_file()
    np.testing.assert_allclose(outputs(candidate.path), outputs(path), rtol=1e-5, atol=1e-6)


@contextmanager
def peak_of_own_memory() -> Iterator[list[int]]:
    """Bytes, looked at every 20 ms; pages of files that are mapped do not count."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            told = Path("/proc/self/status").read_text(encoding="ascii")
            peak[0] = max(peak[0], 1024 * int(told.split("RssAnon:")[1].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    """Mostly tables of zeros, whose file is sparse."""
    rows, width, parts = 137_500, 512, 8
    size = 4 * rows * width
    with (tmp_path / "tables.bin").open("wb") as file:
        file.truncate(size * parts)
    tables = [
        TensorProto(name=f"table{part}", data_type=TensorProto.FLOAT, dims=[rows, width])
        for part in range(parts)
    ]
    for part, table in enumerate(tables):
        table.data_location = TensorProto.EXTERNAL
        told = {"location": "tables.bin", "offset": str(part * size), "length": str(size)}
        for key, value in told.items():
            table.external_data.add(key=key, value=value)
    weight = np.random.default_rng(0).normal(size=(width, 8)).astype(np.float32)
    nodes = [
        *(
            helper.make_node("Gather", [f"table{part}", "row"], [f"found{part}"], f"look_up{part}")
            for part in range(parts)
        ),
        helper.make_node("Sum", [*(f"found{part}" for part in range(parts)), "x"], ["sum"], "add"),
        helper.make_node("MatMul", ["sum", "w"], ["y"], "product"),
    ]
    row = helper.make_tensor_value_info("row", TensorProto.INT64, ["N"])
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", axis])
        for name, axis in (("x", width), ("y", 8))
    )
    constants = [*tables, numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "large", [row, x], [y], constants)
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())
    with peak_of_own_memory() as peak:
        candidate = normalized(tmp_path / "large.onnx", tmp_path / "scratch")
    assert candidate.bytes > 2**31
    assert peak[0] < 1.5 * candidate.bytes  # all once, and one of them twice
    int8 = tmp_path / "int8.onnx"
    BACKEND.quantize(candidate.path, recipes.resolve("dynamic"), {}, int8)
    feeds = {
        "row": np.arange(3),
        "x": np.random.default_rng(1).normal(size=(3, width)).astype(np.float32),
    }
    found = BACKEND.open(int8, threads=1).run(feeds)["y"]
    assert found == pytest.approx(feeds["x"] @ weight, abs=1.0)
    assert any(kernel.integer for kernel in BACKEND.profile(int8, feeds))


def test_an_old_opset_beyond_protobufs_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(cnn(opset=11), tmp_path / "model.onnx")
    monkeypatch.setattr(graph, "INLINE_LIMIT", 1000)
    with pytest.raises(CandidateError, match="over 2 GB"):
        normalized(path, tmp_path / "scratch")


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_nan_in_any_output_has_no_parity(order: tuple[str, str]) -> None:
    class Converted:
        def run(self, feeds: Any) -> Any:
            return {"a": np.ones(2), "b": np.full(2, np.nan)}

    with pytest.raises(CandidateError, match="no longer computes the same"):
        prove_parity(
            lambda feeds: {name: np.ones(2) for name in order},
            Converted(),  # type: ignore[arg-type]
            [{}],
            "m",
        )


def test_what_the_optimizer_folded_is_told(tmp_path: Path) -> None:
    weights = {
        "w": models.weights(4, 1, 3, 3),
        **{name: np.ones(4, np.float32) for name in ("scale", "shift", "mean", "variance")},
    }
    nodes = [
        helper.make_node("Identity", ["image"], ["same"], "same"),
        helper.make_node("Conv", ["same", "w"], ["c"], "conv"),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["y"], "norm"
        ),
    ]
    shape = {"image": ["N", 1, 8, 8]}
    path = save(models.model(nodes, shape, {"y": ["N", 4, 6, 6]}, weights), tmp_path / "m.onnx")
    steps = normalized(path, tmp_path / "run").steps
    assert {"1 BatchNormalization folded", "1 Identity folded"} <= set(steps)
