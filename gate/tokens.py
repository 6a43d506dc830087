"""Text to the numbers that a language model takes, by a `tokenizers` file.

The file (`tokenizer.json`) says all but lengths: normalisation, splitting, vocabulary, special
tokens, which side is padded and cut, and which text of a pair. What is
longer than `max_length` is cut off, as in serving, and counted.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from gate.errors import DataError, UsageError
from gate.sources import Preprocess, Tokenizer
from gate.values import Array, Column, TensorSpec

_PARTS: Mapping[str, str] = {
    "input_ids": "ids",
    "ids": "ids",
    "attention_mask": "attention_mask",
    "mask": "attention_mask",
    "token_type_ids": "type_ids",
    "segment_ids": "type_ids",
    "type_ids": "type_ids",
}
"""Model inputs by their usual names, and what of an encoding they take."""
_INTEGERS = ("int64", "int32")
_FIX = 'save it again with `tokenizer.save("tokenizer.json")`'


def columns(spec: Tokenizer, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """The columns that a model is fed from: text, and its inputs that are no tokens."""
    others = (one.name for one in inputs if one.name not in _PARTS)
    return (*spec.columns, *others)


def sha256(path: Path) -> str:
    """Of a tokenizer's file.

    Raises:
        UsageError: there is none.
    """
    return hashlib.sha256(_bytes(path)).hexdigest()


def place(spec: Tokenizer, home: Path) -> Path:
    """Where the file lies; `file` is relative to `home`.

    Raises:
        UsageError: the policy names none, and the candidate brings none.
    """
    if spec.file is not None:
        return home / spec.file
    if spec.own is None:
        raise UsageError(
            "`build.preprocess.tokenizer` names no `file`, and the candidate brings no "
            f"tokenizer.json of its own: {_FIX} and name it"
        )
    return spec.own


def with_own(preprocess: Preprocess | None, file: Path | None) -> Preprocess | None:
    """With the candidate's own tokenizer, where one is wanted and the policy names no file.

    Raises:
        UsageError: `file` is not there.
    """
    spec = None if preprocess is None else preprocess.tokenizer
    if preprocess is None or spec is None or spec.file is not None or file is None:
        return preprocess
    return preprocess.model_copy(update={"tokenizer": spec.with_own(file, sha256(file))})


def own(preprocess: Preprocess | None) -> Path | None:
    """The candidate's tokenizer, where texts are read by it."""
    spec = None if preprocess is None else preprocess.tokenizer
    return None if spec is None or spec.file is not None else spec.own


def vocabulary(file: Path) -> dict[str, int]:
    """Token to id.

    Raises:
        UsageError: the file is missing, or none that `tokenizers` reads.
    """
    return dict(_loaded(file, None, None, None).get_vocab())


def fit(
    where: str,
    found: Mapping[str, Column],
    inputs: Sequence[TensorSpec],
    spec: Tokenizer,
    path: Path,
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """What turns (B,) texts by column into token ids and masks (B, T) by model input.

    Raises:
        UsageError: the file is missing, is not the pinned one, or the model takes no tokens, or
            `max_length` none but special ones.
        DataError: a column is no text, or is none.
    """
    for name in spec.columns:
        column = found[name]
        if column.dtype.kind != "U" or len(column.shape) != 1:
            raise DataError(
                f"{where}: column {name!r} is {column.dtype} {column.shape}; a tokenizer takes one "
                "text an example"
            )
    taken = [one for one in inputs if one.name in _PARTS]
    _demand_inputs(where, inputs, taken)
    tokenizer = _loaded(path, spec.sha256, spec.max_length, spec.padding)
    _demand_room(where, tokenizer, spec)
    length = _fixed_length(where, taken, spec)

    def prepare(raw: Mapping[str, Array]) -> dict[str, Array]:
        encoded = _encoded(where, tokenizer, raw, spec)
        others = {name: np.ascontiguousarray(raw[name]) for name in raw if name not in spec.columns}
        return others | {one.name: _tokens(encoded, one, length) for one in taken}

    return prepare


def tokenizer_of(spec: Tokenizer, path: Path) -> Any:
    """A `tokenizers.Tokenizer` to change, set as `spec` says; raises as `fit` does."""
    from tokenizers import Tokenizer as Loaded

    return Loaded.from_str(_loaded(path, spec.sha256, spec.max_length, spec.padding).to_str())


def truncated(spec: Tokenizer, path: Path, raw: Mapping[str, Array]) -> Array:
    """(B,) of bool: examples with more tokens than `max_length`."""
    tokenizer = _loaded(path, spec.sha256, None, None)
    encoded = tokenizer.encode_batch(_texts(raw, spec))
    return np.array([len(one.ids) > spec.max_length for one in encoded], dtype=bool)


def empty(spec: Tokenizer, raw: Mapping[str, Array]) -> Array:
    """(B,) of bool: examples of which a text is empty, where such are not allowed."""
    found = np.zeros(len(raw[spec.columns[0]]), dtype=bool)
    if not spec.allow_empty:
        for name in spec.columns:
            found |= np.char.strip(raw[name]) == ""
    return found


def _texts(raw: Mapping[str, Array], spec: Tokenizer) -> list[Any]:
    """One text an example, or a pair."""
    sides = [raw[name].tolist() for name in spec.columns]
    return sides[0] if len(sides) == 1 else list(zip(*sides, strict=True))


def _encoded(
    where: str, tokenizer: Any, raw: Mapping[str, Array], spec: Tokenizer
) -> Sequence[Any]:
    try:
        return cast(Sequence[Any], tokenizer.encode_batch(_texts(raw, spec)))
    except Exception as error:  # the library raises bare exceptions
        raise UsageError(
            f"{where}: the tokenizer cannot bring every text to `max_length: {spec.max_length}` "
            f"({error}): write a larger one, or save the tokenizer with the truncation strategy "
            "longest_first"
        ) from error


def _demand_room(where: str, tokenizer: Any, spec: Tokenizer) -> None:
    """Where special tokens alone fill `max_length`, the library cuts to nothing, or not at all."""
    special = tokenizer.num_special_tokens_to_add(len(spec.columns) > 1)
    if spec.max_length <= special:
        raise UsageError(
            f"{where}: `max_length: {spec.max_length}` of `build.preprocess.tokenizer` leaves no "
            f"token for text beside {special} special ones; write what production uses"
        )


def _tokens(encoded: Sequence[Any], spec: TensorSpec, length: int | None) -> Array:
    """(B, T); T is the batch's longest, or as long as the model wants."""
    rows = [getattr(one, _PARTS[spec.name]) for one in encoded]
    found = np.array(rows, dtype=spec.dtype)
    assert length is None or found.shape[1] == length
    return found


def _demand_inputs(where: str, inputs: Sequence[TensorSpec], taken: Sequence[TensorSpec]) -> None:
    if not any(_PARTS[one.name] == "ids" for one in taken):
        names = ", ".join(one.name for one in inputs)
        raise UsageError(
            f"{where}: `build.preprocess.tokenizer` feeds inputs named {', '.join(_PARTS)}; the "
            f"model has {names}: rename the input of token ids to `input_ids` when exporting"
        )
    for one in taken:
        if one.dtype not in _INTEGERS:
            raise UsageError(f"{where}: input {one.name!r} wants {one.dtype}, and tokens are int64")


def _fixed_length(where: str, taken: Sequence[TensorSpec], spec: Tokenizer) -> int | None:
    """The length that the model is fixed to, which padding has to give."""
    fixed = {one.shape[1] for one in taken if len(one.shape) > 1} - {None}
    if not fixed:
        return None
    (length, *more) = sorted(size for size in fixed if size is not None)
    if more or length != spec.max_length or spec.padding != "max_length":
        raise UsageError(
            f"{where}: the model is fixed to {length} tokens; write `max_length: {length}` and "
            "`padding: max_length` in `build.preprocess.tokenizer`, or export a free length"
        )
    return length


@lru_cache(maxsize=4)
def _loaded(path: Path, pin: str | None, most: int | None, padding: str | None) -> Any:
    """With truncation and padding set, or without either; shared."""
    from tokenizers import Tokenizer as Loaded

    content = _bytes(path)
    found = hashlib.sha256(content).hexdigest()
    if pin not in (None, found):
        raise UsageError(
            f"{path} is not the tokenizer that the policy pins: pinned {pin}, found {found}. "
            "Restore it, or, if the change is meant, write its sha256 into the policy"
        )
    try:
        tokenizer = Loaded.from_buffer(content)
    except Exception as error:  # the library raises bare exceptions
        raise UsageError(
            f"{path} is no tokenizer that `tokenizers` reads ({error}): {_FIX}"
        ) from error
    cut = tokenizer.truncation or {}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if most is not None:
        tokenizer.enable_truncation(
            most,
            strategy=cut.get("strategy", "longest_first"),
            direction=cut.get("direction", "right"),
        )
        _pad(tokenizer, content, most if padding == "max_length" else None)
    return tokenizer


def _pad(tokenizer: Any, content: bytes, length: int | None) -> None:
    """With the token that the file names, or the usual one."""
    told = json.loads(content).get("padding") or {}
    name = told.get("pad_token") or next(
        (
            one
            for one in ("[PAD]", "<pad>", "<|padding|>")
            if tokenizer.token_to_id(one) is not None
        ),
        None,
    )
    if name is None:
        raise UsageError(
            "the tokenizer has no padding token, which batches need: add one with "
            "`tokenizer.enable_padding(…)` and save it again"
        )
    tokenizer.enable_padding(
        pad_id=told.get("pad_id", tokenizer.token_to_id(name)),
        pad_token=name,
        pad_type_id=told.get("pad_type_id", 0),
        direction=str(told.get("direction", "Right")).lower(),
        length=length,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"there is no tokenizer at {path} ({error.strerror}): `file` of "
            "`build.preprocess.tokenizer` is relative to the policy"
        ) from error
