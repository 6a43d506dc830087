"""What Parquet holds besides rectangles: encoded images, and rows of any number an example."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gate.errors import DataError
from gate.pictures import of_bytes
from gate.values import Array, Ragged

BATCH_ROWS = 64
_TARGET = "target"
_STRUCT = {"bytes", "path"}


def kind(name: str, declared: Any) -> Literal["encoded", "rows"] | None:
    """Encoded images are binary, or HuggingFace's struct of bytes and path; a target of lists of
    lists of floats is rows.
    """
    import pyarrow as pa

    types = pa.types
    if _is_binary(declared) or _is_image(declared):
        return "encoded"
    outer = types.is_list(declared) or types.is_large_list(declared)
    inner = declared.value_type if outer else None
    if name == _TARGET and inner is not None and _is_list(inner):
        return "rows" if types.is_floating(inner.value_type) else None
    return None


def _is_binary(declared: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(declared) or pa.types.is_large_binary(declared))


def _is_image(declared: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(declared):
        return False
    fields = {field.name: field.type for field in declared}
    return fields.keys() == _STRUCT and _is_binary(fields["bytes"])


def _is_list(declared: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool(
        types.is_list(declared)
        or types.is_large_list(declared)
        or types.is_fixed_size_list(declared)
    )


def stored_bytes(file: Any, name: str) -> int:
    """What a column takes unpacked, by the file's own account."""
    groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.")
    )


# ── encoded images ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Blobs:
    """A column of encoded images, one after another in a file."""

    data: Array
    """(M,) of uint8, mapped."""
    offsets: Array
    """(N + 1,) of int64."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,)."""
        return (len(self.offsets) - 1,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Objects, which are `bytes`."""
        return np.dtype(object)

    def __getitem__(self, index: Any, /) -> Array:
        """(B,) of bytes, by slice or indices."""
        ends = zip(self.offsets[:-1][index], self.offsets[1:][index], strict=True)
        return of_bytes([self.data[start:end].tobytes() for start, end in ends])


def unpack(where: str, arrays: Iterable[Any], target: Path) -> Blobs:
    """Write the images of a column to one file, batch after batch, and map it.

    Raises:
        DataError: an image is missing; names the row.
    """
    sizes: list[int] = []
    with target.open("xb") as stream:
        for array in arrays:
            for value in _images(array):
                if not value:
                    raise DataError(
                        f"{where}, row {len(sizes)}: the image's bytes are missing; store them in "
                        "the file, or leave the row out"
                    )
                stream.write(value)
                sizes.append(len(value))
    offsets = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))).astype(np.int64)
    data = np.memmap(target, np.uint8, "r") if sizes else np.zeros(0, dtype=np.uint8)
    return Blobs(data, offsets)


def _images(array: Any) -> list[bytes | None]:
    import pyarrow as pa

    if not pa.types.is_struct(array.type):
        return list(array.to_pylist())
    return [None if row is None else row["bytes"] for row in array.to_pylist()]


# ── rows ──────────────────────────────────────────────────────────────────────────────────


def rows(where: str, arrays: Iterable[Any]) -> Ragged:
    """Entries of any number of rows, all of one width; raises `DataError` that names the row."""
    entries: list[Array] = []
    width = 0
    for array in arrays:
        for value in array.to_pylist():
            entry = _entry(f"{where}, row {len(entries)}", value)
            width = width or (entry.shape[1] if len(entry) else 0)
            if len(entry) and entry.shape[1] != width:
                raise DataError(
                    f"{where}, row {len(entries)}: a row of {entry.shape[1]} values where others "
                    f"have {width}; every row needs the same"
                )
            entries.append(entry)
    return Ragged.of(entries, max(1, width))


def _entry(where: str, value: Any) -> Array:
    """(m, k), or (0, 0)."""
    if value is None or any(row is None or None in row for row in value):
        raise DataError(f"{where}: the value is missing (null); fill it in, or leave the row out")
    if len({len(row) for row in value}) > 1 or any(not row for row in value):
        raise DataError(
            f"{where}: its rows differ in length, or are empty; every row needs the same"
        )
    return np.array(value, dtype=np.float64) if value else np.zeros((0, 0))
