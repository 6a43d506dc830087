"""Both models timed in the order of the lots, on the same feeds; memory in a fresh process."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_models import cnn, images, save

from gate import timing
from gate.compare import compare_budgets
from gate.decide import decide
from gate.errors import EvaluationError
from gate.metrics import MODEL_METRICS
from gate.policy import Budget
from gate.records import Rounds
from gate.statistics import latency

from support.pairs import evaluation  # isort: skip


class Noted:
    """A model that only notes what it is fed."""

    inputs: Any = ()
    outputs: Any = ()

    def __init__(self, name: int, log: list[tuple[int, int]]) -> None:
        self.name, self.log = name, log

    def run(self, feeds: Any) -> Any:
        self.log.append((self.name, int(feeds["x"][0])))
        return {}


def test_blocks_come_in_the_order_of_the_lots_and_both_models_see_the_same() -> None:
    log: list[tuple[int, int]] = []
    feeds = [{"x": np.array([index])} for index in range(3)]
    fp32, int8 = timing.time_models(Noted(0, log), Noted(1, log), feeds, seed=4, rounds=6)
    assert fp32.shape == int8.shape == (6, 2 * latency.BLOCK)
    assert (fp32 > 0).all()
    timed = log[-6 * 4 * latency.BLOCK :]
    assert [name for name, _ in log[: -len(timed)]].count(0) >= 10
    blocks = [timed[at : at + latency.BLOCK] for at in range(0, len(timed), latency.BLOCK)]
    order = [block[0][0] for block in blocks]
    assert order == [which for lot in latency.schedule(6, 4) for which in lot]
    assert {tuple(feed for _, feed in block) for block in blocks} == {
        tuple(index % 3 for index in range(latency.BLOCK))
    }


def test_rounds_are_milliseconds_and_examples_a_second() -> None:
    fp32, int8 = np.full((4, 50), 0.010), np.full((4, 50), 0.004)
    found = timing.by_metric(fp32, int8, batch=8)
    np.testing.assert_allclose(found["latency_p50"].reference, 10)
    np.testing.assert_allclose(found["latency_p95"].int8, 4)
    np.testing.assert_allclose(found["throughput"].int8, 2000)


def heavy(folder: Path) -> Path:
    """64 MB of weights."""
    weight = numpy_helper.from_array(np.zeros((4096, 4096), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4096])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4096])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save_model(model, folder / "heavy.onnx")
    return folder / "heavy.onnx"


def test_peak_memory_is_the_models_own(tmp_path: Path) -> None:
    small = timing.peak_memory(
        save(cnn(), tmp_path / "m.onnx"), {"image": images()}, backend="onnxruntime", threads=1
    )
    large = timing.peak_memory(
        heavy(tmp_path),
        {"x": np.zeros((1, 4096), np.float32)},
        backend="onnxruntime",
        threads=1,
    )
    assert 0 < small < 40e6
    assert large > 60e6


def test_the_working_folder_is_never_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository under review may hold a `gate` or a `numpy.py` of its own."""
    villain = tmp_path / "checkout"
    (villain / "gate").mkdir(parents=True)
    for name in ("gate/__init__.py", "gate/timing.py", "numpy.py", "json.py", "onnxruntime.py"):
        (villain / name).write_text("open('owned', 'w').close(); print('{\"peak\": 1}')\n")
    path = save(cnn(), tmp_path / "m.onnx")
    monkeypatch.chdir(villain)
    peak = timing.peak_memory(path, {"image": images()}, backend="onnxruntime", threads=1)
    assert peak > 1
    assert not (villain / "owned").exists()


def test_an_interrupt_ends_the_process_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    popen = subprocess.Popen

    class Interrupted(popen):  # type: ignore[type-arg,misc,valid-type]
        def communicate(self, *_args: Any, **_options: Any) -> Any:
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = save(cnn(), tmp_path / "m.onnx")
    with pytest.raises(KeyboardInterrupt):
        timing.peak_memory(path, {"image": images()}, backend="onnxruntime", threads=1)
    assert started[0].wait(10) is not None
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_that_fails_is_told(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    with pytest.raises(EvaluationError, match=r"peak memory of m\.onnx could not be measured"):
        timing.peak_memory(path, {"nothing": images()}, backend="onnxruntime", threads=1)


# ── as budgets ────────────────────────────────────────────────────────────────────────────


def judged(values: tuple[Any, Any], **fields: Any) -> Any:
    budget = Budget.model_validate(fields)
    rounds = {budget.metric: Rounds(reference=tuple(values[0]), int8=tuple(values[1]))}
    found = evaluation([1, 1], [1, 1])
    measured = compare_budgets([budget], found, MODEL_METRICS, {}, 0.05, rounds=rounds)
    return measured[0].comparison, decide(measured, 0.05)


FASTER = np.linspace(9, 11, 30), np.linspace(4.5, 5.5, 30)


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"metric": "latency_p50", "max_ratio": 0.6}, "pass"),
        ({"metric": "latency_p50", "max_ratio": 0.4}, "fail"),
        ({"metric": "latency_p95", "at_most": 6.0}, "pass"),
        ({"metric": "latency_p95", "at_most": 4.0}, "fail"),
        ({"metric": "latency_p95", "at_most": 5.01}, "inconclusive"),
        ({"metric": "throughput", "at_least": 4.0}, "pass"),
        ({"metric": "throughput", "at_least": 6.0}, "fail"),
    ],
)
def test_a_timed_budget_is_judged_by_its_rounds(fields: Any, outcome: str) -> None:
    comparison, verdict = judged(FASTER, **fields)
    assert verdict.outcome == outcome
    assert comparison.method == latency.METHOD
    assert comparison.n == 30
    assert "noise" in comparison.note
    assert comparison.lower <= comparison.upper
    assert "30 examples" not in verdict.findings[0].reason


def test_too_few_rounds_decide_nothing() -> None:
    comparison, verdict = judged(([10, 10], [5, 5]), metric="latency_p50", max_ratio=0.9)
    assert verdict.outcome == "inconclusive"
    assert (comparison.lower, comparison.upper) == (None, None)


def test_what_was_not_timed_fails() -> None:
    budget = Budget(metric="latency_p50", max_ratio=0.9)
    measured = compare_budgets([budget], evaluation([1], [1]), MODEL_METRICS, {}, 0.05)
    assert measured[0].reason == "latency_p50 was not measured"
    assert decide(measured, 0.05).outcome == "fail"
