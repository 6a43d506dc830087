import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.errors import DataError, UsageError
from gate.policy import Preprocess
from gate.preprocess import described, fit
from gate.values import TensorSpec


def spec(*inner, dtype="float32", name="x"):
    return TensorSpec(name, dtype, (None, *inner))


def fitted(raw, wanted, **preprocess):
    return fit("held_out (a.npz)", {"x": raw}, (wanted,), Preprocess(**preprocess))


def test_without_preprocess_a_batch_enters_as_it_is():
    x = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))
    out = fit("held_out", {"x": x}, (spec(3, dtype="int64"),), None)(x)
    assert type(out) is np.ndarray
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, x)


def test_text_becomes_python_strings():
    x = np.array([["a", "bc"]])
    out = fit("held_out", {"x": x}, (spec(2, dtype="object"),), None)(x)
    assert out.dtype == object
    assert out.tolist() == [["a", "bc"]]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 3), st.booleans(), st.integers(0, 99))
def test_the_formula_in_float32(height, width, channels, last, seed):
    rng = np.random.default_rng(seed)
    shape = (height + 3, width + 3, channels) if last else (channels, height + 3, width + 3)
    raw = rng.integers(0, 256, (2, *shape), dtype=np.uint8)
    mean, std = rng.random(channels), rng.random(channels) + 0.1
    scale = 1 / 255
    wanted = (channels, height + 3, width + 3)
    prepare = fitted(
        raw, spec(*wanted), scale=scale, mean=tuple(mean), std=tuple(std), to_channels_first=last
    )
    out = prepare(raw)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    assert out.shape == (2, *wanted)
    planes = np.moveaxis(raw, -1, 1) if last else raw
    for channel in range(channels):
        expected = (planes[:, channel] * scale - mean[channel]) / std[channel]
        np.testing.assert_allclose(out[:, channel], expected, rtol=1e-4, atol=1e-5)


def test_features_have_their_own_mean_and_std():
    raw = np.array([[1.0, 2.0], [3.0, 4.0]])
    prepare = fitted(raw, spec(2), mean=(1.0, 2.0), std=(2.0,))
    np.testing.assert_array_equal(prepare(raw), np.array([[0, 0], [1, 1]], np.float32))


def test_channels_last_models_keep_their_layout():
    raw = np.ones((2, 5, 4, 3), np.uint8)
    out = fitted(raw, spec(5, 4, 3), mean=(0.0, 1.0, 2.0))(raw)
    np.testing.assert_array_equal(out[0, 0, 0], [1, 0, -1])


def test_a_preprocess_that_only_moves_axes_keeps_the_type():
    raw = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    out = fitted(raw, spec(3, 2, 4, dtype="uint8"), to_channels_first=True)(raw)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, np.moveaxis(raw, -1, 1))


def test_an_empty_preprocess_converts_to_float32():
    raw = np.arange(4, dtype=np.uint8).reshape(2, 2)
    assert fitted(raw, spec(2))(raw).dtype == np.float32


def test_the_raw_batch_is_not_changed():
    raw = np.ones((2, 2), np.float32)
    fitted(raw, spec(2), scale=3.0)(raw)
    assert (raw == 1).all()


# ── villains ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("count", [2, 4])
def test_a_wrong_number_of_channels(name, count):
    raw = np.ones((2, 8, 8, 3), np.uint8)
    with pytest.raises(
        DataError, match=rf"preprocess\.{name}` has {count} values, .*\(N, 8, 8, 3\): no channel"
    ):
        fitted(raw, spec(3, 8, 8), to_channels_first=True, **{name: (1.0,) * count})


def test_channels_that_could_be_either_axis():
    raw = np.ones((2, 3, 8, 3), np.uint8)
    with pytest.raises(DataError, match="either end could be the channels"):
        fitted(raw, spec(3, 8, 3), mean=(1.0,) * 3)


def test_single_values_have_no_channels():
    raw = np.ones(2, np.float32)
    with pytest.raises(DataError, match="no channel axis has that length"):
        fitted(raw, spec(), mean=(1.0, 2.0))


def test_several_inputs_have_no_preprocess():
    columns = {"a": np.ones((2, 1), np.float32), "b": np.ones((2, 1), np.float32)}
    with pytest.raises(UsageError, match="models with one input; this one has a float32"):
        fit("held_out", columns, (spec(1, name="a"), spec(1, name="b")), Preprocess())


def test_channels_first_needs_images():
    raw = np.ones((2, 8, 8), np.uint8)
    with pytest.raises(DataError, match=r"`to_channels_first` needs data \(N, H, W, C\)"):
        fitted(raw, spec(8, 8), to_channels_first=True)


def test_preprocess_of_text():
    raw = np.array(["a"])
    with pytest.raises(DataError, match=r"column 'x' is text; `build\.preprocess` needs numbers"):
        fitted(raw, spec(dtype="object"), scale=2.0)


def test_preprocess_for_a_model_that_takes_bytes():
    raw = np.ones((2, 3), np.uint8)
    with pytest.raises(DataError, match=r"turns column 'x' \(uint8\) into float32.*wants uint8"):
        fitted(raw, spec(3, dtype="uint8"), scale=0.5)


@pytest.mark.parametrize(
    ("raw", "wanted", "message"),
    [
        (
            "float64",
            "float32",
            "is float64, and the model's input wants float32: save it as float32$",
        ),
        ("uint8", "float32", "is uint8.*save it as float32, or add `build.preprocess`"),
        ("float32", "float16", "is float32.*wants float16: save it as float16$"),
        ("int32", "int64", "is int32.*wants int64: save it as int64$"),
        ("U3", "float32", "is text.*wants float32: save it as float32$"),
        ("int64", "object", "is int64.*wants object: save it as text$"),
    ],
)
def test_there_is_no_silent_cast(raw, wanted, message):
    with pytest.raises(DataError, match=rf"held_out: column 'x' {message}"):
        fit("held_out", {"x": np.zeros((2, 3), raw)}, (spec(3, dtype=wanted),), None)


@pytest.mark.parametrize(
    ("raw", "wanted", "message"),
    [
        ((8,), (8, 8), r"enters the model as \(N, 8\), and the input wants \(N, 8, 8\): reshape"),
        ((8, 9), (None, 8), r"\(N, 8, 9\), and the input wants \(N, \?, 8\)"),
        ((8, 8, 1), (1, 8, 8), "set `build.preprocess.to_channels_first: true`"),
    ],
)
def test_rank_and_fixed_dimensions_are_the_models(raw, wanted, message):
    with pytest.raises(DataError, match=message):
        fit("held_out", {"x": np.zeros((2, *raw), np.float32)}, (spec(*wanted),), None)


def test_the_shape_after_preprocess_counts():
    raw = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match=r"enters the model as \(N, 3, 8, 8\).*\(N, 1, 8, 8\)"):
        fitted(raw, spec(1, 8, 8), to_channels_first=True)


def test_free_dimensions_take_anything():
    fit("held_out", {"x": np.zeros((2, 7, 5), np.float32)}, (spec(None, None),), None)


def test_a_model_input_without_a_batch_axis():
    with pytest.raises(DataError, match="a single value, without a batch axis"):
        fit("held_out", {"x": np.zeros(2, np.float32)}, (TensorSpec("x", "float32", ()),), None)


@pytest.mark.parametrize(
    ("name", "value"), [("scale", 1e300), ("mean", (1e300,)), ("std", (1e-300,))]
)
def test_numbers_beyond_float32(name, value):
    with pytest.raises(DataError, match=rf"preprocess\.{name}` .* too large or too small"):
        fitted(np.zeros((2, 3), np.uint8), spec(3), **{name: value})


def test_values_beyond_float32_never_reach_the_model():
    raw = np.array([[1e300]])
    prepare = fitted(raw, spec(1))
    with pytest.raises(DataError, match=r"too large for float32 after `build\.preprocess`"):
        prepare(raw)


def test_inputs_are_described():
    shown = described((spec(1, None), spec(dtype="object", name="t")))
    assert shown == "x float32 (N, 1, ?), t object (N)"
