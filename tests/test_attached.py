"""Graphs before and after a model: what they read and give is held against the model's own."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import onnx_models
from support.project import CNN, Project

from gate import attached
from gate.artifact import sha256_of
from gate.cli import exit_code_of
from gate.errors import DataError, EvaluationError, UsageError
from gate.preprocess import digest, entering, fit, for_tracing, raw_names
from gate.records import GateRecord
from gate.sources import Graph, Preprocess
from gate.values import TensorSpec

MODEL = (TensorSpec("x", "float32", (None, 3)),)


def halves(folder: Path, *, name: str = "x", kind: int = TensorProto.UINT8, width: Any = 3) -> str:
    """A graph that casts `raw` (N, 3) to float and halves it."""
    proto = onnx_models.model(
        [
            helper.make_node("Cast", ["raw"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["cast", "half"], [name]),
        ],
        {"raw": (kind, ["N", width])},
        {name: ["N", width]},
        {"half": np.array([0.5], np.float32)},
    )
    onnx_models.save(proto, folder / "before.onnx")
    return "before.onnx"


def test_a_graph_makes_the_models_inputs_of_raw_columns(tmp_path: Path) -> None:
    preprocess = Preprocess(graph=halves(tmp_path))
    fed = entering(MODEL, preprocess, tmp_path)
    assert [spec.name for spec in fed] == ["raw"]
    raw = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert raw_names({"raw": raw}, fed, preprocess) == ("raw",)
    prepare = fit("held_out", {"raw": raw}, MODEL, preprocess, tmp_path)
    found = prepare({"raw": raw})
    assert list(found) == ["x"]
    np.testing.assert_array_equal(found["x"], raw.astype(np.float32) / 2)


def test_a_graph_reads_what_the_other_fields_make(tmp_path: Path) -> None:
    file = halves(tmp_path, kind=TensorProto.FLOAT)
    raw = np.arange(6, dtype=np.uint8).reshape(2, 3)
    preprocess = Preprocess(graph=file, scale=2, mean=(1,))
    prepare = fit("held_out", {"raw": raw}, MODEL, preprocess, tmp_path)
    np.testing.assert_array_equal(prepare({"raw": raw})["x"], (raw * np.float32(2) - 1) / 2)


def test_a_column_that_a_graph_does_not_take_is_refused(tmp_path: Path) -> None:
    columns = {"raw": np.zeros((2, 3), np.float32)}
    with pytest.raises(DataError, match="column 'raw' is float32, and the model's input wants uin"):
        fit("held_out", columns, MODEL, Preprocess(graph=halves(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        ({"name": "y"}, UsageError, r"gives y float32 \(\?, 3\), and the model takes x float32"),
        ({"width": 4}, DataError, r"'x' is given as float32 \(\?, 4\) and taken as .* \(\?, 3\)"),
    ],
)
def test_outputs_are_the_models_inputs(
    tmp_path: Path, made: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        entering(MODEL, Preprocess(graph=halves(tmp_path, **made)), tmp_path)


@pytest.mark.parametrize(
    ("outputs", "kind", "message"),
    [
        (
            [("z", "uint8", 3)],
            UsageError,
            r"reads raw uint8 \(\?, 3\), and the model gives z uint8",
        ),
        ([("raw", "int8", 3)], DataError, r"'raw' is given as int8 .* taken as uint8"),
        ([("raw", "uint8", 9)], DataError, r"\(\?, 9\) and taken as uint8 \(\?, 3\)"),
    ],
)
def test_inputs_are_among_the_models_outputs(
    tmp_path: Path, outputs: list[Any], kind: type[Exception], message: str
) -> None:
    given = [TensorSpec(name, dtype, (None, width)) for name, dtype, width in outputs]
    with pytest.raises(kind, match=message):
        attached.after(Graph(file=halves(tmp_path)), tmp_path, given)


def of_another_domain(folder: Path) -> None:
    node = helper.make_node("Decode", ["raw"], ["x"], domain="ai.onnx.contrib")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("raw", "x")]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(proto, folder / "before.onnx")


def of_loose_weights(folder: Path) -> None:
    halves(folder)
    proto = onnx.load(folder / "before.onnx")
    onnx_models.save(proto, folder / "before.onnx", external=True)


def of_a_fixed_batch(folder: Path) -> None:
    halves(folder)
    proto = onnx.load(folder / "before.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, folder / "before.onnx")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: None, "there is no such file; it is relative to the policy"),
        (lambda folder: (folder / "before.onnx").write_text("no"), r"cannot read .* as ONNX"),
        (of_another_domain, "Libraries of custom operators are not loaded"),
        (of_loose_weights, "keeps weights in another file"),
        (of_a_fixed_batch, r"'raw' has shape \(4, 3\), and its first axis must be free"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message) as raised:
        attached.before(Graph(file="before.onnx"), tmp_path, MODEL)
    assert f"`build.preprocess.graph` {tmp_path / 'before.onnx'}" in str(raised.value)


def test_the_pin_is_proven(tmp_path: Path) -> None:
    file = halves(tmp_path)
    pinned = Graph(file=file, sha256=sha256_of(tmp_path / file))
    assert attached.before(pinned, tmp_path, MODEL).inputs[0].name == "raw"
    wrong = Graph(file=file, sha256="0" * 64)
    with pytest.raises(UsageError, match=r"not the graph that the policy pins: pinned 0+, found"):
        attached.before(wrong, tmp_path, MODEL)


def test_a_graph_gives_a_row_an_example(tmp_path: Path) -> None:
    node = helper.make_node("Concat", ["x", "x"], ["twice"], axis=0)
    proto = onnx_models.model([node], {"x": ["N", 3]}, {"twice": ["M", 3]}, {})
    onnx_models.save(proto, tmp_path / "after.onnx")
    graph = attached.after(Graph(file="after.onnx"), tmp_path, MODEL)
    with pytest.raises(EvaluationError, match="it needs one row an example"):
        graph.run({"x": np.zeros((2, 3), np.float32)})


def test_the_graph_counts_in_the_digest_and_a_policy_without_one_keeps_its_own() -> None:
    plain, other = Preprocess(scale=2), Preprocess(scale=2, graph=Graph(file="a", sha256="0" * 64))
    changed = Preprocess(scale=2, graph=Graph(file="a", sha256="1" * 64))
    assert len({digest(plain), digest(other), digest(changed)}) == 3
    told = {"mean": [], "scale": 2.0, "std": [], "to_channels_first": False}
    before = json.dumps(told, sort_keys=True).encode()
    assert digest(plain) == hashlib.sha256(before).hexdigest()


def test_a_model_is_not_traced_through_a_graph() -> None:
    with pytest.raises(UsageError, match="export it to ONNX first"):
        for_tracing({"raw": np.zeros((2, 3))}, ["x"], Preprocess(graph="a.onnx"))


# ── gate run ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Digits as halves, which a graph doubles, and probabilities by another graph."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    made = Project(tmp_path / "project")
    for name in ("calibration", "held_out"):
        made.change(name, lambda columns: columns.update(half=columns.pop("image") / 2))
    shape = ["N", 1, 8, 8]
    doubled = helper.make_node("Add", ["half", "half"], ["image"])
    softmax = helper.make_node("Softmax", ["logits"], ["p"], axis=1)
    before = onnx_models.model([doubled], {"half": shape}, {"image": shape}, {})
    after = onnx_models.model([softmax], {"logits": ["N", 10]}, {"p": ["N", 10]}, {})
    onnx_models.save(before, made.folder / "before.onnx")
    onnx_models.save(after, made.folder / "after.onnx")
    made.spec["build"] |= {
        "preprocess": {"graph": "before.onnx"},
        "decode": {"as": "probabilities", "graph": "after.onnx"},
    }
    made.write()
    return made


def gate(command: str, *arguments: object) -> int:
    return exit_code_of([command, *map(str, arguments)])


def test_a_release_is_gated_between_two_graphs(project: Project, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    run = ("--candidate", CNN, "--tracker", "none", "--out")
    assert gate("run", Project(tmp_path / "plain").policy, *run, "theirs") == 0
    assert gate("run", project.policy, *run, "mine") == 0
    mine, theirs = (
        GateRecord.model_validate_json(Path(folder, "record.json").read_text())
        for folder in ("mine", "theirs")
    )
    assert mine.baseline == theirs.baseline
    assert mine.int8.sha256 == theirs.int8.sha256  # graphs are no part of the model
    counts = [[c.counts for c in one.comparisons if c.counts] for one in (mine, theirs)]
    assert counts[0] == counts[1]
    for command in ("replay", "diagnose", "judge"):
        assert gate(command, "mine") == 0


def test_a_graph_that_was_changed_after_the_run_is_found(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate("run", project.policy, "--candidate", CNN, "--tracker", "none", "--out", "o") == 0
    for name in ("before", "after"):
        file = project.folder / f"{name}.onnx"
        kept = file.read_bytes()
        proto = onnx.load_from_string(kept)
        proto.producer_name = "another"
        onnx.save(proto, file)
        attached._opened.cache_clear()
        assert gate("replay", "o") == 2
        assert f"{name}.onnx is not the graph that the policy pins" in capsys.readouterr().err
        file.write_bytes(kept)
