"""NaN for one example in a hundred thousand: never a PASS, and the example is named."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from support import faults

from gate import pipeline
from gate.backends import onnxruntime
from gate.cli import exit_code_of
from gate.commands.report import load_record

N, THE_ONE = 100_000, 54_321
FEATURES, CLASSES, HIDDEN = 8, 4, 16
RNG = np.random.default_rng(5)


def layer(name: str, rows: int, columns: int) -> list[Any]:
    weights = RNG.normal(size=(rows, columns)).astype(np.float32)
    return [
        numpy_helper.from_array(weights, f"{name}.w"),
        numpy_helper.from_array(np.zeros(columns, np.float32), f"{name}.b"),
    ]


def mlp(path: Path) -> Path:
    """x (N, 8) -> y (N, 4)."""
    nodes = [
        helper.make_node("Gemm", ["x", "1.w", "1.b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "2.w", "2.b"], ["y"]),
    ]
    of = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mlp",
        [of("x", TensorProto.FLOAT, ["N", FEATURES])],
        [of("y", TensorProto.FLOAT, ["N", CLASSES])],
        [*layer("1", FEATURES, HIDDEN), *layer("2", HIDDEN, CLASSES)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def poisoned(path: Path) -> None:
    """What the model gives is NaN where the first feature is above 100, and else what it was."""
    model = onnx.load(path)
    graph, output = model.graph, model.graph.output[0].name
    for node in graph.node:
        node.output[:] = ["sound" if name == output else name for name in node.output]
    values = {"first": np.int64([0]), "most": np.float32(100), "nan": np.float32(np.nan)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    graph.node.extend(
        [
            helper.make_node("Gather", ["x", "first"], ["column"], axis=1),
            helper.make_node("Greater", ["column", "most"], ["far"]),
            helper.make_node("Where", ["far", "nan", "sound"], [output]),
        ]
    )
    onnx.save(model, path)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    mlp(tmp_path / "mlp.onnx")
    x = RNG.normal(size=(N, FEATURES)).astype(np.float32)
    x[THE_ONE, 0] = 1000
    ids = np.char.add("example-", np.arange(N).astype(str))
    target = RNG.integers(0, CLASSES, N)
    np.savez(tmp_path / "held_out.npz", x=x, target=target, id=ids)
    np.savez(tmp_path / "calibration.npz", x=RNG.normal(size=(256, FEATURES)).astype(np.float32))
    spec = {
        "version": 1,
        "model": faults.MODEL,
        "task": "classification",
        "build": {"recipe": "static", "calibration": {"path": "calibration.npz"}},
        "judge": {
            "held_out": {"path": "held_out.npz"},
            "expect_fp32": "unknown",
            "batch_size": 10_000,
            "budgets": [{"metric": "accuracy", "max_drop": 0.5}],
        },
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path / "policy.yaml"


def gated(policy: Path) -> int:
    return exit_code_of(
        ["run", str(policy), "--candidate", "mlp.onnx", "--tracker", "none", "--threads", "1",
         "--stage", "release", "--out", "out", "--quiet"]
    )  # fmt: skip


@pytest.mark.slow
def test_it_passes_without(policy: Path) -> None:
    """What is told below is of the one example alone."""
    assert gated(policy) == 0


def test_of_int8(
    policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = onnxruntime.BACKEND.quantize

    def quantize(model: Path, recipe: Any, ranges: Any, destination: Path) -> None:
        honest(model, recipe, ranges, destination)
        poisoned(destination)

    monkeypatch.setattr(onnxruntime.BACKEND, "quantize", quantize, raising=False)
    monkeypatch.setattr(pipeline, "why", lambda *_: None)  # which layers did it takes long to tell
    assert gated(policy) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("FAIL")
    assert load_record(Path("out")).verdict.outcome == "fail"
    assert f"NaN or Inf on 1 of {N}" in told
    assert f"example-{THE_ONE}" in told


def test_of_fp32(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poisoned(Path("mlp.onnx"))
    assert gated(policy) == 4
    told = capsys.readouterr()
    assert "PASS" not in told.out
    assert f"example-{THE_ONE}" in told.err
    assert not Path("out/record.json").exists()
