"""Arrays that lie on disk and are read where they lie; what was read of them is given back.

Pages that a program has read of a file stay counted as its memory until somebody wants them, and
a machine or a container that is short of memory may kill it first. They can be given back at any
time: what is read again comes out of the file again.
"""

import math
import mmap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

WINDOW = 1 << 20
"""Bytes that are read at once."""


def opened(file: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """What `file` holds, `shape` of `dtype` in C order, for reading; it must not be empty."""
    return np.asarray(np.memmap(file, dtype=dtype, mode="r", shape=shape))


def give_back(*arrays: NDArray[Any] | None) -> None:
    """Let go of what was read of these, views of them too; no more than advice elsewhere."""
    for array in arrays:
        mapping = _mapping(array)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)


def windows(values: NDArray[Any]) -> Iterator[slice]:
    """Consecutive rows, a megabyte at a time; each is given back as the next one is asked for."""
    step = _rows_at_once(values)
    for start in range(0, len(values), step):
        yield slice(start, min(start + step, len(values)))
        give_back(values)


def take(values: NDArray[Any], index: Any) -> NDArray[Any]:
    """`values[index]`, of places (n,) or a mask (N,), as a copy.

    What lies on disk is read in the order of the file, whatever the order of the places, so that
    no more of it than a window is in memory beside the copy.
    """
    if _mapping(values) is None:
        return np.asarray(values[index])
    places = np.flatnonzero(index) if index.dtype.kind == "b" else index
    by_place = np.argsort(places, kind="stable")
    found = np.empty((len(places), *values.shape[1:]), values.dtype)
    starts = np.arange(0, len(values), _rows_at_once(values))[1:]
    bounds = [0, *np.searchsorted(places, starts, sorter=by_place).tolist(), len(places)]
    for begin, end in pairwise(bounds):  # all of them, so that one beyond the end is an IndexError
        part = by_place[begin:end]
        found[part] = values[places[part]]
        give_back(values)
    return found


def _rows_at_once(values: NDArray[Any]) -> int:
    return max(1, WINDOW // max(1, values.dtype.itemsize * math.prod(values.shape[1:])))


def _mapping(array: Any) -> mmap.mmap | None:
    """The file that an array, or what it is a view of, was opened from; None: it is in memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None
