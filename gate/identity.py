"""Says when two examples are the same: hashes, ids and digests of plain arrays.

Nothing here depends on a file's format, on the order of its rows, or on the machine:

- hash of a row: sha256 of the names, dtypes and shapes of its columns, then their little-endian
  C-order bytes, both in the order of the names; text counts as UTF-32-LE without padding, with
  its length before it, and minus zero as zero. An encoded image is its length and its bytes; an
  entry of rows is how many there are, and their bytes.
- id of an example that brings none: `x` and the first 16 hex digits of its inputs' hash; what
  occurs again gets `-2`, `-3`, … in the order of its other columns' values.
- digest of a split: sha256 of the sorted hashes of every example's id, inputs' hash and target.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gate.values import Array, Ragged, Values

_KINDS = {"U": "text", "O": "bytes"}


def hash_rows(columns: Mapping[str, Values]) -> Array:
    """Columns (B, …) by name -> (B, 32) uint8, one sha256 a row."""
    named = sorted(columns.items())
    meaning = [[name, _kind(column), column.shape[1:]] for name, column in named]
    start = hashlib.sha256(json.dumps(meaning).encode())
    hashes = bytearray()
    for cells in zip(*(_row_bytes(column) for _, column in named), strict=True):
        state = start.copy()
        for cell in cells:
            state.update(cell)
        hashes += state.digest()
    return np.frombuffer(bytes(hashes), dtype=np.uint8).reshape(-1, 32)


def lots(columns: Mapping[str, Values], seed: int, purpose: str) -> Array:
    """Columns (B, …) by name -> (B,) keys to sort by: a lottery that no order of rows decides."""
    salt = np.array([f"{seed} {purpose}"])
    return keys(hash_rows(dict(columns) | {"": salt.repeat(len(next(iter(columns.values()))))}))


def digest(ids: Array, hashes: Array, targets: Values | None) -> str:
    """Hex digest of a split: ids (N,), inputs' hashes (N, 32), targets (N, …) where it has any."""
    columns = {"id": ids, "inputs": hashes} | ({} if targets is None else {"target": targets})
    return hashlib.sha256(np.sort(keys(hash_rows(columns))).tobytes()).hexdigest()


def population(hashes: Array, targets: Values | None) -> str:
    """Hex digest of examples whatever they are called: their inputs (N, 32) and targets alone."""
    columns = {"inputs": hashes} | ({} if targets is None else {"target": targets})
    return hashlib.sha256(np.sort(keys(hash_rows(columns))).tobytes()).hexdigest()


def keys(hashes: Array) -> Array:
    """(N, k) uint8 -> (N,) of k bytes, which sort and compare as raw bytes do.

    Padding cannot confuse two of them: all are k long.
    """
    return np.ascontiguousarray(hashes).view(f"S{hashes.shape[1]}").ravel()


def heads(hashes: Array) -> Array:
    """(N,) of `x` and the first 16 hex digits of (N, 32) hashes."""
    digits = np.frombuffer(hashes[:, :8].tobytes().hex().encode(), dtype="S16")
    return np.char.add("x", digits.astype(str))


def distinct(labels: Array, ties: Sequence[Array]) -> Array:
    """`labels` (N,) with `-2`, `-3`, … where they repeat, in the order of `ties`' values.

    `ties` (N, …) hold no NaN; examples that agree in all of them are interchangeable.
    """
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts[inverse] > 1)
    ids = labels.astype("U32") if repeated.size else labels
    seen: Counter[str] = Counter()
    for row in sorted(repeated.tolist(), key=lambda row: [column[row].tolist() for column in ties]):
        head = str(labels[row])
        seen[head] += 1
        ids[row] = head if seen[head] == 1 else f"{head}-{seen[head]}"
    return ids


def _kind(column: Values) -> str:
    """What the values mean, whatever the machine calls it."""
    if isinstance(column, Ragged):
        return f"rows of {column.dtype.name}"
    return _KINDS.get(column.dtype.kind, column.dtype.name)


def _row_bytes(block: Values) -> Iterator[bytes | memoryview]:
    """Each row's canonical bytes."""
    if isinstance(block, Ragged):
        yield from _row_entries(block)
        return
    if block.dtype.kind == "O":
        yield from (len(cell).to_bytes(8, "little") + cell for cell in block)
        return
    little = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<"))
    if block.dtype.kind == "U":
        yield from _row_texts(little)
        return
    if block.dtype.kind == "f":
        little = little + 0.0  # minus zero is the same value as zero
    data = little.reshape(-1).view(np.uint8).data
    size = len(data) // max(1, len(block))
    for row in range(len(block)):
        yield data[row * size : (row + 1) * size]


def _row_entries(block: Ragged) -> Iterator[bytes]:
    """Every entry with its number of rows before it."""
    for index, size in enumerate(block.sizes.tolist()):
        entry = block.entry(index)
        little = np.ascontiguousarray(entry, dtype=entry.dtype.newbyteorder("<")) + 0
        yield size.to_bytes(8, "little") + little.tobytes()


def _row_texts(block: Array) -> Iterator[bytes]:
    """Every text with its length before it, so that neighbours cannot trade letters."""
    data, width = block.tobytes(), block.dtype.itemsize
    per_row = math.prod(block.shape[1:])
    for row in range(len(block)):
        first = row * per_row
        cells = (
            data[cell * width : (cell + 1) * width].rstrip(b"\0")
            for cell in range(first, first + per_row)
        )
        yield b"".join(len(cell).to_bytes(8, "little") + cell for cell in cells)
