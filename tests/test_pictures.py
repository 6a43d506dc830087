import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage
from support.pictures import encoded, pixels

from gate import pictures
from gate.errors import DataError
from gate.pictures import Files, PicturesError, batch, decoded, geometry, transformed
from gate.sources import Preprocess

SIDES = st.integers(1, 40)
MANY = settings(max_examples=100, deadline=None)
STEPS = st.one_of(
    st.builds(lambda h, w: {"resize": {"size": (h, w)}}, SIDES, SIDES),
    st.builds(lambda s: {"resize": {"shortest": s}}, SIDES),
    st.builds(lambda s: {"resize": {"longest": s}}, SIDES),
    st.builds(lambda h, w: {"crop": (h, w)}, SIDES, SIDES),
    st.builds(
        lambda s, c: {"resize": {"shortest": max(s, c)}, "crop": (min(s, c),) * 2}, SIDES, SIDES
    ),
    st.builds(
        lambda h, w, align: {"letterbox": {"size": (h, w), "align": align}},
        SIDES, SIDES, st.sampled_from(["center", "top_left"]),
    ),
    st.builds(
        lambda c, h, w: {"crop": (c, c), "letterbox": {"size": (h, w)}}, SIDES, SIDES, SIDES
    ),
    st.just({}),
)  # fmt: skip


# ── decoding ──────────────────────────────────────────────────────────────────────────────


def test_the_order_of_channels():
    image = pixels(5, 4)
    np.testing.assert_array_equal(decoded(encoded(image), "RGB"), image)
    np.testing.assert_array_equal(decoded(encoded(image), "BGR"), image[..., ::-1])
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    np.testing.assert_array_equal(decoded(encoded(image), "L"), grey)


def test_a_grey_image_has_three_equal_channels_or_one():
    image = pixels(5, 4, 1)
    np.testing.assert_array_equal(decoded(encoded(image), "L"), image)
    np.testing.assert_array_equal(decoded(encoded(image), "BGR"), image.repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1", "LA"])
def test_every_usual_mode_becomes_what_pillow_makes_of_it(mode):
    data = encoded(pixels(9, 7), "TIFF", mode=mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data, "RGB"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    image, exif = pixels(5, 4), Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    views = {
        1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1],
        5: image.swapaxes(0, 1), 6: np.rot90(image, -1),
        7: image[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(image),
    }  # fmt: skip
    np.testing.assert_array_equal(decoded(data, "RGB"), views[orientation])
    assert pictures.size_of(data) == views[orientation].shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "WEBP"])
def test_the_size_that_a_header_tells_is_the_decoded_one(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    data = encoded(pixels(5, 4), kind, **how)
    assert pictures.size_of(data) == decoded(data, "RGB").shape[1::-1]


def png16(kind, channels):
    """2 × 2 pixels of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(name, content):
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = (b"\0" + bytes(4 * channels)) * 2
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, kind, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    "data",
    [
        png16(2, 3),
        png16(4, 2),
        png16(6, 4),
        b"P6 2 2 65535\n" + bytes(24),
        b"P6 2 2 1023\n" + bytes(24),
        b"P3 1 1 1023\n0 1 2\n",
    ],
)
def test_colours_of_more_than_8_bits_are_not_cut_off(data):
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        decoded(data, "RGB")


def test_a_pixel_of_16_bits_has_channels_of_6_at_most():
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0)
    start = 14 + len(head) + len(masks)
    data = struct.pack("<2sIHHI", b"BM", start + 4, 0, 0, start) + head + masks
    assert decoded(data + b"\x1f\x00\x00\x00", "RGB").tolist() == [[[0, 0, 255]]]
    for grey in (b"P6 1 1 255\n\x01\x02\x03", b"P6 1 1 100\n\x01\x02\x03"):
        assert decoded(grey, "RGB").shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is no image of BMP, GIF"),
        (b"hello", "it is no image of"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is no image of"),  # would run Ghostscript
        (encoded(pixels(30, 30))[:-900], "truncated"),
        (encoded(pixels(30, 30), "JPEG")[:-300], "truncated"),
        (encoded(np.zeros((4, 4, 1), np.uint16), "PNG"), "mode I;16 has more than 8 bits"),
        (encoded(np.zeros((4, 4, 1), np.float32), "TIFF"), "mode F has more than 8 bits"),
    ],
)
def test_what_is_no_image(data, reason):
    with pytest.raises(ValueError, match=reason):
        decoded(data, "RGB")


def test_a_decompression_bomb_is_no_image(monkeypatch):
    data = encoded(pixels(30, 30))
    for limit in (500, 400):  # a warning, and an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="decompression bomb"):
            decoded(data, "RGB")


@MANY
@given(st.data())
def test_any_damage_is_named_or_harmless(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    raw = bytearray(encoded(pixels(9, 9), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decoded(bytes(raw), "RGB")
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)


def test_files_are_read_when_they_are_asked_for(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    column = Files(np.array(list("abc")), tmp_path)
    assert (column.shape, column.dtype) == ((3,), object)
    assert column[1:].tolist() == [b"b", b"c"]
    assert column[np.array([2, 0])].tolist() == [b"c", b"a"]
    assert column.paths(slice(1)) == [str(tmp_path / "a")]
    (tmp_path / "b").unlink()
    with pytest.raises(DataError, match=r"b cannot be read \(No such file"):
        column[0:2]


# ── drawing ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_pillows(name, channels):
    image = pixels(23, 17, channels)
    drawn = transformed(image, Preprocess(resize={"size": (8, 31), "interpolation": name}))
    source = Image.fromarray(image if channels == 3 else image[..., 0])
    expected = source.resize((31, 8), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(drawn, np.asarray(expected).reshape(8, 31, channels))


@MANY
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 9))
def test_without_antialiasing_it_is_interpolation_between_centres(width, height, wide, high, seed):
    image = pixels(width, height, 1, seed)
    drawn = transformed(image, Preprocess(resize={"size": (high, wide), "antialias": False}))
    rows = np.clip((np.arange(high) + 0.5) * height / high - 0.5, 0, height - 1)
    columns = np.clip((np.arange(wide) + 0.5) * width / wide - 0.5, 0, width - 1)
    grid = np.meshgrid(rows, columns, indexing="ij")
    exact = ndimage.map_coordinates(image[..., 0].astype(float), grid, order=1, mode="nearest")
    assert np.abs(drawn[..., 0] - exact).max() <= 0.5 + 1e-9


def test_shortest_and_longest_keep_proportions_and_round_down():
    def size(**resize):
        return transformed(pixels(7, 5), Preprocess(resize=resize)).shape[:2]

    assert size(shortest=9) == (9, 12)  # 12.6
    assert size(longest=9) == (6, 9)  # 6.43
    assert transformed(pixels(40, 1), Preprocess(resize={"longest": 3})).shape[:2] == (1, 3)


def test_a_thread_of_pixels_is_not_drawn_without_end():
    steps = Preprocess(resize={"shortest": 1024})
    with pytest.raises(ValueError, match=r"1×60000 pixels .* would be drawn as 1024×61440000"):
        geometry(steps, 1, 60_000)
    with pytest.raises(PicturesError, match=r"image 1: 1×60000 pixels"):
        batch(
            "x", np.array([encoded(pixels(w, h)) for w, h in ((9, 9), (1, 60_000))], object), steps
        )


def test_crop_takes_the_middle():
    image = pixels(7, 6)
    np.testing.assert_array_equal(transformed(image, Preprocess(crop=(2, 3))), image[2:4, 2:5])
    np.testing.assert_array_equal(transformed(image, Preprocess(crop=(6, 7))), image)
    with pytest.raises(ValueError, match=r"7×6 pixels .* are fewer than `crop: \[7, 7\]`"):
        transformed(image, Preprocess(crop=(7, 7)))


@pytest.mark.parametrize(("align", "left"), [("center", 1), ("top_left", 0)])
def test_letterbox_fills_what_is_left(align, left):
    image = pixels(4, 8)
    drawn = transformed(image, Preprocess(letterbox={"size": (8, 7), "align": align, "fill": 9}))
    np.testing.assert_array_equal(drawn[:, left : left + 4], image)
    rest = np.delete(drawn, range(left, left + 4), axis=1)
    assert rest.shape == (8, 3, 3)
    assert (rest == 9).all()


@MANY
@given(STEPS, SIDES, SIDES)
def test_geometry_says_where_pixels_land(steps, width, height):
    preprocess = Preprocess.model_validate(steps)
    try:
        scale_x, scale_y, shift_x, shift_y = geometry(preprocess, width, height)
    except ValueError:
        assume(False)
    # a ramp that says of every pixel where its middle was, drawn by the same filter
    wide, high = np.arange(width) * 6, np.arange(height) * 6
    ramp = np.stack([np.tile(wide, (height, 1)), np.tile(high[:, None], (1, width))], axis=-1)
    image = np.concatenate([ramp, np.full((height, width, 1), 255)], axis=-1).astype(np.uint8)
    drawn = transformed(image, preprocess)
    inside = drawn[..., 2] == 255
    assert inside.any()
    rows, columns = np.nonzero(inside)
    for axis, places, scale, shift, length in (
        (0, columns, scale_x, shift_x, width),
        (1, rows, scale_y, shift_y, height),
    ):
        source = (places + 0.5 - shift) / scale  # continuous place in the original
        assert (source > 0).all()
        assert (source < length).all()
        reach = max(1, scale)  # of the filter, which an edge cuts off
        away = (places - places.min() >= reach) & (places.max() - places >= reach)
        found = drawn[rows, columns, axis] / 6 + 0.5
        np.testing.assert_allclose(found[away], source[away], atol=0.2)


@MANY
@given(STEPS, SIDES, SIDES)
def test_corners_of_the_image_are_corners_of_what_is_drawn(steps, width, height):
    steps = {key: step for key, step in steps.items() if key != "crop"}
    preprocess = Preprocess.model_validate(steps)
    scale_x, scale_y, shift_x, shift_y = geometry(preprocess, width, height)
    drawn = transformed(np.full((height, width, 3), 255, np.uint8), preprocess)
    rows, columns = np.nonzero(drawn[..., 0] == 255)
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    expected = (shift_x, shift_y, width * scale_x + shift_x, height * scale_y + shift_y)
    np.testing.assert_allclose(corners, expected, atol=1e-9)


def test_without_steps_nothing_moves():
    assert geometry(None, 5, 4) == geometry(Preprocess(), 5, 4) == (1, 1, 0, 0)


def test_geometry_of_the_usual_chain():
    usual = Preprocess(resize={"shortest": 256}, crop=(224, 224))
    assert geometry(usual, 640, 480) == (341 / 640, 256 / 480, -58, -16)
    boxed = Preprocess(letterbox={"size": (640, 640)})
    assert geometry(boxed, 500, 375) == (640 / 500, 480 / 375, 0, 80)


# ── batches ───────────────────────────────────────────────────────────────────────────────


def objects(*values):
    return pictures.of_bytes(values)


def test_arrays_and_encoded_images_take_one_path():
    images = np.stack([pixels(9, 7, seed=seed) for seed in range(3)])
    preprocess = Preprocess(resize={"size": (4, 5)}, color="BGR")
    from_arrays = batch("held_out", images, preprocess)
    from_files = batch("held_out", objects(*map(encoded, images)), preprocess)
    assert from_arrays.shape == (3, 4, 5, 3)
    np.testing.assert_array_equal(from_arrays, from_files)


def test_images_that_do_not_decode_are_all_told():
    good = encoded(pixels(4, 4))
    with pytest.raises(PicturesError, match=r"held_out: 2 images .* image 0: it is no image") as e:
        batch("held_out", objects(b"", good, good[:40]), Preprocess())
    assert e.value.decode
    assert [*e.value.faults] == [0, 2]


def test_images_that_are_too_small_do_decode():
    with pytest.raises(PicturesError, match=r"image 1: 4×4 pixels") as caught:
        batch("x", objects(encoded(pixels(9, 9)), encoded(pixels(4, 4))), Preprocess(crop=(5, 5)))
    assert not caught.value.decode


def test_images_of_several_sizes():
    files = objects(encoded(pixels(4, 5)), encoded(pixels(6, 5)))
    told = r"image 1: it comes out as 6×5 pixels .* first of its batch as 4×5; .*`resize: {size"
    with pytest.raises(PicturesError, match=told) as caught:
        batch("x", files, Preprocess())
    assert not caught.value.decode  # so that none is left out for it


# ── what a policy may say ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": {"size": (4, 4), "antialias": False, "interpolation": "bicubic"}}, "exact for"),
        ({"resize": {}}, "give one of .*found none"),
        ({"resize": {"size": (4, 4), "longest": 9}}, "found size and longest"),
        ({"resize": {"size": (0, 4)}}, "greater than 0"),
        ({"resize": {"longest": 4}, "letterbox": {"size": (4, 4)}}, "resizes by itself"),
        ({"resize": {"shortest": 4}, "crop": (5, 5)}, "shorter side is 4"),
        ({"resize": {"longest": 4}, "crop": (5, 4)}, "larger than `resize` makes"),
        ({"resize": {"size": (9, 4)}, "crop": (5, 5)}, "larger than `resize` makes"),
        ({"to_channels_first": True, "layout": "NHWC"}, "makes NCHW"),
        ({"color": "L", "mean": (1.0, 2.0, 3.0)}, "`mean` has 3 values, and `color: L` 1"),
        ({"letterbox": {"size": (4, 4), "fill": 256}}, "less than or equal to 255"),
    ],
)
def test_steps_that_contradict(fields, message):
    with pytest.raises(ValidationError, match=message):
        Preprocess.model_validate(fields)
