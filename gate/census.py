"""Checks every example of a table once, and says who it is; leaves out images that do not decode.

`gate.identity` says how ids and hashes are made.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gate import identity
from gate.errors import DataError
from gate.pictures import PicturesError
from gate.preprocess import Prepare
from gate.table import Table, take
from gate.values import Array, Column, Ragged, Values, finite

_SHOWN = 5
_LAST_CODE = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of a table, identified; as in `Split`."""

    rows: Array
    """Of the table, without those that are missing."""
    ids: Array
    content: Array
    targets: Values | None
    slices: Mapping[str, Array]
    unit: Array | None
    sha256: str
    hashes: Array
    """(N, 32) uint8 of the inputs as stored."""
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Hashes:
    """(N, 32) uint8 each: sha256 of the inputs as stored, and as the model gets them."""

    stored: Array
    prepared: Array
    missing: Mapping[int, str]
    """Places of images that do not decode, and why."""


def sample(table: Table, limit: int | None, *, seed: int, split: str) -> Array:
    """(min(N, limit),) of int64, ascending: all rows, or those whose lots come first.

    An example's lot is drawn from what it is, never from where it stands, so that the order of
    the file chooses nothing. Without ids that takes one pass over the inputs.
    """
    every = np.arange(len(table), dtype=np.int64)
    if limit is None or limit >= len(table):
        return every
    if table.id is not None:
        told: dict[str, Values] = {"id": _explicit_ids(table.where, table.id, every)}
    else:
        hashed = [identity.hash_rows(blocks) for _, blocks in table.blocks(every)]
        others = {f"column {name}": take(column, every) for name, column in table.others.items()}
        told = others | {"inputs": np.concatenate(hashed)}
    return np.sort(np.argsort(identity.lots(told, seed, split), kind="stable")[:limit])


def identify(table: Table, rows: Array, prepare: Prepare | None, *, may_miss: int = 0) -> Examples:
    """`prepare` is what makes different raw values the same to the model, where there is such."""
    explicit = None if table.id is None else _explicit_ids(table.where, table.id, rows)
    found = _hash_inputs(table, rows, explicit, prepare)
    labels = identity.heads(found.stored) if explicit is None else explicit
    _refuse_missing(table.where, found.missing, labels, may_miss, len(rows))
    kept = np.setdiff1d(np.arange(len(rows)), [*found.missing])
    missing = tuple(str(labels[place]) for place in sorted(found.missing))
    rows, labels, hashes = rows[kept], labels[kept], found.stored[kept]
    values = {
        name: _checked(table.where, name, column, rows, labels)
        for name, column in table.others.items()
    }
    ties = [v.digests if isinstance(v, Ragged) else v for v in values.values()]
    ids = identity.distinct(labels, ties) if explicit is None else labels
    targets = values.pop("target", None)
    flat = {name: column for name, column in values.items() if not isinstance(column, Ragged)}
    return Examples(
        rows=rows,
        ids=ids,
        content=found.prepared[kept, :16].copy(),
        targets=targets,
        unit=flat.pop("unit", None),
        slices=flat,
        sha256=identity.digest(ids, hashes, targets),
        hashes=hashes,
        missing=missing,
    )


def _refuse_missing(
    where: str, missing: Mapping[int, str], labels: Array, may_miss: int, count: int
) -> None:
    if len(missing) <= may_miss and len(missing) < count:
        return
    shown = [f"{str(labels[place])!r} ({why})" for place, why in sorted(missing.items())]
    raise DataError(
        f"{where}: {len(missing)} of {count} images do not decode, and `may_miss` allows "
        f"{may_miss}: {'; '.join(shown[:_SHOWN])}{'; …' if len(shown) > _SHOWN else ''}. Restore "
        "them or take them out of the data, or write into the policy how many `may_miss`"
    )


def _checked(where: str, name: str, column: Column, rows: Array, labels: Array) -> Values:
    values = take(column, rows)
    _refuse_bad(where, name, values, rows, labels)
    return values


def _explicit_ids(where: str, column: Column, rows: Array) -> Array:
    raw = take(column, rows)
    if isinstance(raw, Ragged) or raw.dtype.kind not in "iuU":
        raise DataError(f"{where}: column 'id' is {raw.dtype}; ids are text or integers")
    _refuse_bad(where, "id", raw, rows, labels=None)
    ids = raw.astype(str)
    values, counts = np.unique(ids, return_counts=True)
    repeated = values[counts > 1]
    if repeated.size:
        raise DataError(
            f"{where}: {repeated.size} ids occur more than once: {listed(repeated)}; every "
            "example needs its own id, or leave the column out"
        )
    return ids


def _hash_inputs(table: Table, rows: Array, ids: Array | None, prepare: Prepare | None) -> _Hashes:
    """Every input is read, and every image decoded, once."""
    stored = np.empty((len(rows), 32), dtype=np.uint8)
    prepared = np.empty_like(stored) if prepare else stored
    missing: dict[int, str] = {}
    for part, blocks in table.blocks(rows):
        stored[part] = identity.hash_rows(blocks)
        labels = identity.heads(stored[part]) if ids is None else ids[part]
        for name, block in blocks.items():
            _refuse_bad(table.where, name, block, rows[part], labels)
        if prepare:
            prepared[part], faults = _entering(table.where, blocks, labels, prepare)
            missing |= {part.start + place: why for place, why in faults.items()}
    return _Hashes(stored, prepared, missing)


def _entering(
    where: str, blocks: Mapping[str, Array], labels: Array, prepare: Prepare
) -> tuple[Array, Mapping[int, str]]:
    """(B, 32) hashes of what the model gets, zeros for images that do not decode; and those."""
    try:
        return identity.hash_rows(prepare(blocks)), {}
    except PicturesError as error:
        if not error.decode:
            place, why = next(iter(error.faults.items()))
            raise DataError(f"{where}: example {str(labels[place])!r}: {why}") from error
        faults = error.faults
    kept = np.setdiff1d(np.arange(len(labels)), [*faults])
    hashes = np.zeros((len(labels), 32), dtype=np.uint8)
    if kept.size:
        rest = {name: block[kept] for name, block in blocks.items()}
        hashes[kept], _ = _entering(where, rest, labels[kept], prepare)
    return hashes, faults


def _refuse_bad(where: str, name: str, block: Values, rows: Array, labels: Array | None) -> None:
    """NaN, infinities, and text that is not Unicode never enter a verdict."""
    if block.dtype.kind == "f":
        good = finite(block)
    elif isinstance(block, Ragged):
        return
    elif block.dtype.kind == "U":
        codes = block.reshape(-1).view(np.uint32)
        good = (codes <= _LAST_CODE) & ((codes < _SURROGATES[0]) | (codes > _SURROGATES[1]))
    else:
        return
    bad = np.flatnonzero(~good.reshape(len(block), -1).all(axis=1))
    if bad.size:
        example = "" if labels is None else f" of example {str(labels[bad[0]])!r}"
        what = "NaN or infinite" if block.dtype.kind == "f" else "not Unicode text"
        raise DataError(
            f"{where}: column {name!r}{example} (row {int(rows[bad[0]])}, counting from 0) is "
            f"{what}; correct the value, or leave the example out"
        )


def population(table: Table, examples: Examples) -> str:
    """Of every example that there was to draw from: a sample, or other ids, are no other data."""
    if len(examples.ids) == len(table):
        return identity.population(examples.hashes, examples.targets)
    every = np.arange(len(table), dtype=np.int64)
    hashes = np.concatenate([identity.hash_rows(block) for _, block in table.blocks(every)])
    return identity.population(hashes, None if table.target is None else take(table.target, every))


def listed(ids: Array) -> str:
    """The first of them, quoted."""
    more = ", …" if len(ids) > _SHOWN else ""
    return ", ".join(repr(str(value)) for value in ids[:_SHOWN]) + more
