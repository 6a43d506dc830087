"""Brings raw values into what the model takes, and refuses data that do not fit its inputs.

Which data fit is known from shapes and dtypes alone, before anything runs. There is no silent
cast: only a policy's `preprocess` converts, and only to float32.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gate.errors import DataError, UsageError
from gate.policy import Preprocess
from gate.values import Array, Column, TensorSpec

_IMAGE_AXES = 3


def fit(
    where: str,
    columns: Mapping[str, Column],
    inputs: Sequence[TensorSpec],
    preprocess: Preprocess | None,
) -> Callable[[Array], Array]:
    """What turns a raw batch (B, …) of an input into what the model takes, contiguous.

    `columns` holds a column for every one of `inputs`; `where` begins every message.

    Raises:
        UsageError: `preprocess` is given and the model has several inputs.
        DataError: dtype, rank or a fixed dimension is not the model's, or the number of means or
            standard deviations is not that of the channels.
    """
    if preprocess is None:
        for spec in inputs:
            column = columns[spec.name]
            _check_dtype(where, spec, column, dtype_name(column.dtype))
            _check_shape(where, spec, column.shape[1:])
        return _plain
    if len(inputs) != 1:
        raise UsageError(
            f"`build.preprocess` is for models with one input; this one has {described(inputs)}: "
            "remove it, and save the data as the model takes them"
        )
    return _fit_preprocess(where, columns[inputs[0].name], inputs[0], preprocess)


def for_tracing(
    columns: Mapping[str, Column], names: Sequence[str], preprocess: Preprocess | None
) -> Callable[[Array], Array]:
    """What `fit` gives for a model that is not exported yet: it takes what `preprocess` makes."""
    made = "float32" if preprocess else None
    specs = [
        TensorSpec(
            name=name,
            dtype=made or dtype_name(columns[name].dtype),
            shape=(None,) * len(columns[name].shape),
        )
        for name in names
    ]
    return fit("example inputs", columns, specs, preprocess)


def digest(preprocess: Preprocess | None) -> str:
    """sha256 of what happens to an input, kept apart from the hash of the data."""
    told = preprocess.model_dump() if preprocess else None
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def described(inputs: Sequence[TensorSpec]) -> str:
    """`image float32 (N, 1, 8, ?), mask bool (N, 8)`."""
    return ", ".join(f"{spec.name} {spec.dtype} {_dims(spec.shape[1:])}" for spec in inputs)


@dataclass(frozen=True, slots=True)
class _Prepare:
    """`(raw * scale - mean) / std` in float32, then channels first: (B, …) -> (B, …)."""

    where: str
    scale: Array
    mean: Array
    std: Array
    arithmetic: bool
    channels_first: bool

    def __call__(self, raw: Array) -> Array:
        values = self._scaled(raw) if self.arithmetic else raw
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.channels_first else values)

    def _scaled(self, raw: Array) -> Array:
        with np.errstate(all="ignore"):
            values = raw.astype(np.float32)
            values *= self.scale
            values -= self.mean
            values /= self.std
        if not np.isfinite(values).all():
            raise DataError(
                f"{self.where}: a value is too large for float32 after `build.preprocess`; "
                "correct its scale, mean and std, or the data"
            )
        return values


def _plain(raw: Array) -> Array:
    """A batch as it is; text as the Python strings that runtimes take."""
    return raw.astype(object) if raw.dtype.kind == "U" else np.ascontiguousarray(raw)


def _fit_preprocess(
    where: str, column: Column, spec: TensorSpec, preprocess: Preprocess
) -> _Prepare:
    raw = column.shape[1:]
    first = preprocess.to_channels_first
    if first and len(raw) != _IMAGE_AXES:
        raise DataError(
            f"{where}: `to_channels_first` needs data (N, H, W, C), and column {spec.name!r} is "
            f"{_dims(raw)}; remove it from `build.preprocess`"
        )
    moves_only = preprocess.scale == 1 and not preprocess.mean and not preprocess.std
    arithmetic = not (moves_only and dtype_name(column.dtype) == spec.dtype)
    if arithmetic and column.dtype.kind not in "biuf":
        raise DataError(f"{where}: column {spec.name!r} is text; `build.preprocess` needs numbers")
    result = "float32" if arithmetic else dtype_name(column.dtype)
    _check_dtype(where, spec, column, result)
    _check_shape(where, spec, (raw[2], raw[0], raw[1]) if first else raw)
    return _Prepare(
        where=where,
        scale=_float32(where, "scale", (preprocess.scale,)).reshape(()),
        mean=_per_channel(where, "mean", preprocess.mean or (0.0,), raw, last=first),
        std=_per_channel(where, "std", preprocess.std or (1.0,), raw, last=first),
        arithmetic=arithmetic,
        channels_first=first,
    )


def _per_channel(
    where: str, name: str, values: tuple[float, ...], raw: tuple[int, ...], *, last: bool
) -> Array:
    """Shaped to broadcast over (B, *raw): channels are the first or last axis of an example.

    Raises:
        DataError: neither has as many channels as there are values, or both have.
    """
    numbers = _float32(where, name, values)
    if len(values) == 1:
        return numbers.reshape(())
    ends = {len(raw) - 1} if last else {0, len(raw) - 1}
    axes = [axis for axis in sorted(ends) if raw[axis : axis + 1] == (len(values),)]
    if len(axes) != 1:
        problem = "either end could be the channels" if axes else "no channel axis has that length"
        raise DataError(
            f"{where}: `build.preprocess.{name}` has {len(values)} values, and the raw data are "
            f"{_dims(raw)}: {problem}; give one value, or one for each channel"
        )
    return numbers.reshape([-1 if axis == axes[0] else 1 for axis in range(len(raw))])


def _float32(where: str, name: str, values: tuple[float, ...]) -> Array:
    with np.errstate(all="ignore"):
        numbers = np.asarray(values, dtype=np.float32)
    if not np.isfinite(numbers).all() or (name == "std" and not numbers.all()):
        raise DataError(
            f"{where}: `build.preprocess.{name}` {list(values)} is too large or too small for "
            "float32; correct it"
        )
    return numbers


def dtype_name(dtype: np.dtype[Any]) -> str:
    """As `TensorSpec` names it: text is `object`."""
    return "object" if dtype.kind == "U" else dtype.name


def _check_dtype(where: str, spec: TensorSpec, column: Column, result: str) -> None:
    if result == spec.dtype:
        return
    raw = "text" if column.dtype.kind == "U" else column.dtype.name
    if result != raw and column.dtype.kind != "U":
        raise DataError(
            f"{where}: `build.preprocess` turns column {spec.name!r} ({raw}) into {result}, and "
            f"the model's input wants {spec.dtype}: remove `build.preprocess`, and save the "
            f"column as {spec.dtype}"
        )
    convert = raw not in ("text", "float64") and spec.dtype == "float32"
    other = ", or add `build.preprocess` (scale, mean, std), which makes float32" if convert else ""
    raise DataError(
        f"{where}: column {spec.name!r} is {raw}, and the model's input wants {spec.dtype}: save "
        f"it as {'text' if spec.dtype == 'object' else spec.dtype}{other}"
    )


def _check_shape(where: str, spec: TensorSpec, inner: tuple[int, ...]) -> None:
    wanted = spec.shape[1:]
    if spec.shape and _fits(inner, wanted):
        return
    turn = len(inner) == _IMAGE_AXES and _fits((inner[2], inner[0], inner[1]), wanted)
    hint = "set `build.preprocess.to_channels_first: true`" if turn else "reshape the data"
    model = _dims(wanted) if spec.shape else "a single value, without a batch axis"
    raise DataError(
        f"{where}: column {spec.name!r} enters the model as {_dims(inner)}, and the input wants "
        f"{model}: {hint}, or use the model that they were made for"
    )


def _fits(inner: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(inner) == len(wanted) and all(
        want is None or size == want for size, want in zip(inner, wanted, strict=True)
    )


def _dims(inner: Sequence[int | None]) -> str:
    return "(" + ", ".join(["N", *("?" if size is None else str(size) for size in inner)]) + ")"
