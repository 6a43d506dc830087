"""Reads columns out of NumPy's `.npz`, a zip that holds one `.npy` array a column."""

import lzma
import math
import mmap
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from gate import formats
from gate.errors import DataError
from gate.values import Array, Column, Ragged

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RuntimeError,  # NotImplementedError and RecursionError are such
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
_ENCRYPTED = 0x1
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_COPY_BLOCK = 1 << 20
_TARGET = "target"
_OFFSETS = f"{_TARGET}/offsets"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Npz:
    """Members stored uncompressed are mapped where they lie, others are unpacked once.

    A mapped member is not read to compare its checksum: a policy's `sha256` pin does that. A
    `target` (M, k) beside a `target/offsets` (N + 1,) is any number of rows an example.
    """

    key: str = "npz"
    suffixes: tuple[str, ...] = (".npz",)

    def read(self, path: Path, scratch: Path) -> Mapping[str, Column]:
        """Columns by member name, first axis N.

        Raises:
            DataError: not a whole zip of plain arrays with one common first axis; names the file
                and the member.
        """
        with _opened(path) as archive:
            members = _members(path, archive)
            _check_first_axes(path, members)
            packed = [member for member in members if not member.mappable]
            mapped = {m.name: _map_in_place(path, m) for m in members if m.mappable}
            unpacked = _unpack_all(path, archive, packed, scratch) if packed else {}
        columns = mapped | unpacked
        ordered = {member.name: columns[member.name] for member in members}
        return _with_rows(path, ordered) if _OFFSETS in ordered else ordered

    def columns(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Column names and shapes, from the members' headers alone."""
        with _opened(path) as archive:
            members = _members(path, archive)
        _check_first_axes(path, members)
        lengths = _lengths(path, members)
        return {
            member.name: (lengths[member.name], *member.shape[1:])
            for member in members
            if member.name != _OFFSETS
        }


FORMAT = Npz()


@dataclass(frozen=True, slots=True)
class _Member:
    """A `.npy` in the zip, as its header describes it."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    header: int
    """Bytes before the array's first element."""

    @property
    def name(self) -> str:
        return self.info.filename.removesuffix(".npy")

    @property
    def bytes(self) -> int:
        return self.header + math.prod(self.shape) * self.dtype.itemsize

    @property
    def mappable(self) -> bool:
        return self.info.compress_type == zipfile.ZIP_STORED


@dataclass(frozen=True, slots=True)
class _Native:
    """A column of the other byte order, swapped as it is read."""

    stored: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored.dtype.newbyteorder("=")

    def __getitem__(self, index: Any, /) -> Any:
        return np.asarray(self.stored[index], dtype=self.dtype)


class _Mapped(np.memmap[Any, Any]):
    """Gives copies, and the pages that it read, back: memory does not grow with what was read."""

    def __getitem__(self, index: Any, /) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, np.ndarray):
            found = np.array(found)
        mapping = self._mmap  # type: ignore[attr-defined]
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)
        return found


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the libraries raise into one plain sentence."""
    try:
        yield
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{what} cannot be read ({reason}): the file is truncated, damaged or not an .npz; "
            "write it again with numpy.savez"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _damage(str(path)):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def _members(path: Path, archive: zipfile.ZipFile) -> list[_Member]:
    infos = archive.infolist()
    if not infos:
        raise DataError(f"{path} holds no arrays; write it again with numpy.savez")
    for name, times in Counter(info.filename for info in infos).items():
        if times > 1:
            raise DataError(f"{path} holds {times} members {name!r}; keep one of them")
    return [_member(path, archive, info) for info in infos]


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    where = f"{path}: member {info.filename!r}"
    if info.filename in ("", ".npy") or not info.filename.endswith(".npy"):
        raise DataError(
            f"{where} is not a named .npy array; write the file with numpy.savez and nothing else"
        )
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{where} is encrypted; write the file again without a password")
    with _damage(where), archive.open(info) as stream:
        member = _described(info, stream)
    _check(where, member)
    return member


def _described(info: zipfile.ZipInfo, stream: IO[bytes]) -> _Member:
    """Read a `.npy` header; the format is that of `numpy.lib.format`, and runs no code."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of .npy, which only structured arrays need")
    shape, fortran, dtype = _HEADERS[version](stream)
    return _Member(info, shape, fortran, dtype, stream.tell())


def _check(where: str, member: _Member) -> None:
    _check_dtype(where, member.dtype)
    if member.shape == ():
        raise DataError(f"{where} is a single value; a column has a first axis of N examples")
    if min(member.shape) < 0 or 0 in member.shape[1:]:
        raise DataError(f"{where} has shape {member.shape}: every example needs a value")
    if member.info.file_size != member.bytes:
        raise DataError(
            f"{where} says that it is {member.info.file_size} bytes, but {member.shape} of "
            f"{member.dtype} is {member.bytes}; write the file again with numpy.savez"
        )


def _check_dtype(where: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects, which only a pickle can store, and loading a pickle "
            "can run code; store text as fixed-width unicode (`.astype(str)`) and numbers as one "
            "rectangular array"
        )
    if dtype.kind == "S":
        raise DataError(f"{where} holds bytes ({dtype}); store text with `.astype(str)`")
    if dtype.kind not in "biufU" or dtype.itemsize == 0 or dtype.name in ("float96", "float128"):
        raise DataError(
            f"{where} is {dtype}; a column holds booleans, integers, floats up to 64 bits or text"
        )


def _check_first_axes(path: Path, members: list[_Member]) -> None:
    lengths = _lengths(path, members)
    if len({*lengths.values()}) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(
            f"{path}: first axes differ ({shown}); every column needs one entry an example"
        )


def _lengths(path: Path, members: list[_Member]) -> dict[str, int]:
    """Examples by column; where a target has offsets, they tell."""
    lengths = {member.name: member.shape[0] for member in members}
    if _OFFSETS in lengths:
        shapes = {member.name: member.shape for member in members}
        ranks = len(shapes.get(_TARGET, ())), len(shapes[_OFFSETS])
        if ranks != (2, 1) or lengths[_OFFSETS] == 0:
            raise DataError(
                f"{path}: {_OFFSETS!r} {shapes[_OFFSETS]} needs N + 1 values and a {_TARGET!r} "
                "(M, k) beside it: entry i is its rows from value i to value i + 1"
            )
        lengths[_TARGET] = lengths.pop(_OFFSETS) - 1
    return lengths


def _with_rows(path: Path, columns: Mapping[str, Column]) -> dict[str, Column]:
    """The target and its offsets as one column, in memory."""
    values, offsets = np.array(columns[_TARGET][:]), np.array(columns[_OFFSETS][:])
    rising = offsets.dtype.kind in "iu" and (offsets[1:] >= offsets[:-1]).all()
    if (
        not rising
        or offsets[0] != 0
        or offsets[-1] != len(values)
        or values.dtype.kind not in "iuf"
    ):
        raise DataError(
            f"{path}: {_OFFSETS!r} must be integers that rise from 0 to the {len(values)} rows of "
            f"{_TARGET!r}, which are numbers"
        )
    rest = {name: column for name, column in columns.items() if name != _OFFSETS}
    return rest | {_TARGET: Ragged(values.astype(np.float64), offsets.astype(np.int64))}


def _map_in_place(path: Path, member: _Member) -> Column:
    with _damage(f"{path}: member {member.info.filename!r}"):
        start = _data_offset(path, member.info)
        if start + member.bytes > path.stat().st_size:
            raise ValueError("it ends before the array does")
        return _mapped(path, member, start + member.header)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: its local header may be longer than the directory's copy.

    Source: PKWARE APPNOTE 4.3.7.
    """
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise ValueError("no member begins where the directory says")
    return info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _unpack_all(
    path: Path, archive: zipfile.ZipFile, members: list[_Member], scratch: Path
) -> dict[str, Column]:
    folder = formats.unpacking_folder(scratch, path, sum(member.bytes for member in members))
    # numbered: a member's own name may lead out of the folder
    return {
        member.name: _unpack(path, archive, member, folder / f"{number}.npy")
        for number, member in enumerate(members)
    }


def _unpack(path: Path, archive: zipfile.ZipFile, member: _Member, file: Path) -> Column:
    with _damage(f"{path}: member {member.info.filename!r}"):
        with archive.open(member.info) as packed, file.open("xb") as unpacked:
            shutil.copyfileobj(packed, unpacked, _COPY_BLOCK)
        if file.stat().st_size != member.bytes:
            raise ValueError("it ends before the array does")
        return _mapped(file, member, member.header)


def _mapped(file: Path, member: _Member, offset: int) -> Column:
    if 0 in member.shape:
        return np.empty(member.shape, member.dtype.newbyteorder("="))
    order: Any = "F" if member.fortran else "C"
    array = _Mapped(file, member.dtype, "r", offset, member.shape, order)
    return array if array.dtype.isnative else _Native(array)
