"""The exact range of every tensor, in one pass."""

import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.onnx_models import cnn, images, multi_input, save, vectors

from gate.backends.onnxruntime import BACKEND
from gate.calibrate import observe
from gate.errors import DataError, EvaluationError
from gate.recipes import RECIPES
from gate.records import Batch

FINITE = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def batch(start: int, feeds: Mapping[str, Any]) -> Batch:
    count = len(next(iter(feeds.values())))
    ids = np.array([f"id-{start + row}" for row in range(count)])
    return Batch(start=start, ids=ids, feeds=feeds, targets=None)


def batches(x: Any, size: int, name: str = "image") -> Iterator[Batch]:
    for start in range(0, len(x), size):
        yield batch(start, {name: x[start : start + size]})


def doubled(feeds: Mapping[str, Any]) -> dict[str, Any]:
    return {"y": 2 * feeds["x"]}


def calibrate(run: Any, data: Any, tensors: Any) -> dict[str, tuple[float, float]]:
    found = observe(run, data, tuple(tensors))
    return {name: (one.low, one.high) for name, one in found.items()}


def test_it_equals_onnx_runtimes_own_min_max(tmp_path: Path) -> None:
    from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

    path = save(cnn(), tmp_path / "m.onnx")
    data = images(20, seed=3)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(batches(data, 4))

        def get_next(self) -> Any:
            row = next(self.rows, None)
            return None if row is None else row.feeds

    theirs = MinMaxCalibrater(path, augmented_model_path=str(tmp_path / "augmented.onnx"))
    theirs.augment_graph()
    theirs.create_inference_session()
    theirs.collect_data(Reader())
    expected = {
        name: tuple(float(bound.item()) for bound in value.range_value)
        for name, value in theirs.compute_data().items()
    }
    tensors = BACKEND.activations(path, RECIPES["static"])
    run = BACKEND.open_exposed(path, tensors, threads=1).run
    assert calibrate(run, batches(data, 4), tensors) == expected


def test_the_batch_size_does_not_matter_and_one_is_enough(tmp_path: Path) -> None:
    path = save(cnn(batch=1), tmp_path / "m.onnx")
    tensors = BACKEND.activations(path, RECIPES["static"])
    run = BACKEND.open_exposed(path, tensors, threads=1).run
    fixed = calibrate(run, batches(images(6), 1), tensors)
    free = save(cnn(), tmp_path / "free.onnx")
    run = BACKEND.open_exposed(free, tensors, threads=1).run
    whole = calibrate(run, batches(images(6), 6), tensors)
    assert fixed.keys() == whole.keys()
    for name, bounds in fixed.items():
        np.testing.assert_allclose(bounds, whole[name], rtol=1e-5, atol=1e-6)


def test_model_inputs_are_taken_from_the_feeds(tmp_path: Path) -> None:
    path = save(multi_input(), tmp_path / "m.onnx")
    tensors = BACKEND.activations(path, RECIPES["static"])
    feeds = {"left": vectors(4), "right": -vectors(4, seed=2), "token": np.array([1, 2, 3, 4])}
    run = BACKEND.open_exposed(path, tensors, threads=1).run
    ranges = calibrate(run, [batch(0, feeds)], tensors)
    assert ranges["left"] == (feeds["left"].min(), feeds["left"].max())
    assert ranges["right"] == (feeds["right"].min(), feeds["right"].max())
    assert set(ranges) == set(tensors)


@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3), elements=FINITE),
    st.integers(1, 5),
)
def test_ranges_are_exact(values: Any, size: int) -> None:
    ranges = calibrate(doubled, batches(values, size, "x"), ["x", "y"])
    assert ranges["x"] == (values.min(), values.max())
    assert ranges["y"] == ((2 * values).min(), (2 * values).max())


@given(arrays.arrays(np.float32, (6, 3), elements=FINITE), st.permutations(range(6)))
def test_the_order_does_not_matter(values: Any, order: list[int]) -> None:
    straight = calibrate(doubled, batches(values, 2, "x"), ["y"])
    assert calibrate(doubled, batches(values[order], 2, "x"), ["y"]) == straight


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_names_tensor_and_examples(bad: float) -> None:
    values = np.zeros((6, 3), np.float32)
    values[[3, 5], 1] = bad
    with pytest.raises(EvaluationError, match=r"'y' is NaN or infinite.* example 'id-3', so"):
        calibrate(doubled, batches(values, 2, "x"), ["y"])
    with pytest.raises(EvaluationError, match=r"input 'x' .*'id-3', 'id-5', so"):
        calibrate(doubled, batches(values, 6, "x"), ["x"])


def test_what_is_not_finite_and_no_examples_own_names_the_batch() -> None:
    values = np.zeros((7, 3), np.float32)
    with pytest.raises(EvaluationError, match=r"'id-0', 'id-1'.* and 2 more"):
        calibrate(lambda _: {"y": np.array(np.nan)}, batches(values, 7, "x"), ["y"])


def test_a_tensor_without_values_is_named() -> None:
    values = np.zeros((4, 3), np.float32)
    for outputs in ({}, {"y": np.zeros((2, 0), np.float32)}):
        with pytest.raises(EvaluationError, match="'y' had no value on any of 4"):
            calibrate(lambda _, outputs=outputs: outputs, batches(values, 2, "x"), ["x", "y"])


def test_an_empty_batch_of_a_tensor_is_skipped() -> None:
    outputs = iter([np.zeros((2, 0), np.float32), np.ones((2, 1), np.float32)])
    values = np.zeros((4, 3), np.float32)
    ranges = calibrate(lambda _: {"y": next(outputs)}, batches(values, 2, "x"), ["y"])
    assert ranges == {"y": (1.0, 1.0)}


def test_no_batches_is_an_error() -> None:
    with pytest.raises(DataError, match="no calibration examples"):
        calibrate(doubled, [], ["y"])


def test_memory_does_not_grow_with_the_data() -> None:
    def peak(count: int) -> int:
        def stream() -> Iterator[Batch]:
            for start in range(0, count, 8):
                yield batch(start, {"x": np.full((8, 4096), start, np.float32)})

        tracemalloc.start()
        calibrate(doubled, stream(), ["x", "y"])
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert peak(800) < 1.5 * peak(80)
