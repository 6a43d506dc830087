"""Checks every example of a table once, and says who it is; leaves out images that do not decode.

`gate.identity` says how ids and hashes are made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gate import hashes, identity, mapped, tokens
from gate.errors import DataError
from gate.hashes import Known
from gate.pictures import PicturesError
from gate.preprocess import Prepare
from gate.sources import Preprocess
from gate.table import Table, plain, take
from gate.values import Array, Classed, Column, Ragged, Values, finite

_SHOWN = 5
_LAST_CODE = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of a table, identified; as in `Split`. Where they are many, they lie on disk."""

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


def check(table: Table, preprocess: Preprocess | None, classes: tuple[str, ...]) -> None:
    """Show that names of classes mean the same in the data and in a policy, and no text is empty.

    Raises:
        DataError: one means another class, or one is empty.
    """
    _demand_same_classes(table, classes)
    _refuse_empty(table, preprocess)


def _demand_same_classes(table: Table, classes: tuple[str, ...]) -> None:
    """Raises DataError where a name stands for one class in the data and another in the policy."""
    if not isinstance(table.target, Classed):
        return
    for place, name in enumerate(table.target.classes):
        if name in classes and classes.index(name) != place:
            raise DataError(
                f"{table.where}: {name!r} is class {place} in the data (categories count by their "
                f"ids) and class {classes.index(name)} in `build.classes`: boxes would be held "
                "against another class's. Number the categories as the model's outputs are, or "
                "mend `build.classes`"
            )


def _refuse_empty(table: Table, preprocess: Preprocess | None) -> None:
    """Raises DataError where a text is empty; names the first."""
    if preprocess is None or preprocess.tokenizer is None:
        return
    for part, raw in table.blocks(np.arange(len(table))):
        found = np.flatnonzero(tokens.empty(preprocess.tokenizer, raw)) + part.start
        if len(found):
            named = "" if table.id is None else f", id {str(table.id[found[:1]][0])!r}"
            raise DataError(
                f"{table.where}: the text of example {found[0]} (counting from 0{named}) is empty; "
                "leave such out, or write `allow_empty: true` in `build.preprocess.tokenizer` if "
                "production gets them, too"
            )


def sample(
    table: Table, limit: int | None, *, seed: int, split: str, known: Known | None = None
) -> Array:
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
        others = {f"column {name}": take(column, every) for name, column in table.others.items()}
        told = others | {"inputs": _stored(table, known)}
    return np.sort(np.argsort(identity.lots(told, seed, split), kind="stable")[:limit])


def identify(
    table: Table,
    rows: Array,
    prepare: Prepare | None,
    *,
    may_miss: int = 0,
    known: Known | None = None,
) -> Examples:
    """Only rows of which something is not `known` are read; what is found of them is added there.

    `prepare` is what makes different raw values the same to the model, where there is such; of an
    example it makes the same in any batch.
    """
    known = known or Known(len(table))
    explicit = None if table.id is None else _explicit_ids(table.where, table.id, rows)
    _hash_inputs(table, rows, explicit, prepare, known)
    absent = _missing(rows, known) if prepare else {}
    labels = _labels(known, rows, explicit)
    _refuse_missing(table.where, absent, labels, may_miss, len(rows))
    missing = tuple(labels(place) for place in sorted(absent))
    if absent:
        rows = np.delete(rows, [*absent])
        explicit = None if explicit is None else mapped.laid(np.delete(explicit, [*absent]))
        labels = _labels(known, rows, explicit)
    values = {
        name: _checked(table.where, name, column, rows, labels)
        for name, column in table.others.items()
    }
    stored = known.stored if len(rows) == known.count else known.stored[rows]
    ids = identity.derived(stored, [*values.values()]) if explicit is None else explicit
    targets = values.pop("target", None)
    flat = {name: column for name, column in values.items() if not isinstance(column, Ragged)}
    entering = known.prepared if prepare else known.stored
    return Examples(
        rows=mapped.laid(rows),
        ids=ids,
        content=mapped.laid_out(entering[rows[part], :16] for part in mapped.windows(rows)),
        targets=targets,
        unit=flat.pop("unit", None),
        slices=flat,
        sha256=known.digest(identity.digest, ids, stored, targets),
        hashes=stored,
        missing=missing,
    )


def _labels(known: Known, rows: Array, explicit: Array | None) -> Callable[[int], str]:
    """What to call the example at a place in `rows`, in a message."""

    def label(place: int) -> str:
        if explicit is not None:
            return str(explicit[place])
        return str(identity.heads(known.stored[rows[place : place + 1]])[0])

    return label


def _refuse_missing(
    where: str,
    missing: Mapping[int, str],
    labels: Callable[[int], str],
    may_miss: int,
    count: int,
) -> None:
    if len(missing) <= may_miss and len(missing) < count:
        return
    shown = [f"{labels(place)!r} ({why})" for place, why in sorted(missing.items())]
    raise DataError(
        f"{where}: {len(missing)} of {count} images do not decode, and `may_miss` allows "
        f"{may_miss}: {'; '.join(shown[:_SHOWN])}{'; …' if len(shown) > _SHOWN else ''}. Restore "
        "them or take them out of the data, or write into the policy how many `may_miss`"
    )


def _checked(
    where: str, name: str, column: Column, rows: Array, labels: Callable[[int], str]
) -> Values:
    values = _laid(column, rows)
    _refuse_bad(where, name, values, rows, labels)
    return values


def _laid(column: Column, rows: Array) -> Values:
    """As `take`, but on disk where they are many."""
    if isinstance(column, Ragged) or column.dtype.hasobject:
        return take(column, rows)
    blocks = (plain(column, rows[part]) for part in mapped.windows(rows, like=column))
    return mapped.laid_out(blocks)


def _explicit_ids(where: str, column: Column, rows: Array) -> Array:
    raw = _laid(column, rows)
    if isinstance(raw, Ragged) or raw.dtype.kind not in "iuU":
        raise DataError(f"{where}: column 'id' is {raw.dtype}; ids are text or integers")
    _refuse_bad(where, "id", raw, rows, labels=None)
    ids = raw if raw.dtype.kind == "U" else mapped.laid(raw.astype(str))
    repeated = np.unique(ids[identity.repeated(ids)])
    if repeated.size:
        raise DataError(
            f"{where}: {repeated.size} ids occur more than once: {listed(repeated)}; every "
            "example needs its own id, or leave the column out"
        )
    return ids


def _stored(table: Table, known: Known | None) -> Array:
    """(N, 32) hashes of all inputs as stored, unchecked."""
    known = known or Known(len(table))
    every = np.arange(len(table), dtype=np.int64)
    fresh = every[known.lacking(every, hashes.STORED)]
    for part, blocks in table.blocks(fresh):
        known.stored[fresh[part]] = identity.hash_rows(blocks)
        known.state[fresh[part]] |= hashes.STORED
    return known.stored


def _hash_inputs(
    table: Table, rows: Array, ids: Array | None, prepare: Prepare | None, known: Known
) -> None:
    """Every input that is not known is read, and every image decoded, once."""
    wanted = hashes.STORED | hashes.SOUND | (hashes.PREPARED if prepare else 0)
    places = known.lacking(rows, wanted)
    for part, blocks in table.blocks(rows[places]):
        fresh, stored = rows[places[part]], identity.hash_rows(blocks)
        labels = identity.heads(stored) if ids is None else ids[places[part]]
        for name, block in blocks.items():
            _refuse_bad(table.where, name, block, fresh, _labels(known, fresh, labels))
        known.stored[fresh] = stored
        if prepare:
            known.prepared[fresh], faults = _entering(table.where, blocks, labels, prepare)
            known.reasons |= {int(fresh[place]): why for place, why in faults.items()}
            known.state[fresh[[*faults]]] |= hashes.MISSING
        known.state[fresh] |= wanted


def _missing(rows: Array, known: Known) -> dict[int, str]:
    """Places in `rows` of images that do not decode, and why."""
    places = np.flatnonzero(known.state[rows] & hashes.MISSING)
    return {int(place): known.reasons[int(rows[place])] for place in places}


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
    found = np.zeros((len(labels), 32), dtype=np.uint8)
    if kept.size:
        rest = {name: block[kept] for name, block in blocks.items()}
        found[kept], _ = _entering(where, rest, labels[kept], prepare)
    return found, faults


def _refuse_bad(
    where: str, name: str, block: Values, rows: Array, labels: Callable[[int], str] | None
) -> None:
    """NaN, infinities, and text that is not Unicode never enter a verdict."""
    if isinstance(block, Ragged):
        bad = _unsound(block)
    else:
        parts = mapped.windows(block)
        bad = [part.start + place for part in parts for place in _unsound(block[part])]
    if bad:
        example = "" if labels is None else f" of example {labels(bad[0])!r}"
        what = "NaN or infinite" if block.dtype.kind == "f" else "not Unicode text"
        raise DataError(
            f"{where}: column {name!r}{example} (row {int(rows[bad[0]])}, counting from 0) is "
            f"{what}; correct the value, or leave the example out"
        )


def _unsound(block: Values) -> list[int]:
    """Places of what is NaN or infinite, or not Unicode."""
    if block.dtype.kind == "f":
        good = finite(block)
    elif isinstance(block, Ragged) or block.dtype.kind != "U":
        return []
    else:
        codes = block.reshape(-1).view(np.uint32)
        good = (codes <= _LAST_CODE) & ((codes < _SURROGATES[0]) | (codes > _SURROGATES[1]))
    places: list[int] = np.flatnonzero(~good.reshape(len(block), -1).all(axis=1)).tolist()
    return places


def population(table: Table, examples: Examples, known: Known | None = None) -> str:
    """Of every example that there was to draw from: a sample, or other ids, are no other data."""
    known = known or Known(len(table))
    if len(examples.ids) == len(table):
        return known.digest(identity.population, examples.hashes, examples.targets)
    every = np.arange(len(table), dtype=np.int64)
    targets = None if table.target is None else take(table.target, every)
    return known.digest(identity.population, _stored(table, known), targets)


def truncated(
    table: Table, rows: Array, preprocess: Preprocess | None, home: Path, known: Known
) -> int:
    """How many of these rows have more tokens than the model is given."""
    if preprocess is None or preprocess.tokenizer is None:
        return 0
    spec = preprocess.tokenizer
    file = tokens.place(spec, home)
    fresh = rows[known.lacking(rows, hashes.MEASURED)]
    for part, raw in table.blocks(fresh):
        known.state[fresh[part]] |= hashes.MEASURED
        known.state[fresh[part][tokens.truncated(spec, file, raw)]] |= hashes.LONG
    return int(np.count_nonzero(known.state[rows] & hashes.LONG))


def listed(ids: Array) -> str:
    """The first of them, quoted."""
    more = ", …" if len(ids) > _SHOWN else ""
    return ", ".join(repr(str(value)) for value in ids[:_SHOWN]) + more
