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

from gate import mapped
from gate.values import Array, Ragged, Values

_HASH, _HEAD = 32, 8
_AT_ONCE = 8192
"""Rows."""
_LAST_BYTE = 0xFF
_KINDS = {"U": "text", "O": "bytes"}


def hash_rows(columns: Mapping[str, Values]) -> Array:
    """Columns (B, …) by name -> (B, 32) uint8, one sha256 a row."""
    named = sorted(columns.items())
    meaning = [[name, _kind(column), column.shape[1:]] for name, column in named]
    start = hashlib.sha256(json.dumps(meaning).encode())
    hashes = bytearray(_HASH * len(named[0][1]))
    rows = zip(*(_row_bytes(column) for _, column in named), strict=True)
    for place, cells in enumerate(rows):
        state = start.copy()
        for cell in cells:
            state.update(cell)
        hashes[place * _HASH : (place + 1) * _HASH] = state.digest()
    return np.frombuffer(hashes, dtype=np.uint8).reshape(-1, _HASH)


def lots(columns: Mapping[str, Values], seed: int, purpose: str) -> Array:
    """Columns (B, …) by name -> (B,) keys to sort by: a lottery that no order of rows decides."""
    salt = np.array([f"{seed} {purpose}"])
    return keys(hash_rows(dict(columns) | {"": salt.repeat(len(next(iter(columns.values()))))}))


def digest(ids: Array, hashes: Array, targets: Values | None) -> str:
    """Hex digest of a split: ids (N,), inputs' hashes (N, 32), targets (N, …) where it has any."""
    columns = {"id": ids, "inputs": hashes} | ({} if targets is None else {"target": targets})
    return _digest(columns)


def population(hashes: Array, targets: Values | None) -> str:
    """Hex digest of examples whatever they are called: their inputs (N, 32) and targets alone."""
    columns = {"inputs": hashes} | ({} if targets is None else {"target": targets})
    return _digest(columns)


def _digest(columns: Mapping[str, Values]) -> str:
    hashes = hash_rows(columns)
    keys(hashes).sort()  # in place: a copy would be as much again
    return hashlib.sha256(hashes.data).hexdigest()


def shared(first: Array, second: Array) -> Array:
    """(M,) of bool: which of `second` (M, k) are among `first` (N, k), of k bytes each."""
    one, other = keys(first), keys(second)
    if len(one) <= len(other):
        found = np.zeros(len(other), dtype=bool)
        ordered = _sorted(one)
        for part in mapped.windows(other):
            found[part] = _places(ordered, other[part])[1]
        return found
    ordered, inverse = np.unique(other, return_inverse=True)
    among = np.zeros(len(ordered), dtype=bool)
    for part in mapped.windows(one):
        places, hit = _places(ordered, one[part])
        among[places[hit]] = True
    return among[inverse]


def _places(ordered: Array, asked: Array) -> tuple[Array, Array]:
    """Where each of `asked` would stand in `ordered`, not empty, and whether it does."""
    places = np.searchsorted(ordered, asked).clip(max=len(ordered) - 1)
    return places, ordered[places] == asked


def _sorted(labels: Array) -> Array:
    """A sorted copy; of what lies on disk no more is in memory beside it than a window."""
    found = np.empty_like(labels)
    for part in mapped.windows(labels):
        found[part] = labels[part]
    found.sort()
    return found


def count_distinct(labels: Array) -> int:
    """How many different ones there are among `labels` (N,)."""
    ordered = _sorted(labels)
    return min(len(labels), 1) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def keys(hashes: Array) -> Array:
    """(N, k) uint8 -> (N,) of k bytes, which sort and compare as raw bytes do.

    Padding cannot confuse two of them: all are k long.
    """
    return np.ascontiguousarray(hashes).view(f"S{hashes.shape[1]}").ravel()


def heads(hashes: Array) -> Array:
    """(N,) of `x` and the first 16 hex digits of (N, 32) hashes."""
    digits = np.frombuffer(hashes[:, :_HEAD].tobytes().hex().encode(), dtype="S16")
    return np.char.add("x", digits.astype(str))


def derived(hashes: Array, columns: Sequence[Values]) -> Array:
    """(N,) ids of examples that bring none, by (N, 32) hashes of their inputs, N at least 1.

    Those with the same inputs are numbered in the order of their values in `columns` (N, …), which
    hold no NaN; where they agree in all of them, they are interchangeable.
    """
    again = np.flatnonzero(repeated(keys(hashes[:, :_HEAD])))
    if not again.size:
        return mapped.laid_out(heads(hashes[part]) for part in mapped.windows(hashes))
    numbered = _numbered(heads(hashes[again]), [_tie(column[again]) for column in columns])

    def block(part: slice) -> Array:
        ids = heads(hashes[part]).astype(numbered.dtype)
        here = slice(*np.searchsorted(again, [part.start, part.stop]))
        ids[again[here] - part.start] = numbered[here]
        return ids

    return mapped.laid_out(map(block, mapped.windows(hashes)))


def _tie(column: Values) -> Array:
    return column.digests if isinstance(column, Ragged) else column


def _numbered(labels: Array, ties: Sequence[Array]) -> Array:
    """`labels` (n,) with `-2`, `-3`, … behind all but the first of each."""
    seen: Counter[str] = Counter()
    ids = labels.astype("U32")
    rows = range(len(labels))
    for row in sorted(rows, key=lambda row: [column[row].tolist() for column in ties]):
        head = str(labels[row])
        seen[head] += 1
        ids[row] = head if seen[head] == 1 else f"{head}-{seen[head]}"
    return ids


def by_name(labels: Array) -> Array:
    """(N,) of int64: a stable order of texts (N,), by code points; and of anything else.

    Of Latin letters a byte each is sorted, and not the four that numpy has of them.
    """
    if labels.dtype.kind == "U" and labels.dtype.isnative and labels.size:
        narrow = np.empty((len(labels), labels.dtype.itemsize // 4), dtype=np.uint8)
        for part in mapped.windows(labels):
            codes = np.ascontiguousarray(labels[part]).view(np.uint32).reshape(-1, narrow.shape[1])
            if codes.max() > _LAST_BYTE:
                break
            narrow[part] = codes
        else:
            labels = keys(narrow)
    order = np.argsort(labels, kind="stable")
    mapped.give_back(labels)
    return order


def repeated(labels: Array) -> Array:
    """(N,) of bool: labels (N,) that occur more than once."""
    order = by_name(labels)
    found = np.zeros(len(labels), dtype=bool)
    for start in range(1, len(order), _AT_ONCE):
        here = order[start : start + _AT_ONCE]
        before = order[start - 1 : start - 1 + len(here)]
        same = labels[here] == labels[before]
        found[here[same]] = found[before[same]] = True
        mapped.give_back(labels)
    return found


def _kind(column: Values) -> str:
    """What the values mean, whatever the machine calls it."""
    if isinstance(column, Ragged):
        return f"rows of {column.dtype.name}"
    return _KINDS.get(column.dtype.kind, column.dtype.name)


def _row_bytes(block: Values) -> Iterator[bytes | memoryview]:
    """Each row's canonical bytes; what they take beside the rows does not grow with these."""
    if isinstance(block, Ragged):
        yield from _row_entries(block)
        return
    for part in mapped.windows(block):
        yield from _cells(block[part])


def _cells(block: Array) -> Iterator[bytes | memoryview]:
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
