"""How a data file's columns enter a model: what `build.preprocess` would say, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gate import tokens
from gate.commands._init_data import Looked
from gate.errors import UsageError
from gate.sources import Tokenizer
from gate.values import Column, TensorSpec
from gate.wording import few

BYTE = 1 / 255
"""Scale that brings bytes to 0..1."""
_IDS = frozenset({"input_ids", "ids"})
_PAIRS = (("premise", "hypothesis"), ("question", "context"), ("sentence1", "sentence2"))
_IMAGE = 4
_CHANNELS = (1, 3)
_LONGEST = 512
_STEP = 8


@dataclass(frozen=True, slots=True)
class Entering:
    """What happens to raw values."""

    preprocess: Mapping[str, Any] | None
    why: str = ""
    text: bool = False
    """Whether text enters."""


def reads_text(inputs: Sequence[TensorSpec], columns: Mapping[str, Column]) -> bool:
    """Whether the model takes token ids that the data do not have."""
    return any(one.name in _IDS and one.name not in columns for one in inputs)


def entering(
    looked: Looked, inputs: Sequence[TensorSpec], *, own: Path | None, beside: Sequence[Path]
) -> tuple[Entering, Path | None]:
    """The guess, and the tokenizer's file where the policy has to name one.

    Args:
        looked: the held-out data.
        inputs: the model's.
        own: the tokenizer that the candidate brings.
        beside: folders in which a `tokenizer.json` may lie.

    Raises:
        UsageError: nothing tells; names the flag that does.
    """
    if reads_text(inputs, looked.columns):
        return _tokens(looked, inputs, own, beside)
    if len(inputs) == 1:
        return _one_input(looked, inputs[0]), None
    return Entering(None), None


# ── images ────────────────────────────────────────────────────────────────────────────────


def _one_input(looked: Looked, spec: TensorSpec) -> Entering:
    column = looked.columns.get(spec.name)
    if column is None and len(looked.images) == 1:
        column = looked.columns[looked.images[0]]
    if column is None or spec.dtype != "float32":
        return Entering(None)
    if column.dtype.kind == "O":
        return _encoded(spec)
    if column.dtype != np.uint8:
        return Entering(None)
    steps: dict[str, Any] = {"scale": BYTE}
    inner = column.shape[1:]
    turned = (*inner[-1:], *inner[:-1])
    wanted = spec.shape[1:]
    if len(spec.shape) == _IMAGE and not _fits(inner, wanted) and _fits(turned, wanted):
        steps["layout"] = "NCHW"
    return Entering(steps, "bytes to 0..1, a guess: it has to be what training did")


def _encoded(spec: TensorSpec) -> Entering:
    first = len(spec.shape) == _IMAGE and spec.shape[1] in _CHANNELS
    sides = spec.shape[2:] if first else spec.shape[1:3]
    channels = spec.shape[1] if first else spec.shape[-1]
    if len(spec.shape) != _IMAGE or None in sides or channels not in _CHANNELS:
        raise UsageError(
            f"the data hold encoded images, and input {spec.name!r} is free in its size: say with "
            "--preprocess how they enter, such as "
            "--preprocess '{resize: {size: [224, 224]}, scale: 0.00392156862745098}'"
        )
    steps: dict[str, Any] = {"resize": {"size": list(sides)}, "scale": BYTE}
    if channels == 1:
        steps["color"] = "L"
    if not first:
        steps["layout"] = "NHWC"
    return Entering(steps, "resized, bytes to 0..1: a guess, it has to be what training did")


def _fits(inner: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(inner) == len(wanted) and all(
        want in (None, size) for size, want in zip(inner, wanted, strict=True)
    )


# ── text ──────────────────────────────────────────────────────────────────────────────────


def _tokens(
    looked: Looked, inputs: Sequence[TensorSpec], own: Path | None, beside: Sequence[Path]
) -> tuple[Entering, Path | None]:
    columns = _text_columns(looked)
    file = own or next((f for folder in beside if (f := folder / "tokenizer.json").is_file()), None)
    if file is None:
        raise UsageError(
            "the model takes token ids, and there is no tokenizer.json beside it or the data: name "
            "one with --preprocess '{tokenizer: {file: PATH, max_length: 128}}', relative to the "
            "policy"
        )
    length, why = _length(looked, inputs, file, columns)
    spec: dict[str, Any] = {} if columns == ("text",) else {"columns": list(columns)}
    spec["max_length"] = length
    told = f"{why}, the candidate's own tokenizer" if own else why
    return Entering({"tokenizer": spec}, told, text=True), None if own else file


def _text_columns(looked: Looked) -> tuple[str, ...]:
    texts = looked.texts
    if "text" in texts:
        return ("text",)
    for pair in _PAIRS:
        if set(pair) <= set(texts):
            return pair
    if len(texts) == 1:
        return texts
    raise UsageError(
        "the model takes token ids, and nothing tells which column of the data is its text "
        f"({few(texts) or 'none holds text'}): say so with "
        "--preprocess '{tokenizer: {columns: [COLUMN], max_length: 128}}'"
    )


def _length(
    looked: Looked, inputs: Sequence[TensorSpec], file: Path, columns: tuple[str, ...]
) -> tuple[int, str]:
    """`max_length`, and why."""
    fixed = {one.shape[1] for one in inputs if one.name in _IDS and len(one.shape) > 1} - {None}
    if fixed:
        return int(min(size for size in fixed if size is not None)), "as long as the model is fixed"
    spec = Tokenizer(columns=columns, max_length=_LONGEST, padding="longest")
    raw = [np.asarray(looked.columns[name][:]).tolist() for name in columns]
    texts = raw[0] if len(raw) == 1 else list(zip(*raw, strict=True))
    encoded = tokens.tokenizer_of(spec, file).encode_batch(texts)
    longest = max((sum(one.attention_mask) for one in encoded), default=1)
    length = min(_LONGEST, -(-longest // _STEP) * _STEP)
    return length, f"the longest of these texts has {longest} tokens; write what production uses"
