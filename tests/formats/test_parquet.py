import datetime
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gate.errors import DataError
from gate.formats import parquet
from gate.formats.parquet import FORMAT
from gate.values import Ragged


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.parquet"


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch"


def write(path, row_group_size=None, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


def tensors(array, permutation=None):
    kind = pa.fixed_shape_tensor(
        pa.from_numpy_dtype(array.dtype), array.shape[1:], permutation=permutation
    )
    size = int(np.prod(array.shape[1:]))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), size)
    return pa.ExtensionArray.from_storage(kind, storage)


# ── reading ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("group", [1, 3, 100])
def test_nested_lists_become_axes(path, scratch, group):
    x = np.arange(8 * 2 * 3, dtype=np.float32).reshape(8, 2, 3)
    column = pa.array(x.tolist(), pa.list_(pa.list_(pa.float32())))
    write(path, group, x=column, big=column.cast(pa.large_list(pa.large_list(pa.float32()))))
    assert dict(FORMAT.columns(path)) == {"x": (8, 2, 3), "big": (8, 2, 3)}
    read = FORMAT.read(path, scratch)
    for name in ("x", "big"):
        assert isinstance(read[name], np.memmap)
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], x)


def test_a_list_of_fixed_lists_and_the_other_way_round(path, scratch):
    x = np.arange(12).reshape(2, 3, 2)
    outer = pa.array(x.tolist(), pa.list_(pa.list_(pa.int64(), 2)))
    inner = pa.array(x.tolist(), pa.list_(pa.list_(pa.int64()), 3))
    write(path, outer=outer, inner=inner)
    read = FORMAT.read(path, scratch)
    np.testing.assert_array_equal(read["outer"], x)
    np.testing.assert_array_equal(read["inner"], x)


def test_fixed_shape_tensors(path, scratch):
    x = np.arange(5 * 2 * 3 * 4, dtype=np.uint8).reshape(5, 2, 3, 4)
    write(path, 2, image=tensors(x))
    assert dict(FORMAT.columns(path)) == {"image": (5, 2, 3, 4)}
    np.testing.assert_array_equal(FORMAT.read(path, scratch)["image"], x)


@pytest.mark.parametrize("permutation", [[0, 1, 2], [0, 2, 1], [2, 1, 0]])
def test_permuted_tensors_read_as_pyarrow_reads_them(path, scratch, permutation):
    stored = np.arange(5 * 2 * 3 * 4, dtype=np.float32).reshape(5, 2, 3, 4)
    column = tensors(stored, permutation)
    write(path, image=column)
    expected = column.to_numpy_ndarray()
    assert dict(FORMAT.columns(path))["image"] == expected.shape
    np.testing.assert_array_equal(FORMAT.read(path, scratch)["image"], expected)


def test_a_permutation_that_has_two_meanings_is_refused(path, scratch):
    channels_last = np.zeros((5, 2, 3, 4), np.float32)
    write(
        path, image=pa.FixedShapeTensorArray.from_numpy_ndarray(channels_last.transpose(0, 2, 3, 1))
    )
    refused(path, scratch, r"column 'image' is a tensor with the axis permutation .*ascontiguous")


def test_text_is_as_wide_as_the_widest(path, scratch):
    text = ["a", "süd", "", "东" * 9, "b"]
    write(
        path,
        2,
        text=text,
        category=pa.array(text).dictionary_encode(),
        words=pa.array([[t, "z"] for t in text]),
    )
    read = FORMAT.read(path, scratch)
    assert read["text"].dtype == "<U9"
    assert read["text"].tolist() == read["category"].tolist() == text
    assert read["words"].tolist() == [[t, "z"] for t in text]


def test_column_names_with_dots_are_told_apart(path, scratch):
    write(path, **{"x": pa.array([[1], [2]]), "x.1": pa.array([3, 4]), "x.list": pa.array([5, 6])})
    read = FORMAT.read(path, scratch)
    assert {name: column.tolist() for name, column in read.items()} == {
        "x": [[1], [2]],
        "x.1": [3, 4],
        "x.list": [5, 6],
    }


def test_batches_are_bounded_by_bytes_and_not_by_row_groups(path, scratch, monkeypatch):
    x = np.random.default_rng(0).random((64, 1 << 14), dtype=np.float32)  # 64 KiB a row
    write(path, x=pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1]))
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 1 << 18)
    seen = []
    original = parquet._values
    monkeypatch.setattr(
        parquet,
        "_values",
        lambda layout, array, start: seen.append(len(array)) or original(layout, array, start),
    )
    np.testing.assert_array_equal(FORMAT.read(path, scratch)["x"], x)
    assert max(seen) == 4
    assert sum(seen) == 64


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["int8", "uint16", "int64", "float16", "float32", "float64", "bool"]),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 100),
)
def test_any_rectangle_comes_back(tmp_path, dtype, shape, group, seed):
    values = np.random.default_rng(seed).integers(0, 100, shape)
    x = (values % 2 == 0) if dtype == "bool" else values.astype(dtype)
    kind = pa.from_numpy_dtype(x.dtype)
    for _ in shape[1:]:
        kind = pa.list_(kind)
    path = tmp_path / "any.parquet"
    write(path, group, x=pa.array(x.tolist(), kind))
    read = FORMAT.read(path, tmp_path / "scratch")["x"]
    assert read.dtype == x.dtype
    np.testing.assert_array_equal(read, x)


# ── villains ──────────────────────────────────────────────────────────────────────────────


def refused(path, scratch, message):
    with pytest.raises(DataError, match=message) as caught:
        FORMAT.read(path, scratch)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3, None, 5]),
        pa.array([True, True, True, None, True]),
        pa.array(["a", "b", "c", None, "e"]),
        pa.array(["a", "b", "c", None, "e"]).dictionary_encode(),
        pa.array([[1, 2], [1, 2], [1, 2], None, [1, 2]]),
        pa.array([[1, 2], [1, 2], [1, 2], [1, None], [1, 2]]),
        pa.array([[1, 2], [1, 2], [1, 2], [1, None], [1, 2]], pa.list_(pa.int64(), 2)),
        pa.array([[1, 2], [1, 2], [1, 2], None, [1, 2]], pa.list_(pa.int64(), 2)),
        pa.array([[[1], [2]], [[1], [2]], [[1], [2]], [[1], None], [[1], [2]]]),
    ],
)
@pytest.mark.parametrize("group", [2, 10])
def test_a_null_is_named_by_column_and_row(path, scratch, column, group):
    write(path, group, fine=np.arange(5), x=column)
    refused(path, scratch, r"column 'x', row 3: the value is missing \(null\); fill it in")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [3, 4], [5, 6], [7]], "row 3: a list of 1 where the first row has 2"),
        ([[[1], [2]], [[1], [2, 3]]], "row 1: a list of 2 where the first row has 1"),
        ([[[1], [2]], [[1], [2]], [[1]]], "row 2: a list of 1 where the first row has 2"),
        ([[[1], [2, 3]], [[1], [2]]], "row 0: a list of 2 where the first row has 1"),
        ([[], []], "row 0: a list of 0.*at least one value long"),
        ([[1], []], "row 1: a list of 0 where the first row has 1"),
    ],
)
@pytest.mark.parametrize("group", [1, 10])
def test_ragged_lists_are_named_by_row(path, scratch, values, message, group):
    depth = 1 if not values[0] or isinstance(values[0][0], int) else 2
    kind = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    write(path, group, x=pa.array(values, kind))
    refused(path, scratch, rf"column 'x', {message}")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([decimal.Decimal("1.5")]),
        pa.array([datetime.date(2026, 1, 1)]),
        pa.array([datetime.datetime(2026, 1, 1)]),
        pa.array([datetime.timedelta(1)]),
        pa.array([{"a": 1}]),
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([[datetime.date(2026, 1, 1)]]),
        pa.array([None]),
    ],
)
def test_types_that_are_no_columns(path, scratch, column):
    write(path, x=column)
    refused(path, scratch, r"column 'x' is .+; a column holds booleans.*or leave it out")
    with pytest.raises(DataError, match="a column holds booleans"):
        FORMAT.columns(path)


def test_columns_of_one_name(path, scratch):
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]), path)
    refused(path, scratch, "holds 2 columns 'x'")


def test_damaged_pages(path, scratch):
    write(path, x=np.random.default_rng(0).random(5000))
    raw = bytearray(path.read_bytes())
    raw[4:200] = b"\xff" * 196
    path.write_bytes(raw)
    refused(path, scratch, "cannot be read")
    assert dict(FORMAT.columns(path)) == {"x": (5000,)}


def test_no_room_to_unpack(path, scratch, monkeypatch):
    write(path, x=np.zeros(1000), site=["abc"] * 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    refused(path, scratch, r"unpacks to 20,000 bytes, and .* has 100 free; make room")


# ── images and rows ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("group", [1, 3, 100])
@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_binary_columns_are_encoded_images(path, scratch, kind, group):
    images = [bytes([place]) * (place + 1) for place in range(7)]
    if kind == "struct":
        column = pa.array([{"bytes": image, "path": None} for image in images])
        column = column.cast(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    else:
        column = pa.array(images, getattr(pa, kind)())
    write(path, group, image=column, target=np.arange(7))
    assert dict(FORMAT.columns(path)) == {"image": (7,), "target": (7,)}
    read = FORMAT.read(path, scratch)["image"]
    assert (read.shape, read.dtype) == ((7,), object)
    assert read[:].tolist() == images
    assert read[2:4].tolist() == images[2:4]
    assert read[np.array([5, 1])].tolist() == [images[5], images[1]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"a", b"b", None]),
        pa.array([b"a", b"b", b""]),
        pa.array([{"bytes": b"a", "path": "a.png"}] * 2 + [{"bytes": None, "path": "c.png"}]),
    ],
)
def test_an_image_without_bytes_is_named(path, scratch, column):
    write(path, image=column)
    refused(path, scratch, "column 'image', row 2: the image's bytes are missing")


@pytest.mark.parametrize("group", [1, 100])
@pytest.mark.parametrize("inner", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
def test_a_target_of_lists_of_floats_is_ragged(path, scratch, group, inner):
    rows = [[[1, 2]], [], [[3, 4], [5, 6], [7, 8]], [[9, 10]]]
    write(path, group, x=np.arange(4), target=pa.array(rows, pa.list_(inner)))
    assert dict(FORMAT.columns(path)) == {"x": (4,), "target": (4, 2)}
    target = FORMAT.read(path, scratch)["target"]
    assert isinstance(target, Ragged)
    assert [target.entry(place).tolist() for place in range(4)] == rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[1.0]], None], r"row 1: the value is missing \(null\)"),
        ([[[1.0]], [None]], r"row 1: the value is missing \(null\)"),
        ([[[1.0]], [[None]]], r"row 1: the value is missing \(null\)"),
        ([[[1.0]], [[1.0, 2.0]]], "row 1: a row of 2 values where others have 1"),
        ([[[1.0], [1.0, 2.0]]], "row 0: its rows differ in length"),
        ([[[]]], "row 0: its rows differ in length, or are empty"),
    ],
)
def test_rows_that_are_refused(path, scratch, rows, message):
    write(path, target=pa.array(rows, pa.list_(pa.list_(pa.float64()))))
    refused(path, scratch, f"column 'target', {message}")
