"""What every backend must do, whichever it is."""

from pathlib import Path

import numpy as np
import pytest
from support.onnx_models import cnn, convolution, images, mlp, multi_input, save, strings, vectors

from gate import backends, recipes
from gate.backends import BACKENDS, Backend
from gate.calibrate import observe, ranges_of
from gate.errors import CandidateError, EvaluationError, QuantizationError, UsageError
from gate.values import Batch, TensorSpec

STATIC = recipes.RECIPES["static"]
DYNAMIC = recipes.RECIPES["dynamic"]


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    return backends.get(request.param)


def quantized(backend: Backend, model: Path, destination: Path, recipe: recipes.Recipe) -> Path:
    sources = backend.activations(model, recipe)
    ranges = {}
    if sources:
        runner = backend.open_exposed(model, tuple(sources.values()), threads=1)
        ids = np.arange(8).astype(str)
        batch = Batch(start=0, ids=ids, feeds={"image": images()}, targets=None)
        observed = observe(runner.views, [batch], tuple(sources.values()))
        ranges = ranges_of(observed, recipe, sources)
    backend.quantize(model, recipe, ranges, destination)
    return destination


def test_an_unknown_key_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"unknown backend 'onnxruntim'.*onnxruntime"):
        backends.get("onnxruntim")


def test_it_describes_inputs_and_outputs(backend: Backend, tmp_path: Path) -> None:
    runner = backend.open(save(multi_input(), tmp_path / "m.onnx"), threads=1)
    assert runner.inputs == (
        TensorSpec("left", "float32", (None, 16)),
        TensorSpec("right", "float32", (None, 16)),
        TensorSpec("token", "int64", (None,)),
    )
    assert runner.outputs == (TensorSpec("y", "float32", (None, 4)),)


def test_it_runs_several_inputs(backend: Backend, tmp_path: Path) -> None:
    runner = backend.open(save(multi_input(), tmp_path / "m.onnx"), threads=1)
    feeds = {"left": vectors(3), "right": vectors(3), "token": np.array([1, 2, 3])}
    assert runner.run(feeds)["y"].shape == (3, 4)


def test_strings_pass_through(backend: Backend, tmp_path: Path) -> None:
    runner = backend.open(save(strings(), tmp_path / "m.onnx"), threads=1)
    assert runner.inputs[0].dtype == "object"
    texts = np.array(["a", "ü"], dtype=object)
    np.testing.assert_array_equal(runner.run({"name": texts})["same"], texts)


def test_external_weights_are_read(backend: Backend, tmp_path: Path) -> None:
    plain = backend.open(save(cnn(), tmp_path / "plain.onnx"), threads=1)
    split = save(cnn(), tmp_path / "split.onnx", external=True)
    feeds = {"image": images()}
    whole = plain.run(feeds)["logits"]
    np.testing.assert_array_equal(backend.open(split, threads=1).run(feeds)["logits"], whole)
    exposed = backend.open_exposed(split, ["c1", "r2"], threads=1).run(feeds)
    np.testing.assert_allclose(exposed["logits"], whole, rtol=1e-5, atol=1e-6)
    assert exposed["c1"].shape == (8, 8, 8, 8)


def test_a_result_does_not_depend_on_the_run(backend: Backend, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    feeds = {"image": images()}
    first, second = (backend.open(path, threads=2).run(feeds)["logits"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12"])
def test_what_is_no_model_is_a_candidate_error(
    backend: Backend, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for attempt in (
        lambda: backend.open(path, threads=1),
        lambda: backend.open_exposed(path, [], threads=1),
        lambda: backend.optimize(path, tmp_path / "o.onnx"),
    ):
        with pytest.raises(CandidateError, match=r"m\.onnx"):
            attempt()


def test_a_missing_file_is_a_candidate_error(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match=r"none\.onnx"):
        backend.open(tmp_path / "none.onnx", threads=1)


def test_a_truncated_model_is_a_candidate_error(backend: Backend, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CandidateError):
        backend.open(path, threads=1)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "given nothing; the model takes x float32"),
        ({"z": np.zeros((1, 16), np.float32)}, "z float32"),
        ({"x": np.zeros((1, 16))}, "x float64"),
        ({"x": np.zeros((1, 15), np.float32)}, r"\[1, 15\]; the model takes x float32\[\?, 16\]"),
        ({"x": np.zeros(16, np.float32)}, "failed"),
    ],
)
def test_wrong_feeds_are_an_evaluation_error(
    backend: Backend, tmp_path: Path, feeds: dict[str, np.ndarray], message: str
) -> None:
    runner = backend.open(save(mlp(), tmp_path / "m.onnx"), threads=1)
    with pytest.raises(EvaluationError, match=message):
        runner.run(feeds)


def test_optimize_keeps_meaning_and_standard_operators(backend: Backend, tmp_path: Path) -> None:
    import onnx

    path = save(cnn(named=False), tmp_path / "m.onnx")
    backend.optimize(path, tmp_path / "o.onnx")
    feeds = {"image": images()}
    np.testing.assert_allclose(
        backend.open(tmp_path / "o.onnx", threads=1).run(feeds)["logits"],
        backend.open(path, threads=1).run(feeds)["logits"],
        rtol=1e-5,
        atol=1e-6,
    )
    optimized = onnx.load(tmp_path / "o.onnx")
    names = [node.name for node in optimized.graph.node]
    assert {entry.domain for entry in optimized.opset_import} == {""}
    assert all(names)
    assert len(set(names)) == len(names)


def test_optimize_writes_the_same_bytes_again(backend: Backend, tmp_path: Path) -> None:
    written = []
    for folder in ("a", "b"):
        path = save(cnn(), tmp_path / folder / "m.onnx")
        backend.optimize(path, tmp_path / folder / "o.onnx")
        written.append((tmp_path / folder / "o.onnx").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_every_recipe_runs_integers(backend: Backend, tmp_path: Path, name: str) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    recipe = recipes.RECIPES[name]
    int8 = quantized(backend, path, tmp_path / "q.onnx", recipe)
    kernels = backend.profile(int8, {"image": images()})
    assert any(kernel.integer and kernel.macs for kernel in kernels)
    assert bool(backend.activations(path, recipe)) == recipe.needs_calibration


def test_int8_stays_close_to_fp32(backend: Backend, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    int8 = quantized(backend, path, tmp_path / "q.onnx", STATIC)
    feeds = {"image": images()}
    expected = backend.open(path, threads=1).run(feeds)["logits"]
    found = backend.open(int8, threads=1).run(feeds)["logits"]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_a_missing_range_is_named(backend: Backend, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    with pytest.raises(QuantizationError, match="no range was calibrated for image"):
        backend.quantize(path, STATIC, {}, tmp_path / "q.onnx")


def test_a_float_model_has_no_integer_kernel(backend: Backend, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    kernels = backend.profile(path, {"image": images()})
    assert not any(kernel.integer for kernel in kernels)
    assert sum(kernel.macs > 0 for kernel in kernels) == 3


def test_the_work_is_counted_by_hand(backend: Backend, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "m.onnx")
    kernels = backend.profile(path, {"image": images(4)}, optimize=False)
    work = {kernel.node: kernel.macs for kernel in kernels if kernel.macs}
    assert work == {
        "conv1": 4 * 8 * 8 * 8 * (1 * 3 * 3),
        "conv2": 4 * 16 * 4 * 4 * (8 * 3 * 3),
        "fc": 4 * 10 * 256,
    }


def test_versions_are_named(backend: Backend) -> None:
    versions = backend.versions()
    assert versions[backend.key].count(".") >= 1


def test_a_profile_of_a_model_that_fails_is_an_evaluation_error(
    backend: Backend, tmp_path: Path
) -> None:
    path = save(convolution((4, 2, 3, 3), (1, 2, 8, 8)), tmp_path / "m.onnx")
    with pytest.raises(EvaluationError):
        backend.profile(path, {"x": np.zeros((1, 3, 8, 8), np.float32)})


def test_a_model_is_opened_once_until_its_file_changes(tmp_path: Path, backend: Backend) -> None:
    kept, model = backends.open_once(backend), save(cnn(), tmp_path / "m.onnx")
    first = kept.open(model, threads=1)
    assert kept.open(model, threads=1) is first
    assert kept.open(model, threads=2) is not first
    save(mlp(), model)
    assert kept.open(model, threads=1) is not first
    assert kept.key == backend.key


def test_a_model_that_cannot_be_opened_is_not_kept(tmp_path: Path, backend: Backend) -> None:
    kept = backends.open_once(backend)
    for _ in range(2):
        with pytest.raises(CandidateError):
            kept.open(tmp_path / "missing.onnx", threads=1)
