import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import encoded, pixels

from gate.errors import DataError, UsageError
from gate.pictures import of_bytes
from gate.preprocess import described, digest, fit, for_tracing, raw_names
from gate.sources import Preprocess
from gate.values import TensorSpec


def spec(*inner, dtype="float32", name="x"):
    return TensorSpec(name, dtype, (None, *inner))


def fitted(raw, wanted, **preprocess):
    prepare = fit("held_out (a.npz)", {"x": raw}, (wanted,), Preprocess(**preprocess))
    return lambda values: prepare({"x": values})["x"]


def test_without_preprocess_a_batch_enters_as_it_is():
    x = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))
    out = fit("held_out", {"x": x}, (spec(3, dtype="int64"),), None)({"x": x})["x"]
    assert type(out) is np.ndarray
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, x)


def test_text_becomes_python_strings():
    x = np.array([["a", "bc"]])
    out = fit("held_out", {"x": x}, (spec(2, dtype="object"),), None)({"x": x})["x"]
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


# ── images ────────────────────────────────────────────────────────────────────────────────


def files(*images):
    return of_bytes([encoded(image) for image in images])


def image_fit(column, *wanted, dtype="float32", name="image", **preprocess):
    columns = {name: column}
    inputs = (spec(*wanted, dtype=dtype),)
    chosen = Preprocess(**preprocess)
    assert raw_names(columns, inputs, chosen) == (name,)
    return lambda raw: fit("held_out", columns, inputs, chosen)({name: raw})["x"]


def test_encoded_images_enter_as_rgb_channels_first():
    images = [pixels(5, 4, seed=seed) for seed in range(2)]
    column = files(*images)
    out = image_fit(column, 3, None, None)(column)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, np.stack(images).transpose(0, 3, 1, 2))


def test_the_order_of_all_steps():
    image = pixels(40, 30)
    column = files(image)
    out = image_fit(
        column, 20, 16, 3, color="BGR", resize={"size": (24, 20), "interpolation": "bicubic"},
        crop=(20, 16), scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5,), layout="NHWC",
    )(column)  # fmt: skip
    drawn = Image.fromarray(image).resize((20, 24), Image.Resampling.BICUBIC).crop((2, 2, 18, 22))
    expected = (np.asarray(drawn)[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / 0.5
    np.testing.assert_allclose(out[0], expected, atol=1e-5)


def test_bytes_enter_a_model_that_takes_bytes():
    column = files(pixels(5, 4))
    out = image_fit(column, None, None, 1, dtype="uint8", color="L", layout="NHWC")(column)
    assert (out.dtype, out.shape) == (np.uint8, (1, 4, 5, 1))


def test_arrays_take_the_same_steps():
    images = np.stack([pixels(9, 7, seed=seed) for seed in range(2)])
    column = files(*images)
    steps = {"letterbox": {"size": (6, 6)}, "mean": (1.0, 2.0, 3.0)}
    from_arrays = image_fit(images, 3, 6, 6, layout="NCHW", name="x", **steps)(images)
    np.testing.assert_array_equal(from_arrays, image_fit(column, 3, 6, 6, **steps)(column))


@pytest.mark.parametrize("columns", [["x", "photo"], ["photo", "y"]])
def test_the_column_of_images(columns):
    found = {name: files(pixels(4, 4)) for name in columns}
    inputs = (spec(3, 4, 4),)
    assert raw_names(found, inputs, Preprocess(image="photo")) == ("photo",)
    if "x" in columns:
        assert raw_names(found, inputs, Preprocess()) == ("x",)
    else:
        with pytest.raises(UsageError, match=r"'photo', 'y' hold encoded images, .* as `image:`"):
            raw_names(found, inputs, Preprocess())


def test_encoded_images_need_to_be_told_how_they_enter():
    for dtype in ("float32", "uint8", "object"):
        with pytest.raises(DataError, match=r"'x' holds encoded images.*`preprocess: \{\}`"):
            fit("held_out", {"x": files(pixels(4, 4))}, (spec(3, 4, 4, dtype=dtype),), None)


@pytest.mark.parametrize(
    ("preprocess", "wanted", "message"),
    [
        ({"crop": (8, 8)}, (3, 8, 9), r"enters the model as \(N, 3, 8, 8\).*mend color, resize"),
        ({"color": "L"}, (3, None, None), r"as \(N, 1, \?, \?\), and the input wants \(N, 3, \?"),
        ({"layout": "NHWC"}, (3, None, None), r"as \(N, 4, 4, 3\)"),
        ({"mean": (1.0, 2.0)}, (3, None, None), "has 2 values"),
        ({}, (3, 5, 5), r"enters the model as \(N, 3, 4, 4\).*wants \(N, 3, 5, 5\)"),
    ],
)
def test_images_that_do_not_fit(preprocess, wanted, message):
    column = files(pixels(4, 4))
    with pytest.raises(DataError, match=message):
        image_fit(column, *wanted, **preprocess)(column)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), "is float32 .*images: encoded, or uint8"),
        (np.zeros((1, 4, 4, 2), np.uint8), "with 1 or 3 channels"),
        (np.zeros((1, 4, 4), np.uint8), "with 1 or 3 channels"),
        (np.zeros((1, 4, 3, 3), np.uint8), r"3×4 pixels .* fewer than `crop: \[4, 4\]`"),
    ],
)
def test_arrays_that_cannot_be_drawn(raw, message):
    with pytest.raises(DataError, match=message):
        image_fit(raw, None, None, None, name="x", crop=(4, 4))(raw)


def test_scale_for_a_model_that_takes_bytes():
    with pytest.raises(DataError, match=r"\(encoded images\) into float32.*remove scale, mean"):
        image_fit(files(pixels(4, 4)), 3, 4, 4, dtype="uint8", scale=0.5)(None)


def test_a_module_is_traced_with_decoded_images():
    columns = {"image": files(pixels(4, 4), pixels(4, 4, seed=1))}
    prepare = for_tracing(columns, ("image",), Preprocess())
    assert prepare(columns)["image"].shape == (2, 3, 4, 4)


def test_a_step_that_is_not_taken_changes_no_digest():
    told = {"scale": 0.5, "mean": [1.0], "std": [], "to_channels_first": False}
    expected = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    assert digest(Preprocess(scale=0.5, mean=(1.0,))) == expected
    others = [Preprocess(), Preprocess(crop=(4, 4)), Preprocess(crop=(4, 5)), Preprocess(color="L")]
    assert len({digest(one) for one in [None, *others]}) == 5
