"""Graphs and functions between a model and its task: the same as decoding by hand."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support import onnx_models

from gate import decoding, door, tasks
from gate.errors import DataError, EvaluationError, UsageError
from gate.policy import Policy
from gate.tasks import BoundTask
from gate.values import Array, Rows, TensorSpec, finite

LOGITS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
TARGETS = np.arange(6) % 3


def policy(decode: Any, task: str = "classification", **build: Any) -> Policy:
    judge = {
        "held_out": {"path": "held_out.npz"},
        "expect_fp32": "unknown",
        "budgets": ({"metric": "prediction_flips", "at_most": 0.1},),
    }
    build = {"recipe": "dynamic", "decode": decode, **build}
    return Policy(version=1, model="m", task=task, build=build, judge=judge)


def bound(
    decode: Any,
    first: Mapping[str, Array],
    targets: Any = TARGETS,
    home: Path = Path(),
    **more: Any,
) -> BoundTask:
    specs = tuple(
        TensorSpec(name, values.dtype.name, (None, *values.shape[1:]))
        for name, values in first.items()
    )
    return decoding.bind(policy(decode, **more), specs, targets, first, home=home)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def bring() -> Any:
    """Registers functions until the test ends."""
    opened = []

    def register(**decoders: Callable[..., Any]) -> None:
        block = door.bringing({decoding.GROUP: decoders})
        block.__enter__()
        opened.append(block)

    yield register
    for block in reversed(opened):
        block.__exit__(None, None, None)


# ── which there are ───────────────────────────────────────────────────────────────────────


def test_what_a_function_gives_is_read_by_a_decoder_of_its_task() -> None:
    assert set(decoding.READ_AS) <= set(tasks.TASKS)
    for task, decoder in decoding.READ_AS.items():
        assert decoder in tasks.get(task).decoders


def test_names_are_the_tasks_and_those_that_are_brought(bring: Any) -> None:
    assert decoding.names("classification") == ("logits", "probabilities")
    bring(mine=lambda outputs: outputs["y"])
    assert decoding.names("classification") == ("logits", "probabilities", "mine")
    assert door.names(decoding.GROUP, {}) == ("mine",)


def test_what_is_brought_goes_when_the_block_ends() -> None:
    with door.bringing({"gate.x": {"a": 1}}), door.bringing({"gate.x": {"b": 2}}):
        assert door.names("gate.x", {}) == ("a", "b")
        assert door.look_up("gate.x", {}, "a") == 1
    assert door.names("gate.x", {}) == ()


# ── functions ─────────────────────────────────────────────────────────────────────────────


def test_without_graph_and_function_the_task_is_bound_as_ever() -> None:
    found = bound("logits", {"y": LOGITS})
    np.testing.assert_allclose(found.decode({"y": LOGITS}), softmax(LOGITS))


def test_a_function_gives_probabilities(bring: Any) -> None:
    bring(mine=lambda outputs: softmax(outputs["y"]))
    found = bound("mine", {"y": LOGITS, "other": LOGITS[:, 0]})
    given = {"y": LOGITS[:2], "other": LOGITS[:2, 0]}
    np.testing.assert_allclose(found.decode(given), softmax(LOGITS[:2]))
    metric = found.metric("accuracy")
    rows = metric.observe(found.decode({"y": LOGITS, "other": LOGITS[:, 0]}), TARGETS, None)
    assert metric.summarize(Rows(rows)) == (LOGITS.argmax(axis=1) == TARGETS).mean()


def test_what_a_function_writes_into_stays_what_the_model_gave(bring: Any) -> None:
    """The outputs are stored as well, for a replay."""

    def mine(outputs: Mapping[str, Array]) -> Array:
        found = softmax(outputs["y"])
        outputs["y"][:] = 1
        return found

    bring(mine=mine)
    given = LOGITS.copy()
    np.testing.assert_allclose(bound("mine", {"y": given}).decode({"y": given}), softmax(LOGITS))
    np.testing.assert_array_equal(given, LOGITS)


def test_a_function_gets_the_one_output_that_is_named(bring: Any) -> None:
    seen = []

    def mine(outputs: Mapping[str, Array]) -> Array:
        seen.append(tuple(outputs))
        return softmax(outputs["y"])

    bring(mine=mine)
    bound({"as": "mine", "output": "y"}, {"y": LOGITS, "other": np.full(6, -np.inf)})
    assert {*seen} == {("y",)}


def test_a_function_gives_text(bring: Any) -> None:
    bring(words=lambda outputs: np.array([f"{row[0]:.0f}" for row in outputs["y"]]))
    first = {"y": np.array([[1.0, 2], [3, 4]], np.float32)}
    found = bound("words", first, np.array(["1", "9"]), task="text_recognition")
    decoded = found.decode({"y": np.array([[1, 2], [np.nan, 4]], np.float32)})
    assert found.tell is not None
    assert found.tell(decoded.entry(0), decoded.entry(1)) == ("1", "NaN")


def test_a_function_gives_boxes_by_role(bring: Any) -> None:
    def mine(outputs: Mapping[str, Array]) -> dict[str, Array]:
        y = outputs["y"]
        return {"boxes": y[:, :, :4], "scores": y[:, :, 4], "labels": y[:, :, 5].astype(np.int64)}

    bring(mine=mine)
    y = np.array([[[1, 2, 30, 40, 0.9, 1], [0, 0, 5, 5, 0.0, 0]]], np.float32)
    build = {"as": "mine", "size": (64, 64)}
    theirs = {**build, "as": "boxes-scores-labels"}
    roles = {name: name for name in ("boxes", "scores", "labels")}
    mine_found = bound(build, {"y": y}, None, task="detection").decode({"y": y})
    expected = bound({**theirs, "outputs": roles}, mine({"y": y}), None, task="detection")
    np.testing.assert_array_equal(mine_found.values, expected.decode(mine({"y": y})).values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_output_stays_broken_whatever_the_function_does(bring: Any, value: float) -> None:
    bring(mine=lambda outputs: softmax(np.nan_to_num(outputs["y"], posinf=0, neginf=0)))
    found = bound("mine", {"y": LOGITS})
    broken = LOGITS.copy()
    broken[2, 1] = value
    decoded = found.decode({"y": broken})
    assert np.flatnonzero(~finite(decoded)).tolist() == [2]
    np.testing.assert_allclose(decoded[:2], softmax(LOGITS[:2]))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda o: o["y"][:4], r"decoder 'mine' gives float32 \(4, 3\), and a batch of 6 ex"),
        (lambda o: o["y"].sum(), "decoder 'mine' gives a float32, and a batch of 6"),
        (lambda o: o["y"].tolist(), "gives a list, and a batch of 6"),
        (lambda o: None, "gives a NoneType"),
        (lambda o: {}, "decoder 'mine' gives nothing"),
        (lambda o: {"boxes": 1}, "decoder 'mine' gives 'boxes' as a int"),
        (lambda o: o["y"].astype(complex), r"gives complex64|gives complex128"),
    ],
)
def test_a_function_gives_an_entry_an_example(bring: Any, function: Any, message: str) -> None:
    bring(mine=function)
    with pytest.raises(EvaluationError, match=message):
        bound("mine", {"y": LOGITS})


def test_what_a_function_gives_has_to_fit_the_task(bring: Any) -> None:
    bring(mine=lambda outputs: np.zeros((6, 2, 2)))
    with pytest.raises(DataError, match=r"output 'mine' \(B, 2, 2\) do not fit together"):
        bound("mine", {"y": LOGITS})


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        ({"as": "mine", "output": "z"}, "unknown output 'z'"),
        ({"as": "mine", "outputs": {"a": "y"}}, "does not read `outputs`"),
        ({"as": "mine", "iou": 0.5}, "does not read `iou`: delete it"),
        ("nime", r"unknown decoder 'nime'"),
    ],
)
def test_fields_that_go_with_no_function(bring: Any, decode: Any, message: str) -> None:
    bring(mine=lambda outputs: softmax(outputs["y"]))
    with pytest.raises(UsageError, match=message):
        bound(decode, {"y": LOGITS})


def test_int8_has_the_outputs_of_fp32(bring: Any) -> None:
    bring(mine=lambda outputs: softmax(outputs["y"]))
    with pytest.raises(EvaluationError, match="gives no output 'y', only z"):
        bound("mine", {"y": LOGITS}).decode({"z": LOGITS})


# ── graphs ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def after(tmp_path: Path) -> str:
    """Softmax of `y`, as `p`."""
    node = helper.make_node("Softmax", ["y"], ["p"], axis=1)
    proto = onnx_models.model([node], {"y": ["N", 3]}, {"p": ["N", 3]}, {})
    onnx_models.save(proto, tmp_path / "after.onnx")
    return "after.onnx"


def test_a_graph_stands_between_model_and_decoder(tmp_path: Path, after: str) -> None:
    decode = {"as": "probabilities", "graph": after}
    found = bound(decode, {"y": LOGITS, "unread": LOGITS}, home=tmp_path)
    broken = LOGITS.copy()
    broken[4] = np.nan
    decoded = found.decode({"y": broken, "unread": LOGITS})
    np.testing.assert_allclose(decoded[:4], softmax(LOGITS[:4]), rtol=1e-5)
    assert np.flatnonzero(~finite(decoded)).tolist() == [4]


def test_a_function_reads_what_a_graph_gives(tmp_path: Path, after: str, bring: Any) -> None:
    bring(turned=lambda outputs: outputs["p"][:, ::-1].copy())
    found = bound({"as": "turned", "graph": after}, {"y": LOGITS}, home=tmp_path)
    np.testing.assert_allclose(found.decode({"y": LOGITS}), softmax(LOGITS)[:, ::-1], rtol=1e-5)


def test_a_decoder_that_mixes_the_examples_of_a_batch_is_refused(bring: Any) -> None:
    def mixed(outputs: Mapping[str, Array]) -> Array:
        powers = np.exp(outputs["y"].astype(np.float64))
        powers /= powers.sum(axis=0)  # the wrong axis
        return powers / powers.sum(axis=1, keepdims=True)

    bring(mixed=mixed, apart=lambda outputs: softmax(outputs["y"]))
    bound("apart", {"y": LOGITS})
    with pytest.raises(EvaluationError, match="changes with the others in its batch"):
        bound("mixed", {"y": LOGITS})
    bound("mixed", {"y": LOGITS[:1]}, TARGETS[:1])  # of one example there is nothing to tell
