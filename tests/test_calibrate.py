"""One pass over the data, its batches, its cache, and the ranges of every method."""

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.int8 import recipe
from support.onnx_models import cnn, images, mlp, multi_input, save, vectors

from gate import calibrate as calibration
from gate import ranges
from gate.backends.onnxruntime import BACKEND
from gate.calibrate import Cache, observe, ranges_of
from gate.errors import DataError, EvaluationError
from gate.histogram import Counter, Histogram
from gate.recipes import RECIPES
from gate.values import Batch, Split

ROOT = Path(calibration.__file__).parents[1]
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


def theirs(path: Path, data: Any, size: int, **options: Any) -> dict[str, tuple[float, float]]:
    """ONNX Runtime's own ranges."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(batches(data, size))

        def get_next(self) -> Any:
            row = next(self.rows, None)
            return None if row is None else row.feeds

    augmented = str(path.with_name("augmented.onnx"))
    calibrater = MinMaxCalibrater(path, augmented_model_path=augmented, **options)
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(Reader())
    return {
        name: tuple(float(bound.item()) for bound in value.range_value)
        for name, value in calibrater.compute_data().items()
    }


def test_it_equals_onnx_runtimes_own_min_max(tmp_path: Path) -> None:
    path, data = save(cnn(), tmp_path / "m.onnx"), images(20, seed=3)
    tensors = BACKEND.activations(path, RECIPES["static"])
    run = BACKEND.open_exposed(path, tensors, threads=1).run
    assert calibrate(run, batches(data, 4), tensors) == theirs(path, data, 4)


def test_moving_averages_equal_onnx_runtimes_at_batches_of_one(tmp_path: Path) -> None:
    path, data = save(cnn(), tmp_path / "m.onnx"), images(20, seed=3)
    tensors = tuple(BACKEND.activations(path, RECIPES["static"]))
    run = BACKEND.open_exposed(path, tensors, threads=1).views
    expected = theirs(path, data, 1, moving_average=True)
    for size in (1, 7):
        found = observe(run, batches(data, size), tensors)
        assert found.keys() == expected.keys()
        for name, bounds in expected.items():
            ours = ranges.moving_average(found[name])
            np.testing.assert_allclose(ours, bounds, rtol=2e-6, atol=1e-6)


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


def test_memory_does_not_grow_with_the_data_of_a_model(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    tensors = tuple(BACKEND.activations(path, RECIPES["static"]))
    run = BACKEND.open_exposed(path, tensors, threads=1).run
    data = images(8)

    def peak(times: int) -> int:
        tracemalloc.start()
        observe(run, (batch(8 * at, {"image": data}) for at in range(times)), tensors)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(2)
    assert peak(60) < 1.1 * peak(6)


# ── the run in the background ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("failing", [1, 2, 4])
def test_what_the_model_raises_is_raised(failing: int) -> None:
    calls = iter(range(1, 5))

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        if next(calls) == failing:
            raise EvaluationError("the model failed")
        return doubled(feeds)

    with pytest.raises(EvaluationError, match="the model failed"):
        observe(run, batches(np.zeros((4, 3), np.float32), 1, "x"), ("y",))


def test_what_reading_the_data_raises_is_raised() -> None:
    def broken() -> Iterator[Batch]:
        yield from batches(np.zeros((2, 3), np.float32), 1, "x")
        raise DataError("row 2 is cut short")

    with pytest.raises(DataError, match="row 2 is cut short"):
        observe(doubled, broken(), ("y",))


def test_an_interrupt_ends_it_without_more_batches() -> None:
    ran = []

    def interrupted() -> Iterator[Batch]:
        yield from batches(np.zeros((2, 3), np.float32), 1, "x")
        raise KeyboardInterrupt

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        ran.append(feeds)
        return doubled(feeds)

    with pytest.raises(KeyboardInterrupt):
        observe(run, interrupted(), ("y",))
    assert len(ran) <= 2


def test_a_bad_example_stops_the_pass() -> None:
    ran = []

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        ran.append(feeds)
        return {"y": np.array([[np.nan]], np.float32)}

    with pytest.raises(EvaluationError, match="'y' is NaN or infinite"):
        observe(run, batches(np.zeros((50, 3), np.float32), 1, "x"), ("y",))
    assert len(ran) <= 2  # the bad one, and the one that ran meanwhile


# ── ragged batches, dynamic shapes ────────────────────────────────────────────────────────


def test_a_last_batch_may_be_shorter(tmp_path: Path) -> None:
    path, data = save(cnn(), tmp_path / "m.onnx"), images(11)
    tensors = tuple(BACKEND.activations(path, RECIPES["static"]))
    run = BACKEND.open_exposed(path, tensors, threads=1).views
    one, other = (observe(run, batches(data, size), tensors) for size in (1, 4))
    for name in tensors:
        assert one[name].total == other[name].total
        assert one[name].mean_high == pytest.approx(other[name].mean_high, rel=1e-5)


def test_shapes_may_differ_from_batch_to_batch() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((2, length, 3)).astype(np.float32) for length in (5, 1, 9)]
    found = observe(doubled, (batch(2 * at, {"x": x}) for at, x in enumerate(rows)), ("y",))
    assert found["y"].total == sum(x.size for x in rows)
    each = [2 * float(example.max()) for x in rows for example in x]
    assert found["y"].mean_high == pytest.approx(np.mean(each), rel=1e-12)
    assert found["y"].high == max(each)


# ── the batches ───────────────────────────────────────────────────────────────────────────


def split(count: int) -> Split:
    values = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    return Split(
        name="calibration", source="memory", ids=np.arange(count).astype(str), explicit_ids=False,
        content=np.zeros((count, 16), np.uint8), inputs={"x": values}, targets=None, slices={},
        unit=None, sha256="", population="", order=np.arange(count), prepare=lambda x: x,
    )  # fmt: skip


def sizes(count: int, *, each: int, fixed: int | None = None) -> list[int]:
    """Of the batches, where an example's activations have `each` bytes."""

    def measure(first: Batch) -> int:
        assert len(first.ids) == 1
        return each

    return [len(one.ids) for one in calibration.batches(split(count), fixed=fixed, measure=measure)]


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (calibration.BUDGET // 4, [4, 4, 2]),
        (calibration.BUDGET // 3 + 1, [2, 2, 2, 2, 2]),
        (calibration.BUDGET, [1] * 10),
        (50 * calibration.BUDGET, [1] * 10),
        (1, [10]),
        (0, [10]),
    ],
)
def test_a_batch_has_what_fits_into_the_budget(each: int, expected: list[int]) -> None:
    assert sizes(10, each=each) == expected


def test_there_is_a_most_and_every_example_is_in_one_batch() -> None:
    found = sizes(1000, each=1)
    assert (max(found), sum(found)) == (64, 1000)


def test_a_fixed_batch_is_kept_and_nothing_is_measured() -> None:
    found = calibration.batches(split(6), fixed=2, measure=lambda _: pytest.fail("measured"))
    assert [len(one.ids) for one in found] == [2, 2, 2]


def test_no_examples_are_no_batches() -> None:
    assert sizes(0, each=1) == sizes(0, each=1, fixed=4) == []


# ── ranges ────────────────────────────────────────────────────────────────────────────────


def observed(seed: int = 0, **scales: float) -> dict[str, Histogram]:
    found = {}
    for name, scale in scales.items():
        counter = Counter()
        values = scale * np.random.default_rng(seed).standard_normal((8, 5000))
        counter.add(values.astype(np.float32), 8)
        found[name] = counter.result()
    return found


@pytest.mark.parametrize("method", ranges.METHODS)
@pytest.mark.parametrize("activation_type", ["int8", "uint8"])
def test_every_method_is_chosen_by_its_name(method: str, activation_type: str) -> None:
    found = observed(a=1.0, b=9.0)
    chosen = recipe(calibration=method, percentile=99.0, activation_type=activation_type)
    got = ranges_of(found, chosen, {"x": "a", "a": "a", "b": "b"})
    choose = ranges.METHODS[method]
    signed = activation_type == "int8"
    expected = {name: choose(found[name], share=99.0, symmetric=signed) for name in ("a", "b")}
    assert got == {"x": expected["a"], **expected}


def test_a_dynamic_recipe_takes_no_ranges() -> None:
    with pytest.raises(ValueError, match="'dynamic' takes no ranges"):
        ranges_of({}, RECIPES["dynamic"], {})


# ── the cache ─────────────────────────────────────────────────────────────────────────────

KEY = {
    "model": "m" * 64,
    "data": "d" * 64,
    "preprocessing": "p",
    "tensors": ("a", "b"),
    "versions": {"onnxruntime": "1.20.0", "onnx": "1.17.0"},
    "cpu": {"model": "x", "features": ["avx2"]},
    "threads": 2,
}


def equal(one: Mapping[str, Histogram] | None, other: Mapping[str, Histogram]) -> bool:
    if one is None or list(one) != list(other):
        return False
    fields = ("low", "high", "mean_low", "mean_high", "exponent", "first")
    return all(
        np.array_equal(one[name].counts, found.counts)
        and one[name].counts.dtype == found.counts.dtype
        and all(getattr(one[name], field) == getattr(found, field) for field in fields)
        for name, found in other.items()
    )


def test_a_hit_equals_the_pass_bit_for_bit(tmp_path: Path) -> None:
    path = save(mlp(), tmp_path / "m.onnx")
    tensors = tuple(BACKEND.activations(path, RECIPES["static"]))
    run = BACKEND.open_exposed(path, tensors, threads=1).views
    found = observe(run, batches(vectors(50), 8, "x"), tensors)
    cache = Cache(tmp_path / "cache")
    assert cache.load(KEY) is None
    assert cache.save(KEY, found)
    assert equal(cache.load(KEY), found)
    for method in ranges.METHODS:
        chosen, names = recipe(calibration=method), {name: name for name in tensors}
        assert ranges_of(cache.load(KEY) or {}, chosen, names) == ranges_of(found, chosen, names)


def test_single_tensors_have_ranges_of_their_own() -> None:
    found = observed(a=3.0, b=5.0)
    names = {"a": "a", "b": "b", "like-b": "b"}
    plain = ranges_of(found, recipe(), names)
    chosen = ranges_of(found, recipe(overrides={"like-b": "moving-average"}), names)
    assert {name: chosen[name] for name in ("a", "b")} == {n: plain[n] for n in ("a", "b")}
    assert chosen["like-b"] == (found["b"].mean_low, found["b"].mean_high)


def test_extreme_values_and_odd_names_survive(tmp_path: Path) -> None:
    found = observed(**{"/a/b:0": 1e37, "ä €": 1e-43, "": 0.0, "key": 1.0, "counts": 3.0})
    cache = Cache(tmp_path)
    assert cache.save(KEY, found)
    assert equal(cache.load(KEY), found)
    assert cache.save(KEY, {})
    assert cache.load(KEY) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n" * 64},
        {"data": "e" * 64},
        {"preprocessing": "q"},
        {"tensors": ("b", "a")},
        {"tensors": ("a",)},
        {"versions": {"onnxruntime": "1.20.1", "onnx": "1.17.0"}},
        {"cpu": {"model": "x", "features": ["avx2", "avx512_vnni"]}},
        {"threads": 1},
    ],
)
def test_anything_else_is_no_hit(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = Cache(tmp_path)
    assert cache.save(KEY, observed(a=1.0))
    assert cache.load(KEY | change) is None
    (file,) = tmp_path.iterdir()
    cache.save(KEY | change, observed(a=2.0))
    (other,) = set(tmp_path.iterdir()) - {file}
    file.replace(other)
    assert cache.load(KEY | change) is None  # another's file under this one's name


def test_a_file_of_an_older_format_is_no_hit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    cache.save(KEY, observed(a=1.0))
    monkeypatch.setattr(calibration, "_FORMAT", calibration._FORMAT + 1)
    assert cache.load(KEY) is None


@pytest.mark.parametrize("payload", [b"", b"hello"])
def test_a_sealed_file_of_something_else_is_no_hit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    monkeypatch.setattr(calibration, "_packed", lambda _: payload)
    assert Cache(tmp_path).save(KEY, {})
    assert Cache(tmp_path).load(KEY) is None


def test_a_sealed_file_of_nan_is_no_hit(tmp_path: Path) -> None:
    cache, found = Cache(tmp_path), observed(a=1.0)
    assert cache.save(KEY, {"a": replace(found["a"], low=float("nan"))})
    assert cache.load(KEY) is None


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    cache, found = Cache(tmp_path), observed(a=1.0, b=2.0)
    cache.save(KEY, found)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for at in {0, len(whole) - 1, *rng.integers(0, len(whole), 300).tolist()}:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        assert cache.load(KEY) is None
        file.write_bytes(whole[:at])
        assert cache.load(KEY) is None
    file.write_bytes(whole + b"\0")
    assert cache.load(KEY) is None
    file.write_bytes(whole)
    assert equal(cache.load(KEY), found)


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"x" * 500])
def test_a_foreign_file_is_no_hit_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    cache, found = Cache(tmp_path), observed(a=1.0)
    cache.save(KEY, found)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert cache.load(KEY) is None
    assert cache.save(KEY, found)
    assert equal(cache.load(KEY), found)


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / below)
    assert not cache.save(KEY, observed(a=1.0))
    assert cache.load(KEY) is None


def test_a_folder_in_the_files_place_is_no_error(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.save(KEY, observed(a=1.0))
    (file,) = tmp_path.iterdir()
    file.unlink()
    (file / "x").mkdir(parents=True)
    assert cache.load(KEY) is None
    assert not cache.save(KEY, observed(a=1.0))
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).save(KEY, observed(a=1.0))
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
import numpy as np
from gate.calibrate import Cache
from gate.histogram import Counter
counter = Counter()
counter.add(np.full((1, 1), float(sys.argv[2]), np.float32), 1)
for _ in range(60):
    assert Cache(Path(sys.argv[1])).save({"model": "m"}, {"a": counter.result()})
"""


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, value], cwd=ROOT) for value in ("1", "2")]
    cache, seen = Cache(tmp_path), set()
    while any(writer.poll() is None for writer in writers):
        found = cache.load({"model": "m"})
        seen |= {one.low for one in (found or {}).values()}
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen <= {1.0, 2.0}
    assert len(list(tmp_path.iterdir())) == 1
    assert (cache.load({"model": "m"}) or {})["a"].low in {1.0, 2.0}
