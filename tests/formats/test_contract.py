"""What every registered format has to do; a new one adds its writer here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import encoded, pixels

from gate import formats
from gate.errors import DataError, UsageError
from gate.pictures import Files
from gate.values import Ragged


def write_npz(path, columns):
    np.savez(path, **columns)


def write_parquet(path, columns):
    def arrow(values):
        flat = pa.array(values.reshape(-1))
        for size in reversed(values.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        return flat

    pq.write_table(pa.table({name: arrow(np.asarray(v)) for name, v in columns.items()}), path)


def write_jsonl(path, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    lines = [json.dumps({name: np.asarray(v).tolist() for name, v in row.items()}) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))


COLUMNS = {
    "image": np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3) + np.float32(0.5),
    "half": np.arange(7, dtype=np.float16) + np.float16(0.5),
    "bytes": np.arange(14, dtype=np.uint8).reshape(7, 2),
    "target": np.arange(7, dtype=np.int64),
    "flag": np.array([True, False] * 3 + [True]),
    "site": np.array(["north", "süd", "", "东", "north", "a\tb", "x" * 40]),
}
TYPED = {"npz": write_npz, "parquet": write_parquet}
TABLES = TYPED | {"jsonl": write_jsonl}


def a_table(key):
    def write(folder):
        path = folder / f"split.{key}"
        TABLES[key](path, COLUMNS)
        return path, COLUMNS

    return write


def _images(folder, names):
    data = [encoded(pixels(6, 4, seed=seed)) for seed in range(len(names))]
    for name, content in zip(names, data, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    column = np.empty(len(data), dtype=object)
    column[:] = data
    return column


def an_image_folder(folder):
    names = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(4)]
    images = _images(folder, names)
    return folder, {
        "image": images,
        "id": np.array(names),
        "target": np.array(["cat"] * 4 + ["dog"] * 4),
    }


def a_coco(folder):
    names = [f"{number}.png" for number in range(7)]
    document = {
        "images": [
            {"id": 10 * place, "file_name": name, "width": 6, "height": 4}
            for place, name in enumerate(names)
        ],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 7, "bbox": [1, 1, 2, 3], "area": 5.5},
            {"id": 2, "image_id": 20, "category_id": 3, "bbox": [0, 0.5, 6, 3], "iscrowd": 1},
            {"id": 3, "image_id": 0, "category_id": 7, "bbox": [0, 0, 1, 1]},
        ],
    }
    path = folder / "split.json"
    path.write_text(json.dumps(document))
    image = [-1, 0, 0, 6, 4, 24, 0]
    entries = [[image] for _ in names]
    entries[2] += [[1, 1, 1, 3, 4, 5.5, 0], [0, 0, 0.5, 6, 3.5, 18, 1]]
    entries[0] += [[1, 0, 0, 1, 1, 1, 0]]
    target = Ragged.of([np.array(entry, dtype=float) for entry in entries], 7)
    return path, {"image": _images(folder, names), "id": np.array(names), "target": target}


WRITERS = {key: a_table(key) for key in TABLES} | {"image_folder": an_image_folder, "coco": a_coco}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(params=sorted(formats.FORMATS))
def sample(request, folder):
    return request.param, *WRITERS[request.param](folder)


@pytest.fixture(params=sorted(TABLES))
def written(request, folder):
    return request.param, WRITERS[request.param](folder)[0]


@pytest.fixture(params=sorted({*formats.FORMATS} - {"image_folder"}))
def file(request, folder):
    return request.param, WRITERS[request.param](folder)[0]


def assert_same(found, expected):
    if isinstance(expected, Ragged):
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
    else:
        np.testing.assert_array_equal(found, expected)


def test_its_key_and_suffix_find_it(sample):
    key, path, _ = sample
    assert formats.get(key).key == key
    assert formats.of(path, None) is formats.get(key)
    assert formats.of(Path("unnamed.bin"), key) is formats.get(key)


def test_a_name_that_does_not_tell_lists_the_formats():
    with pytest.raises(UsageError, match=r"add `format:` with one of: .*npz, parquet"):
        formats.of(Path("data.bin"), None)


def test_columns_tells_names_and_shapes_as_read_gives_them(sample, tmp_path):
    key, path, expected = sample
    shapes = {name: column.shape for name, column in expected.items()}
    assert dict(formats.get(key).columns(path)) == shapes
    read = formats.get(key).read(path, tmp_path / "scratch")
    assert {name: column.shape for name, column in read.items()} == shapes


def test_values_and_types_survive(sample, tmp_path):
    key, path, columns = sample
    read = formats.get(key).read(path, tmp_path / "scratch")
    for name, expected in columns.items():
        kind = expected.dtype.kind
        assert read[name].dtype.kind == (kind if key != "jsonl" or kind != "u" else "i")
        assert key not in TYPED or kind == "U" or read[name].dtype == expected.dtype
        assert_same(read[name][:], expected)
        assert_same(read[name][np.array([5, 1])], expected[np.array([5, 1])])
        assert_same(read[name][2:4], expected[2:4])


def test_large_columns_stay_on_disk(sample, tmp_path):
    key, path, _ = sample
    image = formats.get(key).read(path, tmp_path / "scratch")["image"]
    assert isinstance(image, np.memmap if key in TABLES else Files)


def test_the_sources_folder_is_not_written_to(sample, tmp_path, folder):
    key, path, _ = sample

    def content():
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    before = content()
    formats.get(key).read(path, tmp_path / "scratch")
    formats.get(key).columns(path)
    assert content() == before


def test_two_reads_share_a_scratch_folder(sample, tmp_path):
    key, path, _ = sample
    first, second = (formats.get(key).read(path, tmp_path / "scratch") for _ in range(2))
    np.testing.assert_array_equal(first["image"][:], second["image"][:])


def test_only_formats_that_name_images_take_their_folder(sample, tmp_path):
    key, path, columns = sample
    images = path if path.is_dir() else path.parent
    if key in ("coco", "jsonl"):
        read = formats.read(path, None, tmp_path / "scratch", images)
        assert_same(read["image"][:], columns["image"])
    else:
        with pytest.raises(UsageError, match=f"is for formats that name images, and .* is {key}"):
            formats.read(path, None, tmp_path / "scratch", images)


@pytest.mark.parametrize("keep", [0, 4, 50, -30])
def test_a_truncated_file_is_named(file, tmp_path, keep):
    key, path = file
    path.write_bytes(path.read_bytes()[:keep])
    for use in (
        lambda: formats.get(key).read(path, tmp_path / "scratch"),
        lambda: formats.get(key).columns(path),
    ):
        with pytest.raises(DataError, match=rf"{path.name}.* cannot be read \(.+write it again"):
            use()


def test_something_else_is_refused(file, tmp_path):
    key, path = file
    path.write_text("id,target\n1,2\n")
    with pytest.raises(DataError, match=f"{path.name}.* cannot be read"):
        formats.get(key).read(path, tmp_path / "scratch")


def test_a_folder_is_refused(file, tmp_path):
    key, _ = file
    with pytest.raises(DataError, match="cannot be read"):
        formats.get(key).read(tmp_path, tmp_path / "scratch")


def test_no_column_at_all_is_refused(written, tmp_path):
    key, path = written
    TABLES[key](path, {})
    with pytest.raises(DataError, match=rf"{path.name} holds no"):
        formats.get(key).read(path, tmp_path / "scratch")


@pytest.mark.parametrize("key", TYPED)
def test_no_examples_is_an_empty_column(key, tmp_path):
    path = tmp_path / "empty"
    TYPED[key](
        path.with_suffix(f".{key}"),
        {"x": np.zeros((0, 3), np.float32), "target": np.zeros(0, np.int64)},
    )
    read = formats.get(key).read(path.with_suffix(f".{key}"), tmp_path / "scratch")
    assert {name: column.shape[0] for name, column in read.items()} == {"x": 0, "target": 0}


def test_finding_a_format_imports_nothing_heavy():
    code = (
        "import sys, pathlib, gate.formats as f; f.of(pathlib.Path('.'), None);"
        "[f.of(pathlib.Path(f'x.{s}'), None) for s in ('npz', 'parquet', 'json', 'jsonl')];"
        "print([m for m in ('PIL', 'pyarrow', 'pandas', 'scipy', 'onnx') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_full_disk_is_told_before_unpacking(tmp_path):
    with pytest.raises(DataError, match=r"big\.npz unpacks to 1,0.* make room, or set TMPDIR"):
        formats.unpacking_folder(tmp_path / "scratch", Path("big.npz"), 10**24)
    assert list((tmp_path / "scratch").iterdir()) == []
