"""A file's columns by what they are for: model inputs, target, id, unit and slices."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from gate import pictures
from gate.errors import DataError
from gate.preprocess import described, dtype_name
from gate.values import Array, Column, Ragged, TensorSpec, Values

_BLOCK_BYTES = 4 << 20
_BLOCK_ROWS = 65536
_ENCODED_BYTES = 256 << 10
"""What an encoded image may take; once decoded it takes more."""
_ROLES = frozenset({"target", "id", "unit"})
_BY_ID = "examples by id"


@dataclass(frozen=True, slots=True)
class Table:
    """A file's columns by what they are for."""

    where: str
    """Split and file, as every message begins."""
    inputs: Mapping[str, Column]
    target: Column | None
    id: Column | None
    unit: Column | None
    slices: Mapping[str, Column]

    @property
    def others(self) -> dict[str, Column]:
        """What an example is besides its inputs and its id."""
        found = {"target": self.target, "unit": self.unit, **self.slices}
        return {name: column for name, column in found.items() if column is not None}

    def __len__(self) -> int:
        """N."""
        return next(iter(self.inputs.values())).shape[0]

    def blocks(self, rows: Array) -> Iterator[tuple[slice, dict[str, Array]]]:
        """The inputs of consecutive `rows`, a few megabytes at a time."""
        columns = self.inputs.values()
        size = sum(_row_bytes(column) for column in columns)
        step = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // max(1, size)))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            yield part, {name: plain(column, rows[part]) for name, column in self.inputs.items()}


def _row_bytes(column: Column) -> int:
    if pictures.is_encoded(column):
        return _ENCODED_BYTES
    return math.prod(column.shape[1:]) * column.dtype.itemsize


def by_role(
    where: str,
    columns: Mapping[str, Column],
    raw: Sequence[str],
    inputs: Sequence[TensorSpec],
    *,
    needs_target: bool,
) -> Table:
    """Tell a file's columns apart, `raw` being what a model is fed from.

    A target that nobody needs is left out.

    Raises:
        DataError: a column that is needed is missing, has too many axes or a name that cannot be
            printed, or there are no rows.
    """
    _refuse_unprintable(where, columns)
    _require(where, columns, raw, inputs)
    _refuse_lists(where, columns, raw)
    rest = dict(columns)
    table = Table(
        where=where,
        inputs={name: rest.pop(name) for name in raw},
        target=_special(where, rest, "target", ranks=(1, 2, 3)) if needs_target else None,
        id=_special(where, rest, "id", ranks=(1,)),
        unit=_special(where, rest, "unit", ranks=(1,)),
        slices={name: column for name, column in rest.items() if name != "target"},
    )
    if needs_target and table.target is None:
        raise DataError(
            f"{where} has no column 'target', which the metrics need; it has {_shapes(columns)}: "
            "add the true labels under that name"
        )
    _require_slices(where, table.slices, inputs)
    if len(table) == 0:
        raise DataError(f"{where} is empty; it needs at least one example")
    return table


def raw_inputs(
    columns: Mapping[str, Column],
) -> tuple[Mapping[str, Column], tuple[TensorSpec, ...]]:
    """Columns that tell examples apart where no model says what it takes, and what they are.

    Encoded images, and those with more than one axis; where there is none, the ids.
    """
    named = {name: column for name, column in columns.items() if name not in _ROLES}
    found = {
        name: column
        for name, column in named.items()
        if len(column.shape) > 1 or pictures.is_encoded(column)
    }
    if not found and "id" in columns:
        found = {_BY_ID: columns["id"]}
    specs = (
        TensorSpec(name=name, dtype=dtype_name(column.dtype), shape=(None, *column.shape[1:]))
        for name, column in found.items()
    )
    return {**columns, **found}, tuple(specs)


def _require(
    where: str,
    columns: Mapping[str, Column],
    wanted: Sequence[str],
    inputs: Sequence[TensorSpec],
) -> None:
    if not inputs:
        raise DataError(f"{where} has nothing to feed: the model has no inputs")
    missing = [name for name in wanted if name not in columns]
    if not missing:
        return
    spare = [name for name in columns if name not in wanted]
    close = [(found, name) for name in missing for found in get_close_matches(name, spare, n=1)]
    hint = " and ".join(f"rename {found!r} to {name!r}" for found, name in close)
    raise DataError(
        f"{where} has no column {', '.join(map(repr, missing))}. The model's inputs are "
        f"{described(inputs)}; the file has {_shapes(columns)}: "
        f"{hint or 'save each input under its own name'}"
    )


def _refuse_unprintable(where: str, columns: Mapping[str, Column]) -> None:
    """A name stands in reports, and in an archive, which ends it at a NUL."""
    for name in columns:
        if not name.isprintable():
            raise DataError(
                f"{where}: the column name {name!a} holds what cannot be printed: rename it, "
                "or leave the column out"
            )


def _refuse_lists(where: str, columns: Mapping[str, Column], raw: Sequence[str]) -> None:
    """Only a target holds any number of rows an example, and only an input encoded images."""
    for name, column in columns.items():
        if isinstance(column, Ragged) and name != "target":
            raise DataError(
                f"{where}: column {name!r} has entries of different lengths, which only a target "
                "may have: pad it, or leave it out"
            )
        if pictures.is_encoded(column) and name not in raw:
            raise DataError(
                f"{where}: column {name!r} holds encoded images, and no input is fed from it: name "
                "it in `build.preprocess` as `image:`, or leave it out"
            )


def _special(
    where: str, rest: dict[str, Column], name: str, ranks: tuple[int, ...]
) -> Column | None:
    column = rest.pop(name, None)
    if column is not None and len(column.shape) not in ranks:
        allowed = "(N,)" if ranks == (1,) else "(N,), (N, L) or (N, H, W)"
        raise DataError(f"{where}: column {name!r} is {column.shape}; it has to be {allowed}")
    return column


def _require_slices(where: str, slices: Mapping[str, Column], inputs: Sequence[TensorSpec]) -> None:
    for name, column in slices.items():
        if len(column.shape) > 1:
            close = get_close_matches(name, [spec.name for spec in inputs], n=1)
            hint = f"did you mean {close[0]!r}? Rename it" if close else "rename it"
            raise DataError(
                f"{where}: column {name!r} {column.shape} is no input of the model, which are "
                f"{described(inputs)}, and has too many axes for a slice column: {hint}, or leave "
                "it out"
            )


def _shapes(columns: Mapping[str, Column]) -> str:
    return ", ".join(f"{name} {column.shape}" for name, column in columns.items())


def take(column: Column, rows: Array) -> Values:
    """The rows, ascending, as one array or as entries; neighbours without an index copy."""
    neighbours = len(rows) > 0 and int(rows[-1]) - int(rows[0]) + 1 == len(rows)
    index = slice(int(rows[0]), int(rows[-1]) + 1) if neighbours else rows
    values = column[index]
    return values if isinstance(values, Ragged) else np.ascontiguousarray(values)


def plain(column: Column, rows: Array) -> Array:
    """The rows of a column that has no entries of any length, as one array."""
    values = take(column, rows)
    assert not isinstance(values, Ragged)  # `by_role` lets none be an input
    return values
