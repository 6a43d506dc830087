"""Reads JSON Lines: one object a line, one example an object, all with the same keys."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gate import formats
from gate.errors import DataError
from gate.pictures import Files, Names
from gate.values import Array, Column

_ID, _IMAGE, _IMAGE_PATH = "id", "image", "image_path"
_KINDS: Mapping[type, str] = {bool: "boolean", int: "number", float: "number", str: "text"}
_INT64 = np.iinfo(np.int64)
_DEEPEST = 8
"""Lists in lists: more axes than any model's input has, and less than numpy bears."""


class Jsonl:
    """Numbers, booleans, text, and lists of them of one length; `image_path` names image files.

    Whole numbers are int64, others float64 (an empty `build.preprocess` makes them float32). The
    images that `image_path` names become the column `image`, and `id` where there is none.
    """

    key: str = "jsonl"
    suffixes: tuple[str, ...] = (".jsonl", ".ndjson")

    def read(self, path: Path, scratch: Path) -> Mapping[str, Column]:
        """Columns by key, first axis N, with images beside the file."""
        return self.read_with(path, scratch, path.parent)

    def read_with(self, path: Path, scratch: Path, images: Path) -> Mapping[str, Column]:
        """Columns by key, first axis N, unpacked into `scratch`; images lie in `images`.

        Raises:
            DataError: a line that is no such object, other keys, kinds or lengths than before, or
                an image that is not there; names file and line.
        """
        layouts, count = _measured(path)
        size = sum(count * layout.row_bytes for layout in layouts.values())
        folder = formats.unpacking_folder(scratch, path, size)
        arrays = {
            name: _empty(folder / f"{place}.npy", layout, count)
            for place, (name, layout) in enumerate(layouts.items())
        }
        for row, (_, example) in enumerate(_lines(path)):
            for name, array in arrays.items():
                array[row] = example[name]
        columns: dict[str, Column] = {name: _read_only(array) for name, array in arrays.items()}
        if _IMAGE_PATH in columns:
            named = columns.pop(_IMAGE_PATH)
            columns[_IMAGE] = _files(path, images, named[:])
            columns.setdefault(_ID, Names(named[:]))
        return columns

    def columns(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Column names and shapes; takes one pass."""
        layouts, count = _measured(path)
        shapes = {name: (count, *layout.inner) for name, layout in layouts.items()}
        if _IMAGE_PATH in shapes:
            shapes[_IMAGE] = shapes.pop(_IMAGE_PATH)
            shapes.setdefault(_ID, (count,))
        return shapes


FORMAT = Jsonl()


@dataclass(slots=True)
class _Layout:
    """What a key's values have been so far."""

    kind: str
    inner: tuple[int, ...]
    """Lengths of the lists, outermost first."""
    whole: bool = True
    """Of numbers: none has a fraction."""
    width: int = 1
    """Of text: the longest."""

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.kind == "text":
            return np.dtype(f"U{self.width}")
        return np.dtype({"boolean": bool, "number": np.int64 if self.whole else float}[self.kind])

    @property
    def row_bytes(self) -> int:
        return math.prod(self.inner) * self.dtype.itemsize


# ── lines ─────────────────────────────────────────────────────────────────────────────────


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line` and its object."""
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}:{number}", _object(f"{path}:{number}", line)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); restore the file") from error


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        told = "the line is empty" if not line.strip() else str(error)
        raise DataError(
            f"{where} cannot be read ({told}): a line is one JSON object; write it again"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{where} cannot be read: a line is one JSON object; write it again")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


# ── what they hold ────────────────────────────────────────────────────────────────────────


def _measured(path: Path) -> tuple[dict[str, _Layout], int]:
    """Layouts by key, and the number of lines; every value is looked at."""
    layouts: dict[str, _Layout] = {}
    count = 0
    for where, example in _lines(path):
        if count == 0:
            layouts = {name: _first(where, name, value) for name, value in example.items()}
        _check_keys(where, layouts, example)
        for name, value in example.items():
            _measure(f"{where}: {name!r}", layouts[name], value)
        count += 1
    if not layouts:
        raise DataError(
            f"{path} holds no examples, and cannot be read (it is empty): a line is one JSON "
            "object; write it again"
        )
    return layouts, count


def _check_keys(where: str, layouts: Mapping[str, _Layout], example: Mapping[str, Any]) -> None:
    if example.keys() != layouts.keys():
        other = sorted(example.keys() ^ layouts.keys())
        raise DataError(
            f"{where}: {', '.join(map(repr, other))} not in this line and the first one alike; "
            "every example needs the same keys"
        )
    if _IMAGE in example and _IMAGE_PATH in example:
        raise DataError(f"{where} has both {_IMAGE!r} and {_IMAGE_PATH!r}; keep one of them")


def _first(where: str, name: str, value: Any) -> _Layout:
    inner: list[int] = []
    while isinstance(value, list):
        if not value:
            raise DataError(f"{where}: {name!r} is an empty list; it needs at least one value")
        inner.append(len(value))
        value = value[0]
    if len(inner) > _DEEPEST:
        raise DataError(
            f"{where}: {name!r} has lists in lists, {len(inner)} deep, and {_DEEPEST} are read: "
            "flatten it, or leave it out"
        )
    kind = _KINDS.get(type(value), "")
    if name == _IMAGE_PATH and (inner or kind != "text"):
        raise DataError(f"{where}: {name!r} has to be the path of one image")
    return _Layout(kind, tuple(inner))


def _measure(where: str, layout: _Layout, value: Any) -> None:
    for leaf in _leaves(where, layout.inner, value):
        if leaf is None or type(leaf) not in _KINDS:
            what = "missing (null)" if leaf is None else f"a {type(leaf).__name__}"
            raise DataError(
                f"{where}: a value is {what}; numbers, booleans, text and lists of one length are "
                "read: fill it in, or leave the example out"
            )
        if _KINDS[type(leaf)] != layout.kind:
            raise DataError(
                f"{where}: a {_KINDS[type(leaf)]} where the first line has a {layout.kind}; "
                "every example needs the same"
            )
        _measure_leaf(where, layout, leaf)


def _measure_leaf(where: str, layout: _Layout, leaf: bool | float | str) -> None:
    if isinstance(leaf, str):
        if "\0" in leaf:
            raise DataError(f"{where}: the text has a NUL character; remove it")
        layout.width = max(layout.width, len(leaf))
    elif isinstance(leaf, float):
        layout.whole = False
    elif not _INT64.min <= leaf <= _INT64.max:
        raise DataError(f"{where}: {leaf} is beyond 64 bits; write it as text or with a fraction")
    if not isinstance(leaf, str) and not math.isfinite(leaf):
        raise DataError(f"{where}: a number is too large for 64 bits; correct it")


def _leaves(where: str, inner: tuple[int, ...], value: Any) -> Iterator[Any]:
    if not inner:
        if isinstance(value, list):
            raise DataError(f"{where}: a list where the first line has one value")
        yield value
        return
    if not isinstance(value, list) or len(value) != inner[0]:
        found = f"a list of {len(value)}" if isinstance(value, list) else "no list"
        raise DataError(
            f"{where}: {found} where the first line has a list of {inner[0]}; every example needs "
            "the same shape: pad it, or leave the example out"
        )
    for item in value:
        yield from _leaves(where, inner[1:], item)


# ── columns ───────────────────────────────────────────────────────────────────────────────


def _empty(target: Path, layout: _Layout, count: int) -> Array:
    shape = (count, *layout.inner)
    return np.lib.format.open_memmap(target, mode="w+", dtype=layout.dtype, shape=shape)


def _read_only(array: Array) -> Column:
    array.flags.writeable = False
    return array


def _files(path: Path, images: Path, names: Array) -> Files:
    for number, name in enumerate(names.tolist(), start=1):
        outside = os.path.isabs(name) or ".." in name.split("/")
        if not name or not name.isprintable() or outside:
            raise DataError(
                f"{path}:{number}: {_IMAGE_PATH!r} {name!r} is no plain path in the folder of the "
                "images; correct it"
            )
        if not os.path.isfile(os.path.join(images, name)):
            raise DataError(
                f"{path}:{number}: image {name!r} is not in {images}; restore it, or say in "
                "`images:` which folder holds the images"
            )
    return Files(names, images)
