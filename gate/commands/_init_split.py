"""One file of data taken apart: calibration and held-out, with no content and no unit in both."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gate import formats, identity
from gate.errors import DataError, UsageError
from gate.values import Array, Column, Ragged, Split
from gate.wording import plain, plural

SHARE = 0.2
"""Of the examples, for calibration."""
MOST = 512
"""Examples beyond which calibration ranges hardly change."""
ROOM = (".npz", ".parquet", ".pq")
"""Endings of files that can be taken apart."""
_BLOCK = 1 << 22
_ROWS = 4096


def demand_divisible(path: Path) -> None:
    """Raises UsageError where a file of this kind is not taken apart."""
    if formats.of(path, None).key not in ("npz", "parquet") or not path.is_file():
        raise UsageError(
            f"--split takes npz and Parquet files apart, and {path} is none: write its calibration "
            "examples into a file of their own, and name that with --calibration"
        )


def demand_folder(path: Path) -> None:
    """Raises UsageError where the folder of the two files cannot be made."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{plain(path)} is to hold calibration and held-out data, and cannot be made "
            f"({error.strerror}): choose another --name or --out"
        ) from error


def chosen(split: Split, seed: int) -> Array:
    """(N,) of bool over the rows of the file: those for calibration.

    Examples go together where they share their content, as the model gets it, or their unit. Lots
    are drawn by content, so that the order of the file chooses nothing.

    Raises:
        DataError: too few examples are independent of each other.
    """
    groups = _together(split)
    wanted = min(MOST, max(1, round(SHARE * len(split))))
    sizes = np.bincount(groups)
    order = np.argsort(identity.lots({"content": split.content}, seed, "gate init"), kind="stable")
    taken, count = np.zeros(len(sizes), dtype=bool), 0
    for group in dict.fromkeys(groups[order].tolist()):
        if count >= wanted:
            break
        taken[group] = True
        count += int(sizes[group])
    if count * 2 > len(split):
        raise DataError(
            f"{split.source} has {plural(len(split), 'example')} in {plural(len(sizes), 'group')} "
            "that share content or unit, too few to take calibration from: collect more, or name "
            "another file with --calibration"
        )
    rows = np.zeros(int(split.order.max()) + 1, dtype=bool)
    rows[split.order] = taken[groups]
    return rows


def _together(split: Split) -> Array:
    """(N,) number of the group that each example is in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(split)
    edges = [np.unique(identity.keys(split.content), return_inverse=True)[1]]
    if split.unit is not None:
        edges.append(np.unique(split.unit, return_inverse=True)[1] + edges[0].max() + 1)
    ends = np.concatenate(edges) + count
    starts = np.tile(np.arange(count), len(edges))
    nodes = int(ends.max()) + 1
    graph = coo_array((np.ones(len(ends), dtype=np.int8), (starts, ends)), shape=(nodes, nodes))
    return np.asarray(connected_components(graph, directed=False)[1][:count])


# ── files ─────────────────────────────────────────────────────────────────────────────────


def write(source: Path, columns: Mapping[str, Column], rows: Array, target: Path) -> None:
    """The rows of `source` where `rows` is true, in a new file of the same kind.

    Raises:
        UsageError: it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    with _told(target, partial):
        if source.suffix == ".npz":
            _write_npz(columns, np.flatnonzero(rows), partial)
        else:
            _write_parquet(source, rows, partial)
        partial.replace(target)


@contextmanager
def _told(target: Path, partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{target} cannot be written ({error.strerror}): make room") from error
    finally:
        partial.unlink(missing_ok=True)


def _write_npz(columns: Mapping[str, Column], rows: Array, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, column in columns.items():
            if isinstance(column, Ragged):
                part = column[rows]
                _member(archive, name, part.values, np.arange(len(part.values)))
                _member(archive, f"{name}/offsets", part.offsets, np.arange(len(part.offsets)))
            else:
                _member(archive, name, column, rows)


def _member(archive: zipfile.ZipFile, name: str, column: Any, rows: Array) -> None:
    """As `numpy.savez` writes it, a few megabytes at a time."""
    shape = (len(rows), *column.shape[1:])
    header = {
        "descr": np.lib.format.dtype_to_descr(column.dtype),
        "fortran_order": False,
        "shape": shape,
    }
    size = max(1, int(np.prod(shape[1:])) * column.dtype.itemsize)
    step = max(1, _BLOCK // size)
    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(rows), step):
            block = np.asarray(column[rows[start : start + step]])
            stream.write(np.ascontiguousarray(block).tobytes())


def _write_parquet(source: Path, rows: Array, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = 0
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        for batch in file.iter_batches(batch_size=_ROWS):
            part = rows[start : start + batch.num_rows]
            start += batch.num_rows
            writer.write_batch(batch.filter(pa.array(part)))
