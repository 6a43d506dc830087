"""`rows.npz`: what a run leaves of each example, so that it can be judged again."""

import io
import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gate import mapped
from gate.errors import RecordError
from gate.values import Array, Evaluation, Ragged, Rows, Values

_BLOCK = 1 << 20
"""Bytes."""
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    MemoryError,  # a header may ask for any
    SyntaxError,  # numpy reads headers as Python, and mends them by its tokens
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading an archive that no run wrote may raise."""


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an npz; the same arrays give the same bytes.

    `numpy.savez` takes names as keyword arguments, which not every output name can be.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            array = np.asarray(arrays[name])
            header, data = _npy(array)
            entry = zipfile.ZipInfo(name + ".npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.file_size = len(header) + len(data)
            with archive.open(entry, "w") as stream:
                stream.write(header)
                for start in range(0, len(data), _BLOCK):  # never a second copy of all of it
                    stream.write(data[start : start + _BLOCK])
                    mapped.give_back(array)


def _npy(array: Array) -> tuple[bytes, memoryview]:
    """What a `.npy` begins with, and the array's bytes where they lie.

    Raises:
        ValueError: it holds objects, which are no data.
    """
    if array.dtype.hasobject:
        raise ValueError("an array of objects cannot be kept")
    told = np.lib.format.header_data_from_array_1_0(array)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, told)
    plain = np.ascontiguousarray(array.T if told["fortran_order"] else array)
    return stream.getvalue(), plain.reshape(-1).view(np.uint8).data


def rows_of(evaluation: Evaluation) -> dict[str, Array]:
    """The arrays of `rows.npz`: id, target, unit, `slice/…`, and rows of `fp32/…`, `int8/…`,
    `release/production/…` and `release/anchor/…`.

    What has any number of rows an example is their values, and `…/offsets` (N + 1,): where each
    example's begin.
    """
    arrays: dict[str, Array] = {"id": evaluation.ids}
    if evaluation.targets is not None:
        arrays |= _parts("target", evaluation.targets)
    if evaluation.unit is not None:
        arrays["unit"] = evaluation.unit
    if evaluation.content is not None:
        arrays["content"] = evaluation.content
    arrays |= {f"slice/{name}": values for name, values in evaluation.slices.items()}
    earlier = {f"{_RELEASE}{name}": found for name, found in evaluation.releases.items()}
    for side, found in {"fp32": evaluation.fp32, "int8": evaluation.int8, **earlier}.items():
        for name, rows in found.items():
            arrays |= _parts(f"{side}/{name}", rows.values)
    arrays |= {f"problem/{name}": np.array(why) for name, why in evaluation.problems.items()}
    return arrays


_OFFSETS = "/offsets"
_RELEASE = "release/"


def _parts(name: str, values: Values) -> dict[str, Array]:
    if isinstance(values, Ragged):
        return {name: values.values, name + _OFFSETS: values.offsets}
    return {name: values}


def load_arrays(path: os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an npz that a run wrote, `id` among them: (N,) of different texts.

    Raises:
        RecordError: the file is missing or damaged.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays: dict[str, Any] = dict(archive)
        ids = arrays["id"]
        if ids.ndim != 1 or ids.dtype.kind != "U" or len(np.unique(ids)) != len(ids):
            raise ValueError("its ids are no list of different texts")
    except _DAMAGE as error:
        raise RecordError(
            f"{path} is missing or damaged: {error}. Fetch it again, or run the gate again"
        ) from error
    return arrays


def load_rows(path: os.PathLike[str]) -> Evaluation:
    """The evaluation that `rows_of` described.

    Raises:
        RecordError: the file is missing or damaged.
    """
    arrays = load_arrays(path)
    try:
        whole = _whole(arrays, len(arrays["id"]))
    except (ValueError, IndexError, TypeError) as error:
        raise RecordError(f"{path} is damaged: {error}. Run the gate again") from error
    return Evaluation(
        ids=arrays["id"],
        targets=whole.get("target"),
        slices=_under(arrays, "slice/"),
        unit=arrays.get("unit"),
        fp32={name: Rows(values) for name, values in _under(whole, "fp32/").items()},
        int8={name: Rows(values) for name, values in _under(whole, "int8/").items()},
        problems={name: str(why) for name, why in _under(arrays, "problem/").items()},
        content=arrays.get("content"),
        releases=_releases(whole),
    )


def _releases(whole: Mapping[str, Values]) -> dict[str, dict[str, Rows]]:
    found: dict[str, dict[str, Rows]] = {}
    for name, values in _under(whole, _RELEASE).items():
        against, _, observation = name.partition("/")
        found.setdefault(against, {})[observation] = Rows(values)
    return found


def _whole(arrays: Mapping[str, Array], n: int) -> dict[str, Values]:
    """What belongs together, put together; an entry for each of `n` examples."""
    whole: dict[str, Values] = {}
    for name, values in arrays.items():
        if name.endswith(_OFFSETS):
            continue
        offsets = arrays.get(name + _OFFSETS)
        whole[name] = values if offsets is None else Ragged(values, offsets)
        if offsets is not None and not _fit(values, offsets, n):
            raise ValueError(f"the offsets of {name} are none")
    return whole


def _fit(values: Array, offsets: Array, n: int) -> bool:
    ordered = offsets.dtype.kind == "i" and offsets.shape == (n + 1,) and values.ndim > 1
    return ordered and (
        offsets[0] == 0 and offsets[-1] == len(values) and bool((np.diff(offsets) >= 0).all())
    )


def _under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def places(ids: Array, known: Array) -> Array | None:
    """(S,) of int64: where each of `ids` stands in `known`; None where one does not."""
    if not len(known):
        return None
    order = np.argsort(known)
    near = np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)
    found = order[near]
    return np.asarray(found) if np.array_equal(known[found], ids) else None


def same_examples(mine: Evaluation, theirs: Evaluation, at: Array, where: Array) -> Array:
    """(S,) of bool: which examples `at` of mine are those `where` of theirs, unchanged.

    What enters the model and the target are the same; that both were prepared alike is for the
    caller to know. Without contents nothing can be told, and nothing is the same.
    """
    none = np.zeros(len(at), dtype=bool)
    if not len(at) or mine.content is None or theirs.content is None:
        return none
    same = (mine.content[at] == theirs.content[where]).all(axis=1)
    if mine.targets is None or theirs.targets is None:
        return same if mine.targets is theirs.targets else none
    one, other = mine.targets[at], theirs.targets[where]
    if isinstance(one, Ragged) and isinstance(other, Ragged):
        one, other = one.digests, other.digests
    if isinstance(one, Ragged) or isinstance(other, Ragged) or one.shape != other.shape:
        return none
    return np.asarray(same & (one == other).reshape(len(at), -1).all(axis=1))
