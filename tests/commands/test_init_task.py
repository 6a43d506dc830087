"""The task that `gate init` guesses, by shapes and values alone."""

from typing import Any

import numpy as np
import pytest
from support import scenes, task_samples
from support.task_samples import Sample

from gate.commands._init_data import Target
from gate.commands._init_task import box_decoder, guess
from gate.values import Ragged, TensorSpec


def target(values: Any) -> Target:
    if isinstance(values, Ragged):
        return Target(values.shape, "r", np.empty(0))
    return Target(values.shape, values.dtype.kind, np.unique(values))


def specs(sample: Sample) -> list[TensorSpec]:
    return [
        TensorSpec(name, str(values.dtype), (None, *values.shape[1:]))
        for name, values in sample.outputs("fp32").items()
    ]


def spec(name: str, *inner: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, (None, *inner))


KNOWN = [
    "classification", "question_answering", "regression", "segmentation", "text_classification",
    "token_classification",
]  # fmt: skip
AMBIGUOUS = {
    "full binary": {"classification"},
    "class numbers": {None},  # an output of numbers, no scores: --task says it
    "texts": {None},
    "several numbers": {None},  # whole numbers: grades of a ranking would look alike
}


@pytest.mark.parametrize("task", KNOWN)
def test_what_shapes_tell(task: str) -> None:
    for sample in getattr(task_samples, task)():
        found = guess(specs(sample), target(sample.targets), text=task.startswith("text"))
        expected = AMBIGUOUS.get(sample.name, {task})
        assert (None if found is None else found.task) in expected, sample.name
        assert found is None or found.why


def test_boxes() -> None:
    found = guess([spec("y", 84, 8400)], target(scenes.scenes()), text=False)
    assert found is not None
    assert found.task == "detection"


def test_what_nothing_tells() -> None:
    grades = target(np.arange(12).reshape(3, 4))
    assert guess([spec("scores", 4)], grades, text=False) is None
    assert guess([spec("y", 8)], target(np.array([0, 9])), text=False) is None
    assert guess([spec("y", 8), spec("z", 8)], target(np.arange(3)), text=False) is None
    assert guess([spec("y", 1)], None, text=False) is None
    assert guess([], target(np.arange(3)), text=False) is None


def test_one_output_of_several_is_named() -> None:
    found = guess([spec("y", 8), spec("z", 3, 5)], target(np.arange(3)), text=False)
    assert found is not None
    assert (found.task, found.output) == ("classification", "y")


@pytest.mark.parametrize(
    ("outputs", "decode"),
    [
        ([spec("y", 84, 8400)], "yolov8"),
        ([spec("y", 8400, 85)], {"as": "yolox", "size": [640, 640]}),
        ([spec("y", 25200, 85)], "yolov8"),
        ([spec("y", 100, 85)], None),
        ([spec("heatmap", 3, 160, 160), spec("box", 4, 160, 160)],
         {"as": "centernet", "strides": [4]}),
        ([spec("a", 3, 160, 160), spec("b", 4, 160, 160)],
         {"as": "centernet", "strides": [4], "outputs": {"heatmap": "a", "box": "b"}}),
        ([spec("b", 300, 4), spec("scores", 300), spec("labels", 300, dtype="int64")],
         {"as": "boxes-scores-labels",
          "outputs": {"boxes": "b", "scores": "scores", "labels": "labels"}}),
        ([spec("p", 10, 4), spec("q", 10)], None),
    ],
)  # fmt: skip
def test_how_boxes_are_read(outputs: list[TensorSpec], decode: Any) -> None:
    found = box_decoder(outputs, (640, 640))
    assert (None if found is None else found[0]) == decode
