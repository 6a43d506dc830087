"""What every registered format has to do; a new one adds its writer here."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gate import formats
from gate.errors import DataError, UsageError


def write_npz(path, columns):
    np.savez(path, **columns)


def write_parquet(path, columns):
    def arrow(values):
        flat = pa.array(values.reshape(-1))
        for size in reversed(values.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        return flat

    pq.write_table(pa.table({name: arrow(np.asarray(v)) for name, v in columns.items()}), path)


WRITERS = {"npz": write_npz, "parquet": write_parquet}
COLUMNS = {
    "image": np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3),
    "half": np.arange(7, dtype=np.float16),
    "bytes": np.arange(14, dtype=np.uint8).reshape(7, 2),
    "target": np.arange(7, dtype=np.int64),
    "flag": np.array([True, False] * 3 + [True]),
    "site": np.array(["north", "süd", "", "东", "north", "a\tb", "x" * 40]),
}


@pytest.fixture(params=sorted(formats.FORMATS))
def written(request, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / f"split.{request.param}"
    WRITERS[request.param](path, COLUMNS)
    return request.param, path


def test_its_key_and_suffix_find_it(written):
    key, path = written
    assert formats.get(key).key == key
    assert formats.of(path, None) is formats.get(key)
    assert formats.of(Path("unnamed.bin"), key) is formats.get(key)


def test_a_name_that_does_not_tell_lists_the_formats():
    with pytest.raises(UsageError, match=r"add `format:` with one of: npz, parquet"):
        formats.of(Path("data.bin"), None)


def test_columns_tells_names_and_shapes_as_read_gives_them(written, tmp_path):
    key, path = written
    shapes = {name: column.shape for name, column in COLUMNS.items()}
    assert dict(formats.get(key).columns(path)) == shapes
    read = formats.get(key).read(path, tmp_path / "scratch")
    assert {name: column.shape for name, column in read.items()} == shapes


def test_values_and_types_survive(written, tmp_path):
    key, path = written
    read = formats.get(key).read(path, tmp_path / "scratch")
    for name, expected in COLUMNS.items():
        assert read[name].dtype.kind == expected.dtype.kind
        assert expected.dtype.kind == "U" or read[name].dtype == expected.dtype
        np.testing.assert_array_equal(read[name][:], expected)
        np.testing.assert_array_equal(read[name][np.array([5, 1])], expected[[5, 1]])
        np.testing.assert_array_equal(read[name][2:4], expected[2:4])


def test_large_columns_stay_on_disk(written, tmp_path):
    key, path = written
    assert isinstance(formats.get(key).read(path, tmp_path / "scratch")["image"], np.memmap)


def test_the_sources_folder_is_not_written_to(written, tmp_path):
    key, path = written
    before = path.read_bytes()
    formats.get(key).read(path, tmp_path / "scratch")
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


def test_two_reads_share_a_scratch_folder(written, tmp_path):
    key, path = written
    first, second = (formats.get(key).read(path, tmp_path / "scratch") for _ in range(2))
    np.testing.assert_array_equal(first["image"][:], second["image"][:])


@pytest.mark.parametrize("keep", [0, 4, 50, -30])
def test_a_truncated_file_is_named(written, tmp_path, keep):
    key, path = written
    path.write_bytes(path.read_bytes()[:keep])
    for use in (
        lambda: formats.get(key).read(path, tmp_path / "scratch"),
        lambda: formats.get(key).columns(path),
    ):
        with pytest.raises(DataError, match=rf"{path.name}.* cannot be read \(.+write it again"):
            use()


def test_something_else_is_refused(written, tmp_path):
    key, path = written
    path.write_text("id,target\n1,2\n")
    with pytest.raises(DataError, match=f"{path.name}.* cannot be read"):
        formats.get(key).read(path, tmp_path / "scratch")


def test_a_folder_is_refused(written, tmp_path):
    key, _ = written
    with pytest.raises(DataError, match="cannot be read"):
        formats.get(key).read(tmp_path, tmp_path / "scratch")


def test_no_column_at_all_is_refused(written, tmp_path):
    key, path = written
    WRITERS[key](path, {})
    with pytest.raises(DataError, match=rf"{path.name} holds no"):
        formats.get(key).read(path, tmp_path / "scratch")


def test_no_examples_is_an_empty_column(written, tmp_path):
    key, path = written
    WRITERS[key](path, {"x": np.zeros((0, 3), np.float32), "target": np.zeros(0, np.int64)})
    read = formats.get(key).read(path, tmp_path / "scratch")
    assert {name: column.shape[0] for name, column in read.items()} == {"x": 0, "target": 0}


def test_finding_a_format_imports_nothing_heavy():
    code = (
        "import sys, pathlib, gate.formats as f; f.of(pathlib.Path('x.npz'), None);"
        "f.of(pathlib.Path('x.parquet'), None);"
        "print([m for m in ('pyarrow', 'pandas', 'scipy', 'onnx') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_full_disk_is_told_before_unpacking(tmp_path):
    with pytest.raises(DataError, match=r"big\.npz unpacks to 1,0.* make room, or set TMPDIR"):
        formats.unpacking_folder(tmp_path / "scratch", Path("big.npz"), 10**24)
    assert list((tmp_path / "scratch").iterdir()) == []
