"""Reads columns out of Parquet, batch by batch, into arrays that are mapped from disk."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gate import formats
from gate.errors import DataError
from gate.formats import _parquet_objects as objects
from gate.values import Array, Column

_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 16384
_READ_AHEAD = 1 << 20


class Parquet:
    """Numbers, booleans, text, and lists or fixed-shape tensors of them; encoded images.

    Binary columns are encoded images, and so are HuggingFace's structs of `bytes` and `path`. A
    `target` of lists of lists of floats has any number of rows an example.
    """

    key: str = "parquet"
    suffixes: tuple[str, ...] = (".parquet", ".pq")

    def read(self, path: Path, scratch: Path) -> Mapping[str, Column]:
        """Columns by name, first axis N; lists of equal length become further axes.

        Raises:
            DataError: damaged file, missing value, ragged list or a type that is not numbers,
                booleans or text; names the column, and the row counting from 0.
        """
        with _damage(path), _opened(path) as file:
            layouts = [_measured(file, layout) for layout in _layouts(path, file)]
            special = _special(file)
            size = sum(layout.bytes for layout in layouts)
            size += sum(objects.stored_bytes(file, name) for name in special)
            folder = formats.unpacking_folder(scratch, path, size)
            columns: dict[str, Column] = {
                layout.name: _unpack(file, layout, folder / f"{number}.npy")
                for number, layout in enumerate(layouts)
            }
            for number, (name, kind) in enumerate(special.items()):
                where, arrays = f"{path}: column {name!r}", _objects(path, file, name)
                columns[name] = (
                    objects.unpack(where, arrays, folder / f"{number}.bin")
                    if kind == "encoded"
                    else objects.rows(where, arrays)
                )
            return {name: columns[name] for name in file.schema_arrow.names}

    def columns(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Column names and shapes, from the schema and, for plain lists, the first row."""
        with _damage(path), _opened(path) as file:
            shapes = {layout.name: layout.shape for layout in _layouts(path, file)}
            for name, kind in _special(file).items():
                shapes[name] = (file.metadata.num_rows,)
                if kind == "rows":
                    where = f"{path}: column {name!r}"
                    shapes[name] = objects.rows(where, _objects(path, file, name)).shape
            return {name: shapes[name] for name in file.schema_arrow.names}


FORMAT = Parquet()


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a column becomes as an array."""

    where: str
    name: str
    rows: int
    inner: tuple[int, ...]
    """Lengths of the lists, outermost first, as stored."""
    tensor: tuple[int, ...] | None
    """Stored shape of a fixed-shape tensor, whose storage is one flat list."""
    permutation: tuple[int, ...]
    """Of a fixed-shape tensor: the stored axis behind each axis."""
    dtype: np.dtype[Any]
    """Text has one character here until it is measured."""

    @property
    def shape(self) -> tuple[int, ...]:
        stored = self.inner if self.tensor is None else self.tensor
        return (self.rows, *(stored[axis] for axis in self.permutation))

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def batch(self) -> int:
        """Rows to read at once."""
        row = math.prod(self.inner) * self.dtype.itemsize
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row)))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes pyarrow raise into one plain sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{path} cannot be read ({error}): the file is truncated, damaged or not Parquet; "
            "write it again"
        ) from error


def _opened(path: Path) -> Any:
    import pyarrow.parquet as pq

    # buffered and not pre-read: a row group of any size takes constant memory
    return pq.ParquetFile(path, buffer_size=_READ_AHEAD, pre_buffer=False)


# ── types ─────────────────────────────────────────────────────────────────────────────────


def _layouts(path: Path, file: Any) -> list[_Layout]:
    names = file.schema_arrow.names
    for name, times in Counter(names).items():
        if times > 1:
            raise DataError(f"{path} holds {times} columns {name!r}; rename all but one")
    if not names:
        raise DataError(f"{path} holds no columns; write it again")
    return [
        _layout(path, file, field)
        for field in file.schema_arrow
        if objects.kind(field.name, field.type) is None
    ]


def _special(file: Any) -> dict[str, str]:
    """Columns that are no rectangles, and what they are."""
    kinds = {field.name: objects.kind(field.name, field.type) for field in file.schema_arrow}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _objects(path: Path, file: Any, name: str) -> Iterator[Any]:
    return _batches(f"{path}: column {name!r}", file, name, objects.BATCH_ROWS)


def _layout(path: Path, file: Any, field: Any) -> _Layout:
    where = f"{path}: column {field.name!r}"
    storage, tensor, permutation = _tensor(where, field.type)
    leaf, depth = _leaf(storage)
    dtype = _dtype(where, leaf, field.type)
    inner = _inner(where, file, field.name, storage, depth)
    return _Layout(
        where=where,
        name=field.name,
        rows=file.metadata.num_rows,
        inner=inner,
        tensor=tensor,
        permutation=permutation or tuple(range(len(tensor or inner))),
        dtype=dtype,
    )


def _tensor(where: str, kind: Any) -> tuple[Any, tuple[int, ...] | None, tuple[int, ...]]:
    """Storage type, stored shape and permutation of a fixed-shape tensor; else the type itself.

    Source: Arrow's canonical extension type `arrow.fixed_shape_tensor`. pyarrow 25 writes the
    inverse of the permutation that the specification defines, so only those that are their own
    inverse mean one thing.
    """
    import pyarrow as pa

    if not isinstance(kind, pa.FixedShapeTensorType):
        return kind, None, ()
    permutation = tuple(kind.permutation or ())
    if any(permutation[axis] != back for back, axis in enumerate(permutation)):
        raise DataError(
            f"{where} is a tensor with the axis permutation {permutation}, which writers and "
            "readers of Parquet understand in two ways; store it without one "
            "(`numpy.ascontiguousarray`)"
        )
    return kind.storage_type, tuple(kind.shape), permutation


def _leaf(kind: Any) -> tuple[Any, int]:
    """What the innermost lists hold, and how many lists deep it lies."""
    import pyarrow as pa

    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return (kind.value_type if pa.types.is_dictionary(kind) else kind), depth


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _dtype(where: str, leaf: Any, declared: Any) -> np.dtype[Any]:
    import pyarrow as pa

    if _is_text(leaf):
        return np.dtype("U1")
    if pa.types.is_integer(leaf) or pa.types.is_floating(leaf) or pa.types.is_boolean(leaf):
        dtype: np.dtype[Any] = np.dtype(leaf.to_pandas_dtype())
        return dtype
    raise DataError(
        f"{where} is {declared}; a column holds booleans, integers, floats, text, lists of them, "
        "or encoded images: convert it (a date to text, a decimal to float64), or leave it out"
    )


def _inner(where: str, file: Any, name: str, storage: Any, depth: int) -> tuple[int, ...]:
    """Lengths of the lists: declared for fixed-size ones, else those of the first row."""
    import pyarrow as pa

    kind, sizes = storage, []
    while pa.types.is_fixed_size_list(kind):
        sizes.append(int(kind.list_size))
        kind = kind.value_type
    if len(sizes) == depth:
        return tuple(sizes)
    first = next(iter(_batches(where, file, name, rows=1)), None)
    if first is None:
        return (0,) * depth
    return _unnest(where, first, start=0, expected=None)[1]


# ── values ────────────────────────────────────────────────────────────────────────────────


def _batches(where: str, file: Any, name: str, rows: int) -> Iterator[Any]:
    import pyarrow as pa

    start = 0
    try:
        for batch in file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
            array = batch.column(name)
            yield getattr(array, "storage", array)
            start += len(array)
    except pa.ArrowInvalid as error:
        # how pyarrow meets a null in place of a fixed-size list, without saying in which row
        if "Expected all lists to be of size" not in str(error):
            raise
        if rows > 1:
            start = sum(1 for _ in _batches(where, file, name, rows=1))
        raise DataError(
            f"{where}, row {start}: the value is missing (null); fill it in, or leave the row out"
        ) from error


def _unnest(
    where: str, array: Any, *, start: int, expected: tuple[int, ...] | None
) -> tuple[Any, tuple[int, ...]]:
    """The innermost values of `array`, flat, and the lengths of the lists around them.

    `start` is the row that `array` begins at. Without `expected` its first list is what the
    others have to equal.
    """
    inner: tuple[int, ...] = ()
    _refuse_nulls(where, array, start, inner)
    while _is_list(array.type):
        lengths = _lengths(array)
        size = int(lengths[0]) if expected is None else expected[len(inner)]
        _refuse_ragged(where, lengths, size, start, inner)
        array, inner = array.flatten(), (*inner, size)
        _refuse_nulls(where, array, start, inner)
    return array, inner


def _lengths(array: Any) -> Array:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size)
    return np.asarray(array.value_lengths().to_numpy(zero_copy_only=False))


def _refuse_ragged(
    where: str, lengths: Array, size: int, start: int, inner: tuple[int, ...]
) -> None:
    ragged = np.flatnonzero(lengths != size)
    if ragged.size or size == 0:
        item = int(ragged[0]) if ragged.size else 0
        raise DataError(
            f"{where}, row {start + item // math.prod(inner)}: a list of {int(lengths[item])} "
            f"where the first row has {size}; every example needs the same shape, at least one "
            "value long: pad it, or leave the row out"
        )


def _refuse_nulls(where: str, array: Any, start: int, inner: tuple[int, ...]) -> None:
    plain = _decoded(array)
    if plain.null_count:
        item = int(np.flatnonzero(plain.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(
            f"{where}, row {start + item // math.prod(inner)}: the value is missing (null); "
            "fill it in, or leave the row out"
        )


def _decoded(array: Any) -> Any:
    import pyarrow as pa

    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _measured(file: Any, layout: _Layout) -> _Layout:
    """The same layout, with text as wide as its longest value."""
    if layout.dtype.kind != "U":
        return layout
    width = max(
        (_width(array) for array in _batches(layout.where, file, layout.name, 1024)), default=1
    )
    return replace(layout, dtype=np.dtype(f"U{max(1, width)}"))


def _width(array: Any) -> int:
    from pyarrow import compute

    while _is_list(array.type):
        array = array.flatten()
    return int(compute.max(compute.utf8_length(_decoded(array))).as_py() or 0)


def _unpack(file: Any, layout: _Layout, target: Path) -> Column:
    """Write a column as `.npy`, batch after batch, and map it."""
    with target.open("xb") as stream:
        header = {
            "descr": np.lib.format.dtype_to_descr(layout.dtype),
            "fortran_order": False,
            "shape": layout.shape,
        }
        np.lib.format.write_array_header_1_0(stream, header)
        start = 0
        for array in _batches(layout.where, file, layout.name, layout.batch):
            _values(layout, array, start).tofile(stream)
            start += len(array)
    if start != layout.rows:
        raise ValueError(f"column {layout.name!r} has {start} of {layout.rows} rows")
    if layout.bytes == 0:
        return np.empty(layout.shape, layout.dtype)
    return np.lib.format.open_memmap(target, mode="r")


def _values(layout: _Layout, array: Any, start: int) -> Array:
    """One batch as an array (B, …), C-contiguous."""
    flat, _ = _unnest(layout.where, array, start=start, expected=layout.inner)
    values = _decoded(flat).to_numpy(zero_copy_only=False).astype(layout.dtype, copy=False)
    stored = layout.inner if layout.tensor is None else layout.tensor
    axes = (0, *(axis + 1 for axis in layout.permutation))
    return np.ascontiguousarray(values.reshape(len(array), *stored).transpose(axes))
