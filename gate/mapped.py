"""Arrays that lie on disk and are read where they lie; what was read of them is given back.

Pages that a program has read of a file stay counted as its memory until somebody wants them, and
a machine or a container that is short of memory may kill it first. They can be given back at any
time: what is read again comes out of the file again.
"""

import math
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gate.errors import DataError

WINDOW = 1 << 20
"""Bytes that are read at once."""


def opened(file: Path | IO[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """What `file` holds, `shape` of `dtype` in C order, for reading; it must not be empty."""
    return np.asarray(np.memmap(file, dtype=dtype, mode="r", shape=shape))


def laid(values: NDArray[Any]) -> NDArray[Any]:
    """The same values, read-only, on disk where they are more than a window.

    Raises:
        DataError: as `laid_out`.
    """
    return values if values.nbytes <= WINDOW else laid_out(values[part] for part in windows(values))


def laid_out(blocks: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Blocks (B, …), one at least, one after another in a file that goes with the array.

    A single block stays in memory.

    Raises:
        DataError: the disk is full, or refuses.
    """
    coming = iter(blocks)
    first = list(islice(coming, 2))
    if len(first) == 1:
        return first[0]
    dtype, tail, count = first[0].dtype, first[0].shape[1:], 0
    try:
        with tempfile.TemporaryFile(prefix="gate-") as file:
            for block in chain(first, coming):
                if block.dtype != dtype or dtype.hasobject:
                    raise ValueError(f"blocks are {dtype} and {block.dtype}")
                file.write(block.tobytes())
                count += len(block)
            file.flush()
            return opened(file, dtype, (count, *tail))
    except OSError as error:
        raise DataError(
            f"what is known of examples cannot be written to {tempfile.gettempdir()}: "
            f"{error.strerror}. Free the disk, or set TMPDIR to one with room"
        ) from error


def give_back(*arrays: NDArray[Any] | None) -> None:
    """Let go of what was read of these, views of them too; no more than advice elsewhere."""
    for array in arrays:
        mapping = _mapping(array)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


def windows(values: NDArray[Any], like: Any = None) -> Iterator[slice]:
    """Consecutive rows, a megabyte at a time; each is given back as the next one is asked for.

    Rows are as large as those of `like`, which has a shape and a dtype; by default of `values`.
    """
    step = _rows_at_once(values if like is None else like)
    for start in range(0, len(values), step):
        yield slice(start, min(start + step, len(values)))
        give_back(values)


def each(function: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any]) -> NDArray[Any]:
    """(N,) or (N, …) that `function` makes of rows (B, …), each of them by itself."""
    parts = [function(values[part]) for part in windows(values)]
    return np.concatenate(parts) if parts else function(values)


def take(values: NDArray[Any], index: Any) -> NDArray[Any]:
    """`values[index]`, of places (n,) or a mask (N,), as a copy.

    What lies on disk is read in the order of the file, whatever the order of the places, so that
    no more of it than a window is in memory beside the copy.
    """
    if _mapping(values) is None:
        return np.asarray(values[index])
    places = np.flatnonzero(index) if index.dtype.kind == "b" else index
    found = np.empty((len(places), *values.shape[1:]), values.dtype)
    for part, rows in scattered(values, places):
        found[part] = rows
    return found


def scattered(
    values: NDArray[Any], places: NDArray[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The rows at `places` (n,), in the order of `values`, a window's at a time: (b,) of which
    places they are, and the rows (b, …)."""
    by_place = np.argsort(places, kind="stable")
    starts = np.arange(0, len(values), _rows_at_once(values))[1:]
    bounds = [0, *np.searchsorted(places, starts, sorter=by_place).tolist(), len(places)]
    for begin, end in pairwise(bounds):  # all of them, so that one beyond the end is an IndexError
        if begin < end:
            part = by_place[begin:end]
            yield part, values[places[part]]
            give_back(values)


def _rows_at_once(values: Any) -> int:
    a_row = int(values.dtype.itemsize * math.prod(values.shape[1:]))
    if isinstance(values, np.ndarray):  # a column of wide rows is spread over all of them
        a_row = max(a_row, abs(values.strides[0]))
    return max(1, WINDOW // max(1, a_row))


def _mapping(array: Any) -> mmap.mmap | None:
    """The file that an array, or what it is a view of, was opened from; None: it is in memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None
