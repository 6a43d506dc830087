import io
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gate.errors import DataError
from gate.formats.npz import FORMAT
from gate.values import Ragged


def npy(array, **kwargs):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), **kwargs)
    return buffer.getvalue()


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(path, scratch, message):
    with pytest.raises(DataError, match=message) as caught:
        FORMAT.read(path, scratch)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError):
        FORMAT.columns(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "split.npz"


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch"


# ── reading ───────────────────────────────────────────────────────────────────────────────


def test_stored_members_are_mapped_in_place(path, scratch):
    np.savez(path, x=np.arange(12.0).reshape(4, 3), target=np.arange(4))
    read = FORMAT.read(path, scratch)
    assert not scratch.exists()
    assert isinstance(read["x"], np.memmap)
    assert read["x"].filename == path
    with pytest.raises(ValueError, match="read-only"):
        read["x"][0] = 1


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packed_members_are_unpacked_once_and_mapped(path, scratch, compression):
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    zipped(path, {"x.npy": npy(x), "y.npy": npy(x + 1)}, compression)
    read = FORMAT.read(path, scratch)
    assert list(read) == ["x", "y"]
    assert isinstance(read["x"], np.memmap)
    assert scratch in read["x"].filename.parents
    np.testing.assert_array_equal(read["x"], x)
    np.testing.assert_array_equal(read["y"], x + 1)


def test_extra_fields_of_the_local_header_are_skipped(path, scratch):
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x.npy")
        info.extra = struct.pack("<HH5s", 0x7777, 5, b"extra")
        archive.writestr(info, npy(np.arange(5)))
        with archive.open("y.npy", "w", force_zip64=True) as stream:
            stream.write(npy(np.arange(5) * 2))
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())  # a self-extracting zip's preamble
    read = FORMAT.read(path, scratch)
    np.testing.assert_array_equal(read["x"], np.arange(5))
    np.testing.assert_array_equal(read["y"], np.arange(5) * 2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_byte_order_and_fortran_order_are_normalised(path, scratch, save):
    x = np.asfortranarray(np.arange(24, dtype=">f4").reshape(4, 3, 2))
    save(path, x=x, text=np.array(["é", "b", "", "d"], dtype=">U3"))
    read = FORMAT.read(path, scratch)
    assert read["x"].dtype == np.dtype(np.float32)
    assert read["x"].dtype.isnative
    assert read["x"].shape == (4, 3, 2)
    np.testing.assert_array_equal(read["x"][np.array([3, 0])], x[[3, 0]])
    assert read["x"][1:3].dtype.isnative
    assert read["text"][:].tolist() == ["é", "b", "", "d"]


def test_member_names_are_only_names(path, scratch, tmp_path):
    x = npy(np.arange(3))
    zipped(path, {"../../evil.npy": x, "/abs.npy": x, "a/b:0.npy": x}, zipfile.ZIP_DEFLATED)
    read = FORMAT.read(path, scratch)
    assert set(read) == {"../../evil", "/abs", "a/b:0"}
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p != path]
    assert all(scratch in p.parents for p in written)
    assert sorted(p.name for p in written) == ["0.npy", "1.npy", "2.npy"]


def test_npy_version_2_is_read(path, scratch):
    zipped(path, {"x.npy": npy(np.arange(3), version=(2, 0))})
    np.testing.assert_array_equal(FORMAT.read(path, scratch)["x"], np.arange(3))


def test_unpacking_takes_constant_memory(path, scratch):
    np.savez_compressed(path, x=np.zeros((64, 1 << 18), np.float32))  # 64 MiB
    tracemalloc.start()
    read = FORMAT.read(path, scratch)
    total = sum(float(read["x"][row].sum()) for row in range(64))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 0
    assert peak < 8 << 20


def test_columns_reads_headers_only(path, scratch):
    np.savez_compressed(path, x=np.random.default_rng(0).random((500, 5)))
    raw = bytearray(path.read_bytes())
    raw[-2000:-1000] = bytes(1000)
    path.write_bytes(raw)
    assert dict(FORMAT.columns(path)) == {"x": (500, 5)}
    with pytest.raises(DataError):
        FORMAT.read(path, scratch)


# ── villains ──────────────────────────────────────────────────────────────────────────────


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pickles_are_never_loaded(path, scratch, save):
    save(path, x=np.zeros(1), id=np.array([Bomb()], dtype=object))
    refused(path, scratch, r"member 'id\.npy' holds Python objects.*store text as fixed-width")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([b"a", b"b"]), r"holds bytes \(\|S1\); store text with `\.astype\(str\)`"),
        (np.array([1 + 2j]), "is complex128; a column holds"),
        (np.array(["2026-01-01"], dtype="M8[D]"), r"is datetime64\[D\]; a column holds"),
        (np.zeros(2, dtype=[("a", "f4")]), "a column holds booleans"),
        (np.zeros(2, dtype="V4"), "a column holds"),
        (np.zeros(2, dtype=np.longdouble), "floats up to 64 bits"),
        (np.array(5.0), "is a single value; a column has a first axis"),
        (np.zeros((3, 0)), r"has shape \(3, 0\): every example needs a value"),
    ],
)
def test_arrays_that_are_no_columns(path, scratch, array, message):
    np.savez(path, x=array)
    refused(path, scratch, rf"member 'x\.npy'.*{message}")


def test_first_axes_that_differ_are_all_named(path, scratch):
    np.savez(path, x=np.zeros((3, 2)), target=np.zeros(4), site=np.zeros(3))
    refused(path, scratch, r"first axes differ \(x 3, target 4, site 3\)")


@pytest.mark.parametrize("name", ["notes.txt", "x.npy.bak", ".npy", "folder/"])
def test_members_that_are_not_arrays(path, scratch, name):
    zipped(path, {"x.npy": npy(np.zeros(2)), name: b""})
    refused(path, scratch, f"member {name!r} is not a named .npy array")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00" + b"\x10\x00" + b" " * 16],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bad_npy_headers(path, scratch, content, compression):
    zipped(path, {"x.npy": content}, compression)
    refused(path, scratch, r"member 'x\.npy' cannot be read \(.+\)")


def with_header(text):
    body = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,",
        "{'descr': '<f4', 'shape': (3,)}",
        "{'descr': '<f4', 1: 2, 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<q9', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 'abc'}",
        "__import__('os').abort()",
        "[" * 110,
    ],
)
def test_hostile_npy_headers(path, scratch, text):
    zipped(path, {"x.npy": with_header(text)})
    refused(path, scratch, r"member 'x\.npy' cannot be read")


@pytest.mark.parametrize("shape", ["(10**15,)", "(1000000000000000,)", "(-1,)", "(-2, -2)"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_shape_that_is_not_the_members_size(path, scratch, shape, compression):
    header = with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")
    zipped(path, {"x.npy": header + bytes(16)}, compression)
    refused(path, scratch, r"member 'x\.npy'")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(path, scratch):
    array = npy(np.zeros(4, np.float32))
    zipped(path, {"x.npy": array + bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    refused(path, scratch, r"says that it is 1048720 bytes, but \(4,\) of float32 is 144")
    assert not scratch.exists()


def test_a_declared_size_that_the_stream_does_not_have(path, scratch):
    content = npy(np.zeros(1000, np.float32))
    zipped(path, {"x.npy": content[:-400]}, zipfile.ZIP_DEFLATED)
    raw = path.read_bytes()
    sizes = struct.pack("<L", len(content) - 400), struct.pack("<L", len(content))
    assert raw.count(sizes[0]) == 2
    path.write_bytes(raw.replace(*sizes))
    with pytest.raises(DataError, match=r"member 'x\.npy' cannot be read"):
        FORMAT.read(path, scratch)


def test_a_damaged_stream(path, scratch):
    content = np.random.default_rng(0).integers(0, 9, 5000)
    np.savez_compressed(path, x=content)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 20] = b"\xff" * 20
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"member 'x\.npy' cannot be read"):
        FORMAT.read(path, scratch)


def test_an_encrypted_member(path, scratch):
    zipped(path, {"x.npy": npy(np.zeros(2))})
    raw = bytearray(path.read_bytes())
    raw[6] |= 1  # local header
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # central directory
    path.write_bytes(raw)
    refused(path, scratch, r"member 'x\.npy' is encrypted; write the file again without a password")


def test_members_of_one_name(path, scratch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as archive:
            for _ in range(2):
                archive.writestr("x.npy", npy(np.zeros(2)))
    refused(path, scratch, r"holds 2 members 'x\.npy'; keep one")


def test_no_room_to_unpack(path, scratch, monkeypatch):
    np.savez_compressed(path, x=np.zeros(1000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(DataError, match=r"unpacks to 8,128 bytes, and .* has 100 free; make room"):
        FORMAT.read(path, scratch)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.booleans())
def test_any_damage_is_a_data_error_or_harmless(tmp_path, data, packed):
    path = tmp_path / "fuzz.npz"
    save = np.savez_compressed if packed else np.savez
    save(path, x=np.arange(6, dtype=np.float32).reshape(3, 2), site=np.array(["a", "b", "c"]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        columns = FORMAT.read(path, tmp_path / "scratch")
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert all(len(column[:]) == column.shape[0] for column in columns.values())


# ── targets of any number of rows ─────────────────────────────────────────────────────────


def ragged(path, values, offsets, n=3):
    np.savez(path, **{"x": np.zeros(n), "target": values, "target/offsets": offsets})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_target_with_offsets(path, scratch, save):
    values = np.arange(10.0).reshape(5, 2)
    save(path, **{"x": np.zeros(3), "target": values, "target/offsets": np.array([0, 2, 2, 5])})
    read = FORMAT.read(path, scratch)
    assert {name: column.shape for name, column in read.items()} == {"x": (3,), "target": (3, 2)}
    assert dict(FORMAT.columns(path)) == {"x": (3,), "target": (3, 2)}
    assert isinstance(read["target"], Ragged)
    assert [len(read["target"].entry(place)) for place in range(3)] == [2, 0, 3]
    np.testing.assert_array_equal(read["target"].values, values)


@pytest.mark.parametrize("offsets", [[1, 2, 2, 5], [0, 3, 2, 5], [0, 2, 2, 4], [0.0, 2, 2, 5]])
def test_offsets_that_do_not_partition_the_rows(path, scratch, offsets):
    ragged(path, np.zeros((5, 2)), np.array(offsets))
    with pytest.raises(DataError, match="must be integers that rise from 0 to the 5 rows"):
        FORMAT.read(path, scratch)


def test_offsets_need_a_target_of_rows(path, scratch):
    ragged(path, np.zeros(5), np.array([0, 2, 2, 5]))
    refused(path, scratch, r"'target/offsets' \(4,\) needs N \+ 1 values and a 'target' \(M, k\)")
    np.savez(path, **{"x": np.zeros(3), "target/offsets": np.array([0, 2, 2, 5])})
    refused(path, scratch, r"needs N \+ 1 values and a 'target'")


def test_offsets_of_other_examples_than_there_are(path, scratch):
    ragged(path, np.zeros((5, 2)), np.array([0, 2, 5]))
    refused(path, scratch, r"first axes differ \(x 3, target 2\)")
