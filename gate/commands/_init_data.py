"""What a data file holds, as far as a policy depends on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gate import data, pictures
from gate.sources import DataSource
from gate.values import Array, Classed, Column, Ragged, Split
from gate.wording import few, plain, plural, whole

MOST_SLICES = 20
"""Values of a column above which it is no slice column."""
LEAST_SLICE = 20
"""Examples that every value of a slice column has."""
_ROLES = ("id", "unit", "target")


@dataclass(frozen=True, slots=True)
class Target:
    """What is true of the examples."""

    shape: tuple[int, ...]
    """N first; of boxes (N, 7)."""
    kind: str
    """numpy's letter of its type; `r` where an example has any number of rows."""
    values: Array
    """Distinct ones, ascending; empty for rows."""
    classes: tuple[str, ...] = ()
    """Names that the file has for them."""

    @property
    def whole(self) -> bool:
        """Whether every value is a whole number."""
        return self.kind in "biu" or (
            self.kind == "f" and bool(np.array_equal(self.values, np.floor(self.values)))
        )

    def within(self, size: int | None) -> bool:
        """Whether values are class numbers below `size`; None: any number of classes."""
        if not (self.whole and len(self.values)):
            return False
        low, high = float(self.values[0]), float(self.values[-1])
        return low >= 0 and (size is None or high < size)


@dataclass(frozen=True, slots=True)
class Looked:
    """A data file."""

    source: DataSource
    base: Path
    columns: Mapping[str, Column]
    target: Target | None

    @property
    def total(self) -> int:
        """N."""
        return next((column.shape[0] for column in self.columns.values()), 0)

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that may be a model's texts."""
        return tuple(
            name
            for name, column in self.columns.items()
            if name not in _ROLES and column.dtype.kind == "U" and len(column.shape) == 1
        )

    @property
    def images(self) -> tuple[str, ...]:
        """Columns of encoded images."""
        return tuple(name for name, one in self.columns.items() if pictures.is_encoded(one))

    def described(self) -> str:
        """`1,000 examples: image (N, 1, 8, 8) float32, target (N,) int64`."""
        told = []
        for name, column in self.columns.items():
            inner = ", ".join(["N", *map(str, column.shape[1:])])
            kind = "text" if column.dtype.kind == "U" else column.dtype.name
            kind = "encoded images" if name in self.images else kind
            shape = "boxes" if isinstance(column, Ragged) else f"({inner})"
            told.append(f"{plain(name, 40)} {shape} {kind}")
        return f"{plural(self.total, 'example')}: {few(told, 12)}"


def look(source: DataSource, base: Path, scratch: Path) -> Looked:
    """Read a file's columns; inputs stay on disk.

    Raises:
        UsageError: it is not there, or nothing tells its format.
        DataError: it is damaged.
    """
    columns = data.read("held_out", source, base, scratch)
    target = columns.get("target")
    return Looked(source, base, columns, None if target is None else _target(target))


def _target(column: Column) -> Target:
    if isinstance(column, Ragged):
        classes = column.classes if isinstance(column, Classed) else ()
        return Target(column.shape, "r", np.empty(0), classes)
    values = np.asarray(column[:])
    return Target(tuple(values.shape), values.dtype.kind, np.unique(values))


def slice_columns(split: Split) -> dict[str, int]:
    """Columns with few values, each of many examples, to the examples of the rarest value."""
    found = {}
    for name, values in split.slices.items():
        kinds, counts = np.unique(values, return_counts=True)
        few_values = 1 < len(kinds) <= MOST_SLICES
        if few_values and values.dtype.kind in "Uiub" and counts.min() >= LEAST_SLICE:
            found[name] = int(counts.min())
    return found


def remarks(split: Split) -> str:
    """What somebody should know of a held-out set, for the comment behind its path."""
    told = [plural(len(split), "example")]
    if split.unit is not None:
        told.append(f"of {plural(len(np.unique(split.unit)), 'independent unit')}")
    repeated = data.duplicates(split)
    if repeated:
        told.append(f"{whole(repeated)} repeat an earlier one")
    told.append("which neither training nor calibration may have seen")
    return ", ".join(told)
