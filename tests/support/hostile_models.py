"""Edits of an ONNX model: of what its protobuf holds, wherever it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from hypothesis import strategies as st

_WORDS = (
    "", "image", "logits", "Conv", "Loop", "If", "Gemm", "Reshape", "ConstantOfShape", "Expand",
    "com.microsoft", "ai.onnx.ml", "../../etc/passwd", "/dev/zero", "a" * 5000, "\x00", "é\u202e",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 2, 3, 7, 17, 64, 999, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**62))
_HOWS = ("set", "set", "set", "drop", "twice", "clear", "move")


@dataclass(frozen=True, slots=True)
class ModelEdit:
    """One change of a message; `at` chooses the message, `field` the field, each around its end."""

    how: str
    at: int
    field: int
    item: int
    number: int
    word: str


def model_edits(*, most: int = 3) -> st.SearchStrategy[list[ModelEdit]]:
    """Changes of numbers, names, lists and messages."""
    edit = st.builds(
        ModelEdit,
        st.sampled_from(_HOWS),
        st.integers(0, 2000),
        st.integers(0, 30),
        st.integers(0, 300),
        st.one_of(st.sampled_from(_NUMBERS), st.integers(-(2**31), 2**31 - 1)),
        st.sampled_from(_WORDS),
    )
    return st.lists(edit, min_size=1, max_size=most)


def model_changed(content: bytes, made: Sequence[ModelEdit]) -> bytes:
    """The model with the edits made, one after the other."""
    model = onnx.ModelProto.FromString(content)
    for edit in made:
        messages = [*_messages(model)]
        message = messages[edit.at % len(messages)]
        fields = [field for field, _ in message.ListFields()]
        if fields:
            _make(message, fields[edit.field % len(fields)], edit)
    changed: bytes = model.SerializeToString()
    return changed


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for child in value if field.is_repeated else [value]:
                yield from _messages(child)


def _make(message: Any, field: Any, edit: ModelEdit) -> None:
    if edit.how == "clear":
        message.ClearField(field.name)
    elif field.is_repeated:
        _make_item(getattr(message, field.name), field, edit)
    elif field.type != field.TYPE_MESSAGE:
        _try_set(lambda value: setattr(message, field.name, value), field, edit)


def _make_item(items: Any, field: Any, edit: ModelEdit) -> None:
    place = edit.item % len(items)
    if edit.how == "drop":
        del items[place]
    elif edit.how == "twice":
        items.append(items[place])
    elif edit.how == "move":
        items.insert(0, items.pop(place))
    elif field.type != field.TYPE_MESSAGE:
        _try_set(lambda value: items.__setitem__(place, value), field, edit)


def _try_set(put: Any, field: Any, edit: ModelEdit) -> None:
    """What the field can hold of it; else as it was."""
    value: Any = edit.number
    if field.type == field.TYPE_STRING:
        value = edit.word
    elif field.type == field.TYPE_BYTES:
        value = edit.word.encode() * (1 + edit.item % 4)
    elif field.type == field.TYPE_FLOAT:
        value = float(edit.number)
    try:
        put(value)
    except (ValueError, TypeError):
        return
