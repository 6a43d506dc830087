"""Brings raw values into what the model takes, and refuses data that do not fit its inputs.

Which data fit is known from shapes and dtypes before anything runs, but for images of sizes that
only decoding tells. There is no silent cast: only a policy's `preprocess` converts, and only to
float32.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gate import attached, pictures, tokens
from gate.errors import DataError, UsageError
from gate.sources import Preprocess
from gate.values import Array, Column, TensorSpec

_IMAGE_AXES = 3
_CHANNELS = (1, 3)
_ENCODED = "encoded image"
_FIRST_FIELDS = {"scale", "mean", "std", "to_channels_first"}


Prepare = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Raw values (B, …) by column to what the model takes, (B, …) by input, contiguous."""


def entering(
    inputs: Sequence[TensorSpec], preprocess: Preprocess | None, home: Path = Path()
) -> tuple[TensorSpec, ...]:
    """What data are brought into: the model's inputs, or those of the graph before it.

    Raises:
        UsageError: the graph cannot be opened, or does not make the model's inputs.
        DataError: it makes them of another type or shape.
    """
    if preprocess is None or preprocess.graph is None:
        return tuple(inputs)
    return attached.before(preprocess.graph, home, inputs).inputs


def raw_names(
    columns: Mapping[str, Column], inputs: Sequence[TensorSpec], preprocess: Preprocess | None
) -> tuple[str, ...]:
    """The columns that a model is fed from, whether or not there are such.

    `inputs` are what `entering` tells.

    Raises:
        UsageError: several columns hold encoded images, and nothing tells which one is meant.
    """
    if preprocess is not None and preprocess.graph is not None:
        preprocess = preprocess.before_graph
    if preprocess is not None and preprocess.tokenizer is not None:
        return tokens.columns(preprocess.tokenizer, inputs)
    names = tuple(spec.name for spec in inputs)
    if preprocess is None or len(names) != 1:
        return names
    return (preprocess.image or _image_column(columns, names[0]),)


def _image_column(columns: Mapping[str, Column], wanted: str) -> str:
    encoded = [name for name, column in columns.items() if pictures.is_encoded(column)]
    if wanted in columns or not encoded:
        return wanted
    if len(encoded) > 1:
        raise UsageError(
            f"columns {', '.join(map(repr, encoded))} hold encoded images, and the model's input "
            f"is {wanted!r}: name one in `build.preprocess` as `image:`"
        )
    return encoded[0]


def fit(
    where: str,
    columns: Mapping[str, Column],
    inputs: Sequence[TensorSpec],
    preprocess: Preprocess | None,
    home: Path = Path(),
) -> Prepare:
    """What turns raw values into what the model takes.

    `columns` are those that `raw_names` tells; `where` begins every message; files that
    `preprocess` names are relative to `home`.

    Raises:
        UsageError: `preprocess` is given and the model has several inputs.
        DataError: dtype, rank or a fixed dimension is not the model's, or the number of means or
            standard deviations is not that of the channels.
    """
    if preprocess is not None and preprocess.graph is not None:
        graph = attached.before(preprocess.graph, home, inputs)
        bring = fit(where, columns, graph.inputs, preprocess.before_graph, home)
        return lambda raw: graph.run(bring(raw))
    if preprocess is None:
        for spec in inputs:
            column = columns[spec.name]
            _check_dtype(where, spec, spec.name, column, dtype_name(column.dtype))
            _check_shape(where, spec, spec.name, column.shape[1:])
        return lambda raw: {name: _plain(values) for name, values in raw.items()}
    if preprocess.tokenizer is not None:
        told = preprocess.tokenizer
        return tokens.fit(where, columns, inputs, told, tokens.place(told, home))
    if len(inputs) != 1:
        raise UsageError(
            f"`build.preprocess` is for models with one input; this one has {described(inputs)}: "
            "remove it, and save the data as the model takes them"
        )
    (taken,), (name,) = inputs, raw_names(columns, inputs, preprocess)
    prepare = _fit_preprocess(where, name, columns[name], taken, preprocess)
    return lambda raw: {taken.name: prepare(raw[name])}


def for_tracing(
    columns: Mapping[str, Column],
    names: Sequence[str],
    preprocess: Preprocess | None,
    home: Path = Path(),
) -> Prepare:
    """What `fit` gives for a model that is not exported yet: it takes what `preprocess` makes.

    Raises:
        UsageError: a graph makes its inputs, whose shapes only an exported model tells.
    """
    if preprocess is not None and preprocess.graph is not None:
        raise UsageError(
            "a model is not traced through `build.preprocess.graph`: export it to ONNX first"
        )
    if preprocess is not None and preprocess.tokenizer is not None:
        specs = [TensorSpec(name=name, dtype="int64", shape=(None, None)) for name in names]
        return fit("example inputs", columns, specs, preprocess, home)
    made = "float32" if preprocess else None
    specs = [
        TensorSpec(
            name=name,
            dtype=made or dtype_name(columns[name].dtype),
            shape=(None,) * _rank(columns[name]),
        )
        for name in names
    ]
    return fit("example inputs", columns, specs, preprocess)


def _rank(column: Column) -> int:
    """Axes of what enters the model; images are decoded into four."""
    return 1 + _IMAGE_AXES if pictures.is_encoded(column) else len(column.shape)


def digest(preprocess: Preprocess | None) -> str:
    """sha256 of what happens to an input, kept apart from the hash of the data.

    Fields that are not given do not count, so that a new kind of step changes no earlier hash.
    """
    told = None
    if preprocess:
        told = preprocess.model_dump(include=_FIRST_FIELDS)
        told |= preprocess.model_dump(exclude_defaults=True)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def is_by_row(
    columns: Mapping[str, Column], inputs: Sequence[TensorSpec], preprocess: Preprocess | None
) -> bool:
    """Whether an example becomes the same, to the last bit, whatever stands beside it in a batch.

    A runtime's sums may depend on the batch, and images of several sizes are no batch.
    """
    if preprocess is None:
        return True
    fixed = all(None not in spec.shape[1:] for spec in inputs)
    drawn = any(map(pictures.is_encoded, columns.values()))
    sized = None not in pictures.output_size(preprocess)
    return preprocess.graph is None and (fixed or sized or not drawn)


def by_itself(preprocess: Preprocess | None) -> Preprocess | None:
    """The same with texts padded to one length: what a text becomes tells it apart from others,
    and must not depend on the longest one beside it."""
    if preprocess is None or preprocess.tokenizer is None:
        return preprocess
    padded = preprocess.tokenizer.model_copy(update={"padding": "max_length"})
    return preprocess.model_copy(update={"tokenizer": padded})


def described(inputs: Sequence[TensorSpec]) -> str:
    """`image float32 (N, 1, 8, ?), mask bool (N, 8)`."""
    return ", ".join(f"{spec.name} {spec.dtype} {_dims(spec.shape[1:])}" for spec in inputs)


@dataclass(frozen=True, slots=True)
class _Prepare:
    """Drawn, `(value * scale - mean) / std` in float32, then channels first: (B, …) -> (B, …)."""

    where: str
    name: str
    spec: TensorSpec
    draw: Preprocess | None
    """Where images are decoded or change their pixels."""
    scale: Array
    mean: Array
    std: Array
    arithmetic: bool
    channels_first: bool

    def __call__(self, raw: Array) -> Array:
        values = pictures.batch(self.where, raw, self.draw) if self.draw else raw
        if self.draw:
            self._check_drawn(values.shape[1:])
        values = self._scaled(values) if self.arithmetic else values
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.channels_first else values)

    def _check_drawn(self, drawn: tuple[int, ...]) -> None:
        inner = _turned(drawn) if self.channels_first else drawn
        _check_shape(self.where, self.spec, self.name, inner, drawn=True)

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
    where: str, name: str, column: Column, spec: TensorSpec, preprocess: Preprocess
) -> _Prepare:
    encoded = pictures.is_encoded(column)
    draws = encoded or preprocess.draws
    raw = _drawn(where, name, column, preprocess) if draws else column.shape[1:]
    first = preprocess.to_channels_first or preprocess.layout == "NCHW"
    first |= encoded and preprocess.layout is None
    if (first or preprocess.layout) and len(raw) != _IMAGE_AXES:
        field = "to_channels_first" if preprocess.to_channels_first else "layout"
        raise DataError(
            f"{where}: `{field}` needs data (N, H, W, C), and column {name!r} is "
            f"{_dims(raw)}; remove it from `build.preprocess`"
        )
    moves_only = preprocess.scale == 1 and not preprocess.mean and not preprocess.std
    stored = "uint8" if draws else dtype_name(column.dtype)
    arithmetic = not (moves_only and stored == spec.dtype)
    if arithmetic and not encoded and column.dtype.kind not in "biuf":
        raise DataError(f"{where}: column {name!r} is text; `build.preprocess` needs numbers")
    _check_dtype(where, spec, name, column, "float32" if arithmetic else stored)
    _check_shape(where, spec, name, _turned(raw) if first else raw, drawn=draws)
    last = draws or first or preprocess.layout is not None
    return _Prepare(
        where=where,
        name=name,
        spec=spec,
        draw=preprocess if draws else None,
        scale=_float32(where, "scale", (preprocess.scale,)).reshape(()),
        mean=_per_channel(where, "mean", preprocess.mean or (0.0,), raw, last=last),
        std=_per_channel(where, "std", preprocess.std or (1.0,), raw, last=last),
        arithmetic=arithmetic,
        channels_first=first,
    )


def _drawn(where: str, name: str, column: Column, preprocess: Preprocess) -> tuple[int | None, ...]:
    """(H, W, C) of images after every step that draws; None where it depends on the image."""
    if pictures.is_encoded(column):
        return (*pictures.output_size(preprocess), 1 if preprocess.color == "L" else 3)
    inner = column.shape[1:]
    if column.dtype != np.uint8 or len(inner) != _IMAGE_AXES or inner[2] not in _CHANNELS:
        raise DataError(
            f"{where}: column {name!r} is {column.dtype.name} {_dims(inner)}, and what "
            "`build.preprocess` draws (color, resize, crop, letterbox) is images: encoded, or "
            "uint8 (N, H, W, C) with 1 or 3 channels"
        )
    channels = {None: inner[2], "L": 1}.get(preprocess.color, 3)
    try:
        placed = pictures.placements(preprocess, width=inner[1], height=inner[0])
    except ValueError as error:
        raise DataError(f"{where}: column {name!r}: {error}") from error
    wide, high = placed[-1].canvas if placed else (inner[1], inner[0])
    return high, wide, channels


def _turned(inner: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """(H, W, C) as (C, H, W)."""
    return inner[2], inner[0], inner[1]


def _per_channel(
    where: str, name: str, values: tuple[float, ...], raw: tuple[int | None, ...], *, last: bool
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
    """As `TensorSpec` names it: text is `object`; encoded images have a name that no model has."""
    return {"U": "object", "O": _ENCODED}.get(dtype.kind, dtype.name)


def _check_dtype(where: str, spec: TensorSpec, name: str, column: Column, result: str) -> None:
    if result == spec.dtype:
        return
    encoded = pictures.is_encoded(column)
    if result == _ENCODED:
        raise DataError(
            f"{where}: column {name!r} holds encoded images, and the model's input wants "
            f"{spec.dtype}: say in `build.preprocess` how they enter; `preprocess: {{}}` decodes "
            "them to float32 (N, 3, H, W), 0 to 255 in RGB"
        )
    raw = "text" if column.dtype.kind == "U" else column.dtype.name
    if result != raw and column.dtype.kind != "U":
        told = "encoded images" if encoded else raw
        hint = f"remove `build.preprocess`, and save the column as {spec.dtype}"
        raise DataError(
            f"{where}: `build.preprocess` turns column {name!r} ({told}) into {result}, and "
            f"the model's input wants {spec.dtype}: "
            f"{'remove scale, mean and std' if encoded and spec.dtype == 'uint8' else hint}"
        )
    convert = raw not in ("text", "float64") and spec.dtype == "float32"
    other = ", or add `build.preprocess` (scale, mean, std), which makes float32" if convert else ""
    raise DataError(
        f"{where}: column {name!r} is {raw}, and the model's input wants {spec.dtype}: save "
        f"it as {'text' if spec.dtype == 'object' else spec.dtype}{other}"
    )


def _check_shape(
    where: str,
    spec: TensorSpec,
    name: str,
    inner: tuple[int | None, ...],
    *,
    drawn: bool = False,
) -> None:
    wanted = spec.shape[1:]
    if spec.shape and _fits(inner, wanted):
        return
    turn = len(inner) == _IMAGE_AXES and _fits(_turned(inner), wanted)
    hint = "set `build.preprocess.to_channels_first: true`" if turn else "reshape the data"
    if drawn:
        hint = "mend color, resize, crop, letterbox or layout in `build.preprocess`"
    model = _dims(wanted) if spec.shape else "a single value, without a batch axis"
    raise DataError(
        f"{where}: column {name!r} enters the model as {_dims(inner)}, and the input wants "
        f"{model}: {hint}, or use the model that they were made for"
    )


def _fits(inner: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    """Whether all that is known agrees."""
    return len(inner) == len(wanted) and all(
        size is None or want is None or size == want
        for size, want in zip(inner, wanted, strict=True)
    )


def _dims(inner: Sequence[int | None]) -> str:
    return "(" + ", ".join(["N", *("?" if size is None else str(size) for size in inner)]) + ")"
